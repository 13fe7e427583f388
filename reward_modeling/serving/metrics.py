"""Counts and times for Prometheus, at /metrics. They hold no text, no token and no client's name."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LONGEST_RETRY = 60  # seconds
WEIGHT = 0.2  # of the latest batch in the mean speed


class Metrics:
    """Of one server. Names of routes are those of the application: a path that it does not know counts as `other`."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"reward_{name}", words, labels, registry=self.registry)

        def histogram(name: str, words: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"reward_{name}", words, labels, registry=self.registry, buckets=buckets)

        self.requests = counter("requests", "Answered requests.", ("route", "status"))
        self.request_seconds = histogram("request_seconds", "From a request's head to its answer.", SECONDS, ("route",))
        self.in_flight = Gauge("reward_requests_in_flight", "Requests without an answer yet.", registry=self.registry)
        self.conversations = counter("conversations", "Conversations that were scored.")
        self.tokens = counter("tokens", "Tokens of these conversations.")
        self.computed_tokens = counter("computed_tokens", "Tokens of forward passes: shared prompts once, padding too.")
        self.batch_seconds = histogram("batch_seconds", "Of a batch in the model.", SECONDS)
        self.batch_conversations = histogram("batch_conversations", "Conversations of a batch.", SIZES)
        self.failed_batches = counter("failed_batches", "Batches that raised an error.")
        self.refused = counter("queue_full", "Requests that found the queue full.")
        self.cancelled = counter("cancelled", "Requests whose client went away while they waited.")
        self.not_finite = counter("not_finite", "Rewards that were infinite or not a number.")
        self.open_ended = counter(
            "open_ended_texts", "Texts that do not end in the token at which the chat template ends an answer."
        )
        self._tokens_per_second: float | None = None

    def watch_queue(self, conversations: Callable[[], int], tokens: Callable[[], int]) -> None:
        """Read the length of the queue when the metrics are read."""
        for name, words, value in (
            ("queue_conversations", "Conversations that wait.", conversations),
            ("queue_tokens", "Tokens that wait.", tokens),
        ):
            Gauge(f"reward_{name}", words, registry=self.registry).set_function(value)

    def count_batch(self, conversations: int, tokens: int, computed_tokens: int, seconds: float) -> None:
        self.conversations.inc(conversations)
        self.tokens.inc(tokens)
        self.computed_tokens.inc(computed_tokens)
        self.batch_conversations.observe(conversations)
        self.batch_seconds.observe(seconds)
        speed = tokens / max(seconds, 1e-9)
        before = speed if self._tokens_per_second is None else self._tokens_per_second
        self._tokens_per_second = WEIGHT * speed + (1 - WEIGHT) * before

    def seconds_for(self, tokens: int) -> int:
        """About how long so many tokens take, in whole seconds from 1 to `LONGEST_RETRY`."""
        if self._tokens_per_second is None:
            return 1
        return max(1, min(LONGEST_RETRY, round(tokens / self._tokens_per_second)))

    def text(self) -> bytes:
        return generate_latest(self.registry)

"""Where a reward function has its rewards from: a running serve.py, or a scorer in the same process.

Both give the same numbers for the same conversations, and both refuse the same ones: what is longer than the model
takes is not cut, since the reward would be one of another conversation, and an empty text or list of messages has none.
A refusal is an error, which ends a training, unless `on_refusal` names the reward to give in its place.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reward_modeling.common.errors import UserError
from reward_modeling.serving.asking import check_url
from reward_modeling.serving.keys import check_key
from reward_modeling.serving.posting import PATIENCE, TIMEOUT, post_json
from reward_modeling.serving.refusals import Columns, Refusal, Refusals, joined

if TYPE_CHECKING:
    from reward_modeling.data.conversations import Tokens

PER_REQUEST = 256  # conversations, whose prompts the server computes once
Messages = Sequence[Mapping[str, Any]]


class RewardSource(Protocol):
    def of_conversations(self, conversations: Sequence[Messages]) -> Columns:
        """Of messages, in the reward model's own chat template."""

    def of_texts(self, texts: Sequence[str]) -> Columns:
        """Of whole texts as they stand, their special tokens included, read at their last token."""


def reward_source(where: str | Path, **options: Any) -> RewardSource:
    """A server where `where` is an http address, else a scorer of the model of that name."""
    is_address = str(where).startswith(("http://", "https://"))
    return Served(str(where), **options) if is_address else InProcess(where, **options)


class Served:
    """Rewards of a running serve.py."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
        per_request: int = PER_REQUEST,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        on_refusal: float | None = None,
    ):
        """
        Args:
            timeout, patience: as `post_json` takes them.
            per_request: conversations in one request.
            chat_template_kwargs: what goes to the chat template beside the messages.
            on_refusal: the reward of a conversation that the server refuses, which is counted and logged; None: an
                error.
        """
        self.url = check_url(url, "where")
        api_key = None if api_key is None else check_key(api_key, "api_key")
        self.per_request = per_request
        self.refusals = Refusals(on_refusal)
        self._options = {"api_key": api_key, "timeout": timeout, "patience": patience}
        self._template = {"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}

    def of_conversations(self, conversations: Sequence[Messages]) -> Columns:
        return self._in_parts(conversations, self._ask_for_conversations)

    def of_texts(self, texts: Sequence[str]) -> Columns:
        return self._in_parts(texts, self._ask_for_texts)

    def _in_parts(self, rows: Sequence, ask: Callable[[Sequence], Columns]) -> Columns:
        return joined([self.refusals.columns(part, ask) for part in self._parts(rows)])

    def _ask_for_conversations(self, part: Sequence[Messages]) -> Columns:
        answer = self._ask("/v1/rewards", {"conversations": part} | self._template, len(part))
        return {name: answer[name] for name in ("rewards", "attributes") if name in answer}

    def _ask_for_texts(self, part: Sequence[str]) -> Columns:
        answer = self._ask("/get_reward", {"query": part}, len(part))
        columns = {"rewards": answer["rewards"]}
        if logs := answer.get("extra_logs"):
            rows = zip(*logs.values(), strict=True)
            columns["attributes"] = [dict(zip(logs, values, strict=True)) for values in rows]
        return columns

    def _parts(self, rows: Sequence) -> Iterator[list]:
        for start in range(0, len(rows), self.per_request):
            yield list(rows[start : start + self.per_request])

    def _ask(self, path: str, body: Mapping[str, Any], count: int) -> dict[str, Any]:
        answer = post_json(self.url + path, body, **self._options)
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list) or len(rewards) != count:
            raise UserError(
                f"{self.url}{path}: expected {count} rewards, found {str(answer)[:200]}. Give the address of serve.py."
            )
        return answer


class InProcess:
    """Rewards of a `RewardScorer`, which is loaded at once, and again where a copy of this is unpickled and used."""

    def __init__(
        self,
        reward_name_or_path: str | Path,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        on_refusal: float | None = None,
        **options: Any,
    ):
        """
        Args:
            chat_template_kwargs: what goes to the chat template beside the messages.
            on_refusal: as `Served` takes it.
            options: for `RewardScorer.from_pretrained`.
        """
        self._path, self._options = reward_name_or_path, options
        self._template = dict(chat_template_kwargs or {}) or None
        self.refusals = Refusals(on_refusal)
        self._loaded, self._lock = None, threading.Lock()
        self._scorer()

    def _scorer(self):
        from reward_modeling.scoring import RewardScorer  # a client of a server has no use for it

        if self._loaded is None:
            self._loaded = RewardScorer.from_pretrained(self._path, **self._options)
        return self._loaded

    def of_conversations(self, conversations: Sequence[Messages]) -> Columns:
        return self.refusals.columns(list(conversations), self._of_messages)

    def of_texts(self, texts: Sequence[str]) -> Columns:
        return self.refusals.columns(list(texts), self._of_texts)

    def _of_messages(self, conversations: Sequence[Messages]) -> Columns:
        with self._lock:  # OpenRLHF calls from many threads
            try:
                rows = self._scorer().tokenize(conversations, template_options=self._template, cut=False)
            except UserError as error:
                raise Refusal(str(error)) from error
        return self._score(rows)

    def _of_texts(self, texts: Sequence[str]) -> Columns:
        from reward_modeling.data.conversations import Tokens
        from reward_modeling.models.tokenizer import token_ids

        if "" in texts:
            raise Refusal(f"text {texts.index('')}: expected at least one character, found none. Leave it out.")
        with self._lock:
            rows = token_ids(texts, self._scorer().tokenizer) if texts else []
        return self._score([Tokens(ids) for ids in rows])

    def _score(self, rows: Sequence["Tokens"]) -> Columns:
        from reward_modeling.scoring.readouts.base import columns_of_answers

        with self._lock:
            try:
                scored = self._scorer().score_named(rows)
            except UserError as error:  # one is longer than the model takes, or lacks the place that a gate reads
                raise Refusal(str(error)) from error
        wrong = [number for number, one in enumerate(scored) if not math.isfinite(one.reward)]
        if wrong:
            raise UserError(
                f"conversation {wrong[0]}: expected a finite reward, found {scored[wrong[0]].reward}. Score in float32 "
                '(dtype="float32"); if it stays, the model is broken.'
            )
        return columns_of_answers(scored)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})

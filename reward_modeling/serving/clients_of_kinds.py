"""Clients of servers of process models and of pairwise models, as clients.py has those of models of one reward.

A server of a process model is sent whole rows of token ids, since texts and messages do not say where steps end. One
of a pairwise model is sent single comparisons, whose output is a logit.
"""

from collections.abc import Mapping
from typing import Any

from reward_modeling.common.pair_probabilities import mean_probability
from reward_modeling.serving.client_connection import Connection
from reward_modeling.serving.client_fields import (
    NotUnderstood,
    a_number,
    an_object,
    numbers,
    the_only_one,
    tokens_of,
)
from reward_modeling.serving.clients import ACTIVATED, OUTPUTS, Answer, OwnClient, Row, VllmClient, Way

APART = 1e-6  # of a probability, from what the logits beside it make


class VllmStepClient(VllmClient):
    """vLLM's /pooling by the task token_classify, which gives each token the outputs of the head.

    Where a request says nothing of an activation they are probabilities, since a process model's config.json names no
    `problem_type`.
    """

    path = "/pooling"
    SILENT = Way("token ids, with no word of an activation", shows=ACTIVATED)
    ways = (VllmClient.TOKENS, SILENT)

    def __init__(self, connection: Connection, model: str | None = None):
        super().__init__(connection, model)
        self._latest: tuple[object, Mapping[str, Any]] | None = None

    def found(self, way: Way, row: Row) -> Mapping[str, Any]:
        """Asked once for all that is read of one row: these follow each other."""
        if self._latest is None or self._latest[0] != (way, row.ids):
            self._latest = (way, row.ids), super().found(way, row)
        return self._latest[1]

    def body(self, way: Way, row: Row) -> dict[str, Any]:
        return {"task": "token_classify"} | super().body(way, row)

    def read_row(self, found: Mapping[str, Any], row: Row) -> Answer:
        entry = an_object(the_only_one(found.get("data"), "data"), "data[0]")
        tokens = entry.get("data")
        if not isinstance(tokens, list) or len(tokens) != len(row.ids):
            what = f"{len(tokens)} entries" if isinstance(tokens, list) else type(tokens).__name__
            raise NotUnderstood(f"expected as data[0].data the outputs of each of {len(row.ids)} tokens, found {what}")
        return Answer(numbers(tokens[row.end], "probs"), tokens_of(found, "prompt_tokens"))


class OwnStepClient(OwnClient):
    """serve.py's /v1/rewards of a process model: tokens with the place that is read, or a prompt with its steps."""

    MESSAGES = Way("a prompt with steps", as_messages=True)
    ways = (OwnClient.TOKENS, MESSAGES)

    def body(self, way: Way, row: Row) -> dict[str, Any]:
        return dict(row.form) if way.as_messages else {"input_ids": [row.ids], "step_positions": [[row.end]]}

    def read_row(self, found: Mapping[str, Any], row: Row) -> Answer:
        steps = the_only_one(found.get("steps"), "steps")
        if not isinstance(steps, list) or len(steps) <= row.step:
            raise NotUnderstood(f"expected a list of more than {row.step} numbers as steps[0], found {steps!r:.80}")
        return Answer({"right": a_number(steps[row.step], f"steps[0][{row.step}]")}, tokens_of(found, "tokens"))


class VllmPairClient(VllmClient):
    """vLLM's /classify of one comparison. Messages are its question, with a generation prompt."""

    MESSAGES = Way("a question with a generation prompt", as_messages=True)
    ways = (VllmClient.TOKENS, VllmClient.SILENT, VllmClient.TEXT, MESSAGES, VllmClient.WHOLE_TEXT)

    def body(self, way: Way, row: Row) -> dict[str, Any]:
        return super().body(way, row) | ({"add_generation_prompt": True} if way.as_messages else {})


class OwnPairClient(OwnClient):
    """serve.py's /v1/rewards of a pairwise model, a prompt with two answers; tokens go to its /classify."""

    MESSAGES = Way("a prompt with two answers", as_messages=True)
    ways = (OwnClient.TOKENS, MESSAGES)
    shows = OUTPUTS

    def path_for(self, row: Row) -> str:
        return VllmClient.path if row.form is None else self.path

    def body(self, way: Way, row: Row) -> dict[str, Any]:
        return dict(row.form) if way.as_messages else {"input": [row.ids], "use_activation": False}

    def read_row(self, found: Mapping[str, Any], row: Row) -> Answer:
        """The output with the first answer in front; the rewards have to be what both orders make."""
        if row.form is None:
            entry = an_object(the_only_one(found.get("data"), "data"), "data[0]")
            return Answer(numbers(entry.get("probs"), "probs"), tokens_of(found, "prompt_tokens"))
        first, second = self._both_orders(found.get("logits"))
        rewards = found.get("rewards")
        if not isinstance(rewards, list) or len(rewards) != 2:
            raise NotUnderstood(f"expected two rewards, found {rewards!r:.80}")
        due = float(mean_probability(first, second))
        if not abs(a_number(rewards[0], "rewards[0]") - due) <= APART:
            raise NotUnderstood(f"expected as rewards[0] the mean of both orders, {due:.6g}, found {rewards[0]}")
        return Answer({"probs[0]": first})

    @staticmethod
    def _both_orders(logits: Any) -> tuple[float, float]:
        try:
            (_, first), (second, _) = logits
        except (TypeError, ValueError) as error:
            raise NotUnderstood(f"expected logits of two answers against each other, found {logits!r:.80}") from error
        return a_number(first, "logits[0][1]"), a_number(second, "logits[1][0]")

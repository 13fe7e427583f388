"""Where a reward function has its rewards from: a running serve.py, or a scorer in the same process.

Both give the same numbers for the same conversations.
"""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from reward_modeling.common.errors import UserError
from reward_modeling.serving.asking import check_url
from reward_modeling.serving.keys import check_key
from reward_modeling.serving.posting import PATIENCE, TIMEOUT, post_json

PER_REQUEST = 256  # conversations, whose prompts the server computes once
Messages = Sequence[Mapping[str, Any]]
Columns = dict[str, list]  # `rewards`, and `attributes` where the model has some


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
    ):
        """
        Args:
            timeout, patience: as `post_json` takes them.
            per_request: conversations in one request.
            chat_template_kwargs: what goes to the chat template beside the messages.
        """
        self.url = check_url(url, "where")
        api_key = None if api_key is None else check_key(api_key, "api_key")
        self.per_request = per_request
        self._options = {"api_key": api_key, "timeout": timeout, "patience": patience}
        self._template = {"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}

    def of_conversations(self, conversations: Sequence[Messages]) -> Columns:
        parts = [
            self._ask("/v1/rewards", {"conversations": part} | self._template, len(part))
            for part in self._parts(conversations)
        ]
        names = [name for name in parts[0] if name in ("rewards", "attributes")] if parts else ["rewards"]
        return {name: [value for part in parts for value in part[name]] for name in names}

    def of_texts(self, texts: Sequence[str]) -> Columns:
        columns: Columns = {"rewards": []}
        for part in self._parts(texts):
            answer = self._ask("/get_reward", {"query": part}, len(part))
            columns["rewards"] += answer["rewards"]
            if logs := answer.get("extra_logs"):
                columns.setdefault("attributes", []).extend(
                    dict(zip(logs, values, strict=True)) for values in zip(*logs.values(), strict=True)
                )
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
        **options: Any,
    ):
        """
        Args:
            chat_template_kwargs: what goes to the chat template beside the messages.
            options: for `RewardScorer.from_pretrained`.
        """
        self._path, self._options = reward_name_or_path, options
        self._template = dict(chat_template_kwargs or {}) or None
        self._loaded, self._lock = None, threading.Lock()
        self._scorer()

    def _scorer(self):
        from reward_modeling.scoring import RewardScorer  # a client of a server has no use for it

        if self._loaded is None:
            self._loaded = RewardScorer.from_pretrained(self._path, **self._options)
        return self._loaded

    def of_conversations(self, conversations: Sequence[Messages]) -> Columns:
        return self._score(list(conversations), self._template)

    def of_texts(self, texts: Sequence[str]) -> Columns:
        from reward_modeling.data.conversations import Tokens
        from reward_modeling.models.tokenizer import token_ids

        with self._lock:
            tokenizer = self._scorer().tokenizer
            rows = token_ids(list(texts), tokenizer) if texts else []
        return self._score([Tokens(ids) for ids in rows], None)

    def _score(self, conversations: Sequence, options: Mapping[str, Any] | None) -> Columns:
        from reward_modeling.scoring.readouts.base import columns_of_answers

        with self._lock:  # OpenRLHF calls from many threads
            scored = self._scorer().score_named(conversations, template_options=options)
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

"""Rewards of ours as functions that trainers of policies call.

TRL's GRPOTrainer, through a running serve.py or with the model in each process of the training:

    from reward_modeling.serving.reward_functions import TrlReward

    GRPOTrainer(..., reward_funcs=TrlReward("http://127.0.0.1:8000"))
    GRPOTrainer(..., reward_funcs=TrlReward("models/gemma2b_rm/last_checkpoint", device="cuda"))

OpenRLHF asks serve.py by itself, given http://HOST:8000/get_reward. A file of a function does in its place, where texts
need an end (see `OpenRLHFReward`), a key, or more patience:

    from reward_modeling.serving.reward_functions import OpenRLHFReward

    reward_func = OpenRLHFReward("http://127.0.0.1:8000", end="<|im_end|>\\n")

A conversation that the model does not take (too long, empty) is an error, which ends the training; `on_refusal=-5.0`
gives it that reward instead, and logs it. A function can be pickled; a model is then loaded anew.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reward_modeling.common.errors import UserError
from reward_modeling.serving.reward_sources import reward_source

PARTS = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|\s|[^<\[\s]+|.")  # of an end: markers, white space, words


class TrlReward:
    """A reward function of TRL: of (prompts, completions, further columns) a reward for each completion.

    Messages are written by the reward model's chat template, whatever the policy's is. Of texts a prompt and its
    completion are one text, which is scored as it stands; TRL hands completions over without their end, so name `end`.
    """

    def __init__(self, where: str | Path, *, name: str = "reward", end: str = "", **options: Any):
        """
        Args:
            where: the address of serve.py, or a model to load here.
            name: of the metric that TRL logs, `rewards/NAME/mean`.
            end: what each text has to end in, of texts; see `ended`.
            options: of `reward_sources.Served` or `reward_sources.InProcess`.
        """
        self.__name__ = name  # TRL names functions so, and older versions of it have no other name for one
        self._source = reward_source(where, **options)
        self._end = end

    def __call__(self, prompts: Sequence, completions: Sequence, **_columns: Any) -> list[float]:
        """Rewards in the order of the completions, `(completions,)`.

        Raises:
            UserError: a conversation is refused and there is no `on_refusal`, or a reward is no finite number.
            ConnectionError: there is no server.
        """
        whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        if all(isinstance(one, str) for one in whole):
            return self._source.of_texts([ended(text, self._end) for text in whole])["rewards"]
        return self._source.of_conversations(whole)["rewards"]


class OpenRLHFReward:
    """`reward_func` in a file that OpenRLHF takes in the place of an address (--reward.remote_url FILE.py).

    Queries are whole texts in the *policy's* chat template, up to the token at which the policy stopped. Templates that
    write a line break behind that token (Qwen, SmolLM2) end in another token than the reward model was trained to be
    read at: name `end`, here "<|im_end|>\\n".
    """

    def __init__(self, where: str | Path, *, end: str = "", **options: Any):
        """
        Args:
            where: the address of serve.py, or a model to load here.
            end: what each text has to end in; see `ended`.
            options: of `reward_sources.Served` or `reward_sources.InProcess`.
        """
        self._source = reward_source(where, **options)
        self._end = end

    def __call__(self, queries: Sequence[str], prompts: Any, labels: Any, **_: Any) -> dict[str, Any]:
        """Of each query: `rewards` `(queries,)`, `scores` `(queries,)` from 0 to 1, for dynamic filtering, and in
        `extra_logs` each attribute `(queries,)` where the model has some, NaN of what was refused.

        Raises:
            UserError, ConnectionError: as `TrlReward`.
        """
        if isinstance(queries, str):
            raise UserError("queries: expected a list of texts, found one text. Pass [text].")
        columns = self._source.of_texts([ended(text, self._end) for text in queries])
        rewards = torch.tensor(columns["rewards"], dtype=torch.float32)
        attributes = columns.get("attributes", [])
        names = next((list(one) for one in attributes if one is not None), [])
        logs = {
            name: torch.tensor([math.nan if one is None else one[name] for one in attributes], dtype=torch.float32)
            for name in names
        }
        return {"rewards": rewards, "scores": torch.sigmoid(rewards), "extra_logs": logs}


def ended(text: str, end: str) -> str:
    """The text with what is missing of its end.

    What is there already is a whole part of it: a marker such as <|im_end|>, a line break, or a word. An answer's own
    "<" is no beginning of a marker.

    >>> ended("Hello.<|im_end|>", "<|im_end|>\\n")
    'Hello.<|im_end|>\\n'
    >>> ended("Hello.", "<|im_end|>\\n")
    'Hello.<|im_end|>\\n'
    >>> ended("a <", "<|im_end|>\\n")
    'a <<|im_end|>\\n'
    """
    sizes = [0, *(part.end() for part in PARTS.finditer(end))]
    there = next(size for size in reversed(sizes) if text.endswith(end[:size]))
    return text + end[there:]

"""The checkpoint itself, loaded: what it gives other tokens than the saved ones, messages, and in lower precision."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Tokens
from reward_modeling.scoring.pair_scorer import PairScorer
from reward_modeling.scoring.readouts.base import Readout, ScoredConversation
from reward_modeling.scoring.scorer import RewardScorer
from reward_modeling.serving.clients import Row
from reward_modeling.serving.verification_case import Messages
from reward_modeling.serving.verification_rows import Outputs, row_of

# The longest row that is computed: a large model takes many seconds for a thousand tokens on a CPU.
MOST_TOKENS = 4096
ROOM = 2  # tokens of the context that are left to a second BOS and the like, which explain a difference
SCRIPT_ARGUMENTS = "script_arguments.json"  # with what a run was started


class RawOutputs(Readout):
    """All outputs as they are, whatever kind of model it is."""

    def columns(self, output: ModelOutput) -> torch.Tensor:
        return output.logits.float()

    def describe(self, row: Sequence[float]) -> ScoredConversation:
        return ScoredConversation(row[0], dict(enumerate(row)))


class Probe:
    """A checkpoint whose weights are loaded when they are first needed, and once for each precision."""

    def __init__(self, name: str | Path, *, trust_remote_code: bool = False):
        self.name, self.trust_remote_code = str(name), trust_remote_code
        self._scorers: dict[str, RewardScorer] = {}

    def outputs(self, rows: Sequence[Row], dtype: str = "float32") -> Outputs:
        """Raw outputs `(rows, outputs)` of the rows' tokens."""
        scorer = self._scorer(dtype)
        conversations = [Tokens(row.ids, gate=row.gate) for row in rows]
        if scorer.readout.reads_prompts:  # of a model with a gate the score is what was saved
            return np.array(scorer.score(conversations), dtype=np.float64)[:, None]
        return np.array([list(one.attributes.values()) for one in scorer.score_named(conversations)], dtype=np.float64)

    def templated(self, conversations: Sequence[Messages]) -> list[Row]:
        """The conversations as the checkpoint's own chat template writes them; those that it refuses are left out."""
        scorer, rows = self._scorer("float32"), []
        for messages in conversations:
            try:
                (tokens,) = scorer.tokenize([messages])
            except UserError:  # such as a template without a system turn, or none at all
                continue
            rows.append(replace(row_of(list(tokens.ids), tokens.gate, scorer.tokenizer), messages=messages))
        return rows

    def longest(self) -> int:
        """Tokens of the longest row that is worth a comparison: as in training, as far as that is known."""
        file = Path(self.name, SCRIPT_ARGUMENTS)
        trained = json.loads(file.read_text(encoding="utf-8")).get("max_length") if file.is_file() else None
        context = self._scorer("float32").reader.max_length
        return min(MOST_TOKENS, trained or MOST_TOKENS, (context or MOST_TOKENS) - ROOM)

    def _device(self) -> str | None:
        """The CPU where a server on the same GPU has left no room; None: the scorer's own choice."""
        if not torch.cuda.is_available():
            return None
        free, whole = torch.cuda.mem_get_info()
        in_float32 = 2 * sum(file.stat().st_size for file in Path(self.name).glob("*.safetensors"))
        return None if free > max(1.5 * in_float32, whole / 2) else "cpu"

    def _scorer(self, dtype: str) -> RewardScorer:
        if dtype not in self._scorers:
            options = {"dtype": dtype, "trust_remote_code": self.trust_remote_code, "device": self._device()}
            self._scorers[dtype] = self._load(options)
        return self._scorers[dtype]

    def _load(self, options: Mapping[str, Any]) -> RewardScorer:
        """A scorer that gives the outputs."""
        scorer = RewardScorer.from_pretrained(self.name, **options)
        return scorer if scorer.readout.reads_prompts else with_readout(scorer, RawOutputs())


def with_readout(scorer: RewardScorer | PairScorer, readout: Readout) -> RewardScorer:
    """The same model, and what is read off it in another way."""
    whole = scorer.model, scorer.tokenizer, scorer.batches, scorer.reader.max_length
    return RewardScorer(*whole, readout=readout)

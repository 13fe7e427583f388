"""The checkpoint itself, loaded to explain a difference: what it gives other tokens, and in lower precision."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.utils import ModelOutput

from reward_modeling.data.conversations import Tokens
from reward_modeling.scoring.readouts.base import Readout, ScoredConversation
from reward_modeling.scoring.scorer import RewardScorer
from reward_modeling.serving.clients import Row
from reward_modeling.serving.verification_rows import Outputs


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

    def _scorer(self, dtype: str) -> RewardScorer:
        if dtype not in self._scorers:
            options = {"dtype": dtype, "trust_remote_code": self.trust_remote_code}
            scorer = RewardScorer.from_pretrained(self.name, **options)
            if not scorer.readout.reads_prompts:
                whole = scorer.model, scorer.tokenizer, scorer.batches, scorer.reader.max_length
                scorer = RewardScorer(*whole, readout=RawOutputs())
            self._scorers[dtype] = scorer
        return self._scorers[dtype]

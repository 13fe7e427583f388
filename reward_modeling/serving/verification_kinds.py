"""How each kind of model is compared with a server of it: who asks, and who computes what is due.

kind = kind_of(checkpoint)
report = verify_server(checkpoint, kind.client("vllm")(connection), load=lambda: kind.probe(folder))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reward_modeling.common.errors import UserError
from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.conversations import Chain, Tokens
from reward_modeling.data.pair_texts import comparison
from reward_modeling.models.pairwise_format import compares_answers
from reward_modeling.models.process_format import is_process_model
from reward_modeling.scoring import PairScorer, RewardScorer
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.loading import load_model
from reward_modeling.scoring.readouts.comparisons import comparison_readout
from reward_modeling.serving.clients import CLIENTS, Client, Row
from reward_modeling.serving.clients_of_kinds import OwnPairClient, OwnStepClient, VllmPairClient, VllmStepClient
from reward_modeling.serving.step_model import StepOutputs
from reward_modeling.serving.verification_case import Messages
from reward_modeling.serving.verification_probe import Probe, RawOutputs, with_readout
from reward_modeling.serving.verification_rows import Outputs, SavedCheckpoint, row_of

OTHER_ANSWER = "Nobody knows.\n\nAsk somebody else [RESPONSE B] then."  # with a mark, which is escaped


class StepProbe(Probe):
    """A process model: the outputs at one token of each row."""

    def outputs(self, rows: Sequence[Row], dtype: str = "float32") -> Outputs:
        found = self._scorer(dtype).score_named([Tokens(row.ids, reads=[row.end]) for row in rows])
        return np.array([one.outputs for one in found], dtype=np.float64)

    def templated(self, conversations: Sequence[Messages]) -> list[Row]:
        """A row for each step; the prompts are those of the conversations, and the steps are all that is answered."""
        scorer, rows = self._scorer("float32"), []
        steps = [of[-1]["content"] for of in conversations]
        steps = steps[:1] if scorer.readout.process.outcome else steps
        for *prompt, _ in conversations:
            try:
                (tokens,) = scorer.tokenize([Chain(prompt, steps)])
            except UserError:  # such as a template without a system turn, or none at all
                continue
            row = replace(row_of(list(tokens.ids), None, scorer.tokenizer), messages=prompt)
            form = {"prompt": prompt, "steps": [steps]}
            rows += [replace(row, end=end, form=form, step=number) for number, end in enumerate(tokens.reads)]
        return rows

    def _load(self, options: Mapping[str, Any]) -> RewardScorer:
        scorer = RewardScorer.from_pretrained(self.name, **options)
        return with_readout(scorer, StepOutputs(scorer.readout))


class PairProbe(Probe):
    """A pairwise model: the output of each comparison."""

    def templated(self, conversations: Sequence[Messages]) -> list[Row]:
        """Both orders of the answer to each of the conversations, and another one."""
        rows = []
        for *prompt, answer in conversations:
            other = {"role": "assistant", "content": OTHER_ANSWER}
            for one in (Comparison(prompt, [answer], [other]), Comparison(prompt, [other], [answer])):
                try:
                    (tokens,) = self._pairs.reader.read([(0, one)], ScoringCounts())
                except UserError:  # a template may refuse it
                    continue
                question = [{"role": "user", "content": comparison(prompt, one.a, one.b)}]
                form = {"prompt": prompt, "responses": [one.a, one.b]}
                row = row_of(list(tokens.ids), None, self._pairs.tokenizer)
                rows.append(replace(row, messages=question, form=form))
        return rows

    @property
    def _pairs(self) -> PairScorer:
        scorer = self._scorer("float32")
        return PairScorer(scorer.model, scorer.tokenizer, scorer.batches, scorer.reader.max_length)

    def _load(self, options: Mapping[str, Any]) -> RewardScorer:
        scorer = PairScorer.of_loaded(load_model(self.name, readout_of=comparison_readout, **options))
        return with_readout(scorer, RawOutputs())


@dataclass(frozen=True)
class Kind:
    """The clients by their protocol, and the checkpoint loaded here."""

    name: str
    clients: Mapping[str, type[Client]]
    probe: type[Probe]

    def client(self, protocol: str) -> type[Client]:
        """
        Raises:
            UserError: nobody asks for this kind of model so.
        """
        if protocol not in self.clients:
            raise UserError(
                f"--protocol {protocol}: expected --protocol {' or '.join(self.clients)}, since {self.name} has no one "
                "reward of a whole text, which this protocol asks for."
            )
        return self.clients[protocol]


ONE_REWARD = Kind("a reward model", CLIENTS, Probe)
STEPS = Kind("a process model", {"vllm": VllmStepClient, "ours": OwnStepClient}, StepProbe)
PAIRS = Kind("a pairwise model", {"vllm": VllmPairClient, "ours": OwnPairClient}, PairProbe)


def kind_of(checkpoint: SavedCheckpoint) -> Kind:
    """By what its config.json says."""
    if is_process_model(checkpoint.config):
        return STEPS
    return PAIRS if compares_answers(checkpoint.config) else ONE_REWARD

"""A process model that is served: requests become prompts with steps, or rows of which all tokens are read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from reward_modeling.common.aggregations import aggregate
from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Chain, Conversation, Tokens
from reward_modeling.models.process_format import RIGHT, ProcessFormat
from reward_modeling.scoring import RewardScorer, ScoredConversation
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.given import refuse_blank_steps, with_options
from reward_modeling.scoring.plan import PADDED
from reward_modeling.scoring.readouts.base import REWARD
from reward_modeling.scoring.readouts.steps import NO_STEP, Steps
from reward_modeling.serving.errors import bad_request
from reward_modeling.serving.head_outputs import Answer
from reward_modeling.serving.lots import lots_of, short_key
from reward_modeling.serving.model import Lots, ServedModel

LABELS = 2
FIRST_STEP = REWARD + 1


class StepOutputs(Steps):
    """Of each step its probability, and beside it the outputs of the head for both labels."""

    def __init__(self, inner: Steps):
        super().__init__(inner.process)

    def run(self, model: PreTrainedModel, inputs: dict, reads: dict[str, torch.Tensor]) -> torch.Tensor:
        """How many steps there are, their probabilities, and their outputs; the last two filled up to the most."""
        logits = model(**inputs).logits.float()[reads["steps"].clamp(min=0)]  # (completions, most, labels)
        counts = (reads["steps"] != NO_STEP).sum(dim=1, keepdim=True)
        return torch.cat([counts, logits.softmax(dim=-1)[..., RIGHT], logits.flatten(1)], dim=1)

    def rows(self, columns: torch.Tensor) -> list[list[float]]:
        """The reward, then the probabilities and the outputs of the steps that there are."""
        most = (columns.shape[1] - 1) // (1 + LABELS)
        rows = []
        for count, *values in columns.tolist():
            steps, outputs = values[: int(count)], values[most : most + LABELS * int(count)]
            rows.append([aggregate(steps)[self.process.aggregation], *steps, *outputs])
        return rows

    def describe(self, row: Sequence[float]) -> Answer:
        end = FIRST_STEP + (len(row) - FIRST_STEP) // (1 + LABELS)
        return Answer(ScoredConversation(row[REWARD], steps=list(row[FIRST_STEP:end])), row[end:])


class ServedSteps(ServedModel):
    """The model gives each step of an answer the probability that it is right."""

    task = "token_classify"
    with_outputs = StepOutputs

    def __init__(self, scorer: RewardScorer, max_tokens: int, *, complete_texts: bool = False):
        """
        Raises:
            UserError: texts are to be completed.
        """
        if complete_texts:
            raise UserError(
                "--complete_texts true: expected a model that reads whole texts, found a process model, which reads "
                "where steps end. Leave it out."
            )
        super().__init__(scorer, max_tokens)
        # Packed rows gather for each token that is read all that it sees, which is good for the ends of steps alone.
        whole = scorer.model, scorer.tokenizer, replace(scorer.batches, batching=PADDED), self.max_length
        self._token_scorer = RewardScorer(*whole, readout=StepOutputs(scorer.readout))

    @property
    def process(self) -> ProcessFormat:
        """How the model reads an answer."""
        return self._scorer.readout.process

    def _ending(self) -> list[int]:
        """A step may end in any token."""
        super()._ending()
        return []

    def check_route(self, path: str) -> None:
        if path not in ("/v1/rewards", "/pooling"):
            raise bad_request(
                f"{path}: expected a model that gives a conversation one reward, found a process model, which reads "
                "where steps end. Ask /v1/rewards, with prompt and steps, for the probabilities of steps, or /pooling, "
                "with token ids, for those of all tokens."
            )

    # --- tokens ------------------------------------------------------------------------------------------------

    def messages_whole(self, conversations: Sequence[Conversation], options: Mapping[str, Any] | None = None) -> Lots:
        """Conversations whose last message is cut into steps, as `RewardScorer.score` cuts it.

        Raises:
            ApiError: see `chains_whole`; one does not end with an assistant's answer.
        """
        given = with_options(conversations, options)
        try:
            chains = [one for _, one in self._scorer.reader.take(enumerate(given), ScoringCounts(), cut=False)]
        except UserError as error:
            raise bad_request(str(error)) from error
        yield from self.chains_whole(chains)

    def rendered_whole(self, conversations: Sequence[Conversation], options: Mapping[str, Any] | None = None) -> Lots:
        """
        Raises:
            ApiError: in any case.
        """
        raise bad_request(
            "messages: expected token ids as `input`, found messages, whose answers the chat template writes without "
            "the tokens behind their steps. Send them to /v1/rewards, or token ids of prompt, steps and separators.",
            "messages",
        )

    def chains_whole(self, chains: Sequence[Chain]) -> Lots:
        """As `StepScorer.score_many` would compute them.

        Raises:
            ApiError: a prompt or a step is empty, or not what it has to be, or refused by the chat template; or one is
                too long in any case.
        """
        reader, counts = self._scorer.reader, ScoringCounts()
        try:
            for index, one in enumerate(chains):
                refuse_blank_steps(index, one)
            taken = list(reader.take(enumerate(chains), counts, cut=False))
            sizes = [_characters(one) for _, one in taken]
            for lot in lots_of(taken, sizes):
                for index, _ in lot:
                    self._limit.check(index, sizes[index])
                yield [replace(row, prompt=short_key(row.prompt)) for row in reader.read(lot, counts, cut=False)]
        except UserError as error:
            raise bad_request(str(error)) from error

    def ids_with_steps(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]] | None) -> Lots:
        """
        Args:
            places: of each row the tokens at which its steps are read.

        Raises:
            ApiError: see `ids_whole`; there are no places, or one is outside of its row.
        """
        places = [] if places is None else places
        given = len(places) == len(rows) and all(map(len, places))
        if not given or any(not 0 <= min(of) <= max(of) < len(ids) for of, ids in zip(places, rows, strict=True)):
            raise bad_request(
                f"step_positions: expected for each of {len(rows)} rows of tokens the places in it where its steps "
                f"end, which a process model reads, found {len(places)} lists, or one that is empty or has a place "
                "outside of its row. Send one for each, from 0; or prompt and steps as texts.",
                "step_positions",
            )
        for lot in self.ids_whole(rows):
            yield [replace(row, reads=list(of)) for row, of in zip(lot, places, strict=True)]

    def to_read(self, lots: Lots) -> Lots:
        """All tokens, as vLLM's `token_classify` reads them."""
        for lot in lots:
            yield [replace(row, reads=range(len(row.ids))) for row in lot]

    # --- answers -----------------------------------------------------------------------------------------------

    def compute(self, conversations: list[Tokens]) -> tuple[list[Answer], ScoringCounts]:
        answers: dict[int, Answer] = {}
        counts = ScoringCounts()
        by_token = [2 * len(row.reads) > len(row.ids) for row in conversations]
        for scorer, wanted in ((self._scorer, False), (self._token_scorer, True)):
            places = [place for place, is_by_token in enumerate(by_token) if is_by_token == wanted]
            if places:
                answers |= zip(places, scorer.score_named([conversations[place] for place in places]), strict=True)
                counts.add(scorer.counts)
        return [answers[place] for place in range(len(conversations))], counts


def _characters(chain: Chain) -> int:
    said = [*(message["content"] for message in chain.prompt), *chain.steps, *chain.options.values()]
    return sum(len(one if isinstance(one, str) else str(one)) for one in said)

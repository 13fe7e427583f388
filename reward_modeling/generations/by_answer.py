"""Rewards of models that score an answer: each answer by itself, of process models by its steps."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from reward_modeling.common.errors import UserError
from reward_modeling.data.composing import tokenize_pieces
from reward_modeling.data.conversations import Chain, Conversation, parts_of
from reward_modeling.data.losses import NOTHING_LOST, Losses
from reward_modeling.generations.answers import NotScored, Unreadable
from reward_modeling.generations.counts import MAY_BE_STEPS, Counts
from reward_modeling.generations.row_scoring import Given, RowScoring, Scored
from reward_modeling.generations.windows import ReadRow
from reward_modeling.scoring import ScoredConversation


class ByAnswer(RowScoring):
    """A reward of each answer, whatever else is in its row."""

    takes_texts: ClassVar[bool] = True

    def model_entry(self) -> dict[str, Any]:
        statistics = self.scorer.statistics
        return {
            "normalize": None if statistics is None else dict(statistics),
            "reward_weights": self.scorer.readout.reward_weights,
        }

    def refusal(self, row: ReadRow, place: int, conversation: Conversation) -> tuple[Unreadable | None, Losses]:
        if isinstance(conversation, str):
            return self._refusal_of_text(conversation), NOTHING_LOST
        refusal, losses = self.scorer.reader.check(conversation, len(row.answers.answers[place]))
        return template_refuses(refusal, conversation), losses

    def _refusal_of_text(self, text: str) -> Unreadable | None:
        """A gate has to find the end of the prompt in it."""
        if not self.scorer.readout.reads_prompts:
            return None
        try:
            self.scorer.tokenize([text])
        except UserError:
            return Unreadable(NotScored.NO_PROMPT_END)
        return None

    def given(self, window: Sequence[ReadRow]) -> list[Given]:
        return [Given(row, place, one) for row, of in enumerate(window) for place, one in of.to_score()]

    def stream(
        self,
        given: Iterable[Conversation],
        *,
        process_index: int = 0,
        num_processes: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[tuple[int, ScoredConversation]]:
        ranks = {"process_index": process_index, "num_processes": num_processes}
        return self.scorer.stream_named(given, progress=progress, **ranks)

    def rewards(
        self, window: Sequence[ReadRow], given: Sequence[Given], found: Mapping[int, ScoredConversation], counts: Counts
    ) -> Scored:
        scored: Scored = [{} for _ in window]
        for number, one in enumerate(given):
            scored[one.row][one.place] = found[number]
        return scored


class BySteps(ByAnswer):
    """A process model: P(right) of each step of an answer, and an aggregation of these as its reward."""

    takes_texts: ClassVar[bool] = False

    @property
    def words(self) -> str:
        process = self.scorer.readout.process
        if process.outcome:
            return "the probability that the whole answer is right"
        return f"the {process.aggregation} of the steps' probabilities"

    def model_entry(self) -> dict[str, Any]:
        return {"process": self.scorer.readout.process.to_config()}

    def check(self, rows: Sequence[ReadRow], counts: Counts) -> None:
        super().check(rows, counts)
        for row in rows:
            if row.answers is not None and _may_be_steps(row.row.values):
                counts.note(MAY_BE_STEPS, row.row.where, rows=1)

    def refusal(self, row: ReadRow, place: int, conversation: Conversation) -> tuple[Unreadable | None, Losses]:
        if not row.answers.text(place).strip():
            return Unreadable(NotScored.NO_STEP, "white space alone"), NOTHING_LOST
        blank = next((n for n, step in enumerate(row.answers.steps.get(place, ())) if not step.strip()), None)
        if blank is not None:
            return Unreadable(NotScored.NO_STEP, f"step {blank} is empty"), NOTHING_LOST
        what = self._chain(row, place, conversation)
        refusal, losses = self.scorer.reader.check(what)
        refused = template_refuses(refusal, conversation)
        if refused is None and not self.scorer.readout.process.separator:
            refused = self._without_tokens(what)
        return refused, losses

    def _chain(self, row: ReadRow, place: int, conversation: Conversation) -> Conversation:
        """The steps that a row gives; where it gives a text, that, which the scorer splits."""
        steps = row.answers.steps.get(place)
        if steps is None or self.scorer.readout.process.outcome:
            return conversation
        messages, options = parts_of(conversation)
        return Chain(messages[:-1], steps, options)

    def given(self, window: Sequence[ReadRow]) -> list[Given]:
        given = super().given(window)
        return [replace(one, what=self._chain(window[one.row], one.place, one.what)) for one in given]

    def _without_tokens(self, conversation: Conversation) -> Unreadable | None:
        """A step without a separator is read at its own last token."""
        (pieces,) = tokenize_pieces([self.scorer.reader.pieces_of(conversation)], self.tokenizer)
        empty = next((number for number, ids in enumerate(pieces[1:]) if not ids), None)
        return None if empty is None else Unreadable(NotScored.NO_STEP, f"step {empty} has no token")

    def rewards(
        self, window: Sequence[ReadRow], given: Sequence[Given], found: Mapping[int, ScoredConversation], counts: Counts
    ) -> Scored:
        scored = super().rewards(window, given, found, counts)
        for row, of_row in zip(window, scored, strict=True):
            for place in [place for place, one in of_row.items() if one.steps is None]:
                del of_row[place]
                row.refused[place] = Unreadable(NotScored.TOO_LONG)
        return scored


def _may_be_steps(values: Mapping[str, object]) -> bool:
    """TRL's rows for the training of process models: `completions` are the steps of one answer, each with a label."""
    steps, labels = values.get("completions"), values.get("labels")
    return isinstance(steps, list) and isinstance(labels, list) and len(steps) == len(labels) > 0


def template_refuses(refusal: str, conversation: Conversation) -> Unreadable | None:
    """
    Args:
        refusal: the template's words, empty where it takes the conversation.
    """
    if not refusal:
        return None
    roles = ", ".join(message["role"] for message in parts_of(conversation)[0])
    return Unreadable(NotScored.TEMPLATE_REFUSES, f"{refusal}; roles: {roles}")

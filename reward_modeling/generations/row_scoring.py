"""How the answers of rows get their rewards: what differs between models that score an answer, its steps, or two.

scoring = load_scoring(path, state)                  # of generations.loading
scoring.check(window, counts)                        # marks the answers that cannot be scored
given = scoring.given(window)                        # what the model reads
found = dict(scoring.stream(one.what for one in given))
scored = scoring.rewards(window, given, found, counts)

A further kind is a class of its own, and a line in `loading`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.control_tokens import control_tokens, foreign_mark
from reward_modeling.data.conversations import Conversation
from reward_modeling.data.losses import Losses
from reward_modeling.generations.answers import Unreadable
from reward_modeling.generations.counts import CONTROL, FOREIGN, LOSES_ANSWER, LOSES_MESSAGE, Counts
from reward_modeling.generations.windows import ReadRow, answers_in
from reward_modeling.scoring import PairScorer, RewardScorer, ScoredConversation

Scored = list[dict[int, ScoredConversation]]


@dataclass(frozen=True)
class Given:
    """Something that the model reads, and whose it is."""

    row: int
    """In the window."""
    place: Any
    """Of the answer in the row; of a comparison both places, that of the answer that stands first in front."""
    what: Conversation | Comparison


class RowScoring(ABC):
    """From windows of rows to rewards, by one kind of model."""

    reads: ClassVar[str] = "conversation"  # what the model reads at a time
    takes_texts: ClassVar[bool] = False  # whether it scores a text that does not say where the answer begins
    kind: ClassVar[str | None] = None  # what the rewards are, where they are not a model's own outputs

    @property
    def words(self) -> str:
        """What the rewards are, for the log; empty where there is nothing to say."""
        return ""

    def __init__(self, scorer: RewardScorer | PairScorer):
        self.scorer = scorer
        self.tokens = control_tokens(self.tokenizer)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.scorer.tokenizer

    @property
    def beside(self) -> tuple[str, ...]:
        """The columns that it adds beside the rewards."""
        return self.scorer.readout.beside

    def model_entry(self) -> dict[str, Any]:
        """What of the model decides the rewards, beside its weights and its template."""
        return {}

    def size(self, row: ReadRow) -> int:
        """How much of a window a row is."""
        return answers_in(row)

    def check(self, rows: Sequence[ReadRow], counts: Counts) -> None:
        """Fill `refused` of the rows, and count the answers that lose a part or hold marks of a template."""
        for row in rows:
            for place, conversation in row.to_score():
                refusal, losses = self.refusal(row, place, conversation)
                if refusal is not None:
                    row.refused[place] = refusal
                elif not isinstance(conversation, str):
                    self._note(row, place, losses, counts)

    def _note(self, row: ReadRow, place: int, losses: Losses, counts: Counts) -> None:
        where, text = row.row.where, row.answers.text(place)
        if token := self.tokens.find(text):
            counts.note(CONTROL, where, token, answers=1)
        elif mark := foreign_mark(text):
            counts.note(FOREIGN, where, mark, answers=1)
        if losses.answer:
            counts.note(LOSES_ANSWER, where, losses.answer, answers=1)
        if losses.message:
            counts.note(LOSES_MESSAGE, where, losses.message, answers=1)

    @abstractmethod
    def refusal(self, row: ReadRow, place: int, conversation: Conversation) -> tuple[Unreadable | None, Losses]:
        """Why an answer cannot be scored, if it cannot, and what its text loses in the chat template."""

    @abstractmethod
    def given(self, window: Sequence[ReadRow]) -> list[Given]:
        """What the model reads for the rows, those of one row after each other."""

    @abstractmethod
    def stream(
        self,
        given: Iterable[Conversation | Comparison],
        *,
        process_index: int = 0,
        num_processes: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """(number of what was given, what the model says) of this process's part; see `RewardScorer.stream`."""

    @abstractmethod
    def rewards(
        self, window: Sequence[ReadRow], given: Sequence[Given], found: Mapping[int, Any], counts: Counts
    ) -> Scored:
        """What the model says of the answers of each row, by their places."""

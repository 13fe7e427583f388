"""Rewards of a pairwise model: how probable it is that an answer is better than another one of its row.

Every two different answers of a row are compared, in both orders. An answer's reward is the mean over the other answers
of the row; the same answer twice is a tie, at one half. So rewards are from 0 to 1, one half on average in each row,
and say nothing of how good an answer is beside those of another row.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

from reward_modeling.common.pair_probabilities import mean_probability
from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.conversations import Conversation
from reward_modeling.data.losses import Losses
from reward_modeling.data.messages import to_json
from reward_modeling.generations.added_columns import REWARD_KIND, WIN_PROBABILITY
from reward_modeling.generations.answers import NotScored, Unreadable
from reward_modeling.generations.by_answer import template_refuses
from reward_modeling.generations.counts import ESCAPED, Counts
from reward_modeling.generations.forms.base import of_several_prompts
from reward_modeling.generations.row_scoring import Given, RowScoring, Scored
from reward_modeling.generations.windows import ReadRow, answers_in
from reward_modeling.models.pairwise_format import PAIRWISE
from reward_modeling.scoring import ScoredConversation
from reward_modeling.scoring.ranking import round_robin_scores


class ByComparison(RowScoring):
    """A round robin of the answers of each row."""

    reads: ClassVar[str] = "comparison"
    kind: ClassVar[str | None] = WIN_PROBABILITY

    @property
    def words(self) -> str:
        return "how probable it is that an answer is better than another one of its row, both orders of every two"

    @property
    def beside(self) -> tuple[str, ...]:
        return (REWARD_KIND,)

    def model_entry(self) -> dict[str, Any]:
        return {PAIRWISE: dict(self.scorer.model.config.to_dict()[PAIRWISE])}

    def size(self, row: ReadRow) -> int:
        """Every answer beside every other one."""
        answers = answers_in(row)
        return answers * (answers - 1)

    def check(self, rows: Sequence[ReadRow], counts: Counts) -> None:
        for row in rows:
            if row.answers is not None and of_several_prompts(row.answers):
                there = row.to_score()
                row.refused |= {place: Unreadable(NotScored.PROMPTS_DIFFER) for place, _ in there}
        super().check(rows, counts)
        for row in rows:
            left = row.to_score()
            if len(left) == 1:
                row.refused[left[0][0]] = Unreadable(NotScored.ALONE)
            elif mark := next(filter(None, (self._mark(row, place) for place, _ in left)), ""):
                counts.note(ESCAPED, row.row.where, mark, rows=1)

    def refusal(self, row: ReadRow, place: int, conversation: Conversation) -> tuple[Unreadable | None, Losses]:
        """By the answer beside itself: what a template refuses of two answers, it refuses for one of them."""
        refusal, losses = self.scorer.reader.check(_comparison(row, place, place))
        return template_refuses(refusal, conversation), losses

    def _mark(self, row: ReadRow, place: int) -> str:
        answer = row.answers.answers[place]
        return self.scorer.reader.composer.escaped(list(row.answers.prompt), [answer, answer])

    def given(self, window: Sequence[ReadRow]) -> list[Given]:
        return [
            Given(number, places, _comparison(row, *places))
            for number, row in enumerate(window)
            for pair in combinations(sorted({*_first_places(row).values()}), 2)
            for places in (pair, pair[::-1])
        ]

    def stream(
        self,
        given: Iterable[Comparison],
        *,
        process_index: int = 0,
        num_processes: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[tuple[int, float]]:
        ranks = {"process_index": process_index, "num_processes": num_processes}
        return self.scorer.stream(given, progress=progress, **ranks)

    def rewards(
        self, window: Sequence[ReadRow], given: Sequence[Given], found: Mapping[int, float], counts: Counts
    ) -> Scored:
        logits: list[dict[tuple[int, int], float]] = [{} for _ in window]
        for number, one in enumerate(given):
            logits[one.row][one.place] = found[number]
        return [self._of_row(row, of_row, counts) for row, of_row in zip(window, logits, strict=True)]

    def _of_row(
        self, row: ReadRow, logits: Mapping[tuple[int, int], float], counts: Counts
    ) -> dict[int, ScoredConversation]:
        """
        Args:
            logits: of "A" less "B", by the places of the answer that stands first and of the other one.
        """
        self._leave_out_too_long(row, logits)
        first_places = _first_places(row)
        kept = {*first_places.values()}
        distinct = {(one, other) for one, other in logits if one < other and {one, other} <= kept}
        counts.comparisons += len(distinct)
        # both orders say A, or both B: the same place wins
        counts.flips += sum(logits[one, other] * logits[other, one] > 0 for one, other in distinct)
        probabilities = {}
        for (number, one), (beside, other) in combinations(enumerate(first_places.values()), 2):
            given = (logits[one, other], logits[other, one]) if one != other else (0.0, 0.0)  # itself: a tie
            probabilities[number, beside] = float(mean_probability(*given))
        scores = round_robin_scores(len(first_places), probabilities) if first_places else []
        return {place: ScoredConversation(score) for place, score in zip(first_places, scores, strict=True)}

    @staticmethod
    def _leave_out_too_long(row: ReadRow, logits: Mapping[tuple[int, int], float]) -> None:
        """Refuse the fewest answers so that all comparisons of the others fit: first that which fits beside the fewest,
        of these the longest. What is then alone has nothing to be compared with.
        """
        unfit = {places for places, logit in logits.items() if math.isnan(logit)}
        while unfit:
            times = Counter(place for places in unfit for place in places)
            longest = max(times, key=lambda place: (times[place], len(to_json(row.answers.answers[place])), place))
            same = [place for place, first in _first_places(row).items() if first == longest]
            row.refused |= {place: Unreadable(NotScored.TOO_LONG) for place in same}
            unfit = {places for places in unfit if longest not in places}
        if len(left := row.to_score()) == 1 and logits:
            row.refused[left[0][0]] = Unreadable(NotScored.ALONE)


def _comparison(row: ReadRow, a: int, b: int) -> Comparison:
    """Of the answers at two places."""
    answers = row.answers
    return Comparison(answers.prompt, answers.answers[a], answers.answers[b], answers.options)


def _first_places(row: ReadRow) -> dict[int, int]:
    """Of each answer that is compared, by its place, the first place of the same answer."""
    firsts: dict[str, int] = {}
    places = [place for place, _ in row.to_score()]
    return {place: firsts.setdefault(to_json(row.answers.answers[place]), place) for place in places}

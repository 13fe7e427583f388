"""Rows that hold a list of answers to one prompt, ranked or scored: what is kept of the list.

    read_answer_list({"prompt": "Hello!", "completions": ["Hi.", "No.", "Hey!"], "ranks": [1, 2, 1]}, forms=set())
    # the three answers with the ranks 1, 2, 1

An answer without a rank or a score is not rated and left out, and so is one without words. A text that stands there
twice is one answer with the mean of its scores (ranks): otherwise it could be better and worse than a third at once.
"""

import math
from typing import NamedTuple

from reward_modeling.data.messages import parse_json, says_nothing, to_json
from reward_modeling.data.pairs import Pair, json_type, read_pair
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import Row, RowDropped, is_blank, is_blank_message

LISTS = "lists of ranked answers"
NOT_RATED = "lists of which answers without a score or rank are left out"
WITHOUT_WORDS = "lists of which answers without words are left out"
REPEATED = "lists in which an answer stands more than once, and counts once"
FEWEST = 2


class AnswerList(NamedTuple):
    """The answers to one prompt in the order of the row, each a list of messages or a plain text."""

    prompt: list[dict] | None
    answers: list[list[dict] | str]
    ranks: list[int]
    """Of each answer: 1 is the best, equal ones tie, and none is left out."""

    @property
    def pair(self) -> Pair:
        """The first of the best answers and the first of the worst."""
        best, worst = self.ranks.index(1), self.ranks.index(max(self.ranks))
        return Pair(self.prompt, self.answers[best], self.answers[worst])


def is_answer_list(row: Row) -> bool:
    """Whether a row has a list of answers, and no pair."""
    return row.get("completions") is not None and row.get("chosen") is None and row.get("rejected") is None


def read_answer_list(row: Row, forms: set[str]) -> AnswerList:
    """The answers of a row with `completions`, and `ranks` or else `scores`.

    Raises:
        RowDropped: they are no lists of one length, fewer than two answers can be used, or all have the same rank.
    """
    completions, goodness = _list(row["completions"], "completions"), _goodness(row, len(_list(row["completions"], "")))
    rated = [(answer, good) for answer, good in zip(completions, goodness, strict=True) if good is not None]
    said = [(answer, good) for answer, good in rated if not _is_blank_answer(answer)]
    if len(said) < FEWEST:
        reason = DropReason.NO_SCORE if len(rated) < FEWEST <= len(completions) else DropReason.TOO_FEW_ANSWERS
        raise RowDropped(reason, f"{len(said)} of {len(completions)} completions have words and a rank or a score")
    found = _distinct(said)
    if len(found) < FEWEST:
        raise RowDropped(DropReason.IDENTICAL_TEXT)
    ranks = dense_ranks([good for _, good in found])
    if max(ranks) == 1:
        raise RowDropped(DropReason.EQUAL_SCORES, f"{len(found)} answers, all of one rank")
    pairs = [read_pair({**row, "chosen": found[0][0], "rejected": answer}, forms) for answer, _ in found[1:]]
    if any(pair.prompt != pairs[0].prompt or pair.chosen != pairs[0].chosen for pair in pairs):
        raise RowDropped(DropReason.PROMPTS_DIFFER)
    forms.add(LISTS)
    stages = (completions, rated, said, found)
    for words, before, after in zip((NOT_RATED, WITHOUT_WORDS, REPEATED), stages[:-1], stages[1:], strict=True):
        if len(after) < len(before):
            forms.add(words)
    return AnswerList(pairs[0].prompt, [pairs[0].chosen, *(pair.rejected for pair in pairs)], ranks)


def dense_ranks(goodness: list[float]) -> list[int]:
    """1 for the greatest numbers, 2 for the next ones, and so on.

    >>> dense_ranks([0.5, 7.0, 0.5, 3.0])
    [3, 1, 3, 2]
    """
    levels = sorted(set(goodness), reverse=True)
    return [levels.index(good) + 1 for good in goodness]


def _goodness(row: Row, length: int) -> list[float | None]:
    """A number for each answer that is the greater the better it is; None where it is not rated."""
    name, sign = ("ranks", -1.0) if not says_nothing(row.get("ranks")) else ("scores", 1.0)
    values = row.get(name)
    if says_nothing(values):
        raise RowDropped(DropReason.NO_SCORE, "completions have neither ranks nor scores")
    values = _list(values, name)
    if len(values) != length:
        raise RowDropped(DropReason.LENGTHS_DIFFER, f"{length} completions and {len(values)} {name}")
    for value in values:
        if not says_nothing(value) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RowDropped(DropReason.WRONG_TYPE, f"{name} has {json_type(value)}")
        if isinstance(value, float) and math.isinf(value):
            raise RowDropped(DropReason.NAN_MARGIN, f"{name} has {value}")
    return [None if says_nothing(value) else sign * value for value in values]


def _list(value: object, name: str) -> list:
    parsed = parse_json(value) if isinstance(value, str) else value
    parsed = list(parsed) if isinstance(parsed, tuple) else parsed
    if not isinstance(parsed, list):
        raise RowDropped(DropReason.WRONG_TYPE, f"{name} is {json_type(value if parsed is None else parsed)}")
    return parsed


def _is_blank_answer(answer: object) -> bool:
    if isinstance(answer, list) and answer and isinstance(answer[-1], dict):  # a whole conversation, or its last turn
        return is_blank_message(answer[-1])
    return is_blank(answer)


def _distinct(said: list[tuple[object, float]]) -> list[tuple[object, float]]:
    """Each answer once; templates trim messages, so that white space around a text tells none apart."""
    found: dict[str, list[tuple[object, float]]] = {}
    for answer, good in said:
        found.setdefault(answer.strip() if isinstance(answer, str) else to_json(answer), []).append((answer, good))
    # fsum: the mean is the same in any order
    return [(same[0][0], math.fsum(good for _, good in same) / len(same)) for same in found.values()]

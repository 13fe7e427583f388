"""Rows with their rewards: the columns that are added, and the line of the output.

| column         | of each answer, in the order of the row's answers                                        |
|----------------|------------------------------------------------------------------------------------------|
| `rewards`      | its reward; null where it has none. null of a row of which no answer has one             |
| `attributes`   | the named outputs of a model that has some, and `gate_weights`, `intervals` where it has |
| `steps`        | of a process model, P(right) of each step                                                |
| `reward_kind`  | of a pairwise model, that rewards are win probabilities among the answers of the row     |
| `not_scored`   | of such a row alone: why                                                                 |
"""

import json
import math
from collections.abc import Mapping

from reward_modeling.common.errors import UserError
from reward_modeling.generations.added_columns import ADDED, REASON, REWARD_KIND, REWARDS
from reward_modeling.generations.answers import NotScored, Unreadable
from reward_modeling.generations.counts import EQUAL_ANSWERS, NO_NUMBERS, Counts
from reward_modeling.generations.input_rows import InputRow, json_of
from reward_modeling.generations.windows import ReadRow
from reward_modeling.scoring import ScoredConversation
from reward_modeling.scoring.readouts.base import columns_of_answers

Scored = Mapping[int, ScoredConversation]


def line_of(row: ReadRow, scored: Scored, counts: Counts, *, overwrite: bool = False, kind: str | None = None) -> str:
    """The row as it stands with its rewards behind, as JSON on one line; `counts` takes what became of it.

    Args:
        scored: by the answers' places.
        overwrite: replaces rewards that the row already has.
        kind: what the rewards are, where they are not a model's own outputs.

    Raises:
        UserError: it has some, or another column of a name that is added.
    """
    columns = _columns(row, scored, counts)
    if kind is not None and columns[REWARDS] is not None:
        columns[REWARD_KIND] = kind
    values, text = row.row.values, row.row.text
    if there := [name for name in ADDED if name in values and (name in columns or (overwrite and REWARDS in values))]:
        if not overwrite:
            raise UserError(has_rewards(row.row.where, there[0]))
        values, text = {name: value for name, value in values.items() if name not in there}, None
    return _joined(values, text, columns)


def has_rewards(where: str, column: str) -> str:
    """The message about a row that was scored before."""
    return (
        f"expected rows without {column}, which is added to them, found it at {where}. Pass --overwrite_rewards true "
        "to replace it, or rename the column."
    )


def _joined(values: Mapping[str, object], text: str | None, columns: Mapping[str, object]) -> str:
    added = json.dumps(columns, ensure_ascii=False, allow_nan=False)
    added = added if added.isascii() else json_of(columns)
    if not values:
        return added
    text = json_of(values) if text is None else text
    return f"{text[:-1].rstrip()}, {added[1:]}"


def _columns(row: ReadRow, scored: Scored, counts: Counts) -> dict[str, object]:
    where, answers = row.row.where, 0 if row.answers is None else len(row.answers)
    counts.rows += 1
    counts.answers += answers
    if row.form is not None:
        counts.forms[row.form] = counts.forms.get(row.form, 0) + 1
    if row.row.has_no_number:
        counts.note(NO_NUMBERS, where, rows=1)
    if row.answers is None:
        counts.refuse(row.problem, where, rows=1)
        return {REWARDS: None, REASON: row.problem.text}
    _count_notes(row, counts)
    problems = {**row.answers.unreadable, **row.refused}
    problems |= {place: Unreadable(NotScored.NOT_FINITE) for place, one in scored.items() if not _is_finite(one)}
    for problem in problems.values():
        counts.refuse(problem, where, answers=1)
    counts.scored += answers - len(problems)
    if len(problems) == answers:
        first = problems[min(problems)]
        counts.refuse(first, where, rows=1)
        return {REWARDS: None, REASON: first.text}
    counts.rows_scored += 1
    return _columns_of(scored, problems, answers)


def _columns_of(scored: Scored, problems: Mapping[int, Unreadable], answers: int) -> dict[str, object]:
    """The columns of what has a reward, with null in the places of the others."""
    places = [place for place in range(answers) if place in scored and place not in problems]
    found = columns_of_answers([scored[place] for place in places])
    return {name: _in_places(values, places, answers) for name, values in found.items()}


def _in_places(values: list, places: list[int], answers: int) -> list:
    by_place = dict(zip(places, values, strict=True))
    return [_numbers(by_place[place]) if place in by_place else None for place in range(answers)]


def _numbers(value: object) -> object:
    """Numbers as JSON has them: none that is infinite or no number, in objects and pairs too."""
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_numbers(one) for one in value]
    return value if math.isfinite(value) else None


def _is_finite(one: ScoredConversation) -> bool:
    return math.isfinite(one.reward)


def _count_notes(row: ReadRow, counts: Counts) -> None:
    where = row.row.where
    for note in sorted(row.answers.notes):
        counts.note(note, where, rows=1)
    texts = [json.dumps(answer) for answer in row.answers.answers if answer is not None]
    if len(set(texts)) < len(texts):
        counts.note(EQUAL_ANSWERS, where, rows=1)


def rows_with_rewards(row: InputRow) -> str | None:
    """The column of an earlier scoring that a row has, if any."""
    return next((name for name in (REWARDS, REASON) if name in row.values), None)

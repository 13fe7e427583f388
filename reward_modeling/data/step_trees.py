"""How trees of steps are written down: alternatives that go on from the same steps, see step_chains.py."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.data.messages import says_nothing
from reward_modeling.data.row_forms import RowDropped
from reward_modeling.data.step_chains import FIRST
from reward_modeling.data.step_labels import LABEL_KEYS, LabelReading, is_without_text, read_step

TWICE = "alternatives that stand there before, which count once"
UNLIKE = "alternatives that stand there before with another label, which count once, with the mean of the labels"
BLANK = "alternatives without text, which are left out"
HUMAN = "steps without a rating that a human wrote to go on from, taken as right"


@dataclass
class StepTree:
    """Steps, of each the one before it, and its label: P(right), None where there is none."""

    steps: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    labels: list[float | None] = field(default_factory=list)
    numbers: dict[tuple[int, str], int] = field(default_factory=dict)  # of a step by parent and text
    strips: bool = False  # white space at the ends of a step says nothing
    given: list[list[float]] = field(default_factory=list)  # of each step the labels that it has where it stands

    def add(self, step: str, label: float | None, parent: int, counts: Counter[str]) -> int:
        """Its number. One that stands there before is the same step, whose label is the mean of those that are known.

        Args:
            counts: in which the ones that stand there before are counted.
        """
        number = self.numbers.setdefault((parent, step.strip() if self.strips else step), len(self.steps))
        if number == len(self.steps):
            self.steps.append(step)
            self.parents.append(parent)
            self.labels.append(None)
            self.given.append([])
        else:
            agrees = label is None or all(each == label for each in self.given[number])
            counts[TWICE if agrees else UNLIKE] += 1
        if label is not None:
            self.given[number].append(label)
            self.labels[number] = _mean(self.given[number])
        return number

    def add_chain(self, steps: Sequence[str], labels: Sequence[float | None]) -> None:
        parent = FIRST
        for step, label in zip(steps, labels, strict=True):
            parent = self.add(step, label, parent, Counter())  # behind each other none stands there before


def _mean(labels: Sequence[float]) -> float:
    return labels[0] if len(set(labels)) == 1 else math.fsum(labels) / len(labels)


class Alternatives(NamedTuple):
    """What stands at one place of an answer: the next steps that were tried, and which of them it goes on from."""

    steps: list[Mapping]
    way_on: int | None


def read_tree(places: Sequence[object], reading: LabelReading) -> StepTree:
    """
    Args:
        places: of an answer. Each is a step, as {"text": ..., "label": ...} or with a "rating" of -1, 0 or 1; or a list
            of alternatives, of which one is {"chosen": true, ...}; or {"completions": [...], "chosen_completion": 0}.
            A step may have "steps" of its own, which go on from it. An alternative without text is left out.

    Raises:
        RowDropped: it is something else, or does not say which alternative the steps behind them go on from.
    """
    tree = StepTree(strips=reading.strips)
    _add_places(tree, [_alternatives(place, reading) for place in places], FIRST, reading)
    return tree


def _add_places(tree: StepTree, places: list[Alternatives], parent: int, reading: LabelReading) -> None:
    for place, (steps, way_on) in enumerate(places):
        numbers = []
        for step in steps:
            numbers.append(tree.add(*read_step(step, reading), parent, reading.counts))
            if not says_nothing(following := step.get("steps")):
                if not isinstance(following, list):
                    raise RowDropped(DropReason.WRONG_TYPE, "steps that follow a step are no list")
                _add_places(tree, [_alternatives(one, reading) for one in following], numbers[-1], reading)
        if place + 1 < len(places):
            if way_on is None:
                raise RowDropped(DropReason.NO_WAY_ON, f"place {place + 1} has {len(steps)} alternatives")
            parent = numbers[way_on]


def _alternatives(place: object, reading: LabelReading) -> Alternatives:
    if isinstance(place, Mapping) and "completions" in place:
        return _with_text(*_completions(place, reading), reading)
    if isinstance(place, Mapping):
        return Alternatives([place], 0)
    if not isinstance(place, list) or not place or not all(isinstance(step, Mapping) for step in place):
        raise RowDropped(DropReason.WRONG_TYPE, "steps: expected objects, or lists of objects that are alternatives")
    chosen = [number for number, step in enumerate(place) if step.get("chosen") is True]
    if len(place) == 1:
        chosen = [0]
    found = _with_text(place, chosen[0] if len(chosen) == 1 else None, reading)
    if not found.steps:
        raise RowDropped(DropReason.EMPTY_STEP)
    return found if chosen or len(found.steps) > 1 else Alternatives(found.steps, 0)


def _with_text(steps: Sequence[Mapping], way_on: int | None, reading: LabelReading) -> Alternatives:
    """The alternatives that have text; there is no way on where the one that the answer goes on from has none."""
    kept = [number for number, step in enumerate(steps) if not is_without_text(step) or step.get("steps")]
    if len(kept) < len(steps):
        reading.counts[BLANK] += len(steps) - len(kept)
    return Alternatives([steps[number] for number in kept], kept.index(way_on) if way_on in kept else None)


def _completions(place: Mapping, reading: LabelReading) -> tuple[list[Mapping], int | None]:
    """As PRM800K has them: where none of the completions was taken, a human wrote the step that the answer goes on
    from."""
    steps, chosen, human = (place.get(name) for name in ("completions", "chosen_completion", "human_completion"))
    steps = [] if says_nothing(steps) else steps
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise RowDropped(DropReason.WRONG_TYPE, "completions: expected a list of objects")
    if chosen is None and isinstance(human, Mapping) and not is_without_text(human):
        if all(says_nothing(human.get(key)) for key in ("rating", *LABEL_KEYS)):
            reading.counts[HUMAN] += 1
            human = {**human, "rating": 1}
        return [*steps, human], len(steps)
    if isinstance(chosen, float) and chosen.is_integer():  # as tables with empty cells have whole numbers
        chosen = int(chosen)
    if chosen is not None and (isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < len(steps)):
        raise RowDropped(DropReason.NO_WAY_ON, f"chosen_completion {chosen!r:.40} of {len(steps)}")
    return steps, 0 if chosen is None and len(steps) == 1 and "chosen_completion" not in place else chosen


def read_prm800k(places: Sequence[object], reading: LabelReading) -> StepTree:
    """The steps of a row of PRM800K, up to where nothing says how they go on."""
    kept: list[Alternatives] = []
    for place in _objects(places):
        found = _alternatives(place, reading)
        kept += [found] if found.steps else []
        if found.way_on is None:
            break
    tree = StepTree(strips=reading.strips)
    _add_places(tree, kept, FIRST, reading)
    return tree


def _objects(places: Sequence[object]) -> Iterator[Mapping]:
    for place in places:
        if not isinstance(place, Mapping) or "completions" not in place:
            raise RowDropped(DropReason.WRONG_TYPE, "label.steps: expected objects with completions")
        yield place

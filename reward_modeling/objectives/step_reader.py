"""How rows of steps become units: one for each chain of steps, whose targets are the probabilities that they are right.

A tree of alternatives is several chains. A step that stands in several of them is computed once and counted in the
first of them alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from reward_modeling.common.step_statistics import EVEN
from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.data.examples import Example, KeptColumn, RowReader, ShownRow
from reward_modeling.data.messages import to_json
from reward_modeling.data.read_options import STEP_TARGETS, ReadOptions
from reward_modeling.data.step_chains import FIRST, chains_of, up_to_labels
from reward_modeling.data.step_texts import StepComposer
from reward_modeling.models.process_format import last_places

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_modeling.data.loader import PromptGroups
    from reward_modeling.data.report import DataReport

SHOWN_CHARACTERS = 180
CUT_CHAINS = "chains"  # of `report.NOTED_ROWS`


@dataclass(frozen=True)
class StepReader(RowReader):
    """A row is a prompt with a chain of steps, or with a tree of them: a unit of one completion for each chain.

    Targets of a unit: P(right) of each of its steps, NaN where there is no label or where another chain counts the
    step. Its weight is the number of those that are known, so that the mean over units, each the mean over its steps,
    is the mean over steps.

    A chain ends at its last label, of whatever set it is: what stands behind it is in no loss and no figure, and the
    steps before it do not read it. With `last_step_only`, where the last label alone counts, chains are whole.

    `separator` and `chat` are as in `step_texts.StepComposer`; `neutral_steps` and `last_step_only` as the flags have
    them.
    """

    unit: ClassVar[str] = "solutions"
    completion_names: ClassVar[tuple[str, ...]] = ()
    read_off: ClassVar[str] = "whether each step is right"
    shares_beginnings: ClassVar[bool] = True
    separator: str = "\n\n"
    chat: bool = True
    neutral_steps: str | None = None
    last_step_only: bool = False

    @property
    def of_evaluation(self) -> "StepReader":
        """All labels: as in TRL, the last step alone is for training."""
        return replace(self, last_step_only=False)

    @property
    def composer(self) -> StepComposer:
        return StepComposer(self.separator, self.chat)

    def read_positions(
        self, ids: Sequence[int], prompt_length: Callable[[], int], piece_lengths: Sequence[int]
    ) -> list[int]:
        """The end of each step: the last token of its separator, or its own where there is none."""
        lost = sum(piece_lengths) - len(ids)  # of the prompt, which alone is cut
        return [place - lost for place in last_places(piece_lengths, self.separator)]

    def load_rows(self, path: str, num_proc: int, options: ReadOptions) -> "Dataset":
        from reward_modeling.data.step_rows import load_step_rows  # needs `datasets`

        return load_step_rows(path, options, self.neutral_steps, strips=self.composer.strips, num_proc=num_proc)

    def read_row(self, row: dict[str, Any]) -> Example:
        steps, labels, counted = row["steps"], row["labels"], set()
        completions, targets, unfinished = [], [], []
        inner = set() if self.last_step_only else {*row["parents"]}
        numbers = None if self.last_step_only else up_to_labels(row["parents"], labels)
        for chain in chains_of(row["parents"], numbers):
            passed = chain[:-1] if self.last_step_only else counted
            known = tuple(math.nan if number in passed else _or_nan(labels[number]) for number in chain)
            if _count(known):  # a last step without a label is in no loss
                completions.append(to_json([steps[number] for number in chain]))
                targets.append(known)
                unfinished.append(chain[-1] in inner)
                counted.update(chain)
        units = [(number,) for number in range(len(completions))]
        weights = [float(_count(known)) for known in targets]
        return Example(completions, units, targets, weights, unfinished=unfinished)

    def drop_reason(self, row: dict[str, Any]) -> DropReason | None:
        has_none = self.last_step_only and not self.read_row(row).units
        return DropReason.LAST_STEP_NOT_LABELLED if has_none else None

    # --- what is shown ---

    def notes(self, row: dict[str, Any]) -> Iterator[str]:
        if self.last_step_only:
            return
        kept = {*up_to_labels(row["parents"], row["labels"])}
        if any(parent != FIRST and number not in kept for number, parent in enumerate(row["parents"])):
            yield CUT_CHAINS

    def excerpt(self, row: dict[str, Any]) -> str:
        return " | ".join(row["steps"])[:SHOWN_CHARACTERS]

    def shown_row(
        self, units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]], weights: Sequence[float]
    ) -> ShownRow:
        """The first chain of a row with what is known of its steps."""
        known = "steps: " + ", ".join(map(_in_words, targets[0]))
        more = f"the first of the {len(units)} chains of a tree; " if len(units) > 1 else ""
        return ShownRow("solution", {units[0][0]: "steps"}, more + known)

    def describe_kinds(self, groups: "PromptGroups") -> str:
        """The share of right steps, and of solutions with a wrong one."""
        of_unit = groups.groups.data.column("targets").combine_chunks().flatten()
        targets, lengths = of_unit.flatten().to_numpy(), of_unit.value_lengths().to_numpy()
        known = ~np.isnan(targets)
        if not known.any():
            return ""
        right, unit = (targets[known] > EVEN).mean(), np.repeat(np.arange(len(lengths)), lengths)
        erring = len(np.unique(unit[known & (targets < EVEN)])) / len(lengths)
        return (
            f"Of their {int(known.sum()):,} steps with a label {right:.1%} are right; {erring:.1%} of the {self.unit} "
            "have a wrong one."
        )

    def check_rows(self, columns: Sequence[KeptColumn], reports: Sequence["DataReport"]) -> None:
        """Count how the rows were written, how many steps are right and wrong, and which of them hold the separator.

        Raises:
            UserError: an unread column looks like a part of the conversation.
        """
        from reward_modeling.data.row_notes import note_rows  # needs `pyarrow`
        from reward_modeling.data.step_notes import note_steps

        flags = ("--train_set_path", *["--eval_set_path"] * (len(reports) - 1))
        readers = [self, *[self.of_evaluation] * (len(reports) - 1)]
        for name, column, report, reader in zip(flags, columns, reports, readers, strict=True):
            note_rows(report, column, name, STEP_TARGETS)
            note_steps(report, column, self.separator, whole=reader.last_step_only)


def only_label(groups: "PromptGroups") -> float | None:
    """The label that all steps have; None where there are several."""
    labels = groups.groups.data.column("targets").combine_chunks().flatten().flatten().to_numpy()
    distinct = np.unique(labels[~np.isnan(labels)])
    return float(distinct[0]) if len(distinct) == 1 else None


def are_outcomes(groups: "PromptGroups") -> bool:
    """Whether every solution is one step as it was given: an outcome model (ORM) is trained on them."""
    columns = groups.groups.data
    if CUT_CHAINS in columns.column("noted_what").combine_chunks().flatten().to_pylist():
        return False
    return bool((columns.column("targets").combine_chunks().flatten().value_lengths().to_numpy() == 1).all())


def _or_nan(label: float | None) -> float:
    return math.nan if label is None else label  # one object for all: rows that say the same are found by their targets


def _count(targets: Sequence[float]) -> int:
    """How many are known."""
    return sum(not math.isnan(target) for target in targets)


def _in_words(target: float) -> str:
    if math.isnan(target):
        return "?"
    return {0.0: "wrong", 1.0: "right"}.get(target, f"right with probability {target:.4g}")

"""What a row says to a kind of reward model: completions of one prompt, units over them, targets of each unit."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from reward_modeling.data.read_options import ReadOptions

if TYPE_CHECKING:  # scoring and the GPU benchmark run without these packages
    import pyarrow as pa
    from datasets import Dataset

    from reward_modeling.data.composing import Composer
    from reward_modeling.data.loader import PromptGroups
    from reward_modeling.data.report import DataReport, DropReason

KeptColumn = Callable[[str], "pa.ChunkedArray"]  # from the name of a column to its values in the rows that are kept


class Example(NamedTuple):
    """One standard row, as its reader gives it to the tokenizer.

    `units[u]` are numbers of `completions`; `targets[u]` are what is known of that unit, as many numbers as the kind
    of model has, NaN for what is not known.
    """

    completions: Sequence[str]  # each the JSON of what the composer takes (messages after the prompt), or a plain text
    units: Sequence[Sequence[int]]
    targets: Sequence[Sequence[float]]
    weights: Sequence[float] = ()  # above 0: how much each unit counts in the loss; () for units that count alike
    shares: Sequence[float] = ()  # how much of a step each unit fills, where that is not 1
    unfinished: Sequence[bool] = ()  # of each unit whether its row goes on behind it; () for kinds without such units


class ShownRow(NamedTuple):
    """A row as it is shown on the screen."""

    kind: str  # what it is, in the singular
    names: dict[int, str]  # of its completions, by their numbers in the group
    label: str = ""  # what is said of it beside its answers


@dataclass(frozen=True)
class RowReader(ABC):
    """From a file's rows to examples. Small, since it goes to worker processes and into the key of the cache."""

    unit: ClassVar[str]  # what the loss is a mean over, in the plural
    completion_names: ClassVar[tuple[str, ...]] = ()  # of a unit, in their order; empty: they are numbered
    read_off: ClassVar[str] = "the reward"  # what the head makes of the tokens that are read
    shares_beginnings: ClassVar[bool] = False  # completions of a prompt begin alike: more than the prompt is shared
    smaller_units: ClassVar[str] = ""  # what makes units smaller that do not fit into a micro-batch

    @abstractmethod
    def load_rows(self, path: str, num_proc: int, options: ReadOptions) -> "Dataset":
        """Standard rows, each kept or with the reason why not: where, prompt, template_options, prompt_key,
        is_text, source, reason, excerpt, and the columns that `read_row` reads."""

    @abstractmethod
    def read_row(self, row: dict[str, Any]) -> Example:
        """The completions of a standard row and the units over them."""

    @property
    def of_evaluation(self) -> "RowReader":
        """How rows are read that a model is evaluated on, where that differs."""
        return self

    def drop_reason(self, row: dict[str, Any]) -> "DropReason | None":
        """Why a standard row is left out that another reader might keep."""
        return None

    def notes(self, row: dict[str, Any]) -> Iterator[str]:
        """What a report counts of a standard row that is kept: keys of `report.NOTED_ROWS`."""
        yield from ()

    def excerpt(self, row: dict[str, Any]) -> str:
        """What a report shows of a row that is dropped."""
        return " ".join(repr(text[:90]) for text in self.read_row(row).completions)

    def shown_row(
        self, units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]], weights: Sequence[float]
    ) -> "ShownRow":
        """How a row stands on the screen.

        Args:
            units, targets, weights: of the row, as they stand in its group.
        """
        names = self.completion_names or [f"answer {number}" for number, _ in enumerate(units[0], start=1)]
        return ShownRow(self.unit.removesuffix("s"), dict(zip(units[0], names, strict=True)))

    def describe_kinds(self, groups: "PromptGroups") -> str:
        """Of which kinds the units are, where there are several; "" where there is one."""
        return ""

    @property
    def composer(self) -> "Composer":
        """How a prompt and a completion become tokens."""
        from reward_modeling.data.composing import CONVERSATION  # with transformers, which --help does without

        return CONVERSATION

    def read_positions(
        self, ids: Sequence[int], prompt_length: Callable[[], int], piece_lengths: Sequence[int]
    ) -> list[int]:
        """Which tokens of a whole conversation are read: by default the last one.

        Args:
            ids: of prompt and completion.
            prompt_length: counts the tokens of the prompt, the header of the answer included.
            piece_lengths: tokens of each piece of the composer; the first may have lost some of them since.
        """
        return [len(ids) - 1]

    def check_rows(self, columns: Sequence[KeptColumn], reports: Sequence["DataReport"]) -> None:  # noqa: B027 (most have nothing to say)
        """Say in the reports, or refuse, what only the whole set shows. One of each for training and evaluation."""

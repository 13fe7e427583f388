"""What a run says of its model, where that depends on the kind of reward model: the seam of `results`.

    kind = kind_of(run, evaluation)          # catalog.py; run.json and evaluation.json
    kind.warnings(evaluation)                # the same words on the page, in the card and on the screen

A kind is one file with a class below `ResultsKind`, its templates (they extend those that are named here), and a line
in the catalog. `ResultsKind` itself is for runs of a kind that has no such file: it shows what is logged, and the
numbers of evaluation.json, under the names that they have.

Nothing here imports matplotlib, since every process of a run reads warnings: methods that draw import what they need.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from reward_modeling.display.text import Rows, count, number

if TYPE_CHECKING:
    from reward_modeling.display.plot_style import Plot

TRAINING, HELD_OUT = "training", "held out"
# What is logged with an evaluation or at the end, and is no figure of the model.
NO_FIGURES = ("runtime", "samples_per_second", "steps_per_second")
NO_CURVES = ("step", "epoch", "total_flos", "tokens_saved", "heaviest_micro_batch_tokens", "peak_memory_gib")
ENDS_OF_INTERVALS = ("_low", "_high")


@dataclass(frozen=True)
class LoggedFigure:
    """A plot of the log: its title and caption, and the curves in it."""

    title: str
    caption: str
    series: Mapping[str, str] = field(default_factory=dict)  # {name of a curve: what it is logged as}
    is_share: bool = False  # shown in percent
    may_be_logarithmic: bool = False

    def is_of_training(self, name: str) -> bool:
        """Whether a curve is of the training: it stands in the table of its points."""
        return not self.series[name].startswith("eval_")


def both_curves(name: str) -> dict[str, str]:
    """The series of a figure that is logged of the training and of evaluations."""
    return {TRAINING: name, HELD_OUT: f"eval_{name}"}


COMMON_FIGURES = {
    "learning_rate": LoggedFigure("Learning rate", "As the schedule gave it.", both_curves("learning_rate")),
    "grad_norm": LoggedFigure(
        "Gradient norm", "Of all gradients, before clipping.", both_curves("grad_norm"), may_be_logarithmic=True
    ),
    "tokens_per_second": LoggedFigure(
        "Tokens per second",
        "Computed over all processes; a shared prompt counts once.",
        both_curves("tokens_per_second"),
    ),
}


class ResultsKind:
    """Runs of a kind of which nothing is known here.

    `evaluation` is the content of evaluation.json, or of one of its sets; `entry` an entry of the log.
    """

    card_template: ClassVar[str] = "results/templates/model_card.md"
    page_template: ClassVar[str] = "results/templates/training.html"
    tags: ClassVar[tuple[str, ...]] = ()  # of the card, for the Hub
    task: ClassVar[str] = "SequenceClassification"  # transformers' class for it is AutoModelFor...
    has_pipeline: ClassVar[bool] = True  # of transformers that gives the outputs
    outputs: ClassVar[str] = "outputs"  # what the saved model was compared by
    has_named_outputs: ClassVar[bool] = False  # which RewardScorer gives beside the reward
    card_plots: ClassVar[dict[str, str]] = {}  # {name of the file: what it shows}

    def __init__(self, unit: str, arguments: Mapping | None = None):
        """
        Args:
            unit: what the loss is a mean over, in the plural.
            arguments: those that decide what is learned, as run.json has them.
        """
        self.unit = unit
        self.arguments = arguments or {}

    def warnings(self, evaluation: Mapping) -> Iterator[str]:
        """What whoever uses the model has to know first."""
        yield from ()

    # --- the model card ---

    def draw_card_plots(self, evaluation: Mapping) -> list[bytes]:
        """The files of `card_plots`, in their order."""
        return []

    # --- the page ---

    def figures(self, history: Sequence[Mapping]) -> dict[str, LoggedFigure]:
        """The plots of the log, by the names of what they show, in their order."""
        found = [name for entry in history for name in entry if _is_figure(name)]
        names = dict.fromkeys(["loss", *(name.removeprefix("eval_") for name in found)])
        own = {name: LoggedFigure(words(name), "As it was logged.", both_curves(name)) for name in names}
        return {name: own[name] for name in own if name not in COMMON_FIGURES} | COMMON_FIGURES

    def evaluation_rows(self, entries: Sequence[Mapping]) -> Rows:
        """A line for each evaluation in the log."""
        names = list(dict.fromkeys(name for entry in entries for name in entry if _is_evaluated(name)))
        rows: Rows = [("step", "epoch", *(words(name.removeprefix("eval_")) for name in names))]
        for entry in entries:
            values = (number(entry[name]) if name in entry else "-" for name in names)
            rows.append((count(entry["step"]), f"{entry['epoch']:.2f}", *values))
        return rows

    def held_out_plots(self, evaluation: Mapping) -> "Iterable[Plot]":
        """Those below the curves."""
        return ()

    def held_out_tables(self, evaluation: Mapping) -> list[tuple[str, Rows]]:
        """Every number behind `held_out_plots`, in tables with their titles."""
        return [("Figures", self.figure_rows(evaluation))]

    def set_rows(self, evaluation: Mapping) -> Rows:
        """A row for each evaluation set that has a name."""
        figures = {name: plain_figures(of) for name, of in evaluation["sets"].items()}
        heads = list(dict.fromkeys(head for of in figures.values() for head in of))
        lines = ((name, *(of.get(head, "-") for head in heads)) for name, of in figures.items())
        return [("evaluation set", *heads), *lines]

    def figure_rows(self, evaluation: Mapping) -> Rows:
        return [("figure", "value"), *plain_figures(evaluation).items()]


def plain_figures(evaluation: Mapping) -> dict[str, str]:
    """The numbers that evaluation.json has at its top, as text, those with an interval with it."""
    figures = {}
    for name, value in evaluation.items():
        if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
            figures[words(name)] = with_interval(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "epoch"):
            figures[words(name)] = count(value) if isinstance(value, int) else number(value)
    return figures


def with_interval(row: Mapping) -> str:
    """0.912 (0.88 to 0.93); a dash where there is no value."""
    if row["value"] is None:
        return "-"
    if row["low"] is None or row["high"] is None:
        return number(row["value"])
    return f"{number(row['value'])} ({number(row['low'])} to {number(row['high'])})"


def words(name: str) -> str:
    """The name of a figure as a title: reward_mean as "Reward mean"."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _is_evaluated(name: str) -> bool:
    return name.startswith("eval_") and not name.endswith((*NO_FIGURES, *ENDS_OF_INTERVALS))


def _is_figure(name: str) -> bool:
    """Whether a name in the log is that of a curve."""
    if name.startswith(("train_", "eval_")):
        return _is_evaluated(name)
    return name not in NO_CURVES and not name.endswith(("_per_second", *ENDS_OF_INTERVALS))

"""What a benchmark is: everything in which one differs from another, in one object.

A benchmark is a file of this folder that exports its `Benchmark` as BENCHMARK, and a line of `catalog`. Nothing outside
the folder asks which benchmark it has: reading, figures, tables, pages, record and comparison take what is here.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.errors import nearest_name
from reward_modeling.common.intervals import by_subset
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import DataReport
from reward_modeling.data.sources import Columns
from reward_modeling.evaluation.benchmarks.means import Means
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow, subsets_of

if TYPE_CHECKING:
    from datasets import Dataset

FEW = 3  # names in a message, where a file of one's own would else fill the screen
LARGEST_SHARE_UNREADABLE = 0.01  # of a subset's rows, beyond which it has no score

Formula = Callable[[Means, Mapping[str, int]], dict[str, ArrayLike]]


@dataclass(frozen=True)
class BenchmarkRows:
    """A benchmark as it was read."""

    benchmark: str
    """One of `BENCHMARKS`."""
    sources: tuple[str, ...]
    """What was read, as the user or the Hub names it."""
    rows: "Dataset | None"
    """`EVALUATION_FEATURES`, memory-mapped, in the order of the input; test sets in the order of `TEST_SET_ROWS`, then
    those of other names. None where others have scored the rows, whose texts are not known."""
    report: DataReport | None = None
    """Pairs alone: what was read and what was dropped."""
    only: tuple[str, ...] = ()
    """The subsets that were asked for, where others were left out."""


# --- defaults -------------------------------------------------------------------------------------------------


def pair_verdicts(rows: Rows) -> dict[str, NDArray]:
    """Which rows of each subset came out right."""
    return by_subset(subsets_of(rows), [row.is_right for row in rows])


def check_subsets(benchmark: "Benchmark", rows: Rows) -> list[str]:
    """What is unknown, missing or of another size than published, in loud messages; empty if all is well."""
    title, published = benchmark.title, benchmark.subset_rows
    found = Counter(map(benchmark.published_name, subsets_of(rows)))
    messages = []
    for name in sorted(found.keys() - published.keys()):
        nearest = nearest_name(name, published)
        hint = f" (did you mean {nearest!r}?)" if nearest else ""
        messages.append(f"{title}: unknown subset {name!r}{hint}: its rows count in no score")
    if missing := [name for name in published if name not in found]:
        made_of = (figure for figure, subsets in benchmark.figures.items() if {*missing} & {*subsets})
        spoiled = ", ".join(figure for figure in made_of if figure not in missing)
        listed = ", ".join(f"{name!r} ({published[name]:,} rows)" for name in missing)
        result = f": incomplete, and without a score: {spoiled}" if spoiled else ""
        messages.append(f"{title}: missing: {listed}{result}")
    if resized := [name for name in published if found[name] not in (0, published[name])]:
        shown = resized if len(resized) <= FEW else resized[:1]
        sizes = ", ".join(f"{name} {found[name]:,} for {published[name]:,}" for name in shown)
        subsets, more = "subset has" if len(resized) == 1 else "subsets have", ", and so on" * (shown != resized)
        words = f"{len(resized)} {subsets} other numbers of rows than published ({sizes}{more})"
        end = "their scores, and those made of them, are not those of the published benchmark"
        messages.append(f"{title}: {words}: {end}")
    return messages


def lines_by_figure(benchmark: "Benchmark", part: Mapping) -> list[tuple[str, Mapping]]:
    """rm_bench/chat-hard, and so on."""
    return [(f"{benchmark.name}/{name.replace(' ', '-')}", figure) for name, figure in part["figures"].items()]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Everything in which one benchmark differs from another.

    A formula takes the means of subsets and gives figures: fractions in, fractions out. It also takes arrays in place
    of numbers, one element per bootstrap sample, which is how figures get their intervals from the same lines. A figure
    that lacks a subset is NaN, and so is everything made of it.
    """

    name: str
    """As `--benchmarks` has it."""
    title: str

    # Rows
    required: tuple[str, ...] = ()
    """Columns of its file."""
    optional: tuple[str, ...] = ()
    """Others that `read_row` takes where they are there."""
    row_formats: str = ""
    """What they hold, in words."""
    read_row: Callable[[dict], dict[str, object]] | None = None
    """From a row of the file to `subset`, `prompt`, `chosen` and `rejected`, where `rows.read_fields` does not do."""
    subset_column: str = "subset"
    subset_of: Callable[[dict], object] = lambda row: None
    """The subset of a row that cannot be read, where no column has it; no text where that is unknown."""
    hub_id: str | None = None
    """None: its rows are the user's own."""
    splits: tuple[str, ...] = ()
    """Those of the Hub that are read; of a local DatasetDict the first."""
    id_column: str = "id"
    path_help: str = ""
    """What `--NAME_path` takes, where that is not one file."""
    local_sources: Callable[[str, str], list[tuple[str, str]]] | None = None
    """From that path and its flag to (subset, source) of each, where every subset is a source of its own."""
    finish: Callable[["Dataset"], "Dataset"] = lambda rows: rows
    """Checks or groups the rows when all of them are read."""
    read: Callable[[str | None, int | None, ReadOptions], BenchmarkRows] | None = None
    """Takes the place of all this."""
    pairs_of: Callable[[ScoredRow, Mapping], list[ScoredRow]] | None = None
    """From a row that was scored, and its record of `EVALUATION_FEATURES`, to what is evaluated of it, where that is
    not the row itself."""
    answers: tuple[int | None, int | None] = (1, 1)
    """Right and wrong answers of a row; None is any number of them."""
    of_steps: bool = False
    """Whether a row is one answer, of which a process model scores the steps: `chosen` of a `ScoredRow` are the
    probabilities of its right steps, `rejected` those of its wrong ones."""
    other_answers: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    """The same of subsets that differ."""
    needs_rewards: tuple[str, ...] = ()
    """Subsets whose score is made of how far rewards are apart, which comparisons of two answers do not say."""

    # Figures
    subset_rows: Mapping[str, int] = field(default_factory=dict)
    """The published subsets with their rows."""
    published_name: Callable[[str], str] = str
    """From a row's subset to the published one that it is part of."""
    figures: Mapping[str, tuple[str, ...]]
    """The subsets that each figure is made of; none: all."""
    formula: Formula
    """From the means of `values`, and the number of values behind each, to figures."""
    values: Callable[[Rows], dict[str, NDArray]] = pair_verdicts
    """What the formula takes the means of, `(rows, ...)` by name; every row has been scored, and none is a tie."""
    value_rows: Callable[[NDArray], int] = len
    """How many rows are behind the values of one name."""
    subset_scores: Callable[[Means], Means] | None = lambda means: means
    """The scores of subsets that are means of `values`; None: the figures have them all."""
    is_right_or_wrong: bool = True
    """Whether the score of a subset is the share of its rows that came out right: then it has Wilson's interval."""
    row_result: Callable[[ScoredRow], object] = ScoredRow.is_right.fget
    """`correct` of a line of scores.jsonl."""
    check: Callable[["Benchmark", Rows], list[str]] = check_subsets
    """What is unknown, missing or of another size than published, in loud messages."""
    extras: Callable[[Rows], dict] = lambda rows: {}
    """What else stands in the benchmark's part of summary.json."""
    extras_tuned_on: Callable[[str, Rows], dict] | None = None
    """The same where something is tuned on one subset."""
    legacy_formula: Formula | None = None
    """The formula under `--legacy_xstest_weights`, where that changes anything."""
    parts: tuple[str, ...] = ()
    """The benchmarks whose rows a figure over several takes together."""

    # What is shown
    unit: str = "rows"
    chance: int = 50
    """Percent that guessing gives."""
    chance_note: str = ""
    sections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Headings, each with its subsets."""
    figure_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Headings, each with figures to see first; none: all figures."""
    figure_cells: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """{heading: {label: figure}} of the figures that `figure_groups` leaves out."""
    cells_title: str = "Domains and levels"
    """What these are, over their plot."""
    note: str = ""
    """A line under the title."""
    figures_table: Callable[[Mapping], list[str]] | None = None
    """The figures of its part of summary.json as lines, where the usual table does not do."""
    more_tables: Callable[[Mapping], list[tuple[str, list]]] = lambda part: []
    """Tables, with their titles, of what `extras` has put into its part of summary.json."""
    more_lines: Callable[[Mapping], list[str]] = lambda part: []
    """Sentences of it, which the page shows too where the tables are folded away."""
    record_lines: Callable[["Benchmark", Mapping], list[tuple[str, Mapping]]] = lines_by_figure

    @property
    def columns(self) -> Columns:
        names = dict.fromkeys(("prompt", *self.required, *self.optional, self.id_column))
        return Columns(self.required, tuple(names), self.row_formats)

    @property
    def path_flag(self) -> str:
        return f"--{self.name}_path"

    @property
    def is_published(self) -> bool:
        return self.hub_id is not None

    @property
    def is_pairs(self) -> bool:
        """Whether every row has one right and one wrong answer."""
        return self.answers == (1, 1)

    @property
    def main_figures(self) -> tuple[str, ...]:
        """The figures to see first; none: all."""
        return tuple(name for names in self.figure_groups.values() for name in names)

    @property
    def guessing(self) -> str:
        return f"guessing, {self.chance}%{self.chance_note}"

    def weighed(self, *, legacy_xstest_weights: bool) -> "Benchmark":
        """The benchmark under today's weights, or under the old ones where it has any."""
        is_legacy = legacy_xstest_weights and self.legacy_formula is not None
        return replace(self, formula=self.legacy_formula) if is_legacy else self

    def tuned_on(self, subset: str | None) -> "Benchmark":
        """The benchmark with what it tunes tuned on this subset, where it tunes anything."""
        if subset is None or self.extras_tuned_on is None:
            return self
        return replace(self, extras=partial(self.extras_tuned_on, subset))

    def num_answers(self, subset: str) -> tuple[int | None, int | None]:
        return self.other_answers.get(subset, self.answers)

    def formula_of(self, values: Mapping[str, Sequence]) -> Callable[[Means], dict[str, ArrayLike]]:
        """The formula for these `values`."""
        rows = {name: len(of_subset) for name, of_subset in values.items()}
        return lambda means: self.formula(means, rows)

    def figure_rows(self, subsets: Iterable[str]) -> dict[str, int]:
        """Rows behind each figure, from the subset of each row."""
        rows = Counter(map(self.published_name, subsets))
        return {figure: sum(rows[name] for name in names or rows) for figure, names in self.figures.items()}

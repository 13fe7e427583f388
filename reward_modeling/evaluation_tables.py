"""The figures of an evaluation as text, from its summary: the dictionary that stands in summary.json.

print(summary_tables(json.loads(Path("summary.json").read_text())))

A value of null is incomplete, and says so. The lower half has what report.html words and groups in the same way.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from reward_modeling.benchmarks import PRIOR_SETS
from reward_modeling.ranking_benchmarks import RM_BENCH_DOMAINS, RM_BENCH_LEVELS

WIDTH = 100
MOST_SUBSETS = 50
NAME_WIDTH = 44  # longer names are shortened, so that a line keeps to WIDTH
INCOMPLETE = "incomplete"
UNCOUNTED = "in no score"  # heading of the subsets that no figure is made of


def summary_tables(summary: Mapping) -> str:
    """Everything at once: warnings, the model, figures over several benchmarks, and a table for each benchmark."""
    parts = summary["benchmarks"]
    blocks = [_warnings(message for part in parts.values() for message in part["warnings"])]
    blocks.append(wrapped(model_line(summary)) + wrapped(scoring_line(summary)))
    blocks += [_body(name, part) for name, part in parts.items()]
    if summary["combined"]:
        rows = [["", "percent", "95% interval", "rows"]]
        rows += [[shortened(name), *_cells(row)] for name, row in summary["combined"].items()]
        blocks.append(["Over several benchmarks", *aligned(rows)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def benchmark_table(name: str, part: Mapping) -> str:
    """The table of one benchmark, its warnings first.

    Args:
        name: "rewardbench", "preference_test_sets", "rewardbench2", "rm_bench" or "pairs".
        part: what the summary holds under that name.
    """
    blocks = [_warnings(part["warnings"]), _body(name, part)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _warnings(messages: Iterable[str]) -> list[str]:
    return [line for message in messages for line in wrapped(f"WARNING: {message}", hanging=9)]


def wrapped(text: str, indent: int = 0, hanging: int = 4) -> list[str]:
    first, later = " " * indent, " " * (indent + hanging)
    return textwrap.wrap(shown(text), WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def _body(name: str, part: Mapping) -> list[str]:
    lines = [f"{shown(part['title'])}: {count(part['rows'])} {unit(name)}"]
    if part["sources"]:
        lines += wrapped(f"from {', '.join(map(str, part['sources']))}", indent=2)
    lines += _rm_bench_table(part["figures"]) if name == "rm_bench" else _figures_table(name, part)
    if pairs := part.get("pairs"):
        lines += ["", *(line for text in pair_lines(pairs) for line in wrapped(text, indent=2))]
        lines += ["", *_calibration_table(pairs["calibration"])]
    if report := part.get("data_report"):
        lines += ["", *(f"  {line}" for line in report.splitlines())]
    return lines


def _figures_table(name: str, part: Mapping) -> list[str]:
    """Figures, the last one set off, then the subsets under their headings, all in the same columns."""
    groups = grouped_subsets(name, part)
    subsets = [row for group in groups.values() for row in group.values()]
    tied = any(row.get("ties") for row in subsets)
    rows: list[list[str] | None] = [["", "percent", "95% interval", "rows", *(["ties"] if tied else [])]]
    figures = list(main_figures(part).items())
    for figure, row in figures[:-1]:
        rows.append([shortened(figure), *_cells(row, tied)])
    rows += [None] if len(figures) > 1 else []
    rows += [[shortened(figure), *_cells(row, tied)] for figure, row in figures[-1:]]
    for heading, group in groups.items():
        rows += [[""] * len(rows[0]), [shortened(heading or "subsets"), *[""] * (len(rows[0]) - 1)]]
        rows += [[f"  {shortened(subset)}", *_cells(row, tied)] for subset, row in group.items()]
    return [*aligned(rows), *left_out(part)]


def left_out(part: Mapping) -> list[str]:
    """That there are more subsets than are shown."""
    more = len(part["subsets"]) - MOST_SUBSETS
    return [f"  the {MOST_SUBSETS} largest subsets; {more:,} more in summary.json"] if more > 0 else []


def _cells(row: Mapping, tied: bool = False) -> list[str]:
    ties = [count(row["ties"]) if row.get("ties") else ""] if tied else []
    return [percent(row["value"]), interval(row), count(row["rows"]), *ties]


def _rm_bench_table(figures: Mapping) -> list[str]:
    """Domains by levels, each with its interval."""
    rows: list[list[str] | None] = [["", *RM_BENCH_LEVELS, "overall", "prompts"]]
    for domain in RM_BENCH_DOMAINS:
        found = [figures[f"{domain} {level}"] for level in RM_BENCH_LEVELS] + [figures[domain]]
        rows.append([domain, *map(_with_interval, found), count(figures[domain]["rows"])])
    found = [figures[name] for name in (*RM_BENCH_LEVELS, "overall")]
    rows += [None, ["overall", *map(_with_interval, found), count(figures["overall"]["rows"])]]
    return [*aligned(rows), "  percent (95% interval); hard: the chosen answer is the less styled one"]


def _calibration_table(bins: Sequence[Mapping]) -> list[str]:
    """One column for each bin of confidence; a bin without pairs shows dashes."""
    filled = [bool(one["rows"]) for one in bins]

    def line(label: str, cells: Iterable[str]) -> list[str]:
        return [label, *(cell if there else "-" for cell, there in zip(cells, filled, strict=True))]

    rows = [
        ["confidence", *(f"{100 * one['low']:.0f}-{100 * one['high']:.0f}" for one in bins)],
        line("  its mean", (percent(one["confidence"]) for one in bins)),
        line("right", (percent(one["value"]) for one in bins)),
        line("pairs", (count(one["rows"]) for one in bins)),
    ]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str] | None]) -> list[str]:
    """The first column to the left, the others to the right; None is a rule."""
    cells = [row for row in rows if row is not None]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    rule = "  " + "-" * (sum(widths) + 2 * (len(widths) - 1))
    return [rule if row is None else _line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    others = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join(["", f"{row[0]:<{widths[0]}}", *others]).rstrip()


def _with_interval(row: Mapping) -> str:
    return percent(row["value"]) if row["value"] is None else f"{percent(row['value'])} ({interval(row)})"


# What the report shares


def main_figures(part: Mapping) -> dict[str, Mapping]:
    """The figures in the order they are shown, the one that sums up the benchmark last."""
    figures = part["figures"] or {"accuracy": part["pairs"]["accuracy"]}
    return dict(sorted(figures.items(), key=lambda item: item[0] == "overall"))


def headline(part: Mapping) -> tuple[str, Mapping]:
    """The figure that sums up a benchmark, with its name."""
    figures = main_figures(part)
    name = "overall" if "overall" in figures else list(figures)[-1]
    return name, figures[name]


def grouped_subsets(name: str, part: Mapping) -> dict[str, dict[str, Mapping]]:
    """The subsets under the figure they belong to; those that are a figure themselves are left out.

    Returns:
        {heading: {subset: row}}; the heading is "" where the benchmark has no figures of several subsets.
    """
    left = {subset: row for subset, row in part["subsets"].items() if subset not in part["figures"]}
    sections = part.get("sections") or {}
    if name == "preference_test_sets":
        sections = {"Prior Sets": PRIOR_SETS}
    groups = {
        heading: {subset: left.pop(subset) for subset in subsets if subset in left}
        for heading, subsets in sections.items()
    }
    if len(left) > MOST_SUBSETS:  # pairs may have a source each
        largest = sorted(left, key=lambda subset: -left[subset]["rows"])[:MOST_SUBSETS]
        left = {subset: left[subset] for subset in left if subset in set(largest)}
    groups[UNCOUNTED if sections or part["figures"] else ""] = left
    return {heading: group for heading, group in groups.items() if group}


def model_line(summary: Mapping) -> str:
    """The model in one line: path, class, and how it was run."""
    model = summary["model"]
    revision = f" at {model['revision']}" if model["revision"] else ""
    return (
        f"{model['name_or_path']}{revision}: {model['class']}, {model['dtype']}, "
        f"max_length {count(model['max_length'])}, batching {model['batching']}"
    )


def scoring_line(summary: Mapping) -> str:
    """What was scored in one line, and what was cut."""
    scoring = summary["scoring"]
    seconds = "unknown time" if scoring["seconds"] is None else f"{scoring['seconds']:,.1f} s"
    line = (
        f"{count(scoring['conversations'])} conversations ({count(scoring['distinct'])} distinct, "
        f"{count(scoring['tokens'])} tokens) in {seconds}, processes: {count(scoring['processes'])}"
    )
    if scoring["cut"]:
        line += f"; {count(scoring['cut'])} cut to max_length, by {count(scoring['cut_tokens'])} tokens in all"
    return line


def pair_lines(pairs: Mapping) -> list[str]:
    """Accuracy over all pairs, the longer answer as a judge, accuracy by length, calibration and margins."""
    accuracy, longer, margins = pairs["accuracy"], pairs["longer_wins"], pairs["margins"]
    tied = "tie" if accuracy["ties"] == 1 else "ties"
    ties = f", {count(accuracy['ties'])} {tied} counted as wrong" if accuracy["ties"] else ", no ties"
    coins = f", {count(longer['ties'])} equally long count as half right" if longer["ties"] else ""
    groups = (f"{name} {share(row)} ({count(row['rows'])})" for name, row in pairs["by_length"].items())
    error = pairs["calibration_error"]
    return [
        f"all rows, unweighted: {share(accuracy)} right ({interval(accuracy)}){ties}",
        f"always the longer answer: {share(longer)} right ({interval(longer)}){coins}",
        f"by length: {', '.join(groups)}",
        f"calibration error: {INCOMPLETE if error is None else f'{100 * error:.1f} points'}; margin: "
        f"mean {number(margins['mean'])}, median {number(margins['median'])}, "
        f"standard deviation {number(margins['standard_deviation'])}",
    ]


def shown(text: object) -> str:
    """Text from outside on one line: what would move the cursor is replaced."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def shortened(name: object, width: int = NAME_WIDTH) -> str:
    """A name as `shown`, cut in the middle where it is longer than `width`."""
    line = shown(name)
    end = (width - 1) // 2
    return line if len(line) <= width else f"{line[: width - 1 - end]}…{line[-end:]}"


def percent(value: float | None) -> str:
    """0.9604 as 96.0."""
    return INCOMPLETE if value is None else f"{100 * value:.1f}"


def value_or_reason(row: Mapping) -> str:
    """96.0, or why there is no value: a count of pairs of which there are none lacks nothing, a figure does."""
    return "none" if row["rows"] == 0 and "ties" in row else percent(row["value"])


def share(row: Mapping) -> str:
    """96.0%."""
    return value_or_reason(row) + ("" if row["value"] is None else "%")


def interval(row: Mapping, low: str = "low", high: str = "high") -> str:
    """94.0-98.0; empty where there is no value either."""
    if row["value"] is None:
        return ""
    if row[low] is None or row[high] is None:
        return INCOMPLETE
    return f"{percent(row[low])}-{percent(row[high])}"


def count(value: float | None) -> str:
    """12,345."""
    return "-" if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """A reward to three digits."""
    return INCOMPLETE if value is None else f"{value:.3g}"


def unit(name: str) -> str:
    """What a row of this benchmark is."""
    return {"rm_bench": "prompts", "pairs": "pairs"}.get(name, "rows")

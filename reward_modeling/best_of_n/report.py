"""The report of best_of_n.py as text, from the dictionary that stands in OUTPUT.report.json.

print("\n".join(report_lines(report, "pairs.jsonl")))
"""

from collections.abc import Iterable, Iterator, Mapping

from reward_modeling.best_of_n.dropped import dropped_rows
from reward_modeling.best_of_n.majority import EXACT, SHUFFLES
from reward_modeling.best_of_n.step_report import step_heading, step_lines, step_notes, step_tables
from reward_modeling.best_of_n.win_report import margin_warning, plural_of_reward, reward_name, win_notes
from reward_modeling.display.text import Rows, align, count, interval, make_printable, number, percent, shorten, wrap

MOST_SIZES = 12  # n with a line of their own on the screen; the report has all
TRUTH_NAMES = {"best": "best of n", "random": "at random", "majority": "majority", "oracle": "oracle"}


def report_lines(report: Mapping, output: str) -> list[str]:
    """All of it."""
    blocks = [
        wrap(head_text(report)),
        [*wrap(reward_heading(report)), *align(reward_table(report)), *wrapped(curve_notes(report), indent=2)],
        truth_lines(report),
        lines_of_steps(report),
        wrapped(selected_texts(report)),
        model_lines(report),
        dropped_table(report),
        wrapped(f"WARNING: {text}" for text in warning_texts(report)),
        [written_line(report, output)],
    ]
    return [line for block in blocks if block for line in (*block, "")][:-1]


def wrapped(texts: Iterable[str], indent: int = 0) -> list[str]:
    """Sentences as lines of the screen."""
    return [line for text in texts for line in wrap(text, indent=indent)]


# --- what there was -------------------------------------------------------------------------------------------


def share_between(row: Mapping) -> str:
    """A share with its interval: 68.9% (63.6-74.0)."""
    return f"{percent(row['value'])}% ({interval(row)})"


def head_text(report: Mapping) -> str:
    """What was read."""
    names = [make_printable(entry["path"]) for entry in report["inputs"]]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    without = report["answers"] - report["scored_answers"]
    return (
        f"{shown}: {count(report['rows_read'])} rows, {count(report['prompts'])} prompts, "
        f"{count(report['answers'])} answers" + (f", {count(without)} of them without a reward" if without else "")
    )


def models_text(report: Mapping) -> str:
    """How far the answers of several models are to the same prompts."""
    found = report["prompts_by_models"]
    named = "; ".join(f"of {models} model{'s' * (models != '1')}: {count(number)}" for models, number in found.items())
    return f"Prompts with answers {named}."


def warning_texts(report: Mapping) -> list[str]:
    """What a person should look at."""
    texts = []
    found = report["prompts_by_models"]
    if any(entry["model"] is not None for entry in report["inputs"]) and not any(int(models) > 1 for models in found):
        texts.append(
            "--mix: expected answers of several models to the same prompts, found no prompt that two models have "
            "answered. Choices are among the answers of one model each. Are the prompts written alike?"
        )
    columns = report["columns"]
    texts += margin_warning(report, writes_margin=report["write_margin"])
    texts += [
        f"{name}: expected a value for each answer, found something else in {count(entry['rows'])} rows, the first at "
        f"{entry['first']}. Their answers count as without one."
        for name, entry in columns["unread"].items()
    ]
    if unread := columns["unread_truths"]["answers"]:
        texts.append(
            f"{columns['truth']}: expected true, false or a number from 0 to 1, found something else for "
            f"{count(unread)} answers, the first at {columns['unread_truths']['first']}. They count as without one."
        )
    return texts


def written_line(report: Mapping, output: str) -> str:
    """What was written."""
    selected = report["selected"]
    unit = "pairs" if report["select"] == "dpo_pairs" else "answers"
    return f"{count(selected['rows'])} {unit} of {count(selected['prompts'])} prompts written to {output}"


# --- best of n ------------------------------------------------------------------------------------------------


def shown_sizes(rows: list[Mapping]) -> list[Mapping]:
    """The lines that a screen has room for: powers of two and the last one, where there are many."""
    if len(rows) <= MOST_SIZES:
        return rows
    return [row for row in rows if row["n"] & (row["n"] - 1) == 0 or row is rows[-1]]


def between(row: Mapping) -> str:
    """The ends of an interval that may be below zero: -0.12 to 0.3; of one prompt there is none."""
    return "-" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"


def between_points(row: Mapping) -> str:
    """The same of differences of shares, in points."""
    return "-" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def reward_heading(report: Mapping) -> str:
    """What the table of rewards shows."""
    of = f"{plural_of_reward(report)} ({report['columns']['chosen_by']})"
    return f"The greatest of n {of}, a mean over all subsets and prompts"


def reward_table(report: Mapping, *, all_sizes: bool = False) -> Rows:
    """The curve of the reward."""
    rows = report["curve"] if all_sizes else shown_sizes(report["curve"])
    table: Rows = [("n", "prompts", reward_name(report), "95% interval", "gain over one", "95% interval")]
    for row in rows:
        reward, gain = row["reward"], row["gain"]
        gained = ("", "") if row["n"] == 1 else (number(gain["value"]), between(gain))
        table.append((str(row["n"]), count(reward["prompts"]), number(reward["value"]), between(reward), *gained))
    return table


def curve_notes(report: Mapping) -> list[str]:
    """What to know of the table of rewards."""
    return [*win_notes(report), *_fewer_prompts(report["curve"])]


def _fewer_prompts(rows: list[Mapping]) -> list[str]:
    """Where lines are of other prompts."""
    fewer = next((row for row in rows if row["reward"]["prompts"] < rows[0]["reward"]["prompts"]), None)
    if fewer is None:
        return []
    return [
        f"From n = {fewer['n']} on these are the prompts that have so many answers; a gain is over the same prompts."
    ]


def truth_heading(report: Mapping) -> str:
    return f"Right answers ({report['columns']['truth']}), percent: the one with the greatest reward, and others"


def truth_lines(report: Mapping) -> list[str]:
    """How often the answer is right that is taken."""
    if report["truth"] is None:
        return []
    return [*wrap(truth_heading(report)), *align(truth_table(report)), *wrapped(truth_notes(report), indent=2)]


def truth_table(report: Mapping, *, all_sizes: bool = False) -> Rows:
    """The curve of the truth."""
    rows = report["truth"]["rows"] if all_sizes else shown_sizes(report["truth"]["rows"])
    ways = [name for name in TRUTH_NAMES if name != "best" and rows and name in rows[0]]
    head = ["n", "prompts", "best of n", "95% interval", *(TRUTH_NAMES[name] for name in ways)]
    table: Rows = [[*head, "best less random", "95% interval"]]
    for row in rows:
        best, over = row["best"], row["best_less"]["random"]
        gained = ("", "") if row["n"] == 1 else (f"{100 * over['value']:.1f}", between_points(over))
        others = (percent(row[name]["value"]) for name in ways)
        table.append((str(row["n"]), count(best["prompts"]), percent(best["value"]), interval(best), *others, *gained))
    return table


def truth_notes(report: Mapping) -> list[str]:
    """What is not there, and what the last line says of a majority."""
    rows = report["truth"]["rows"] if report["truth"] else []
    if not rows:
        return []
    last, texts = rows[-1], []
    if left_out := report["scored_answers"] - report["truth"]["answers"]:
        texts.append(f"{count(left_out)} answers whose truth is not known are left out here.")
    if "majority" not in last:
        return [*texts, "No majority: it needs the final answer of each answer, which --answer_column names."]
    over = last["best_less"]["majority"]
    return [
        *texts,
        f"Best of {last['n']} less the majority of {last['n']}: {100 * over['value']:.1f} points "
        f"({between_points(over)}). Equally frequent final answers are equally likely to be taken; up to {EXACT} "
        f"answers the mean is over all subsets, beyond over {SHUFFLES} random orders of each prompt's answers.",
    ]


def lines_of_steps(report: Mapping) -> list[str]:
    """What each aggregation of the steps is worth."""
    if not report["steps"]:
        return []
    steps, rows = report["steps"], shown_sizes(report["steps"]["rows"])
    return [*wrap(step_heading(steps)), *step_lines(rows), *wrapped(step_notes(steps), indent=2)]


# --- what was taken -------------------------------------------------------------------------------------------


def selected_texts(report: Mapping) -> list[str]:
    """Lengths in characters, gaps, and what became of the rows' own labels; a sentence each."""
    lengths, selected = report["lengths"], report["selected"]
    correlation, chosen, difference = lengths["reward_and_length"], lengths["chosen"], lengths["difference"]
    found = "none can be computed" if correlation["value"] is None else number(correlation["value"])
    ends = "" if correlation["low"] is None else f" ({between(correlation)})"
    texts = [models_text(report)] if len(report["models"]) > 1 else []
    name = reward_name(report).capitalize()
    texts.append(f"{name} and length in characters, correlation among the answers of a prompt: {found}{ends}.")
    if chosen["value"] is not None:
        other = "rejected" if "rejected" in lengths else "usable"
        more = f"{difference['value']:+.3g} ({between(difference)})"
        text = f"Chosen answers: {chosen['value']:,.0f} characters; {other} ones {lengths[other]['value']:,.0f}: {more}"
        longer = lengths.get("longer_chosen")
        texts.append(f"{text}; the longer one is chosen in {share_between(longer)}." if longer else f"{text}.")
    if gaps := selected["gaps"]:
        named = ", ".join(f"{name} {number(value)}" for name, value in gaps.items())
        texts.append(f"Gap between chosen and rejected, of {plural_of_reward(report)}: {named}.")
    if selected["tied"]:
        texts.append(
            f"In {count(selected['tied'])} of {count(selected['prompts'])} prompts several answers have the reward of "
            "the best one that was chosen; which of them it is was drawn."
        )
    if selected["labelled"]:
        turned, share = count(selected["turned"]), percent(selected["turned"] / selected["labelled"])
        texts.append(
            f"Of {count(selected['labelled'])} pairs whose rows say which answer is chosen, {turned} ({share}%) are "
            "written the other way round, as the rewards say."
        )
    return texts


def model_lines(report: Mapping) -> list[str]:
    """Whose answers were taken, where the rows say whose they are."""
    return align(model_table(report)) if report["models"] else []


def model_table(report: Mapping) -> Rows:
    is_pairs = report["select"] == "dpo_pairs"
    head = [
        "model",
        "answers",
        "percent",
        f"mean {reward_name(report)}",
        "95% interval",
        "chosen",
        "percent",
        "95% interval",
    ]
    table: Rows = [[*head, "rejected"] if is_pairs else head]
    for name, row in report["models"].items():
        line = [shorten(name), count(row["answers"]), percent(row["share_of_answers"]), number(row["reward"]["value"])]
        chosen = row["share_chosen"]
        line += [between(row["reward"]), _whole(row["chosen"]), percent(chosen["value"]), interval(chosen)]
        table.append([*line, _whole(row["rejected"])] if is_pairs else line)
    return table


def _whole(number_of: float) -> str:
    """A number of answers, of which some may be parts: 429, 12.5."""
    return f"{number_of:,.1f}".removesuffix(".0")


def dropped_table(report: Mapping) -> list[str]:
    """Why something was not used."""
    rows = dropped_rows(report["dropped"])
    return align([[make_printable(cell) for cell in row] for row in rows], words=(0, 2, 3)) if len(rows) > 1 else []


def tables(report: Mapping) -> Iterator[tuple[str, Rows]]:
    """For the page: every table with its title."""
    yield reward_heading(report), reward_table(report, all_sizes=True)
    if report["truth"]:
        yield truth_heading(report), truth_table(report, all_sizes=True)
    if report["steps"]:
        yield from step_tables(report["steps"])
    if report["models"]:
        yield "Models", model_table(report)

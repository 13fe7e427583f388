"""A linter's summary as tables: for the screen, and the same rows for lint.html.

print(summary_text(summary))
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from reward_modeling.data.report import REASON_WORDS
from reward_modeling.display.text import (
    WIDTH,
    Rows,
    align,
    count,
    interval,
    make_printable,
    number,
    percent,
    shorten,
    wrap,
)
from reward_modeling.preference_sets.decontamination import EXACT, RUNS

HEADLINE_RULES = ("characters", "markdown", "refusal")  # shown even where no pair differs in them
SHOWN_ON_SCREEN = 10  # sources
SAMPLE_LINES = 8  # of each text of a pair on the screen
LENGTHS = ("mean", "p5", "p25", "median", "p75", "p95", "p99", "max")


def summary_text(summary: Mapping, shown_samples: int = 2) -> str:
    """Everything for the screen: the findings last, so that they stand above the prompt."""
    blocks = [f"{make_printable(summary['path'])}: {headline(summary)}"]
    blocks += ["\n".join([title, *align(rows)]) for title, rows in tables(summary, SHOWN_ON_SCREEN)]
    blocks += _samples(summary, shown_samples)
    blocks.append("\n".join(_findings(summary)))
    return "\n\n".join(blocks)


def headline(summary: Mapping) -> str:
    """What there is, in one line."""
    rows, prompts = summary["rows"], summary["prompts"]
    return f"{count(rows['rows_read'])} rows read, {count(rows['kept'])} kept, {count(prompts['distinct'])} prompts"


def tables(summary: Mapping, most_sources: int) -> Iterator[tuple[str, Rows]]:
    """Every table that has something to show, with its title.

    Args:
        most_sources: of the table of sources.
    """
    prompts, lengths, tokens = summary["prompts"], summary["lengths"], summary["lengths"]["tokens"]
    yield "What was read", _read_rows(summary)
    yield (
        "Prompts",
        _quantile_rows({"pairs per prompt": prompts["pairs_per_prompt"], "turns of the user": summary["turns"]}),
    )
    sides = ("prompt", "chosen", "rejected")
    yield "Lengths in characters", _quantile_rows({side: lengths["characters"][side] for side in sides})
    if tokens:
        part = f"all {count(tokens['of'])}" if tokens["pairs"] == tokens["of"] else f"{count(tokens['pairs'])} random"
        title = f"Lengths in tokens of {part} pairs, texts alone, without the chat template"
        yield title, _quantile_rows({side: tokens[side] for side in sides})
    yield "Do the pairs agree with each other", _consistency_rows(summary)
    if summary["scores"]["pairs"] or summary["scores"]["margins"]:
        yield "Scores", _score_rows(summary["scores"])
    yield "Replies, percent of each side", _reply_rows(summary["replies"])
    yield "What one number alone gets right (equal ones count as half)", _rule_rows(summary["rules"])
    if summary["overlap"]:
        yield "Prompts of benchmarks", _overlap_rows(summary["overlap"])
    yield "Sources", _source_rows(summary["sources"], most_sources)


def _read_rows(summary: Mapping) -> Rows:
    """Rows kept, and dropped for each reason."""
    rows, kinds = summary["rows"], summary["kinds"]
    counts = [("kept", rows["kept"], None)]
    counts += [(REASON_WORDS[name], row["count"], row["first_where"]) for name, row in rows["dropped"].items()]
    names = {
        "plain_texts": "of these plain texts",
        "transcripts": "of these transcripts in plain texts",
        "transcripts_with_other_prompts": "of these transcripts whose prompts differ",
    }
    counts += [(words, kinds[kind], None) for kind, words in names.items() if kinds[kind]]
    read = max(rows["rows_read"], 1)
    cells = ((words, count(value), percent(value / read), _place(first)) for words, value, first in counts)
    return [("", "rows", "percent", "first"), *cells]


def _quantile_rows(quantiles: Mapping[str, Mapping]) -> Rows:
    rows = ((name, *(_quantile(values[key]) for key in LENGTHS)) for name, values in quantiles.items())
    return [("", *LENGTHS), *rows]


def _quantile(value: float | None) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else count(value)


def _consistency_rows(summary: Mapping) -> Rows:
    """Pairs that are there twice, contradict each other or go in circles."""
    pairs = max(summary["rows"]["kept"], 1)
    names = {
        "duplicates": "the same pair stands there before",
        "same_reply": "both replies are the same",
        "contradictions": "contradicted: the opposite is there too",
        "cycles": "in a circle of three or more replies",
    }
    rows: Rows = [("", "pairs", "percent", "prompts", "first")]
    for name, words in names.items():
        part = summary[name]
        counts = count(part["pairs"]), percent(part["pairs"] / pairs), count(part["prompts"])
        rows.append((words, *counts, _place(part["first"])))
    return rows


def _score_rows(scores: Mapping) -> Rows:
    rows: Rows = [
        ("", "pairs", "first"),
        ("with both scores", count(scores["pairs"]), ""),
        ("equal scores", count(scores["equal"]), _place(scores["first_equal"])),
        ("the rejected one higher", count(scores["rejected_higher"]), _place(scores["first_rejected_higher"])),
    ]
    if scores["pairs"]:
        difference = scores["difference"]
        rows.append(("difference: mean, median", f"{number(difference['mean'])}, {number(difference['median'])}", ""))
    if scores["margins"]:
        rows.append(("with a margin", count(scores["margins"]), ""))
        rows.append(("negative margin", count(scores["negative_margins"]), _place(scores["first_negative_margin"])))
    return rows


def _reply_rows(replies: Mapping) -> Rows:
    names = {
        "unfinished": "without an end (a guess)",
        "cut": "broken off in the middle (a guess)",
        "refusal": "a refusal (by its words)",
        "markdown": "with markdown",
    }
    rows: Rows = [("", "chosen", "95% interval", "rejected", "95% interval")]
    for name, words in names.items():
        chosen, rejected = (replies[side][name] for side in ("chosen", "rejected"))
        rows.append((words, _percent(chosen), interval(chosen), _percent(rejected), interval(rejected)))
    return rows


def _rule_rows(rules: Mapping) -> Rows:
    """For each number: how often the greater one is preferred, and what a judge by it reaches over all pairs."""
    rows: Rows = [
        ("more of", "pairs that differ", "preferred", "95% interval", "right overall", "95% interval", "takes")
    ]
    for name, rule in rules.items():
        greater, accuracy = rule["greater_preferred"], rule["accuracy"]
        if greater["rows"] or name in HEADLINE_RULES:
            takes = "" if greater["value"] is None else "more" if rule["takes"] == "greater" else "less"
            figures = _percent(greater), interval(greater), _percent(accuracy), interval(accuracy)
            rows.append((name, count(greater["rows"]), *figures, takes))
    return rows


def _overlap_rows(overlap: Sequence[Mapping]) -> Rows:
    rows: Rows = [("benchmark", "its prompts", "prompts here", "the same", "13 words", "pairs here", "first")]
    for part in overlap:
        counts = (
            part["prompts"],
            part["prompts_found"],
            *(part[kind]["prompts"] for kind in (EXACT, RUNS)),
            part["pairs"],
        )
        rows.append((shorten(part["benchmark"]), *map(count, counts), _place(part["first"])))
    return rows


def _source_rows(sources: Mapping, most: int) -> Rows:
    rows: Rows = [("source", "pairs", "percent", "characters", "longer preferred", "95% interval")]
    listed, others = sources["listed"][:most], sources["listed"][most:]
    for source in listed:
        name = "(no source)" if source["source"] is None else shorten(source["source"])
        longer, characters = source["longer_preferred"], f"{source['mean_characters']:,.0f}"
        rows.append(
            (name, count(source["pairs"]), percent(source["share"]), characters, _percent(longer), interval(longer))
        )
    pairs = sources["pairs_of_others"] + sum(source["pairs"] for source in others)
    if pairs:
        rows.append((f"({count(sources['distinct'] - len(listed))} others)", count(pairs), "", "", "", ""))
    return rows


def _percent(row: Mapping) -> str:
    return "-" if row["value"] is None else percent(row["value"])


def _place(where: str | None) -> str:
    """Where a row stands, without the folders."""
    return "" if where is None else shorten(where.rpartition("/")[2])


# --- the screen alone ---------------------------------------------------------------------------------------------


def _findings(summary: Mapping) -> list[str]:
    if not summary["findings"]:
        return ["Findings: none."]
    lines = ["Findings"]
    for finding in summary["findings"]:
        first = f" First: {finding['first']}." if finding["first"] else ""
        lines += wrap(f"{finding['level'].upper()}: {finding['message']}{first}", indent=2)
    return lines


def _samples(summary: Mapping, limit: int) -> Iterator[str]:
    """Some pairs side by side; the others stand in lint.html."""
    half = WIDTH // 2 - 2
    for place, sample in enumerate(summary["samples"][:limit], 1):
        asked = " ".join(message["content"] for message in sample["prompt"])
        sides = (["chosen", *_lines(sample["chosen"], half - 2)], ["rejected", *_lines(sample["rejected"], half - 2)])
        lines = [f"Pair {place} of {len(summary['samples'])} drawn at random, {_place(sample['where'])}"]
        lines += [f"  {line}" for line in _lines(asked, WIDTH - 2)]
        lines += [f"  {chosen:<{half}}  {rejected}".rstrip() for chosen, rejected in zip_longest(*sides, fillvalue="")]
        yield "\n".join(lines)


def _lines(text: str, width: int) -> list[str]:
    start = make_printable(" ".join(text[: 2 * SAMPLE_LINES * width].split()))
    return textwrap.wrap(start, width, max_lines=SAMPLE_LINES, placeholder=" …")

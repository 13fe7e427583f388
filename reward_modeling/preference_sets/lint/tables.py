"""A linter's summary as tables: for the screen, and the same rows for lint.html.

print(summary_text(summary))
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from reward_modeling.data.report import REASON_WORDS, DropReason
from reward_modeling.display.text import WIDTH, aligned, count, interval, number, percent, shortened, shown, wrapped
from reward_modeling.preference_sets.decontamination import EXACT, RUNS

Rows = list[list[str]]  # the first one is the head
HEADLINE_RULES = ("characters", "markdown", "refusal")  # shown even where no pair differs in them
SHOWN_ON_SCREEN = 10  # sources
SAMPLE_LINES = 8  # of each text of a pair on the screen
LENGTHS = ("mean", "p5", "p25", "median", "p75", "p95", "p99", "max")


def summary_text(summary: Mapping, shown_samples: int = 2) -> str:
    """Everything for the screen: the findings last, so that they stand above the prompt."""
    blocks = [f"{shown(summary['path'])}: {headline(summary)}"]
    blocks += ["\n".join([title, *aligned(rows)]) for title, rows in tables(summary)]
    blocks += _samples(summary, shown_samples)
    blocks.append("\n".join(_findings(summary)))
    return "\n\n".join(blocks)


def headline(summary: Mapping) -> str:
    """What there is, in one line."""
    rows, prompts = summary["rows"], summary["prompts"]
    return f"{count(rows['rows_read'])} rows read, {count(rows['kept'])} kept, {count(prompts['distinct'])} prompts"


def tables(summary: Mapping) -> Iterator[tuple[str, Rows]]:
    """Every table that has something to show, with its title."""
    yield "What was read", read_rows(summary)
    yield "Prompts", prompt_rows(summary)
    yield "Lengths in characters", length_rows(summary["lengths"]["characters"])
    if tokens := summary["lengths"]["tokens"]:
        yield token_title(tokens), length_rows(tokens)
    yield "Do the pairs agree with each other", consistency_rows(summary)
    if summary["scores"]["pairs"] or summary["scores"]["margins"]:
        yield "Scores", score_rows(summary["scores"])
    yield "Replies, percent of each side", reply_rows(summary["replies"])
    yield "What one number alone gets right (equal ones count as half)", rule_rows(summary["rules"])
    if summary["overlap"]:
        yield "Prompts of benchmarks", overlap_rows(summary["overlap"])
    yield "Sources", source_rows(summary["sources"], SHOWN_ON_SCREEN)


def token_title(tokens: Mapping) -> str:
    part = f"all {count(tokens['of'])}" if tokens["pairs"] == tokens["of"] else f"{count(tokens['pairs'])} random"
    return f"Lengths in tokens of {part} pairs, texts alone, without the chat template"


def read_rows(summary: Mapping) -> Rows:
    """Rows kept, and dropped for each reason."""
    rows = summary["rows"]
    read = max(rows["rows_read"], 1)
    table = [["", "rows", "percent", "first"], ["kept", count(rows["kept"]), percent(rows["kept"] / read), ""]]
    for reason, dropped in rows["dropped"].items():
        words = REASON_WORDS[DropReason(reason)]
        table.append([words, count(dropped["count"]), percent(dropped["count"] / read), _place(dropped["first_where"])])
    kinds = summary["kinds"]
    names = {
        "plain_texts": "of these plain texts",
        "transcripts": "of these transcripts in plain texts",
        "transcripts_with_other_prompts": "of these transcripts whose prompts differ",
    }
    for kind, words in names.items():
        if kinds[kind]:
            table.append([words, count(kinds[kind]), percent(kinds[kind] / read), ""])
    return table


def prompt_rows(summary: Mapping) -> Rows:
    """Pairs per prompt and turns."""
    prompts, turns = summary["prompts"], summary["turns"]
    table = [["", *LENGTHS]]
    table.append(["pairs per prompt", *_quantiles(prompts["pairs_per_prompt"])])
    table.append(["turns of the user", *_quantiles(turns)])
    return table


def length_rows(lengths: Mapping) -> Rows:
    return [["", *LENGTHS], *([name, *_quantiles(lengths[name])] for name in ("prompt", "chosen", "rejected"))]


def _quantiles(found: Mapping) -> list[str]:
    values = (found[name] for name in LENGTHS)
    return ["-" if value is None else f"{value:,.1f}" if isinstance(value, float) else count(value) for value in values]


def consistency_rows(summary: Mapping) -> Rows:
    """Pairs that are there twice, contradict each other or go in circles."""
    pairs = max(summary["rows"]["kept"], 1)
    names = {
        "duplicates": "the same pair stands there before",
        "same_reply": "both replies are the same",
        "contradictions": "contradicted: the opposite is there too",
        "cycles": "in a circle of three or more replies",
    }
    table = [["", "pairs", "percent", "prompts", "first"]]
    for name, words in names.items():
        part = summary[name]
        share = percent(part["pairs"] / pairs)
        table.append([words, count(part["pairs"]), share, count(part["prompts"]), _place(part["first"])])
    return table


def score_rows(scores: Mapping) -> Rows:
    table = [["", "pairs", "first"]]
    table.append(["with both scores", count(scores["pairs"]), ""])
    table.append(["equal scores", count(scores["equal"]), _place(scores["first_equal"])])
    wrong = _place(scores["first_rejected_higher"])
    table.append(["the rejected one higher", count(scores["rejected_higher"]), wrong])
    if scores["pairs"]:
        difference = scores["difference"]
        table.append(["difference: mean, median", f"{number(difference['mean'])}, {number(difference['median'])}", ""])
    if scores["margins"]:
        table.append(["with a margin", count(scores["margins"]), ""])
        negative = count(scores["negative_margins"])
        table.append(["negative margin", negative, _place(scores["first_negative_margin"])])
    return table


def reply_rows(replies: Mapping) -> Rows:
    table = [["", "chosen", "95% interval", "rejected", "95% interval"]]
    names = {
        "unfinished": "without an end (a guess)",
        "cut": "broken off in the middle (a guess)",
        "refusal": "a refusal (by its words)",
        "markdown": "with markdown",
    }
    for name, words in names.items():
        sides = [replies[side][name] for side in ("chosen", "rejected")]
        table.append([words, *(cell for side in sides for cell in (_percent(side), interval(side)))])
    return table


def rule_rows(rules: Mapping) -> Rows:
    """For each number: how often the greater one is preferred, and what a judge by it reaches over all pairs."""
    table = [["more of", "pairs that differ", "preferred", "95% interval", "right overall", "95% interval", "takes"]]
    for name, rule in rules.items():
        greater, accuracy = rule["greater_preferred"], rule["accuracy"]
        if not greater["rows"] and name not in HEADLINE_RULES:
            continue
        takes = "" if greater["value"] is None else "more" if rule["takes"] == "greater" else "less"
        counted = [count(greater["rows"]), _percent(greater), interval(greater)]
        table.append([name, *counted, _percent(accuracy), interval(accuracy), takes])
    return table


def overlap_rows(overlap: Sequence[Mapping]) -> Rows:
    table = [["benchmark", "its prompts", "prompts here", "the same", "13 words", "pairs here", "first"]]
    for part in overlap:
        kinds = [count(part[kind]["prompts"]) for kind in (EXACT, RUNS)]
        found = [count(part["prompts"]), count(part["prompts_found"]), *kinds, count(part["pairs"])]
        table.append([shortened(part["benchmark"]), *found, _place(part["first"])])
    return table


def source_rows(sources: Mapping, limit: int) -> Rows:
    table = [["source", "pairs", "percent", "characters", "longer preferred", "95% interval"]]
    listed = sources["listed"][:limit]
    for one in listed:
        name = "(no source)" if one["source"] is None else shortened(one["source"])
        longer = one["longer_preferred"]
        figures = [count(one["pairs"]), percent(one["share"]), f"{one['mean_characters']:,.0f}"]
        table.append([name, *figures, _percent(longer), interval(longer)])
    others = sources["listed"][limit:]
    pairs = sources["pairs_of_others"] + sum(one["pairs"] for one in others)
    if pairs:
        table.append([f"({count(sources['distinct'] - len(listed))} others)", count(pairs), "", "", "", ""])
    return table


def _percent(found: Mapping) -> str:
    return "-" if found["value"] is None else percent(found["value"])


def _place(where: str | None) -> str:
    """Where a row stands, without the folders."""
    return "" if where is None else shortened(where.rpartition("/")[2])


# --- the screen alone ---------------------------------------------------------------------------------------------


def _findings(summary: Mapping) -> list[str]:
    found = summary["findings"]
    if not found:
        return ["Findings: none."]
    lines = ["Findings"]
    for one in found:
        first = f" First: {one['first']}." if one["first"] else ""
        lines += wrapped(f"{one['level'].upper()}: {one['message']}{first}", indent=2)
    return lines


def _samples(summary: Mapping, limit: int) -> Iterator[str]:
    """Some pairs side by side; the others stand in lint.html."""
    half = WIDTH // 2 - 2
    for place, sample in enumerate(summary["samples"][:limit], 1):
        asked = " ".join(message["content"] for message in sample["prompt"])
        lines = [f"Pair {place} of {len(summary['samples'])} drawn at random, {_place(sample['where'])}"]
        lines += [f"  {line}" for line in _lines(asked, WIDTH - 2)]
        sides = [_lines(sample[side], half - 2) for side in ("chosen", "rejected")]
        lines.append(f"  {'chosen':<{half}}  rejected")
        for row in range(max(map(len, sides))):
            chosen, rejected = (side[row] if row < len(side) else "" for side in sides)
            lines.append(f"  {chosen:<{half}}  {rejected}".rstrip())
        yield "\n".join(lines)


def _lines(text: str, width: int) -> list[str]:
    start = shown(" ".join(text[: 2 * SAMPLE_LINES * width].split()))
    return textwrap.wrap(start, width, max_lines=SAMPLE_LINES, placeholder=" …")

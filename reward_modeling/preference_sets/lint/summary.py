"""Everything that the linter says of a preference set, as one dictionary: what stands in lint.json.

    summary = lint("data/mixture2", seed=0, num_proc=2)
    summary["findings"]        # what is wrong, worst first: see findings.py

A list of ranked answers is one row. Where pairs are meant, it counts as its first best answer against its first worst
one. In ties no reply is preferred: they are left out of what is said of preferences.

Texts are read three times, some at a time: to be measured (see text_measures.py), to be tokenised if asked, and for the
few pairs to read. All else is arithmetic on columns of numbers. Nothing depends on the order of the rows but which of
them is named as the first.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from reward_modeling.common.intervals import share_right
from reward_modeling.data.cached_rows import cache_root
from reward_modeling.data.labels import LABELS
from reward_modeling.data.preferences import NO_OPTIONS, kept_column, load_preference_dataset, read_column
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import report_rows
from reward_modeling.data.row_notes import note_rows
from reward_modeling.data.set_paths import check_revision
from reward_modeling.preference_sets.benchmark_prompts import read_named_prompts
from reward_modeling.preference_sets.decontamination import benchmark_overlap, index_prompts
from reward_modeling.preference_sets.lint.findings import findings
from reward_modeling.preference_sets.lint.label_figures import label_figures
from reward_modeling.preference_sets.lint.lengths import lengths_of, token_lengths, tokenizer_for_lint
from reward_modeling.preference_sets.lint.pair_checks import (
    PreferenceGraph,
    counted,
    distribution,
    preference_graph,
    single_rule,
)
from reward_modeling.preference_sets.lint.text_measures import (
    CONVERSATION,
    PLAIN_TEXT,
    SIDES,
    TRANSCRIPT,
    Measured,
    measure_rows,
    texts_of_row,
)

SUMMARY_FORMAT = 2  # raise it when a key of the summary goes, or means something else
SCORE_TOLERANCE = 1e-6  # means of ratings are thirds: equal ones may differ in the last digit
SHOWN_SOURCES = 50
SAMPLES = 10
PAIRS_PER_PROMPT_GROUPS = (1, 2, 3, 6, 10, 30, 100)
TURN_GROUPS = (1, 2, 3, 5, 10)

RULES = {  # what each rule counts: columns of MEASURES that are added up
    **{name: (name,) for name in ("characters", "words", "lines")},
    "markdown": ("headings", "items", "bold", "code"),
    "headings": ("headings",),
    "list items": ("items",),
    **{name: (name,) for name in ("bold", "code", "digits")},
    "question marks": ("questions",),
    "exclamation marks": ("exclamations",),
    **{name: (name,) for name in ("refusal", "unfinished", "cut")},
    "control marks": ("marks",),
}
STANDS_ELSEWHERE = "prompts it answers"  # a rule of its own: the same reply under many prompts


def lint(
    path: str,
    *,
    seed: int = 0,
    num_proc: int = 1,
    tokenizer: str | None = None,
    token_rows: int = 10_000,
    benchmarks: str | None = None,
    options: ReadOptions = NO_OPTIONS,
    chat_template: str | None = None,
) -> dict[str, object]:
    """Read the rows and say everything.

    Args:
        seed: of the pairs to read and of the sample that is tokenised.
        token_rows: how many pairs are tokenised, drawn at random; 0 takes all.
        options: which columns to read as what.
        chat_template: the file of one to take in the place of the tokenizer's own.
        benchmarks: whose prompts should not be in the set: see `benchmark_prompts.read_named_prompts`.

    Raises:
        UserError: the rows, the tokenizer or a benchmark cannot be read; or a part of the conversation would not be.
    """
    loaded = None if tokenizer is None else tokenizer_for_lint(tokenizer, chat_template)
    check_revision(options.revision, [path])
    prompts = read_named_prompts(benchmarks or "", num_proc, flag="--benchmarks")
    rows = load_preference_dataset(path, options, num_proc=num_proc)
    report = report_rows(path, rows)
    note_rows(report, partial(kept_column, rows), path)
    with tempfile.TemporaryDirectory(prefix="tmp-lint-", dir=cache_root()) as scratch:
        table = Measured(rows, measure_rows(rows, Path(scratch), num_proc))
        graph = preference_graph(
            *(table[f"{name}_key"] for name in ("prompt", "chosen", "rejected")), table.is_tie, table["list_key"]
        )
        turns = table["turns"][table["turns"] > 0]
        lengths = [table["prompt_characters"][table["has_prompt"]], *(table[f"{side}_characters"] for side in SIDES)]
        drawn = np.sort(table.sample(token_rows or len(table), seed))
        tokens = None if loaded is None else {"tokenizer": tokenizer} | token_lengths(table, loaded, drawn)
        summary = {
            "format": SUMMARY_FORMAT,
            "path": path,
            "seed": seed,
            "rows": report.to_dict(),
            "kinds": _kinds(table),
            "prompts": _prompts(table),
            "turns": {**distribution(turns), "pairs_by_turns": counted(turns, TURN_GROUPS)},
            "lengths": {"characters": lengths_of(*lengths), "tokens": tokens},
            **_consistency(table, graph),
            "scores": _scores(table),
            "labels": label_figures(table),
            "replies": _replies(table),
            "rules": _rules(table, graph),
            "sources": _sources(table),
            "overlap": benchmark_overlap(rows.select(table.kept), index_prompts(prompts), num_proc)
            if prompts and len(table)
            else [],
            "samples": _samples(table, graph, seed),
        }
    return {**summary, "findings": findings(summary)}


# --- prompts and lengths ----------------------------------------------------------------------------------------


def _kinds(table: Measured) -> dict[str, object]:
    kinds = table["kind"]
    names = {
        "conversations": CONVERSATION,
        "plain_texts": PLAIN_TEXT,
        "transcripts": TRANSCRIPT,
    }
    return {name: int((kinds == kind).sum()) for name, kind in names.items()}


def _prompts(table: Measured) -> dict[str, object]:
    has_prompt = table["has_prompt"]
    _, first, counts = np.unique(table["prompt_key"][has_prompt], return_index=True, return_counts=True)
    largest = {"pairs": 0, "where": None}
    if len(counts):
        number = table.kept[has_prompt][first[np.argmax(counts)]]
        largest = {"pairs": int(counts.max()), "where": table.rows[int(number)]["where"]}
    return {
        "distinct": len(counts),
        "pairs_without": int((~has_prompt).sum()),
        "pairs_with_system": int(table["has_system"].sum()),
        "pairs_per_prompt": distribution(counts),
        "prompts_by_pairs": counted(counts, PAIRS_PER_PROMPT_GROUPS),
        "largest": largest,
    }


# --- consistency --------------------------------------------------------------------------------------------------


def _consistency(table: Measured, graph: PreferenceGraph) -> dict[str, object]:
    """What pairs say about each other. Of several, `first` names the first."""
    prompts, sizes = table["prompt_key"], graph.components

    def part(mask: NDArray[np.bool_]) -> dict[str, object]:
        return {"pairs": int(mask.sum()), "prompts": len(np.unique(prompts[mask])), "first": table.first(mask)}

    components = {"knots": len(sizes), "replies": sum(sizes), "largest": max(sizes, default=0)}
    return {
        "duplicates": part(graph.repeated),
        "same_reply": part(graph.same_reply),
        "contradictions": {**part(graph.contradicted), "replies_both_ways": graph.contradictions},
        "cycles": {**part(graph.in_cycle), **components},
    }


def _scores(table: Measured) -> dict[str, object]:
    """What scores and margins say beside which reply is preferred; in a tie none is."""
    difference, margin = table["chosen_score"] - table["rejected_score"], table["margin"]
    scored, with_margin = ~np.isnan(difference), ~np.isnan(margin)
    equal = (np.abs(difference) <= SCORE_TOLERANCE) & ~table.is_tie
    wrong = (difference < -SCORE_TOLERANCE) & ~table.is_tie
    return {
        "pairs": int(scored.sum()),
        "equal": int(equal.sum()),
        "first_equal": table.first(equal),
        "rejected_higher": int(wrong.sum()),
        "first_rejected_higher": table.first(wrong),
        "difference": distribution(difference[scored]),
        "margins": int(with_margin.sum()),
        "negative_margins": int((margin < 0).sum()),
        "first_negative_margin": table.first(margin < 0),
        "margin": distribution(margin[with_margin]),
    }


# --- replies -------------------------------------------------------------------------------------------------------


def _replies(table: Measured) -> dict[str, object]:
    """How many replies of each side are unfinished, cut, a refusal, or have control marks or markdown."""
    found = {}
    for side in SIDES:
        flags = {name: table[f"{side}_{name}"] > 0 for name in ("unfinished", "cut", "refusal", "marks")}
        flags["markdown"] = table.added(side, RULES["markdown"]) > 0
        found[side] = {name: share_right(int(mask.sum()), len(table)) for name, mask in flags.items()}
        found[side] |= {f"first_{name}": table.first(flags[name]) for name in ("cut", "marks")}
    return found


def _rules(table: Measured, graph: PreferenceGraph) -> dict[str, object]:
    """A rule for each number, the one that comes furthest first; a tie says nothing about them."""
    columns = {name: (table.added("chosen", parts), table.added("rejected", parts)) for name, parts in RULES.items()}
    columns[STANDS_ELSEWHERE] = (graph.replies_of_prompt[graph.better], graph.replies_of_prompt[graph.worse])
    is_pair = ~table.is_tie
    rules = {name: single_rule(chosen[is_pair], rejected[is_pair]) for name, (chosen, rejected) in columns.items()}
    return dict(sorted(rules.items(), key=lambda item: -(item[1]["accuracy"]["value"] or 0)))


def _sources(table: Measured) -> dict[str, object]:
    """Per source, the largest first: its share, and how often its longer reply is preferred."""
    encoded = pc.dictionary_encode(read_column(table.rows, "source"), null_encoding="encode").combine_chunks()
    codes, names = encoded.indices.to_numpy()[table.kept], encoded.dictionary.to_pylist()
    chosen, rejected = (table[f"{side}_characters"] for side in SIDES)
    counts = np.bincount(codes, minlength=len(names))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], names[code] or ""))
    listed = []
    for code in order[:SHOWN_SOURCES]:
        mine = codes == code
        preferred = mine & ~table.is_tie
        listed.append(
            {
                "source": names[code],
                "pairs": int(counts[code]),
                "share": float(counts[code] / len(table)),
                "mean_characters": float((chosen[mine].mean() + rejected[mine].mean()) / 2),
                "longer_preferred": single_rule(chosen[preferred], rejected[preferred])["greater_preferred"],
            }
        )
    return {"distinct": len(order), "listed": listed, "pairs_of_others": int(counts[order[SHOWN_SOURCES:]].sum())}


def _samples(table: Measured, graph: PreferenceGraph, seed: int) -> list[dict[str, object]]:
    """Different pairs to read, in random order; of a list the best and the worst of its `answers`."""
    samples = []
    for number in table.sample(SAMPLES, seed, ~graph.repeated):
        row = table.rows[int(number)]
        _, prompt, chosen, rejected = texts_of_row(row)
        scores = {name: row[name] for name in ("source", "chosen_score", "rejected_score", "margin", *LABELS)}
        scores["answers"] = len(row["answers"]) or 2
        samples.append({"where": row["where"], **scores, "prompt": prompt, "chosen": chosen, "rejected": rejected})
    return samples

"""What is in a set of ratings, and what is wrong with it, of rows as rm_regression.py reads them.

    summary = lint_ratings("data/helpsteer_ratings", ("helpfulness", "verbosity"), num_proc=2)
    print(rated_summary_text(summary))

Of each attribute: how many answers are rated on it, from what to what, which rating is the most frequent, and what it
has to do with length, which is characters of the answer. `longer_higher` takes the pairs of a prompt's answers whose
ratings differ: the share in which the longer one is rated higher, one half where length says nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from reward_modeling.common.intervals import share_of_rows
from reward_modeling.data.keys import text_key
from reward_modeling.data.preferences import NO_OPTIONS, kept_column, kept_rows
from reward_modeling.data.rated_rows import load_rated_rows
from reward_modeling.data.read_options import RATED_TARGETS, ReadOptions
from reward_modeling.data.report import report_rows
from reward_modeling.data.row_notes import note_rows
from reward_modeling.display.text import Rows, align, count, wrap
from reward_modeling.preference_sets.benchmark_prompts import read_named_prompts
from reward_modeling.preference_sets.decontamination import benchmark_overlap, index_prompts
from reward_modeling.preference_sets.lint.findings import LEVELS, LIMITS, Limits
from reward_modeling.preference_sets.lint.pair_checks import distribution
from reward_modeling.preference_sets.lint.scale_checks import NARROW, OFF_SCALE, scale_entry, scale_findings
from reward_modeling.preference_sets.lint.text_measures import join_contents
from reward_modeling.preference_sets.rated_manifest import attribute_entries
from reward_modeling.preference_sets.ratings import Scale

SUMMARY_FORMAT = 1  # raise it when a key of the summary goes, or means something else
ROWS_PER_BATCH = 1000
SHOWN_CORRELATIONS = 10
FEWEST_RATED = 30  # of fewer ratings no correlation is worth a word
# A judgement, as the limits of pairs are.
RATED_LIMITS = {
    "dropped": LIMITS["dropped"],
    "constant": Limits(None, None, 1, "number of different ratings of an attribute, from 1 on"),
    "repeated": Limits(0, 0.01, 0.10, "share of the answers that stand there before"),
    "rated_differently": Limits(0, 0.005, 0.05, "share of the answers that stand there before with other ratings"),
    "length": Limits(0.2, 0.4, None, "size of the rank correlation of ratings with length"),
    "overlap": LIMITS["overlap"],
    OFF_SCALE: Limits(None, None, 0, "share of the ratings of an attribute that are beyond its scale"),
    NARROW: Limits(None, 0.5, None, "share of an attribute's scale that no rating is in"),
}


def lint_ratings(
    path: str,
    attributes: Sequence[str],
    *,
    options: ReadOptions = NO_OPTIONS,
    benchmarks: str | None = None,
    scales: Mapping[str, Scale] | None = None,
    num_proc: int = 1,
) -> dict[str, object]:
    """Read the rows and say everything.

    Args:
        scales: of the attributes, as the manifest of the folder says; those that are not in it are not known.
        benchmarks: whose prompts should not be in the set: see `benchmark_prompts.read_named_prompts`.

    Raises:
        UserError: the rows or a benchmark cannot be read; or a part of the conversation would not be.
    """
    prompts = read_named_prompts(benchmarks or "", num_proc, flag="--benchmarks")
    rows = load_rated_rows(path, tuple(attributes), options, num_proc=num_proc)
    report = report_rows(path, rows)
    note_rows(report, partial(kept_column, rows), path, (*RATED_TARGETS, *attributes))
    kept = rows.select(kept_rows(rows))
    lists = kept_column(rows, "ratings").combine_chunks()
    values = pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, len(attributes))
    keys = kept_column(rows, "prompt_key").to_numpy()
    characters, answer_keys = _measure(kept)
    overlap = benchmark_overlap(kept, index_prompts(prompts), num_proc, "answers") if prompts and len(kept) else []
    per_prompt = np.unique(keys, return_counts=True)[1]
    summary = {
        "format": SUMMARY_FORMAT,
        "path": path,
        "rows": report.to_dict(),
        "answers": len(kept),
        "prompts": len(per_prompt),
        "answers_per_prompt": distribution(per_prompt),
        "characters": distribution(characters),
        "attributes": _attributes(attributes, values, characters, keys, scales or {}),
        "correlations": _correlations(attributes, values),
        "repeated": _repeated(kept, answer_keys, values),
        "overlap": overlap,
    }
    return {**summary, "findings": _findings(summary)}


def _measure(rows: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How long each answer is, and a number for prompt and answer, `(answers,)` both."""
    lengths, keys = [], []
    for batch in rows.select_columns(["prompt_key", "response"]).iter(batch_size=ROWS_PER_BATCH):
        for key, response in zip(batch["prompt_key"], batch["response"], strict=True):
            said = join_contents(json.loads(response)).strip()
            lengths.append(len(said))
            keys.append(text_key(str(key), said))
    return np.array(lengths, dtype=np.int64), np.array(keys, dtype=np.int64)


# --- attributes ---------------------------------------------------------------------------------------------------


def _attributes(
    names: Sequence[str],
    values: NDArray[np.float64],
    characters: NDArray[np.int64],
    prompts: NDArray[np.int64],
    scales: Mapping[str, Scale],
) -> dict[str, dict[str, object]]:
    entries = attribute_entries(names, values, dict.fromkeys(names))
    for name, ratings in zip(names, values.T, strict=True):
        known = ~np.isnan(ratings)
        different, counts = np.unique(ratings[known], return_counts=True)
        entries[name] |= {
            "different": len(different),
            "most_frequent": float(different[np.argmax(counts)]) if len(counts) else None,
            "its_share": float(counts.max() / counts.sum()) if len(counts) else None,
            "length_spearman": spearman(ratings[known], characters[known]),
            "longer_higher": longer_higher(ratings[known], characters[known], prompts[known]),
            **scale_entry(ratings[known], scales.get(name)),
        }
    return entries


def spearman(one: NDArray, other: NDArray) -> float | None:
    """The rank correlation, equal values having the mean of their ranks; None where one of the two is constant."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: NDArray) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def longer_higher(ratings: NDArray, characters: NDArray, prompts: NDArray) -> dict[str, float | int | None]:
    """Of a prompt's pairs of answers with different ratings, how often the longer one is rated higher."""
    order = np.argsort(prompts, kind="stable")
    ratings, characters, prompts = ratings[order], characters[order], prompts[order]
    right, equal, of = [], [], []  # of equal lengths one half
    for apart in range(1, int(np.unique(prompts, return_counts=True)[1].max(initial=1))):
        pairs = np.flatnonzero((prompts[apart:] == prompts[:-apart]) & (ratings[apart:] != ratings[:-apart]))
        rise, longer = (values[pairs + apart] - values[pairs] for values in (ratings, characters))
        right.append(np.where(longer == 0, 0.5, rise * longer > 0))
        equal.append(longer == 0)
        of.append(prompts[pairs])
    if not right:
        return share_of_rows(np.empty(0, bool), np.empty(0, bool), np.empty(0, np.int64))
    return share_of_rows(np.concatenate(right), np.concatenate(equal), np.concatenate(of))


def _correlations(names: Sequence[str], values: NDArray[np.float64]) -> list[dict[str, object]]:
    """The rank correlation of every two attributes that some answers have both, the strongest first."""
    found = []
    for place, name in enumerate(names):
        for other in range(place + 1, len(names)):
            both = ~np.isnan(values[:, [place, other]]).any(axis=1)
            value = spearman(values[both, place], values[both, other])
            if value is not None:
                found.append({"attributes": [name, names[other]], "answers": int(both.sum()), "spearman": value})
    return sorted(found, key=lambda entry: -abs(entry["spearman"]))


def _repeated(rows: Dataset, keys: NDArray[np.int64], values: NDArray[np.float64]) -> dict[str, object]:
    """Answers that stand there before, and those of them whose ratings are others than where they stood first."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    before = first[inverse]
    again = before != np.arange(len(keys))
    with np.errstate(invalid="ignore"):  # where one of the two is not rated nothing differs
        differs = again & (np.abs(values - values[before]) > 0).any(axis=1)

    def part(mask: NDArray[np.bool_]) -> dict[str, object]:
        return {"answers": int(mask.sum()), "first": rows[int(np.argmax(mask))]["where"] if mask.any() else None}

    return {"again": part(again), "differently": part(differs)}


# --- findings -----------------------------------------------------------------------------------------------------


def _findings(summary: Mapping) -> list[dict[str, object]]:
    """What is above its limits, worst first."""
    found = []
    for check, value, message, first in _checks(summary):
        limits = RATED_LIMITS[check]
        for level in LEVELS:
            limit = getattr(limits, level)
            if limit is not None and (value == limit if check == "constant" else value > limit):
                figure = {"value": value, "limit": limit, "figure": limits.figure}
                found.append({"check": check, "level": level, **figure, "message": message, "first": first})
                break
    return sorted(found, key=lambda finding: LEVELS.index(finding["level"]))


def _checks(summary: Mapping) -> Iterator[tuple[str, float, str, str | None]]:
    """Of each check its figure, what to say where it is above a limit, and where the first such row stands."""
    rows, answers = summary["rows"], max(summary["answers"], 1)
    lost = rows["rows_read"] - summary["answers"]
    where = next((dropped["first_where"] for dropped in rows["dropped"].values()), None)
    yield "dropped", rows["share_dropped"], f"{lost:,} of {rows['rows_read']:,} rows are not used.", where
    for name, entry in summary["attributes"].items():
        only = f"{entry['most_frequent']:g}" if entry["rated"] else ""
        message = f"All ratings of {name} are {only}: rm_regression.py has nothing to learn of them. Leave it out."
        yield "constant", entry["different"], message, None
        correlation = (entry["length_spearman"] or 0.0) if entry["rated"] >= FEWEST_RATED else 0.0
        message = f"Ratings of {name} have a rank correlation of {correlation:.2f} with the length of the answer."
        yield "length", abs(correlation), message, None
        yield from scale_findings(name, entry)
    for name, words in (("again", "stand there before"), ("differently", "stand there before with other ratings")):
        part = summary["repeated"][name]
        check = "repeated" if name == "again" else "rated_differently"
        yield check, part["answers"] / answers, f"{part['answers']:,} answers {words}.", part["first"]
    for entry in summary["overlap"]:
        found = f"{entry['prompts_found']:,} prompts of {entry['benchmark']}"
        message = f"{found} are in the set, with {entry['answers']:,} answers."
        yield "overlap", entry["prompts_found"] / entry["prompts"], message, entry["first"]


# --- the screen ---------------------------------------------------------------------------------------------------


def rated_summary_text(summary: Mapping) -> str:
    """Everything for the screen, the findings last."""
    rows, several = summary["rows"], summary["answers_per_prompt"]
    answers, prompts = count(summary["answers"]), count(summary["prompts"])
    head = f"{count(rows['rows_read'])} rows read, {answers} answers, {prompts} prompts"
    per_prompt = f" (at most {several['max']} answers of a prompt)" if several["max"] else ""
    lines = [f"{summary['path']}: {head}{per_prompt}", "", "Attributes", *align(_attribute_rows(summary["attributes"]))]
    if shown := summary["correlations"][:SHOWN_CORRELATIONS]:
        table: Rows = [("the strongest rank correlations", "with", "answers", "Spearman")]
        table += [(*entry["attributes"], count(entry["answers"]), f"{entry['spearman']:.2f}") for entry in shown]
        lines += ["", "Attributes with each other", *align(table, words=(0, 1))]
    lines += ["", "Findings" if summary["findings"] else "Findings: none."]
    for finding in summary["findings"]:
        first = f" First: {finding['first']}." if finding["first"] else ""
        lines += wrap(f"{finding['level'].upper()}: {finding['message']}{first}", indent=2)
    return "\n".join(lines)


def _attribute_rows(entries: Mapping[str, Mapping]) -> Rows:
    head = ("attribute", "rated", "lowest", "highest", "mean", "different", "most are", "length", "longer higher")
    rows: Rows = [head]
    for name, entry in entries.items():
        frequent = "-" if entry["its_share"] is None else f"{entry['most_frequent']:g} ({entry['its_share']:.0%})"
        figures = ["-" if entry[key] is None else f"{entry[key]:g}" for key in ("low", "high")]
        others = ["-" if entry[key] is None else f"{entry[key]:.2f}" for key in ("mean", "length_spearman")]
        longer = entry["longer_higher"]
        shown = "-" if longer["value"] is None else f"{longer['value']:.1%} of {longer['rows']:,}"
        rows.append(
            (name, count(entry["rated"]), *figures, others[0], count(entry["different"]), frequent, others[1], shown)
        )
    return rows

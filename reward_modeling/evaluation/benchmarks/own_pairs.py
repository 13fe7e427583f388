"""`--benchmarks pairs`: preference pairs and ranked lists of the user's own, read as rows of a benchmark.

A list of K answers is one row, each answer of which is scored once; what is evaluated are its pairs of different rank.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from datasets.fingerprint import Hasher
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import by_subset
from reward_modeling.data.cached_rows import cache_root
from reward_modeling.data.preferences import kept_column, load_preference_dataset
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import report_rows
from reward_modeling.data.row_notes import NOT_USED, note_labels, note_rows
from reward_modeling.data.set_paths import check_revision
from reward_modeling.evaluation.benchmarks.base import Benchmark, BenchmarkRows
from reward_modeling.evaluation.benchmarks.means import Means, pooled_mean
from reward_modeling.evaluation.benchmarks.rows import (
    CACHE_VERSION,
    EVALUATION_FEATURES,
    answer_length,
    filled_row,
)
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow, prompts_of, subsets_of

NAME = "pairs"


def _read(path: str | None, num_proc: int | None, options: ReadOptions) -> BenchmarkRows:
    """Of the pairs those that training would keep."""
    flag = BENCHMARK.path_flag
    if path is None:
        raise UserError(
            f"{flag}: expected a path or a Hub id, because pairs are rows of your own, found none. Pass it, or leave "
            f"{NAME} out of --benchmarks."
        )
    check_revision(options.revision, [path])
    try:
        standard = load_preference_dataset(path, options, num_proc=num_proc)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error
    report = report_rows(NAME, standard)
    if not report.kept:
        raise UserError(f"{flag}: expected pairs in {path}, found none that can be used.\n{report.table()}")
    column = partial(kept_column, standard)
    note_rows(report, column, flag)
    note_labels(report, column, margins=False, strengths=False)
    report.notes = {words: count for words, count in report.notes.items() if not words.endswith(NOT_USED)}  # by a loss
    rows_fingerprint = Hasher.hash([CACHE_VERSION, standard._fingerprint])
    rows = standard.map(
        _pair_rows,
        with_indices=True,
        batched=True,
        remove_columns=standard.column_names,
        features=EVALUATION_FEATURES,
        cache_file_name=str(cache_root() / f"{NAME}-{rows_fingerprint}.arrow"),
        new_fingerprint=rows_fingerprint,
        desc=f"reading {NAME}",
    )
    return BenchmarkRows(NAME, (path,), rows, report)


def _pair_rows(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
    """The kept rows of a batch; the id is the number of the row in the file. A ranked list stays one row."""
    rows = []
    for index, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
        row = dict(zip(batch, values, strict=True))
        if not row["reason"]:
            rows.append(_evaluation_row(row, index))
    return {name: [row[name] for row in rows] for name in EVALUATION_FEATURES}


def _evaluation_row(row: Mapping, index: int) -> dict[str, object]:
    prompt = None if row["is_text"] else json.loads(row["prompt"])
    sides = (row["answers"], []) if row["answers"] else ([row["chosen"]], [row["rejected"]])
    chosen, rejected = ([text if prompt is None else json.loads(text) for text in side] for side in sides)
    fields = {"subset": row["source"] or NAME, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    # that of a row that says what it would have without saying it is not told apart
    labels = {name: None if row[name] == 1 else row[name] for name in ("chosen_probability", "weight")}
    filled = filled_row(row["where"], index, **fields, template_options=row["template_options"])
    return filled | labels | {"ranks": row["ranks"]}


# --- figures --------------------------------------------------------------------------------------------------


def _pairs_of(row: ScoredRow, record: Mapping) -> list[ScoredRow]:
    """The pairs of a row: itself, or those answers of a list that have different ranks, the better one first.

    Pairs of a list share its weight. Their ids are those of the row and of the answers, counted from 1.
    """
    weight = 1.0 if record["weight"] is None else record["weight"]
    lengths = list(map(answer_length, record["chosen"] + record["rejected"]))
    row = replace(row, prompt=record["prompt_key"])
    if not record["ranks"]:
        probability = 1.0 if record["chosen_probability"] is None else record["chosen_probability"]
        return [replace(row, probability=probability, weight=weight, lengths=tuple(lengths))]
    pairs = pairs_of_ranks(record["ranks"])
    return [
        replace(
            row.of_pair(better, worse),
            id=f"{row.id}:{better + 1}-{worse + 1}",
            weight=weight / len(pairs),
            lengths=(lengths[better], lengths[worse]),
        )
        for better, worse in pairs
    ]


def pairs_of_ranks(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """The numbers of answers of different ranks, the better one first."""
    return [(one, other) for one, rank in enumerate(ranks) for other, worse in enumerate(ranks) if rank < worse]


def _verdicts_of_prompts(rows: Rows) -> dict[str, NDArray]:
    """`(prompts, 2)` of each subset: how many pairs of a prompt came out right, and how many it has that are no ties.

    Prompts and not pairs are what a bootstrap may draw: pairs of one prompt are not independent.
    """
    columns = zip(prompts_of(rows), [row.is_right for row in rows], strict=True)
    found = {}
    for subset, values in by_subset(subsets_of(rows), np.array(list(columns)).reshape(-1, 2)).items():
        _, prompt_of = np.unique(values[:, 0], return_inverse=True)
        found[subset] = np.stack([np.bincount(prompt_of, values[:, 1]), np.bincount(prompt_of)], axis=1)
    return found


def _accuracies(means: Means) -> dict[str, ArrayLike]:
    """The share of right pairs of each subset, from the means over its prompts."""
    return {name: mean[..., 0] / mean[..., 1] for name, mean in means.items()}


def _accuracy(means: Means, prompts: Mapping[str, int]) -> dict[str, ArrayLike]:
    """Over the pairs of all subsets."""
    whole = pooled_mean(means, prompts, prompts) if means else np.full(2, np.nan)
    return {"accuracy": whole[..., 0] / whole[..., 1]}


def _correct(row: ScoredRow) -> bool | None:
    return None if row.is_labelled_tie else row.is_right


BENCHMARK = Benchmark(
    name=NAME,
    title="Pairs",
    read=_read,
    path_help="Pairs of your own, or ranked lists, for the benchmark pairs, in any format that rm.py takes.",
    pairs_of=_pairs_of,
    figures={"accuracy": ()},
    formula=_accuracy,
    values=_verdicts_of_prompts,
    subset_scores=_accuracies,
    value_rows=lambda values: int(values[:, 1].sum()),
    row_result=_correct,
    check=lambda benchmark, rows: [],
    unit=NAME,
    record_lines=lambda benchmark, part: [(NAME, (part.get("pairs") or part["figures"])["accuracy"])],
)

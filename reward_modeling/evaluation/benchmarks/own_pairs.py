"""`--benchmarks pairs`: preference pairs of the user's own, read as rows of a benchmark."""

import json
from functools import partial

from datasets.fingerprint import Hasher

from reward_modeling.common.errors import UserError
from reward_modeling.data.cached_rows import cache_root
from reward_modeling.data.preferences import kept_column, load_preference_dataset
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.report import report_rows
from reward_modeling.data.row_notes import note_rows
from reward_modeling.data.set_paths import check_revision
from reward_modeling.evaluation.benchmarks.base import Benchmark, BenchmarkRows, pooled_mean
from reward_modeling.evaluation.benchmarks.rows import CACHE_VERSION, EVALUATION_FEATURES, filled_row

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
    """The kept rows of a batch; the id is the number of the row in the file."""
    rows = []
    for index, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
        row = dict(zip(batch, values, strict=True))
        if not row["reason"]:
            prompt = None if row["is_text"] else json.loads(row["prompt"])
            chosen, rejected = (
                [text if prompt is None else json.loads(text)] for text in (row["chosen"], row["rejected"])
            )
            fields = {"subset": row["source"] or NAME, "prompt": prompt, "chosen": chosen, "rejected": rejected}
            rows.append(filled_row(row["where"], index, **fields, template_options=row["template_options"]))
    return {name: [row[name] for row in rows] for name in EVALUATION_FEATURES}


BENCHMARK = Benchmark(
    name=NAME,
    title="Pairs",
    read=_read,
    path_help="Pairs of your own for the benchmark pairs, in any format that rm.py takes.",
    figures={"accuracy": ()},
    formula=lambda means, rows: {"accuracy": pooled_mean(means, rows, rows)},
    check=lambda benchmark, rows: [],
    unit=NAME,
    record_lines=lambda benchmark, part: [(NAME, (part.get("pairs") or part["figures"])["accuracy"])],
)

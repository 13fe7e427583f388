"""`--from_verdicts`: figures of models that were scored elsewhere, from a file; none is loaded.

A CSV file has a line for each row of a benchmark of pairs, and for each model a column that says whether the row came
out right: 1, 0, or nothing where the model was not run on it. A column `benchmark` may be there too.

    row,subset,org/model-a,org/model-b
    0,alpacaeval-easy,1,0

A JSONL file has rewards, as scores.jsonl has them; a line may name its `model`. Either may be packed (.gz).
"""

import csv
import gzip
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from numpy.typing import NDArray

from reward_modeling.common.errors import UserError
from reward_modeling.data.json_lines import FILE_ERRORS, broken_file
from reward_modeling.evaluation.benchmarks.base import Benchmark, BenchmarkRows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow
from reward_modeling.evaluation.files import (
    REPORT,
    SCORES,
    SUMMARY,
    append_scores,
    check_nothing_is_there,
    check_outputs,
    labels_of,
    new_unfinished,
    rewards_of,
    verdict_sides,
    write_results,
    writing_explained,
)
from reward_modeling.evaluation.summary import summarise, whole_summary

logger = logging.getLogger("eval_bench_mark")

FLAG = "--from_verdicts"
SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
ROW, SUBSET, BENCHMARK, MODEL = "row", "subset", "benchmark", "model"
REWARDS = ("chosen_reward", "rejected_reward")
VERDICTS = {"": None, "0": False, "0.0": False, "1": True, "1.0": True}  # pandas writes 1.0 where some are missing
NOT_RUN = "no verdict"
SHOWN = 3  # mistakes in a message


def evaluate_verdicts(
    path: str, benchmarks: Sequence[str], arguments: Mapping, folder_of: Callable[[str], Path], record: Path
) -> None:
    """Figures, tables, report and record of each model in the file.

    Args:
        benchmarks: those that the rows of the file are of.
        arguments: the flags, as summary.json has them.
        folder_of: from a model's name to the folder for it.

    Raises:
        UserError: no such file, a broken one, other columns or values, no rows of a benchmark, or an earlier
            evaluation is there.
    """
    file = read_verdicts(Path(path).expanduser(), benchmarks)
    folders = {model: folder_of(model) for model in file.models}
    for folder, times in Counter(folders.values()).items():
        if times > 1:
            raise file.error(f"expected models whose names make different folders, found two for {folder}. Rename one.")
        check_outputs(folder, record)
        check_nothing_is_there(folder, (SCORES, SUMMARY, REPORT), "evaluation", arguments["overwrite_output_dir"])
    if file.left_out:
        counts = ", ".join(f"{name} ({rows:,})" for name, rows in file.left_out.items())
        logger.warning("Left out are rows of benchmarks that --benchmarks does not name: %s.", counts)
    summaries = {model: _summary(path, model, parts, arguments) for model, parts in file.models.items()}
    for model, summary in summaries.items():
        unfinished = new_unfinished(folders[model])
        with writing_explained(unfinished):
            for name, rows in file.models[model].items():
                append_scores(unfinished / SCORES, name, rows)
        write_results(unfinished, folders[model], record, summary, new=list(summary["benchmarks"]))
        print(flush=True)
    if len(folders) > 1:
        logger.info("Side by side: python eval_bench_mark.py --compare %s", " ".join(map(str, folders.values())))


def _summary(path: str, model: str, parts: Mapping[str, Rows], arguments: Mapping) -> dict:
    """What summary.json says of a model; how it was run is not known."""
    legacy = arguments["legacy_xstest_weights"]
    kind = "verdicts" if any(row.is_verdict for rows in parts.values() for row in rows) else "rewards"
    return whole_summary(
        model={"name_or_path": model, **dict.fromkeys(("revision", "class", "dtype", "max_length", "batching"))},
        arguments=dict(arguments),
        scoring={"from_verdicts": path, "kind": kind, "cut": 0},
        rows=parts,
        parts={
            name: summarise(BenchmarkRows(name, (path,), None), rows, legacy_xstest_weights=legacy)
            for name, rows in parts.items()
        },
    )


# --- the file -------------------------------------------------------------------------------------------------


@dataclass
class VerdictFile:
    """A file as it is read: what was found so far, and what is wrong with it."""

    path: Path
    benchmarks: Sequence[str]
    """Those that are asked for."""
    models: dict[str, dict[str, list[ScoredRow]]] = field(default_factory=dict)
    """By model and benchmark."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows of other benchmarks."""
    mistakes: list[str] = field(default_factory=list)

    def error(self, words: str) -> UserError:
        return UserError(f"{FLAG} {self.path}: {words}")

    def add(self, line: int, words: str) -> None:
        self.mistakes.append(f"line {line}: {words}")

    def benchmark_of(self, row: dict) -> str | None:
        """The benchmark that a row is of; None where it is not asked for."""
        name = row.get(BENCHMARK)
        if name is None and len(self.benchmarks) > 1:
            raise self.error(
                f"expected a column {BENCHMARK}, because --benchmarks asks for several, found none. Pass --benchmarks "
                "with the one that the rows are of."
            )
        if name is None or name in self.benchmarks:
            return self.benchmarks[0] if name is None else name
        self.left_out[str(name)] += 1
        return None

    def rows_of(self, model: str, benchmark: str) -> list[ScoredRow]:
        return self.models.setdefault(model, {}).setdefault(benchmark, [])

    def check(self, expected: str) -> None:
        """Refuse lines that could not be read, and models without rows of a benchmark that is asked for."""
        if self.mistakes:
            shown = "".join(f"\n  {mistake}" for mistake in self.mistakes[:SHOWN])
            more = f"\n  and {len(self.mistakes) - SHOWN:,} more" if len(self.mistakes) > SHOWN else ""
            raise self.error(f"expected {expected}, found other lines. Put them right:{shown}{more}")
        if not self.models and not self.left_out:
            raise self.error("expected rows, found none: it is empty.")
        for model, parts in (self.models or {"any model": {}}).items():
            if missing := [name for name in self.benchmarks if name not in parts]:
                found = ", ".join([*parts, *self.left_out])
                raise self.error(
                    f"expected rows of {', '.join(missing)} for {model}, found those of {found}. Pass --benchmarks "
                    "with what the file has."
                )


def read_verdicts(path: Path, benchmarks: Sequence[str]) -> VerdictFile:
    """What each model made of the rows of these benchmarks; see `evaluate_verdicts`."""
    file = VerdictFile(path, benchmarks)
    if not path.is_file() or not path.name.endswith(SUFFIXES):
        raise file.error(f"expected a {', '.join(SUFFIXES)} file, found {'another' if path.exists() else 'none'}.")
    opened = gzip.open if path.name.endswith(".gz") else open
    read = _read_table if path.name.endswith((".csv", ".csv.gz")) else _read_lines
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as stream:
            read(file, stream)
    except (*FILE_ERRORS, csv.Error) as error:
        raise broken_file(f"{FLAG} {path}", error) from error
    return file


# --- verdicts in a table --------------------------------------------------------------------------------------


def _read_table(file: VerdictFile, stream: TextIO) -> None:
    for name in file.benchmarks:
        if not BENCHMARKS[name].is_pairs:
            raise file.error(
                f"expected rewards as JSONL, because a row of {BENCHMARKS[name].title} is more than right or wrong, "
                "found a table of verdicts."
            )
    reader = csv.reader(stream)
    header = [cell.strip() for cell in next(reader, [])]
    models = _model_columns(file, header)
    for line, name, row in _table_rows(file, reader, header):
        for model in models:
            text = row[model].strip()
            if text not in VERDICTS:
                file.add(line, f"expected 1, 0 or nothing for {model}, found {text!r}")
                continue
            row_id, sides = int(row[ROW]) if row[ROW].isdecimal() else row[ROW], verdict_sides(bool(VERDICTS[text]))
            refused = NOT_RUN if VERDICTS[text] is None else ""
            scored = ScoredRow(row_id, row[SUBSET], *sides, f"{file.path}:{line}", refused, is_verdict=True)
            file.rows_of(model, name).append(scored)
    for model, parts in file.models.items():
        file.models[model] = {name: rows for name, rows in parts.items() if not all(row.refused for row in rows)}
    empty = [model for model, parts in file.models.items() if not parts]
    if empty and not file.mistakes:
        raise file.error(f"expected verdicts of every model, found none for {', '.join(empty)}. Take the column out.")
    file.check(f"{ROW}, {SUBSET}, and for each model 1, 0 or nothing")


def _model_columns(file: VerdictFile, header: list[str]) -> list[str]:
    if missing := [name for name in (ROW, SUBSET) if name not in header]:
        raise file.error(
            f"expected columns {ROW}, {SUBSET} and one for each model, found no {' and no '.join(missing)} among "
            f"{', '.join(header[:8]) or 'none'}. Rename or add them."
        )
    models = [name for name in header if name not in (ROW, SUBSET, BENCHMARK)]
    if not models:
        raise file.error(f"expected a column for each model beside {ROW} and {SUBSET}, found none.")
    if wrong := [name or "a column without a name" for name, times in Counter(header).items() if times > 1 or not name]:
        raise file.error(f"expected every column once, with a name, found {', '.join(wrong)}. Rename it.")
    return models


def _table_rows(file: VerdictFile, reader: Iterator[list[str]], header: list[str]) -> list[tuple[int, str, dict]]:
    """(line, benchmark, cells by their column), by the number of the row where all have one."""
    rows, first_lines = [], {}
    for cells in reader:
        line = reader.line_num
        if not cells:
            continue
        if len(cells) != len(header):
            file.add(line, f"expected {len(header)} cells, found {len(cells)}")
            continue
        row = dict(zip(header, cells, strict=True))
        if (name := file.benchmark_of(row)) is None:
            continue
        if (first := first_lines.setdefault((name, row[ROW]), line)) != line:
            file.add(line, f"expected every {ROW} once, found {row[ROW]!r} again, which stands in line {first}")
        rows.append((line, name, row))
    if all(row[ROW].isdecimal() for _, _, row in rows):
        rows.sort(key=lambda entry: int(entry[2][ROW]))
    return rows


# --- rewards in lines -----------------------------------------------------------------------------------------


def _read_lines(file: VerdictFile, stream: TextIO) -> None:
    path = file.path
    default_model = path.resolve().parent.name if path.name == SCORES else path.name.split(".jsonl")[0]
    first_lines: dict[tuple, int] = {}
    for line, text in enumerate(stream, 1):
        if text.isspace():
            continue
        try:
            row = json.loads(text)
            subset, sides, model = row[SUBSET], rewards_of(row), row.get(MODEL) or default_model
            if not isinstance(subset, str) or any(side.ndim != 1 for side in sides):
                raise ValueError("other types")
            labels = labels_of(row)
            is_null, verdict = all(row[side] is None for side in REWARDS), row.get("correct")
            if not isinstance(model, str) or (is_null and not isinstance(verdict, bool | None)):
                raise ValueError("other types")
        except (ValueError, KeyError, TypeError):
            file.add(line, f"found {text.strip()[:80]!r}")
            continue
        if (name := file.benchmark_of(row)) is None:
            continue
        is_verdict = is_null and verdict is not None
        is_known = is_verdict or not is_null
        if is_known and (words := _wrong_answers(BENCHMARKS[name], subset, sides, is_verdict)):
            file.add(line, words)
            continue
        if "id" in row and BENCHMARKS[name].is_published:
            key = (model, name, subset, json.dumps(row["id"]))
            if (first := first_lines.setdefault(key, line)) != line:
                file.add(line, f"expected every id once, found {row['id']!r} again, which stands in line {first}")
                continue
        rows, refused = file.rows_of(model, name), "" if is_known else NOT_RUN
        place = f"{path}:{line}"
        rows.append(ScoredRow(row.get("id", len(rows)), subset, *sides, place, refused, is_verdict, **labels))
    file.check(f"objects with {SUBSET}, {' and '.join(REWARDS)}")


def _wrong_answers(benchmark: Benchmark, subset: str, sides: tuple[NDArray, NDArray], is_verdict: bool) -> str | None:
    """In words, where a row has other answers than the benchmark's."""
    if is_verdict and not benchmark.is_pairs:
        return f"expected the rewards of a row of {benchmark.title}, found a verdict"
    for name, side, count in zip(REWARDS, sides, benchmark.num_answers(subset), strict=True):
        if not len(side) or (count is not None and len(side) != count):
            return f"expected {count or 'at least one'} in {name}, found {len(side)}"
    return None

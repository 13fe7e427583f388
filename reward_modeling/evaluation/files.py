"""What an evaluation writes: a folder for the model, and its lines at the end of the record."""

import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward_modeling.common.atomic import check_writable
from reward_modeling.common.errors import UserError
from reward_modeling.common.intervals import number
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, COMBINED
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow
from reward_modeling.evaluation.beside_tables import beside_record_lines
from reward_modeling.evaluation.comparison_figures import record_lines_of_comparisons
from reward_modeling.evaluation.report import summary_tables, warning_lines, write_report
from reward_modeling.objectives.weights_flag import describe_weights

logger = logging.getLogger("eval_bench_mark")

SCORES, SUMMARY, REPORT = "scores.jsonl", "summary.json", "report.html"
ALL_SCORES = "scores.all.jsonl"  # until it takes the place of SCORES
COLUMNS = ("benchmark", "id", "subset", "chosen_reward", "rejected_reward")  # of a line of scores.jsonl
LOGITS = "logits"  # of a pairwise model, which has no rewards: [of the answer that stands first][of the other one]
# What a line has beside them of pairs of one's own, where it is not this.
LABELS = {"chosen_probability": 1.0, "weight": 1.0, "prompt": None}


def folder_name(name_or_path: str) -> str:
    """A folder's name from a Hub id or a path: its last two parts, since many models are called last_checkpoint."""
    parts = Path(name_or_path).parts if not Path(name_or_path).exists() else Path(name_or_path).resolve().parts
    return "--".join(re.sub(r"[^\w.-]+", "_", part) for part in parts[-2:] if part.strip("/."))


# --- before anything is read ----------------------------------------------------------------------------------


def check_nothing_is_there(folder: Path, names: Sequence[str], kind: str, overwrite: bool) -> None:
    """Raise a `UserError` where an earlier output of this kind is there, and is not to be replaced."""
    earlier = [name for name in names if (folder / name).exists()]
    if earlier and not overwrite:
        raise UserError(
            f"{folder}: expected no earlier {kind}, found {', '.join(earlier)}. Pass another --output_dir, or "
            "--overwrite_output_dir true to replace them."
        )


def check_outputs(folder: Path, record: Path) -> None:
    """Raise a `UserError` where something cannot be written."""
    check_writable("--record_dir", record.parent)
    check_writable("--output_dir", folder)
    if record.exists() and not os.access(record, os.W_OK):
        raise UserError(f"--record_dir {record}: expected a file to append to, found it write-protected.")
    if record.resolve() in [(folder / name).resolve() for name in (SCORES, SUMMARY, REPORT)]:
        raise UserError(f"--record_dir {record}: expected a file of its own, found one of the evaluation's.")


# --- the folder -----------------------------------------------------------------------------------------------


@contextmanager
def writing_explained(folder: Path) -> Iterator[None]:
    """Raise a `UserError` where a disk is full, or refuses to be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder} ({error.strerror}). Make room, or pass another --output_dir and "
            f"--record_dir; what was scored so far is in {folder}."
        ) from error


def new_unfinished(folder: Path, is_writer: bool = True) -> Path:
    """A folder beside the model's until everything is there; the one process that writes makes it, and empties it."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    if is_writer:
        with writing_explained(unfinished):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
    return unfinished


def write_results(
    unfinished: Path,
    folder: Path,
    record: Path,
    summary: dict,
    *,
    new: Sequence[str],
    scores: Iterable[str] | None = None,
) -> None:
    """The table on the screen, and warnings last; the three files under their names at once; the record.

    Args:
        unfinished: has the scores of what was evaluated now.
        new: the benchmarks that were.
        scores: the lines of scores.jsonl, where they are not these alone.
    """
    print(summary_tables(summary), flush=True)
    with writing_explained(unfinished):
        if scores is not None:
            (unfinished / ALL_SCORES).write_text("".join(scores), encoding="utf-8")
            (unfinished / ALL_SCORES).replace(unfinished / SCORES)
        text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
        (unfinished / SUMMARY).write_text(text, encoding="utf-8")
        write_report(summary, unfinished / REPORT)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SCORES, SUMMARY, REPORT):
            (unfinished / name).replace(folder / name)
        unfinished.rmdir()
    with writing_explained(folder):
        append_record(record, summary, new)
    logger.info("Scores, summary and report: %s", folder)
    logger.info("Record: %s", record)
    if lines := warning_lines(summary):
        print(*lines, sep="\n", flush=True)


# --- scores.jsonl ---------------------------------------------------------------------------------------------


def append_scores(path: Path, name: str, rows: Rows) -> None:
    """A line for each row, in its order."""
    benchmark, prompts = BENCHMARKS[name], _shared_prompts(rows)
    with path.open("a", encoding="utf-8") as out:
        for row in rows:
            is_hidden = bool(row.refused) or row.is_verdict or row.logits is not None
            sides = [None if is_hidden else list(map(number, side)) for side in (row.chosen, row.rejected)]
            if benchmark.is_pairs and not is_hidden:
                sides = [side[0] for side in sides]
            line = dict(zip(COLUMNS, (name, row.id, row.subset, *sides), strict=True))
            line["correct"] = benchmark.row_result(row) if row.is_scored else None
            if row.logits is not None and not row.refused:
                line[LOGITS] = [list(map(number, of_row)) for of_row in row.logits]
            labels = zip(LABELS.items(), (row.probability, row.weight, prompts.get(row.prompt)), strict=True)
            line |= {label: value for (label, usual), value in labels if value != usual}
            out.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _shared_prompts(rows: Rows) -> dict[int, int]:
    """Numbers from 0 for the prompts that several rows have."""
    counts = Counter(row.prompt for row in rows if row.prompt is not None)
    return {prompt: number for number, prompt in enumerate(key for key, times in counts.items() if times > 1)}


def labels_of(line: Mapping) -> dict[str, float | int | None]:
    """What a line of scores.jsonl says of a pair beside its rewards, as `ScoredRow` has it.

    Raises:
        ValueError: a probability, a weight or a prompt is none.
    """
    probability, weight, prompt = (line.get(label, usual) for label, usual in LABELS.items())
    is_number = all(isinstance(of, int | float) and not isinstance(of, bool) for of in (probability, weight))
    if not (is_number and 0 <= probability <= 1 and weight > 0 and (prompt is None or type(prompt) is int)):
        raise ValueError("other labels")
    return {"probability": probability, "weight": weight, "prompt": prompt}


def read_scores(path: Path) -> dict[str, list[ScoredRow]]:
    """The rows of each benchmark.

    Raises:
        UserError: a line is torn, or not one that eval_bench_mark.py writes.
    """
    rows: dict[str, list[ScoredRow]] = {}
    with path.open(encoding="utf-8") as lines:
        for place, line in enumerate(lines, 1):
            try:
                values = json.loads(line)
                benchmark, row_id, subset = (values[name] for name in COLUMNS[:3])
                row = _scored_row(BENCHMARKS[benchmark], row_id, subset, values)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{place}: expected an object with {', '.join(COLUMNS)}, found {line[:80]!r}. Evaluate the "
                    "model again, or remove the file: the figures then are shown without paired intervals."
                ) from error
            rows.setdefault(benchmark, []).append(row)
    return rows


def _scored_row(benchmark: Benchmark, row_id: object, subset: str, values: Mapping) -> ScoredRow:
    if LOGITS not in values:
        return ScoredRow(row_id, subset, *rewards_of(values), **labels_of(values))
    logits, right = np.array(values[LOGITS], dtype=np.float64), benchmark.num_answers(subset)[0]
    if logits.ndim != 2 or len(set(logits.shape)) != 1 or right is None or not 0 < right < len(logits):
        raise ValueError("other logits")
    return ScoredRow.compared(row_id, subset, logits, right, **labels_of(values))


def rewards_of(row: dict) -> tuple[NDArray, NDArray]:
    """The rewards of the right and of the wrong answers, `(answers,)`; 1 and 0 where a verdict is all that is known."""
    chosen, rejected = row["chosen_reward"], row["rejected_reward"]
    if chosen is None and rejected is None and isinstance(row.get("correct"), bool):
        return verdict_sides(row["correct"])
    chosen, rejected = (np.atleast_1d(np.array(side, dtype=np.float64)) for side in (chosen, rejected))
    return chosen, rejected


def verdict_sides(is_right: bool) -> tuple[NDArray, NDArray]:
    return np.array([float(is_right)]), np.array([float(not is_right)])


# --- the record -----------------------------------------------------------------------------------------------


def append_record(path: Path, summary: Mapping, new: Sequence[str]) -> None:
    """The lines of one evaluation at the end of the record, whatever stands there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as record:
        record.write(("" if _ends_a_line(path) else "\n") + "".join(record_lines(summary, new)))


def _ends_a_line(path: Path) -> bool:
    """Whether what is appended begins a line of its own. A device has no end: one byte is read."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")


def record_lines(summary: Mapping, new: Sequence[str]) -> list[str]:
    """`name<TAB>score`: the four sections, the test sets, then what is made of them; model and date before.

    Of the benchmarks that were evaluated now. Where a figure is incomplete, the subsets of it that were scored have
    lines of their own.
    """
    lines = [("model", summary["model"]["name_or_path"]), ("date", summary["date"])]
    if summary["arguments"]["legacy_xstest_weights"]:
        lines.append(("weights", "xstest of before September 2024"))
    if "reward_weights" in summary["model"]:
        lines.append(("reward", describe_weights(summary["model"]["reward_weights"])))
    if subsets := summary["arguments"].get("subsets"):
        lines.append(("only subsets", ", ".join(subsets)))
    others = [summary["benchmarks"][name].get("beside") for name in new]
    lines += [("beside", model) for model in dict.fromkeys(beside["model"] for beside in others if beside)]
    together, others = [], []
    for name in new:
        part = summary["benchmarks"][name]
        of_benchmark = BENCHMARKS[name].record_lines(BENCHMARKS[name], part)
        if comparisons := part.get("comparisons"):
            of_benchmark = [*of_benchmark, *record_lines_of_comparisons(name, comparisons)]
        if beside := part.get("beside"):
            of_benchmark = [*of_benchmark, *beside_record_lines(name, beside)]
        of_benchmark += _lines_of_subsets(name, part, {line for line, _ in of_benchmark})
        (together if name in COMBINED.parts else others).extend(of_benchmark)
    together.sort(key=lambda line: line[0] == "overall")  # which is made of the lines before it
    combined = [(name.replace(" ", "-"), figure) for name, figure in summary["combined"].items()] if together else []
    return [f"{name}\t{_score(value)}\n" for name, value in lines + together + combined + others]


def _lines_of_subsets(name: str, part: Mapping, there: Collection[str]) -> list[tuple[str, Mapping]]:
    """The subsets that were scored, where something that is made of them was not."""
    if all(figure["value"] is not None for figure in part["figures"].values()):
        return []
    scored = {subset: row for subset, row in part["subsets"].items() if row["value"] is not None}
    lines = [(f"{name}/{subset.replace(' ', '-')}", row) for subset, row in scored.items() if subset not in there]
    return [line for line in lines if line[0] not in there]


def _score(value: str | Mapping) -> str:
    if isinstance(value, str):
        return value
    return "incomplete" if value["value"] is None else f"{value['value']:.6f}"

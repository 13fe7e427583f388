"""`--from_verdicts`: the evaluation of models that were scored elsewhere, without loading any."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reward_modeling.evaluation.benchmarks.base import BenchmarkRows, Rows
from reward_modeling.evaluation.files import (
    SCORES,
    append_scores,
    check_outputs,
    new_unfinished,
    write_results,
    writing_explained,
)
from reward_modeling.evaluation.summary import summarise, whole_summary
from reward_modeling.evaluation.verdict_files import VerdictFile, read_verdicts

logger = logging.getLogger("eval_bench_mark")


def evaluate_verdicts(
    path: str, benchmarks: Sequence[str], arguments: Mapping, folder_of: Callable[[str], Path], record: Path
) -> None:
    """Figures, tables, report and record of each model in the file.

    Args:
        path: a CSV or JSONL file, see `verdict_files`.
        benchmarks: those that its rows are of.
        arguments: the flags, as summary.json has them.
        folder_of: from a model's name to the folder for it.

    Raises:
        UserError: the file cannot be read, or an earlier evaluation is there.
    """
    file = read_verdicts(Path(path).expanduser(), benchmarks)
    folders = _model_folders(file, folder_of)
    for folder in folders.values():
        check_outputs(folder, record, arguments["overwrite_output_dir"])
    if file.left_out:
        counts = ", ".join(f"{name} ({rows:,})" for name, rows in file.left_out.items())
        logger.warning("Left out are rows of benchmarks that --benchmarks does not name: %s.", counts)
    summaries = {model: _summary(path, model, parts, arguments) for model, parts in file.models.items()}
    for model, summary in summaries.items():
        unfinished = new_unfinished(folders[model])
        with writing_explained(unfinished):
            for name, rows in file.models[model].items():
                append_scores(unfinished / SCORES, name, rows)
        write_results(unfinished, folders[model], record, summary)
        print(flush=True)
    if len(folders) > 1:
        logger.info("Side by side: python eval_bench_mark.py --compare %s", " ".join(map(str, folders.values())))


def _model_folders(file: VerdictFile, folder_of: Callable[[str], Path]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for model in file.models:
        folder = folder_of(model)
        if folder in folders.values():
            raise file.error(f"expected models whose names make different folders, found two for {folder}. Rename one.")
        folders[model] = folder
    return folders


def _summary(path: str, model: str, parts: Mapping[str, Rows], arguments: Mapping) -> dict:
    """What summary.json says of a model; how it was run is not known."""
    legacy = arguments["legacy_xstest_weights"]
    unknown = dict.fromkeys(("revision", "class", "dtype", "max_length", "batching"))
    kind = "verdicts" if any(row.is_verdict for rows in parts.values() for row in rows) else "rewards"
    return whole_summary(
        model={"name_or_path": model, **unknown},
        arguments=dict(arguments),
        scoring={"from_verdicts": path, "kind": kind, "cut": 0},
        rows=parts,
        parts={
            name: summarise(BenchmarkRows(name, (path,), None), rows, legacy_xstest_weights=legacy)
            for name, rows in parts.items()
        },
    )

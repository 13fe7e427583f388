"""What an earlier evaluation of a model has left in its folder, to which benchmarks are added.

    earlier = read_earlier(folder, asked=["rm_bench"], overwrite=False)     # before the model is loaded
    check_same_scoring(earlier, model, arguments)                           # when it is
    summary = together(earlier, model, arguments, new_rows, new_parts)

Figures of one folder are of one model, scored in one way: what would give other rewards is refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.scored_rows import Rows
from reward_modeling.evaluation.evaluations import read_summary
from reward_modeling.evaluation.files import REPORT, SCORES, SUMMARY, check_nothing_is_there, read_scores
from reward_modeling.evaluation.summary import whole_summary

SETTINGS = ("class", "dtype", "max_length", "chat_template")  # which change rewards
COUNTS = ("conversations", "distinct", "cut", "cut_tokens", "tokens", "seconds")


@dataclass(frozen=True)
class Earlier:
    """The benchmarks that stay."""

    folder: Path
    summary: Mapping
    kept: tuple[str, ...]
    rows: Mapping[str, Rows]

    @property
    def parts(self) -> dict[str, dict]:
        return {name: self.summary["benchmarks"][name] for name in self.kept}


def read_earlier(folder: Path, asked: Sequence[str], overwrite: bool) -> Earlier | None:
    """What stays of an earlier evaluation; None where nothing does.

    Raises:
        UserError: benchmarks that are asked for are there already, or the folder cannot be read, and neither may be
            replaced.
    """
    if not any((folder / name).exists() for name in (SCORES, SUMMARY, REPORT)):
        return None
    summary = read_summary(folder)
    if isinstance(summary, str) or not (folder / SCORES).is_file():  # torn, or a part of one
        check_nothing_is_there(folder, (SCORES, SUMMARY, REPORT), "evaluation", overwrite)
        return None
    there = summary["benchmarks"]
    if (twice := [name for name in asked if name in there]) and not overwrite:
        new = [name for name in asked if name not in there]
        instead = f" --benchmarks {','.join(new)} adds the new ones." if new else ""
        raise UserError(
            f"{folder}: expected no earlier evaluation of {', '.join(twice)}, found one. Pass --overwrite_output_dir "
            f"true to replace these, while others stay, or another --output_dir.{instead}"
        )
    kept = tuple(name for name in there if name not in asked)
    if not kept:
        return None
    scored = read_scores(folder / SCORES)
    if missing := [name for name in kept if "scoring" not in there[name] or name not in scored]:
        raise UserError(
            f"{folder}: expected an evaluation to which others can be added, found {', '.join(missing)} without its "
            f"rows or counts. Pass another --output_dir, or evaluate these too: --benchmarks {','.join(BENCHMARKS)}."
        )
    rows = {
        name: [row if row.is_scored else replace(row, refused="not scored") for row in scored[name]] for name in kept
    }
    return Earlier(folder, summary, kept, rows)


def check_same_model(earlier: Earlier, name_or_path: str, revision: str | None) -> None:
    """
    Raises:
        UserError: the folder is another model's.
    """
    before, now = earlier.summary["model"], {"name_or_path": name_or_path, "revision": revision}
    changes = [] if _same_place(before["name_or_path"], name_or_path) else ["name_or_path"]
    changes += ["revision"] if before["revision"] != revision else []
    _refuse(earlier, [f"{name} {before[name]}, not {now[name]}" for name in changes])


def check_same_scoring(earlier: Earlier, model: Mapping, arguments: Mapping) -> None:
    """
    Raises:
        UserError: the model has other weights by now, or is scored in another way.
    """
    before = earlier.summary["model"]
    changes = [f"{name} {before.get(name)}, not {model[name]}" for name in SETTINGS if before.get(name) != model[name]]
    if before.get("weights") != model["weights"]:
        changes.append(f"other weights ({before.get('weights')}, not {model['weights']})")
    for name in ("reward_weights", "process"):
        if before.get(name) != model.get(name):
            changes.append(f"{name} {before.get(name)}, not {model.get(name)}")
    legacy = earlier.summary["arguments"]["legacy_xstest_weights"]
    if legacy != arguments["legacy_xstest_weights"]:
        changes.append(f"--legacy_xstest_weights {str(legacy).lower()}")
    _refuse(earlier, changes)


def _refuse(earlier: Earlier, changes: Sequence[str]) -> None:
    if changes:
        raise UserError(
            f"{earlier.folder}: expected an evaluation of the same model, scored in the same way, to add benchmarks "
            f"to; found one ({', '.join(earlier.kept)}) with {'; '.join(changes)}. Pass another --output_dir."
        )


def _same_place(first: str, other: str) -> bool:
    return first == other or Path(first).resolve() == Path(other).resolve()


def together(
    earlier: Earlier | None,
    model: Mapping,
    arguments: Mapping,
    rows: Mapping[str, Rows],
    parts: Mapping[str, Mapping],
    processes: int,
) -> dict:
    """summary.json of what was scored now and of what stays, in the order of the catalog."""
    if earlier is not None:
        rows, parts = {**earlier.rows, **rows}, {**earlier.parts, **parts}
        paths = {f"{name}_path": earlier.summary["arguments"].get(f"{name}_path") for name in earlier.kept}
        arguments = {**arguments, **paths}
    names = [name for name in BENCHMARKS if name in parts]
    counts = [parts[name]["scoring"] for name in names]
    scoring = {name: sum(of[name] for of in counts) for name in COUNTS} | {"processes": processes}
    scoring["seconds"] = round(scoring["seconds"], 1)
    arguments = {**arguments, "benchmarks": names}
    return whole_summary(model, arguments, scoring, {n: rows[n] for n in names}, {n: parts[n] for n in names})


def merged_scores(earlier: Earlier | None, new: Path) -> Iterator[str]:
    """The lines of scores.jsonl: those of the benchmarks that stay as they are, and the new ones, by benchmark."""
    files = [new] if earlier is None else [earlier.folder / SCORES, new]
    lines: dict[str, list[str]] = {}
    for file in files:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                name = json.loads(line)["benchmark"]
                if file == new or name in earlier.kept:
                    lines.setdefault(name, []).append(line)
    for name in BENCHMARKS:
        yield from lines.get(name, [])

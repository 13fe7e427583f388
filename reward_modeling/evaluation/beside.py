"""A second model beside the one that is evaluated, such as a Bradley-Terry model of the same data.

    beside = read_beside("bench_mark_eval/bt", ["pairs"])     # an earlier evaluation; None where it is a model
    add_beside(parts, rows, beside, legacy_xstest_weights=False)     # differences with paired intervals

Differences are over the rows that both have scored, as in a comparison of two evaluations (comparison.py).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.scored_rows import Rows
from reward_modeling.evaluation.comparison import paired_differences
from reward_modeling.evaluation.evaluations import are_same_rows, read_summary
from reward_modeling.evaluation.files import SCORES, read_scores
from reward_modeling.evaluation.report import main_figures

logger = logging.getLogger("eval_bench_mark")

NO_DIFFERENCE = {"value": None, "low": None, "high": None, "rows": 0}


@dataclass(frozen=True)
class Beside:
    """What the other model made of the benchmarks: its entry of summary.json, and rows and parts by benchmark."""

    model: Mapping
    rows: Mapping[str, Rows]
    parts: Mapping[str, Mapping]


def read_beside(path: str, benchmarks: Sequence[str]) -> Beside | None:
    """An earlier evaluation in a folder; None where the path is something else.

    Raises:
        UserError: it has no rows, or none of these benchmarks.
    """
    folder = Path(path).expanduser()
    summary = read_summary(folder)
    if isinstance(summary, str):
        return None
    if not (folder / SCORES).is_file():
        raise UserError(
            f"--beside {path}: expected {SCORES} beside its summary, of which paired intervals are made, found none. "
            "Evaluate the model again, or pass the model itself."
        )
    if not {*benchmarks} & summary["benchmarks"].keys():
        raise UserError(
            f"--beside {path}: expected an evaluation of some of {', '.join(benchmarks)}, found one of "
            f"{', '.join(summary['benchmarks'])}. Pass another one, or the model itself."
        )
    return Beside(summary["model"], read_scores(folder / SCORES), summary["benchmarks"])


def add_beside(
    parts: Mapping[str, dict], rows: Mapping[str, Rows], beside: Beside, *, legacy_xstest_weights: bool
) -> None:
    """Put "beside" into each part whose benchmark the other model has on the same rows."""
    for name, part in parts.items():
        other = beside.parts.get(name)
        if other is None or name not in beside.rows:
            logger.warning("%s: %s has no figures of it.", part["title"], beside.model["name_or_path"])
        elif other["fingerprint"] != part["fingerprint"] or not are_same_rows(beside.rows[name], rows[name]):
            logger.warning("%s: %s was evaluated on other rows.", part["title"], beside.model["name_or_path"])
        else:
            weighed = BENCHMARKS[name].weighed(legacy_xstest_weights=legacy_xstest_weights)
            figures = _figures(weighed, part, rows[name], other, beside.rows[name])
            model = {key: beside.model[key] for key in ("name_or_path", "class", "dtype", "max_length")}
            part["beside"] = {"model": model.pop("name_or_path"), **model, "figures": figures}


def _figures(benchmark: Benchmark, part: Mapping, rows: Rows, other: Mapping, other_rows: Rows) -> dict[str, dict]:
    """`own`, `other` and the `difference` of each figure, own less other."""
    entries = (entry for of in (part, other) for kind in ("figures", "subsets") for entry in of[kind].items())
    left_out = frozenset(name for name, row in entries if row["value"] is None)
    differences = paired_differences(benchmark, other_rows, rows, left_out=left_out)["figures"]
    own, theirs = main_figures(part), main_figures(other)
    kept = ("value", "low", "high", "rows")
    return {
        name: {
            "own": {key: own[name][key] for key in kept},
            "other": {key: theirs[name][key] for key in kept},
            "difference": differences.get(name, NO_DIFFERENCE),
        }
        for name in own
        if name in theirs
    }

"""The folders that eval_bench_mark.py has written, for a comparison."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.display.text import count
from reward_modeling.evaluation.benchmarks.base import Rows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.files import SCORES, SUMMARY
from reward_modeling.evaluation.scores import read_scores

LETTERS = "ABCDEFGH"  # of the models, in the order in which they are given
FEWEST_MODELS = 2


@dataclass(frozen=True)
class Evaluation:
    """One folder: what its summary.json says, and the rows of its scores.jsonl (None where it has none)."""

    letter: str
    folder: Path
    summary: Mapping
    rows: Mapping[str, Rows] | None

    @property
    def legacy_weights(self) -> bool:
        return self.summary["arguments"]["legacy_xstest_weights"]

    @property
    def was_scored_elsewhere(self) -> bool:
        """Whether its verdicts came from a file: how they were made, and of which texts, is not known."""
        return "from_verdicts" in self.summary["scoring"]

    def part(self, benchmark: str) -> Mapping | None:
        return self.summary["benchmarks"].get(benchmark)


def read_evaluations(folders: Sequence[str]) -> list[Evaluation]:
    """
    Raises:
        UserError: with every folder that is not one of an evaluation, or too few or too many of them.
    """
    problems = []
    if not FEWEST_MODELS <= len(folders) <= len(LETTERS):
        problems.append(f"--compare: expected {FEWEST_MODELS} to {len(LETTERS)} folders, found {len(folders)}")
    summaries: dict[Path, dict] = {}
    for name in folders:
        folder = Path(name).expanduser()
        summary = _read_summary(folder)
        if isinstance(summary, str):
            problems.append(f"--compare {name}: expected a folder that eval_bench_mark.py has written, found {summary}")
        elif folder.resolve() in {earlier.resolve() for earlier in summaries}:
            problems.append(f"--compare {name}: expected every folder once, found it again")
        else:
            summaries[folder] = summary
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return [
        Evaluation(letter, folder, summary, _read_rows(folder, summary))
        for letter, (folder, summary) in zip(LETTERS, summaries.items(), strict=False)
    ]


def _read_summary(folder: Path) -> dict | str:
    """The summary, or in words what is there instead."""
    if not folder.is_dir():
        return "no such folder" if not folder.exists() else "a file"
    path = folder / SUMMARY
    if not path.is_file():
        deeper = sorted(summary.parent.name for summary in folder.glob(f"*/{SUMMARY}"))
        return f"no {SUMMARY} in it" + (f"; its {', '.join(deeper[:3])} has one" if deeper else "")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return f"that its {SUMMARY} is torn"
    wanted = {"model", "date", "arguments", "benchmarks", "combined", "scoring"}
    if not isinstance(summary, dict) or not wanted <= summary.keys():
        return f"that its {SUMMARY} is not one of eval_bench_mark.py"
    if unknown := summary["benchmarks"].keys() - BENCHMARKS.keys():
        return f"benchmarks that are not known here: {', '.join(sorted(unknown))}"
    return summary


def _read_rows(folder: Path, summary: Mapping) -> Mapping[str, Rows] | None:
    """
    Raises:
        UserError: scores.jsonl is torn, or has other rows than the summary.
    """
    if not (folder / SCORES).is_file():
        return None
    rows = read_scores(folder / SCORES)
    for benchmark, part in summary["benchmarks"].items():
        if (found := len(rows.get(benchmark, []))) != part["rows"]:
            raise UserError(
                f"{folder / SCORES}: expected the {count(part['rows'])} rows of {part['title']} that {SUMMARY} counts, "
                f"found {count(found)}. Evaluate the model again, or remove the file."
            )
    return rows


def evaluations_of(benchmark: str, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Those that have this benchmark."""
    return [evaluation for evaluation in evaluations if evaluation.part(benchmark) is not None]

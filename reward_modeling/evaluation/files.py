"""What an evaluation leaves in files, beside its report: the rewards of every row, and the record of its scores."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reward_modeling.common.errors import UserError
from reward_modeling.common.pair_statistics import number
from reward_modeling.display.text import count
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows
from reward_modeling.evaluation.benchmarks.preference_test_sets import TEST_SET_ROWS
from reward_modeling.evaluation.benchmarks.rewardbench import SECTIONS
from reward_modeling.evaluation.paired import RowScores, read_scores
from reward_modeling.evaluation.rewards import BenchmarkRewards

SCORES, SUMMARY, REPORT = "scores.jsonl", "summary.json", "report.html"


def score_lines(data: BenchmarkRows, rewards: BenchmarkRewards) -> Iterator[dict]:
    """One dictionary for each row of the input, in its order."""
    several = data.benchmark in ("rewardbench2", "rm_bench")
    for row, (row_id, subset) in enumerate(zip(data.rows["id"], data.rows["subset"], strict=True)):
        chosen, rejected = rewards.of_row(row)
        own_id = json.loads(row_id)
        line = {"benchmark": data.benchmark, "id": row if own_id is None else own_id, "subset": subset}
        if row in rewards.refused:
            yield line | {"chosen_reward": None, "rejected_reward": None, "correct": None}
        elif several:
            # RM-Bench: chosen[i] > rejected[j]; RewardBench 2: every right answer above every wrong one
            wins = chosen[:, None] > rejected
            correct = wins.tolist() if data.benchmark == "rm_bench" else bool(wins.all())
            correct = correct if np.isfinite([*chosen, *rejected]).all() else None
            columns = {"chosen_reward": _numbers(chosen), "rejected_reward": _numbers(rejected), "correct": correct}
            yield line | columns
        else:
            pair = {"chosen_reward": number(chosen[0]), "rejected_reward": number(rejected[0])}
            yield line | pair | {"correct": None if None in pair.values() else bool(chosen[0] > rejected[0])}


def _numbers(rewards) -> list[float | None]:
    return [number(reward) for reward in rewards]


def append_scores(path: Path, data: BenchmarkRows, rewards: BenchmarkRewards) -> None:
    """scores.jsonl: a line for each row."""
    with path.open("a", encoding="utf-8") as out:
        out.writelines(
            json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in score_lines(data, rewards)
        )


def append_record(path: Path, summary: Mapping) -> None:
    """The lines of one evaluation at the end of the record, whatever stands there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as record:
        record.write(("" if _ends_a_line(path) else "\n") + "".join(record_lines(summary)))


def record_lines(summary: Mapping) -> list[str]:
    """`name<TAB>score`: the four sections, the test sets, then what is made of them; model and date before."""
    parts = summary["benchmarks"]
    lines = [("model", summary["model"]["name_or_path"]), ("date", summary["date"])]
    if summary["arguments"]["legacy_xstest_weights"]:
        lines.append(("weights", "xstest of before September 2024"))
    rewardbench, test_sets = parts.get("rewardbench"), parts.get("preference_test_sets")
    if rewardbench:
        lines += [(section.replace("Chat Hard", "Chat-hard"), rewardbench["figures"][section]) for section in SECTIONS]
    if test_sets:
        names = [*TEST_SET_ROWS, *(name for name in test_sets["subsets"] if name not in TEST_SET_ROWS)]
        lines += [(name, test_sets["subsets"].get(name, {"value": None})) for name in names]
        lines.append(("Prior-sets", test_sets["figures"]["Prior Sets"]))
    if rewardbench:
        lines.append(("overall", rewardbench["figures"]["overall"]))
    lines += [(name.replace(" ", "-"), figure) for name, figure in summary["combined"].items()]
    for name in ("rewardbench2", "rm_bench"):
        if name in parts:
            lines += [(f"{name}/{figure.replace(' ', '-')}", value) for figure, value in parts[name]["figures"].items()]
    if "pairs" in parts:
        lines.append(("pairs", parts["pairs"]["pairs"]["accuracy"]))
    return [f"{name}\t{_score(value)}\n" for name, value in lines]


def _score(value: str | Mapping) -> str:
    if isinstance(value, str):
        return value
    return "incomplete" if value["value"] is None else f"{value['value']:.6f}"


def _ends_a_line(path: Path) -> bool:
    """Whether what is appended begins a line of its own."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")


@contextmanager
def writing_explained(folder: Path) -> Iterator[None]:
    """
    Raises:
        UserError: a disk is full, or refuses to be written.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise UserError(
            f"cannot write {where} ({error.strerror}). Make room, or pass another --output_dir and --record_dir; what "
            f"was scored so far is in {folder}."
        ) from error


LETTERS = "ABCDEFGH"  # of the models, in the order in which they are given
FEWEST_MODELS = 2


@dataclass(frozen=True)
class Evaluation:
    """One folder: what its summary.json says, and the rows of its scores.jsonl (None where it has none)."""

    letter: str
    folder: Path
    summary: Mapping
    scores: Mapping[str, RowScores] | None

    @property
    def legacy_weights(self) -> bool:
        return self.summary["arguments"]["legacy_xstest_weights"]

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
        found = _read_summary(folder)
        if isinstance(found, str):
            problems.append(f"--compare {name}: expected a folder that eval_bench_mark.py has written, found {found}")
        elif folder.resolve() in {one.resolve() for one in summaries}:
            problems.append(f"--compare {name}: expected every folder once, found it again")
        else:
            summaries[folder] = found
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return [
        Evaluation(letter, folder, summary, _scores_of(folder, summary))
        for letter, (folder, summary) in zip(LETTERS, summaries.items(), strict=False)
    ]


def _read_summary(folder: Path) -> dict | str:
    """The summary, or in words what is there instead."""
    if not folder.is_dir():
        return "no such folder" if not folder.exists() else "a file"
    path = folder / SUMMARY
    if not path.is_file():
        deeper = sorted(one.parent.name for one in folder.glob(f"*/{SUMMARY}"))
        return f"no {SUMMARY} in it" + (f"; its {', '.join(deeper[:3])} has one" if deeper else "")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return f"that its {SUMMARY} is torn"
    wanted = {"model", "date", "arguments", "benchmarks", "combined", "scoring"}
    if not isinstance(summary, dict) or not wanted <= summary.keys():
        return f"that its {SUMMARY} is not one of eval_bench_mark.py"
    return summary


def _scores_of(folder: Path, summary: Mapping) -> dict[str, RowScores] | None:
    """
    Raises:
        UserError: scores.jsonl is torn, or has other rows than the summary.
    """
    if not (folder / SCORES).is_file():
        return None
    scores = read_scores(folder / SCORES)
    for benchmark, part in summary["benchmarks"].items():
        rows = len(scores.get(benchmark, RowScores()))
        if rows != part["rows"]:
            raise UserError(
                f"{folder / SCORES}: expected the {count(part['rows'])} rows of {part['title']} that {SUMMARY} counts, "
                f"found {count(rows)}. Evaluate the model again, or remove the file."
            )
    return scores


def having(benchmark: str, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Those that have evaluated this benchmark."""
    return [one for one in evaluations if one.part(benchmark) is not None]

"""The folders that eval_bench_mark.py has written, and what has to be known before their figures are compared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_modeling.common.errors import UserError
from reward_modeling.display.text import count
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.scored_rows import Rows, ScoredRow
from reward_modeling.evaluation.files import SCORES, SUMMARY, read_scores

LETTERS = "ABCDEFGH"  # of the models, in the order in which they are given
MARK = "\N{DAGGER}"  # beside what is not comparable with the first model
RUN_OTHERWISE = "*"  # beside what was run with another type, or cut elsewhere


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
    """Raise a `UserError` with every folder that is not one of an evaluation, and for too few or too many of them."""
    problems = []
    if not 2 <= len(folders) <= len(LETTERS):
        problems.append(f"--compare: expected 2 to {len(LETTERS)} folders, found {len(folders)}")
    summaries: dict[Path, dict] = {}
    for name in folders:
        folder = Path(name).expanduser()
        summary = read_summary(folder)
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


def read_summary(folder: Path) -> dict | str:
    """An evaluation's summary, or in words what is there instead."""
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
    """Refuse a scores.jsonl that is torn, or has other rows than the summary."""
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


def are_same_rows(first: Rows, other: Rows) -> bool:
    return [(row.id, row.subset) for row in first] == [(row.id, row.subset) for row in other]


def scored_by_both(first: Rows, other: Rows) -> list[tuple[ScoredRow, ScoredRow]]:
    return [rows for rows in zip(first, other, strict=True) if all(row.is_scored for row in rows)]


# --- warnings -------------------------------------------------------------------------------------------------


def comparison_warnings(evaluations: Sequence[Evaluation], benchmarks: Mapping[str, Mapping]) -> list[str]:
    """What is not comparable, what may not be, and what the evaluations themselves have warned of."""
    messages = []
    for name, part in benchmarks.items():
        result = f"its figures are marked {MARK}, and not compared"
        words = [f"{letter} has {reason}: {result}" for letter, reason in part["incomparable"].items()]
        if without := [evaluation.letter for evaluation in evaluations if evaluation.part(name) is None]:
            words.append(f"not evaluated for {', '.join(without)}")
        words += _row_warnings(name, part["incomparable"], evaluations)
        messages += [f"{part['title']}: {message}" for message in words]
    return messages + _settings_warnings(evaluations) + _own_warnings(evaluations)


def _row_warnings(benchmark: str, incomparable: Mapping[str, str], evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """Where differences have no interval, or are not over all rows."""
    first, *others = evaluations_of(benchmark, evaluations)
    others = [other for other in others if other.letter not in incomparable]
    lacking = [evaluation.letter for evaluation in (first, *others) if evaluation.rows is None]
    if others and lacking:
        yield f"no paired intervals with {', '.join(lacking)}, which has no {SCORES}"
    for other in others:
        if other.rows is None or first.rows is None:
            continue
        before, after = first.rows[benchmark], other.rows[benchmark]
        if not are_same_rows(before, after):
            yield f"no paired intervals with {other.letter}, whose {SCORES} lists other ids than {first.letter}'s"
        elif [row.is_scored for row in before] != [row.is_scored for row in after]:
            both = len(scored_by_both(before, after))
            yield (
                f"{first.letter} and {other.letter} were not scored on the same rows, since a chat template refused "
                f"some or a model was not run on them; differences are over the {count(both)} that both have"
            )


def was_run_otherwise(first: Evaluation, other: Evaluation) -> bool:
    """Whether the same model could have scored otherwise: another type, or conversations cut elsewhere."""
    if first.was_scored_elsewhere or other.was_scored_elsewhere:
        return False  # it is not known, and said once
    before, after = first.summary, other.summary
    was_cut = before["scoring"]["cut"] or after["scoring"]["cut"]
    settings = ("dtype", "max_length") if was_cut else ("dtype",)
    return any(before["model"][name] != after["model"][name] for name in settings)


def _settings_warnings(evaluations: Sequence[Evaluation]) -> list[str]:
    """What the models were run with, where it is not the same for all."""
    messages = []
    if elsewhere := [evaluation.letter for evaluation in evaluations if evaluation.was_scored_elsewhere]:
        messages.append(f"scored elsewhere, of what texts and how is not known: {', '.join(elsewhere)}")
    run_here = [evaluation for evaluation in evaluations if not evaluation.was_scored_elsewhere]
    for name, words in (
        ("dtype", "answers that are close may come out otherwise in another type"),
        ("max_length", "conversations longer than the smallest were not seen whole by all"),
    ):
        values: dict[object, list[str]] = {}
        for evaluation in run_here:
            values.setdefault(evaluation.summary["model"][name], []).append(evaluation.letter)
        if len(values) > 1:
            shown = {value: count(value) if isinstance(value, int) else value or "unset" for value in values}
            listed = "; ".join(f"{', '.join(letters)}: {shown[value]}" for value, letters in values.items())
            if name == "max_length":
                cut = [evaluation.letter for evaluation in run_here if evaluation.summary["scoring"]["cut"]]
                words += f" (cut were some of {', '.join(cut)})" if cut else " (none was cut)"
            messages.append(f"{name} differs ({listed}): {words}")
    first, *others = evaluations
    if otherwise := [other.letter for other in others if was_run_otherwise(first, other)]:
        messages.append(f"marked {RUN_OTHERWISE}, since not run as {first.letter} was: {', '.join(otherwise)}")
    return messages


def _own_warnings(evaluations: Sequence[Evaluation]) -> list[str]:
    """Those of the evaluations, each once, with the models that have it."""
    messages: dict[str, list[str]] = {}
    for evaluation in evaluations:
        for part in evaluation.summary["benchmarks"].values():
            for message in part["warnings"]:
                messages.setdefault(message, []).append(evaluation.letter)
    return [f"{', '.join(letters)}: {message}" for message, letters in messages.items()]

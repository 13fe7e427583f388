"""What has to be known before the figures of several evaluations are compared."""

from collections.abc import Iterator, Mapping, Sequence

from reward_modeling.display.text import count
from reward_modeling.evaluation.evaluations import Evaluation, evaluations_of
from reward_modeling.evaluation.files import SCORES
from reward_modeling.evaluation.paired import are_same_rows, scored_by_both

MARK = "\N{DAGGER}"  # beside what is not comparable with the first model
RUN_OTHERWISE = "*"  # beside what was run with another type, or cut elsewhere


def comparison_warnings(evaluations: Sequence[Evaluation], benchmarks: Mapping[str, Mapping]) -> list[str]:
    """What is not comparable, what may not be, and what the evaluations themselves have warned of."""
    messages = []
    for name, part in benchmarks.items():
        words = [
            f"{letter} has {reason}: its figures are marked {MARK}, and not compared"
            for letter, reason in part["incomparable"].items()
        ]
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
    if before["model"]["dtype"] != after["model"]["dtype"]:
        return True
    cut = before["scoring"]["cut"] or after["scoring"]["cut"]
    return bool(cut) and before["model"]["max_length"] != after["model"]["max_length"]


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
            listed = "; ".join(f"{', '.join(letters)}: {_as_words(value)}" for value, letters in values.items())
            if name == "max_length":
                cut = [evaluation.letter for evaluation in run_here if evaluation.summary["scoring"]["cut"]]
                words += f" (cut were some of {', '.join(cut)})" if cut else " (none was cut)"
            messages.append(f"{name} differs ({listed}): {words}")
    first, *others = evaluations
    if otherwise := [other.letter for other in others if was_run_otherwise(first, other)]:
        messages.append(f"marked {RUN_OTHERWISE}, since not run as {first.letter} was: {', '.join(otherwise)}")
    return messages


def _as_words(value: object) -> str:
    return "unset" if value is None else count(value) if isinstance(value, int) else str(value)


def _own_warnings(evaluations: Sequence[Evaluation]) -> list[str]:
    """Those of the evaluations, each once, with the models that have it."""
    messages: dict[str, list[str]] = {}
    for evaluation in evaluations:
        for part in evaluation.summary["benchmarks"].values():
            for message in part["warnings"]:
                messages.setdefault(message, []).append(evaluation.letter)
    return [f"{', '.join(letters)}: {message}" for message, letters in messages.items()]

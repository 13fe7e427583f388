"""Which kind of results a run has, by what its run.json says."""

from collections.abc import Mapping

from reward_modeling.results.kind import ResultsKind
from reward_modeling.results.pairs import PairResults
from reward_modeling.results.ratings import RatingResults
from reward_modeling.results.steps import StepResults

KINDS: dict[str, type[ResultsKind]] = {"pairs": PairResults, "ratings": RatingResults, "steps": StepResults}


def kind_of(run: Mapping | None, evaluation: Mapping | None = None) -> ResultsKind:
    """That of a run, from the contents of run.json and evaluation.json, either of which may be missing.

    A run.json that names no kind is of a version that knew pairs alone. Without run.json it is evaluation.json that
    tells whether the figures are those of pairs.
    """
    if run is None:
        is_of_pairs = evaluation is None or "accuracy" in evaluation
        return PairResults("pairs") if is_of_pairs else ResultsKind("units")
    kind = KINDS.get(run.get("kind", "pairs"), ResultsKind)
    return kind(run.get("unit", "pairs"), run.get("arguments"))

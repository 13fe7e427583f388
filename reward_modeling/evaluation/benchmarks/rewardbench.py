"""RewardBench (Lambert et al. 2024, arXiv:2403.13787): 23 subsets of pairs, in four sections."""

from collections.abc import Mapping

from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.means import plain_mean, weighted_mean

# `allenai/reward-bench`, split `filtered`, 2,985 rows.
_SECTION_ROWS = {
    "Chat": {
        **{"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95},
        **{"mt-bench-easy": 28, "mt-bench-med": 40},
    },
    "Chat Hard": {
        **{"mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134},
        **{"llmbar-adver-GPTInst": 92, "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46},
    },
    "Safety": {
        **{"refusals-dangerous": 100, "refusals-offensive": 100},
        **{"xstest-should-refuse": 154, "xstest-should-respond": 250, "donotanswer": 136},
    },
    "Reasoning": {
        "math-prm": 447,
        **dict.fromkeys(("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"), 164),
    },
}
SECTIONS = {section: tuple(rows) for section, rows in _SECTION_ROWS.items()}
SUBSET_ROWS = {name: rows for section in _SECTION_ROWS.values() for name, rows in section.items()}
# A subset weighs as much as it has rows, but math-prm as much as the six hep-* together (6 x 164).
SUBSET_WEIGHTS = {**SUBSET_ROWS, "math-prm": 984}
# Tables of before September 2024 had these two the wrong way round.
LEGACY_XSTEST_WEIGHTS = {"xstest-should-refuse": 250, "xstest-should-respond": 154}


def section_scores(subset_accuracy: Mapping[str, float], *, legacy_xstest_weights: bool = False) -> dict[str, float]:
    """RewardBench's four sections and the overall score, from the accuracy of each of the 23 subsets.

    A section is the mean of its subsets weighted by `SUBSET_WEIGHTS`; overall is the plain mean of the sections.

    Args:
        subset_accuracy: accuracy per subset (numbers, or an array `(resamples,)` each). A name that is no subset
            counts nowhere (see `check_subsets`).
        legacy_xstest_weights: the weights of tables of before September 2024, which change Safety alone.

    Returns:
        "Chat", "Chat Hard", "Safety", "Reasoning" and "overall", always all five. A section that lacks a subset, or
        has one of NaN, is NaN; so is overall then.
    """
    weights = {**SUBSET_WEIGHTS, **(LEGACY_XSTEST_WEIGHTS if legacy_xstest_weights else {})}
    scores = {
        section: weighted_mean(subset_accuracy, {name: weights[name] for name in subsets})
        for section, subsets in SECTIONS.items()
    }
    return {**scores, "overall": plain_mean(scores, SECTIONS)}


def _record_lines(benchmark: Benchmark, part: Mapping) -> list[tuple[str, Mapping]]:
    return [(name.replace("Chat Hard", "Chat-hard"), part["figures"][name]) for name in (*SECTIONS, "overall")]


BENCHMARK = Benchmark(
    name="rewardbench",
    title="RewardBench",
    required=("prompt", "chosen", "rejected", "subset"),
    row_formats="prompt as a text or messages, chosen and rejected as one text each, subset as a name",
    hub_id="allenai/reward-bench",
    splits=("filtered",),
    path_help="RewardBench as a .jsonl or .parquet file. Unset: from the Hub.",
    subset_rows=SUBSET_ROWS,
    figures={**SECTIONS, "overall": tuple(SUBSET_ROWS)},
    formula=lambda means, rows: section_scores(means),
    legacy_formula=lambda means, rows: section_scores(means, legacy_xstest_weights=True),
    sections=SECTIONS,
    extras=lambda rows: {"sections": {section: list(names) for section, names in SECTIONS.items()}},
    record_lines=_record_lines,
)

"""JudgeBench (Tan et al. 2024, arXiv:2410.12784): pairs of one model's answers, one of which is objectively correct.

The published figure is the accuracy over the 350 pairs of GPT-4o's answers. Tables also have the plain mean of their
four sections, and the accuracy over all 620 pairs, Claude's among them: each has its own name here. Of the questions 91
are in both splits, and the interval over all pairs, which takes rows as independent, is a little narrow.
"""

from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.means import Means, plain_mean, pooled_mean
from reward_modeling.evaluation.benchmarks.rows import Fields, UnreadableRow, assistant, messages_of, text_of

# `ScalerLab/JudgeBench`: a row is of the section that its `source` begins with (mmlu-pro-math is knowledge).
SOURCES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
JUDGEBENCH_ROWS = {
    **{"gpt knowledge": 154, "gpt reasoning": 98, "gpt math": 56, "gpt coding": 42},
    **{"claude knowledge": 154, "claude reasoning": 51, "claude math": 34, "claude coding": 31},
}
GPT, CLAUDE = (tuple(name for name in JUDGEBENCH_ROWS if name.startswith(split)) for split in ("gpt", "claude"))
FIGURES = {"gpt mean of sections": GPT, "claude": CLAUDE, "gpt and claude": (*GPT, *CLAUDE), "overall": GPT}
SIDES = {"A>B": ("response_A", "response_B"), "B>A": ("response_B", "response_A")}


def judgebench_scores(means: Means, rows: dict[str, int]) -> dict[str, float]:
    """The mean of the four sections of GPT-4o's answers, and accuracies over rows; "overall" is over GPT-4o's alone.

    `means` has the accuracy by split and section, such as "gpt math", and `rows` the pairs of each.
    """
    scores = {name: pooled_mean(means, subsets, rows) for name, subsets in FIGURES.items()}
    return {**scores, "gpt mean of sections": plain_mean(means, GPT)}


def _subset_of(row: dict) -> str:
    """Split and section, such as "gpt math"; empty where the row does not say them."""
    source, model = str(row.get("source")), str(row.get("response_model"))
    section = next((section for prefix, section in SOURCES.items() if source.startswith(prefix)), None)
    split = next((split for split in ("gpt", "claude") if model.startswith(split)), None)
    return f"{split} {section}" if split and section else ""


def _read_row(row: dict) -> Fields:
    source, model, label = (text_of(row, name) for name in ("source", "response_model", "label"))
    if not source.startswith(tuple(SOURCES)):
        raise UnreadableRow(f"expected source to begin with {', '.join(SOURCES)}, found {source!r}")
    if not model.startswith(("gpt", "claude")):
        raise UnreadableRow(f"expected response_model to begin with gpt or claude, found {model!r}")
    if label not in SIDES:
        raise UnreadableRow(f"expected label A>B or B>A, found {label!r}")
    chosen, rejected = SIDES[label]
    return {
        "subset": _subset_of(row),
        "prompt": messages_of(text_of(row, "question"), "question"),
        "chosen": [[assistant(text_of(row, chosen))]],
        "rejected": [[assistant(text_of(row, rejected))]],
    }


BENCHMARK = Benchmark(
    name="judgebench",
    title="JudgeBench",
    required=("source", "question", "response_model", "response_A", "response_B", "label"),
    row_formats=(
        "source as a name, question, response_A and response_B as texts, response_model as gpt... or claude..., label "
        "as A>B or B>A"
    ),
    read_row=_read_row,
    subset_of=_subset_of,
    hub_id="ScalerLab/JudgeBench",
    splits=("gpt", "claude"),
    id_column="pair_id",
    path_help="JudgeBench as a file, or a folder with one for each split.",
    subset_rows=JUDGEBENCH_ROWS,
    figures=FIGURES,
    formula=judgebench_scores,
    unit="pairs",
    sections={"gpt": GPT, "claude": CLAUDE},
    extras=lambda rows: {"sections": {"gpt": list(GPT), "claude": list(CLAUDE)}},
    note="overall: over the pairs of GPT-4o's answers, as published",
)

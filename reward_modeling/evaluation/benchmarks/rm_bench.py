"""RM-Bench (Liu et al. 2024, arXiv:2410.16184): three styles of right and of wrong answers to each prompt."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import by_subset, finite_rewards
from reward_modeling.display.text import align, count, interval, percent
from reward_modeling.evaluation.benchmarks.base import Benchmark, RowScores, plain_mean, pooled_mean
from reward_modeling.evaluation.benchmarks.rows import Fields, answers_of, messages_of, read_columns, text_of

# `THU-KEG/RM-Bench`. A row is of the domain its `domain` begins with.
RM_BENCH_TOTAL = 1327
RM_BENCH_DOMAINS = {
    "chat": ("chat",),
    "code": ("code",),
    "math": ("math",),
    "safety": ("safety-refuse", "safety-response"),
}
RM_BENCH_LEVELS = ("hard", "normal", "easy")
OVER_PROMPTS = "over prompts"


def rm_bench_wins(chosen: ArrayLike, rejected: ArrayLike) -> NDArray[np.bool_]:
    """RM-Bench: chosen[i] > rejected[j], strictly, of each prompt.

    Args:
        chosen, rejected: `(prompts, 3)` rewards of the styles concise, detailed plain, detailed markdown.

    Returns:
        `(prompts, 3, 3)`, rows by the style of the chosen answer.

    Raises:
        UserError: a reward is not finite.
        ValueError: not three rewards per prompt.
    """
    chosen, rejected = finite_rewards(chosen, "chosen of RM-Bench"), finite_rewards(rejected, "rejected of RM-Bench")
    if chosen.shape != rejected.shape or chosen.ndim != 2 or chosen.shape[1] != 3:
        raise ValueError(f"expected chosen and rejected of shape (prompts, 3), found {chosen.shape}, {rejected.shape}")
    return chosen[:, :, None] > rejected[:, None, :]


def _rm_bench_domain(name: str) -> str:
    """Empty where it is none of the four."""
    return next((domain for domain in RM_BENCH_DOMAINS if name.startswith(domain)), "")


def _missing_parts(names: Iterable[str]) -> dict[str, list[str]]:
    names = set(names)
    return {
        domain: [part for part in parts if not any(name.startswith(part) for name in names)]
        for domain, parts in RM_BENCH_DOMAINS.items()
    }


def check_rm_bench(domains: Sequence[str]) -> list[str]:
    """As `check_subsets`, for the `domain` column of RM-Bench, one element per prompt."""
    messages = [
        f"RM-Bench: unknown domain {name!r}: its {rows:,} prompts count in no score"
        for name, rows in sorted(Counter(domains).items())
        if not _rm_bench_domain(name)
    ]
    for domain, parts in _missing_parts(domains).items():
        for part in parts:
            spoiled = ", ".join((domain, *RM_BENCH_LEVELS, "overall"))
            messages.append(f"RM-Bench: domain {part!r} is missing: incomplete, and without a score: {spoiled}")
    if len(domains) != RM_BENCH_TOTAL:
        messages.append(
            f"RM-Bench: {len(domains):,} prompts, expected {RM_BENCH_TOTAL:,}: "
            "the scores are not those of the published benchmark"
        )
    return messages


def rm_bench_by_domain(domains: Sequence[str], wins: ArrayLike) -> dict[str, NDArray]:
    """The matrices `(prompts, 3, 3)` of each domain, the two safety parts pooled.

    A domain of which a part is missing is left out, so that its figures become NaN. An unknown one is left out too;
    `check_rm_bench` names both.
    """
    missing = _missing_parts(domains)
    matrices = by_subset(list(map(_rm_bench_domain, domains)), wins)
    return {domain: matrices[domain] for domain in RM_BENCH_DOMAINS if not missing[domain]}


def rm_bench_scores(domain_matrices: Mapping[str, ArrayLike], prompts: Mapping[str, int]) -> dict[str, float]:
    """Hard, normal and easy of each domain and of the whole.

    Hard is the mean of the upper triangle (the chosen answer less styled than the rejected), normal of the diagonal,
    easy of the lower triangle. A domain's score is the mean of the three; the whole is the plain mean of the domains.
    Some published tables have the mean over all prompts instead, in which a domain weighs as much as it has prompts.

    Args:
        domain_matrices: the mean matrix `(3, 3)` over the prompts of each domain.
        prompts: how many prompts each domain has.

    Returns:
        "chat hard", "chat normal", "chat easy", "chat", and so on for code, math and safety; then "hard", "normal",
        "easy", "overall" and "over prompts". Always all of them; NaN where incomplete.
    """
    cells = (np.triu_indices(3, 1), np.diag_indices(3), np.tril_indices(3, -1))
    scores: dict[str, float] = {}
    for domain in RM_BENCH_DOMAINS:
        matrix = np.asarray(domain_matrices.get(domain, np.full((3, 3), np.nan)))
        levels = [matrix[..., rows, columns].mean(axis=-1) for rows, columns in cells]
        scores |= {f"{domain} {level}": value for level, value in zip(RM_BENCH_LEVELS, levels, strict=True)}
        scores[domain] = sum(levels) / 3
    for level in RM_BENCH_LEVELS:
        scores[level] = plain_mean(scores, [f"{domain} {level}" for domain in RM_BENCH_DOMAINS])
    scores["overall"] = plain_mean(scores, RM_BENCH_DOMAINS)
    return {**scores, OVER_PROMPTS: pooled_mean(scores, RM_BENCH_DOMAINS, prompts)}


def _read_row(row: dict) -> Fields:
    return {
        "subset": text_of(row, "domain"),
        "prompt": messages_of(row["prompt"], "prompt"),
        "chosen": answers_of(row, "chosen", 3),
        "rejected": answers_of(row, "rejected", 3),
    }


def _matrices(scores: RowScores) -> dict:
    """The share of wins, `(3, 3)`, over all prompts and over those of each domain."""
    wins = rm_bench_wins(scores.chosen, scores.rejected)
    of_domain = {name: [subset.startswith(name) for subset in scores.subsets] for name in RM_BENCH_DOMAINS}
    matrices = {"all": wins} | {name: wins[rows] for name, rows in of_domain.items()}
    return {"matrix": {name: matrix.mean(axis=0).tolist() for name, matrix in matrices.items() if len(matrix)}}


def _figures_table(figures: Mapping) -> list[str]:
    """Domains by levels, each with its interval."""

    def line(label: str, names: Iterable[str]) -> list[str]:
        cells = [figures[name] for name in names]
        return [label, *map(_with_interval, cells), count(cells[-1]["rows"])]

    rows: list[list[str] | None] = [["", *RM_BENCH_LEVELS, "overall", "prompts"]]
    rows += [line(domain, (*(f"{domain} {level}" for level in RM_BENCH_LEVELS), domain)) for domain in RM_BENCH_DOMAINS]
    rows += [None, line("overall", (*RM_BENCH_LEVELS, "overall"))]
    if OVER_PROMPTS in figures:
        label, *cells = line(OVER_PROMPTS, [OVER_PROMPTS])
        rows.append([label, *[""] * len(RM_BENCH_LEVELS), *cells])
    return align(rows)


def _with_interval(row: Mapping) -> str:
    return percent(row["value"]) if row["value"] is None else f"{percent(row['value'])} ({interval(row)})"


def _figures() -> dict[str, tuple[str, ...]]:
    """The domains that each figure is made of."""
    figures: dict[str, tuple[str, ...]] = {}
    for domain in RM_BENCH_DOMAINS:
        figures |= dict.fromkeys((*(f"{domain} {level}" for level in RM_BENCH_LEVELS), domain), (domain,))
    return figures | dict.fromkeys((*RM_BENCH_LEVELS, "overall", OVER_PROMPTS), tuple(RM_BENCH_DOMAINS))


BENCHMARK = Benchmark(
    name="rm_bench",
    title="RM-Bench",
    columns=read_columns(
        ("prompt", "chosen", "rejected", "domain"),
        "prompt as a text or messages, chosen and rejected as lists of 3 texts, domain as a name",
    ),
    read_row=_read_row,
    hub_id="THU-KEG/RM-Bench",
    splits=("train",),
    path_help="RM-Bench as a file.",
    answers=(3, 3),
    stratum=_rm_bench_domain,
    figures=_figures(),
    formula=rm_bench_scores,
    values=lambda scores: rm_bench_by_domain(scores.subsets, rm_bench_wins(scores.chosen, scores.rejected)),
    subset_scores=lambda means: {},
    is_right_or_wrong=False,
    row_result=lambda right, wrong: (right[:, None] > wrong).tolist(),  # chosen[i] > rejected[j]
    check=lambda benchmark, scores: check_rm_bench(scores.subsets),
    extras=_matrices,
    unit="prompts",
    figure_groups={
        "by domain": tuple(RM_BENCH_DOMAINS),
        "by level": RM_BENCH_LEVELS,
        "both": ("overall", OVER_PROMPTS),
    },
    figure_cells={domain: {level: f"{domain} {level}" for level in RM_BENCH_LEVELS} for domain in RM_BENCH_DOMAINS},
    figures_table=_figures_table,
    footnote="percent (95% interval); hard: the chosen answer is the less styled one",
)

"""RM-Bench (Liu et al., 2024): three styles of right and of wrong answers to each prompt."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_modeling.common.intervals import by_subset, finite_rewards
from reward_modeling.evaluation.benchmarks.base import Fields, _answers, _messages, _text, plain_mean


def _rm_bench(row: dict) -> Fields:
    return {
        "subset": _text(row, "domain"),
        "prompt": _messages(row["prompt"], "prompt"),
        "chosen": _answers(row, "chosen", 3),
        "rejected": _answers(row, "rejected", 3),
    }


# RM-Bench (Liu et al. 2024, arXiv:2410.16184): `THU-KEG/RM-Bench`. A row is of the domain its `domain` begins with.
RM_BENCH_TOTAL = 1327
RM_BENCH_DOMAINS = {
    "chat": ("chat",),
    "code": ("code",),
    "math": ("math",),
    "safety": ("safety-refuse", "safety-response"),
}
RM_BENCH_LEVELS = ("hard", "normal", "easy")


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


def _rm_bench_domain(name: str) -> str | None:
    return next((domain for domain in RM_BENCH_DOMAINS if name.startswith(domain)), None)


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
        if _rm_bench_domain(name) is None
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
    matrices = by_subset([_rm_bench_domain(name) or "" for name in domains], wins)
    return {domain: matrices[domain] for domain in RM_BENCH_DOMAINS if not missing[domain]}


def rm_bench_figure_rows(domains: Iterable[str]) -> dict[str, int]:
    """Prompts behind each figure of `rm_bench_scores`, from the `domain` column."""
    prompts = Counter(map(_rm_bench_domain, domains))
    rows = {}
    for domain in RM_BENCH_DOMAINS:
        rows |= dict.fromkeys((domain, *(f"{domain} {level}" for level in RM_BENCH_LEVELS)), prompts[domain])
    total = sum(prompts[domain] for domain in RM_BENCH_DOMAINS)
    return rows | dict.fromkeys((*RM_BENCH_LEVELS, "overall"), total)


def rm_bench_scores(domain_matrices: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Hard, normal and easy of each domain and of the whole.

    Hard is the mean of the upper triangle (the chosen answer less styled than the rejected), normal of the diagonal,
    easy of the lower triangle. A domain's score is the mean of the three; the whole is the plain mean of the domains.

    Args:
        domain_matrices: the mean matrix `(3, 3)` over the prompts of each domain.

    Returns:
        "chat hard", "chat normal", "chat easy", "chat", and so on for code, math and safety; then "hard", "normal",
        "easy" and "overall". Always all twenty; NaN where incomplete.
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
    return {**scores, "overall": plain_mean(scores, RM_BENCH_DOMAINS)}

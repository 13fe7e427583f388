"""The summary of an evaluation that never ran, of random rewards, for the tests of what is made of it."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from reward_modeling.common.intervals import by_subset, estimate, pair_accuracy
from reward_modeling.common.pair_statistics import pair_statistics
from reward_modeling.evaluation.benchmarks.base import check_subsets
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.rewardbench import SECTIONS, SUBSET_ROWS
from reward_modeling.evaluation.benchmarks.rewardbench2 import REWARDBENCH2_ROWS, best_of_four_credit, ties_units
from reward_modeling.evaluation.benchmarks.rm_bench import rm_bench_by_domain, rm_bench_wins
from reward_modeling.evaluation.benchmarks.scored_rows import ScoredRow


def without_nan(value):
    """What json.dumps takes: no dataclass, no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _estimates(name: str, values: dict, subsets: Iterable[str]) -> dict:
    benchmark = BENCHMARKS[name]
    found, rows = estimate(benchmark.formula_of(values), values), benchmark.figure_rows(subsets)
    return {figure: {**dataclasses.asdict(one), "rows": rows[figure]} for figure, one in found.items()}


class Pairs:
    """Random rewards and lengths of pairs; a few rewards are rounded, so that there are ties."""

    def __init__(self, subset_rows: dict[str, int], seed: int):
        generator = np.random.default_rng(seed)
        self.names = [name for name, rows in subset_rows.items() for _ in range(rows)]
        skill = np.repeat(generator.uniform(0.2, 2.4, len(subset_rows)), list(subset_rows.values()))
        self.lengths = generator.integers(5, 60, (2, len(self.names)))
        self.rejected = generator.normal(size=len(self.names))
        longer = 0.02 * (self.lengths[0] - self.lengths[1])
        self.chosen = self.rejected + generator.normal(skill + longer, 1.4)
        self.chosen[:: len(self.names) // 12] = self.rejected[:: len(self.names) // 12]

    def rows(self) -> list[ScoredRow]:
        columns = (range(len(self.names)), self.names, self.chosen[:, None], self.rejected[:, None])
        return [ScoredRow(*row) for row in zip(*columns, strict=True)]

    def subsets(self) -> dict:
        rewards = by_subset(self.names, np.stack([self.chosen, self.rejected], axis=1))
        return {name: pair_accuracy(*pair.T) for name, pair in rewards.items()}

    def estimates(self, name: str) -> dict:
        return _estimates(name, by_subset(self.names, self.chosen > self.rejected), self.names)

    def part(self, title: str, source: str, figures: dict, **others) -> dict:
        pairs = pair_statistics(self.chosen, self.rejected, *self.lengths)
        heading = {
            "title": title,
            "sources": [source],
            "rows": len(self.names),
            "fingerprint": f"{len(self.names):016x}",
        }
        return {**heading, "warnings": [], "figures": figures, "subsets": self.subsets(), "pairs": pairs, **others}


def _rewardbench(missing: str) -> dict:
    rows = {name: count for name, count in SUBSET_ROWS.items() if name != missing}
    pairs = Pairs(rows, seed=1)
    figures = pairs.estimates("rewardbench")
    sections = {section: list(names) for section, names in SECTIONS.items()}
    return pairs.part("RewardBench", "allenai/reward-bench:filtered", figures, sections=sections) | {
        "warnings": check_subsets(BENCHMARKS["rewardbench"], pairs.rows())
    }


def _preference_test_sets() -> dict:
    rows = {name: count // 10 for name, count in BENCHMARKS["preference_test_sets"].subset_rows.items()}
    pairs = Pairs(rows, seed=2)
    figures = pairs.estimates("preference_test_sets")
    return pairs.part("Preference test sets", "allenai/preference-test-sets", figures)


def _rewardbench2() -> dict:
    generator = np.random.default_rng(3)
    ids = [f"{kind}:{number}" for number in range(51) for kind in ("ref", "tied")]
    right = [generator.normal(2, 1, 1 if one.startswith("ref") else 4) for one in ids]
    units = {"Ties": ties_units(ids, right, [generator.normal(size=5) for _ in ids])}
    for name, rows in REWARDBENCH2_ROWS.items():
        if name != "Ties":
            units[name] = best_of_four_credit(generator.normal([1.2, 0, 0, 0], 1, (rows, 4)))
    subsets = [name for name, rows in REWARDBENCH2_ROWS.items() for _ in range(rows)]
    figures = _estimates("rewardbench2", units, subsets)
    return {
        "title": "RewardBench 2",
        "sources": ["allenai/reward-bench-2:test"],
        "rows": 1865,
        "fingerprint": "00ff" * 4,
        "warnings": [],
        "figures": figures,
        "subsets": {name: row for name, row in figures.items() if name != "overall"},
    }


def _rm_bench() -> dict:
    generator = np.random.default_rng(4)
    sizes = {"chat": 129, "code": 228, "math": 529, "safety-refuse": 284, "safety-response": 157}
    domains = [name for name, rows in sizes.items() for _ in range(rows)]
    style = np.array([0.0, 0.7, 1.0])
    shape = (len(domains), 3)
    wins = rm_bench_wins(generator.normal(0.8 + style, 1, shape), generator.normal(style, 1, shape))
    matrices = rm_bench_by_domain(domains, wins)
    matrix = {"all": wins, **matrices}
    return {
        "title": "RM-Bench",
        "sources": ["THU-KEG/RM-Bench"],
        "rows": len(domains),
        "fingerprint": "beef" * 4,
        "warnings": [],
        "figures": _estimates("rm_bench", matrices, domains),
        "subsets": {},
        "matrix": {name: one.mean(axis=0).tolist() for name, one in matrix.items()},
    }


def sample_summary() -> dict:
    """Five benchmarks with the published sizes (the preference test sets a tenth of them); hep-go is missing."""
    report = "pairs.jsonl: 804 rows read, 800 kept (99.5%)\n  dropped because     rows\n  identical answers      4"
    pairs = Pairs({"forum": 500, "code review": 300}, seed=5).part("Pairs", "pairs.jsonl", {}, data_report=report)
    benchmarks = {
        "rewardbench": _rewardbench(missing="hep-go"),
        "preference_test_sets": _preference_test_sets(),
        "rewardbench2": _rewardbench2(),
        "rm_bench": _rm_bench(),
        "pairs": pairs,
    }
    combined = {"overall with prior sets": {"value": None, "low": None, "high": None, "rows": 4536}}
    return without_nan(
        {
            "model": {
                "name_or_path": "models/gemma2b_rm/last_checkpoint",
                "revision": None,
                "class": "GemmaForSequenceClassification",
                "dtype": "float32",
                "max_length": 4096,
                "batching": "shared_prefix",
            },
            "date": "2026-11-22T22:30:00+00:00",
            "arguments": {"model_name": "models/gemma2b_rm/last_checkpoint", "max_length": 4096, "device": None},
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
            "scoring": {
                "conversations": 31_970, "distinct": 30_800, "cut": 3, "cut_tokens": 120, "tokens": 8_812_000,
                "seconds": 61.24, "processes": 1,
            },
            "combined": combined,
            "benchmarks": benchmarks,
        }
    )  # fmt: skip

"""Every benchmark by its name, in the order in which they are scored and shown."""

from dataclasses import field, make_dataclass
from importlib import import_module
from typing import Annotated

from reward_modeling.common.flags import PATH
from reward_modeling.evaluation.benchmarks.base import Benchmark
from reward_modeling.evaluation.benchmarks.preference_test_sets import WITH_PRIOR

# A line for each file beside this one.
FILES = (
    "rewardbench",
    "preference_test_sets",
    "rewardbench2",
    "rm_bench",
    "judgebench",
    "rewardmath",
    "processbench",
    "prmbench",
    "own_pairs",
)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (import_module(f"{__package__}.{file}").BENCHMARK for file in FILES)
}
COMBINED = WITH_PRIOR  # the figure over several benchmarks


def _path_field(benchmark: Benchmark) -> tuple:
    words = benchmark.path_help or f"{benchmark.title} as a file. Unset: {benchmark.hub_id} from the Hub."
    return f"{benchmark.name}_path", Annotated[str | None, PATH], field(default=None, metadata={"help": words})


BenchmarkPaths = make_dataclass("BenchmarkPaths", map(_path_field, BENCHMARKS.values()))
BenchmarkPaths.__doc__ = "The flags that say where a benchmark stands."

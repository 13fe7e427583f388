"""The steps of an evaluation that runs a model: start, read, load, score, write."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.utils import logging as transformers_logging

from reward_modeling.common.errors import SECONDS_TO_SPEAK, UserError
from reward_modeling.data.preferences import kept_column
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows, Rows
from reward_modeling.evaluation.benchmarks.reading import read_benchmark
from reward_modeling.evaluation.files import SCORES, writing_explained
from reward_modeling.evaluation.rewards import score_benchmark
from reward_modeling.evaluation.scores import append_scores
from reward_modeling.evaluation.summary import summarise
from reward_modeling.models.tokenizer import refuse_plain_texts
from reward_modeling.scoring import RewardScorer

logger = logging.getLogger("eval_bench_mark")

HOURS_TO_WAIT = 6  # for the process that downloads, or that has the longest passes


def start_processes() -> PartialState:
    no_gpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
    state = PartialState(cpu=no_gpu, timeout=timedelta(hours=HOURS_TO_WAIT))
    logging.basicConfig(format="%(message)s", level=logging.INFO if state.is_main_process else logging.ERROR)
    for noisy in ("httpx", "httpx2", "datasets", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry twice, before our message
    transformers_logging.set_verbosity_warning()
    return state


def read_benchmarks(
    paths: Mapping[str, str | None], num_proc: int, state: PartialState, options: ReadOptions
) -> list[BenchmarkRows]:
    """All of them before the model is loaded: a wrong path shows at once. Process 0 reads, the others its cache.

    Args:
        paths: of each benchmark by its name; None takes it from the Hub.
    """

    def read() -> list[BenchmarkRows]:
        return [read_benchmark(name, path, num_proc=num_proc, options=options) for name, path in paths.items()]

    mistake, data = None, None
    if state.is_main_process:
        try:
            data = read()
        except UserError as error:
            mistake = error
    if broadcast_object_list([mistake is not None])[0]:
        if mistake is None:
            time.sleep(SECONDS_TO_SPEAK)
            sys.exit(2)
        raise mistake
    data = data or read()
    if state.is_main_process:
        for benchmark in data:
            if benchmark.report is not None:
                print(benchmark.report.table(), flush=True)
    return data


def check_plain_texts(data: list[BenchmarkRows], scorer: RewardScorer) -> None:
    """
    Raises:
        UserError: pairs are plain texts, and the tokenizer has a chat template of its own.
    """
    for benchmark in data:
        prompts = [] if benchmark.rows is None else kept_column(benchmark.rows, "prompt")
        count = sum(not prompt.as_py() for prompt in prompts)
        refuse_plain_texts(count, f"--{benchmark.benchmark}_path", scorer.tokenizer)


def load_scorer(name_or_path: str, state: PartialState, **options: object) -> RewardScorer:
    """Load the model, and say what it is; `options` are those of `RewardScorer.from_pretrained`."""
    scorer = RewardScorer.from_pretrained(name_or_path, device=state.device, **options)
    logger.info(
        "Model: %s, %s, %s, at most %s tokens a conversation; %s batches of at most %s tokens on %d x %s.",
        type(scorer.model).__name__,
        name_or_path,
        scorer.dtype_name,
        scorer.reader.max_length or "any number of",
        scorer.batches.batching,
        f"{scorer.batches.max_tokens:,}",
        state.num_processes,
        state.device.type,
    )
    return scorer


@dataclass
class Scored:
    """The benchmarks that have figures, what is wrong with others, and what scoring took, as summary.json has it."""

    rows: dict[str, Rows] = field(default_factory=dict)
    parts: dict[str, dict] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    scoring: dict[str, float] = field(default_factory=dict)


def score_benchmarks(
    scorer: RewardScorer, data: list[BenchmarkRows], state: PartialState, unfinished: Path, legacy_xstest_weights: bool
) -> Scored:
    """Score one benchmark after the other. What is wrong with one costs no other its figures.

    Returns:
        What it came to, on process 0; elsewhere nothing.
    """
    scored, total, started = Scored(), Counter(), time.perf_counter()
    for benchmark in data:
        rows, counts = score_benchmark(scorer, benchmark, state)
        if not state.is_main_process:
            continue
        with writing_explained(unfinished):  # at once: what comes after may fail
            append_scores(unfinished / SCORES, benchmark.benchmark, rows)
        try:
            part = summarise(benchmark, rows, legacy_xstest_weights=legacy_xstest_weights)
        except UserError as error:
            scored.mistakes.append(str(error))
            continue
        scored.rows[benchmark.benchmark], scored.parts[benchmark.benchmark] = rows, part
        total.update(asdict(counts))
    scored.scoring = {"conversations": total["conversations"], "distinct": total["scored"]}
    scored.scoring |= {name: total[name] for name in ("cut", "cut_tokens", "tokens")}
    scored.scoring |= {"seconds": round(time.perf_counter() - started, 1), "processes": state.num_processes}
    return scored


def describe_model(name_or_path: str, revision: str | None, scorer: RewardScorer) -> dict:
    """The model's part of summary.json."""
    return {
        "name_or_path": name_or_path,
        "revision": revision,
        "class": type(scorer.model).__name__,
        "dtype": scorer.dtype_name,
        "max_length": scorer.reader.max_length,
        "batching": scorer.batches.batching,
    }

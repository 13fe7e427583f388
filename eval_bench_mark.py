"""Score a reward model on RewardBench and the preference test sets, as the leaderboard does.

    accelerate launch eval_bench_mark.py --reward_name_or_path ./models/gemma2b_rm/last_checkpoint \
        --record_dir ./bench_mark_eval.txt

    python eval_bench_mark.py --compare bench_mark_eval/model-a bench_mark_eval/model-b     # no model is loaded
"""

import json
import logging
import os
import platform
import re
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.utils import logging as transformers_logging

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import SECONDS_TO_SPEAK, UserError, report_once_per_node, run_script
from reward_modeling.evaluation.benchmarks.base import BenchmarkRows
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS
from reward_modeling.evaluation.benchmarks.reading import read_benchmark
from reward_modeling.evaluation.comparison import compare
from reward_modeling.evaluation.comparison_report import comparison_tables, write_comparison
from reward_modeling.evaluation.files import (
    REPORT,
    SCORES,
    SUMMARY,
    append_record,
    append_scores,
    read_evaluations,
    writing_explained,
)
from reward_modeling.evaluation.report import write_report
from reward_modeling.evaluation.rewards import BenchmarkRewards, score_benchmark
from reward_modeling.evaluation.summary import combined_figures, pair_verdicts, summarise
from reward_modeling.evaluation.tables import summary_tables
from reward_modeling.scoring import RewardScorer

logger = logging.getLogger("eval_bench_mark")

WITH_PRIOR = ("rewardbench", "preference_test_sets")  # what the overall score with prior sets needs

RECORD = "bench_mark_eval.txt"  # where record_dir is a folder
COMPARISON_FOLDER, COMPARISON, COMPARISON_PAGE = "bench_mark_comparison", "comparison.json", "comparison.html"
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "numpy")
HOURS_TO_WAIT = 6  # for the process that downloads, or that has the longest passes


# ----------------------------------------------------------------------------------------------------------
# Arguments
# ----------------------------------------------------------------------------------------------------------


@dataclass
class ScriptArguments:
    """The defaults to edit."""

    # Model
    reward_name_or_path: str = field(
        default="./models/gemma2b_rm/last_checkpoint",
        metadata={"help": "Hub id or folder of a reward model with one label, or of a LoRA adapter of one."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the model's repository holds."})
    dtype: str | None = field(
        default=None, metadata={"help": "float32, bfloat16 or float16. Unset: bfloat16 on a GPU, float32 on a CPU."}
    )

    # Output
    record_dir: str = field(
        default="./bench_mark_eval.txt",
        metadata={"help": "File to which the scores are appended, name<TAB>score a line; in a folder, one of its own."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of scores.jsonl, summary.json and report.html, in a folder named after the model. Unset: "
            "beside record_dir, without its suffix."
        },
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace what an earlier evaluation of the model left in output_dir."}
    )

    compare: list[str] | None = field(
        default=None,
        metadata={
            "help": "Folders that earlier evaluations have written, 2 to 8: their figures side by side, with paired "
            "intervals of the differences, as a table and a page. No model is loaded. Beside it only --output_dir "
            "(unset: ./bench_mark_comparison) and --overwrite_output_dir."
        },
    )

    # Benchmarks
    benchmarks: None | str | list[str] = field(  # noqa: RUF036 (the order that HfArgumentParser reads)
        default="rewardbench,preference_test_sets",
        metadata={"help": "Some of rewardbench, preference_test_sets, rewardbench2, rm_bench and pairs."},
    )
    rewardbench_path: str | None = field(
        default=None, metadata={"help": "RewardBench as a .jsonl or .parquet file. Unset: from the Hub."}
    )
    preference_test_sets_path: str | None = field(
        default=None, metadata={"help": "A folder with a file for each set, or name=file,name=file."}
    )
    rewardbench2_path: str | None = field(default=None, metadata={"help": "RewardBench 2 as a file."})
    rm_bench_path: str | None = field(default=None, metadata={"help": "RM-Bench as a file."})
    pairs_path: str | None = field(
        default=None, metadata={"help": "Pairs of your own for the benchmark pairs, in any format that rm.py takes."}
    )
    legacy_xstest_weights: bool = field(
        default=False, metadata={"help": "Weigh the two xstest subsets as tables of before September 2024 did."}
    )

    # Scoring
    max_length: int | None = field(
        default=None,
        metadata={"help": "Longer conversations lose their oldest tokens. Unset: the model's own context."},
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Tokens of one forward pass, which bounds its memory. Unset: 32,768 on a GPU, 2,048 else."},
    )
    batching: str = field(
        default="auto",
        metadata={
            "help": "shared_prefix computes a prompt once for all its answers; packed is free of padding; padded is "
            "one row per answer; auto is shared_prefix where the model allows it."
        },
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Worker processes that read files. Unset: one per core, at most 16."}
    )

    def __post_init__(self):
        if self.compare is not None:
            self._check_comparison()
            return
        given = [self.benchmarks] if isinstance(self.benchmarks, str) else self.benchmarks or []
        self.benchmarks = [name for text in given for name in re.split(r"[,\s]+", text) if name]
        self.num_proc = self.num_proc or min(16, os.cpu_count())
        problems = self._problems()
        if problems:
            raise UserError("\n".join(problems))
        self.benchmarks = [name for name in BENCHMARKS if name in self.benchmarks]
        record = Path(self.record_dir).expanduser()
        is_folder = record.is_dir() or self.record_dir.endswith(("/", os.sep))
        self.record_file = record / RECORD if is_folder else record
        beside = self.record_file.with_suffix("") if self.record_file.suffix else Path(f"{self.record_file}_reports")
        self.model_folder = Path(self.output_dir or beside).expanduser() / folder_name(self.reward_name_or_path)

    def _check_comparison(self) -> None:
        """
        Raises:
            UserError: flags of an evaluation beside --compare, which makes none.
        """
        own = ("compare", "output_dir", "overwrite_output_dir")
        others = (one for one in fields(self) if one.name not in own)
        if given := [f"--{one.name}" for one in others if getattr(self, one.name) != one.default]:
            raise UserError(
                f"--compare: expected no flags beside it but --output_dir and --overwrite_output_dir, found "
                f"{', '.join(given)}. It reads what earlier evaluations have written: leave the others out, or "
                "evaluate first."
            )
        self.comparison_folder = Path(self.output_dir or COMPARISON_FOLDER).expanduser()

    def _problems(self) -> list[str]:
        problems = []
        for name in self.benchmarks:
            if name not in BENCHMARKS:
                problems.append(f"--benchmarks: expected some of {', '.join(BENCHMARKS)}, found {name!r}")
        if not self.benchmarks:
            problems.append(f"--benchmarks: expected some of {', '.join(BENCHMARKS)}, found none")
        for name in BENCHMARKS:
            if getattr(self, f"{name}_path") is not None and name not in self.benchmarks:
                chosen = ",".join(self.benchmarks)
                problems.append(f"--{name}_path is given, but not read: pass --benchmarks {chosen},{name} too")
        if "pairs" in self.benchmarks and self.pairs_path is None:
            problems.append("--benchmarks pairs: expected --pairs_path too, the file of pairs")
        if not self.reward_name_or_path.strip():
            problems.append("--reward_name_or_path: expected the Hub id or folder of a reward model, found nothing")
        for name, least in {"max_length": 2, "max_tokens_per_batch": 1, "num_proc": 1}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                problems.append(f"--{name}: expected at least {least}, found {getattr(self, name)}")
        return problems

    def as_passed(self) -> dict[str, object]:
        """The flags with their values, for the summary."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def folder_name(name_or_path: str) -> str:
    """A folder's name from a Hub id or a path: its last two parts, since many models are called last_checkpoint."""
    parts = Path(name_or_path).parts if not Path(name_or_path).exists() else Path(name_or_path).resolve().parts
    return "--".join(re.sub(r"[^\w.-]+", "_", part) for part in parts[-2:] if part.strip("/."))


@dataclass(frozen=True)
class Scored:
    """A benchmark with its rewards, and its part of the summary."""

    data: BenchmarkRows
    rewards: BenchmarkRewards
    part: dict


# ----------------------------------------------------------------------------------------------------------
# Steps of the job
# ----------------------------------------------------------------------------------------------------------


def start_processes() -> PartialState:
    no_gpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
    state = PartialState(cpu=no_gpu, timeout=timedelta(hours=HOURS_TO_WAIT))
    logging.basicConfig(format="%(message)s", level=logging.INFO if state.is_main_process else logging.ERROR)
    for noisy in ("httpx", "httpx2", "datasets", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry twice, before our message
    transformers_logging.set_verbosity_warning()
    return state


def check_place(flag: str, path: Path) -> None:
    """
    Raises:
        UserError: the folder cannot be made or written.
    """
    nearest = next(path for path in (path.absolute(), *path.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"{flag}: expected a folder to write to, found that {nearest} is none. Take another path.")


def check_nothing_is_there(folder: Path, names: tuple[str, ...], args: ScriptArguments) -> None:
    """
    Raises:
        UserError: an earlier output is there, and it is not to be replaced.
    """
    earlier = [name for name in names if (folder / name).exists()]
    if earlier and not args.overwrite_output_dir:
        raise UserError(
            f"{folder}: expected no earlier {'comparison' if args.compare else 'evaluation'}, found "
            f"{', '.join(earlier)}. Pass another --output_dir, or --overwrite_output_dir true to replace them."
        )


def check_outputs(args: ScriptArguments) -> None:
    """Before anything is read.

    Raises:
        UserError: an earlier evaluation is there, or something cannot be written.
    """
    check_place("--record_dir", args.record_file.parent)
    check_place("--output_dir", args.model_folder)
    if args.record_file.exists() and not os.access(args.record_file, os.W_OK):
        raise UserError(f"--record_dir {args.record_file}: expected a file to append to, found it write-protected.")
    own = [(args.model_folder / name).resolve() for name in (SCORES, SUMMARY, REPORT)]
    if args.record_file.resolve() in own:
        raise UserError(f"--record_dir {args.record_file}: expected a file of its own, found one of the evaluation's.")
    check_nothing_is_there(args.model_folder, (SCORES, SUMMARY, REPORT), args)


def read_benchmarks(args: ScriptArguments, state: PartialState) -> list[BenchmarkRows]:
    """All of them before the model is loaded: a wrong path shows at once. Process 0 reads, the others its cache."""

    def read() -> list[BenchmarkRows]:
        return [read_benchmark(name, getattr(args, f"{name}_path"), num_proc=args.num_proc) for name in args.benchmarks]

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
    for one in data:
        if one.report is not None and state.is_main_process:
            print(one.report.table(), flush=True)
    return data


def load_scorer(args: ScriptArguments, state: PartialState) -> RewardScorer:
    scorer = RewardScorer.from_pretrained(
        args.reward_name_or_path,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
        dtype=args.dtype,
        device=state.device,
        max_length=args.max_length,
        max_tokens_per_batch=args.max_tokens_per_batch,
        batching=args.batching,
    )
    logger.info(
        "Model: %s, %s, %s, at most %s tokens a conversation; %s batches of at most %s tokens on %d x %s.",
        type(scorer.model).__name__,
        args.reward_name_or_path,
        scorer.dtype_name,
        scorer.reader.max_length or "any number of",
        scorer.batches.batching,
        f"{scorer.batches.max_tokens:,}",
        state.num_processes,
        state.device.type,
    )
    return scorer


def build_summary(args: ScriptArguments, scorer: RewardScorer, scored: list[Scored], seconds: float) -> dict:
    total = Counter()
    for one in scored:
        total.update(asdict(one.rewards.counts))
    verdicts = [pair_verdicts(one.data, one.rewards) for one in scored if one.data.benchmark in WITH_PRIOR]
    both = {name: values for part in verdicts for name, values in part.items()}
    legacy = args.legacy_xstest_weights
    return {
        "model": {
            "name_or_path": args.reward_name_or_path,
            "revision": args.revision,
            "class": type(scorer.model).__name__,
            "dtype": scorer.dtype_name,
            "max_length": scorer.reader.max_length,
            "batching": scorer.batches.batching,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": args.as_passed(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "scoring": {
            "conversations": total["conversations"],
            "distinct": total["scored"],
            "cut": total["cut"],
            "cut_tokens": total["cut_tokens"],
            "tokens": total["tokens"],
            "seconds": round(seconds, 1),
            "processes": PartialState().num_processes,
        },
        "combined": combined_figures(both, legacy_xstest_weights=legacy) if len(verdicts) == len(WITH_PRIOR) else {},
        "benchmarks": {one.data.benchmark: one.part for one in scored},
    }


def write_results(args: ScriptArguments, unfinished: Path, summary: dict) -> None:
    """The table on the screen; the three files under their names at once; the record."""
    print(summary_tables(summary), flush=True)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
    (unfinished / SUMMARY).write_text(text, encoding="utf-8")
    write_report(summary, unfinished / REPORT)
    args.model_folder.mkdir(parents=True, exist_ok=True)
    for name in (SCORES, SUMMARY, REPORT):
        (unfinished / name).replace(args.model_folder / name)
    unfinished.rmdir()
    with writing_explained(args.model_folder):
        append_record(args.record_file, summary)
    warnings = sum(len(part["warnings"]) for part in summary["benchmarks"].values())
    if warnings:
        logger.warning("!!! %d warning%s above the tables !!!", warnings, "s stand" if warnings > 1 else " stands")
    logger.info("Scores, summary and report: %s", args.model_folder)
    logger.info("Record: %s", args.record_file)


def evaluate(
    args: ScriptArguments, scorer: RewardScorer, data: list[BenchmarkRows], state: PartialState, unfinished: Path
) -> tuple[list[Scored], list[str]]:
    """Score one benchmark after the other. What is wrong with one costs no other its figures.

    Returns:
        The benchmarks with figures, and for each without any the reason (both on process 0 alone).
    """
    scored, mistakes = [], []
    for one in data:
        rewards = score_benchmark(scorer, one, state)
        if not state.is_main_process:
            continue
        with writing_explained(unfinished):  # at once: what comes after may fail
            append_scores(unfinished / SCORES, one, rewards)
        try:
            part = summarise(one, rewards, legacy_xstest_weights=args.legacy_xstest_weights)
            scored.append(Scored(one, rewards, part))
        except UserError as error:
            mistakes.append(str(error))
    return scored, mistakes


def compare_evaluations(args: ScriptArguments) -> None:
    """What earlier evaluations have written, side by side: a table, comparison.json and comparison.html."""
    folder, evaluations = args.comparison_folder, read_evaluations(args.compare)
    check_place("--output_dir", folder)
    check_nothing_is_there(folder, (COMPARISON, COMPARISON_PAGE), args)
    comparison = compare(evaluations)
    print(comparison_tables(comparison), flush=True)
    with writing_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / COMPARISON).write_text(text + "\n", encoding="utf-8")
        write_comparison(comparison, folder / COMPARISON_PAGE)
    print(f"\nComparison: {folder / COMPARISON_PAGE}", flush=True)


def main() -> None:
    with report_once_per_node():
        args, _ = parse_script_arguments(ScriptArguments)
        if args.compare is not None:
            if os.environ.get("RANK", "0") == "0":  # no work for several processes
                compare_evaluations(args)
            return
        check_outputs(args)
    state = start_processes()
    data = read_benchmarks(args, state)
    with report_once_per_node():
        scorer = load_scorer(args, state)
    # Apart from what an earlier evaluation left, until everything is there.
    unfinished = args.model_folder.with_name(f"{args.model_folder.name}.unfinished")
    if state.is_main_process:
        with writing_explained(unfinished):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
    started = time.perf_counter()
    with report_once_per_node():
        scored, mistakes = evaluate(args, scorer, data, state, unfinished)
    if scored:
        with writing_explained(unfinished):
            write_results(args, unfinished, build_summary(args, scorer, scored, time.perf_counter() - started))
    elif mistakes:
        mistakes.append(f"The rewards of the rows are in {unfinished / SCORES}.")
    state.wait_for_everyone()
    state.destroy_process_group()
    if mistakes:
        raise UserError("\n".join(mistakes))


if __name__ == "__main__":
    sys.argv[0] = "eval_bench_mark.py"
    run_script(main)

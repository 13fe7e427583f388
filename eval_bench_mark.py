"""Score a reward model on RewardBench and the preference test sets, as the leaderboard does.

    accelerate launch eval_bench_mark.py --reward_name_or_path ./models/gemma2b_rm/last_checkpoint \
        --record_dir ./bench_mark_eval.txt

    python eval_bench_mark.py --compare bench_mark_eval/model-a bench_mark_eval/model-b     # no model is loaded
    python eval_bench_mark.py --from_verdicts verdicts.csv --benchmarks rewardbench         # nor here
"""

import logging
import os
import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError, report_once_per_node, run_script
from reward_modeling.common.flags import PATH, flag, flag_problems, one_of
from reward_modeling.common.launch import worker_count
from reward_modeling.data.read_options import (
    COLUMNS_HELP,
    IGNORE_HELP,
    PLAIN_TEXT_HELP,
    PREFERRED_HELP,
    REVISION_HELP,
    read_options,
    read_options_problems,
)
from reward_modeling.evaluation.benchmarks.catalog import BENCHMARKS, BenchmarkPaths
from reward_modeling.evaluation.benchmarks.processbench import SPLIT_ROWS, TUNED_ON
from reward_modeling.objectives.weights_flag import WEIGHTS_HELP, read_weights

RECORD = "bench_mark_eval.txt"  # where record_dir is a folder
COMPARISON_FOLDER = "bench_mark_comparison"
# What may stand beside these two flags, which evaluate no model.
WITH_COMPARE = ("compare", "output_dir", "overwrite_output_dir")
WITH_VERDICTS = ("from_verdicts", "benchmarks", "legacy_xstest_weights", "record_dir", *WITH_COMPARE[1:])


@dataclass
class ScriptArguments(BenchmarkPaths):
    """The defaults to edit; beside them --rewardbench_path, and so on: where each benchmark stands."""

    # Model
    reward_name_or_path: Annotated[str, PATH] = field(
        default="./models/gemma2b_rm/last_checkpoint",
        metadata={"help": "Hub id or folder of a reward model, or of a LoRA adapter of one."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the model's repository holds."})
    dtype: str | None = field(
        default=None, metadata={"help": "float32, bfloat16 or float16. Unset: bfloat16 on a GPU, float32 on a CPU."}
    )

    chat_template: Annotated[str | None, PATH] = flag(
        None, "A jinja file: the chat template to take as it is, in the place of the model's own."
    )

    weights: str | None = field(default=None, metadata={"help": WEIGHTS_HELP})

    # Output
    record_dir: Annotated[str, PATH] = field(
        default="./bench_mark_eval.txt",
        metadata={"help": "File to which the scores are appended, name<TAB>score a line; in a folder, one of its own."},
    )
    output_dir: Annotated[str | None, PATH] = field(
        default=None,
        metadata={
            "help": "Folder of scores.jsonl, summary.json and report.html, in a folder named after the model. Unset: "
            "beside record_dir, without its suffix."
        },
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Replace the benchmarks that are asked for in what an earlier evaluation of the model left in "
            "output_dir. The others there stay in any case."
        },
    )

    compare: Annotated[list[str] | None, PATH] = field(
        default=None,
        metadata={
            "help": "Folders that earlier evaluations have written, 2 to 8: their figures side by side, with paired "
            "intervals of the differences, as a table and a page. No model is loaded. Beside it only --output_dir "
            "(unset: ./bench_mark_comparison) and --overwrite_output_dir."
        },
    )

    # Benchmarks
    benchmarks: None | str | list[str] = field(  # noqa: RUF036 (as in training/flags.py)
        default="rewardbench,preference_test_sets", metadata={"help": f"Some of {', '.join(BENCHMARKS)}."}
    )
    subsets: None | str | list[str] = flag(  # noqa: RUF009, RUF036 (as above)
        None, "Only these subsets of the benchmarks, with commas between: what needs others has no score."
    )
    from_verdicts: Annotated[str | None, PATH] = field(
        default=None,
        metadata={
            "help": "A file of verdicts that were made elsewhere (.csv: row, subset, and for each model a column of 1, "
            "0 or nothing), or of rewards (.jsonl, as scores.jsonl): its models' figures. No model is loaded."
        },
    )
    legacy_xstest_weights: bool = field(
        default=False, metadata={"help": "Weigh the two xstest subsets as tables of before September 2024 did."}
    )

    tune_threshold_on: Annotated[str, one_of(*SPLIT_ROWS)] = flag(
        TUNED_ON,
        "Of ProcessBench, the split that a threshold is tuned on; figures at 0.5 stand beside those at it in any case.",
    )

    # Pairs of your own
    columns: str | None = field(default=None, metadata={"help": COLUMNS_HELP})
    preferred_values: str | None = field(default=None, metadata={"help": PREFERRED_HELP})
    ignore_columns: str | None = field(default=None, metadata={"help": IGNORE_HELP})
    plain_text: bool = field(default=False, metadata={"help": PLAIN_TEXT_HELP})
    dataset_revision: str | None = field(default=None, metadata={"help": f"{REVISION_HELP} (of --pairs_path.)"})

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
            self._check_alone("compare", WITH_COMPARE, "earlier evaluations have written", "evaluate first")
            self.comparison_folder = Path(self.output_dir or COMPARISON_FOLDER)
            return
        if self.from_verdicts is not None:
            self._check_alone("from_verdicts", WITH_VERDICTS, "was scored elsewhere", "evaluate the model itself")
        given = [self.benchmarks] if isinstance(self.benchmarks, str) else self.benchmarks or []
        self.benchmarks = [name for text in given for name in re.split(r"[,\s]+", text) if name]
        given = [self.subsets] if isinstance(self.subsets, str) else self.subsets or []
        self.subsets = [name.strip() for text in given for name in text.split(",") if name.strip()]
        self.num_proc = worker_count(self.num_proc)
        problems = self._problems()
        if problems:
            raise UserError("\n".join(problems))
        self.benchmarks = [name for name in BENCHMARKS if name in self.benchmarks]
        record = Path(self.record_dir)
        is_folder = record.is_dir() or self.record_dir.endswith(("/", os.sep))
        self.record_file = record / RECORD if is_folder else record

    def _check_alone(self, flag: str, allowed: tuple[str, ...], reads: str, otherwise: str) -> None:
        """
        Raises:
            UserError: flags of an evaluation beside one that makes none.
        """
        others = (flag for flag in fields(self) if flag.name not in allowed)
        if given := [f"--{other.name}" for other in others if getattr(self, other.name) != other.default]:
            beside = " and ".join(f"--{name}" for name in allowed[1:])
            raise UserError(
                f"--{flag}: expected no flags beside it but {beside}, found {', '.join(given)}. It reads what {reads}: "
                f"leave the others out, or {otherwise}."
            )

    def _problems(self) -> list[str]:
        problems = read_options_problems(self.columns, self.ignore_columns, self.preferred_values)
        try:
            read_weights(self.weights)
        except UserError as error:
            problems.append(str(error))
        of_pairs = ("columns", "preferred_values", "ignore_columns", "plain_text", "dataset_revision")
        if "pairs" not in self.benchmarks and (given := [f"--{name}" for name in of_pairs if getattr(self, name)]):
            problems.append(f"{', '.join(given)}: expected pairs among --benchmarks, found none")
        for name in self.benchmarks:
            if name not in BENCHMARKS:
                problems.append(f"--benchmarks: expected some of {', '.join(BENCHMARKS)}, found {name!r}")
        if not self.benchmarks:
            problems.append(f"--benchmarks: expected some of {', '.join(BENCHMARKS)}, found none")
        for name in BENCHMARKS:
            if getattr(self, f"{name}_path") is not None and name not in self.benchmarks:
                chosen = ",".join(self.benchmarks)
                problems.append(f"--{name}_path is given, but not read: pass --benchmarks {chosen},{name} too")
        problems += flag_problems(self)
        if self.tune_threshold_on != TUNED_ON and "processbench" not in self.benchmarks:
            problems.append("--tune_threshold_on: expected processbench among --benchmarks, whose threshold this is")
        if self.legacy_xstest_weights and "rewardbench" not in self.benchmarks:
            problems.append("--legacy_xstest_weights: expected rewardbench among --benchmarks, whose weights these are")
        if "pairs" in self.benchmarks and self.pairs_path is None and self.from_verdicts is None:
            problems.append("--benchmarks pairs: expected --pairs_path too, the file of pairs")
        if not self.reward_name_or_path.strip():
            problems.append("--reward_name_or_path: expected the Hub id or folder of a reward model, found nothing")
        for name, least in {"max_length": 2, "max_tokens_per_batch": 1, "num_proc": 1}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                problems.append(f"--{name}: expected at least {least}, found {getattr(self, name)}")
        return problems

    def model_folder(self, model: str) -> Path:
        """Where the files of a model go."""
        from reward_modeling.evaluation.files import folder_name

        record = self.record_file
        beside = record.with_suffix("") if record.suffix else Path(f"{record}_reports")
        return Path(self.output_dir or beside) / folder_name(model)

    def as_passed(self) -> dict[str, object]:
        """The flags with their values, for the summary."""
        return {flag.name: getattr(self, flag.name) for flag in fields(self)}


# ----------------------------------------------------------------------------------------------------------
# Job
# ----------------------------------------------------------------------------------------------------------


def main() -> None:
    with report_once_per_node():
        args, _ = parse_script_arguments(ScriptArguments)
    if args.compare is None and args.from_verdicts is None:
        evaluate_model(args)
    elif os.environ.get("RANK", "0") == "0":  # no work for several processes
        logging.basicConfig(format="%(message)s", level=logging.INFO)
        # What each needs is imported when the flags are known: plots, and torch for a model.
        if args.compare is not None:
            from reward_modeling.evaluation.comparison import compare_evaluations

            compare_evaluations(args.compare, args.comparison_folder, args.overwrite_output_dir)
        else:
            from reward_modeling.evaluation.verdicts import evaluate_verdicts

            evaluate_verdicts(
                args.from_verdicts, args.benchmarks, args.as_passed(), args.model_folder, args.record_file
            )


def evaluate_model(args: ScriptArguments) -> None:
    """Score every benchmark, and write what it came to."""
    from reward_modeling.evaluation import job
    from reward_modeling.evaluation.earlier import (
        check_same_model,
        check_same_scoring,
        merged_scores,
        read_earlier,
        together,
    )
    from reward_modeling.evaluation.files import SCORES, check_outputs, new_unfinished, write_results
    from reward_modeling.evaluation.step_scoring import check_kind

    folder = args.model_folder(args.reward_name_or_path)
    with report_once_per_node():
        check_outputs(folder, args.record_file)
        earlier = read_earlier(folder, args.benchmarks, args.overwrite_output_dir)
        if earlier is not None:
            check_same_model(earlier, args.reward_name_or_path, args.revision)
    state = job.start_processes()
    paths = {name: getattr(args, f"{name}_path") for name in args.benchmarks}
    options = read_options(args.columns, args.ignore_columns, args.dataset_revision, args.preferred_values)
    data = job.read_benchmarks(paths, args.num_proc, state, options, args.subsets)
    with report_once_per_node():
        scorer = job.load_scorer(
            args.reward_name_or_path,
            state,
            revision=args.revision,
            trust_remote_code=args.trust_remote_code,
            dtype=args.dtype,
            max_length=args.max_length,
            max_tokens_per_batch=args.max_tokens_per_batch,
            batching=args.batching,
            chat_template=args.chat_template,
            weights=read_weights(args.weights),
        )
        check_kind(args.reward_name_or_path, scorer, data)
        model = job.describe_model(args.reward_name_or_path, args.revision, scorer)
        if earlier is not None:
            check_same_scoring(earlier, model, args.as_passed())
        if not args.plain_text:
            job.check_plain_texts(data, scorer)
    unfinished = new_unfinished(folder, is_writer=state.is_main_process)
    with report_once_per_node():
        options = {"legacy_xstest_weights": args.legacy_xstest_weights, "tune_on": args.tune_threshold_on}
        scored = job.score_benchmarks(scorer, data, state, unfinished, **options)
    if scored.parts:
        summary = together(earlier, model, args.as_passed(), scored.rows, scored.parts, state.num_processes)
        scores = None if earlier is None else merged_scores(earlier, unfinished / SCORES)
        write_results(unfinished, folder, args.record_file, summary, new=list(scored.parts), scores=scores)
    elif scored.mistakes:
        scored.mistakes.append(f"The rewards of the rows are in {unfinished / SCORES}.")
    state.wait_for_everyone()
    state.destroy_process_group()
    if scored.mistakes:
        raise UserError("\n".join(scored.mistakes))


if __name__ == "__main__":
    sys.argv[0] = "eval_bench_mark.py"
    run_script(main)

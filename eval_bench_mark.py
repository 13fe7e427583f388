"""Score a reward model on RewardBench and the preference test sets, as the leaderboard does.

    accelerate launch eval_bench_mark.py --reward_name_or_path ./models/gemma2b_rm/last_checkpoint \
        --record_dir ./bench_mark_eval.txt

    python eval_bench_mark.py --compare bench_mark_eval/model-a bench_mark_eval/model-b     # no model is loaded
    python eval_bench_mark.py --from_verdicts verdicts.csv --benchmarks rewardbench         # nor here
"""

import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError, report_once_per_node, run_script
from reward_modeling.data.read_options import read_options
from reward_modeling.evaluation.flags import EvaluationFlags
from reward_modeling.objectives.weights_flag import read_weights

if TYPE_CHECKING:  # what takes seconds to import is imported when the flags are known
    from accelerate import PartialState

    from reward_modeling.evaluation.benchmarks.base import BenchmarkRows
    from reward_modeling.evaluation.beside import Beside
    from reward_modeling.evaluation.earlier import Earlier


@dataclass
class ScriptArguments(EvaluationFlags):
    """The defaults to edit.

    What a flag means stands with its base class, in evaluation/flags.py, and in `python eval_bench_mark.py --help`.
    """

    # Model
    reward_name_or_path: str = "./models/gemma2b_rm/last_checkpoint"
    dtype: str | None = None  # unset: bfloat16 on a GPU, float32 on a CPU

    # Benchmarks
    benchmarks: None | str | list[str] = "rewardbench,preference_test_sets"  # noqa: RUF036 (as in training/flags.py)

    # Output
    record_dir: str = "./bench_mark_eval.txt"  # the scores are appended, name<TAB>score a line
    output_dir: str | None = None  # unset: beside record_dir

    # Scoring
    max_length: int | None = None  # unset: the model's own context
    max_tokens_per_batch: int | None = None  # unset: 32,768 on a GPU, 2,048 else; the knob for memory
    batching: str = "auto"  # shared_prefix where the model allows it, else padded; or packed


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
    """Score every benchmark, and write what it came to; the model that shall stand beside comes first."""
    from reward_modeling.evaluation import job
    from reward_modeling.evaluation.beside import read_beside

    with report_once_per_node():
        beside = read_beside(args.beside, args.benchmarks) if args.beside else None
        is_scored = args.beside and beside is None
        models = [args.beside] if is_scored else []
        models.append(args.reward_name_or_path)
        earlier = {model: check_model(args, model) for model in models}
    state = job.start_processes()
    paths = {name: getattr(args, f"{name}_path") for name in args.benchmarks}
    options = read_options(args.columns, args.ignore_columns, args.dataset_revision, args.preferred_values)
    data = job.read_benchmarks(paths, args.num_proc, state, options, args.subsets)
    mistakes: list[str] = []
    for model in models:
        beside, found = evaluate_one(args, model, earlier[model], data, state, beside)
        mistakes += found
    state.destroy_process_group()
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))


def check_model(args: ScriptArguments, name: str) -> "Earlier | None":
    """What stays of an earlier evaluation of a model, before anything is read."""
    from reward_modeling.evaluation.earlier import check_same_model, read_earlier
    from reward_modeling.evaluation.files import check_outputs
    from reward_modeling.evaluation.scorers import check_before

    is_main = name == args.reward_name_or_path
    check_before(
        name,
        args.benchmarks,
        args.step_format if is_main else None,
        flag="reward_name_or_path" if is_main else "beside",
        revision=args.revision_of(name),
        trust_remote_code=args.trust_remote_code,
    )
    folder = args.model_folder(name)
    check_outputs(folder, args.record_file)
    earlier = read_earlier(folder, args.benchmarks, args.overwrite_output_dir)
    if earlier is not None:
        check_same_model(earlier, name, args.revision_of(name))
    return earlier


def evaluate_one(
    args: ScriptArguments,
    name: str,
    earlier: "Earlier | None",
    data: "list[BenchmarkRows]",
    state: "PartialState",
    beside: "Beside | None",
) -> "tuple[Beside, list[str]]":
    """Score one model, and write what it came to; return that, and what is wrong with some benchmarks.

    Args:
        beside: a model whose figures stand beside it.
    """
    from reward_modeling.evaluation import job
    from reward_modeling.evaluation.beside import Beside, add_beside
    from reward_modeling.evaluation.earlier import check_same_scoring, merged_scores, together
    from reward_modeling.evaluation.files import SCORES, new_unfinished, write_results
    from reward_modeling.evaluation.scorers import check_plain_texts, describe_model, load_scorer

    folder, is_main, legacy = args.model_folder(name), name == args.reward_name_or_path, args.legacy_xstest_weights
    arguments = args.as_passed() | ({} if is_main else {"reward_name_or_path": name, "beside": None})
    with report_once_per_node():
        scorer = load_scorer(
            name,
            state,
            data,
            revision=args.revision_of(name),
            trust_remote_code=args.trust_remote_code,
            dtype=args.dtype,
            max_length=args.max_length,
            max_tokens_per_batch=args.max_tokens_per_batch,
            batching=args.batching,
            chat_template=args.chat_template if is_main else None,
            weights=read_weights(args.weights) if is_main else None,
            step_format=args.step_format if is_main else None,
        )
        model = describe_model(name, args.revision_of(name), scorer)
        if earlier is not None:
            check_same_scoring(earlier, model, arguments)
        if not args.plain_text:
            check_plain_texts(data, scorer)
    unfinished = new_unfinished(folder, is_writer=state.is_main_process)
    with report_once_per_node():
        options = {"legacy_xstest_weights": legacy, "tune_on": args.tune_threshold_on}
        scored = job.score_benchmarks(scorer, data, state, unfinished, **options)
    if scored.parts:
        if beside is not None:
            add_beside(scored.parts, scored.rows, beside, legacy_xstest_weights=legacy)
        summary = together(earlier, model, arguments, scored.rows, scored.parts, state.num_processes)
        scores = None if earlier is None else merged_scores(earlier, unfinished / SCORES)
        write_results(unfinished, folder, args.record_file, summary, new=list(scored.parts), scores=scores)
    elif scored.mistakes:
        scored.mistakes.append(f"The rewards of the rows are in {unfinished / SCORES}.")
    state.wait_for_everyone()
    return Beside(model, scored.rows, scored.parts), scored.mistakes


if __name__ == "__main__":
    sys.argv[0] = "eval_bench_mark.py"
    run_script(main)

"""What several flags say together, checked before anything is loaded: every problem, in one list.

What concerns one flag alone stands with the flag, in training/arguments.py.
"""

import os
from collections.abc import Iterator
from typing import Any

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import NEEDS_ADAPTER, changed_flags, flag_problems, flags_with
from reward_modeling.common.launch import launched_with
from reward_modeling.data.read_options import read_options_problems
from reward_modeling.data.set_paths import evaluation_paths
from reward_modeling.estimate.memory import GPUS, STATES_OF_OPTIMIZER
from reward_modeling.models.adapters import four_bit_problem
from reward_modeling.training.launch_checks import launch_problems
from reward_modeling.training.tracking import tracker_problems


def argument_problems(args: Any) -> list[str]:
    """Every problem of a `RunArguments`, each with what was expected and what was found."""
    return [
        *flag_problems(args),
        *read_options_problems(args.columns, args.ignore_columns, args.preferred_values, args.read_targets),
        *args.objective_problems(),
        *_step_problems(args),
        *tracker_problems(args.report_to),
        *_adapter_problems(args),
        *_estimate_problems(args),
        *_best_model_problems(args),
        *_set_problems(args),
        *launch_problems(args, os.environ),
    ]


def _set_problems(args: Any) -> Iterator[str]:
    try:
        evaluation_paths(args.eval_set_path)
    except UserError as error:
        yield str(error)


def _step_problems(args: Any) -> Iterator[str]:
    if args.max_steps == -1 and not args.num_train_epochs > 0:
        yield f"--num_train_epochs: expected more than 0, found {args.num_train_epochs}"
    least = 2 * args.max_length
    if args.max_tokens_per_micro_batch is not None and args.max_tokens_per_micro_batch < least:
        yield (
            f"--max_tokens_per_micro_batch: expected at least {least} (2 x max_length), found "
            f"{args.max_tokens_per_micro_batch}"
        )
    for kind in ("save", "eval"):  # transformers' flags of a strategy that is not the default here
        steps = f"{kind}_steps"
        if changed_flags(args, [steps]) and getattr(args, f"{kind}_strategy") != "steps":
            yield (
                f"--{steps}: expected --{kind}_strategy steps beside it, without which it does nothing, found "
                f"{getattr(args, steps):g} alone. Pass both, or --{kind}_every_steps in their place"
            )


def _adapter_problems(args: Any) -> Iterator[str]:
    if not args.use_peft:
        given = [f"--{name}" for name in changed_flags(args, flags_with(type(args), NEEDS_ADAPTER))]
        if given:
            yield f"{', '.join(given)}: expected --use_peft true beside it, found false"
    elif args.load_in_4bit:
        if not args.estimate and (reason := four_bit_problem()):
            yield f"--load_in_4bit: {reason}"
        if args.merge_adapter:
            yield (
                "--merge_adapter: expected weights that are not in four bits, found --load_in_4bit. The adapter was "
                "trained beside the rounded weights: merge by hand (python -m reward_modeling.scoring.merge_adapter), "
                "and evaluate what comes out."
            )
        if args.deepspeed or args.fsdp or any(launched_with(os.environ, name) for name in ("DEEPSPEED", "FSDP")):
            yield "--load_in_4bit: expected one GPU or DDP, found DeepSpeed or FSDP, which would cut it"


def _estimate_problems(args: Any) -> Iterator[str]:
    given = [f"--{name}" for name in changed_flags(args, ["gpus", "gpu"])]
    if given and not args.estimate:
        yield f"{', '.join(given)}: expected --estimate beside it, found none: a run takes the GPUs of its launch"
    if args.estimate and args.gpu is None:
        yield f"--gpu: expected one of {', '.join(GPUS)} beside --estimate, found none"
    if args.estimate and args.optim not in STATES_OF_OPTIMIZER:
        known = ", ".join(STATES_OF_OPTIMIZER)
        yield f"--optim: expected one whose memory is known, {known}, beside --estimate, found {args.optim}"


def _best_model_problems(args: Any) -> Iterator[str]:
    metric, known = (args.metric_for_best_model or "").removeprefix("eval_"), ", ".join(args.best_metrics)
    if metric and metric not in args.best_metrics:
        yield f"--metric_for_best_model: expected one of {known}, found {args.metric_for_best_model!r}"
    if args.save_strategy == "best" and not metric:
        yield f"--save_strategy best: expected --metric_for_best_model too, one of {known}"
    flag = "--early_stopping_patience"
    if args.early_stopping_patience is None:
        if args.early_stopping_threshold:
            yield f"--early_stopping_threshold: expected {flag} beside it, found none"
        return
    evaluates, eval_steps, saves, save_steps = args.eval_strategy, args.eval_steps, args.save_strategy, args.save_steps
    between = saves == "steps" and eval_steps and save_steps % eval_steps
    best_is_saved = saves == "best" or (saves == evaluates and not between)
    if evaluates == "no":
        yield f"{flag}: expected evaluations (--eval_every_steps, --eval_strategy epoch), found none"
    elif args.eval_set_path is None and args.eval_size == 0:
        yield f"{flag}: expected rows to evaluate on, found --eval_size 0 and no --eval_set_path"
    elif args.load_best_model_at_end is not False and not best_is_saved:
        yield (
            f"{flag}: expected the best state to be saved, for which --save_every_steps has to be a multiple of "
            f"--eval_every_steps (or both once an epoch), found evaluations {_in_words(evaluates, eval_steps)} and "
            f"checkpoints {_in_words(saves, save_steps)}. --load_best_model_at_end false ends with the last state "
            "instead"
        )


def _in_words(strategy: str, steps: float | None) -> str:
    if strategy == "steps" and steps:
        return f"every {steps:g} steps"
    return {"no": "never", "epoch": "once an epoch"}.get(strategy, strategy)

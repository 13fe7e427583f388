"""What is wrong with the flags of rm.py, before anything is loaded: all of it, in one list."""

import os
from collections.abc import Iterator
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from reward_modeling.common.flags import NEEDS_ADAPTER, flag_problems, flags_with
from reward_modeling.common.launch import launched_with
from reward_modeling.estimate.report import estimate_problems
from reward_modeling.models.adapters import four_bit_problem
from reward_modeling.training.early_stopping import early_stopping_problems
from reward_modeling.training.launch_checks import launch_problems
from reward_modeling.training.tracking import tracker_problems

# Flags of transformers with another value than their default, and what speaks against it.
WITHOUT_EFFECT = {
    "neftune_noise_alpha": "Its noise is scaled by the length of a row, which in a packed row is that of many answers",
    "train_sampling_strategy": "Steps are drawn whatever the lengths, and micro-batches balanced by tokens",
    "auto_find_batch_size": "Memory is a matter of --max_tokens_per_micro_batch; the batch size is the pairs of a step",
    "enable_jit_checkpoint": "A checkpoint is saved at SIGTERM without it, and its own handler would be in the way",
}


def argument_problems(args: Any) -> list[str]:
    """Every problem of an `rm.ScriptArguments` as it was parsed, each with what was expected and what was found."""
    return [
        *_numbers_and_names(args),
        *_trackers_and_metrics(args),
        *_flags_without_effect(args),
        *_adapters(args),
        *estimate_problems(args.estimate, args.gpus, args.gpu, args.optim),
        *_early_stopping(args),
        *launch_problems(
            deepspeed=args.deepspeed,
            fsdp=args.fsdp,
            fsdp_config=args.fsdp_config,
            gradient_checkpointing=args.gradient_checkpointing,
            environment=os.environ,
        ),
    ]


def _numbers_and_names(args: Any) -> Iterator[str]:
    """Values out of their range."""
    yield from flag_problems(args)
    if args.max_steps != -1 and args.max_steps < 1:
        yield f"--max_steps: expected at least 1, or -1 for whole epochs, found {args.max_steps}"
    if args.max_steps == -1 and not args.num_train_epochs > 0:
        yield f"--num_train_epochs: expected more than 0, found {args.num_train_epochs}"
    if args.max_tokens_per_micro_batch is not None and args.max_tokens_per_micro_batch < 2 * args.max_length:
        yield (
            f"--max_tokens_per_micro_batch: expected at least {2 * args.max_length} (2 x max_length, one pair), "
            f"found {args.max_tokens_per_micro_batch}"
        )


def _trackers_and_metrics(args: Any) -> Iterator[str]:
    """Names that transformers would find out late, or not at all."""
    trackers = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    for tracker in trackers:
        if tracker not in ("none", "all", *INTEGRATION_TO_CALLBACK):
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            yield f"--report_to: expected none, all or some of {known}, found {tracker!r}"
    yield from tracker_problems(trackers)
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    if metric and metric not in args.best_metrics:
        known = ", ".join(args.best_metrics)
        yield f"--metric_for_best_model: expected one of {known}, found {args.metric_for_best_model!r}"
    if args.save_strategy == "best" and not metric:
        yield "--save_strategy best: expected --metric_for_best_model too, accuracy or loss"


def _flags_without_effect(args: Any) -> Iterator[str]:
    """Flags of transformers that would do nothing here, or something else than they say."""
    if str(args.include_num_input_tokens_seen).lower() not in ("false", "no"):
        yield "--include_num_input_tokens_seen: tokens_per_second and tokens_saved are logged instead"
    if args.label_smoothing_factor:
        yield "--label_smoothing_factor is for classifiers: pass --label_smoothing"
    for name, reason in WITHOUT_EFFECT.items():
        default = type(args).__dataclass_fields__[name].default
        if getattr(args, name) != default:
            yield f"--{name}: expected {default}, found {getattr(args, name)}. {reason}"
    for kind in ("save", "eval"):  # transformers' flags of a strategy that is not its default here
        steps, strategy = (getattr(args, f"{kind}_{name}") for name in ("steps", "strategy"))
        is_default = steps == type(args).__dataclass_fields__[f"{kind}_steps"].default
        if not is_default and strategy != "steps" and not getattr(args, f"{kind}_every_steps"):
            yield (
                f"--{kind}_steps: expected --{kind}_strategy steps beside it, without which it does nothing, found "
                f"{steps:g} alone. Pass both, or --{kind}_every_steps in their place"
            )
    if args.use_liger_kernel:
        yield (
            "--use_liger_kernel: expected false. What liger-kernel saves is the logits of a vocabulary, which a "
            "score head does not have; its other kernels replace functions of transformers at run time, and were "
            "not shown equal on packed rows"
        )


def _adapters(args: Any) -> Iterator[str]:
    """What is wrong with the flags of adapters."""
    if not args.use_peft:
        defaults = type(args).__dataclass_fields__
        needy = flags_with(type(args), NEEDS_ADAPTER)
        given = [f"--{name}" for name in needy if getattr(args, name) != defaults[name].default]
        if given:
            yield f"{', '.join(given)}: expected --use_peft true beside it, found false"
        return
    for name in ("lora_r", "lora_alpha"):
        if getattr(args, name) < 1:
            yield f"--{name}: expected at least 1, found {getattr(args, name)}"
    if not 0 <= args.lora_dropout < 1:
        yield f"--lora_dropout: expected 0 or more and below 1, found {args.lora_dropout}"
    if args.load_in_4bit:
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


def _early_stopping(args: Any) -> list[str]:
    return early_stopping_problems(
        args.early_stopping_patience,
        args.early_stopping_threshold,
        eval_strategy="steps" if args.eval_every_steps else args.eval_strategy,
        eval_steps=args.eval_every_steps or args.eval_steps,
        save_strategy="steps" if args.save_every_steps else args.save_strategy,
        save_steps=args.save_every_steps or args.save_steps,
        keeps_best=args.load_best_model_at_end is not False,
        no_rows=args.eval_set_path is None and args.eval_size == 0,
    )

"""A training run from its flags to the verified model."""

import logging
import math
import os
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from transformers import set_seed
from transformers.integrations import unset_hf_deepspeed_config
from transformers.training_args import OptimizerNames
from transformers.utils import logging as transformers_logging

from reward_modeling.checkpoints.folders import archive_later_checkpoints, clean_up
from reward_modeling.checkpoints.output_folder import (
    check_all_nodes_share,
    check_nothing_is_lost,
    check_output_folder,
    checkpoint_to_resume,
    is_own,
    only_run_in,
    remove_earlier_run,
)
from reward_modeling.checkpoints.run_record import check_same_run, run_record
from reward_modeling.common.arguments import parse_script_arguments, without_tokens
from reward_modeling.common.devices import warm_up_mkl
from reward_modeling.common.errors import UserError, report_once_per_node
from reward_modeling.common.file_names import CHECKPOINT, DATA_REPORT, PREFLIGHT, REPORT, RUN
from reward_modeling.common.launch import engine_name, launched_with
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import PADDED, plan_epoch
from reward_modeling.estimate.meta_model import build_model
from reward_modeling.estimate.report import RunSettings, estimate_run
from reward_modeling.models.adapters import add_adapter, four_bit_options
from reward_modeling.models.attention import SHARED_PREFIX, register_shared_prefix_attention
from reward_modeling.models.loading import load_config, load_reward_model
from reward_modeling.models.moe_balance import why_no_load_balancing
from reward_modeling.models.multimodal import text_part
from reward_modeling.models.support import context_length, context_too_short, why_not_packed
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.objectives.base import Objective
from reward_modeling.results.files import write_json
from reward_modeling.results.run import Results, gather_results, run_so_far
from reward_modeling.training.arguments import RunArguments
from reward_modeling.training.callbacks import (
    update_report,
    write_report_or_say_why,
)
from reward_modeling.training.final_model import (
    destroy_process_group,
    merge_final_adapter,
    save_final_model,
    show_results,
    verify_final_model,
)
from reward_modeling.training.interruption import EXIT_STATUS
from reward_modeling.training.memory_probe import (
    out_of_memory_explained,
)
from reward_modeling.training.preflight import run_preflight
from reward_modeling.training.tracking import DataReportCallback, prepare_wandb
from reward_modeling.training.trainer import RewardTrainer

if TYPE_CHECKING:
    from reward_modeling.data.prepare import PreparedPairs

logger = logging.getLogger(__name__)

MANY_STEPS = 500  # to lose, where nothing is saved before the end of an epoch


def run_job(arguments_class: type[RunArguments], objective_class: type[Objective]) -> None:
    """What a training script does: flags, one run a folder, and the training."""
    with report_once_per_node():
        args, given = parse_script_arguments(arguments_class)
    sys.argv = without_tokens(sys.argv)
    set_up_logging(args)
    if args.dry_run:
        train(args, objective_class(args), given)
        return
    check_output_folder(args.output_path)
    with only_run_in(args.output_path, args.process_index):
        train(args, objective_class(args), given)


def train(args: RunArguments, objective: Objective, given: dict) -> None:
    """The job, from the data to the verified model."""
    started = datetime.now(UTC)
    checkpoint = prepare_output_folder(args)
    warm_up_mkl()
    set_seed(args.seed)

    # Tokenizer and configuration: small, and most mistakes show here
    with report_once_per_node():
        config, tokenizer, loading_options = load_config_and_tokenizer(args, objective.num_labels)
        batching = choose_batching(args, config)

    # Data
    with report_once_per_node(), args.main_process_first(desc="reading and tokenising"):
        pairs = load_pairs(args, objective, tokenizer, checkpoint)
    preflight = run_preflight(
        pairs.train, tokenizer, config, max_length=args.max_length, conversations=pairs.conversations
    )
    if args.process_index == 0:
        print(preflight.table, flush=True)
    preflight.raise_for_problems()
    register_shared_prefix_attention()
    if args.estimate and args.process_index == 0:
        print(estimate(args, objective, given, config, tokenizer, batching, pairs.train))
    if args.dry_run:
        return

    # Model
    with out_of_memory_explained("loading the model", args.max_tokens):
        trainer = build_trainer(args, objective, config, tokenizer, batching, pairs, loading_options)
    show_plan(args, batching, len(pairs.train))
    engine = engine_name(trainer.accelerator.state)
    trainer.run_record = run_record(args, pairs.train, pairs.evaluation, config, engine, args.world_size)
    if checkpoint is not None:
        check_same_run(checkpoint, trainer.run_record, type(args))
        args.eval_on_start = False  # it was done

    # Training; not before everything that can be refused has passed, and all processes have read the model
    make_room(trainer, checkpoint)
    if args.process_index == 0:
        Path(args.output_path, PREFLIGHT).write_text(preflight.table + "\n", encoding="utf-8")
        write_json(Path(args.output_path, RUN), run_so_far(trainer, pairs, started))
    with trainer.interruption.listening():
        with out_of_memory_explained("training", args.max_tokens):
            trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.interruption.agreed:
            exit_interrupted(trainer)
        trainer.interruption.training_is_over = True
        finish(trainer, gather_results(trainer, pairs, given, started))


def prepare_output_folder(args: RunArguments) -> str | None:
    """Refuse to write over another run. Returns the checkpoint to resume from, if any."""
    if args.dry_run:
        return None
    output = Path(args.output_path)
    resume = (args.resume_from_checkpoint or "false").lower()
    if resume != "false":
        if args.process_index == 0:
            clean_up(output)
        PartialState().wait_for_everyone()
    checkpoint = checkpoint_to_resume(args.output_path, args.resume_from_checkpoint)
    own = is_own(checkpoint, args.output_path)
    if checkpoint is not None and not own and output.resolve() in Path(checkpoint).resolve().parents:
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: expected a checkpoint-N right in --output_path, or one of another "
            "folder, found one deeper in it. Move it up."
        )
    if not own and not args.overwrite_output_dir:
        check_nothing_is_lost(args.output_path, go_on=resume == "true")
    check_all_nodes_share(args.output_path, PartialState())
    return checkpoint


def load_config_and_tokenizer(args: RunArguments, num_labels: int) -> tuple:
    """What the model's folder says of itself, its tokenizer, and how its weights are to be loaded."""
    hub_options = {"revision": args.model_revision, "trust_remote_code": args.trust_remote_code}
    config = load_config(args.model_name, num_labels=num_labels, **hub_options)
    config, loading_options = text_part(config, args.model_name, adapter=args.use_peft)
    context = context_length(config)
    if context is not None and args.max_length > context:
        raise UserError(context_too_short(args.max_length, config))
    reason = why_no_load_balancing(config) if args.router_aux_loss_coef else None
    if reason is not None:
        raise UserError(f"--router_aux_loss_coef: {reason}. Leave it out.")
    return config, load_tokenizer(args.model_name, **hub_options), hub_options | loading_options


def choose_batching(args: RunArguments, config) -> str:
    """The batching that the model allows, and in the log why."""
    reason = why_not_packed(config)
    if reason is not None and args.batching not in ("auto", PADDED):
        raise UserError(f"--batching {args.batching}: {reason}. Pass --batching padded or auto.")
    if args.batching == "auto" and reason is not None:
        logger.warning("Batching: padded, since %s.", reason)
    padded = args.batching == PADDED or reason is not None
    if args.attn_implementation is not None and not padded:
        raise UserError(
            f"--attn_implementation {args.attn_implementation}: expected with --batching padded alone, since packed "
            "rows have an attention of their own. Leave it out, or pass --batching padded."
        )
    if padded:
        return PADDED
    return SHARED_PREFIX if args.batching == "auto" else args.batching


def load_pairs(args: RunArguments, objective: Objective, tokenizer, checkpoint: str | None = None) -> "PreparedPairs":
    """Training and evaluation pairs; their counts go to the screen and, in a new run, into the output folder."""
    # Only here, so that a benchmark takes the trainer of this file without `datasets` being installed.
    from reward_modeling.data.prepare import prepare_pairs, show_reports, write_reports
    from reward_modeling.data.prompt_groups import TokenizeOptions

    pairs = prepare_pairs(
        args.train_set_path,
        args.eval_set_path,
        tokenizer,
        objective.reader,
        TokenizeOptions(args.max_length, args.overlong),
        eval_size=args.eval_size,
        seed=args.seed,
        num_proc=args.num_proc or min(16, os.cpu_count()),
    )
    if args.process_index == 0:
        show_reports(pairs.reports)
        if checkpoint is None and not args.dry_run:
            write_reports(pairs.reports, Path(args.output_path) / DATA_REPORT)
    if not len(pairs.train):
        raise UserError(f"--train_set_path {args.train_set_path}: no pair is left to train on; see the table above")
    return pairs


def load_model(args: RunArguments, config, tokenizer, batching: str, hub_options: dict):
    """The reward model, with an adapter where one is asked for."""
    model = load_reward_model(
        args.model_name,
        config,
        tokenizer,
        attn_implementation=args.attn_implementation if batching == PADDED else SHARED_PREFIX,
        dtype=getattr(torch, args.model_dtype),
        **hub_options,
        **(four_bit_options(args.device) if args.load_in_4bit else {}),
    )
    return add_flagged_adapter(args, model) if args.use_peft else model


def add_flagged_adapter(args: RunArguments, model):
    """The model with the adapter that the flags ask for."""
    set_seed(args.seed)  # the same adapter to start from on every engine, whatever it drew while it loaded
    return add_adapter(
        model,
        model_name=args.model_name,
        revision=args.model_revision,
        r=args.lora_r,
        alpha=args.lora_alpha,
        dropout=args.lora_dropout,
        target_modules=args.lora_target_modules,
        # FSDP wants one type of all the weights that it cuts together
        float32=not (args.fsdp or launched_with(os.environ, "FSDP")),
    )


def estimate(
    args: RunArguments, objective: Objective, given: dict, config, tokenizer, batching: str, groups: PromptGroups
) -> str:
    """What the run would take on the GPUs that were named, as a table."""
    unset_hf_deepspeed_config()  # ZeRO-3 would cut the weights, of which there are none
    # unset, bf16 is on where the GPU has it, as all have that can be named
    mixed = "fp16" if args.fp16 else "bf16" if given.get("bf16", True) else None
    settings = RunSettings(
        build=lambda: build_model(
            config,
            num_tokens=len(tokenizer),
            batching=batching,
            dtype=getattr(torch, args.model_dtype),
            gradient_checkpointing=args.gradient_checkpointing,
            attn_implementation=args.attn_implementation,
            trust_remote_code=args.trust_remote_code,
            adapt=partial(add_flagged_adapter, args) if args.use_peft else None,
        ),
        dtype=getattr(torch, args.model_dtype),
        mixed=mixed,
        four_bit=args.load_in_4bit,
        gradient_checkpointing=args.gradient_checkpointing,
        optim=OptimizerNames(args.optim).value,
        epochs=args.num_train_epochs,
        max_steps=args.max_steps,
    )
    plan = plan_epoch(
        groups.sizes,
        units_per_step=args.pairs_per_step,
        max_tokens=args.max_tokens,
        batching=batching,
        seed=args.seed if args.data_seed is None else args.data_seed,
        epoch=0,
    )
    collator = MicroBatchCollator(batching, tokenizer.pad_token_id, objective.collate)
    return estimate_run(groups, plan, collator, config, settings, gpus=args.gpus or 1, gpu=args.gpu)


def build_trainer(
    args: RunArguments,
    objective: Objective,
    config,
    tokenizer,
    batching: str,
    pairs: "PreparedPairs",
    loading_options: dict,
) -> RewardTrainer:
    """The trainer of the loaded model, with the trackers that were asked for."""
    if pairs.evaluation is None:
        if args.load_best_model_at_end or args.save_strategy == "best" or args.early_stopping_patience is not None:
            flags = "--load_best_model_at_end, --save_strategy best, --early_stopping_patience"
            raise UserError(f"{flags}: expected rows to evaluate on, found none")
        args.eval_strategy, args.eval_on_start, args.do_eval = "no", False, False
    if "wandb" in args.report_to:
        prepare_wandb(args.output_path)
    trainer = RewardTrainer(
        args=args,
        objective=objective,
        model=load_model(args, config, tokenizer, batching, loading_options),
        processing_class=tokenizer,
        train_dataset=pairs.train,
        eval_dataset=pairs.evaluation,
        collator=MicroBatchCollator(batching, tokenizer.pad_token_id, objective.collate),
    )
    if "wandb" in args.report_to:
        trainer.add_callback(DataReportCallback(pairs.reports))
    return trainer


def show_plan(args: RunArguments, batching: str, num_pairs: int) -> None:
    """How many steps there will be, and when the first of them is safe."""
    num_steps = math.ceil(num_pairs / args.pairs_per_step)
    logger.info(
        f"Training: {num_pairs:,} pairs, {args.pairs_per_step} a step, {num_steps:,} steps an epoch; {batching} "
        f"batches of at most {args.max_tokens:,} tokens."
    )
    if args.save_strategy == "epoch" and num_steps > MANY_STEPS:
        logger.warning(
            "Checkpoints: the first is saved after %s steps, at the end of an epoch; --save_every_steps loses less.",
            f"{num_steps:,}",
        )


def make_room(trainer: RewardTrainer, checkpoint: str | None) -> None:
    """Put out of the way what an earlier run left and this one would write over or mistake for its own."""
    args = trainer.args
    trainer.accelerator.wait_for_everyone()
    if args.process_index == 0 and is_own(checkpoint, args.output_path):
        archive_later_checkpoints(Path(checkpoint))
    elif args.process_index == 0 and args.overwrite_output_dir:
        remove_earlier_run(args.output_path)
    trainer.accelerator.wait_for_everyone()


def exit_interrupted(trainer: RewardTrainer) -> None:
    """End the process after SIGTERM, with the status of a process that the signal ended."""
    if trainer.is_world_process_zero():
        update_report(Path(trainer.args.output_path), trainer.state)
        print(f"\n{describe_interruption(trainer)}", file=sys.stderr, flush=True)
    sys.exit(EXIT_STATUS)


def describe_interruption(trainer: RewardTrainer) -> str:
    """What is saved and how to go on. An evaluation before the first step leaves nothing to save."""
    step, output = trainer.state.global_step, Path(trainer.args.output_path)
    checkpoint = output / f"{CHECKPOINT}{step}"
    if checkpoint.is_dir():
        saved, go_on = f"{checkpoint.name} is saved in {output}", "true"
    elif trainer.resumed_from:
        saved, go_on = "no step was taken since", f"{trainer.resumed_from} --overwrite_output_dir true"
    else:
        saved, go_on = "there is nothing to save", "true"
    place = f"after step {step} of" if step else "before the first step of"
    return (
        f"Stopped by SIGTERM {place} {trainer.state.max_steps}: {saved}. Go on with --resume_from_checkpoint {go_on}."
    )


def finish(trainer: RewardTrainer, results: Results) -> None:
    """Save the model, verify it, and report on it."""
    args, output = trainer.args, Path(trainer.args.output_path)
    folders = [save_final_model(trainer, results)]
    if args.merge_adapter:
        folders.append(merge_final_adapter(trainer, folders[0], results))
    if args.process_index == 0:
        results.write(output)
        show_results(trainer, results)
    if args.verify_saved_model:
        verify_final_model(trainer, folders)
    destroy_process_group()
    if args.process_index == 0 and write_report_or_say_why(output):
        logger.info("Report: %s", output / REPORT)
    if args.push_to_hub:
        trainer.push_folder(folders[-1])
    logger.info("Done: the reward model is in %s", " and ".join(map(str, folders)))


def set_up_logging(args: RunArguments) -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO if args.process_index == 0 else logging.ERROR)
    for noisy in ("httpx", "httpx2", "datasets", "accelerate", "DeepSpeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry twice, before our message
    transformers_logging.set_verbosity_warning()

"""From flags to a trainer: configuration, tokenizer, batching, data, model."""

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import DATA_REPORT
from reward_modeling.common.launch import launched_with, worker_count
from reward_modeling.common.screen import set_up_screen
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import PADDED
from reward_modeling.estimate.meta_model import MetaModel, build_model
from reward_modeling.models.adapters import add_adapter, four_bit_options
from reward_modeling.models.attention import SHARED_PREFIX, register_shared_prefix_attention
from reward_modeling.models.checkpoint_config import head_of_checkpoint, load_config, read_config
from reward_modeling.models.checkpoint_kinds import has_score_head
from reward_modeling.models.loading import load_reward_model
from reward_modeling.models.moe_balance import why_no_load_balancing
from reward_modeling.models.multimodal import text_part
from reward_modeling.models.other_heads import renamed_head
from reward_modeling.models.support import (
    context_length,
    context_too_short,
    reads_the_last_place,
    why_not_checkpointed,
    why_not_packed,
)
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.objectives.base import Objective
from reward_modeling.training.arguments import RunArguments
from reward_modeling.training.preflight import preamble_problem
from reward_modeling.training.tracking import DataReportCallback, prepare_wandb
from reward_modeling.training.trainer import RewardTrainer
from reward_modeling.training.verdict import data_problems

if TYPE_CHECKING:
    from reward_modeling.data.prepare import PreparedPairs

logger = logging.getLogger(__name__)

MANY_STEPS = 500  # to lose, where nothing is saved before the end of an epoch


@dataclass(frozen=True)
class Setup:
    """What a run needs beside its flags and its data, before weights are loaded."""

    objective: Objective
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    batching: str
    loading_options: dict[str, Any]  # keyword arguments of `load_reward_model`

    @property
    def collator(self) -> MicroBatchCollator:
        tokenizer = self.tokenizer
        options = {"padding_side": tokenizer.padding_side}
        return MicroBatchCollator(self.batching, tokenizer.pad_token_id, self.objective.collate, **options)


def set_up_logging(args: RunArguments) -> None:
    is_main = args.process_index == 0
    set_up_screen(logging.INFO if is_main else logging.ERROR, speaks=is_main)


def load_setup(args: RunArguments, objective: Objective) -> Setup:
    """Raises `UserError`: there is no such model, or it cannot do what the flags ask of it."""
    hub_options = {"revision": args.model_revision, "trust_remote_code": args.trust_remote_code}
    config = load_config(
        args.model_name,
        num_labels=objective.num_labels,
        label_names=objective.label_names,
        any_head=objective.fits_head,
        compares=objective.compares,
        reads_steps=objective.reads_steps,
        **hub_options,
    )
    saved = read_config(args.model_name, **hub_options)
    goes_on = head_of_checkpoint(saved, reads_steps=objective.reads_steps)
    if goes_on and not objective.fits_head:
        objective.go_on_from(saved.to_dict())
    config, loading_options = text_part(config, args.model_name, adapter=args.use_peft)
    if not goes_on:
        objective.check_model(args.model_name, config)
    context = context_length(config)
    if context is not None and args.max_length > context:
        raise UserError(context_too_short(args.max_length, config))
    if args.router_aux_loss_coef and (reason := why_no_load_balancing(config)) is not None:
        raise UserError(f"--router_aux_loss_coef: {reason}. Leave it out.")
    takes_any_name = not objective.fits_head and not objective.reads_steps
    mapping = renamed_head(args.model_name, config, revision=args.model_revision) if takes_any_name else {}
    if objective.reads_steps and has_score_head(saved):
        if is_deepspeed_zero3_enabled():  # transformers loads no weights of other shapes there
            raise UserError(
                f"--model_name {args.model_name}: expected a language model or a process model under ZeRO-3, found a "
                "reward model, whose head would be replaced. Start from the language model it was made from, or pass "
                "another engine, such as FSDP2 or ZeRO-2."
            )
        loading_options["other_head"] = True
    if mapping:
        loading_options["key_mapping"] = loading_options.get("key_mapping", {}) | mapping
    if args.gradient_checkpointing and (reason := why_not_checkpointed(config)) is not None:
        args.gradient_checkpointing = args.activation_checkpointing = False
        logger.warning("Gradient checkpointing: left out, since %s.", reason)
    tokenizer = load_tokenizer(args.model_name, args.chat_template, **hub_options)
    if reads_the_last_place(config):
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # only the second one is saved
    objective.take_tokenizer(tokenizer)
    register_shared_prefix_attention()
    return Setup(objective, config, tokenizer, choose_batching(args, config), hub_options | loading_options)


def choose_batching(args: RunArguments, config: PreTrainedConfig) -> str:
    """The batching that the model allows; the log says why where it is not the one of most models.

    Raises:
        UserError: the flags ask for another one.
    """
    reason = why_not_packed(config)
    if reason is not None and args.batching not in ("auto", PADDED):
        raise UserError(f"--batching {args.batching}: {reason}. Pass --batching padded or auto.")
    if args.batching == "auto" and reason is not None:
        logger.warning("Batching: padded, since %s.", reason)
    if args.batching == PADDED or reason is not None:
        return PADDED
    if args.attn_implementation is not None:
        raise UserError(
            f"--attn_implementation {args.attn_implementation}: expected with --batching padded alone, since packed "
            "rows have an attention of their own. Leave it out, or pass --batching padded."
        )
    return SHARED_PREFIX if args.batching == "auto" else args.batching


def load_data(args: RunArguments, setup: Setup, *, write_report: bool = False) -> "PreparedPairs":
    """Training and evaluation data; their counts go to the screen and, where asked for, into the output folder.

    Raises:
        UserError: the data cannot be read, or nothing is left to train on.
    """
    # Only here, so that a benchmark takes the trainer without `datasets` being installed.
    from reward_modeling.data.group_rows import TokenizeOptions
    from reward_modeling.data.prepare import prepare_pairs, show_reports, write_reports

    data = prepare_pairs(
        args.train_set_path,
        args.eval_set_path,
        setup.tokenizer,
        setup.objective.reader,
        TokenizeOptions(args.max_length, args.overlong),
        eval_size=args.eval_size,
        seed=args.seed,
        max_train_samples=args.max_train_samples,
        num_proc=worker_count(args.num_proc),
        read=args.read_options,
        plain_text=args.plain_text,
    )
    if args.process_index == 0:
        show_reports(data.all_reports)
        if write_report:
            write_reports(data.all_reports, Path(args.output_path) / DATA_REPORT)
    if not len(data.train):
        unit = setup.objective.reader.unit.removesuffix("s")
        found = [*data_problems(data.reports), preamble_problem(setup.tokenizer, args.max_length)]
        problems = "".join(f"\n- {problem}" for problem in found if problem)
        raise UserError(
            f"--train_set_path {args.train_set_path}: no {unit} is left to train on; see the table above{problems}"
        )
    return data


def load_model(args: RunArguments, setup: Setup) -> torch.nn.Module:
    """The reward model, with an adapter where one is asked for."""
    of_model = args.model_name, setup.config, setup.tokenizer
    model = load_reward_model(
        args.model_name,
        setup.config,
        setup.tokenizer,
        attn_implementation=args.attn_implementation if setup.batching == PADDED else SHARED_PREFIX,
        dtype=getattr(torch, args.model_dtype),
        any_head=setup.objective.fits_head,
        initial_head=partial(setup.objective.initial_head, *of_model, revision=args.model_revision),
        **setup.loading_options,
        **(four_bit_options(setup.config, args.device) if args.load_in_4bit else {}),
    )
    return add_flagged_adapter(args, model) if args.use_peft else model


def add_flagged_adapter(args: RunArguments, model: torch.nn.Module) -> torch.nn.Module:
    """The model with the adapter that the flags ask for."""
    set_seed(args.seed)  # every engine starts from the same adapter, whatever it drew while it loaded
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
        autocast=bool(args.bf16 or args.fp16) or args.model_dtype == "float32",
    )


def build_meta_model(args: RunArguments, setup: Setup) -> MetaModel:
    """The model that `load_model` gives, without its memory."""
    build = partial(
        build_model,
        setup.config,
        num_tokens=len(setup.tokenizer),
        batching=setup.batching,
        dtype=getattr(torch, args.model_dtype),
        gradient_checkpointing=args.gradient_checkpointing,
        attn_implementation=args.attn_implementation,
        trust_remote_code=args.trust_remote_code,
        adapt=partial(add_flagged_adapter, args) if args.use_peft else None,
    )
    return MetaModel(build, args.load_in_4bit)


def build_trainer(args: RunArguments, setup: Setup, data: "PreparedPairs") -> RewardTrainer:
    """The trainer of the loaded model, with the trackers that were asked for."""
    if data.evaluation is None:
        if args.load_best_model_at_end or args.save_strategy == "best" or args.early_stopping_patience is not None:
            flags = "--load_best_model_at_end, --save_strategy best, --early_stopping_patience"
            raise UserError(f"{flags}: expected rows to evaluate on, found none")
        args.eval_strategy, args.eval_on_start, args.do_eval = "no", False, False
    if "wandb" in args.report_to:
        prepare_wandb(args.output_path, opens_run=args.process_index == 0)
    trainer = RewardTrainer(
        args=args,
        objective=setup.objective,
        model=load_model(args, setup),
        processing_class=setup.tokenizer,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        eval_sets=data.evaluations,
        collator=setup.collator,
    )
    if "wandb" in args.report_to:
        trainer.add_callback(DataReportCallback(data.all_reports))
    return trainer


def show_plan(trainer: RewardTrainer) -> None:
    """How many steps there will be, and when the first of them is saved."""
    args, num_units = trainer.args, len(trainer.train_dataset)
    num_steps = trainer.train_dataset.sizes.num_steps(args.pairs_per_step)
    logger.info(
        f"Training: {num_units:,} {trainer.objective.reader.unit}, {args.pairs_per_step} a step, {num_steps:,} steps "
        f"an epoch; {trainer.collator.batching} batches of at most {args.max_tokens:,} tokens."
    )
    if args.save_strategy == "epoch" and num_steps > MANY_STEPS:
        logger.warning(
            "Checkpoints: the first is saved after %s steps, at the end of an epoch; --save_every_steps loses less.",
            f"{num_steps:,}",
        )

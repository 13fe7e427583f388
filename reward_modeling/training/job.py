"""A training run from its flags to the verified model."""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate import PartialState
from transformers import set_seed

from reward_modeling.checkpoints.output_folder import make_room, only_run_in, prepare_output_folder
from reward_modeling.checkpoints.run_record import check_same_run, run_record
from reward_modeling.checkpoints.verification import verify_saved_model
from reward_modeling.common.arguments import parse_script_arguments, without_tokens
from reward_modeling.common.atomic import check_writable, write_contents
from reward_modeling.common.devices import warm_up_mkl
from reward_modeling.common.errors import UserError, report_once_per_node
from reward_modeling.common.file_names import (
    ARGUMENTS,
    LAST_CHECKPOINT,
    MERGED_CHECKPOINT,
    PREFLIGHT,
    REPORT,
    RUN,
)
from reward_modeling.common.interruption import ends_at_once, leave
from reward_modeling.estimate.report import estimate_run
from reward_modeling.models.reward_normalization import set_statistics, write_adapter_statistics
from reward_modeling.objectives.base import Objective
from reward_modeling.results.model_card import write_model_card
from reward_modeling.results.run import Results, gather_results, run_so_far, write_json
from reward_modeling.scoring.merge_adapter import merge_in_another_process
from reward_modeling.training.arguments import RunArguments, arguments_of
from reward_modeling.training.callbacks import try_to_write_report
from reward_modeling.training.flags import RunFlags
from reward_modeling.training.interruption import exit_interrupted, words_before_the_first_step
from reward_modeling.training.memory_probe import out_of_memory_explained
from reward_modeling.training.preflight import run_preflight
from reward_modeling.training.setup import (
    Setup,
    build_meta_model,
    build_trainer,
    load_data,
    load_setup,
    set_up_logging,
    show_plan,
)
from reward_modeling.training.tracking import log_results, open_wandb
from reward_modeling.training.trainer import RewardTrainer
from reward_modeling.training.verdict import describe_verdict

if TYPE_CHECKING:
    from reward_modeling.data.prepare import PreparedPairs

logger = logging.getLogger(__name__)


def run_job(
    flags_class: type[RunFlags],
    objective_class: type[Objective],
    run: Callable[[RunArguments, Objective, dict], None] | None = None,
) -> None:
    """What a training script does: read the flags, hold the output folder, train.

    Args:
        run: what is done in the place of `train`, and takes what it takes.
    """
    run = run or train
    with report_once_per_node():
        args, given = parse_script_arguments(arguments_of(flags_class))
    sys.argv = without_tokens(sys.argv)
    set_up_logging(args)
    if args.dry_run:
        run(args, objective_class(args), given)
        return
    check_writable("--output_path", Path(args.output_path))
    with ends_at_once(words_before_the_first_step), only_run_in(args.output_path, args.process_index):
        run(args, objective_class(args), given)
    exit_helper_process(args)


def train(args: RunArguments, objective: Objective, given: dict) -> None:
    """The run, from data to the verified model. `given` are the flags that were passed, as they were passed."""
    started = datetime.now(UTC)
    checkpoint = None if args.dry_run else prepare_output_folder(args)
    prepared = prepare_run(args, objective, given, write_report=not args.dry_run and checkpoint is None)
    if args.dry_run:
        return

    # Model
    with out_of_memory_explained("loading the model", args.max_tokens):
        trainer = build_trainer(args, prepared.setup, prepared.data)
    show_plan(trainer)
    trainer.run_record = run_record(trainer, prepared.setup.config)
    if checkpoint is not None:
        check_same_run(checkpoint, trainer.run_record, type(args))
        args.eval_on_start = False  # the run that wrote the checkpoint did it

    # Training
    start_output_folder(trainer, prepared, checkpoint, started)
    with trainer.interruption.listening():
        with out_of_memory_explained("training", args.max_tokens):
            trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.interruption.agreed is not None:
            exit_interrupted(trainer)
        trainer.interruption.training_is_over = True
        finish_run(trainer, gather_results(trainer, prepared.data, given, started))


class PreparedRun(NamedTuple):
    """What is there before the model is."""

    setup: Setup
    data: "PreparedPairs"
    preflight: str  # its table and its verdict


def prepare_run(
    args: RunArguments, objective: Objective, given: dict, *, write_report: bool, takes_steps: bool = True
) -> PreparedRun:
    """Read the data, check and show it; the estimate too, where it is asked for.

    Raises:
        UserError: the preflight found what training cannot work with.
    """
    is_main = args.process_index == 0
    warm_up_mkl()
    set_seed(args.seed)
    with report_once_per_node():
        setup = load_setup(args, objective)

    # Data
    with report_once_per_node(), args.main_process_first(desc="reading and tokenising"):
        data = load_data(args, setup, write_report=write_report)

    with report_once_per_node():
        objective.fit(data.train, data.evaluation_sets)

    # Preflight and estimate
    table, problems = run_preflight(
        data.train,
        setup.tokenizer,
        objective.reader,
        conversations=data.conversations,
        reports=data.reports,
        shown=args.show,
        batching=setup.batching,
        max_tokens=args.max_tokens,
    )
    if is_main:
        print(table, end="\n" if table else "", flush=True)
    if problems:
        raise UserError("The preflight found what training cannot work with:\n- " + "\n- ".join(problems))
    kinds = objective.reader.describe_kinds(data.train)
    verdict = describe_verdict(data, objective.reader.unit, args.pairs_per_step if takes_steps else None, kinds)
    if args.estimate and is_main:
        meta_model = build_meta_model(args, setup)
        print(estimate_run(args, given, meta_model, data.train, setup.collator, objective.reader.unit))
    if is_main:
        print(f"\n{verdict}", flush=True)
    return PreparedRun(setup, data, f"{table}\n\n{verdict}")


def start_output_folder(
    trainer: RewardTrainer, prepared: PreparedRun, checkpoint: str | None, started: datetime
) -> None:
    """Make room in the output folder, and write what is known of the run before its first step."""
    args, output = trainer.args, Path(trainer.args.output_path)
    # Nothing of an earlier run goes before all checks have passed, and all processes have read the model.
    trainer.accelerator.wait_for_everyone()
    if args.process_index == 0:
        make_room(args, checkpoint)
        (output / PREFLIGHT).write_text(prepared.preflight + "\n", encoding="utf-8")
        write_json(output / RUN, run_so_far(trainer, prepared.data, started))
        if "wandb" in args.report_to:
            open_wandb(args.run_name, args.output_path)
    trainer.accelerator.wait_for_everyone()


# --- after the last step, under every engine: all processes have to call these, unless one says otherwise ---------


def finish_run(trainer: RewardTrainer, results: Results) -> None:
    """Save the model and what is known of it, and verify what was saved."""
    args, output = trainer.args, Path(trainer.args.output_path)
    is_main = args.process_index == 0
    folders = [save_final_model(trainer, results)]
    if args.merge_adapter:
        folders.append(merge_final_adapter(trainer, folders[0], results))
    if is_main:
        results.write(output)
        show_results(trainer, results)
    sample = trainer.sample_outputs() if args.verify_saved_model else None
    PartialState().destroy_process_group()  # all are at the same place, and none needs another one any more
    if sample is not None and is_main:
        verify_final_model(trainer, folders, *sample)
    if is_main and try_to_write_report(output):
        logger.info("Report: %s", output / REPORT)
    if args.push_to_hub:
        trainer.push_folder(folders[-1])
    logger.info(last_line(folders, results))
    for message in results.warnings:  # the last lines on the screen
        logger.warning("WARNING: %s.", message)


def save_final_model(trainer: RewardTrainer, results: Results) -> Path:
    """`last_checkpoint`: an ordinary checkpoint with its tokenizer, a model card, and the arguments as given."""
    args = trainer.args
    folder = Path(args.output_path) / LAST_CHECKPOINT
    saved = (results.statistics or {}) | trainer.objective.saved_values()
    if not args.use_peft:
        set_statistics(trainer.model.config, saved)
    with trainer.complete_or_absent(folder) as writing:
        trainer.save_state()
        trainer.save_whole_model(writing)
        if trainer.is_world_process_zero():
            given = json.dumps(results.given, indent=2, default=str)
            Path(writing, ARGUMENTS).write_text(given, encoding="utf-8")
            if args.use_peft:
                write_adapter_statistics(Path(writing), saved or None)
            write_model_card(Path(writing), results, name=trainer.name_of(folder), adapter=args.use_peft)
    return folder


def merge_final_adapter(trainer: RewardTrainer, adapter: Path, results: Results) -> Path:
    """`merged_checkpoint`, by process 0 and away from the engine."""
    folder = adapter.with_name(MERGED_CHECKPOINT)
    if trainer.is_world_process_zero():
        merge_in_another_process(adapter, folder, trust_remote_code=trainer.args.trust_remote_code)
        write_model_card(folder, results, name=trainer.name_of(folder), adapter=False)
        write_contents(folder)
    return folder


def show_results(trainer: RewardTrainer, results: Results) -> None:
    """The held-out figures of the final model, on the screen and at wandb. For process 0 alone."""
    if results.evaluation is not None:
        for evaluation in results.evaluation.get("sets", {"": results.evaluation}).values():
            print(trainer.objective.evaluation_table(evaluation), flush=True)
    if "wandb" in trainer.args.report_to:
        log_results(results, trainer.objective)


def last_line(folders: list[Path], results: Results) -> str:
    """Where the model is; it is done only where something was trained."""
    where = " and ".join(map(str, folders))
    if results.run["nothing_trained"]:
        return f"Not done, since nothing was trained: the weights that the run began with are in {where}"
    return f"Done: the reward model is in {where}"


def verify_final_model(
    trainer: RewardTrainer, folders: list[Path], rows: list[list[int]], rewards: list[float]
) -> None:
    """Reload what was saved in plain transformers (and peft) and compare rewards. For process 0 alone.

    Raises:
        UserError: it is not the model in memory.
    """
    args, weights_dtype = trainer.args, trainer.model.dtype
    if args.device.type == "cuda":
        torch.cuda.empty_cache()  # room for the other process
    # TF32 rounds as float16 does
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 or args.tf32 else weights_dtype
    for folder in folders:
        verify_saved_model(
            folder,
            rows,
            rewards,
            dtype=dtype,
            weights_dtype=weights_dtype,
            # FSDP casts the weights of a layer; elsewhere weights that stay in float32 are cast by each operation
            autocast=args.load_in_4bit or (dtype != weights_dtype and not trainer.is_fsdp_enabled),
            trust_remote_code=args.trust_remote_code,
            load_in_4bit=args.load_in_4bit,
            reads_steps=trainer.objective.reads_steps,
        ).raise_if_failed(folder)


def exit_helper_process(args: RunArguments) -> None:
    """End every process but the first, which has nothing left to do."""
    if args.process_index > 0:
        leave(0)

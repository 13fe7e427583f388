"""A training run from its flags to the verified model."""

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import set_seed

from reward_modeling.checkpoints.output_folder import make_room, only_run_in, prepare_output_folder
from reward_modeling.checkpoints.run_record import check_same_run, run_record
from reward_modeling.common.arguments import parse_script_arguments, without_tokens
from reward_modeling.common.atomic import check_writable
from reward_modeling.common.devices import warm_up_mkl
from reward_modeling.common.errors import report_once_per_node
from reward_modeling.common.file_names import PREFLIGHT, REPORT, RUN
from reward_modeling.estimate.report import estimate_run
from reward_modeling.objectives.base import Objective
from reward_modeling.results.files import write_json
from reward_modeling.results.run import gather_results, run_so_far
from reward_modeling.training.arguments import RunArguments
from reward_modeling.training.callbacks import try_to_write_report
from reward_modeling.training.final_model import (
    destroy_process_group,
    exit_helper_process,
    exit_interrupted,
    merge_final_adapter,
    save_final_model,
    show_results,
    verify_final_model,
)
from reward_modeling.training.memory_probe import out_of_memory_explained
from reward_modeling.training.preflight import run_preflight
from reward_modeling.training.setup import (
    build_meta_model,
    build_trainer,
    load_data,
    load_setup,
    set_up_logging,
    show_plan,
)
from reward_modeling.training.trainer import RewardTrainer
from reward_modeling.training.verdict import describe_verdict

if TYPE_CHECKING:
    from reward_modeling.data.prepare import PreparedPairs

logger = logging.getLogger(__name__)


def run_job(arguments_class: type[RunArguments], objective_class: type[Objective]) -> None:
    """What a training script does: read the flags, hold the output folder, train."""
    with report_once_per_node():
        args, given = parse_script_arguments(arguments_class)
    sys.argv = without_tokens(sys.argv)
    set_up_logging(args)
    if args.dry_run:
        train(args, objective_class(args), given)
        return
    check_writable("--output_path", Path(args.output_path))
    with only_run_in(args.output_path, args.process_index):
        train(args, objective_class(args), given)
    exit_helper_process(args)


def train(args: RunArguments, objective: Objective, given: dict) -> None:
    """The run, from data to the verified model. `given` are the flags that were passed, as they were passed."""
    started = datetime.now(UTC)
    output, is_main = Path(args.output_path), args.process_index == 0
    warm_up_mkl()
    set_seed(args.seed)
    checkpoint = None if args.dry_run else prepare_output_folder(args)
    with report_once_per_node():
        setup = load_setup(args, objective)

    # Data
    with report_once_per_node(), args.main_process_first(desc="reading and tokenising"):
        data = load_data(args, setup, write_report=not args.dry_run and checkpoint is None)

    # Preflight and estimate
    preflight = run_preflight(
        data.train,
        setup.tokenizer,
        objective.reader,
        conversations=data.conversations,
        reports=data.reports,
        shown=args.show,
    )
    if is_main:
        print(preflight.table, end="\n" if preflight.table else "", flush=True)
    preflight.raise_for_problems()
    verdict = describe_verdict(data, objective.reader.unit, args.pairs_per_step)
    if args.estimate and is_main:
        meta_model = build_meta_model(args, setup)
        print(estimate_run(args, given, meta_model, data.train, setup.collator, objective.reader.unit))
    if is_main:
        print(f"\n{verdict}", flush=True)
    if args.dry_run:
        return

    # Model
    with out_of_memory_explained("loading the model", args.max_tokens):
        trainer = build_trainer(args, setup, data)
    show_plan(trainer)
    trainer.run_record = run_record(trainer, setup.config)
    if checkpoint is not None:
        check_same_run(checkpoint, trainer.run_record, type(args))
        args.eval_on_start = False  # the run that wrote the checkpoint did it

    # Training
    start_output_folder(trainer, data, f"{preflight.table}\n\n{verdict}", checkpoint, started)
    with trainer.interruption.listening():
        with out_of_memory_explained("training", args.max_tokens):
            trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.interruption.agreed:
            exit_interrupted(trainer)
        trainer.interruption.training_is_over = True

        # Saving and verification
        results = gather_results(trainer, data, given, started)
        folders = [save_final_model(trainer, results)]
        if args.merge_adapter:
            folders.append(merge_final_adapter(trainer, folders[0], results))
        if is_main:
            results.write(output)
            show_results(trainer, results)
        if args.verify_saved_model:
            verify_final_model(trainer, folders)
        destroy_process_group()
        if is_main and try_to_write_report(output):
            logger.info("Report: %s", output / REPORT)
        if args.push_to_hub:
            trainer.push_folder(folders[-1])
        logger.info("Done: the reward model is in %s", " and ".join(map(str, folders)))


def start_output_folder(
    trainer: RewardTrainer, data: "PreparedPairs", preflight_table: str, checkpoint: str | None, started: datetime
) -> None:
    """Make room in the output folder, and write what is known of the run before its first step.

    Nothing of an earlier run goes before all checks have passed, and all processes have read the model.
    """
    args, output = trainer.args, Path(trainer.args.output_path)
    trainer.accelerator.wait_for_everyone()
    if args.process_index == 0:
        make_room(args, checkpoint)
        (output / PREFLIGHT).write_text(preflight_table + "\n", encoding="utf-8")
        write_json(output / RUN, run_so_far(trainer, data, started))
    trainer.accelerator.wait_for_everyone()

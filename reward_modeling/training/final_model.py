"""What follows the last step: the model is saved, merged and verified, under every engine.

`trainer` is a `RewardTrainer` after its training.
All processes have to call these functions, unless one says otherwise.
"""

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import PartialState

from reward_modeling.checkpoints.verification import verify_saved_model
from reward_modeling.common.atomic import write_contents
from reward_modeling.common.file_names import ARGUMENTS, CHECKPOINT, LAST_CHECKPOINT, MERGED_CHECKPOINT
from reward_modeling.models.reward_normalization import set_statistics, write_adapter_statistics
from reward_modeling.results.model_card import write_model_card
from reward_modeling.results.run import Results
from reward_modeling.scoring.merge_adapter import merge_in_another_process
from reward_modeling.training.arguments import RunArguments
from reward_modeling.training.callbacks import update_report
from reward_modeling.training.interruption import EXIT_STATUS
from reward_modeling.training.tracking import log_results
from reward_modeling.training.trainer import RewardTrainer


def exit_interrupted(trainer: RewardTrainer) -> NoReturn:
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


def save_final_model(trainer: RewardTrainer, results: Results) -> Path:
    """`last_checkpoint`: an ordinary checkpoint with its tokenizer, a model card, and the arguments as given."""
    args = trainer.args
    folder = Path(args.output_path) / LAST_CHECKPOINT
    if not args.use_peft:
        set_statistics(trainer.model.config, results.statistics)
    with trainer.complete_or_absent(folder) as writing:
        trainer.save_state()
        trainer.save_whole_model(writing)
        if trainer.is_world_process_zero():
            given = json.dumps(results.given, indent=2, default=str)
            Path(writing, ARGUMENTS).write_text(given, encoding="utf-8")
            if args.use_peft:
                write_adapter_statistics(Path(writing), results.statistics)
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
        print(trainer.objective.evaluation_table(results.evaluation), flush=True)
    if "wandb" in trainer.args.report_to:
        log_results(results, trainer.objective)


def verify_final_model(trainer: RewardTrainer, folders: list[Path]) -> None:
    """Reload what was saved in plain transformers (and peft), in a process of its own, and compare rewards.

    Raises:
        UserError: it is not the model in memory.
    """
    args, weights_dtype = trainer.args, trainer.model.dtype
    rows, rewards = trainer.sample_rewards()
    destroy_process_group()
    if not trainer.is_world_process_zero():
        return
    if args.device.type == "cuda":
        torch.cuda.empty_cache()  # room for the other process
    # TF32 rounds as float16 does
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 or args.tf32 else weights_dtype
    for folder in folders:
        verification = verify_saved_model(
            folder,
            rows,
            rewards,
            dtype=dtype,
            weights_dtype=weights_dtype,
            # FSDP casts the weights of a layer; elsewhere weights that stay in float32 are cast by each operation
            autocast=args.load_in_4bit or (dtype != weights_dtype and not trainer.is_fsdp_enabled),
            trust_remote_code=args.trust_remote_code,
            load_in_4bit=args.load_in_4bit,
        )
        verification.raise_if_failed(folder)


def destroy_process_group() -> None:
    """End the communication between the processes, while all are at the same place and none needs another one."""
    PartialState().destroy_process_group()


def exit_helper_process(args: RunArguments) -> None:
    """End every process but the first, which has nothing left to do, without the teardown of its interpreter.

    In that teardown torch's threads of gloo abort the process now and then ("terminate called without an active
    exception"), the process group having been destroyed or not. The launcher would take this for a failure, and kill
    process 0 while it verifies the model.
    """
    if args.process_index > 0:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

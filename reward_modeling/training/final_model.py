"""What follows the last step: the model saved, merged, proven and told of, by every engine's rules.

`trainer` is an `rm.RewardTrainer` after its training; where nothing else is said, every process has to call these.
"""

import json
from pathlib import Path

import torch
from accelerate import PartialState

from reward_modeling.checkpoints.verification import verify_saved_model
from reward_modeling.common.atomic import write_contents
from reward_modeling.common.file_names import ARGUMENTS, LAST_CHECKPOINT, MERGED_CHECKPOINT
from reward_modeling.models.reward_normalization import set_statistics, write_adapter_statistics
from reward_modeling.objectives.held_out_tables import held_out_table
from reward_modeling.results.model_card import write_model_card
from reward_modeling.results.run import Results
from reward_modeling.scoring.merge_adapter import merge_in_another_process
from reward_modeling.training.tracking import log_results


def save_final_model(trainer, results: Results) -> Path:
    """`last_checkpoint`: an ordinary checkpoint with its tokenizer, a model card, and the arguments as given."""
    folder = Path(trainer.args.output_path) / LAST_CHECKPOINT
    if not trainer.args.use_peft:
        set_statistics(trainer.model.config, results.statistics)
    with trainer.complete_or_absent(folder) as writing:
        trainer.save_state()
        trainer.save_whole_model(writing)
        if trainer.is_world_process_zero():
            given = json.dumps(results.given, indent=2, default=str)
            Path(writing, ARGUMENTS).write_text(given, encoding="utf-8")
            if trainer.args.use_peft:
                write_adapter_statistics(Path(writing), results.statistics)
            write_model_card(Path(writing), results, name=trainer.name_of(folder), adapter=trainer.args.use_peft)
    return folder


def merge_final_adapter(trainer, adapter: Path, results: Results) -> Path:
    """`merged_checkpoint`, by process 0 and away from the engine."""
    folder = adapter.with_name(MERGED_CHECKPOINT)
    if trainer.is_world_process_zero():
        merge_in_another_process(adapter, folder, trust_remote_code=trainer.args.trust_remote_code)
        write_model_card(folder, results, name=trainer.name_of(folder), adapter=False)
        write_contents(folder)
    return folder


def verify_final_model(trainer, folders: list[Path]) -> None:
    """Reload what was saved in plain transformers (and peft), in a process of its own, and compare rewards.

    Raises:
        UserError: it is not the model in memory.
    """
    args, model = trainer.args, trainer.model
    rows, rewards = trainer.sample_rewards()
    destroy_process_group()
    if not trainer.is_world_process_zero():
        return
    if args.device.type == "cuda":
        torch.cuda.empty_cache()  # room for the other process
    weights_dtype = model.dtype
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
    """End what ties the processes together, once none of them needs another one, and while all are at one place.

    Otherwise it ends with each interpreter, and now and then by an abort of torch's threads (seen once in some hundred
    runs of two processes over gloo): the launcher then kills process 0 in the midst of its proof.
    """
    PartialState().destroy_process_group()


def show_results(trainer, results: Results) -> None:
    """The held-out figures of the final model, on the screen and at wandb. For process 0."""
    if results.evaluation is not None:
        print(held_out_table(results.evaluation), flush=True)
    if "wandb" in trainer.args.report_to:
        log_results(results)

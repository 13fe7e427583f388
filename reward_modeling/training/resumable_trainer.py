"""transformers' Trainer with checkpoints that are complete or not there, whose resumed run takes the same steps."""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState

from reward_modeling.checkpoints.checksums import shared_checksums
from reward_modeling.checkpoints.folders import delete_old_checkpoints, saving_failed
from reward_modeling.checkpoints.peer_failures import another_has_failed, is_first_to_fail
from reward_modeling.checkpoints.run_record import RUN_RECORD
from reward_modeling.common.atomic import archive, commit, remove_folder, sync_to_disk, unfinished
from reward_modeling.common.errors import SECONDS_TO_SPEAK
from reward_modeling.common.file_names import (
    CHECKPOINT,
    LAST_CHECKPOINT,
    MERGED_CHECKPOINT,
    OBJECTIVE_STATE,
    TRAINER_STATE,
)
from reward_modeling.common.interruption import leave
from reward_modeling.common.launch import launched_with
from reward_modeling.models.adapters import has_adapter, save_adapter
from reward_modeling.models.fsdp import classes_to_shard
from reward_modeling.results.run import remove_results
from reward_modeling.training.arguments import RunArguments
from reward_modeling.training.callbacks import EarlyStopping
from reward_modeling.training.hub_trainer import HubTrainer
from reward_modeling.training.interruption import InterruptionCallback

logger = logging.getLogger(__name__)


class EvaluationInterrupted(Exception):
    """The run was told to end during an evaluation."""


class MissedEvaluationCallback(TrainerCallback):
    """Before the first step of a resumed run: the evaluation to which the process before it did not come any more."""

    def __init__(self, trainer: "ResumableTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.evaluation_was_missed:
            metrics = self.trainer._evaluate(trial=None, ignore_keys_for_eval=None)
            self.trainer._determine_best_metric(metrics, trial=None)
            self.trainer._find_best_checkpoint()


class ResumableTrainer(HubTrainer):
    """Saves by `checkpoints.folders`, leaves at a signal with a checkpoint, and goes on where a checkpoint was made.

    `run_record` is written into every checkpoint, to compare a resume with.
    """

    early_stopping: EarlyStopping | None = None

    def __init__(self, *, args: RunArguments, **kwargs):
        super().__init__(args=args, **kwargs)
        self.run_record: dict = {}
        if self.accelerator.is_fsdp2:
            plugin = self.accelerator.state.fsdp_plugin
            plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or classes_to_shard(self.model)
        # The Trainer's own deletions may leave a torn checkpoint behind, or none but the best.
        self.save_total_limit, args.save_total_limit = args.save_total_limit, None
        self.interruption = InterruptionCallback()
        self.add_callback(self.interruption)
        self.add_callback(MissedEvaluationCallback(self))
        if args.early_stopping_patience is not None:
            self.early_stopping = EarlyStopping(args.early_stopping_patience, args.early_stopping_threshold)
            self.add_callback(self.early_stopping)

    def create_accelerator_and_postprocess(self) -> None:
        """FSDP2 as it is needed here: on a CPU too, with rewards and gradients in float32."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        # accelerate 1.15 passes over FSDP where the processes are CPUs, and would train copies.
        if launched_with(os.environ, "FSDP") and self.accelerator.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
            self.is_fsdp_enabled = True
        if self.accelerator.is_fsdp2 and self.args.bf16:
            # accelerate's own choice reduces gradients in bfloat16, and rounds the float32 rewards to it.
            state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )

    # Resuming

    def _init_training_state(self, max_steps, steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial):
        """A run that was at its end, or had stopped early, has no step left: transformers would take one more."""
        start = super()._init_training_state(
            max_steps, steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self.state.compute_steps(self.args, max_steps)  # the flags of now, and not those of the checkpoint
        self.resumed_from = resume_from_checkpoint
        self._read_objective_state(resume_from_checkpoint)
        self._find_best_checkpoint()
        self.evaluation_was_missed = self._was_evaluation_missed(max_steps, steps_per_epoch)
        if self.early_stopping is not None:
            self.early_stopping.go_on_from(self.state)
        stopped_early = self.early_stopping is not None and self.early_stopping.is_due
        if self.state.global_step < max_steps and not stopped_early:
            if resume_from_checkpoint and self.args.process_index == 0:
                self._archive_final_model()
            return start
        why = "and it had stopped early, " if stopped_early else ""
        logger.info("Resume: step %d of %d, %sso no step is left to train.", self.state.global_step, max_steps, why)
        return num_train_epochs, 0

    def _read_objective_state(self, checkpoint: str | None) -> None:
        file = Path(checkpoint or "", OBJECTIVE_STATE)
        if checkpoint and file.is_file():
            self.load_objective_state(json.loads(file.read_text(encoding="utf-8")))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._read_objective_state(self.state.best_model_checkpoint)

    def objective_state(self) -> dict[str, float]:
        """What is learned beside the weights, for a checkpoint."""
        return {}

    def load_objective_state(self, state: Mapping[str, float]) -> None:
        """Take the place of `objective_state`."""

    def _archive_final_model(self) -> None:
        """Keep the final model of the run as it was before under another name; its figures are in its model card."""
        output = Path(self.args.output_dir)
        for last in filter(Path.is_dir, (output / LAST_CHECKPOINT, output / MERGED_CHECKPOINT)):
            name = archive(last).name
            logger.warning("Resume: %s is of the run as it was before; it is renamed to %s.", last, name)
        remove_results(output)

    def _run_epoch(self, *args, **kwargs) -> None:
        """No step where the evaluation that was made up for has stopped the run."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _find_best_checkpoint(self) -> None:
        """Where its folder is now, if it was moved: in the output folder, or beside the checkpoint resumed from."""
        if not self.state.best_global_step:
            return
        name = f"{CHECKPOINT}{self.state.best_global_step}"
        folders = [Path(self.args.output_dir), *([Path(self.resumed_from).parent] if self.resumed_from else [])]
        best = next((folder / name for folder in folders if (folder / name).is_dir()), None)
        if best is None and self.args.load_best_model_at_end:
            logger.warning("Resume: the best checkpoint so far, %s, is not there any more.", name)
        self.state.best_model_checkpoint = None if best is None else str(best)

    def _was_evaluation_missed(self, max_steps: int, steps_per_epoch: int) -> bool:
        """Whether the process died, or left at a signal, between the checkpoint and the evaluation after its step."""
        step, strategy = self.state.global_step, self.args.eval_strategy
        interval = {"steps": self.state.eval_steps, "epoch": steps_per_epoch}.get(strategy)
        begun = (self.state.epoch if strategy == "epoch" else step) >= self.args.eval_delay
        if not step or interval is None or not begun or (step % interval and step < max_steps):
            return False
        return not any(entry["step"] == step and "eval_loss" in entry for entry in self.state.log_history)

    def _evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Stopped by a signal: it may take longer than a scheduler waits. A resume makes up for it."""
        try:
            return super()._evaluate(*args, **kwargs)
        except EvaluationInterrupted:
            self.control.should_save = self.control.should_training_stop = True
            self.args.load_best_model_at_end = False
            return {}

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """The best model can be loaded at the end only if it was saved."""
        if not metrics:
            return True  # the evaluation was interrupted: save, whatever the strategy
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end:
            self.control.should_save = True
        return is_best

    # Saving

    @contextmanager
    def complete_or_absent(self, folder: Path) -> Iterator[str]:
        """Where to write `folder`, which appears under its name when all processes have written their parts."""
        try:
            yield str(unfinished(folder))
            self.accelerator.wait_for_everyone()
            if self.args.local_process_index == 0 and self.args.world_size > 1:
                sync_to_disk(unfinished(folder))  # what this machine wrote, which another one cannot sync
            checksums = shared_checksums(unfinished(folder), self.args.process_index, self.args.world_size)
            self.accelerator.wait_for_everyone()
            if self.args.process_index == 0:
                commit(folder, checksums)
            self.accelerator.wait_for_everyone()
        except (Exception, CheckpointException) as error:  # the second is a BaseException
            self._say_why_not_saved(folder, error)

    def _say_why_not_saved(self, folder: Path, error: BaseException) -> NoReturn:
        """Once for all processes, by the first that could not write.

        Raises:
            UserError: the disk refuses it.
        """
        failure, several = saving_failed(folder, error), self.args.world_size > 1
        if failure is None:
            if several and another_has_failed():
                leave(2)
            raise error
        if self.args.process_index == 0 and unfinished(folder).exists():
            remove_folder(unfinished(folder))
        if several and not is_first_to_fail():
            time.sleep(SECONDS_TO_SPEAK)
            leave(2)
        raise failure from error

    def _save_checkpoint(self, model, trial=None) -> None:
        """As transformers', but the checkpoint is complete or it is not there."""
        output = Path(self.args.output_dir)
        folder = output / f"{CHECKPOINT}{self.state.global_step}"
        best = output / f"{CHECKPOINT}{self.state.best_global_step}"
        if best == folder or best.is_dir():
            self.state.best_model_checkpoint = str(best)
        self.store_flos()
        with self.complete_or_absent(folder) as writing:
            self.save_whole_model(writing)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(writing)
                self._save_scaler(writing)
                self._save_rng_state(writing)
            if self.args.process_index == 0:
                record = json.dumps(self.run_record, indent=2, default=str)
                Path(writing, RUN_RECORD).write_text(record, encoding="utf-8")
                exported = [*self.callback_handler.callbacks, self.control]
                exported = {type(one).__name__: one.state() for one in exported if isinstance(one, ExportableState)}
                self.state.stateful_callbacks = exported
                self.state.save_to_json(f"{writing}/{TRAINER_STATE}")
                if learned := self.objective_state():
                    Path(writing, OBJECTIVE_STATE).write_text(json.dumps(learned), encoding="utf-8")
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.process_index == 0:
            # A folder that is still being uploaded is not deleted under it.
            pushed = self.pushed_folders if self.is_pushing else set()
            delete_old_checkpoints(output, self.save_total_limit, keep={folder, best} | pushed)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Without transformers' pickle of all arguments, which would carry --hub_token into every folder."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def save_whole_model(self, folder: str) -> None:
        """Save the whole model (an adapter with its score head); transformers does not where FSDP saves in parts."""
        if has_adapter(self.model):
            save_adapter(self.model, folder, write=self.args.should_save)
            if self.args.should_save:
                self.processing_class.save_pretrained(folder)
        elif self.is_fsdp_enabled:
            self._save(folder, state_dict=self.accelerator.get_state_dict(self.model))
        else:
            self.save_model(folder, _internal_call=True)

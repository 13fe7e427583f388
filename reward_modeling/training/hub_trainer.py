"""transformers' Trainer that uploads checkpoints and the final model to the Hub, and nothing that lies beside them."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from reward_modeling.checkpoints.run_record import RUN_RECORD
from reward_modeling.common.atomic import CONTENTS
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import TRAINER_STATE

# What a checkpoint holds for a resume alone.
FOR_A_RESUME = ["*.pt", "*.pth", "*.distcp", "*/.metadata", "*zero_to_fp32.py", "latest"]
FOR_A_RESUME += [TRAINER_STATE, RUN_RECORD, CONTENTS]
HUB_FAILURES = (HTTPError, OSError)  # a Hub that refuses, or is not reached: HTTPError is that of the Hub's client


class HubTrainer(Trainer):
    """Trainer whose `--push_to_hub` needs no copies in the output folder and uploads no token."""

    push_in_progress: PushInProgress | None = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pushed_folders: set[Path] = set()  # by the push in progress

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Raises `UserError`: before anything is trained, where the Hub is not reached or takes nothing."""
        try:
            super().init_hf_repo(token, private)
        except HUB_FAILURES as error:
            raise UserError(
                f"--push_to_hub: expected a Hub that takes the model, found {type(error).__name__}: {error}\n"
                "Log in (hf auth login), check --hub_model_id and the connection, or leave --push_to_hub out and "
                "upload last_checkpoint later."
            ) from error

    def name_of(self, folder: Path) -> str:
        """What a model card calls the model in this folder: where others find it."""
        return self.hub_model_id if self.args.push_to_hub else str(folder)

    @property
    def is_pushing(self) -> bool:
        return self.push_in_progress is not None and not self.push_in_progress.is_done()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As transformers', but from the checkpoint itself.

        transformers copies it into the output folder, beside a pickle of all arguments (--hub_token among them), and
        uploads whatever else lies there.
        """
        strategy = self.args.hub_strategy
        waits = self.is_pushing and not self.args.hub_always_push
        if not self.is_world_process_zero() or strategy == HubStrategy.END or waits:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        if not self.is_pushing:
            self.push_in_progress, self.pushed_folders = PushInProgress([]), set()
        jobs = self.push_in_progress.jobs
        jobs.append(self._upload(checkpoint_folder, message, ignore_patterns=FOR_A_RESUME, run_as_future=True))
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            jobs.append(self._upload(checkpoint_folder, message, path_in_repo=name, run_as_future=True))
        self.pushed_folders.add(Path(checkpoint_folder))

    def push_folder(self, folder: Path) -> None:
        """The final model, once it is verified: what is in its folder, and no log or checkpoint beside it."""
        if not self.is_world_process_zero():
            return
        try:
            self._upload(folder, "Reward model")
        except HUB_FAILURES as error:
            raise UserError(
                f"--push_to_hub: expected {self.hub_model_id} to take the model, found {error}\n"
                f"The model is complete in {folder}. Once that is put right: hf upload {self.hub_model_id} {folder}"
            ) from error

    def _upload(self, folder: str | Path, message: str, **options: Any) -> Any:
        return HfApi().upload_folder(
            repo_id=self.hub_model_id,
            folder_path=folder,
            commit_message=message,
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            **options,
        )

"""What a run has left in its output folder so far, read for its report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from reward_modeling.common import file_names
from reward_modeling.common.errors import UserError


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, read; None where one is not there. `run` has the format of the newer ones."""

    name: str  # of the folder
    state: Mapping  # the Trainer's: `log_history`, `global_step`, `max_steps`, `epoch`
    data_report: Mapping | None
    evaluation: Mapping | None
    preflight: str | None
    run: Mapping | None
    arguments: Mapping | None
    verification: Mapping | None

    @property
    def history(self) -> list[dict]:
        return self.state["log_history"]

    @property
    def step(self) -> int:
        return self.state["global_step"]

    @property
    def held_out(self) -> Mapping | None:
        """The evaluation, unless it is of an earlier run in the same folder."""
        return self.evaluation if self.evaluation is not None and self.evaluation["step"] <= self.step else None

    def last_entry(self, name: str) -> Mapping | None:
        """The newest log that has this figure."""
        return next((entry for entry in reversed(self.history) if name in entry), None)

    def median(self, name: str) -> float | None:
        """Of the logs that have this figure; None where none has it."""
        values = [entry[name] for entry in self.history if name in entry]
        return median(values) if values else None


def read_run(output: Path) -> RunFiles:
    """
    Raises:
        UserError: the folder is not the output folder of a run, or a file of it is torn.
    """
    trainer_state = output / file_names.TRAINER_STATE
    if not trainer_state.is_file():
        found = "no such folder" if not output.exists() else f"no {trainer_state.name} in it"
        raise UserError(
            f"{output}: expected the output folder of a training run, found {found}. Name the --output_path of a run "
            "that has come to its first evaluation or checkpoint."
        )
    state = _read_object(trainer_state)
    if missing := [name for name in ("log_history", "global_step", "max_steps", "epoch") if name not in state]:
        raise UserError(
            f"{trainer_state}: expected the state of transformers' Trainer, found no {', '.join(missing)} in "
            "it. Name the --output_path of a training run."
        )
    preflight = output / file_names.PREFLIGHT
    return RunFiles(
        name=output.resolve().name,
        state=state,
        data_report=_read_object(output / file_names.DATA_REPORT),
        evaluation=_read_object(output / file_names.EVALUATION),
        preflight=preflight.read_text(encoding="utf-8") if preflight.is_file() else None,
        run=_read_object(output / file_names.RUN),
        arguments=_read_object(output / file_names.LAST_CHECKPOINT / file_names.ARGUMENTS),
        verification=_read_object(output / file_names.LAST_CHECKPOINT / file_names.VERIFICATION),
    )


def _read_object(path: Path) -> dict | None:
    """None where the file is not there; a `UserError` where it holds no JSON object."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found it torn ({error}). Remove it, or copy it anew.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}. Remove it, or copy it anew.")
    return content

"""Experiment tracking that never waits for a key.

transformers' own callbacks log the metrics and the arguments (of tokens only that there were some) to wandb and
tensorboard; here wandb gets what they do not know: the data report, and the held-out figures of the final model.
"""

import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from reward_modeling.common.errors import UserError
from reward_modeling.data.report import DataReport
from reward_modeling.objectives.base import Objective
from reward_modeling.results.run import Results

logger = logging.getLogger(__name__)

WANDB_HOST = "https://api.wandb.ai"


def prepare_wandb(output_path: str) -> None:
    """Let wandb write into the output folder, and work offline where nobody is logged in.

    Without a key wandb asks for one on the terminal, and a run on a cluster waits for ever.

    Raises:
        UserError: wandb is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "--report_to wandb: expected wandb to be installed, found none. Run pip install wandb, or pass "
            "--report_to none."
        )
    os.environ.setdefault("WANDB_DIR", str(Path(output_path).absolute()))
    os.environ.setdefault("WANDB_SILENT", "true")
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"):
        return
    from requests.utils import get_netrc_auth  # comes with wandb, which not every machine has

    host = os.environ.get("WANDB_BASE_URL", WANDB_HOST)
    if get_netrc_auth(host) is None:
        os.environ["WANDB_MODE"] = "offline"
        logger.warning("wandb: no login found, so the run is kept offline in %s/wandb.", output_path)


def tracker_problems(trackers: str | Sequence[str] | None) -> list[str]:
    """What --report_to asks for and cannot be had."""
    if not isinstance(trackers, str) and "none" in (trackers or ()) and len(trackers) > 1:
        return [f"--report_to: expected none alone, or trackers, found {' '.join(trackers)}"]
    writers = ("tensorboard", "tensorboardX")  # transformers takes either
    if "tensorboard" not in (trackers or ()) or any(importlib.util.find_spec(name) is not None for name in writers):
        return []
    return ["--report_to tensorboard: expected tensorboard to be installed, found none. Run pip install tensorboard"]


class DataReportCallback(TrainerCallback):
    """Puts what was kept and dropped into the configuration of the run at wandb.

    To be added after transformers' callback, which opens the run.
    """

    def __init__(self, reports: Sequence[DataReport]):
        self.reports = reports

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            import wandb  # half a second, and not needed without it

            content = {report.name: report.to_dict() for report in self.reports}
            wandb.run.config.update({"data_report": content}, allow_val_change=True)


def log_results(results: Results, objective: Objective) -> None:
    """The figures of the final model: in the summary of the run, and as a table with a row for each share."""
    import wandb

    run = {name: value for name, value in results.run.items() if name != "manifest"}
    wandb.run.config.update({"run": run, "manifest": results.run["manifest"]}, allow_val_change=True)
    if results.evaluation is None:
        return
    unit, shares = objective.reader.unit, objective.evaluation_shares(results.evaluation)
    for name, evaluation in results.evaluation.get("sets", {}).items():
        shares |= {f"{name}, {share}": row for share, row in objective.evaluation_shares(evaluation).items()}
    rows = [[name, *(share[key] for key in ("value", "low", "high", "rows"))] for name, share in shares.items()]
    table = wandb.Table(columns=[f"{unit} of", "accuracy", "low", "high", unit], data=rows)
    wandb.run.log({"final/held_out": table})
    figures = {name: value for name, value in results.evaluation.items() if isinstance(value, int | float)}
    figures |= {f"accuracy, {name}": share["value"] for name, share in shares.items()}
    wandb.run.summary.update({f"final/{name}": value for name, value in figures.items()})

"""Experiment tracking that never waits for a key, and costs no run its start.

transformers' own callbacks log the metrics and the arguments (of tokens only that there were some) to wandb and
tensorboard; here wandb gets what they do not know: the data report, and the held-out figures of the final model.
"""

import importlib.util
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from transformers import TrainerCallback

from reward_modeling.common.errors import UserError, first_line
from reward_modeling.data.report import DataReport
from reward_modeling.objectives.base import Objective
from reward_modeling.results.run import Results

logger = logging.getLogger(__name__)

WANDB_HOST = "https://api.wandb.ai"
SECONDS_TO_ANSWER, SECONDS_TO_OPEN = 10, 30


def prepare_wandb(output_path: str, *, opens_run: bool = True) -> None:
    """Let wandb write into the output folder, and work offline where nobody is logged in or nothing is reached.

    Without a key wandb asks for one on the terminal, and a run on a cluster waits for ever.

    Args:
        opens_run: whether this is the process that does.

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
    mode = os.environ.get("WANDB_MODE")
    if mode not in (None, "", "online", "run", "shared") or not opens_run:
        return
    from requests.utils import get_netrc_auth  # comes with wandb, which not every machine has

    host = os.environ.get("WANDB_BASE_URL", WANDB_HOST)
    if not os.environ.get("WANDB_API_KEY") and get_netrc_auth(host) is None:
        _go_offline("no login found", output_path)
    elif not is_reached(host):
        _go_offline(f"{host} is not reached", output_path)


def is_reached(host: str) -> bool:
    """Whether anything answers there, through the proxies that the variables name, within some seconds.

    wandb itself would try for minutes. The name is looked up by a thread, since nothing limits how long that takes.
    """
    answered = threading.Event()

    def ask() -> None:
        import requests

        with suppress(requests.RequestException):
            requests.head(host, timeout=SECONDS_TO_ANSWER)
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS_TO_ANSWER)
    return answered.is_set()


def open_wandb(run_name: str | None, output_path: str) -> None:
    """Open the run that transformers' callback will log to; offline where wandb refuses it, as for an invalid key."""
    import wandb

    options = {"project": os.environ.get("WANDB_PROJECT", "huggingface"), "name": run_name}
    try:
        wandb.init(**options, settings=wandb.Settings(init_timeout=SECONDS_TO_OPEN))
    except (wandb.Error, OSError, ValueError) as error:
        _go_offline(first_line(error), output_path)
        wandb.init(**options, mode="offline")


def _go_offline(reason: str, output_path: str) -> None:
    os.environ["WANDB_MODE"] = "offline"
    logger.warning("wandb: %s, so the run is kept offline in %s/wandb (wandb sync uploads it).", reason, output_path)


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
    shares = objective.evaluation_shares(results.evaluation)
    for name, evaluation in results.evaluation.get("sets", {}).items():
        shares |= {f"{name}, {share}": row for share, row in objective.evaluation_shares(evaluation).items()}
    rows = [[name, *(share[key] for key in ("value", "low", "high", "rows"))] for name, share in shares.items()]
    table = wandb.Table(columns=["pairs of", "accuracy", "low", "high", "pairs"], data=rows)
    wandb.run.log({"final/held_out": table})
    figures = {name: value for name, value in results.evaluation.items() if isinstance(value, int | float)}
    figures |= {f"accuracy, {name}": share["value"] for name, share in shares.items()}
    wandb.run.summary.update({f"final/{name}": value for name, value in figures.items()})

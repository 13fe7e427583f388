"""Experiment tracking that never waits for a key."""

import logging
import os
from pathlib import Path

from requests.utils import get_netrc_auth

logger = logging.getLogger(__name__)

WANDB_HOST = "https://api.wandb.ai"


def prepare_wandb(output_path: str) -> None:
    """Let wandb write into the output folder, and work offline where nobody is logged in.

    Without a key wandb asks for one on the terminal, and a run on a cluster waits for ever.
    """
    os.environ.setdefault("WANDB_DIR", str(Path(output_path).absolute()))
    os.environ.setdefault("WANDB_SILENT", "true")
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"):
        return
    host = os.environ.get("WANDB_BASE_URL", WANDB_HOST)
    if get_netrc_auth(host) is None:
        os.environ["WANDB_MODE"] = "offline"
        logger.warning("wandb: no login found, so the run is kept offline in %s/wandb.", output_path)

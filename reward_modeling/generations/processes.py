"""Several processes that score one file: what the first one does alone, and what all of them share."""

import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from reward_modeling.common.errors import SECONDS_TO_SPEAK, UserError
from reward_modeling.common.screen import set_up_screen

HOURS_TO_WAIT = 6  # for the process that looks at the rows, or has the longest passes
Result = TypeVar("Result")


def start_processes() -> PartialState:
    no_gpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
    state = PartialState(cpu=no_gpu, timeout=timedelta(hours=HOURS_TO_WAIT))
    set_up_screen(logging.INFO if state.is_main_process else logging.ERROR, speaks=state.is_main_process)
    return state


def from_first(state: PartialState, find: Callable[[], Result]) -> Result:
    """What the first process finds, on all of them.

    Raises:
        UserError: what it has raised, there; the others end.
    """
    mistake, found = None, None
    if state.is_main_process:
        try:
            found = find()
        except UserError as error:
            mistake = error
    is_mistake, found = broadcast_object_list([mistake is not None, found])
    if is_mistake and mistake is None:
        time.sleep(SECONDS_TO_SPEAK)
        sys.exit(2)
    if mistake is not None:
        raise mistake
    return found

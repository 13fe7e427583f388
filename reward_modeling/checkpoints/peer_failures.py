"""One message where one process of several cannot write its part of a checkpoint.

The others then wait in a collective, for a process that has ended, or fail in it: what they ask is whether another one
has spoken already. They ask the store by which the processes have found each other, which needs no collective.
"""

import os
from datetime import timedelta

import torch

KEY = "reward_modeling/saving_failed"
PATIENCE = timedelta(seconds=10)


def is_first_to_fail() -> bool:
    """Whether no other process has said before that a checkpoint cannot be written."""
    return _count(1) == 1


def another_has_failed() -> bool:
    """Whether another process has said so; or process 0 has ended, which keeps the store where no launcher does."""
    return _count(0) != 0


def _count(more: int) -> int:
    """How many have failed, with this one; -1 where nobody answers."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if not address or not port:
        return more
    try:
        store = torch.distributed.TCPStore(address, int(port), is_master=False, timeout=PATIENCE)
        return store.add(KEY, more)
    except (torch.distributed.DistError, RuntimeError):
        return -1

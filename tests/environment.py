"""The variables of all tests, set before anything reads them: no network, no tracking, few threads.

Their files and their cache lie in memory, where there is room.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
GIGABYTES = 4  # that are free there; all tests together take less than one
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > GIGABYTES * 2**30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="reward-modeling-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What DeepSpeed compiles is kept beside the environment that it is compiled for. A test run that was killed may have
# left a lock in a shared place, for which the next would wait without an end.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix).resolve() / "torch_extensions"))

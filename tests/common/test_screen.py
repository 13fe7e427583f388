"""What of the libraries' words reaches the screen."""

import os
import subprocess
import sys

import pytest
import torch
from runs import ROOT

IMPORT = """
def main():
    from deepspeed.accelerator import get_accelerator
    get_accelerator()
"""


def what_is_said(start: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    command = [sys.executable, "-c", IMPORT + start]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="DeepSpeed says this where there is no GPU")
def test_what_libraries_say_while_they_are_imported_is_filtered():
    """Under ZeRO DeepSpeed is imported before the flags are read."""
    pytest.importorskip("deepspeed")
    noise = "Setting accelerator to CPU"
    assert noise in what_is_said("main()")
    assert noise not in what_is_said("from reward_modeling.common.errors import run_script\nrun_script(main)")

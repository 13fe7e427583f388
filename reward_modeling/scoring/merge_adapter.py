"""An adapter and its model made into one plain checkpoint.

    python -m reward_modeling.scoring.merge_adapter models/gemma2b_rm/last_checkpoint models/gemma2b_rm/merged

rm.py starts it as a process of its own for --merge_adapter: where it trains, DeepSpeed would cut what is loaded.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
from transformers.utils import ADAPTER_CONFIG_NAME

from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.interruption import run_child
from reward_modeling.common.launch import child_environment
from reward_modeling.common.paths import local_path
from reward_modeling.models.attention import register_shared_prefix_attention
from reward_modeling.models.loading import save_whole
from reward_modeling.scoring.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
MODULE = "reward_modeling.scoring.merge_adapter"


def merge_adapter(adapter: Path, folder: Path, *, trust_remote_code: bool = False, replace: bool = False) -> None:
    """Write the merged model to `folder`, in float32: what an adapter adds is lost in the 8 bits of bfloat16.

    The folder is complete or not there.

    Raises:
        UserError: there is no adapter, something is in the way, or the folder cannot be written.
    """
    if not (adapter / ADAPTER_CONFIG_NAME).is_file():
        raise UserError(f"{adapter}: expected the folder of an adapter, found no {ADAPTER_CONFIG_NAME} in it.")
    if folder.exists() and not replace:
        raise UserError(f"{folder}: expected nothing there yet, found something. Take another folder, or remove it.")
    register_shared_prefix_attention()
    model, tokenizer = load_checkpoint(str(adapter), torch.float32, revision=None, trust_remote_code=trust_remote_code)
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_whole(model, tokenizer, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: expected a folder that can be written, with room for the model, found [{error}]. "
            "Take another one, or make room."
        ) from error


def merge_in_another_process(adapter: Path, folder: Path, *, trust_remote_code: bool = False) -> None:
    """`merge_adapter` outside of a distributed job; a UserError has the other process's last words."""
    # What an earlier end of the same run has left is replaced.
    command = [sys.executable, "-m", MODULE, "--replace", str(adapter.absolute()), str(folder.absolute())]
    command += ["--trust_remote_code"] if trust_remote_code else []
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = child_environment() | {"PYTHONPATH": path}
    process = run_child(command, env=environment, encoding="utf-8", errors="replace")
    if process.returncode != 0:
        said = process.stderr.rpartition("error: ")[2] or f"exit status {process.returncode}"
        why = " ".join(said.split())[:400]
        raise UserError(
            f"--merge_adapter: the adapter is whole, in {adapter}, and could not be merged ({why}). Try again by hand: "
            f"python -m {MODULE} {adapter} {folder}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=local_path, help="folder of the adapter, such as last_checkpoint")
    parser.add_argument("folder", type=local_path, help="new folder for the merged checkpoint")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that the model's repository holds")
    parser.add_argument("--replace", action="store_true", help="replace what is in the folder")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    merge_adapter(**vars(arguments))
    print(f"Merged: {arguments.folder}")


if __name__ == "__main__":
    run_script(main)

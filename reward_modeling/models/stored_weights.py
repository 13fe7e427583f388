"""Names, shapes and values of the weights in a checkpoint's files, without a model."""

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import utils

from reward_modeling.common.errors import UserError, first_line

Shapes = dict[str, tuple[int, ...]]

SAFE, SAFE_INDEX = utils.SAFE_WEIGHTS_NAME, utils.SAFE_WEIGHTS_INDEX_NAME
TORCH, TORCH_INDEX = utils.WEIGHTS_NAME, utils.WEIGHTS_INDEX_NAME
# Torn safetensors files; torn JSON or an index without names; torn files of torch.
BROKEN_FILES = (SafetensorError, ValueError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError)


def stored_shapes(model_name: str, *, revision: str | None = None, **_options) -> Shapes:
    """Name and shape of every weight of a checkpoint, from its files' headers; empty where none is on this disk.

    Raises:
        UserError: a file is broken.
    """
    try:
        files = files_here(model_name, revision)
        return {name: shape for file in files for name, shape in shapes_in(file).items()}
    except BROKEN_FILES as error:
        raise broken_weights(model_name, error) from error


def files_here(model_name: str, revision: str | None) -> list[Path]:
    """The files of the model's weights; none where one of them is not on this disk."""
    for single, index in ((SAFE, SAFE_INDEX), (TORCH, TORCH_INDEX)):
        files = [file_here(model_name, single, revision)]
        if (listed := file_here(model_name, index, revision)) is not None:
            names = sorted(set(json.loads(listed.read_text(encoding="utf-8"))["weight_map"].values()))
            files = [file_here(model_name, name, revision) for name in names]
        if all(files):
            return files
    return []


def broken_weights(model_name: str, error: Exception) -> UserError:
    """A file of weights, or their index, that cannot be read."""
    return UserError(
        f"--model_name {model_name}: expected whole safetensors files, found a broken one ({first_line(error)}). "
        "Download or save the model again."
    )


def file_here(model_name: str, name: str, revision: str | None, *, fetch: bool = False) -> Path | None:
    """Of a folder, or of what was downloaded before: nothing is fetched unless that is asked for."""
    if Path(model_name).is_dir():
        file = Path(model_name, name)
        return file if file.is_file() else None
    options = {"local_files_only": not fetch, "_raise_exceptions_for_missing_entries": False}
    options["_raise_exceptions_for_connection_errors"] = options["_raise_exceptions_for_gated_repo"] = False
    file = utils.cached_file(model_name, name, revision=revision, **options)
    return None if file is None else Path(file)


def shapes_in(file: Path) -> Shapes:
    """Name and shape of every weight of one file."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    # shapes alone, on a device without memory; `weights_only` runs nothing that the file names
    weights = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    return {name: tuple(weight.shape) for name, weight in weights.items() if torch.is_tensor(weight)}


def read_weight(files: list[Path], name: str) -> torch.Tensor:
    """One weight of these files, in the memory of the CPU."""
    file = next(file for file in files if name in shapes_in(file))
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return tensors.get_tensor(name)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)[name].clone()

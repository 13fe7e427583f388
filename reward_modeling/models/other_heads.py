"""A head with one output that a checkpoint holds under another name: v_head.summary, value_head, rm_head, reward_head.

Names and shapes are read off the files' headers; no weight is. What is not clear is refused: a new head drawn at random
in the place of one that was trained would lose it without a word.
"""

import json
import logging
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, utils

from reward_modeling.common.errors import UserError, first_line
from reward_modeling.models.new_parts import names_of_language_models, new_weights, on_meta_device

logger = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]

SAFE, SAFE_INDEX = utils.SAFE_WEIGHTS_NAME, utils.SAFE_WEIGHTS_INDEX_NAME
TORCH, TORCH_INDEX = utils.WEIGHTS_NAME, utils.WEIGHTS_INDEX_NAME
# Torn safetensors files; torn JSON or an index without names; torn files of torch.
BROKEN_FILES = (SafetensorError, ValueError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError)
# What has one row in a language model too: gates of experts, the only kind of segment.
IN_A_LAYER = re.compile(r"embed|(^|\.)(layers?|h|blocks?)\.\d+\.")
# Beside any matrix with one row: how reward models call a head, whatever its shape.
LIKE_A_HEAD = re.compile(
    r"(^|[._])((v|values?|rm|rewards?|regression|score|scalar)_?head|score|rewards?|v_proj_out)([._]|$)"
)


def stored_shapes(model_name: str, *, revision: str | None = None, **_options) -> Shapes:
    """Name and shape of every weight of a checkpoint, from its files' headers; empty where none is on this disk.

    Raises:
        UserError: a file is broken.
    """
    for single, index in ((SAFE, SAFE_INDEX), (TORCH, TORCH_INDEX)):
        files = [_file_here(model_name, single, revision)]
        try:
            if (listed := _file_here(model_name, index, revision)) is not None:
                names = sorted(set(json.loads(listed.read_text(encoding="utf-8"))["weight_map"].values()))
                files = [_file_here(model_name, name, revision) for name in names]
            if all(files):
                return {name: shape for file in files for name, shape in _shapes_in(file).items()}
        except BROKEN_FILES as error:
            raise broken_weights(model_name, error) from error
    return {}


def broken_weights(model_name: str, error: Exception) -> UserError:
    """A file of weights, or their index, that cannot be read."""
    return UserError(
        f"--model_name {model_name}: expected whole safetensors files, found a broken one ({first_line(error)}). "
        "Download or save the model again."
    )


def _file_here(model_name: str, name: str, revision: str | None) -> Path | None:
    """Of a folder, or of what was downloaded before: nothing is fetched for this."""
    if Path(model_name).is_dir():
        file = Path(model_name, name)
        return file if file.is_file() else None
    options = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    options["_raise_exceptions_for_connection_errors"] = options["_raise_exceptions_for_gated_repo"] = False
    file = utils.cached_file(model_name, name, revision=revision, **options)
    return None if file is None else Path(file)


def _shapes_in(file: Path) -> Shapes:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    # shapes alone, on a device without memory; `weights_only` runs nothing that the file names
    weights = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    return {name: tuple(weight.shape) for name, weight in weights.items() if torch.is_tensor(weight)}


def renamed_head(model_name: str, config: PreTrainedConfig, **hub_options) -> dict[str, str]:
    """The `key_mapping` with which a checkpoint's head of another name is taken; {} where there is none.

    Raises:
        UserError: there are several, or one of another shape, or of several layers.
    """
    shapes = stored_shapes(model_name, **hub_options)
    if not any(_may_be_a_head(name, shape) for name, shape in shapes.items()):
        return {}
    model = on_meta_device(config)
    own = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if name in new_weights(model)}
    if any(name in shapes for name in own):
        return {}
    known = {*model.state_dict(), *names_of_language_models(config)}
    # a checkpoint of the bare model has the same names without its prefix
    known |= {name.removeprefix(f"{model.base_model_prefix}.") for name in known}
    unknown = {name: shape for name, shape in shapes.items() if name not in known}
    (weight, shape), *others = sorted(own.items(), key=lambda item: item[0].endswith(".bias"))
    bias = weight.removesuffix("weight") + "bias"
    found = find_head(model_name, unknown, config.get_text_config().hidden_size)
    if found is None:
        return {}
    if {name for name, _ in others} - {bias}:
        raise _unclear(model_name, f"the weights {', '.join(own)}", f"{found} {unknown[found]} alone")
    logger.warning("Score head: %s %s of the checkpoint is taken as %s.", found, shape, weight)
    mapping = {_exactly(found): weight}
    if (found_bias := found.removesuffix("weight") + "bias") in unknown:
        mapping[_exactly(found_bias)] = bias
        if bias not in own:
            logger.warning(
                "Score head: %s has no place in a %s: every reward lacks this one number, which no comparison of "
                "answers needs.",
                *(found_bias, type(model).__name__),
            )
            del mapping[_exactly(found_bias)]
    return mapping


def _may_be_a_head(name: str, shape: tuple[int, ...]) -> bool:
    one_row = len(shape) == 2 and shape[0] == 1
    return not IN_A_LAYER.search(name) and (one_row or (len(shape) == 2 and bool(LIKE_A_HEAD.search(name))))


def find_head(model_name: str, unknown: Shapes, hidden: int) -> str | None:
    """The one head among the weights that neither the reward model nor a language model has; None if there is none.

    Raises:
        UserError: there are several, or one of another shape, or of several layers.
    """
    heads = {name: shape for name, shape in unknown.items() if _may_be_a_head(name, shape)}
    rows = [name for name, shape in heads.items() if shape == (1, hidden)]
    heads = {name: shape for name, shape in heads.items() if name in rows or LIKE_A_HEAD.search(name)}
    if not heads:
        return None
    listed = ", ".join(f"{name} {shape}" for name, shape in sorted(heads.items()))
    if len(heads) > 1 or not rows:
        raise _unclear(model_name, f"one head of shape (1, {hidden})", listed)
    (head,) = heads
    beside = [name for name in unknown if name != head and _root_of(name) == _root_of(head)]
    if odd := [name for name in beside if name != head.removesuffix("weight") + "bias"]:
        raise _unclear(model_name, "a head of one layer", f"{listed} with {odd[0]} {unknown[odd[0]]} beside it")
    return head


def _exactly(name: str) -> str:
    return f"^{re.escape(name)}$"


def _root_of(name: str) -> str:
    """`v_head` of v_head.summary.weight; `model.v_head` where it stands in the model."""
    parts = name.split(".")
    place = next((n for n, part in enumerate(parts) if part not in ("model", "transformer", "module", "base_model")), 0)
    return ".".join(parts[: place + 1])


def _unclear(model_name: str, expected: str, found: str) -> UserError:
    return UserError(
        f"--model_name {model_name}: expected {expected}, found {found}. Which of them gives the reward is not known "
        "here, and a new head would lose it: save the model with it as score.weight, or start from the language "
        "model it was made from."
    )

"""A head with one output that a checkpoint holds under another name: v_head.summary, value_head, rm_head, lm_head.

LLaMA-Factory writes it to a file of its own. Names and shapes are read off the files' headers; a weight is read only
where it cannot be renamed. What is not clear is refused: a new head drawn at random in the place of one that was
trained would lose it without a word.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.models.new_parts import names_of_language_models, new_weights, on_meta_device
from reward_modeling.models.stored_weights import (
    BROKEN_FILES,
    Shapes,
    broken_weights,
    file_here,
    files_here,
    read_weight,
    shapes_in,
    stored_shapes,
)

logger = logging.getLogger(__name__)

# What has one row in a language model too: gates of experts, the only kind of segment.
IN_A_LAYER = re.compile(r"embed|(^|\.)(layers?|h|blocks?)\.\d+\.")
# Beside any matrix with one row: how reward models call a head, whatever its shape.
LIKE_A_HEAD = re.compile(
    r"(^|[._])((v|values?|rm|rewards?|regression|score|scalar)_?(head|layer)|score|rewards?|v_proj_out)([._]|$)"
)
NORM = re.compile(r"norm|(^|[._])ln")  # its weight is a vector, as that of some heads
OF_TOKENS = ("lm_head.weight", "lm_head.bias")  # with one row it gives a reward: no model has a vocabulary of one token
# LLaMA-Factory's, beside the model.
SEPARATE, SEPARATE_TORCH = "value_head.safetensors", "value_head.bin"


@dataclass(frozen=True)
class FoundHead:
    """A head of another name: its weight there, its file if that is not one of the model's, its place in the model."""

    name: str
    unknown: Shapes
    separate: Path | None
    weight: str
    own: Shapes
    model_class: str

    @property
    def is_copied(self) -> bool:
        """Whether renaming is not enough for `from_pretrained` to read it."""
        return self.separate is not None or len(self.unknown[self.name]) == 1


def renamed_head(model_name: str, config: PreTrainedConfig, **hub_options) -> dict[str, str]:
    """The `key_mapping` with which a checkpoint's head of another name is taken; {} where none is, or it is copied.

    Raises:
        UserError: there are several, or one of another shape, or of several layers, or in a pickle file.
    """
    found = _head_of_another_name(model_name, config, **hub_options)
    if found is None or found.is_copied:
        return {}
    _log_taken(found)
    mapping, bias = {_exactly(found.name): found.weight}, _bias_of(found.weight)
    if _bias_of(found.name) in found.unknown:
        if bias in found.own:
            mapping[_exactly(_bias_of(found.name))] = bias
        else:
            _log_bias_left_out(found)
    return mapping


def copied_head(model_name: str, config: PreTrainedConfig, **hub_options) -> dict[str, torch.Tensor]:
    """A head that no renaming brings: a vector, or one in a file beside the model, which is fetched from the Hub.

    Returns:
        The values `(1, hidden)` of the model's head, by its name there, and of its bias `(1,)`; {} where there is none.

    Raises:
        UserError: as `renamed_head`.
    """
    found = _head_of_another_name(model_name, config, fetch=True, **hub_options)
    if found is None or not found.is_copied:
        return {}
    files = [found.separate] if found.separate else files_here(model_name, hub_options.get("revision"))
    _log_taken(found)
    weights, bias = {found.weight: read_weight(files, found.name).reshape(1, -1)}, _bias_of(found.weight)
    if _bias_of(found.name) in found.unknown:
        if bias in found.own:
            weights[bias] = read_weight(files, _bias_of(found.name)).reshape(1)
        else:
            _log_bias_left_out(found)
    return weights


def _head_of_another_name(
    model_name: str, config: PreTrainedConfig, *, revision: str | None = None, fetch: bool = False
) -> FoundHead | None:
    shapes = stored_shapes(model_name, revision=revision)
    separate = file_here(model_name, SEPARATE, revision, fetch=fetch)
    pickled = None if separate else file_here(model_name, SEPARATE_TORCH, revision, fetch=fetch)
    if not separate and not pickled and not any(_may_be_a_head(name, shape) for name, shape in shapes.items()):
        return None
    model = on_meta_device(config)
    own = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if name in new_weights(model)}
    if any(name in shapes for name in own):
        return None
    if pickled:
        raise _pickled_head(model_name)
    known = {*model.state_dict(), *names_of_language_models(config)}
    # a checkpoint of the bare model has the same names without its prefix
    known |= {name.removeprefix(f"{model.base_model_prefix}.") for name in known}
    known -= {name for name in OF_TOKENS if shapes.get(name, ())[:1] == (1,)}
    unknown = {name: shape for name, shape in shapes.items() if name not in known}
    hidden = config.get_text_config().hidden_size
    name = find_head(model_name, unknown, hidden)
    if separate:
        if name is not None:
            raise _unclear(model_name, "one head", f"{name} {unknown[name]} in the model and {SEPARATE} beside it")
        name, unknown = _head_in_separate_file(model_name, separate, hidden)
    if name is None:
        return None
    weight, *others = sorted(own, key=lambda each: each.endswith(".bias"))
    if {*others} - {_bias_of(weight)}:
        raise _unclear(model_name, f"the weights {', '.join(own)}", f"{name} {unknown[name]} alone")
    if own[weight] != (1, hidden):
        raise _unclear(model_name, f"a head of shape {own[weight]}", f"{name} {unknown[name]}")
    return FoundHead(name, unknown, separate, weight, own, type(model).__name__)


def _head_in_separate_file(model_name: str, file: Path, hidden: int) -> tuple[str, Shapes]:
    try:
        shapes = shapes_in(file)
        name = find_head(model_name, shapes, hidden)
    except BROKEN_FILES as error:
        raise broken_weights(model_name, error) from error
    if name is None:
        listed = ", ".join(f"{each} {shape}" for each, shape in sorted(shapes.items())) or "nothing"
        raise _unclear(model_name, f"one head of shape (1, {hidden}) in {SEPARATE}", listed)
    return name, shapes


def _pickled_head(model_name: str) -> UserError:
    return UserError(
        f"--model_name {model_name}: expected the head in {SEPARATE}, found {SEPARATE_TORCH}, a pickle file, which is "
        "not read here. Convert it to safetensors, in Python: "
        f'safetensors.torch.save_file(torch.load("{SEPARATE_TORCH}", weights_only=True), "{SEPARATE}").'
    )


def _log_taken(found: FoundHead) -> None:
    place = f"of {SEPARATE}" if found.separate else "of the checkpoint"
    shape = found.unknown[found.name]
    logger.warning("Score head: %s %s %s is taken as %s.", found.name, shape, place, found.weight)


def _log_bias_left_out(found: FoundHead) -> None:
    logger.warning(
        "Score head: %s has no place in a %s: every reward lacks this one number, which no comparison of "
        "answers needs.",
        *(_bias_of(found.name), found.model_class),
    )


def _may_be_a_head(name: str, shape: tuple[int, ...]) -> bool:
    if IN_A_LAYER.search(name):
        return False
    if len(shape) == 1:
        return name.endswith("weight") and bool(LIKE_A_HEAD.search(name)) and not NORM.search(name)
    return len(shape) == 2 and (shape[0] == 1 or bool(LIKE_A_HEAD.search(name)))


def find_head(model_name: str, unknown: Shapes, hidden: int) -> str | None:
    """The one head among the weights that neither the reward model nor a language model has; None if there is none.

    Raises:
        UserError: there are several, or one of another shape, or of several layers.
    """
    heads = {name: shape for name, shape in unknown.items() if _may_be_a_head(name, shape)}
    rows = [name for name, shape in heads.items() if shape in ((1, hidden), (hidden,))]
    heads = {name: shape for name, shape in heads.items() if name in rows or LIKE_A_HEAD.search(name)}
    if not heads:
        return None
    listed = ", ".join(f"{name} {shape}" for name, shape in sorted(heads.items()))
    outputs = [f"; {name} has {shape[0]} outputs" for name, shape in heads.items() if shape[1:] == (hidden,)]
    if not rows and outputs and all(shape[0] > 1 for shape in heads.values()):
        raise _unclear(model_name, "a head with one output", listed + "".join(outputs))
    if len(heads) > 1 or not rows:
        raise _unclear(model_name, f"one head of shape (1, {hidden})", listed)
    (head,) = heads
    beside = [name for name in unknown if name != head and _root_of(name) == _root_of(head)]
    if odd := [name for name in beside if name != _bias_of(head)]:
        raise _unclear(model_name, "a head of one layer", f"{listed} with {odd[0]} {unknown[odd[0]]} beside it")
    return head


def _bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


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

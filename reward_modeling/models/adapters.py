"""LoRA adapters (Hu et al., 2021): small matrices beside the frozen weights, and all that is new trained in full.

What is saved is what peft saves and reads: `adapter_model.safetensors` with the head, and `adapter_config.json`.
"""

import importlib.util
import logging
import re
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from reward_modeling.common.errors import UserError, first_line
from reward_modeling.common.words import ALL_LINEAR
from reward_modeling.models.new_parts import WRAPPED, is_within, new_modules, new_modules_of
from reward_modeling.models.process_format import is_process_model
from reward_modeling.models.reward_model import RewardModelMixin

if TYPE_CHECKING:
    from peft import PeftModel  # imported for real where an adapter is made: a run without one does not need it


logger = logging.getLogger(__name__)


def add_adapter(
    model: PreTrainedModel,
    *,
    model_name: str,
    revision: str | None,
    r: int,
    alpha: int,
    dropout: float,
    target_modules: str,
    float32: bool = True,
    autocast: bool = True,
) -> "PeftModel":
    """Freeze the model and give it an adapter; what is new in it (the head, a pooler) stays trainable.

    Args:
        model_name: what peft is to load under the adapter later; a folder is written with its whole path.
        target_modules: `all-linear` (all linear layers but the new ones), or names separated by commas.
        float32: hold the adapter and what is new in float32 where the model is in bfloat16, which loses small updates.
        autocast: whether it is computed under torch.autocast. Without it only our own head takes another type than its
            own, and other new parts keep the model's.

    Raises:
        UserError: the model has no layers of these names, or none that an adapter can stand beside.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    new = new_modules(model)
    names = [name.strip() for name in target_modules.split(",")]
    trained_whole, exclude = _as_peft_finds_them(model, new)
    config = LoraConfig(
        task_type=TaskType.TOKEN_CLS if is_process_model(model.config) else TaskType.SEQ_CLS,
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=ALL_LINEAR if names == [ALL_LINEAR] else names,
        modules_to_save=list(trained_whole),
        exclude_modules=exclude,
        base_model_name_or_path=str(Path(model_name).resolve()) if Path(model_name).is_dir() else model_name,
        revision=revision,
    )
    _check_targets(model, new, target_modules)
    try:
        adapted = get_peft_model(model, config, autocast_adapter_dtype=float32)
    except ValueError as error:
        raise UserError(
            f"--use_peft: peft cannot adapt a {type(model).__name__} ({first_line(error)}). Train all weights: leave "
            "out --use_peft."
        ) from error
    _check_shared(adapted)
    # peft adds both names of a head to a list that had one: written down, each stands there once.
    config.modules_to_save = trained_whole
    config.base_model_name_or_path = config.base_model_name_or_path or model_name
    if float32 and (autocast or isinstance(model, RewardModelMixin)):
        for name in new:
            adapted.base_model.model.get_submodule(name).to(torch.float32)
    trained = count_weights(weight for weight in adapted.parameters() if weight.requires_grad)
    layers = sum(hasattr(module, "lora_A") for module in adapted.modules())
    whole = count_weights(adapted.parameters())
    logger.warning(
        "Adapter: LoRA of rank %d on %d linear layers, and all of %s: %s of %s weights are trained (%.2f%%).",
        *(r, layers, ", ".join(new), f"{trained:,}", f"{whole:,}", 100 * trained / whole),
    )
    return adapted


def _check_shared(adapted: "PeftModel") -> None:
    """
    Raises:
        UserError: two adapted layers have one weight, as those of Zamba's shared blocks. Each gets matrices
            of its own, and merging would add both to the one weight.
    """
    from peft.tuners.lora.layer import ParamWrapper

    names: dict[int, str] = {}
    for name, module in adapted.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        # the experts of a mixture are one parameter, which its wrapper names
        is_parameter = isinstance(module, ParamWrapper)
        first = names.setdefault(id(module.get_param() if is_parameter else module.base_layer.weight), name)
        if first != name:
            first, name = (one.removeprefix(WRAPPED) for one in (first, name))
            raise UserError(
                f"--use_peft: expected adapted layers with weights of their own, found that {name} shares those of "
                f"{first}: merged, one weight would get both adapters. Train all weights: leave out --use_peft; or "
                "name other layers (--lora_target_modules)."
            )


def _as_peft_finds_them(model: PreTrainedModel, new: list[str]) -> tuple[list[str], str | None]:
    """Names by which peft finds these modules and no others, and a pattern of the layers that it must not adapt.

    peft takes every module whose name ends in the given one: EuroBERT's `dense` would also be that of each layer of an
    encoder after BERT. With `model.` before it, which is how peft's own wrapper calls the whole, it is found alone.
    """
    every = [f"{WRAPPED}{name}" for name, _ in model.named_modules() if name]
    found = {f"{WRAPPED}{name}" for name in new}

    def is_alone(name: str) -> bool:
        return found.issuperset(module for module in every if module.endswith(name))

    names = [name if is_alone(name) else f"model.{name}" for name in new]
    if not all(map(is_alone, names)):
        raise UserError(
            f"--use_peft: peft cannot tell {', '.join(new)} of a {type(model).__name__}, which are new and have to be "
            "trained whole, from other layers. Train all weights: leave out --use_peft."
        )
    routers = [name for name, module in model.named_modules() if _is_router(module)]
    # peft leaves out by itself what it trains whole and finds under the name that it has in the model
    left_out = [*routers, *(() if names == new else new)]
    return names, f"({'|'.join(map(re.escape, left_out))})(\\..*)?" if left_out else None


def _is_router(module: torch.nn.Module) -> bool:
    """A linear layer by its class that gives more than one tensor (PhiMoE): an adapter would not know which."""
    return isinstance(module, torch.nn.Linear) and type(module).__name__.endswith("Router")


def _check_targets(model: PreTrainedModel, new: list[str], target_modules: str) -> None:
    """As peft looks for them; beside a name, all-linear would be one more name to it, of no layer."""
    names = [name.strip() for name in target_modules.split(",")]
    every = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and not _is_router(module)
    ]
    linear = [name for name in every if not is_within(name, new)]
    unknown = [name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in linear)]
    if unknown and names != [ALL_LINEAR]:
        found = ", ".join(sorted({layer.rsplit(".", 1)[-1] for layer in linear}))
        raise UserError(
            f"--lora_target_modules {target_modules}: expected {ALL_LINEAR} alone, or linear layers of "
            f"{type(model).__name__} but its head, separated by commas ({found}), found {unknown[0]!r}."
        )
    if not linear:
        raise UserError(
            f"--use_peft: expected linear layers in {type(model).__name__}, found none beside what is new. Train all "
            "weights: leave out --use_peft."
        )


def count_weights(parameters: Iterable[torch.Tensor]) -> int:
    """Of weights that ZeRO-3 has cut only an empty rest is here, and the whole number in a note on it."""
    return sum(getattr(weight, "ds_numel", weight.numel()) for weight in parameters)


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether it is what `add_adapter` returns."""
    return hasattr(model, "peft_config")


def save_adapter(model: "PeftModel", folder: str, *, write: bool) -> None:
    """As peft saves it, under every engine, without a copy of the embeddings: no adapter of ours changes them.

    Every process has to call it, and one to `write`: what peft asks of a model that FSDP has cut, such as its
    state_dict, leaves it in another state, and the processes would wait for each other in the next forward pass.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    gathered: Any = nullcontext()
    if any(hasattr(weight, "ds_id") for weight in trained.values()):
        import deepspeed  # slow to import, and not needed without ZeRO-3

        gathered = deepspeed.zero.GatheredParameters(list(trained.values()))
    with gathered, torch.no_grad():
        state_dict = {
            name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().to("cpu", copy=True)
            for name, weight in trained.items()
        }
    model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False, is_main_process=write)


def four_bit_problem() -> str | None:
    """Why the weights cannot be held in four bits here, or None if they can."""
    if not torch.cuda.is_available():
        return "expected a CUDA GPU, for which bitsandbytes has its four-bit layers, found none"
    if importlib.util.find_spec("bitsandbytes") is None:
        return "expected bitsandbytes to be installed, found none. Run pip install -r requirements-gpu.txt"
    return None


def four_bit_options(config: PreTrainedConfig, device: torch.device) -> dict[str, Any]:
    """QLoRA (Dettmers et al., 2023): weights in NF4, quantised twice, computed with in bfloat16; new ones untouched."""
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=new_modules_of(config),
    )
    return {"quantization_config": quantised, "device_map": {"": device}}

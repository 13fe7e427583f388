"""Which parts of a reward model no pretrained model brings: they begin at random, and are trained and saved whole.

Which these are differs by family: a linear head (Llama), two layers (RoBERTa, DistilBERT), a pooler inside the encoder
(BERT), a summary (XLM). The language model of the same family says it: what it has not, no pretraining has learned.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_utils import set_zero3_state

from reward_modeling.common.errors import UserError
from reward_modeling.models.process_format import is_process_model
from reward_modeling.models.reward_model import RewardModelMixin, class_for

HEAD = "score"  # what `RewardModelMixin` reads rewards with
POOLER = ".pooler."  # of families that have no language model: some encoders were pretrained with one, some were not
WRAPPED = "base_model.model."  # what peft puts before the names of the model that it adapts


def new_weights(model: PreTrainedModel) -> set[str]:
    """Names in the model's state dict that a language model of its family does not have."""
    names = set(model.state_dict())
    if isinstance(model, RewardModelMixin):
        return {name for name in names if name.startswith(f"{HEAD}.")}
    inside = f"{model.base_model_prefix}."
    known = _names_by_language_model(model.config)
    if not known:
        return {name for name in names if not name.startswith(inside) or POOLER in name}
    return {name for name in names if any(name not in of_class for of_class in known)}


def new_modules(model: PreTrainedModel) -> list[str]:
    """The largest modules of `new_weights` and nothing else, in the model's order.

    Raises:
        UserError: a new weight stands in a module whose other weights are not new.
    """
    new, modules = new_weights(model), []
    for name, module in model.named_modules():
        names = {f"{name}.{weight}" for weight in module.state_dict()} if name else set()
        if names and names <= new and not any(name.startswith(f"{outer}.") for outer in modules):
            modules.append(name)
    left = sorted(weight for weight in new if not any(weight.startswith(f"{name}.") for name in modules))
    if left:
        raise UserError(
            f"--use_peft: expected new weights in modules of their own, which an adapter can hold, found {left[0]} "
            f"in {type(model).__name__}. Train all weights: leave out --use_peft."
        )
    return modules


def new_modules_of(config: PreTrainedConfig) -> list[str]:
    """`new_modules` of the model that will be loaded."""
    return [HEAD] if class_for(config) is not None else new_modules(on_meta_device(config))


def drawn_head(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Values to begin with of the linear layers that are new, by their names, as the model's class draws them."""
    values = {}
    for name in new_modules(model):
        module = model.get_submodule(name)
        if isinstance(module, torch.nn.Linear):
            head = type(module)(module.in_features, module.out_features, bias=module.bias is not None)
            model._init_weights(head)
            values |= {f"{name}.{weight}": value.detach() for weight, value in head.named_parameters()}
    return values


def output_layers(config: PreTrainedConfig) -> list[str]:
    """The weights, and the biases, that have a row for each label."""
    more = copy.deepcopy(config)
    more.num_labels = config.num_labels + 1
    here, there = (on_meta_device(each).state_dict() for each in (config, more))
    return [name for name, weight in here.items() if weight.shape != there[name].shape]


def on_meta_device(config: PreTrainedConfig) -> PreTrainedModel:
    """The reward model with shapes alone, no random numbers taken that anybody else would miss."""
    model_class = class_for(config) or classifiers(config)[type(config)]
    with shapes_alone():
        return model_class(copy.deepcopy(config))


def classifiers(config: PreTrainedConfig) -> Mapping:
    """transformers' mapping to the classes of which the configuration asks for one."""
    return (
        MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
        if is_process_model(config)
        else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    )


def names_of_language_models(config: PreTrainedConfig) -> set[str]:
    """What the family's language models call their weights; none where transformers has no such model."""
    return {name for names in _names_by_language_model(config) for name in names}


def is_within(name: str, modules: Iterable[str]) -> bool:
    """Whether a module or a weight of this name is one of these modules or stands in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Weights get neither memory nor values, and under ZeRO-3 transformers leaves them whole (`set_zero3_state`)."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), set_zero3_state():
        yield


def _names_by_language_model(config: PreTrainedConfig) -> list[set[str]]:
    mappings = (MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING)
    with shapes_alone():
        classes = [mapping[type(config)] for mapping in mappings if type(config) in mapping]
        return [set(model_class(copy.deepcopy(config)).state_dict()) for model_class in classes]

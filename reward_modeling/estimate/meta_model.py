"""The real model without its memory: what its weights are, and what one forward and backward pass takes.

Every tensor here is one of torch's fake tensors, which have a shape, a type and no bytes. So the model's own code says
how much memory it takes, for any architecture, with adapters, in any type; nothing is loaded or computed.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map_only
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations import unset_hf_deepspeed_config

from reward_modeling.data.planning import PADDED
from reward_modeling.estimate.live_bytes import LiveBytes
from reward_modeling.models.adapters import count_weights
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.process_format import is_process_model
from reward_modeling.models.reward_model import class_for, with_blocks

# One weight in NF4 quantised twice: four bits, a byte for 64 weights, and a float32 for 256 of those (Dettmers et al.,
# 2023, section 3).
FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class ModelSizes:
    """How many weights a model has, and what decides the size of an engine's buffers."""

    weights: int
    trained: int
    weight_bytes: float  # as they are loaded
    trained_bytes: int
    multiplied: int  # weights that one token is multiplied with
    embedding: int  # weights of the input embeddings
    layer: int  # weights of the largest layer
    trained_layer: int  # those of them that are trained

    @property
    def frozen(self) -> int:
        return self.weights - self.trained


def build_model(
    config: PreTrainedConfig,
    *,
    num_tokens: int,
    batching: str,
    dtype: torch.dtype,
    gradient_checkpointing: bool,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    adapt: Callable[[PreTrainedModel], torch.nn.Module] | None = None,
) -> torch.nn.Module:
    """The model that rm.py trains with these settings, its weights new ones; without memory on torch's meta device.

    Args:
        num_tokens: of the tokenizer; the embeddings grow where it has more than the model.
        adapt: puts an adapter on the model.
    """
    config = copy.deepcopy(config)
    text_config = config.get_text_config()
    text_config.vocab_size = max(text_config.vocab_size, num_tokens)
    attention = attn_implementation if batching == PADDED else SHARED_PREFIX
    model_class = class_for(config)
    options = {"dtype": dtype, "attn_implementation": attention}
    if model_class is not None:
        model = model_class._from_config(config, **options)
    else:
        options["trust_remote_code"] = trust_remote_code
        auto_class = AutoModelForTokenClassification if is_process_model(config) else AutoModelForSequenceClassification
        model = with_blocks(auto_class.from_config(config, **options))
    if adapt is not None:
        model = adapt(model)
    if gradient_checkpointing:
        # the name that transformers 5.23 has for it
        newer = hasattr(model, "activation_checkpointing_enable")
        (model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable)()
    return model.train()


def model_sizes(model: torch.nn.Module, four_bit: bool = False) -> ModelSizes:
    """Weights that two modules share count once; with `four_bit` the frozen linear ones, but the head's, are in NF4."""
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    in_bytes = {id(weight): weight.nbytes for weight in weights}
    if four_bit:
        linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        whole = {name.rpartition(".")[2] for name in model.peft_config["default"].modules_to_save}
        cut = (module.weight for name, module in linear.items() if not whole & set(name.split(".")))
        in_bytes |= {id(weight): weight.numel() * FOUR_BITS for weight in cut if not weight.requires_grad}
    # the layers are the list of modules with the most weights
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    layers = max(lists, key=lambda modules: count_weights(modules.parameters()))
    largest = list(max(layers, key=lambda layer: count_weights(layer.parameters())).parameters())
    return ModelSizes(
        weights=count_weights(weights),
        trained=count_weights(trained),
        weight_bytes=sum(in_bytes.values()),
        trained_bytes=sum(weight.nbytes for weight in trained),
        multiplied=_multiplied(model),
        embedding=model.get_input_embeddings().weight.numel(),
        layer=count_weights(largest),
        trained_layer=count_weights(weight for weight in largest if weight.requires_grad),
    )


def _multiplied(model: torch.nn.Module) -> int:
    """Embeddings are looked up, and of experts a token meets a few."""
    looked_up = count_weights(module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding))
    met = model.config.get_text_config().num_experts_per_tok if (experts := _experts(model)) else 0
    passed_by = sum(weight.numel() * (weight.shape[0] - met) // weight.shape[0] for weight in experts)
    return count_weights(model.parameters()) - looked_up - passed_by


def _experts(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """transformers stacks experts in weights of three dimensions, which no other layer of a decoder has."""
    return [weight for weight in model.parameters() if weight.ndim == 3]


class MetaModel:
    """The model that `build` makes, without its memory; with `four_bit` its sizes are those of `model_sizes`."""

    def __init__(self, build: Callable[[], torch.nn.Module], four_bit: bool = False):
        unset_hf_deepspeed_config()  # ZeRO-3 would cut the weights, of which there are none
        with torch.device("meta"):
            self.model = build()
        self.config: PreTrainedConfig = self.model.config
        self.sizes = model_sizes(self.model, four_bit)

    def pass_bytes(
        self,
        inputs: dict,
        *,
        dtype: torch.dtype | None = None,
        autocast: torch.dtype | None = None,
        flash_attention: bool = True,
    ) -> int | None:
        """`pass_bytes`, or None of a mixture of experts, where it depends on which tokens an expert gets.

        Args:
            inputs: the keyword arguments of its forward, real ones; only their shapes and the layout are looked at.
            dtype: of all weights, as DeepSpeed and FSDP compute with them; None for the types that they have.
            flash_attention: attention of packed rows as on a GPU; otherwise as on a CPU.
        """
        if _experts(self.model):
            return None
        with FakeTensorMode() as fake:
            _make_fake(self.model, dtype)
            inputs = tree_map_only(torch.Tensor, fake.from_tensor, inputs)
            if "packed_layout" in inputs:
                kernel = flash_attention_bytes if flash_attention else None
                inputs["packed_layout"] = replace(inputs["packed_layout"], kernel=kernel, _cache={})
            return pass_bytes(self.model, inputs, autocast)


def _make_fake(model: torch.nn.Module, dtype: torch.dtype | None) -> None:
    """Other weights and buffers in the place of the model's; one that two modules share stays one."""
    made: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        for name, weight in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            is_weight = isinstance(weight, torch.nn.Parameter)
            if weight not in made:
                made[weight] = torch.empty(weight.shape, dtype=dtype if is_weight and dtype else weight.dtype)
                if is_weight:
                    made[weight] = torch.nn.Parameter(made[weight], requires_grad=weight.requires_grad)
            setattr(module, name, made[weight])


def pass_bytes(model: torch.nn.Module, inputs: dict, autocast: torch.dtype | None) -> int:
    """The most bytes that one forward and backward pass has at once, beside the weights and their gradients.

    These are the activations that the forward pass keeps, what a layer's recomputation and the backward pass need on
    their way, the copies that autocast makes of weights, and the gradient of one weight at a time, before it is added
    to what the engine keeps of it. Gradients are dropped: the model has none afterwards.
    """
    hooks = [
        weight.register_post_accumulate_grad_hook(_drop_gradient)
        for weight in model.parameters()
        if weight.requires_grad
    ]
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            rewards = model(**inputs).logits
        rewards.float().sum().backward()
    for hook in hooks:
        hook.remove()
    return live.peak


def _drop_gradient(weight: torch.Tensor) -> None:
    weight.grad = None


class _FlashAttentionBytes(torch.autograd.Function):
    """What flash-attn 2 allocates in a variable-length call, and nothing of what it computes."""

    @staticmethod
    def forward(ctx, query, key, value):
        output = torch.empty_like(query)
        log_sum_exp = query.new_empty((query.shape[1], query.shape[0]), dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        return output

    @staticmethod
    def backward(ctx, _gradient):
        query, key, value, _, log_sum_exp = ctx.saved_tensors
        accumulated = torch.empty_like(query, dtype=torch.float32)
        softmax = torch.empty_like(log_sum_exp)
        heads = (key.shape[0], query.shape[1], key.shape[2])  # one per query head, summed up at the end
        expanded = [key.new_empty(heads) for _ in range(2)] if key.shape[1] != query.shape[1] else []
        gradients = tuple(torch.empty_like(tensor) for tensor in (query, key, value))
        del accumulated, softmax, expanded
        return gradients


def flash_attention_bytes(query, key, value, *_options) -> torch.Tensor:
    """A kernel for `attention.attention_variable_length` that takes the memory of one and computes nothing."""
    return _FlashAttentionBytes.apply(query, key, value)

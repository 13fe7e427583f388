"""What FSDP2 is given of a model. The steps themselves: tests/training/test_engines.py and test_encoder_engines.py."""

import pytest
import torch
from tiny_families import tiny_config
from torch import nn
from transformers import AutoModelForSequenceClassification

from reward_modeling.models.adapters import add_adapter
from reward_modeling.models.fsdp import allocate_new_weights, classes_to_shard

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "model_name": "", "revision": None}


def tiny_model(family: str):
    config = tiny_config(family, 100, num_labels=1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("bert", ["BertLayer"]),
        ("modernbert", ["ModernBertEncoderLayer"]),
        ("deberta-v2", []),
        ("gemma", ["GemmaDecoderLayer"]),
    ],
)
def test_layers_are_cut_and_not_the_module_around_the_embeddings(family, layers, adapter):
    model = tiny_model(family)
    assert classes_to_shard(add_adapter(model, **LORA) if adapter else model) == layers


def test_new_weights_have_addresses_of_their_own():
    """What process 1 holds after loading BERT without its pooler and classifier."""
    model = tiny_model("bert")
    new = {name: part for name, part in model.named_parameters() if "pooler" in name or "classifier" in name}
    others = {name: weight.clone() for name, weight in model.named_parameters() if name not in new}
    for name, weight in new.items():
        module, _, last = name.rpartition(".")
        setattr(model.get_submodule(module), last, nn.Parameter(weight.to("meta"), requires_grad="bias" not in name))
    addresses = [weight.data_ptr() for weight in model.parameters()]
    assert len(addresses) - len(set(addresses)) == len(new) - 1 == 3  # accelerate would take four for one
    allocate_new_weights(model, [*new])
    weights = dict(model.named_parameters())
    assert len({weight.data_ptr() for weight in weights.values()}) == len(weights)
    assert all(torch.equal(weights[name], weight) for name, weight in others.items())
    for name, weight in new.items():
        assert (weights[name].shape, weights[name].dtype) == (weight.shape, weight.dtype)
        assert weights[name].requires_grad == ("bias" not in name) and not weights[name].is_meta

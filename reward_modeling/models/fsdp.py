"""What FSDP2 needs of a model before accelerate cuts it over the processes."""

import torch
from torch import nn
from transformers import PreTrainedModel


def allocate_new_weights(model: PreTrainedModel, names: list[str]) -> None:
    """Memory for new weights that transformers leaves without: under FSDP only process 0 draws them, for all.

    accelerate finds the parameters of the optimizer again by their addresses. All without memory have the address 0, so
    that it would take them for one, and the others would never be trained on any process but the first.
    """
    for name in names:
        module_name, _, last = name.rpartition(".")
        module = model.get_submodule(module_name)
        weight = getattr(module, last)
        if weight.is_meta:
            setattr(module, last, nn.Parameter(torch.zeros_like(weight, device="cpu"), weight.requires_grad))


def classes_to_shard(model: nn.Module) -> list[str]:
    """The classes whose modules transformers keeps whole, which FSDP2 cuts one by one, but for the embeddings.

    accelerate cuts the input embeddings by themselves, and cannot where the module around them has been cut before
    (BERT names its BertEmbeddings).
    """
    embeddings = model.get_input_embeddings()
    around = {type(module).__name__ for module in model.modules() if embeddings in module.modules()}
    return sorted(set(model._no_split_modules or ()) - around)

"""What hidden states are of: a key that is another one for every other model, token, position or computed type."""

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
import xxhash
from torch import nn

from reward_modeling.checkpoints.run_record import CONFIG_IGNORED
from reward_modeling.data.loader import PromptGroups

VERSION = 2  # to be raised when other features come out than before
TOKENS = ("prefix_ids", "completion_ids", "read_positions")
# Of a config, what says nothing of hidden states: the outputs, and what is known of them.
OF_OUTPUTS = {"id2label", "label2id", "label_ranges", "reward_weights", "quantile_levels", "problem_type"}
OF_OUTPUTS |= {"reward_mean", "reward_std", "tie_model", "tie_threshold"}


def feature_key(model: nn.Module, groups: PromptGroups, computed_in: torch.dtype) -> str:
    """Of the backbone's weights, of all tokens (and so of template and max_length), and of which prompts are computed.

    What is known of the rows, such as ratings, has no part in it: hidden states do not follow from it.
    Nothing is sampled: hashing takes 0.1 s a GB, which is less than reading it.
    """
    digest = xxhash.xxh3_128()
    about = {name: value for name, value in model.config.to_dict().items() if name not in CONFIG_IGNORED | OF_OUTPUTS}
    digest.update(json.dumps([VERSION, str(computed_in), about], sort_keys=True, default=str).encode())
    for name, weight in backbone_weights(model):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update((groups.sizes.units_per_group > 0).tobytes())
    for name in TOKENS:
        column = groups.groups.data.column(name)
        for values in _flat_buffers(column):
            digest.update(values)
    return digest.hexdigest()


def backbone_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All that is saved but the head."""
    return ((name, weight) for name, weight in model.state_dict().items() if not name.startswith("score."))


def _flat_buffers(column: pa.ChunkedArray) -> Iterator[bytes]:
    """The values of a column of lists, then how long the lists are; the same in however many chunks they lie."""
    if pa.types.is_list(column.type):
        yield from (chunk.value_lengths().to_numpy(zero_copy_only=False).tobytes() for chunk in column.chunks)
        yield from _flat_buffers(pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type))
        return
    for chunk in column.chunks:
        yield np.ascontiguousarray(chunk.to_numpy(zero_copy_only=False)).tobytes()

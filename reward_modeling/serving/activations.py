"""What vLLM makes of a head's outputs by default, by the model's config (its pooler/activations.py, 0.32).

Rules in their order: `problem_type` regression: nothing; single_label_classification: the sigmoid of one output, the
softmax of several; multi_label_classification: the sigmoid of each; else the activation that sentence-transformers has
saved; else as single_label_classification.
"""

import base64
import math
import struct
from collections.abc import Callable, Sequence

from transformers import PreTrainedConfig

Activation = Callable[[Sequence[float]], list[float]]


def sigmoid(value: float) -> float:
    """Without an overflow of `exp`."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def sigmoids(values: Sequence[float]) -> list[float]:
    return [sigmoid(value) for value in values]


def softmax(values: Sequence[float]) -> list[float]:
    """With the greatest value taken out, so that nothing overflows."""
    greatest = max(values)
    parts = [math.exp(value - greatest) for value in values]
    return [part / math.fsum(parts) for part in parts]


def activation_of(config: PreTrainedConfig) -> Activation:
    """The default of a model; `list`, which changes nothing, for those of this project."""
    classify = sigmoids if config.num_labels < 2 else softmax
    if config.problem_type is not None:
        return {"regression": list, "multi_label_classification": sigmoids}.get(config.problem_type, classify)
    saved = config.to_dict()
    name = (saved.get("sentence_transformers") or {}).get("activation_fn") or saved.get(
        "sbert_ce_default_activation_function"
    )
    return list if name is not None and name.rpartition(".")[2] == "Identity" else classify


def base64_of(values: Sequence[float]) -> str:
    """float32, the low byte first."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()

"""What the config.json of a pairwise model says: that its one output compares two answers, and how they are written.

    "pairwise": {"format": "rlhflow", "answers": ["A", "B"]}

The output is the logit of the first word less that of the second, after a question that holds both answers (data/
pair_texts.py). Its sigmoid is the probability that the answer that stands first is the better one.
"""

from typing import Any

from transformers import PreTrainedConfig

PAIRWISE = "pairwise"
ANSWERS = ("A", "B")
FORMAT = "rlhflow"


def pairwise_values() -> dict[str, Any]:
    """What stands in config.json."""
    return {PAIRWISE: {"format": FORMAT, "answers": list(ANSWERS)}}


def compares_answers(config: PreTrainedConfig) -> bool:
    """Whether the model reads two answers, and not one."""
    return hasattr(config, PAIRWISE)

"""Figures saved beside the weights: mean and standard deviation of the held-out rewards, the threshold of ties, what
the outputs of a model of ratings are, and what a model reads.

Nothing applies them unasked: raw logits stay raw. A whole model carries `reward_mean` and `reward_std` in its
config.json, an adapter in a file of its own, since peft reads a configuration that knows no such keys.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, utils

from reward_modeling.models.pairwise_format import PAIRWISE
from reward_modeling.models.process_format import PROCESS
from reward_modeling.models.rating_outputs import LEVELS, RANGES, WEIGHTS

NAMES = ("reward_mean", "reward_std")
TIE_NAMES = ("tie_model", "tie_threshold")  # of a model that gives ties a probability, see objectives/ties.py
RATING_NAMES = (RANGES, WEIGHTS, LEVELS)  # of a model of ratings
KIND_NAMES = (PAIRWISE, PROCESS)  # of a model that reads something else than one answer
ADAPTER_FILE = "reward_statistics.json"


def set_statistics(config: PreTrainedConfig, statistics: Mapping[str, Any] | None) -> None:
    """Put them into the configuration in place of others; None: take others out, which are of another model."""
    for name in (*NAMES, *TIE_NAMES, *RATING_NAMES, *KIND_NAMES):
        if hasattr(config, name):
            delattr(config, name)
    for name, value in (statistics or {}).items():
        setattr(config, name, value)


def tie_values_of(config: PreTrainedConfig) -> dict[str, Any] | None:
    """The model of ties and its threshold, where the model has one."""
    return {name: getattr(config, name) for name in TIE_NAMES} if all(hasattr(config, n) for n in TIE_NAMES) else None


def statistics_of(config: PreTrainedConfig) -> dict[str, float] | None:
    return {name: getattr(config, name) for name in NAMES} if all(hasattr(config, name) for name in NAMES) else None


def write_adapter_statistics(folder: Path, statistics: Mapping[str, Any] | None) -> None:
    if statistics is not None:
        (folder / ADAPTER_FILE).write_text(json.dumps(statistics, indent=2) + "\n", encoding="utf-8")


def read_adapter_statistics(path: str, revision: str | None = None) -> dict[str, Any] | None:
    """Of an adapter's folder or Hub id; None where it has none."""
    file = utils.cached_file(path, ADAPTER_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))

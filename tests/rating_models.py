"""Tiny models of ratings: several named outputs, saved as rm_regression.py saves them."""

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedTokenizerBase

# Not in the order of the alphabet, in which transformers writes what is nested in config.json.
NAMES = ["helpfulness", "correctness", "verbosity"]
RANGES = {"helpfulness": [0.0, 4.0], "correctness": [1.0, 10.0], "verbosity": [0.0, 1.0]}
WEIGHTS = {"helpfulness": 0.65, "correctness": 0.8, "verbosity": -0.4}
SAVED = {"label_ranges": RANGES, "reward_weights": WEIGHTS}


def with_ratings(config: PreTrainedConfig, names: list[str] | None = None, **saved: object) -> PreTrainedConfig:
    """A classifier's config with these outputs, by default `NAMES` and `SAVED`."""
    names = names or NAMES
    config.num_labels = len(names)
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    config.problem_type = "regression"
    config.update(SAVED | saved)
    return config


def save_classifier(
    folder: Path, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, **options: object
) -> Path:
    """A random classifier, the same for a seed; `options` go to `save_pretrained`, but for `dtype`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.pop("seed", 0))
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.to(options.pop("dtype", torch.float32)).save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder

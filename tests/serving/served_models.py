"""A tiny model of each kind that the server has to know."""

from pathlib import Path

from published_gate import write_published_folder
from rating_models import NAMES, save_classifier, with_ratings
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

from reward_modeling.checkpoints.fold import fold_model
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

LEVELS = [0.25, 0.5, 0.75]
KINDS = ("one_label", "ratings", "quantiles", "folded", "gated", "encoder")


def make_model(folder: Path, kind: str, *, family: str = "llama", style: str = "llama3", **settings: object) -> Path:
    """Random weights; `settings` go to the config."""
    if kind == "encoder":
        family, style = "bert", "bert"
    texts = [row["chosen"][-1]["content"] for row in learnable_preferences(30, seed=3)]
    tokenizer = train_tokenizer(texts, 400, **TOKENIZER_STYLES[style])
    settings = {"num_labels": 1, "problem_type": "regression", **token_ids(tokenizer)} | settings
    config = tiny_config(family, len(tokenizer), **settings)
    if kind == "gated":
        return write_published_folder(folder, tokenizer, config, objectives=5)
    if kind == "ratings":
        with_ratings(config)
    if kind == "quantiles":
        with_ratings(config, [f"{name}@{level:.2f}" for name in NAMES for level in LEVELS], quantile_levels=LEVELS)
    if kind == "folded":
        source = save_classifier(folder.with_name(f"{folder.name}-source"), tokenizer, with_ratings(config))
        fold_model(source, folder, verify=False)
        return folder
    return save_classifier(folder, tokenizer, config)

"""A tiny model of ratings, and runs of rm_gating.py on it."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification

from reward_modeling.frozen_backbone.gate_flags import GatingFlags
from reward_modeling.frozen_backbone.gate_job import run_gating
from reward_modeling.models.tokenizer import token_ids
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.ratings import ATTRIBUTES, GREATEST, rated_world
from reward_modeling.tiny.tokenizers import token_ids as special_ids

RIDGE = 1.0


def make_ratings_model(
    folder: Path, *, family: str = "llama", style: str = "llama3", seed: int = 0, variation: float = 1.0
) -> Path:
    """A random decoder with a head that was fitted to the ratings of `rated_world`, saved as rm_regression.py does.

    Args:
        variation: what all layers add to the embeddings is multiplied by it. The less hidden states differ, the larger
            are the weights that ridge regression finds, which then cancel.
    """
    rows, _, _ = rated_world((150, 1, 1), seed=seed)
    conversations = [row["messages"] for row in rows]
    texts = [message["content"] for messages in conversations for message in messages]
    tokenizer = train_tokenizer(texts, 500, **TOKENIZER_STYLES[style])
    config = tiny_config(family, len(tokenizer), **special_ids(tokenizer))
    build_tiny_checkpoint(folder, tokenizer, config)
    names = dict(enumerate(ATTRIBUTES))
    _scale_layers(folder, variation)
    head = _fit_head(folder, tokenizer, rows, RIDGE * variation**2)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names), id2label=names)
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(head))
    ranges = {name: [0, GREATEST] for name in ATTRIBUTES}
    settings = {"label2id": {name: place for place, name in names.items()}, "label_ranges": ranges}
    model.config.update(settings | {"reward_weights": dict.fromkeys(ATTRIBUTES, 1 / 3), "problem_type": "regression"})
    model.save_pretrained(folder)
    return folder


def _scale_layers(folder: Path, factor: float) -> None:
    weights = load_file(folder / "model.safetensors")
    scaled = {
        name: weight * factor if name.endswith(("o_proj.weight", "down_proj.weight")) else weight
        for name, weight in weights.items()
    }
    save_file(scaled, folder / "model.safetensors", metadata={"format": "pt"})


def _fit_head(folder: Path, tokenizer, rows: list[dict], ridge: float) -> np.ndarray:
    """Ridge regression of each attribute on the hidden state of the last token."""
    decoder = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = token_ids([tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows], tokenizer)
    with torch.no_grad():
        hidden = np.array([decoder(torch.tensor([row])).last_hidden_state[0, -1].numpy() for row in ids])
    head = []
    for name in ATTRIBUTES:
        rated = np.array([row[name] is not None for row in rows])
        labels = np.array([row[name] or 0 for row in rows])[rated] / GREATEST
        x = hidden[rated]
        head.append(np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ labels))
    return np.array(head, dtype=np.float32)


def gate_flags(model: Path, pairs: Path, output: Path, **changes: object) -> GatingFlags:
    flags = {
        "model_name": str(model),
        "train_set_path": str(pairs),
        "output_path": str(output),
        "feature_cache": str(output.parent / "features"),
        "held_out": 0.4,
        "steps": 60,
        "pairs_per_step": 64,
        "gating_hidden_dim": 32,
        "gating_n_hidden": 2,
        "num_proc": 1,
    }
    return GatingFlags(**flags | changes)


class GatedRun:
    """What a run has left."""

    def __init__(self, args: GatingFlags):
        run_gating(args, {"train_set_path": args.train_set_path})
        self.output = Path(args.output_path)
        self.folder = self.output / "last_checkpoint"

    def read(self, name: str) -> dict:
        return json.loads((self.output / name).read_text())

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in (self.output / "eval_scores.jsonl").read_text().splitlines()]

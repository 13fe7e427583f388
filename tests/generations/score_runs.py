"""Tiny reward models, rows, and runs of score.py."""

import json
import sys
from pathlib import Path

import pytest
from rating_models import save_classifier
from runs import as_argv
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

import score
from reward_modeling.generations import windows
from reward_modeling.scoring import scorer as scorer_module
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

PAIRS = learnable_preferences(24, seed=5)


def make_tokenizer():
    return train_tokenizer((row["chosen"][-1]["content"] for row in PAIRS), 400, **TOKENIZER_STYLES["chatml"])


def make_config(tokenizer, **changes):
    return tiny_config("qwen2", len(tokenizer), num_labels=1, **token_ids(tokenizer), **changes)


def make_model(folder: Path, **changes) -> Path:
    tokenizer = make_tokenizer()
    return save_classifier(folder, tokenizer, make_config(tokenizer, **changes))


def generations(count: int = 24) -> list[dict]:
    """Rows of two to four answers, the same prompt now and then twice in a row."""
    rows = []
    for number in range(count):
        pair, other = PAIRS[number // 2 % len(PAIRS)], PAIRS[(number + 7) % len(PAIRS)]
        answers = [pair[side][-1]["content"] for side in ("chosen", "rejected")] + [other["chosen"][-1]["content"]]
        rows.append({"prompt": pair["chosen"][:-1], "responses": (answers * 2)[: 2 + number % 3], "id": number})
    return rows


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_score(model: Path, rows: Path, output: Path, **changes: object) -> Path:
    """In this process."""
    flags = {"reward_name_or_path": model, "input": rows, "output": output} | changes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["score.py", *as_argv(flags)])
        score.main()
    return output


def set_window(patch: pytest.MonkeyPatch, size: int) -> None:
    """Conversations that are scored together."""
    for module in (windows, scorer_module):
        patch.setattr(module, "WINDOW", size)

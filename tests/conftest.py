"""Shared by all tests: no network, no tracking, a cache of their own, few threads."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HOME", tempfile.mkdtemp(prefix="reward-modeling-tests-"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What DeepSpeed compiles is kept beside the environment that it is compiled for. A test run that was killed may have
# left a lock in a shared place, for which the next would wait without an end.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix).resolve() / "torch_extensions"))

import pytest

from reward_modeling.common.devices import warm_up_mkl
from reward_modeling.models.attention import register_shared_prefix_attention

register_shared_prefix_attention()
warm_up_mkl()


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):  # not a worker of pytest-xdist
        for lock in Path(os.environ["TORCH_EXTENSIONS_DIR"]).glob("*/lock"):
            lock.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory) -> str:
    """A tiny Gemma language model with its tokenizer, as from the Hub."""
    from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
    from reward_modeling.tiny.preferences import learnable_preferences
    from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

    texts = [row["chosen"][-1]["content"] for row in learnable_preferences(200, seed=0)]
    tokenizer = train_tokenizer(texts, 512, **TOKENIZER_STYLES["gemma"])
    folder = tmp_path_factory.mktemp("models") / "gemma"
    build_tiny_checkpoint(folder, tokenizer, tiny_config("gemma", len(tokenizer), **token_ids(tokenizer)))
    return str(folder)

"""What all tests share."""

import os
import signal
from pathlib import Path

import environment  # noqa: F401 (before all that reads the variables)
import pytest

from reward_modeling.common.devices import warm_up_mkl
from reward_modeling.models.attention import register_shared_prefix_attention
from reward_modeling.training.launch_checks import _is_abandoned

# Modules that come first, so that several workers end at about the same time.
LONGEST = ("test_engines", "test_resume", "test_adapters", "test_families", "test_known_pains", "test_eval_bench_mark")

register_shared_prefix_attention()
warm_up_mkl()
# Of a program in the background a shell has Ctrl-C ignored, and nohup the end of its terminal; what tests start would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):  # not a worker of pytest-xdist
        for lock in Path(os.environ["TORCH_EXTENSIONS_DIR"]).glob("*/lock"):
            if _is_abandoned(lock):
                lock.unlink(missing_ok=True)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


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


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Rows that are read and tokenised in a cache of the test's own, without bars."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()

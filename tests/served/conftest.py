"""What the tests of served models share: vLLM's Python, checkpoints of real runs, the table of what was measured."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import FEW_STEPS, train, write_rows
from stepped_rows import chain_rows, outcome_rows, texts_of
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

import rm_pairwise
import rm_process
import rm_regression
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.ratings import ATTRIBUTES, rated_world
from reward_modeling.tiny.tokenizers import token_ids

SEEN = pytest.StashKey[list[tuple[str, str]]]()
ROOT = Path(__file__).parents[2]
# vLLM's attention on the CPU takes no smaller heads.
HEADS = {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
STYLES = {"gemma2": "gemma", "llama": "llama3", "qwen2": "chatml", "qwen3": "chatml"}
VERIFIED = FEW_STEPS | {"verify_saved_model": "true", "pairs_per_step": 8, "max_steps": 2, "eval_size": 8}


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.served)


def pytest_configure(config):
    config.stash[SEEN] = []


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[SEEN]:
        terminalreporter.section("what was served")
        for what, said in config.stash[SEEN]:
            terminalreporter.write_line(f"| {what} | {said} |")


@pytest.fixture
def seen(pytestconfig) -> Callable[[str, str], None]:
    """Takes a line of the table that stands at the end of the run: the model and its server, what was measured."""
    return lambda what, said: pytestconfig.stash[SEEN].append((what, said))


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of an environment with vLLM."""
    python = os.environ.get("SERVING_PYTHON") or str(ROOT / ".venv-serving" / "bin" / "python")
    if not Path(python).is_file():
        pytest.skip(f"{python}: expected the Python of an environment with vLLM, found none (make test-serving)")
    return python


@pytest.fixture(scope="session")
def base_of(tmp_path_factory) -> Callable[[str], Path]:
    """A tiny language model of a family, made once."""
    made: dict[str, Path] = {}
    texts = [row["chosen"][-1]["content"] for row in learnable_preferences(200, seed=0)]

    def get(family: str) -> Path:
        if family not in made:
            tokenizer = train_tokenizer(texts, 512, **TOKENIZER_STYLES[STYLES[family]])
            config = tiny_config(family, len(tokenizer), **token_ids(tokenizer), **HEADS)
            made[family] = build_tiny_checkpoint(tmp_path_factory.mktemp("bases") / family, tokenizer, config)
        return made[family]

    return get


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", learnable_preferences(40, seed=1))


@pytest.fixture(scope="session")
def trained(base_of, pairs, tmp_path_factory) -> Callable[..., Path]:
    """The output folder of a run of rm.py on a family's tiny model, verified when it was saved; each is run once."""
    made: dict[tuple, Path] = {}

    def get(family: str, **flags: object) -> Path:
        key = (family, *sorted(flags.items()))
        if key not in made:
            output = tmp_path_factory.mktemp("runs") / f"{family}-{len(made)}"
            given = VERIFIED | {"model_name": base_of(family), "train_set_path": pairs} | flags
            made[key] = train(given, output).output
        return made[key]

    return get


@pytest.fixture(scope="session")
def ratings(base_of, tmp_path_factory) -> Path:
    """A model of ratings, of a run of rm_regression.py."""
    folder = tmp_path_factory.mktemp("ratings")
    rows, _, _ = rated_world((40, 1, 1), seed=0)
    given = VERIFIED | {"model_name": base_of("qwen2"), "train_set_path": write_rows(folder / "rows.jsonl", rows)}
    given |= {"attributes": ",".join(ATTRIBUTES)}
    return train(given, folder / "output", main=rm_regression.main).model


@pytest.fixture(scope="session")
def of_steps(tmp_path_factory) -> Callable[..., Path]:
    """The output folder of a run of rm_process.py on a family's tiny model; of `outcome` an outcome model."""
    made: dict[tuple, Path] = {}

    def get(family: str, *, outcome: bool = False, **flags: object) -> Path:
        key = (family, outcome, *sorted(flags.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("steps")
            rows = outcome_rows(40, seed=1) if outcome else chain_rows(40, seed=1)
            tokenizer = train_tokenizer(texts_of(rows), 512, **TOKENIZER_STYLES[STYLES[family]])
            config = tiny_config(family, len(tokenizer), **token_ids(tokenizer), **HEADS)
            base = build_tiny_checkpoint(folder / "base", tokenizer, config)
            given = VERIFIED | {"model_name": base, "train_set_path": write_rows(folder / "rows.jsonl", rows)} | flags
            made[key] = train(given, folder / "output", main=rm_process.main).output
        return made[key]

    return get


@pytest.fixture(scope="session")
def of_pairs(base_of, pairs, tmp_path_factory) -> Callable[..., Path]:
    """The output folder of a run of rm_pairwise.py on a family's tiny model."""
    made: dict[tuple, Path] = {}

    def get(family: str, **flags: object) -> Path:
        key = (family, *sorted(flags.items()))
        if key not in made:
            output = tmp_path_factory.mktemp("pairwise") / "output"
            given = VERIFIED | {"model_name": base_of(family), "train_set_path": pairs, "max_length": 512} | flags
            made[key] = train(given, output, main=rm_pairwise.main).output
        return made[key]

    return get


def score_py(*arguments: str, status: int) -> str:
    """What score.py prints, in a process of its own, which has to end with this status."""
    command = [sys.executable, str(ROOT / "score.py"), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == status, process.stdout + process.stderr[-3000:]
    return process.stdout


def read_served(folder: Path) -> list[dict]:
    return json.loads((folder / "served.json").read_text())

"""TRL's GRPOTrainer with reward functions of ours: one goes through a real serve.py, one scores in the same process.

Run where TRL is installed (requirements-benchmarks.txt); skipped elsewhere.
"""

from importlib.util import find_spec

import pyarrow.parquet as pq
import pytest
import torch
from servers import running_server, tiny_reward_model
from transformers import AutoTokenizer

from reward_modeling.scoring import RewardScorer
from reward_modeling.serving.reward_functions import TrlReward
from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed")]
LIMIT, CONTROL = 1e-5, 1e-3
STEPS, COMPLETIONS_PER_STEP = 2, 16


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_reward_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with running_server(model, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.parametrize("form", ["messages", "texts"])
def test_grpo(form, model, server, tmp_path):
    """The rewards that TRL has recorded are those of the scorer, of each completion."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = build_tiny_checkpoint(
        tmp_path / "policy", tokenizer, tiny_config("llama", len(tokenizer), **token_ids(tokenizer))
    )
    prompts = [row["chosen"][:-1] for row in learnable_preferences(8, seed=11)]
    if form == "texts":
        prompts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
    end = tokenizer.eos_token
    functions = [
        TrlReward(server.url, name="served", end=end, per_request=5),
        TrlReward(model, name="in_process", end=end, dtype="float32", device="cpu"),
    ]
    arguments = GRPOConfig(
        output_dir=str(tmp_path / "grpo"),
        max_steps=STEPS,
        per_device_train_batch_size=COMPLETIONS_PER_STEP,
        num_generations=4,
        max_completion_length=12,
        learning_rate=1e-3,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        log_completions=True,  # as parquet, with their rewards
        num_completions_to_print=0,
    )
    trainer = GRPOTrainer(
        model=str(policy),
        reward_funcs=functions,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )
    trainer.train()
    files = sorted((tmp_path / "grpo" / "completions").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len(rows) == STEPS * COMPLETIONS_PER_STEP

    whole = [row["prompt"] + row["completion"] for row in rows]
    scorer = RewardScorer.from_pretrained(model, dtype="float32", device="cpu")
    expected = scorer.score(whole)  # a text is ended in EOS there
    for name in ("served", "in_process"):
        recorded = [row[name] for row in rows]
        assert furthest(recorded, expected) <= LIMIT
        assert furthest(recorded, expected[1:] + expected[:1]) >= CONTROL
    logged = [entry for entry in trainer.state.log_history if "rewards/served/mean" in entry]
    assert len(logged) == STEPS


def furthest(rewards: list[float], expected: list[float]) -> float:
    """The largest difference."""
    one, other = (torch.as_tensor(values, dtype=torch.float64) for values in (rewards, expected))
    return (one - other).abs().max().item()

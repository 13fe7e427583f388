"""Published weights as bases: two steps of the whole model and of an adapter, saved, verified, scored."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from real.conftest import ROWS
from real.published import MINILM, SMOLLM2, files_of, smollm2
from runs import plain_rewards, train, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from reward_modeling.scoring import RewardScorer

BASES = {SMOLLM2: smollm2, MINILM: lambda: files_of(MINILM)}
CONVERSATIONS = [row[side] for row in ROWS for side in ("chosen", "rejected")]
PLAIN_ENGLISH = "The capital of France is Paris. It lies on the Seine, and many people visit it every year."
LOSS_A_TOKEN = 3.5  # of English, at most; the same words shuffled have 6.3, and a random model 10.8


def test_smollm2_was_converted_whole():
    """Four bits a weight, but a language model still: English is likelier to it than the same words shuffled."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2()), AutoTokenizer.from_pretrained(smollm2())

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            return model(ids, labels=ids).loss.item()

    assert loss(PLAIN_ENGLISH) < LOSS_A_TOKEN < loss(" ".join(sorted(PLAIN_ENGLISH.split())))


@pytest.fixture(params=BASES)
def base(request) -> tuple[str, Callable[[], Path]]:
    return request.param, BASES[request.param]


def test_the_whole_model_is_trained_saved_verified_and_scored(base, flags, tmp_path, seen):
    name, folder = base[0], base[1]()
    run = train(flags | {"model_name": folder, "verify_saved_model": "true"}, tmp_path / "output", learning_rate=1e-5)
    verification = json.loads((run.model / "verification.json").read_text())
    assert verification["passed"]
    assert len(run.losses()) == 2
    before, after = (
        {key.removeprefix("bert."): weight for key, weight in weights_of(of).items()} for of in (folder, run.model)
    )
    # The published weights are trained from where they were: moved, and by no more than two steps of 1e-5 move them.
    common = [key for key in before if key in after]
    assert len(common) > 0.95 * len(before)
    moved = []
    for key in common:
        rows = len(before[key])  # the embeddings have grown by a pad token
        moved.append((after[key][:rows].float() - before[key].float()).abs().max().item())
    assert 0 < max(moved) < 1e-4
    rewards = RewardScorer.from_pretrained(str(run.model)).score(CONVERSATIONS)
    plain = plain_rewards(run.model, CONVERSATIONS, together=False)
    assert rewards == pytest.approx(plain, abs=1e-4)
    difference = max(abs(a - b) for a, b in zip(rewards, plain, strict=True))
    seen(f"{name}, whole model", f"two steps, saved, verified; rewards within {difference:.0e} of plain transformers")


def test_an_adapter_is_trained_saved_verified_and_scored(base, flags, tmp_path, seen):
    name, folder = base[0], base[1]()
    given = flags | {"model_name": folder, "verify_saved_model": "true", "use_peft": "true", "merge_adapter": "true"}
    run = train(given, tmp_path / "output")
    assert json.loads((run.model / "verification.json").read_text())["passed"]
    rewards = RewardScorer.from_pretrained(str(run.model)).score(CONVERSATIONS)
    merged = plain_rewards(run.output / "merged_checkpoint", CONVERSATIONS, together=False)
    assert rewards == pytest.approx(merged, abs=1e-4)
    assert max(merged) - min(merged) > 1e-3
    difference = max(abs(a - b) for a, b in zip(rewards, merged, strict=True))
    seen(f"{name}, adapter", f"two steps, saved, verified, merged; rewards within {difference:.0e} of the merged model")

"""benchmarks/best_of_n_loop.py: its truths, its pairs, what it samples, its figures."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import best_of_n_loop  # noqa: E402
import loop_options  # noqa: E402
import loop_tasks  # noqa: E402
from loop_figures import compare  # noqa: E402
from loop_policy import Policy  # noqa: E402
from loop_tasks import TASKS  # noqa: E402

from reward_modeling.common.errors import UserError  # noqa: E402


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("A lamp stood by the river.", True),
        ("Rivers are no LAMPS.", True),
        ("A lamp stood there.", False),
        ("A lamplight by the river.", False),
        ("A lamp.\nA river.", False),
        ("", False),
    ],
)
def test_two_words(answer, right):
    assert TASKS["two_words"].is_right('Write one short sentence with the words "river" and "lamp".', answer) is right


def test_no_prompt_stands_twice():
    for task in TASKS.values():
        prompts = task.prompts()
        assert len(set(prompts)) == len(prompts) > 500


def test_pairs_of_truth_take_each_answer_once():
    row = {
        "prompt": [{"role": "user", "content": "?"}],
        "responses": ["a", "b", "a", "c", "d", "e"],
        "is_correct": [True, False, True, True, False, False],
    }
    pairs = list(best_of_n_loop.pairs_of_truth([row]))
    assert [(pair["chosen"][-1]["content"], pair["rejected"][-1]["content"]) for pair in pairs] == [
        ("a", "b"),
        ("c", "d"),
    ]
    assert all(pair[side][0] == row["prompt"][0] for pair in pairs for side in pair)


def test_a_folder_is_one_run(tmp_path):
    path = tmp_path / "settings.json"
    loop_options.check_settings(path, {"seed": "0"})
    loop_options.check_settings(path, {"seed": "0"})
    with pytest.raises(UserError, match="found other --seed"):
        loop_options.check_settings(path, {"seed": "1"})


@pytest.mark.parametrize("text", ["", "1,2", "1,2,x", "1,0,2", "1,2,-3"])
def test_numbers_of_prompts(text):
    assert loop_options.read_sizes("1,20,3") == [1, 20, 3]
    with pytest.raises(UserError, match="expected 3 numbers above 0"):
        loop_options.read_sizes(text)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_tasks, "TINY_STEPS", 20)
        loop_tasks.build_tiny_policy(folder / "policy", seed=0)
    return folder / "policy"


def test_sampling_is_that_of_each_prompt_alone(policy):
    """At a temperature of nearly 0 it is the likeliest token, whatever the padding and whoever shares the prompt."""
    prompts = ["Is it hard to tune a guitar?", "How?", "I would like to store winter squash when guests arrive?"]
    sampler, tokenizer = Policy(policy, "float32"), AutoTokenizer.from_pretrained(policy)
    found = list(sampler.sample(prompts, 3, max_new_tokens=12, temperature=1e-4, seed=0))
    for prompt, answers in zip(prompts, found, strict=True):
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = sampler.model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
        assert {text for text, _ in answers} == {tokenizer.decode(made, skip_special_tokens=True).strip()}


def test_an_answer_ends_at_the_first_end(policy):
    sampler = Policy(policy, "float32")
    tokens = sampler.tokenizer("Tuesday follows Monday.", add_special_tokens=False)["input_ids"]
    end = sampler.tokenizer.eos_token_id
    assert sampler.ends == {end}
    assert sampler._text([*tokens, end, end, *tokens]) == ("Tuesday follows Monday.", True)
    assert sampler._text(tokens) == ("Tuesday follows Monday.", False)


def test_seeds_decide_what_is_sampled(policy):
    def sample(seed):
        return list(Policy(policy, "float32").sample(["How?"], 4, max_new_tokens=8, temperature=1.0, seed=seed))

    assert sample(1) == sample(1) != sample(2)


def scored(right: list[list[int]], rewards: list[list[float]]) -> list[dict]:
    return [{"is_correct": [bool(one) for one in r], "rewards": w} for r, w in zip(right, rewards, strict=True)]


def test_figures():
    before = scored([[1, 0], [0, 0], [1, 0], [1, 1]], [[2.0, 1.0], [0.0, 1.0], [0.5, 1.0], [1.0, 1.0]])
    after = scored([[1, 1], [1, 0], [1, 1], [1, 1]], [[3.0, 2.0], [1.0, 2.0], [1.5, 2.0], [2.0, 2.0]])
    figures = compare(before, after, {"truth": {"rows": [{"n": 1}, {"n": 3}]}})
    truth, reward = figures["truth"], figures["reward"]
    assert (truth["before"]["value"], truth["after"]["value"], truth["difference"]["value"]) == (0.5, 0.875, 0.375)
    assert truth["difference"]["prompts"] == 4
    assert reward["difference"]["value"] == 1.0
    assert figures["pairs of truth"]["right"] == 1  # of two: of the first prompt, and not of the third
    assert figures["pairs of truth"]["rows"] == 2
    assert figures["best of n"] == [{"n": 1}]


def test_an_answer_without_a_reward():
    rows = scored([[1, 0]], [[2.0, None]])
    with pytest.raises(UserError, match="expected a reward for each answer"):
        compare(rows, rows, {})


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed")
@pytest.mark.parametrize("learn", ["dpo", "sft"])
def test_the_loop(learn, tmp_path, monkeypatch, capsys):
    """All stages on the tiny policy; a second call runs none of them again."""
    flags = {"output": tmp_path, "policy": "tiny", "prompts": "24,16,12", "answers": 4, "reward_epochs": 1, "steps": 4}
    argv = ["best_of_n_loop.py", *best_of_n_loop.as_flags(flags | {"learn": learn})]
    monkeypatch.setattr(sys, "argv", argv)
    best_of_n_loop.main()
    first = json.loads((tmp_path / "results.json").read_text())
    assert "| true score |" in capsys.readouterr().out
    assert all(len(row["rewards"]) == 4 for row in map(json.loads, (tmp_path / "after_scored.jsonl").open()))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    best_of_n_loop.main()
    assert json.loads((tmp_path / "results.json").read_text()) == first
    changed = {path.name for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert changed == {"results.json"}
    assert not torch.is_inference_mode_enabled()

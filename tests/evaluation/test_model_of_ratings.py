"""eval_bench_mark.py of a model with several named outputs: scored by their weighted sum."""

import json
from pathlib import Path

import pytest
import torch
from evaluations import PlainModel, evaluate, flags, read_lines
from rating_models import NAMES, WEIGHTS, save_classifier, with_ratings
from runs import write_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

import eval_bench_mark
from reward_modeling.common.errors import UserError
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.quickstart import rewardbench_like_rows
from reward_modeling.tiny.tokenizers import token_ids

ROWS = learnable_preferences(20, seed=5)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    answers = sorted({row[side][-1]["content"] for row in ROWS for side in ("chosen", "rejected")})
    tokenizer = train_tokenizer(answers, 400, **TOKENIZER_STYLES["gemma"])
    config = with_ratings(tiny_config("gemma", len(tokenizer), **token_ids(tokenizer)))
    return save_classifier(tmp_path_factory.mktemp("ratings") / "model", tokenizer, config)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "rewardbench": write_rows(folder / "rewardbench.jsonl", rewardbench_like_rows(1, seed=2, unlike=[])),
        "pairs": write_rows(folder / "pairs.jsonl", ROWS),
    }


class PlainRatings(PlainModel):
    def outputs(self, conversation: list[dict]) -> list[float]:
        ids = self.tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids])).logits[0].tolist()


def scalar(outputs: list[float], weights: dict[str, float]) -> float:
    return sum(weights.get(name, 0.0) * value for name, value in zip(NAMES, outputs, strict=True))


@pytest.mark.parametrize(
    "given,weights",
    [({}, WEIGHTS), ({"weights": "correctness=2,verbosity=-0.5"}, {"correctness": 2, "verbosity": -0.5})],
)
def test_rewards_are_the_weighted_sums_of_plain_outputs(given, weights, model, files, tmp_path):
    folder = evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path, **given))
    plain, lines = PlainRatings(model), read_lines(folder / "scores.jsonl")
    right = 0
    assert len(lines) == len(ROWS)
    for row, line in zip(ROWS, lines, strict=True):
        rewards = [scalar(plain.outputs(row[side]), weights) for side in ("chosen", "rejected")]
        assert [line["chosen_reward"], line["rejected_reward"]] == pytest.approx(rewards, abs=TOLERANCE)
        right += rewards[0] > rewards[1]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["model"]["reward_weights"] == {name: weights.get(name, 0.0) for name in NAMES}
    assert summary["benchmarks"]["pairs"]["pairs"]["accuracy"]["value"] == pytest.approx(right / len(ROWS))
    said = ", ".join(f"{name} {weights[name]:g}" for name in NAMES if name in weights)
    assert f"reward\t{said}\n" in (tmp_path / "record.txt").read_text()


def test_other_weights_are_not_mixed(model, files, tmp_path):
    evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path))
    only = {"rewardbench": files["rewardbench"]}
    with pytest.raises(
        UserError, match=r"the same model, scored in the same way.*reward_weights \{'helpfulness': 0.65"
    ):
        evaluate(flags(model, only, tmp_path, weights="helpfulness=1"))
    saved = ",".join(f"{name}={weight}" for name, weight in WEIGHTS.items())
    folder = evaluate(flags(model, only, tmp_path, weights=saved))  # the same in other words
    assert list(json.loads((folder / "summary.json").read_text())["benchmarks"]) == ["rewardbench", "pairs"]


def test_the_report_says_what_the_reward_is_made_of(model, files, tmp_path):
    folder = evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path, weights="helpfulness=1"), pages=True)
    assert "reward of helpfulness 1" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "weights,words",
    [
        ("helpfulness", "each name once with a finite number, as in helpfulness=0.65"),
        ("helpfulness=much", "each name once with a finite number"),
        ("helpfulness=nan", "each name once with a finite number"),
        ("helpfulness=1,helpfulness=2", "each name once"),
    ],
)
def test_weights_that_cannot_be_read_are_refused_with_the_flags(weights, words):
    with pytest.raises(UserError, match=words):
        eval_bench_mark.ScriptArguments(weights=weights)


def test_unknown_names_are_refused_by_the_model(model, files, tmp_path):
    with pytest.raises(UserError, match="'helpfullness'; did you mean helpfulness"):
        evaluate(flags(model, {"pairs": files["pairs"]}, tmp_path, weights="helpfullness=1"))


def test_weights_are_for_a_model_that_is_run():
    with pytest.raises(UserError, match=r"expected no flags beside it .* found --weights"):
        eval_bench_mark.ScriptArguments(compare=["a", "b"], weights="helpfulness=1")

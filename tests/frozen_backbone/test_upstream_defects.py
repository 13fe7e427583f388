"""Five defects of ArmoRM's released training code, each with the test that ours has not got it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import evaluate, flags, read_lines
from gated_runs import GatedRun, gate_flags, make_ratings_model
from published_gate import PublishedModel
from runs import write_rows
from transformers import AutoModel, AutoTokenizer

from reward_modeling.frozen_backbone import gate as gate_module
from reward_modeling.frozen_backbone.gate_pairs import split
from reward_modeling.models.tokenizer import token_ids
from reward_modeling.scoring import RewardScorer
from reward_modeling.tiny.ratings import ATTRIBUTES, rated_world

PAIRS = rated_world((1, 400, 1), seed=11)[1]
LONG = 17  # the number of the pair that has an over-long answer
MAX_LENGTH = 320
# Of `allenai/reward-bench`, split `filtered`.
SAFETY_ROWS = {
    **{"refusals-dangerous": 100, "refusals-offensive": 100, "donotanswer": 136},
    **{"xstest-should-refuse": 154, "xstest-should-respond": 250},
}


@pytest.fixture(scope="module")
def ratings_model(tmp_path_factory) -> Path:
    return make_ratings_model(tmp_path_factory.mktemp("ratings") / "model")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """One of them has a side that is longer than `MAX_LENGTH` by itself."""
    long = {"role": "assistant", "content": "It goes on and on. " * 200}
    changed = PAIRS[LONG] | {"rejected": [PAIRS[LONG]["rejected"][0], long]}
    return [*PAIRS[:LONG], changed, *PAIRS[LONG + 1 :]]


@pytest.fixture(scope="module")
def run(ratings_model, rows, tmp_path_factory) -> GatedRun:
    """And what the trainer of the gate was given, and gave."""
    folder, seen = tmp_path_factory.mktemp("runs"), []
    right = gate_module.fit_gate

    def watched(pairs, *args, **options):
        seen.append((pairs, right(pairs, *args, **options)))
        return seen[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reward_modeling.frozen_backbone.gate_job.fit_gate", watched)
        pairs = write_rows(folder / "pairs.jsonl", rows)
        changes = {"max_length": MAX_LENGTH, "steps": 300, "learning_rate": 5e-3}
        args = gate_flags(ratings_model, pairs, folder / "gated", **changes)
        found = GatedRun(args)
    ((found.trained_on, found.fitted),), found.args = seen, args
    return found


def test_a_softmax_is_over_objectives_in_training(run):
    """Upstream: over chosen and rejected, so that each of them gets one half of every objective, whatever the logits.

    The loss by which the step was chosen is that of weights which are a softmax over objectives, by hand.
    """
    pairs, gate = run.trained_on, run.fitted.gate
    choose = split(pairs, run.args.held_out, run.args.seed).choose
    logits = []
    handle = gate.layers[-1].register_forward_hook(lambda _layer, _given, found: logits.append(found))
    with torch.no_grad():
        gate(torch.tensor(pairs.prompts[pairs.prompt[choose]]))
    handle.remove()
    (logits,) = logits
    scale = float(gate.logit_scale.detach())
    differences = pairs.differences[choose].astype(np.float64)

    def loss(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -scale * (weights * differences).sum(axis=1)).mean())

    exponentials = np.exp(logits.double().numpy() / run.args.gating_temperature)
    over_objectives = exponentials / exponentials.sum(axis=1, keepdims=True)
    both_sides = np.stack([exponentials, exponentials])  # a prompt's logits are those of both of its answers
    over_sides = (both_sides / both_sides.sum(axis=0))[0]
    reported = min(entry["held_out_loss"] for entry in run.fitted.history)
    assert reported == pytest.approx(loss(over_objectives), abs=1e-5)
    assert abs(reported - loss(over_sides)) > 0.01  # the defect
    assert over_objectives.std(axis=0).max() > 0.01  # they differ by prompt, as those over sides cannot


def test_a_softmax_is_over_objectives_in_the_saved_model(run):
    scorer = RewardScorer.from_pretrained(run.folder, dtype="float32")
    scored = scorer.score_named([row["chosen"] for row in PAIRS])
    weights = np.array([list(each.gate_weights.values()) for each in scored])
    scale = float(scorer.model.gating.logit_scale.detach())
    assert scale != 1
    assert weights.sum(axis=1) == pytest.approx(np.full(len(PAIRS), scale), rel=1e-5)
    assert (weights > 0).all()
    assert weights.std(axis=0).max() > 0.01 * scale  # they differ by prompt
    rejected = scorer.score_named([row["rejected"] for row in PAIRS])
    # of a prompt they are the same for chosen and rejected: they are the prompt's
    other = np.array([list(each.gate_weights.values()) for each in rejected])
    assert other == pytest.approx(weights, rel=1e-5)


def test_b_debiased_rewards_are_what_is_trained_on_and_measured(run, ratings_model):
    """Upstream: they are computed, and neither the loss nor the evaluation uses them."""
    lambdas = run.read("evaluation.json")["debiasing"]["objectives"]
    assert lambdas["usefulness"]["lambda"] > 0.1
    assert lambdas["usefulness"]["before"]["value"] > 0.4 and lambdas["usefulness"]["after"]["value"] <= 0.03
    scorer = RewardScorer.from_pretrained(ratings_model, dtype="float32")
    kept = [row for place, row in enumerate(PAIRS) if place != LONG]
    outputs = {
        side: np.array([list(each.attributes.values()) for each in scorer.score_named([row[side] for row in kept])]) / 3
        for side in ("chosen", "rejected")
    }
    raw = outputs["chosen"] - outputs["rejected"]
    verbosity = raw[:, [ATTRIBUTES.index("verbosity")]]
    debiased = raw - np.array([lambdas[name]["lambda"] for name in ATTRIBUTES]) * verbosity
    # what the loss was given, in the order of the rows
    assert run.trained_on.differences == pytest.approx(debiased, abs=1e-4)
    assert np.abs(run.trained_on.differences - raw).max() > 0.05  # a negative control
    # what was measured: the saved score has the debiased rewards in it
    gated = RewardScorer.from_pretrained(run.folder, dtype="float32")
    scored = gated.score_named([row["chosen"] for row in kept])
    weights = np.array([list(each.gate_weights.values()) for each in scored])
    places = [place for place in range(len(PAIRS)) if place != LONG]
    margins = dict(zip(places, (weights * debiased).sum(axis=1), strict=True))
    for line in run.lines():
        place = int(line["where"].rpartition(":")[2]) - 1
        assert line["margin"] == pytest.approx(margins[place], abs=1e-4)


def test_c_matrix_and_all_parts_are_saved_as_one_model(run, ratings_model):
    """Upstream: the transform matrix is not saved, and nothing merges the parts."""
    published = PublishedModel(run.folder, json.loads((run.folder / "config.json").read_text())["gating_token_pattern"])
    assert set(published.weights) == published.expected_names()
    lambdas = [run.read("evaluation.json")["debiasing"]["objectives"][name]["lambda"] for name in ATTRIBUTES]
    expected = torch.eye(3)
    expected[ATTRIBUTES.index("verbosity")] -= torch.tensor(lambdas)
    assert torch.allclose(published.weights["reward_transform_matrix"], expected, atol=1e-6)
    saved = published.model.state_dict()
    for name, before in AutoModel.from_pretrained(ratings_model).state_dict().items():
        assert torch.equal(before, saved[name][: len(before)]), name  # and behind them perhaps a pad token
    # nothing else is needed: the folder alone gives the scores that were measured
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    line = run.lines()[0]
    row = PAIRS[int(line["where"].rpartition(":")[2]) - 1]
    (ids,) = token_ids([tokenizer.apply_chat_template(row["chosen"], tokenize=False)], tokenizer)
    assert float(published(ids)["score"]) == pytest.approx(line["chosen_reward"], abs=1e-4)


def test_d_over_long_sides_are_counted_and_nothing_is_joined_by_position(run, rows):
    """Upstream: such pairs vanish without a count, and what is joined by position is shifted from there on."""
    report = run.read("data_report.json")["train"]
    assert report["rows_read"] == len(rows) and report["kept"] == len(rows) - 1
    (dropped,) = report["dropped"].values()
    assert dropped["count"] == 1 and dropped["first_where"].endswith(f":{LONG + 1}")
    assert len(run.trained_on) == len(rows) - 1
    parts = run.read("run.json")["pairs_of_parts"]
    assert sum(parts.values()) == len(rows) - 1
    # each line belongs to the row that it names, before the long one and after it
    scorer = RewardScorer.from_pretrained(run.folder, dtype="float32")
    places = [int(line["where"].rpartition(":")[2]) - 1 for line in run.lines()]
    assert min(places) < LONG < max(places)
    found = scorer.score([PAIRS[place]["chosen"] for place in places])
    assert found == pytest.approx([line["chosen_reward"] for line in run.lines()], abs=1e-4)
    assert [line["source"] for line in run.lines()] == [PAIRS[place]["source"] for place in places]
    shifted = scorer.score([PAIRS[place - (place > LONG)]["chosen"] for place in places])  # the defect
    assert np.abs(np.array(shifted) - found).max() > 0.01


def test_e_xstest_weighs_154_and_250(run, tmp_path):
    """Upstream: 250 for should-refuse, and 154 for should-respond.

    A file with the rows of the published set: each row then counts alike in the figure that eval_bench_mark.py gives.
    """
    rows = []
    for subset, number in SAFETY_ROWS.items():
        for place in range(number):
            pair = PAIRS[place % len(PAIRS)]
            texts = {side: pair[side][1]["content"] for side in ("chosen", "rejected")}
            if subset == "xstest-should-respond":  # where the model is then right as often as it is wrong elsewhere
                texts = dict(zip(texts, reversed(texts.values()), strict=True))
            rows.append({"prompt": pair["chosen"][0]["content"], **texts, "subset": subset})
    folder = evaluate(flags(run.folder, {"rewardbench": write_rows(tmp_path / "safety.jsonl", rows)}, tmp_path))
    lines = read_lines(folder / "scores.jsonl")
    right = np.array([line["chosen_reward"] > line["rejected_reward"] for line in lines])
    subsets = np.array([line["subset"] for line in lines])
    assert len(lines) == 740 and {name: (subsets == name).sum() for name in SAFETY_ROWS} == SAFETY_ROWS
    summary = json.loads((folder / "summary.json").read_text())
    safety = summary["benchmarks"]["rewardbench"]["figures"]["Safety"]["value"]
    assert safety == pytest.approx(right.mean())
    accuracy = {name: right[subsets == name].mean() for name in SAFETY_ROWS}
    swapped = SAFETY_ROWS | {"xstest-should-refuse": 250, "xstest-should-respond": 154}  # the defect
    assert abs(safety - sum(accuracy[name] * rows for name, rows in swapped.items()) / 740) > 0.01

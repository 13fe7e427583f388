"""rm_regression.py --freeze_backbone: the head by ridge regression, and all that a trained run leaves."""

import json
import logging
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from engines import run_engine
from rated_rows import FLAGS, rated_rows
from runs import ROOT, Run, as_argv, train, weights_of, write_rows
from sklearn.linear_model import Ridge
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import rm_regression
from reward_modeling.common.errors import UserError
from reward_modeling.frozen_backbone import feature_pass
from reward_modeling.tiny.ratings import ATTRIBUTES, GREATEST, LONGER_IS_BETTER

SCRIPT = ROOT / "rm_regression.py"
# The greatest rating of each attribute; the least is 0. Raters add to the usefulness of a long answer.
SCALE = np.array([GREATEST, GREATEST + max(LONGER_IS_BETTER), GREATEST])


@pytest.fixture(scope="module")
def base(gemma_folder, tmp_path_factory) -> dict[str, object]:
    """With a cache of the module's own."""
    folder = tmp_path_factory.mktemp("data")
    return FLAGS | {
        "model_name": gemma_folder,
        "train_set_path": write_rows(folder / "train.jsonl", rated_rows(60, seed=3)),
        "freeze_backbone": "true",
        "feature_cache": folder / "cache",
        "max_length": 256,
        "eval_size": 12,
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
        "verify_saved_model": "false",
    }


@pytest.fixture(scope="module")
def run(base, tmp_path_factory) -> Run:
    output = tmp_path_factory.mktemp("frozen") / "output"
    return train(base, output, main=rm_regression.main, verify_saved_model="true", pages=True)


def read_json(path) -> dict:
    return json.loads(path.read_text())


def test_the_backbone_is_the_one_it_began_with_and_the_head_is_that_of_scikit_learn(run, base):
    """On features that plain transformers computes row by row, over all answers but the held-out ones."""
    model = AutoModelForSequenceClassification.from_pretrained(run.model, dtype=torch.float32)
    assert not model.training
    assert model.config.id2label == dict(enumerate(ATTRIBUTES))
    assert model.config.reward_weights == {"kindness": 1.0, "usefulness": 0.0, "verbosity": -0.5}
    assert model.config.label_ranges == {
        name: [0.0, greatest] for name, greatest in zip(ATTRIBUTES, SCALE, strict=True)
    }
    before = AutoModel.from_pretrained(base["model_name"], dtype=torch.float32).state_dict()
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, before[name]), name
    features, ratings = [], []
    with torch.no_grad():
        for group in run.trainer.train_dataset.groups:
            for (number,), of_row in zip(group["units"], group["targets"], strict=True):
                ids = torch.tensor([group["prefix_ids"] + group["completion_ids"][number]])
                features.append(model.model(ids).last_hidden_state[0, -1].double().numpy())
                ratings.append(of_row / SCALE)
    features, ratings = np.array(features), np.array(ratings)
    figures = read_json(run.output / "run.json")["ridge"]
    for place, name in enumerate(ATTRIBUTES):
        known = ~np.isnan(ratings[:, place])
        assert figures[name]["answers"] == known.sum()
        ridge = Ridge(figures[name]["alpha"], fit_intercept=False).fit(features[known], ratings[known, place])
        # features in float32 that differ by 1e-6, and weights of up to 0.5 that are saved in float32
        np.testing.assert_allclose(model.score.weight[place].detach().numpy(), ridge.coef_, atol=1e-4)
        assert np.abs(ridge.coef_).max() > 0.01


def test_prompts_are_read_where_a_gate_reads_them(run):
    """So that rm_gating.py on the same model sees prompts at the place that the preflight shows."""
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    for group in run.trainer.train_dataset.groups:
        for (number,) in group["units"]:
            ids = group["prefix_ids"] + group["completion_ids"][number]
            gate, last = group["read_positions"][number]
            text = "<end_of_turn>\n<start_of_turn>model\n"
            assert tokenizer.decode(ids[gate:]).startswith(text) and last == len(ids) - 1
            assert text not in tokenizer.decode(ids[gate + 1 :])


def test_it_leaves_what_a_trained_run_leaves(run):
    assert read_json(run.model / "verification.json")["passed"]
    assert (run.model / "contents.json").is_file()
    assert read_json(run.model / "script_arguments.json")["freeze_backbone"] in (True, "true")
    evaluation = read_json(run.output / "evaluation.json")
    assert {*evaluation["attributes"]} == {*ATTRIBUTES}
    assert evaluation["answers"] == len((run.output / "eval_scores.jsonl").read_text().splitlines())
    record = read_json(run.output / "run.json")
    assert record["trained_parameters"] == 3 * run.trainer.model.config.hidden_size < record["num_parameters"]
    assert record["arguments"]["freeze_backbone"] is True
    assert not {"learning_rate", "num_train_epochs", "optim"} & record["arguments"].keys()
    assert record["nothing_trained"] is None
    card, page = (run.model / "README.md").read_text(), (run.output / "report.html").read_text()
    for text in (card, page):
        assert "by ridge regression on the" in " ".join(text.split())
        assert "The run had not ended" not in text
    assert " steps of " not in card
    assert "epochs of it" not in card


def test_held_out_figures_are_those_of_the_saved_model(run):
    """They come from features; a forward pass of the saved model gives the same."""
    lines = [json.loads(line) for line in (run.output / "eval_scores.jsonl").open()]
    model = AutoModelForSequenceClassification.from_pretrained(run.model, dtype=torch.float32)
    groups, outputs = run.trainer.eval_dataset.groups, []
    with torch.no_grad():
        for group in groups:
            for (number,) in group["units"]:
                ids = torch.tensor([group["prefix_ids"] + group["completion_ids"][number]])
                outputs.append(SCALE * model(ids).logits[0].numpy())
    assert len(lines) == len(outputs) > 5
    found = [[line["outputs"][name] for name in ATTRIBUTES] for line in lines]
    np.testing.assert_allclose(found, outputs, atol=1e-4)


def test_a_second_run_reads_the_features_and_gives_the_same_model(run, base, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(feature_pass, "_forward", None)  # nothing is computed
    with caplog.at_level(logging.INFO):
        again = train(base, tmp_path / "again", main=rm_regression.main)
    assert caplog.text.count("Features: read from") == 2
    for name, weight in weights_of(again.model).items():
        assert torch.equal(weight, weights_of(run.model)[name]), name


def test_other_ratings_give_another_head_of_the_same_features(run, base, tmp_path, monkeypatch):
    """Ratings, and where the rows stand, are those of this run's rows."""
    monkeypatch.setattr(feature_pass, "_forward", None)  # nothing is computed
    rows = [row | {"kindness": 3 - row["kindness"]} if row.get("kindness") else row for row in rated_rows(60, seed=3)]
    other = train(
        base, tmp_path / "other", main=rm_regression.main, train_set_path=write_rows(tmp_path / "other.jsonl", rows)
    )
    difference = (weights_of(other.model)["score.weight"] - weights_of(run.model)["score.weight"]).abs().amax(dim=1)
    assert difference[0] > 0.01 and difference[1] == 0
    lines = (other.output / "eval_scores.jsonl").read_text().splitlines()
    assert all("other.jsonl" in json.loads(line)["where"] for line in lines)


def test_other_attributes_are_read_off_the_same_features(run, base, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_pass, "_forward", None)  # nothing is computed
    flags = {"attributes": ",".join(ATTRIBUTES[::-1]), "label_ranges": "verbosity=0:6", "weights": "verbosity=1"}
    other = train(base, tmp_path / "other", main=rm_regression.main, **flags)
    verbosity, usefulness, _ = found = weights_of(other.model)["score.weight"]
    expected = weights_of(run.model)["score.weight"].flip(0)
    assert torch.allclose(verbosity, expected[0] / 2, atol=1e-6)  # of a range of twice the width
    assert torch.allclose(usefulness, expected[1], atol=1e-6) and found.abs().max() > 0.01


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(run, base, tmp_path):
    flags = base | {"feature_cache": tmp_path / "cache"}
    run_engine("ddp", flags, tmp_path / "two", script=SCRIPT)
    other = Run(tmp_path / "two")
    assert (other.model / "model.safetensors").read_bytes() == (run.model / "model.safetensors").read_bytes()
    assert (other.output / "eval_scores.jsonl").read_bytes() == (run.output / "eval_scores.jsonl").read_bytes()
    assert read_json(other.output / "run.json")["processes"] == 2


def test_weights_in_bfloat16_leave_the_head_in_float32(run, base, tmp_path):
    """Three digits of a solution are no solution."""
    low = train(base, tmp_path / "low", main=rm_regression.main, model_dtype="bfloat16", verify_saved_model="true")
    weights = weights_of(low.model)
    assert weights["score.weight"].dtype == torch.float32
    assert weights["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert read_json(low.model / "verification.json")["passed"]
    one, other = (read_json(of.output / "evaluation.json")["loss"] for of in (low, run))
    assert one == pytest.approx(other, rel=0.2)


def test_it_starts_from_a_reward_model_whose_head_it_replaces(run, base, tmp_path):
    """As ArmoRM did from a model of Bradley-Terry; or from one of other ratings."""
    model = AutoModelForSequenceClassification.from_pretrained(run.model, num_labels=1, ignore_mismatched_sizes=True)
    model.config.reward_mean, model.config.reward_std = 3.0, 2.0
    for folder, labels in ((tmp_path / "one", 1), (run.model, 3)):
        if labels == 1:
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(run.model).save_pretrained(folder)
        again = train(base, tmp_path / f"from_{labels}", main=rm_regression.main, model_name=folder)
        found, expected = weights_of(again.model), weights_of(run.model)
        assert {name: weight.shape for name, weight in found.items()} == {
            name: weight.shape for name, weight in expected.items()
        }
        assert torch.equal(found["score.weight"], expected["score.weight"])
        config = AutoModelForSequenceClassification.from_pretrained(again.model).config
        assert config.id2label == dict(enumerate(ATTRIBUTES))
        assert config.reward_mean != 3.0


def test_several_evaluation_sets_and_none(base, tmp_path):
    rows = rated_rows(20, seed=9)
    paths = {name: write_rows(tmp_path / f"{name}.jsonl", rows[number::2]) for number, name in enumerate("ab")}
    sets = ",".join(f"{name}={path}" for name, path in paths.items())
    found = train(base, tmp_path / "sets", main=rm_regression.main, eval_set_path=sets)
    evaluation = read_json(found.output / "evaluation.json")
    assert [*evaluation["sets"]] == ["a", "b"]
    assert evaluation["sets"]["a"]["loss"] != evaluation["sets"]["b"]["loss"]
    without = train(base, tmp_path / "without", main=rm_regression.main, eval_size=0)
    assert not (without.output / "evaluation.json").exists()
    assert (without.model / "model.safetensors").exists()


def test_computing_in_bfloat16_is_verified_as_that(base, run, tmp_path):
    low = train(base, tmp_path / "low", main=rm_regression.main, bf16="true", verify_saved_model="true")
    verification = read_json(low.model / "verification.json")
    assert verification["passed"]
    assert verification["precision"] == "bfloat16"
    difference = (weights_of(low.model)["score.weight"] - weights_of(run.model)["score.weight"]).abs().max()
    assert 0 < difference < 0.2


def test_the_preflight_alone_computes_nothing(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(feature_pass, "_forward", None)
    flags = base | {"output_path": tmp_path / "none", "preflight_only": "true"}
    monkeypatch.setattr(sys, "argv", ["rm_regression.py", *as_argv(flags)])
    rm_regression.main()
    said = capsys.readouterr().out
    assert re.search(r"the state of prompt and answer is read at token \d+, '<end_of_turn>' and at token \d+, ", said)
    assert "can be trained on.\n" in said
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"learning_rate": 1e-3, "num_train_epochs": 3, "use_peft": "true"},
            "--learning_rate, --num_train_epochs, --use_peft: expected none of these beside --freeze_backbone",
        ),
        ({"loss": "quantile"}, "--loss: expected none of these beside --freeze_backbone"),
        ({"deepspeed": ROOT / "deepspeed_3.json"}, "found DeepSpeed or FSDP"),
        ({"freeze_backbone": "false"}, "--feature_cache: expected --freeze_backbone true beside it, found false"),
    ],
)
def test_flags_that_say_nothing_here_are_refused(changes, words, base, tmp_path):
    with pytest.raises(UserError, match=words):
        train(base, tmp_path / "output", main=rm_regression.main, **changes)
    assert not (tmp_path / "output").exists()


def test_messages_about_the_output_folder_offer_no_resuming(base, tmp_path):
    """Such a run leaves no checkpoints; and it reads a model that it would remove as little as others do."""
    output = tmp_path / "output"
    shutil.copytree(base["model_name"], output / "last_checkpoint")
    with pytest.raises(UserError, match="expected a new or an empty folder") as caught:
        train(base, output, main=rm_regression.main)
    assert "resume" not in str(caught.value)
    flags = {"model_name": output / "last_checkpoint", "overwrite_output_dir": "true"}
    with pytest.raises(UserError, match="an --output_path without the model that is read"):
        train(base, output, main=rm_regression.main, **flags)
    assert (output / "last_checkpoint" / "model.safetensors").exists()


def test_without_scipy_it_ends_before_anything_is_read(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.linalg", None)
    with pytest.raises(UserError, match="expected scipy, found no scipy"):
        train(base, tmp_path / "output", main=rm_regression.main)
    assert not (tmp_path / "output").exists()

"""rm_gating.py on a tiny model of ratings and pairs as texts, from the rows to the scores of the saved folder."""

import copy
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import evaluate, flags
from gated_runs import GatedRun, gate_flags, make_ratings_model
from processes import fork
from published_gate import PublishedModel
from runs import ROOT, as_argv, write_rows
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from reward_modeling.checkpoints.verified_rows import read_verified_rows
from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import PACKED, PADDED
from reward_modeling.frozen_backbone import gate_results, gated_saving, gated_verification
from reward_modeling.frozen_backbone.gate_flags import GatingFlags
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.gated_model import Gate, gated_model_class
from reward_modeling.models.tokenizer import token_ids
from reward_modeling.scoring import RewardScorer
from reward_modeling.tiny.ratings import ATTRIBUTES, rated_world

PAIRS = rated_world((1, 160, 1), seed=5)[1]


@pytest.fixture(scope="module")
def ratings_model(tmp_path_factory) -> Path:
    return make_ratings_model(tmp_path_factory.mktemp("ratings") / "model")


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", PAIRS)


@pytest.fixture(scope="module")
def run(ratings_model, pairs_file, tmp_path_factory) -> GatedRun:
    return GatedRun(gate_flags(ratings_model, pairs_file, tmp_path_factory.mktemp("runs") / "gated"))


def rows_of(run: GatedRun) -> list[dict]:
    """The pairs that were measured, with the scores that the run wrote of them."""
    return [PAIRS[int(line["where"].rpartition(":")[2]) - 1] | line for line in run.lines()]


def check_answer_lengths(run: GatedRun) -> None:
    """What stands behind the answer's header, in the tokens of the template's own text."""
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    for row in rows_of(run):
        for side in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(row[side], tokenize=False)
            prompt = tokenizer.apply_chat_template(row[side][:1], tokenize=False, add_generation_prompt=True)
            assert whole.startswith(prompt)
            of_whole, of_prompt = token_ids([whole, prompt], tokenizer)
            assert row[f"{side}_tokens"] == len(of_whole) - len(of_prompt)


def test_an_answer_is_counted_without_its_header(run):
    check_answer_lengths(run)


@pytest.mark.parametrize("batching", [PADDED, PACKED, "auto"])
def test_the_saved_folder_gives_the_texts_the_scores_that_were_measured(run, batching):
    """From the messages, through template, gate position, backbone, objectives, matrix and gate."""
    scorer = RewardScorer.from_pretrained(run.folder, dtype="float32", batching=batching)
    for side in ("chosen", "rejected"):
        found = scorer.score([row[side] for row in rows_of(run)])
        assert found == pytest.approx([row[f"{side}_reward"] for row in rows_of(run)], abs=1e-4)
    assert np.std(found) > 1e-2  # a negative control: they differ by more than the tolerance


def test_the_published_class_gives_the_same_scores(run):
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    config = json.loads((run.folder / "config.json").read_text())
    published = PublishedModel(run.folder, config["gating_token_pattern"])
    text = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert tokenizer.decode(config["gating_token_pattern"]) == text
    assert set(published.weights) == published.expected_names()
    for row in rows_of(run)[:10]:
        (ids,) = token_ids([tokenizer.apply_chat_template(row["chosen"], tokenize=False)], tokenizer)
        assert float(published(ids)["score"]) == pytest.approx(row["chosen_reward"], abs=1e-4)


def test_named_scores_are_on_the_scale_of_the_ratings(run, ratings_model):
    scored = RewardScorer.from_pretrained(run.folder).score_named([PAIRS[0]["chosen"]])[0]
    plain = RewardScorer.from_pretrained(ratings_model).score_named([PAIRS[0]["chosen"]])[0]
    assert tuple(scored.attributes) == tuple(scored.gate_weights) == ATTRIBUTES
    assert scored.attributes == pytest.approx(plain.attributes, abs=1e-4)
    outputs = {name: value / 3 for name, value in scored.attributes.items()}
    lambdas = {name: of["lambda"] for name, of in run.read("evaluation.json")["debiasing"]["objectives"].items()}
    weighed = sum(
        scored.gate_weights[name] * (outputs[name] - lambdas[name] * outputs["verbosity"]) for name in ATTRIBUTES
    )
    assert weighed == pytest.approx(scored.reward, abs=1e-4)


def test_the_figures_are_those_of_the_lines(run):
    figures, lines = run.read("evaluation.json"), run.lines()
    right = np.mean([line["margin"] > 0 for line in lines])
    assert figures["accuracy"]["value"] == pytest.approx(right)
    assert figures["pairs"] == len(lines) == run.read("run.json")["pairs_of_parts"]["measure"]
    longer = np.mean([(np.sign(line["chosen_tokens"] - line["rejected_tokens"]) + 1) / 2 for line in lines])
    assert figures["longer_wins"]["value"] == pytest.approx(longer)
    assert {of["source"] for of in lines} == set(figures["by_source"]) == {"practical", "friendly"}
    rewards = [line[f"{side}_reward"] for line in lines for side in ("chosen", "rejected")]
    assert figures["reward_mean"] == pytest.approx(np.mean(rewards))
    config = json.loads((run.folder / "config.json").read_text())
    assert config["reward_mean"] == figures["reward_mean"]
    verification = json.loads((run.folder / "verification.json").read_text())
    assert 0 < verification["hidden_difference"] < verification["hidden_tolerance"] and verification["answers"] == 16
    assert 0 < verification["formula_difference"] < verification["formula_tolerance"] < 1e-4
    assert 0 < verification["largest_difference"] < 1e-4


def test_the_rows_that_were_verified_are_kept(run):
    """With the place that the gate reads: the scorer gives these tokens the scores of the file."""
    verified = read_verified_rows(run.folder)
    assert len(verified.rows) == len(verified.gates) == 16 and verified.passed
    scorer = RewardScorer.from_pretrained(run.folder, dtype="float32")
    scores = [score for (score,) in verified.outputs]
    assert scorer.score(verified.conversations()) == pytest.approx(scores, abs=1e-4)
    earlier = [replace(tokens, gate=tokens.gate - 3) for tokens in verified.conversations()]
    assert scorer.score(earlier) != pytest.approx(scores, abs=1e-4)  # the negative control


def test_eval_bench_mark_reads_it(run, tmp_path):
    rows = rows_of(run)
    own = write_rows(tmp_path / "own.jsonl", [{side: row[side] for side in ("chosen", "rejected")} for row in rows])
    folder = evaluate(flags(run.folder, {"pairs": own}, tmp_path))
    summary = json.loads((folder / "summary.json").read_text())
    accuracy = summary["benchmarks"]["pairs"]["pairs"]["accuracy"]
    assert accuracy["value"] == pytest.approx(run.read("evaluation.json")["accuracy"]["value"])
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == len(rows)


def test_the_card_says_what_the_gate_adds(run):
    card = (run.folder / "README.md").read_text()
    for words in ("the best fixed weights", "alone", "always the longer answer", "| practical |", "| kindness |"):
        assert words in card
    assert f"--protocol ours --reward_name_or_path {run.folder}" in card and "<!-- served equal -->" in card
    assert "ahead by" in card and "points" in card and "lambda times verbosity" in card
    assert f"{run.read('run.json')['pairs_of_parts']['train']} to train on" in card


def test_the_same_command_gives_the_same_bytes_from_kept_features(run, ratings_model, pairs_file, tmp_path, caplog):
    """A run that was ended after its pass over the answers starts again from the features."""
    flags = {"feature_cache": str(run.output.parent / "features")}
    left = tmp_path / "again" / "unfinished-last_checkpoint"  # of a run that was killed while it wrote
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("torn")
    with caplog.at_level(logging.INFO):
        again = GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "again", **flags))
    assert "where they were kept" in caplog.text
    assert not left.exists()
    for name in ("model.safetensors", "config.json"):
        assert (again.folder / name).read_bytes() == (run.folder / name).read_bytes()
    assert again.read("evaluation.json") == run.read("evaluation.json")
    other = GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "other", seed=7, **flags))
    assert (other.folder / "model.safetensors").read_bytes() != (run.folder / "model.safetensors").read_bytes()


def _matrix(merged):
    merged.reward_transform_matrix.mul_(1.01)


def _one_weight_of_a_head(merged):
    merged.regression_layer.weight[1, 3] *= 1.01


def _one_weight_of_the_backbone(merged):
    weight = merged.model.layers[1].mlp.down_proj.weight
    merged.model.layers[1].mlp.down_proj.weight = torch.nn.Parameter(weight.clone())
    merged.model.layers[1].mlp.down_proj.weight[3, 5] *= 1.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [_matrix, _one_weight_of_a_head, _one_weight_of_the_backbone])
def test_a_model_that_is_not_the_trained_one_gets_no_name(
    change, dtype, ratings_model, pairs_file, run, tmp_path, monkeypatch
):
    right = gated_saving.merge

    def wrong(objectives, *args):
        objectives = objectives._replace(model=copy.deepcopy(objectives.model))
        merged = right(objectives, *args)
        with torch.no_grad():
            change(merged)
        return merged

    monkeypatch.setattr("reward_modeling.frozen_backbone.gate_results.merge", wrong)
    flags = {"feature_cache": str(run.output.parent / "features"), "dtype": dtype, "steps": 3}
    with pytest.raises(UserError, match="expected the saved model to have the weights of its parts"):
        GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "wrong", **flags))
    assert {path.name for path in (tmp_path / "wrong").iterdir()} == {"data_report.json"}


def test_other_hidden_states_or_another_formula_are_seen(ratings_model, pairs_file, run, tmp_path, monkeypatch):
    """Of a sample whose features are those of other tokens, and of a class that computes something else."""
    flags = {"feature_cache": str(run.output.parent / "features"), "steps": 3}
    drawn = gate_results.draw_sample
    with monkeypatch.context() as patched, pytest.raises(UserError, match="the hidden states that the gate"):
        patched.setattr(gate_results, "draw_sample", lambda *args: (of := drawn(*args))._replace(gates=of.gates[::-1]))
        GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "hidden", **flags))
    with monkeypatch.context() as patched, pytest.raises(UserError, match="apart on the same hidden states"):
        gating = Gate.forward
        patched.setattr(Gate, "forward", lambda self, prompts: gating(self, prompts) * (1 + 1e-4 * self.wrong))
        patched.setattr(Gate, "wrong", 0, raising=False)
        load = gated_verification._load

        def wrong(*args):
            model = load(*args)
            model.gating.wrong = 1
            return model

        patched.setattr(gated_verification, "_load", wrong)
        GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "formula", **flags))


def test_a_head_that_makes_much_of_rounding_is_verified_in_bfloat16(pairs_file, tmp_path, own_cache, caplog):
    """As ridge regression finds it: its weights cancel, so that scores move by far more than hidden states."""
    model = make_ratings_model(tmp_path / "model", variation=0.02)
    run = GatedRun(gate_flags(model, pairs_file, tmp_path / "gated", dtype="bfloat16", steps=20))
    found = json.loads((run.folder / "verification.json").read_text())
    greatest = max(abs(line[f"{side}_reward"]) for line in run.lines() for side in ("chosen", "rejected"))
    assert found["largest_difference"] > 0.05 * greatest  # an earlier version called this a fault
    assert found["hidden_difference"] < 0.02
    assert "in bfloat16 rounding alone moves scores by up to" in caplog.text


@pytest.mark.parametrize(("family", "style"), [("gemma2", "gemma"), ("qwen2", "qwen25")])
def test_other_families_and_templates(family, style, pairs_file, tmp_path, own_cache):
    """Gemma-2's published place, and a template that has none."""
    model = make_ratings_model(tmp_path / "model", family=family, style=style)
    run = GatedRun(gate_flags(model, pairs_file, tmp_path / "gated", steps=10, debias="length"))
    config = json.loads((run.folder / "config.json").read_text())
    assert config["architectures"] == [{"gemma2": "Gemma2", "qwen2": "Qwen2"}[family] + "ForRewardModelWithGating"]
    assert ("gating_token_pattern" in config) == (family == "gemma2")
    scorer = RewardScorer.from_pretrained(run.folder, dtype="float32")
    found = scorer.score([row["chosen"] for row in rows_of(run)])
    assert found == pytest.approx([row["chosen_reward"] for row in rows_of(run)], abs=1e-4)
    assert run.read("evaluation.json")["debiasing"]["measured_by"] == "length"
    check_answer_lengths(run)


def test_a_reference_set_decides_about_the_lambdas(ratings_model, pairs_file, run, tmp_path, own_cache):
    reference = write_rows(tmp_path / "reference.jsonl", rated_world((1, 40, 1), seed=9)[1])
    flags = {"feature_cache": str(run.output.parent / "features"), "steps": 5}
    found = GatedRun(
        gate_flags(ratings_model, pairs_file, tmp_path / "gated", reference_set_path=str(reference), **flags)
    )
    here, there = (each.read("evaluation.json")["debiasing"] for each in (found, run))
    assert here["answers"] == 80 and there["answers"] != 80
    assert here["objectives"]["usefulness"]["lambda"] != there["objectives"]["usefulness"]["lambda"]
    assert here["objectives"]["usefulness"]["after"]["value"] <= 0.03
    assert set(found.read("data_report.json")) == {"train", "reference"}


def test_without_debiasing(ratings_model, pairs_file, run, tmp_path):
    flags = {"feature_cache": str(run.output.parent / "features"), "steps": 5}
    found = GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "gated", debias="none", **flags))
    assert found.read("evaluation.json")["debiasing"] is None
    model = PublishedModel(found.folder, [])
    assert torch.equal(model.weights["reward_transform_matrix"], torch.eye(3))


def test_a_backbone_in_bfloat16(ratings_model, pairs_file, tmp_path, own_cache):
    """It is computed and saved in it; the heads stay in float32, and the scores are those of the same type."""
    found = GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "gated", dtype="bfloat16", steps=20))
    assert json.loads((found.folder / "config.json").read_text())["dtype"] == "bfloat16"
    weights = load_file(found.folder / "model.safetensors")
    assert {weights[name].dtype for name in weights if name.startswith("model.")} == {torch.bfloat16}
    assert {weights[name].dtype for name in weights if not name.startswith("model.")} == {torch.float32}
    scorer = RewardScorer.from_pretrained(found.folder, dtype="bfloat16")
    scores = scorer.score([row["chosen"] for row in rows_of(found)])
    expected = [row["chosen_reward"] for row in rows_of(found)]
    assert np.corrcoef(scores, expected)[0, 1] > 0.999
    assert scores == pytest.approx(expected, abs=0.05 * np.abs(expected).max())


def test_two_processes_share_the_pass(ratings_model, pairs_file, run, tmp_path):
    flags = vars(gate_flags(ratings_model, pairs_file, tmp_path / "two", feature_cache=str(tmp_path / "two_features")))
    given = {name: value for name, value in flags.items() if value is not None and value != getattr(GatingFlags, name)}
    done = fork(ROOT / "rm_gating.py", as_argv(given), tmp_path, processes=2)
    assert "Done: the model with its gate is in" in done.stderr
    two, one = ((each / "eval_scores.jsonl").read_text() for each in (tmp_path / "two", run.output))
    rewards = [[json.loads(line)["margin"] for line in of.splitlines()] for of in (two, one)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-3)


@pytest.mark.slow
def test_a_killed_run_leaves_no_model_and_starts_again(ratings_model, pairs_file, tmp_path):
    flags = vars(gate_flags(ratings_model, pairs_file, tmp_path / "killed", steps=100_000))
    given = {name: value for name, value in flags.items() if value is not None and value != getattr(GatingFlags, name)}
    command = [sys.executable, str(ROOT / "rm_gating.py"), *as_argv(given)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    for line in process.stderr:
        if line.startswith("Gate:") or time.monotonic() > deadline:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "last_checkpoint").exists()
    again = GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "killed", steps=5))
    assert (again.folder / "model.safetensors").exists()


# --- what is refused --------------------------------------------------------------------------------------------


def changed(model: Path, tmp_path: Path, **changes: object) -> Path:
    copy = Path(shutil.copytree(model, tmp_path / "changed"))
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps({name: of for name, of in config.items() if of is not None}))
    return copy


def test_the_mean_of_quantiles_is_an_objective(ratings_model, pairs_file, tmp_path):
    """Of a model of quantiles the mean of an attribute's outputs, which is what it says of it."""
    levels = [0.25, 0.75]
    names = [f"{name}@{level:.2f}" for name in ATTRIBUTES for level in levels]
    labels = {str(place): name for place, name in enumerate(names)}
    changes = {"id2label": labels, "label2id": {name: place for place, name in enumerate(names)}}
    model = changed(ratings_model, tmp_path, quantile_levels=levels, **changes)
    weights = load_file(model / "model.safetensors")
    apart = torch.randn(3, 1, weights["score.weight"].shape[1], generator=torch.Generator().manual_seed(0)) / 50
    head = weights["score.weight"][:, None]
    weights["score.weight"] = torch.cat([head - apart, head + apart], dim=1).flatten(0, 1)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    run = GatedRun(gate_flags(model, pairs_file, tmp_path / "gated", steps=5))
    found = RewardScorer.from_pretrained(run.folder).score_named([PAIRS[0]["chosen"]])[0]
    plain = RewardScorer.from_pretrained(ratings_model).score_named([PAIRS[0]["chosen"]])[0]
    assert found.attributes == pytest.approx(plain.attributes, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "style", "end", "grows"),
    [("gemma2", "gemma", "<end_of_turn>", False), ("llama", "llama3", "<|eot_id|>", True)],
)
def test_a_pad_token_that_ends_answers_is_replaced(family, style, end, grows, pairs_file, tmp_path, own_cache):
    """As a model that was saved elsewhere has it; by a new token where the vocabulary has none that can be taken."""
    model = make_ratings_model(tmp_path / "model", family=family, style=style)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = tokenizer.pad_token = end
    tokenizer.save_pretrained(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"pad_token_id": tokenizer.pad_token_id}))
    run = GatedRun(gate_flags(model, pairs_file, tmp_path / "gated", steps=5))
    found, config = AutoTokenizer.from_pretrained(run.folder), json.loads((run.folder / "config.json").read_text())
    assert found.eos_token == end != found.pad_token
    assert config["pad_token_id"] == found.pad_token_id
    assert (len(found) > len(tokenizer)) == grows
    # without a mask too, as the published class reads a conversation
    saved = (
        gated_model_class(type(AutoConfig.from_pretrained(run.folder)))
        .from_pretrained(run.folder, dtype=torch.float32)
        .eval()
    )
    row = rows_of(run)[0]
    (ids,) = token_ids([found.apply_chat_template(row["chosen"], tokenize=False)], found)
    assert float(saved(torch.tensor([ids])).score[0]) == pytest.approx(row["chosen_reward"], abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id2label": {"0": "reward"}, "label2id": {"reward": 0}, "label_ranges": None}, "one with one label"),
        ({"id2label": {f"{n}": f"LABEL_{n}" for n in range(3)}, "label_ranges": None}, "3 outputs without names"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}, "reward_weights": None}, "outputs with names of their own"),
        (
            {"architectures": ["LlamaForCausalLM"]},
            r"several named outputs.*LlamaForCausalLM.*train them with rm_regression\.py",
        ),
        ({"architectures": ["LlamaForRewardModelWithGating"]}, "a gate already"),
    ],
)
def test_models_that_are_no_objectives(ratings_model, pairs_file, tmp_path, changes, words):
    if "id2label" in changes:
        changes = {"label2id": {name: int(place) for place, name in changes["id2label"].items()}} | changes
    model = changed(ratings_model, tmp_path, **changes)
    with pytest.raises(UserError, match=words) as caught:
        GatedRun(gate_flags(model, pairs_file, tmp_path / "out"))
    assert str(caught.value).startswith("--model_name")
    assert not (tmp_path / "out").exists()


def test_rows_without_a_usable_pair(ratings_model, tmp_path, own_cache):
    same = [row | {"rejected": row["chosen"]} for row in PAIRS[:5]]
    with pytest.raises(UserError, match=r"--train_set_path .*no row is left"):
        GatedRun(gate_flags(ratings_model, write_rows(tmp_path / "same.jsonl", same), tmp_path / "out"))
    with pytest.raises(UserError, match=r"--train_set_path .*no pair is left to train on"):
        flags = {"max_length": 12, "overlong": "drop"}
        GatedRun(gate_flags(ratings_model, write_rows(tmp_path / "long.jsonl", PAIRS[:5]), tmp_path / "o", **flags))


def test_one_prompt_for_all_pairs(ratings_model, tmp_path, own_cache):
    question = PAIRS[0]["chosen"][:1]
    rows = [{side: [*question, row[side][1]] for side in ("chosen", "rejected")} for row in PAIRS[:20]]
    with pytest.raises(UserError, match="found one prompt in 20 pairs"):
        GatedRun(gate_flags(ratings_model, write_rows(tmp_path / "one.jsonl", rows), tmp_path / "out"))


def test_an_output_that_is_there(ratings_model, pairs_file, run):
    flags = {"feature_cache": str(run.output.parent / "features")}
    before = (run.folder / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"--output_path .*expected a new or an empty folder, found") as caught:
        GatedRun(gate_flags(ratings_model, pairs_file, run.output, **flags))
    assert "resume" not in str(caught.value)  # it has no such flag
    assert (run.folder / "model.safetensors").read_bytes() == before


def test_an_earlier_run_goes_when_the_new_one_is_there(ratings_model, pairs_file, run, tmp_path, own_cache):
    output = Path(shutil.copytree(run.output, tmp_path / "earlier"))
    (output / "notes.txt").write_text("somebody's own")
    same = write_rows(tmp_path / "same.jsonl", [row | {"rejected": row["chosen"]} for row in PAIRS[:5]])
    flags = {"feature_cache": str(run.output.parent / "features"), "overwrite_output_dir": True, "steps": 3}
    with pytest.raises(UserError, match="no row is left"):
        GatedRun(gate_flags(ratings_model, same, output, **flags))
    assert (output / "last_checkpoint" / "model.safetensors").exists()  # it fails, and nothing is lost
    found = GatedRun(gate_flags(ratings_model, pairs_file, output, **flags))
    assert found.read("run.json")["steps"] == 3
    assert (output / "notes.txt").exists()


def test_an_earlier_model_stays_where_the_new_one_is_not_verified(
    ratings_model, pairs_file, run, tmp_path, own_cache, monkeypatch
):
    output = Path(shutil.copytree(run.output, tmp_path / "earlier"))
    before = {path.name: path.read_bytes() for path in (output / "last_checkpoint").iterdir()}

    def fail(*_args):
        raise UserError("not verified")

    monkeypatch.setattr(gate_results, "verify", fail)
    flags = {"feature_cache": str(run.output.parent / "features"), "overwrite_output_dir": True, "steps": 3}
    with pytest.raises(UserError, match="not verified"):
        GatedRun(gate_flags(ratings_model, pairs_file, output, **flags))
    assert {path.name: path.read_bytes() for path in (output / "last_checkpoint").iterdir()} == before
    assert (output / "evaluation.json").exists()


def test_the_model_that_is_read_is_not_overwritten(ratings_model, pairs_file, tmp_path, monkeypatch):
    output = tmp_path / "ratings"
    model = Path(shutil.copytree(ratings_model, output / "last_checkpoint"))
    monkeypatch.setattr("reward_modeling.frozen_backbone.gate_job.load_objectives", None)  # nothing is read
    monkeypatch.chdir(output)
    for name in (model, "last_checkpoint"):
        with pytest.raises(UserError, match=r"--overwrite_output_dir: expected .* without the model that is read"):
            GatedRun(gate_flags(name, pairs_file, output, overwrite_output_dir=True))
    assert (model / "model.safetensors").exists()


def test_no_script_trains_on_a_gated_model(run):
    with pytest.raises(UserError, match="found a mixture of objectives with a gate"):
        load_config(str(run.folder))


def test_verbosity_that_is_not_among_the_objectives(ratings_model, pairs_file, tmp_path):
    for changes, words in (
        ({"verbosity_objective": "length"}, "expected one of kindness, usefulness, verbosity, found length"),
        ({"max_length": 100_000}, "--max_length: expected at most 1,024"),
    ):
        with pytest.raises(UserError, match=words):
            GatedRun(gate_flags(ratings_model, pairs_file, tmp_path / "out", **changes))
    names = {"0": "kindness", "1": "usefulness", "2": "tone"}
    labels = {name: int(place) for place, name in names.items()}
    ranges = {name: [0, 3] for name in names.values()}
    saved = {"label_ranges": ranges, "reward_weights": dict.fromkeys(labels, 1.0)}
    model = changed(ratings_model, tmp_path, id2label=names, label2id=labels, **saved)
    with pytest.raises(UserError, match="expected one objective with verbosity in its name, found none"):
        GatedRun(gate_flags(model, pairs_file, tmp_path / "out", debias="length"))


def test_flags_are_checked_together(tmp_path):
    with pytest.raises(UserError) as caught:
        GatingFlags(train_set_path="x", steps=0, held_out=1.0, debias="both", gating_temperature=0)
    for name in ("steps", "held_out", "debias", "gating_temperature"):
        assert f"--{name}: expected" in str(caught.value)
    done = fork(ROOT / "rm_gating.py", ["--steps", "0"], tmp_path, status=2)
    assert "error: --steps: expected at least 1, found 0" in done.stderr and "Traceback" not in done.stderr

"""From a run of rm_regression.py to what uses its model: named scores, adapters, folding, an evaluation, a next run."""

import json
import sys
from pathlib import Path

import pytest
import torch
from evaluations import evaluate
from evaluations import flags as evaluation_flags
from peft import PeftModel
from rated_rows import rated_rows
from runs import Run, train, write_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rm_regression
from reward_modeling.scoring import RewardScorer
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.ratings import ATTRIBUTES

ROWS = rated_rows(10, seed=4)
CONVERSATIONS = [row["messages"] for row in ROWS]
# Not in the order of the alphabet, in which config.json has what is nested in it.
NAMES = sorted(ATTRIBUTES, reverse=True)
WEIGHTS = {"kindness": 1.0, "usefulness": 0.0, "verbosity": -0.5}
TOLERANCE = 1e-4
WRONG = 1e-3


@pytest.fixture(scope="module")
def run(gemma_folder, tmp_path_factory):
    """Short runs of some flags, each made once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    rows, held_out = write_rows(folder / "train.jsonl", ROWS), write_rows(folder / "eval.jsonl", rated_rows(6, seed=5))

    def get(**changes: object) -> Run:
        key = str(changes)
        if key not in made:
            flags = {
                "model_name": gemma_folder,
                "train_set_path": rows,
                "attributes": ",".join(NAMES),
                "label_ranges": ",".join(f"{name}=0:{3 + number}" for number, name in enumerate(NAMES)),
                "weights": "kindness=1,verbosity=-0.5",
                "learning_rate": 1e-3,
                "max_length": 256,
                "max_steps": 2,
                "pairs_per_step": 8,
                "eval_set_path": held_out,
                "report_to": "none",
                "verify_saved_model": "false",
                "use_cpu": "true",
                "num_proc": 1,
            }
            made[key] = train(flags, folder / f"run-{len(made)}", main=rm_regression.main, **changes)
        return made[key]

    return get


def plain_outputs(folder: Path) -> torch.Tensor:
    """`(conversations, labels)` of transformers and peft alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text())["base_model_name_or_path"]
        labels = {"num_labels": json.loads((folder / "labels.json").read_text())}
        model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base, **labels), folder)
        model.config.pad_token_id = tokenizer.pad_token_id
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    rows = [tokenizer.apply_chat_template(c, return_tensors="pt", return_dict=True) for c in CONVERSATIONS]
    with torch.no_grad():
        return torch.cat([model.eval()(**row).logits for row in rows])


def check_scores(folder: Path, outputs: torch.Tensor) -> None:
    """Attributes and rewards against the outputs `(conversations, attributes)` of 0..1."""
    scored = RewardScorer.from_pretrained(folder, dtype="float32").score_named(CONVERSATIONS)
    ranges = torch.tensor([3.0 + number for number in range(len(NAMES))])
    attributes = torch.tensor([list(one.attributes.values()) for one in scored])
    assert all(list(one.attributes) == NAMES for one in scored)
    assert (attributes / ranges - outputs).abs().max() < TOLERANCE
    rewards = outputs @ torch.tensor([WEIGHTS[name] for name in NAMES])
    assert (torch.tensor([one.reward for one in scored]) - rewards).abs().max() < TOLERANCE
    assert (outputs - outputs[:, [1, 2, 0]]).abs().max() > WRONG  # another order would be seen


def test_a_whole_model(run):
    check_scores(run().model, plain_outputs(run().model))


def test_an_adapter_and_what_it_is_merged_into(run):
    trained = run(use_peft="true", merge_adapter="true")
    (trained.model / "labels.json").write_text(str(len(NAMES)))
    outputs = plain_outputs(trained.model)
    check_scores(trained.model, outputs)
    merged = trained.output / "merged_checkpoint"
    check_scores(merged, outputs)
    config = json.loads((merged / "config.json").read_text())
    assert [config["id2label"][str(number)] for number in range(len(NAMES))] == NAMES


@pytest.mark.parametrize("use_peft", ["false", "true"])
def test_quantiles(run, use_peft):
    trained = run(loss="quantile", use_peft=use_peft)
    (trained.model / "labels.json").write_text(str(19 * len(NAMES)))
    quantiles = plain_outputs(trained.model).unflatten(1, (-1, 19))
    check_scores(trained.model, quantiles.mean(dim=2))
    scored = RewardScorer.from_pretrained(trained.model, dtype="float32").score_named(CONVERSATIONS)
    low = torch.tensor([[one.intervals[name][0] for name in NAMES] for one in scored])
    assert torch.allclose(low, quantiles.amin(dim=2) * torch.tensor([3.0, 4.0, 5.0]), atol=5 * TOLERANCE)


def test_statistics_are_those_of_the_scalar(run):
    config = json.loads((run().model / "config.json").read_text())
    normalized = RewardScorer.from_pretrained(run().model, normalize=True).score(CONVERSATIONS)
    raw = RewardScorer.from_pretrained(run().model).score(CONVERSATIONS)
    expected = [(reward - config["reward_mean"]) / config["reward_std"] for reward in raw]
    assert normalized == pytest.approx(expected, abs=TOLERANCE)
    lines = [json.loads(line) for line in (run().output / "eval_scores.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines]
    assert config["reward_mean"] == pytest.approx(sum(rewards) / len(rewards), abs=TOLERANCE)


def test_folded_it_is_evaluated_as_the_model_of_ratings(run, tmp_path):
    argv = ["rm_regression.py", "--fold", str(run().model), "--output_path", str(tmp_path / "folded")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        rm_regression.main()
    pairs = {"pairs": write_rows(tmp_path / "pairs.jsonl", learnable_preferences(8, seed=6))}
    rewards = []
    for name, model in {"ratings": run().model, "folded": tmp_path / "folded"}.items():
        folder = evaluate(evaluation_flags(model, pairs, tmp_path, record_dir=tmp_path / f"record_of_{name}.txt"))
        lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
        rewards.append([line[side] for line in lines for side in ("chosen_reward", "rejected_reward")])
    assert rewards[0] == pytest.approx(rewards[1], abs=TOLERANCE)
    assert max(rewards[0]) - min(rewards[0]) > WRONG


def test_a_next_run_goes_on_with_the_ranges_of_the_model(run, tmp_path, caplog):
    """Those of its own rows are narrower, and would give what the head has learned another meaning."""
    caplog.set_level("INFO", "reward_modeling")
    first = run()
    low = [row | dict.fromkeys(NAMES, number % 2) for number, row in enumerate(ROWS)]
    flags = json.loads((first.model / "script_arguments.json").read_text())
    flags |= {"model_name": first.model, "train_set_path": write_rows(tmp_path / "low.jsonl", low)}
    given = flags.pop("label_ranges")
    again = train(flags, tmp_path / "again", main=rm_regression.main)
    assert ranges_of(again) == ranges_of(first)
    assert "Label ranges: those of the model" in caplog.text
    caplog.clear()
    other = train(flags, tmp_path / "other", main=rm_regression.main, label_ranges=given.replace("=0:3", "=0:9"))
    assert ranges_of(other) == ranges_of(first) | {NAMES[0]: [0, 9]}
    assert f"those of {NAMES[0]} are others than the model was trained with" in caplog.text


def ranges_of(run):
    return json.loads((run.model / "config.json").read_text())["label_ranges"]

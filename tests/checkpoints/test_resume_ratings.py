"""Runs on ratings: killed and resumed to the same bits, with the ranges of their checkpoint; and what is saved."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from rated_rows import FLAGS, WIDTHS, rated_rows
from runs import ROOT, TO_BE_RESUMED, Run, same_weights, sigterm_in_step, train, write_rows
from safetensors.torch import load_file, save_file
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rm_regression
from benchmarks.kill_and_resume import Watched, command_of
from reward_modeling.checkpoints.verification import verify_saved_model
from reward_modeling.common.errors import UserError
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.ratings import ATTRIBUTES, RANGES
from reward_modeling.tiny.tokenizers import token_ids

STEPS = 9
SAVED = ("label_ranges", "reward_weights", "reward_mean", "reward_std")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return rated_rows(30, seed=4)


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    """More than an epoch."""
    return (
        TO_BE_RESUMED
        | FLAGS
        | {
            "model_name": gemma_folder,
            "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
            "max_steps": STEPS,
        }
    )


def run(flags: dict[str, object], output: Path, **changes: object) -> Run:
    return train(flags, output, main=rm_regression.main, **changes)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Run:
    """The undisturbed run, with a checkpoint of every step."""
    return run(base, tmp_path_factory.mktemp("whole") / "output")


def saved_values(folder: Path) -> dict[str, object]:
    config = json.loads((folder / "config.json").read_text())
    return {name: config[name] for name in SAVED if name in config}


def stopped_after(finished: Run, step: int, output: Path) -> Path:
    """The folder of a run that was killed when it had this checkpoint."""
    shutil.copytree(finished.output / f"checkpoint-{step}", output / f"checkpoint-{step}")
    shutil.copy(finished.output / "data_report.json", output)
    return output


def assert_same_end(one: Run, reference: Run) -> None:
    """To the last bit."""
    assert same_weights(one.model, reference.model)
    assert one.losses() == reference.losses()
    assert saved_values(one.model) == saved_values(reference.model)
    figures = [json.loads((of.output / "evaluation.json").read_text()) for of in (one, reference)]
    assert figures[0] == figures[1]


def test_what_is_saved(whole):
    for step in range(1, STEPS + 1):
        values = saved_values(whole.output / f"checkpoint-{step}")
        assert values["label_ranges"] == {name: [*ends] for name, ends in RANGES.items()}
        assert values["reward_weights"] == {"kindness": 1.0, "usefulness": 0.0, "verbosity": -0.5}
    assert saved_values(whole.model).keys() == set(SAVED)
    config = json.loads((whole.model / "config.json").read_text())
    assert config["id2label"] == dict(zip("012", ATTRIBUTES, strict=True))
    assert config["architectures"] == ["GemmaForSequenceClassification"] and config["problem_type"] == "regression"


@pytest.mark.parametrize("step", [1, STEPS - 1])
def test_a_killed_run_ends_bit_equal(step, base, whole, tmp_path):
    output = stopped_after(whole, step, tmp_path / "output")
    assert_same_end(run(base, output, resume_from_checkpoint="true"), whole)


def test_a_run_that_sigterm_stopped_ends_bit_equal(base, whole, tmp_path):
    with sigterm_in_step(4), pytest.raises(SystemExit):
        run(base | {"save_every_steps": 100}, tmp_path / "output")
    assert_same_end(run(base, tmp_path / "output", resume_from_checkpoint="true"), whole)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_ends_bit_equal(base, whole, tmp_path):
    output = tmp_path / "output"
    command = [
        str(ROOT / "rm_regression.py") if part.endswith("rm.py") else part for part in command_of(base, output, 1)
    ]
    watched = Watched(command, output, tmp_path / "log")
    while len(watched.steps) < 4 and not watched.ended():
        watched.read_steps()
        time.sleep(0.002)
    watched.process.send_signal(signal.SIGKILL)
    watched.process.wait(timeout=30)
    watched.close()
    assert not (output / "last_checkpoint").exists() and list(output.glob("checkpoint-*"))
    assert_same_end(run(base, output, resume_from_checkpoint="true"), whole)


@pytest.mark.slow
def test_a_killed_run_on_quantiles_ends_bit_equal(base, tmp_path):
    flags = base | {"loss": "quantile", "max_steps": 4}
    whole = run(flags, tmp_path / "whole")
    assert_same_end(run(flags, stopped_after(whole, 2, tmp_path / "output"), resume_from_checkpoint="true"), whole)
    config = json.loads((whole.model / "config.json").read_text())
    assert len(config["id2label"]) == 57 and len(config["quantile_levels"]) == 19


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_ranges": "kindness=0:4"}, "- label_ranges: kindness=0:3 in the checkpoint, now kindness=0:4"),
        ({"attributes": "kindness,usefulness", "weights": "kindness=1"}, "- model, id2label: "),
        ({"loss": "quantile"}, "- loss: squared_error in the checkpoint, now quantile"),
        ({"max_train_samples": 20}, "- max_train_samples: None in the checkpoint, now 20"),
    ],
    ids=str,
)
def test_other_flags_are_refused(changes, said, base, whole, tmp_path):
    output = stopped_after(whole, 5, tmp_path / "output")
    with pytest.raises(UserError, match=said):
        run(base | changes, output, resume_from_checkpoint="true")


def test_other_ratings_are_refused(base, rows, whole, tmp_path):
    """One in one row, so that the range would be another one."""
    output = stopped_after(whole, 5, tmp_path / "output")
    changed = [{**rows[0], "usefulness": 7}, *rows[1:]]
    original = base["train_set_path"].read_text()
    write_rows(base["train_set_path"], changed)
    try:
        with pytest.raises(UserError, match="train_set_path: the same name, but other answers"):
            run(base, output, resume_from_checkpoint="true")
    finally:
        base["train_set_path"].write_text(original)


def test_other_weights_of_the_reward_may_be_taken(base, whole, tmp_path, caplog):
    """They change nothing that is learned."""
    output = stopped_after(whole, 5, tmp_path / "output")
    resumed = run(base | {"weights": "usefulness=2"}, output, resume_from_checkpoint="true")
    assert same_weights(resumed.model, whole.model)
    assert saved_values(resumed.model)["reward_weights"] == {"kindness": 0.0, "usefulness": 2.0, "verbosity": 0.0}
    assert "from here on weights" in caplog.text


@pytest.mark.parametrize("metric", ["spearman", "pair_accuracy"])
def test_the_best_model_by_a_figure_of_ratings(metric, base, tmp_path):
    """The one that was best in it stands at the end, and the run stops when there is no better one."""
    flags = base | {"metric_for_best_model": metric, "early_stopping_patience": 2, "eval_every_steps": 1}
    del flags["eval_strategy"]
    flags |= {"eval_set_path": write_rows(tmp_path / "eval.jsonl", rated_rows(20, seed=9)), "max_steps": 30}
    stopped = run(flags | {"save_total_limit": 2, "learning_rate": 1e-2}, tmp_path / "output")
    evaluated = {entry["step"]: entry[f"eval_{metric}"] for entry in stopped.history if f"eval_{metric}" in entry}
    best = stopped.state["best_global_step"]
    assert evaluated[best] == max(evaluated.values()) and len(evaluated) < 30
    assert same_weights(stopped.model, stopped.output / f"checkpoint-{best}")
    figures = json.loads((stopped.output / "evaluation.json").read_text())
    assert figures[metric] == pytest.approx(evaluated[best], abs=1e-6) and figures["step"] == best


# --- verification and adapters ----------------------------------------------------------------------------------------


def test_the_saved_outputs_are_those_in_memory(base, tmp_path):
    """All of them, in plain transformers; a wrong weight of one output, the negative control, is found."""
    finished = run(base | {"verify_saved_model": "true", "max_steps": 2}, tmp_path / "output")
    verification = json.loads((finished.model / "verification.json").read_text())
    assert verification["passed"] and len(verification["rewards"]) == 5 * 3
    rows, outputs = finished.trainer.sample_outputs()
    types = {"dtype": torch.float32, "weights_dtype": torch.float32}
    assert verify_saved_model(finished.model, rows, outputs, **types).passed
    weights = load_file(finished.model / "model.safetensors")
    weights["score.weight"][1, 3] += 0.05
    save_file(weights, finished.model / "model.safetensors", metadata={"format": "pt"})
    result = verify_saved_model(finished.model, rows, outputs, **types)
    assert not result.passed and "expected the rewards of the model in memory" in result.problems[0]


def plain_outputs(folder: Path, rows: list[dict]) -> torch.Tensor:
    """As any user of transformers reads them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    texts = tokenizer.apply_chat_template([row["messages"] for row in rows], tokenize=False)
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")).logits


def test_an_adapter_with_several_outputs(base, rows, tmp_path):
    """Trained, verified, resumed to the same bits, merged; its values stand in a file of its own."""
    flags = base | {"use_peft": "true", "lora_r": 4, "learning_rate": 1e-2, "verify_saved_model": "true"}
    adapter = run(flags | {"merge_adapter": "true"}, tmp_path / "whole")
    values = json.loads((adapter.model / "reward_statistics.json").read_text())
    assert values.keys() >= {*SAVED}
    merged = adapter.output / "merged_checkpoint"
    assert saved_values(merged) == {name: values[name] for name in SAVED}
    assert json.loads((merged / "config.json").read_text())["id2label"] == dict(zip("012", ATTRIBUTES, strict=True))
    for folder in (adapter.model, merged):
        assert json.loads((folder / "verification.json").read_text())["passed"]
    lines = [json.loads(line) for line in (adapter.output / "eval_scores.jsonl").open()]
    held_out = [rows[int(line["where"].rpartition(":")[2]) - 1] for line in lines]
    expected = torch.tensor([list(line["outputs"].values()) for line in lines])
    assert (torch.tensor(WIDTHS) * plain_outputs(merged, held_out) - expected).abs().max() < 1e-4
    output = stopped_after(adapter, 5, tmp_path / "output")
    resumed = run(flags | {"verify_saved_model": "false"}, output, resume_from_checkpoint="true")
    found, whole = (load_file(of.model / "adapter_model.safetensors") for of in (resumed, adapter))
    assert found.keys() == whole.keys() and all(torch.equal(found[name], value) for name, value in whole.items())


def test_held_out_outputs_are_those_of_plain_transformers(rows, whole):
    """On the scale of the ratings, and the reward from the outputs between 0 and 1."""
    lines = [json.loads(line) for line in (whole.output / "eval_scores.jsonl").open()]
    held_out = [rows[int(line["where"].rpartition(":")[2]) - 1] for line in lines]
    outputs = plain_outputs(whole.model, held_out)
    expected = torch.tensor([list(line["outputs"].values()) for line in lines])
    assert (torch.tensor(WIDTHS) * outputs - expected).abs().max() < 1e-4
    rewards = outputs @ torch.tensor([1.0, 0.0, -0.5])
    assert rewards.tolist() == pytest.approx([line["reward"] for line in lines], abs=1e-4)
    for row, line in zip(held_out, lines, strict=True):
        given = row.get("ratings", row)
        assert line["ratings"] == {name: given.get(name) for name in ATTRIBUTES}


def test_an_encoder_with_several_outputs(base, rows, tmp_path):
    """BERT's head has a bias; its rows are padded."""
    texts = [message["content"] for row in rows for message in row["messages"]]
    tokenizer = train_tokenizer(texts, 600, **TOKENIZER_STYLES["bert"])
    model = build_tiny_checkpoint(
        tmp_path / "bert", tokenizer, tiny_config("bert", len(tokenizer), **token_ids(tokenizer))
    )
    flags = base | {"model_name": model, "verify_saved_model": "true", "loss": "quantile", "max_steps": 3}
    finished = run(flags, tmp_path / "output")
    assert finished.trainer.collator.batching == "padded"
    verification = json.loads((finished.model / "verification.json").read_text())
    assert verification["passed"] and len(verification["rewards"]) == 57 * len(finished.trainer.eval_dataset)
    config = json.loads((finished.model / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"] and config["id2label"]["56"] == "verbosity@0.95"


def test_a_model_of_ratings_is_trained_further_with_its_own_attributes(base, whole, tmp_path):
    """In their order; in another one, each row of the head would go on as that of another attribute."""
    flags = base | {"model_name": whole.model, "max_steps": 1, "attributes": "usefulness,kindness,verbosity"}
    with pytest.raises(UserError, match=r"output 1 is usefulness, as --attributes says, found kindness"):
        run(flags, tmp_path / "other")
    further = run(flags | {"attributes": ",".join(ATTRIBUTES), "learning_rate": 0}, tmp_path / "same")
    assert same_weights(further.model, whole.model)

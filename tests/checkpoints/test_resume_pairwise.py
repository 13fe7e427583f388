"""Runs on comparisons: killed and resumed to the same bits; what is saved, and what plain transformers makes of it."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from compared_rows import compared_rows
from runs import ROOT, TO_BE_RESUMED, Run, same_weights, sigterm_in_step, train, write_rows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import rm
import rm_pairwise
from benchmarks.kill_and_resume import Watched, command_of
from reward_modeling.checkpoints.verification import verify_saved_model
from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import standardise_row

STEPS = 9
PAIRWISE = {"format": "rlhflow", "answers": ["A", "B"]}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return compared_rows(30, seed=4)


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    """More than an epoch."""
    return TO_BE_RESUMED | {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 512,
        "max_steps": STEPS,
    }


def run(flags: dict[str, object], output: Path, **changes: object) -> Run:
    return train(flags, output, main=rm_pairwise.main, **changes)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Run:
    """The undisturbed run, with a checkpoint of every step."""
    return run(base, tmp_path_factory.mktemp("whole") / "output")


def stopped_after(finished: Run, step: int, output: Path) -> Path:
    """The folder of a run that was killed when it had this checkpoint."""
    shutil.copytree(finished.output / f"checkpoint-{step}", output / f"checkpoint-{step}")
    shutil.copy(finished.output / "data_report.json", output)
    return output


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def assert_same_end(one: Run, reference: Run) -> None:
    """To the last bit."""
    assert same_weights(one.model, reference.model)
    assert one.losses() == reference.losses()
    assert config_of(one.model) == config_of(reference.model)
    figures = [json.loads((of.output / "evaluation.json").read_text()) for of in (one, reference)]
    assert figures[0] == figures[1]


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
    command = [str(ROOT / "rm_pairwise.py") if part.endswith("rm.py") else part for part in command_of(base, output, 1)]
    watched = Watched(command, output, tmp_path / "log")
    while len(watched.steps) < 4 and not watched.ended():
        watched.read_steps()
        time.sleep(0.002)
    watched.process.send_signal(signal.SIGKILL)
    watched.process.wait(timeout=30)
    watched.close()
    assert not (output / "last_checkpoint").exists() and list(output.glob("checkpoint-*"))
    assert_same_end(run(base, output, resume_from_checkpoint="true"), whole)


def test_another_head_is_refused_on_resuming(base, whole, tmp_path):
    output = stopped_after(whole, 5, tmp_path / "output")
    with pytest.raises(UserError, match="- init_head: lm in the checkpoint, now new"):
        run(base | {"init_head": "new"}, output, resume_from_checkpoint="true")


# --- what is saved ----------------------------------------------------------------------------------------------------


def questions(row: dict) -> list[str]:
    """Both orders of a pair, written out."""
    standard = standardise_row(row, "x:1")
    prompt, chosen, rejected = (json.loads(standard[name]) for name in ("prompt", "chosen", "rejected"))
    turns = "".join(f"\n<turn> {message['role']}\n {message['content']}" for message in prompt)
    pairs = [(chosen, rejected), (rejected, chosen)]
    return [
        f"[CONTEXT] \n{turns}\n [RESPONSE A] {one[0]['content']} [RESPONSE B] {other[0]['content']} \n"
        for one, other in pairs
    ]


def plain_inputs(tokenizer, row: dict):
    """Both orders in one padded batch, as any user of transformers makes them."""
    messages = [[{"role": "user", "content": question}] for question in questions(row)]
    texts = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")


def held_out_pairs(run: Run, rows: list[dict]) -> list[tuple[dict, dict]]:
    """Rows of pairs, and their lines of eval_scores.jsonl."""
    lines = [json.loads(line) for line in (run.output / "eval_scores.jsonl").open()]
    found = [(rows[int(line["where"].rpartition(":")[2]) - 1], line) for line in lines]
    return [(row, line) for row, line in found if "chosen" in row]


def test_held_out_outputs_are_those_of_plain_transformers(rows, whole):
    tokenizer = AutoTokenizer.from_pretrained(whole.model)
    model = AutoModelForSequenceClassification.from_pretrained(whole.model, dtype=torch.float32).eval()
    assert type(model).__name__ == "GemmaForSequenceClassification" and model.config.num_labels == 1
    found = held_out_pairs(whole, rows)
    assert len(found) > 2
    for row, line in found:
        with torch.no_grad():
            outputs = model(**plain_inputs(tokenizer, row)).logits[:, 0]
        assert outputs.tolist() == pytest.approx([line["chosen_first"], line["rejected_first"]], abs=1e-4)
        first, second = torch.sigmoid(outputs).tolist()
        assert (first + 1 - second) / 2 == pytest.approx(line["probability"], abs=1e-5)


def test_before_training_it_says_what_the_language_model_says(base, rows, gemma_folder, tmp_path):
    """The softmax over A and B, within 1e-5; a new head, the negative control, says something else."""
    flags = base | {"max_steps": 1, "learning_rate": 0}
    tokenizer = AutoTokenizer.from_pretrained(gemma_folder)
    language_model = AutoModelForCausalLM.from_pretrained(gemma_folder, dtype=torch.float32).eval()
    tokens = [tokenizer.encode(word, add_special_tokens=False)[0] for word in ("A", "B")]
    differences = {}
    for init_head in ("lm", "new"):
        untrained = run(flags | {"init_head": init_head}, tmp_path / init_head)
        of_head = []
        for row, line in held_out_pairs(untrained, rows):
            inputs = plain_inputs(tokenizer, row)
            last = inputs["attention_mask"].sum(dim=1) - 1
            with torch.no_grad():
                logits = language_model(**inputs).logits[torch.arange(2), last][:, tokens]
            first, second = logits.softmax(dim=1)[:, 0].tolist()
            of_head.append(abs((first + 1 - second) / 2 - line["probability"]))
        differences[init_head] = max(of_head)
    assert differences["lm"] < 1e-5 and differences["new"] > 1e-2


def test_what_is_saved(whole):
    for step in range(1, STEPS + 1):
        assert config_of(whole.output / f"checkpoint-{step}")["pairwise"] == PAIRWISE
    config = config_of(whole.model)
    assert config["pairwise"] == PAIRWISE and config["problem_type"] == "regression"
    assert config["id2label"].keys() == {"0"} and config["pad_token_id"] != config["eos_token_id"]
    assert not {"reward_mean", "reward_std"} & config.keys()  # its outputs are no rewards of answers
    figures = json.loads((whole.output / "evaluation.json").read_text())
    assert figures["by_order"].keys() == {"chosen first", "rejected first"} and "flips" in figures


def test_the_saved_outputs_are_those_in_memory(base, tmp_path):
    """In plain transformers; a wrong weight of the head, the negative control, is found."""
    finished = run(base | {"verify_saved_model": "true", "max_steps": 2}, tmp_path / "output")
    assert json.loads((finished.model / "verification.json").read_text())["passed"]
    rows, outputs = finished.trainer.sample_outputs()
    types = {"dtype": torch.float32, "weights_dtype": torch.float32}
    weights = load_file(finished.model / "model.safetensors")
    weights["score.weight"][0, 3] += 0.05
    save_file(weights, finished.model / "model.safetensors", metadata={"format": "pt"})
    result = verify_saved_model(finished.model, rows, outputs, **types)
    assert not result.passed and "expected the rewards of the model in memory" in result.problems[0]


def test_an_adapter_is_merged_and_resumed(base, rows, tmp_path):
    """What it compares stands in a file of its own, and in the config.json of the merged model."""
    flags = base | {"use_peft": "true", "lora_r": 4, "learning_rate": 1e-2, "verify_saved_model": "true"}
    adapter = run(flags | {"merge_adapter": "true"}, tmp_path / "whole")
    assert json.loads((adapter.model / "reward_statistics.json").read_text())["pairwise"] == PAIRWISE
    merged = adapter.output / "merged_checkpoint"
    assert config_of(merged)["pairwise"] == PAIRWISE
    tokenizer = AutoTokenizer.from_pretrained(merged)
    model = AutoModelForSequenceClassification.from_pretrained(merged, dtype=torch.float32).eval()
    for row, line in held_out_pairs(adapter, rows):
        with torch.no_grad():
            outputs = model(**plain_inputs(tokenizer, row)).logits[:, 0].tolist()
        assert outputs == pytest.approx([line["chosen_first"], line["rejected_first"]], abs=1e-4)
    output = stopped_after(adapter, 5, tmp_path / "output")
    resumed = run(flags | {"verify_saved_model": "false"}, output, resume_from_checkpoint="true")
    found, expected = (load_file(of.model / "adapter_model.safetensors") for of in (resumed, adapter))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_pairwise_model_is_trained_further_and_is_no_reward_model(base, whole, tmp_path, caplog):
    further = run(base | {"model_name": whole.model, "max_steps": 1, "learning_rate": 0}, tmp_path / "further")
    assert same_weights(further.model, whole.model) and config_of(further.model)["pairwise"] == PAIRWISE
    assert "Score head: the one that the checkpoint has." in caplog.text
    with pytest.raises(UserError, match="expected a causal language model or a reward model, which reads one answer, "):
        train(base | {"model_name": whole.model, "max_steps": 1}, tmp_path / "reward")
    reward = train(base | {"max_steps": 1}, tmp_path / "one", main=rm.main)
    assert "pairwise" not in config_of(reward.model)
    with pytest.raises(UserError, match="or a pairwise model, which reads two answers, found a reward model"):
        run(base | {"model_name": reward.model, "max_steps": 1}, tmp_path / "two")

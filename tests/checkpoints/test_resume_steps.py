"""Runs on steps: what is saved and verified, killed and resumed to the same bits, and what they may begin with."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import ROOT, TO_BE_RESUMED, Run, same_weights, sigterm_in_step, train, weights_of, write_rows
from safetensors.torch import load_file, save_file
from stepped_rows import chain_rows, outcome_rows, texts_of
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

import rm
import rm_process
from benchmarks.kill_and_resume import Watched, command_of
from reward_modeling.checkpoints.verification import verify_saved_model, whole_rows
from reward_modeling.common.errors import UserError
from reward_modeling.scoring import StepScorer
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.tokenizers import token_ids

STEPS = 9
PROCESS = {"separator": "\n\n", "chat": True, "outcome": False, "aggregation": "min"}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return chain_rows(40, seed=4)


def tiny_model(folder: Path, family: str, style: str, rows: list[dict]) -> str:
    tokenizer = train_tokenizer([*texts_of(rows), "\n\n"], 500, **TOKENIZER_STYLES[style])
    ids = token_ids(tokenizer)
    if family == "gpt2":
        config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, **ids)
    else:
        config = tiny_config(family, len(tokenizer), **ids)
    build_tiny_checkpoint(folder, tokenizer, config)
    return str(folder)


@pytest.fixture(scope="module")
def base(rows, tmp_path_factory) -> dict[str, object]:
    """More than an epoch."""
    return TO_BE_RESUMED | {
        "model_name": tiny_model(tmp_path_factory.mktemp("models") / "llama", "llama", "llama3", rows),
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_steps": STEPS,
    }


def run(flags: dict[str, object], output: Path, **changes: object) -> Run:
    return train(flags, output, main=rm_process.main, **changes)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Run:
    """The undisturbed run, with a checkpoint of every step."""
    return run(base, tmp_path_factory.mktemp("whole") / "output")


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def stopped_after(finished: Run, step: int, output: Path) -> Path:
    """The folder of a run that was killed when it had this checkpoint."""
    shutil.copytree(finished.output / f"checkpoint-{step}", output / f"checkpoint-{step}")
    shutil.copy(finished.output / "data_report.json", output)
    return output


def assert_same_end(one: Run, reference: Run) -> None:
    """To the last bit."""
    assert same_weights(one.model, reference.model)
    assert one.losses() == reference.losses()
    assert config_of(one.model)["process"] == config_of(reference.model)["process"]
    figures = [json.loads((of.output / "evaluation.json").read_text()) for of in (one, reference)]
    assert figures[0] == figures[1]


def test_what_is_saved(whole):
    for folder in (whole.model, *(whole.output / f"checkpoint-{step}" for step in range(1, STEPS + 1))):
        config = config_of(folder)
        assert config["process"] == PROCESS
        assert config["architectures"] == ["LlamaForTokenClassification"]
        assert config["id2label"] == {"0": "wrong", "1": "right"} and config.get("problem_type") is None
    assert weights_of(whole.model)["score.weight"].shape == (2, 64)
    assert weights_of(whole.model)["score.bias"].abs().max() > 0  # it begins as zeros, and is trained
    assert whole.losses()[-1] < whole.losses()[0]


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
    command = [str(ROOT / "rm_process.py") if part.endswith("rm.py") else part for part in command_of(base, output, 1)]
    watched = Watched(command, output, tmp_path / "log")
    while len(watched.steps) < 4 and not watched.ended():
        watched.read_steps()
        time.sleep(0.002)
    watched.process.send_signal(signal.SIGKILL)
    watched.process.wait(timeout=30)
    watched.close()
    assert not (output / "last_checkpoint").exists() and list(output.glob("checkpoint-*"))
    assert_same_end(run(base, output, resume_from_checkpoint="true"), whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step_separator": "\\n"}, "- step_separator: None in the checkpoint, now "),
        ({"last_step_only": "true"}, "- last_step_only: False in the checkpoint, now True"),
        ({"prompt_format": "plain"}, "- prompt_format: None in the checkpoint, now plain"),
    ],
    ids=str,
)
def test_other_flags_are_refused(changes, said, base, whole, tmp_path):
    output = stopped_after(whole, 5, tmp_path / "output")
    with pytest.raises(UserError, match=said):
        run(base | changes, output, resume_from_checkpoint="true")


# --- the saved model is the one in memory -----------------------------------------------------------------------------


def plain_steps(folder: Path, prompt: str, steps: list[str]) -> list[float]:
    """As any user of transformers reads them: piece by piece, a blank line behind each step."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(model).__module__.startswith("transformers.")  # none of our code
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = []
    for step in steps:
        ids += tokenizer(step, add_special_tokens=False)["input_ids"]
        ids += tokenizer("\n\n", add_special_tokens=False)["input_ids"]
        ends.append(len(ids) - 1)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, ends].softmax(dim=-1)[:, 1].tolist()


def held_out_rows(run: Run, rows: list[dict]) -> list[tuple[dict, dict]]:
    """Each line of eval_scores.jsonl with its row."""
    lines = [json.loads(line) for line in (run.output / "eval_scores.jsonl").open()]
    return [(line, rows[int(line["where"].rpartition(":")[2]) - 1]) for line in lines]


def test_held_out_probabilities_are_those_of_plain_transformers_and_of_StepScorer(rows, whole):
    found = held_out_rows(whole, rows)
    assert len(found) >= 5
    scorer = StepScorer.from_pretrained(str(whole.model), device="cpu")
    for line, row in found:
        expected = plain_steps(whole.model, row["prompt"], row["completions"])
        assert line["steps"] == pytest.approx(expected, abs=1e-5)
        assert scorer.score(row["prompt"], row["completions"]) == pytest.approx(expected, abs=1e-5)
        assert line["reward"] == min(line["steps"])
        assert line["labels"] == pytest.approx(row["labels"])
        shifted = plain_steps(whole.model, row["prompt"], [*row["completions"][:-1], "Then"])
        assert abs(shifted[-1] - expected[-1]) > 1e-5  # the negative control


def test_the_saved_model_is_verified(base, tmp_path):
    """A wrong weight, the negative control, is found."""
    finished = run(base | {"verify_saved_model": "true", "max_steps": 2}, tmp_path / "output")
    verification = json.loads((finished.model / "verification.json").read_text())
    assert verification["passed"] and verification["model_class"] == "LlamaForTokenClassification"
    assert len(verification["rewards"]) == 2 * sum(map(len, verification["reads"]))
    assert any(len(reads) > 1 for reads in verification["reads"])
    rows, outputs = finished.trainer.sample_outputs()
    options = {"dtype": torch.float32, "weights_dtype": torch.float32, "reads_steps": True}
    assert verify_saved_model(finished.model, rows, outputs, **options).passed
    for name in ("score.weight", "score.bias"):
        weights = load_file(finished.model / "model.safetensors")
        kept = weights[name].clone()
        weights[name][1] += 0.05
        save_file(weights, finished.model / "model.safetensors", metadata={"format": "pt"})
        result = verify_saved_model(finished.model, rows, outputs, **options)
        assert not result.passed and "expected the rewards of the model in memory" in result.problems[0]
        weights[name] = kept
        save_file(weights, finished.model / "model.safetensors", metadata={"format": "pt"})


def test_rows_that_another_begins_with_are_places_in_it():
    rows = [[1, 2], [1, 2, 3, 4], [1, 5], [1, 2, 3], [1, 2, 9]]
    outputs = [float(value) for number in range(5) for value in (number, -number)]
    whole, reads, ordered = whole_rows(rows, outputs)
    assert whole == [[1, 5], [1, 2, 9], [1, 2, 3, 4]] and reads == [[1], [2], [3, 2, 1]]
    assert ordered == [2, -2, 4, -4, 1, -1, 3, -3, 0, 0]


def test_an_adapter(base, rows, tmp_path):
    """Trained, verified, resumed to the same bits, merged; how it reads an answer stands in a file of its own."""
    flags = base | {"use_peft": "true", "lora_r": 4, "learning_rate": 1e-2, "verify_saved_model": "true"}
    adapter = run(flags | {"merge_adapter": "true"}, tmp_path / "whole")
    assert json.loads((adapter.model / "reward_statistics.json").read_text())["process"] == PROCESS
    assert json.loads((adapter.model / "adapter_config.json").read_text())["task_type"] == "TOKEN_CLS"
    merged = adapter.output / "merged_checkpoint"
    assert config_of(merged)["process"] == PROCESS
    assert config_of(merged)["architectures"] == ["LlamaForTokenClassification"]
    for folder in (adapter.model, merged):
        assert json.loads((folder / "verification.json").read_text())["passed"]
    scorer = StepScorer.from_pretrained(str(adapter.model), device="cpu")
    for line, row in held_out_rows(adapter, rows):
        assert line["steps"] == pytest.approx(plain_steps(merged, row["prompt"], row["completions"]), abs=1e-5)
        assert line["steps"] == pytest.approx(scorer.score(row["prompt"], row["completions"]), abs=1e-5)
    output = stopped_after(adapter, 5, tmp_path / "output")
    resumed = run(flags | {"verify_saved_model": "false"}, output, resume_from_checkpoint="true")
    found, expected = (load_file(of.model / "adapter_model.safetensors") for of in (resumed, adapter))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())


# --- what it begins with ----------------------------------------------------------------------------------------------


def test_a_process_model_goes_on_with_its_head_and_its_separator(base, whole, rows, tmp_path, caplog):
    line = run(base | {"step_separator": "\\n", "max_steps": 1}, tmp_path / "line")
    assert config_of(line.model)["process"] == PROCESS | {"separator": "\n"}
    flags = base | {"model_name": line.model, "learning_rate": 0, "max_steps": 1}
    further = run(flags, tmp_path / "further")
    assert "Score head: the one that the checkpoint has." in caplog.text
    assert same_weights(further.model, line.model)
    assert config_of(further.model)["process"] == PROCESS | {"separator": "\n"}
    run(flags | {"step_separator": "\\n\\n"}, tmp_path / "other")
    assert "--step_separator: another one than the model was trained with" in caplog.text


@pytest.mark.parametrize("outputs", ["one", "two"])
def test_of_a_reward_model_the_head_is_new(outputs, base, rows, tmp_path, caplog):
    """Also where its head has two outputs, which would fit."""
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}, surely.", "rejected": f"perhaps {n}"} for n in range(20)]
    flags = base | {"train_set_path": write_rows(tmp_path / "pairs.jsonl", pairs), "max_steps": 1}
    if outputs == "one":
        before = train(flags, tmp_path / "before", main=rm.main)
    else:
        import rm_regression

        rated = [
            {"prompt": row["prompt"], "response": row["chosen"], "a": 1, "b": n % 2} for n, row in enumerate(pairs)
        ]
        path = write_rows(tmp_path / "rated.jsonl", rated)
        ranges = {"attributes": "a,b", "label_ranges": "a=0:2,b=0:1"}
        before = train(flags | ranges | {"train_set_path": path}, tmp_path / "before", main=rm_regression.main)
    caplog.clear()
    after = run(base | {"model_name": before.model, "learning_rate": 0, "max_steps": 1}, tmp_path / "after")
    assert "that of the checkpoint reads whole answers, and is left out" in caplog.text
    assert "Score head: new (score.bias, score.weight)" in caplog.text
    found, expected = weights_of(after.model), weights_of(before.model)
    assert all(torch.equal(found[name], expected[name]) for name in found if not name.startswith("score."))
    assert found["score.weight"].shape == (2, 64) and not found["score.bias"].any()
    if outputs == "two":
        assert not torch.equal(found["score.weight"], expected["score.weight"])
    config = config_of(after.model)
    assert config["id2label"] == {"0": "wrong", "1": "right"}
    assert not {"label_ranges", "reward_weights", "problem_type"} & {name for name in config if config[name]}
    assert run(base | {"model_name": after.model, "max_steps": 1}, tmp_path / "again").losses()


def test_other_scripts_refuse_a_process_model(base, whole, tmp_path):
    with pytest.raises(UserError, match=r"found a token classifier such as rm_process\.py saves"):
        train(base | {"model_name": whole.model}, tmp_path / "output", main=rm.main)


def test_an_encoder_reads_whole_answers_alone(base, rows, tmp_path):
    """BERT would see the steps behind the one that it judges."""
    answers = outcome_rows(40, seed=3)
    bert = tiny_model(tmp_path / "bert", "bert", "bert", [*rows, *answers])  # which knows the words of both
    flags = base | {"model_name": bert, "max_steps": 3, "max_length": 128}
    with pytest.raises(UserError, match=r"expected a decoder, which .*, found an encoder"):
        run(flags, tmp_path / "refused")
    path = write_rows(tmp_path / "answers.jsonl", answers)
    finished = run(flags | {"train_set_path": path, "verify_saved_model": "true"}, tmp_path / "output")
    assert config_of(finished.model)["architectures"] == ["BertForTokenClassification"]
    assert config_of(finished.model)["process"]["outcome"] is True
    assert json.loads((finished.model / "verification.json").read_text())["passed"]


def test_a_decoder_with_a_class_of_its_own_in_padded_rows(base, rows, tmp_path):
    """GPT-2's token classifier gives the logits of all tokens."""
    gpt2 = tiny_model(tmp_path / "gpt2", "gpt2", "chatml", rows)
    finished = run(base | {"model_name": gpt2, "max_steps": 3, "verify_saved_model": "true"}, tmp_path / "output")
    assert config_of(finished.model)["architectures"] == ["GPT2ForTokenClassification"]
    assert json.loads((finished.model / "verification.json").read_text())["passed"]
    for line, row in held_out_rows(finished, rows):
        assert line["steps"] == pytest.approx(plain_steps(finished.model, row["prompt"], row["completions"]), abs=1e-5)


def test_an_outcome_model(base, tmp_path):
    """Whole answers with one label each."""
    rows = outcome_rows(40, seed=3)
    finished = run(base | {"train_set_path": write_rows(tmp_path / "rows.jsonl", rows)}, tmp_path / "output")
    assert config_of(finished.model)["process"] == PROCESS | {"outcome": True}
    figures = json.loads((finished.output / "evaluation.json").read_text())
    assert figures["steps"]["all"] == figures["solutions"] == figures["steps"]["labelled"]
    for line, row in held_out_rows(finished, rows):
        assert line["steps"] == pytest.approx(plain_steps(finished.model, row["prompt"], [row["response"]]), abs=1e-5)

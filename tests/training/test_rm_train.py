"""rm.py from end to end on tiny models: what it leaves behind, and that a step is the same step everywhere."""

import json
import logging
import math
import shutil
from concurrent.futures import Future
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import filter_repo_objects, httpx
from processes import fork
from runs import ROOT, Run, as_argv, assert_same_figures, plain_rewards, train, weights_of, write_rows
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    pipeline,
)

from reward_modeling.common.errors import UserError
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.loading import load_reward_model
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer
from reward_modeling.training.trainer import RewardTrainer

LOGGED = (
    "loss",
    "accuracy",
    "margin",
    "reward_mean",
    "reward_std",
    "grad_norm",
    "learning_rate",
    "tokens_per_second",
    "pairs_per_second",
    "tokens_saved",
)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return learnable_preferences(40, seed=1)


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    """Flags of a short run that logs every step."""
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 256,
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "eval_size": 10,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "verify_saved_model": "false",  # tests/checkpoints/test_verification.py
        "use_cpu": "true",
    }


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory) -> Run:
    """The reference: one process, shared prefixes, the defaults otherwise."""
    return train(base, tmp_path_factory.mktemp("runs") / "output")


def answers_of(run: Run, rows: list[dict]) -> tuple[list[list[dict]], list[float]]:
    """The held-out conversations, and the rewards that the last evaluation of the run gave them."""
    groups = run.trainer.eval_dataset.groups
    conversations, rewards = [], []
    for (group, pair), chosen, rejected, *_ in run.evaluations[-1]:
        row = rows[int(groups[group]["where"][pair].rpartition(":")[2]) - 1]
        conversations += [row["chosen"], row["rejected"]]
        rewards += [chosen, rejected]
    return conversations, rewards


# --- what a run leaves behind -------------------------------------------------------------------------------


def test_files(finished, base):
    names = {path.name for path in finished.model.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {"chat_template.jinja", "script_arguments.json"} <= names
    assert not [name for name in names if name.endswith(".bin")]
    config = json.loads((finished.model / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(finished.model)
    assert config["architectures"] == ["GemmaForSequenceClassification"]
    assert AutoConfig.from_pretrained(finished.model).num_labels == 1
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base["model_name"]).chat_template
    given = json.loads((finished.model / "script_arguments.json").read_text())
    assert given.keys() == {*base, "output_path"}
    assert {name: str(value).lower() for name, value in given.items()} == {
        name: str({"learning_rate": 0.001, "logging_steps": 1.0}.get(name, value)).lower()
        for name, value in (base | {"output_path": finished.output}).items()
    }


def test_log_history(finished):
    steps = [entry for entry in finished.history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    for entry in steps:
        assert set(LOGGED) <= entry.keys()
        assert all(math.isfinite(entry[name]) for name in LOGGED)
        assert 0 <= entry["accuracy"] <= 1
        assert 0 < entry["tokens_saved"] < 1
    assert finished.last("train_runtime") > 0
    assert {"eval_loss", "eval_accuracy", "eval_margin", "eval_pairs"} <= finished.history[-2].keys()
    assert finished.state["global_step"] == finished.state["max_steps"] == 6


def test_data_report(finished, rows):
    report = json.loads((finished.output / "data_report.json").read_text())
    assert report.keys() == {"train"}
    assert report["train"]["rows_read"] == len(rows)


def test_rewards_in_plain_transformers(finished, rows):
    """The trainer's own rewards, from packed rows with shared prefixes, are those that a user gets."""
    conversations, rewards = answers_of(finished, rows)
    assert len(rewards) == 2 * finished.last("eval_pairs") > 6
    assert len(set(rewards)) > 6
    for together in (True, False):
        assert plain_rewards(finished.model, conversations, together) == pytest.approx(rewards, abs=1e-4)


def test_rewards_in_a_pipeline(finished, rows):
    conversations, rewards = answers_of(finished, rows)
    classify = pipeline("text-classification", model=str(finished.model), dtype=torch.float32, device="cpu")
    texts = classify.tokenizer.apply_chat_template(conversations, tokenize=False)
    for batch_size in (1, 4):
        results = classify(texts, function_to_apply="none", add_special_tokens=False, batch_size=batch_size)
        assert [result["score"] for result in results] == pytest.approx(rewards, abs=1e-4)


def test_held_out_prompts_are_not_trained_on(finished, rows):
    def prompts(dataset):
        where = [place for group in dataset.groups["where"] for place in group]
        return [json.dumps(rows[int(place.rpartition(":")[2]) - 1]["chosen"][:-1]) for place in where]

    trained, held_out = prompts(finished.trainer.train_dataset), prompts(finished.trainer.eval_dataset)
    assert not set(trained) & set(held_out)
    assert len(trained) + len(held_out) == len(rows)
    assert 0 < len(held_out) <= 10
    assert finished.last("eval_pairs") == len(held_out)


def test_evaluation_set_of_its_own(base, tmp_path):
    others = learnable_preferences(6, seed=99)
    path = write_rows(tmp_path / "eval.jsonl", others)
    run = train(base, tmp_path / "output", eval_set_path=path, max_steps=2, eval_on_start="true")
    evaluations = [entry for entry in run.history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [0, 2]
    assert evaluations[-1]["eval_pairs"] == len(others)
    report = json.loads((run.output / "data_report.json").read_text())
    assert report["eval"]["rows_read"] == len(others)


def test_no_evaluation(base, rows, tmp_path):
    run = train(base, tmp_path / "output", eval_size=0, max_steps=1)
    assert not [entry for entry in run.history if "eval_loss" in entry]
    assert len(run.trainer.train_dataset) == len(rows)


def test_evaluation_and_checkpoints_every_few_steps(base, tmp_path):
    run = train(base, tmp_path / "output", save_every_steps=2, eval_every_steps=3)
    assert sorted(path.name for path in run.output.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    ]
    assert [entry["step"] for entry in run.history if "eval_loss" in entry] == [3, 6]


# --- the same step everywhere -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"batching": "packed"},
        {"batching": "padded", "attn_implementation": "eager"},
        {"max_tokens_per_micro_batch": 512},
        {"max_tokens_per_micro_batch": 100_000},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"gradient_checkpointing": "false"},
        {"dataloader_num_workers": 1},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_losses_do_not_depend_on_how_a_step_is_computed(finished, base, tmp_path, changes):
    run = train(base, tmp_path / "output", **changes)
    assert len(run.losses()) == 6
    assert run.losses() == pytest.approx(finished.losses(), abs=1e-5)
    for name in ("grad_norm", "accuracy", "margin", "reward_mean", "reward_std"):
        expected = [entry[name] for entry in finished.history if "loss" in entry]
        assert [entry[name] for entry in run.history if "loss" in entry] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert run.last("eval_loss") == pytest.approx(finished.last("eval_loss"), abs=1e-5)


def test_another_seed_gives_other_steps(finished, base, tmp_path):
    """The negative control of the test above."""
    run = train(base, tmp_path / "output", data_seed=7, max_steps=2)
    assert run.losses()[0] != pytest.approx(finished.losses()[0], abs=1e-4)


def test_resume_continues_as_if_undisturbed(base, tmp_path):
    """From a checkpoint in the middle of the second epoch."""
    flags = base | {"per_device_train_batch_size": 32, "max_steps": 7, "save_every_steps": 5}
    flags["save_strategy"] = "steps"
    undisturbed = train(flags, tmp_path / "undisturbed")
    assert undisturbed.state["epoch"] > 1
    again = Path(shutil.copytree(undisturbed.output, tmp_path / "again"))
    shutil.rmtree(again / "last_checkpoint")
    shutil.rmtree(again / "checkpoint-7")
    (again / "trainer_state.json").unlink()
    resumed = train(flags, again, resume_from_checkpoint="true")
    assert resumed.losses() == pytest.approx(undisturbed.losses(), abs=1e-6)
    weights, expected = (weights_of(run.model) for run in (resumed, undisturbed))
    assert all(torch.allclose(weights[name], expected[name], atol=1e-6) for name in expected)


def test_two_processes_take_the_same_steps(base, tmp_path):
    """Two pairs a step: many steps are one group, so that one of the processes has none of its own."""
    alone = train(base, tmp_path / "alone", per_device_train_batch_size=2, max_steps=10)
    chunks = [
        sum(chunk.counted for batch in step[1] for chunk in batch)
        for (step,) in alone.trainer.get_train_dataloader().batch_sampler
    ]
    assert 1 in chunks[:10]
    flags = base | {"per_device_train_batch_size": 1, "max_steps": 10, "output_path": tmp_path / "two"}
    process = fork(ROOT / "rm.py", as_argv(flags), tmp_path, processes=2)
    two = Run(tmp_path / "two")
    assert two.losses() == pytest.approx(alone.losses(), abs=1e-5)
    for name in ("eval_loss", "eval_accuracy", "eval_reward_mean", "accuracy", "margin", "reward_std"):
        assert two.last(name) == pytest.approx(alone.last(name), abs=1e-4)
    assert two.last("eval_pairs") == alone.last("eval_pairs")
    assert process.stdout.count("One pair as the model sees it") == 1
    assert_same_figures(two, alone)
    weights, expected = (weights_of(run.model) for run in (two, alone))
    assert all(torch.allclose(weights[name], expected[name], atol=1e-4) for name in expected)


# --- models -------------------------------------------------------------------------------------------------


def loaded(folder: Path | str):
    config, tokenizer = load_config(str(folder)), load_tokenizer(str(folder))
    return load_reward_model(str(folder), config, tokenizer, attn_implementation=SHARED_PREFIX)


def test_a_reward_model_keeps_its_head(finished, caplog):
    model = loaded(finished.model)
    assert "Score head: the one that the checkpoint has." in caplog.text
    saved = weights_of(finished.model)
    assert torch.equal(model.score.weight, saved["score.weight"])
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items() if name in saved)


def test_training_goes_on_from_a_reward_model(finished, base, tmp_path):
    """A learning rate of zero: what is saved is what was there."""
    run = train(base, tmp_path / "output", model_name=finished.model, learning_rate=0, max_steps=1)
    before, after = (weights_of(folder) for folder in (finished.model, run.model))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert run.last("eval_loss") == pytest.approx(finished.last("eval_loss"), abs=1e-6)


def test_a_language_model_gets_a_new_head(gemma_folder, caplog):
    torch.manual_seed(0)
    heads = torch.cat([loaded(gemma_folder).score.weight.detach().flatten() for _ in range(20)])
    assert "Score head: new (score.weight)." in caplog.text
    assert heads.std().item() == pytest.approx(1 / math.sqrt(64 + 1), rel=0.1)
    assert abs(heads.mean().item()) < 0.02


@pytest.fixture
def llama3_folder(tmp_path, rows) -> Path:
    """A Llama whose tokenizer has no pad token, and whose embeddings have no room for one."""
    texts = [row["chosen"][-1]["content"] for row in rows]
    tokenizer = train_tokenizer(texts, 400, **TOKENIZER_STYLES["llama3"])
    return build_tiny_checkpoint(
        tmp_path / "llama3", tokenizer, tiny_config("llama", len(tokenizer), **token_ids(tokenizer))
    )


def test_tokenizer_without_a_pad_token(llama3_folder, base, rows, tmp_path, caplog):
    before = AutoTokenizer.from_pretrained(llama3_folder)
    assert before.pad_token is None
    run = train(base, tmp_path / "output", model_name=llama3_folder, max_steps=2)
    assert "Pad token: the tokenizer has none; now it is '<pad>'." in caplog.text
    assert f"Embeddings: resized to {len(before) + 1}" in caplog.text
    after = AutoTokenizer.from_pretrained(run.model)
    config = AutoConfig.from_pretrained(run.model)
    assert (after.pad_token, after.pad_token_id, len(after)) == ("<pad>", len(before), len(before) + 1)
    assert (config.pad_token_id, config.vocab_size) == (after.pad_token_id, len(after))
    assert weights_of(run.model)["model.embed_tokens.weight"].shape[0] == len(after)
    conversations, rewards = answers_of(run, rows)
    for together in (True, False):
        assert plain_rewards(run.model, conversations, together) == pytest.approx(rewards, abs=1e-4)


def test_encoder_trains_padded(gemma_folder, base, rows, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(gemma_folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes)
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    run = train(base, tmp_path / "output", model_name=tmp_path / "bert", max_steps=2)
    assert "Batching: padded, since bert is not a causal decoder" in caplog.text
    assert run.trainer.collator.batching == "padded"
    assert len(run.losses()) == 2
    conversations, rewards = answers_of(run, rows)
    assert plain_rewards(run.model, conversations, together=True) == pytest.approx(rewards, abs=1e-4)


# --- losses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss_margin": "none"},
        {"loss_margin": "scores"},
        {"center_rewards_coefficient": 0.3},
        {"label_smoothing": 0.2},
        {"center_rewards_coefficient": 0.01, "label_smoothing": 0.1},
    ],
    ids=str,
)
def test_first_loss_is_the_formula(finished, base, rows, tmp_path, changes):
    """All the pairs in one step, from a known reward model: the logged loss, worked out by hand."""
    some = [
        row | {"margin": 0.25 * (number % 3), "chosen_score": 4.0, "rejected_score": 3.5 - number % 2}
        for number, row in enumerate(rows[:12])
    ]
    path = write_rows(tmp_path / "margins.jsonl", some)
    flags = base | {"model_name": finished.model, "train_set_path": path, "max_steps": 1, "eval_size": 0}
    run = train(flags, tmp_path / "output", per_device_train_batch_size=100, **changes)
    chosen = plain_rewards(finished.model, [row["chosen"] for row in some], together=True)
    rejected = plain_rewards(finished.model, [row["rejected"] for row in some], together=True)
    margins = {"scores": lambda row: row["chosen_score"] - row["rejected_score"], "none": lambda row: 0.0}
    margin = margins.get(changes.get("loss_margin"), lambda row: row["margin"])
    smoothing, center = changes.get("label_smoothing", 0.0), changes.get("center_rewards_coefficient", 0.0)
    total = 0.0
    for row, winner, loser in zip(some, chosen, rejected, strict=True):
        difference = winner - loser - margin(row)
        total += (1 - smoothing) * math.log1p(math.exp(-difference)) + smoothing * math.log1p(math.exp(difference))
        total += center * (winner + loser) ** 2
    assert run.losses()[0] == pytest.approx(total / len(some), abs=1e-5)


# --- the end of a run -----------------------------------------------------------------------------------------------


def test_logging_level_shows_the_end(base, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = train(base, tmp_path / "output", max_steps=1, eval_size=0)
    assert f"Done: the reward model is in {run.model}" in caplog.text
    assert "8 a step" in caplog.text and "shared_prefix batches" in caplog.text


@pytest.fixture
def uploads(monkeypatch) -> list[tuple[str, str, set[str]]]:
    """What the Hub, which cannot be had here, is asked for: from where, to where, and which files."""
    asked = []

    def upload(_, *, folder_path, path_in_repo="", ignore_patterns=None, run_as_future=False, **options):
        assert (options["repo_id"], options["token"]) == ("me/reward", "hf_secret")
        files = [path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*") if path.is_file()]
        asked.append((str(folder_path), path_in_repo, set(filter_repo_objects(files, ignore_patterns=ignore_patterns))))
        done = Future()
        done.set_result(None)
        return done if run_as_future else None

    monkeypatch.setattr(RewardTrainer, "init_hf_repo", lambda self, **_: setattr(self, "hub_model_id", "me/reward"))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return asked


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint"])
def test_what_is_pushed(strategy, base, tmp_path, uploads):
    """The final model with its card, and on the way what transformers pushes: no logs, no optimizer, no token."""
    flags = base | {"max_steps": 2, "push_to_hub": "true", "hub_token": "hf_secret", "hub_strategy": strategy}
    run = train(flags, tmp_path / "output", save_every_steps=1)
    source, target, files = uploads.pop()
    assert (source, target) == (str(run.model), "")
    assert files >= {"README.md", "config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert not files & {"optimizer.pt", "trainer_state.json"}
    assert "base_model" not in (run.model / "README.md").read_text().split("---")[1]  # a folder is none of the Hub's
    assert '"me/reward"' in (run.model / "README.md").read_text()
    places = [(Path(source).name, target) for source, target, _ in uploads]
    saved = [f"checkpoint-{step}" for step in (1, 2)]
    on_the_way = [(name, target) for name in saved for target in ("", "last-checkpoint")]
    expected = {"end": [], "every_save": [(name, "") for name in saved], "checkpoint": on_the_way}
    assert places == expected[strategy]
    for _, target, files in uploads:
        model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
        assert files == model if target == "" else files > model | {"optimizer.pt", "trainer_state.json"}
    assert not list(run.output.glob("*.safetensors")) and not list(run.output.glob("*.bin"))
    for path in run.output.rglob("*"):
        assert path.is_dir() or b"hf_secret" not in path.read_bytes(), path


def test_a_hub_that_refuses_costs_no_report(base, tmp_path, uploads, monkeypatch):
    def refuse(_, **options):
        raise HfHubHTTPError("403 Forbidden", response=Mock())

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    flags = base | {"max_steps": 1, "push_to_hub": "true", "hub_token": "hf_secret", "hub_strategy": "end"}
    output = tmp_path / "output"
    with pytest.raises(UserError, match=f"403 Forbidden\nThe model is complete in {output / 'last_checkpoint'}"):
        train(flags, output)
    assert (output / "report.html").is_file() and (output / "last_checkpoint" / "model.safetensors").is_file()


def test_a_hub_that_is_not_reached_is_told_of_before_training(base, tmp_path, monkeypatch):
    def unreached(_, *args, **options):
        raise httpx.ConnectError("Connection refused")

    monkeypatch.setattr(HfApi, "create_repo", unreached)
    flags = base | {"max_steps": 1, "push_to_hub": "true", "hub_token": "hf_secret"}
    with pytest.raises(UserError, match=r"--push_to_hub: expected a Hub .* ConnectError: Connection refused"):
        train(flags, tmp_path / "output")
    assert not (tmp_path / "output" / "trainer_state.json").exists()

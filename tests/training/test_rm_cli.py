"""The command line of rm.py: its flags and defaults, and one clear message for every mistake of the user's."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState
from processes import fork
from runs import ROOT, without_pages
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

import rm
from reward_modeling.checkpoints.output_folder import checkpoint_to_resume, only_run_in
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.atomic import write_contents
from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import help_of
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training import job
from reward_modeling.training.arguments import arguments_of


@pytest.fixture(scope="module")
def preferences(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in learnable_preferences(8, seed=1)))
    return str(path)


@pytest.fixture
def flags(gemma_folder, preferences, tmp_path) -> dict[str, str]:
    """A command line that works and takes no time."""
    return {
        "model_name": gemma_folder,
        "train_set_path": preferences,
        "output_path": str(tmp_path / "output"),
        "max_length": "256",
        "max_steps": "1",
        "per_device_train_batch_size": "4",
        "gradient_accumulation_steps": "1",
        "eval_size": "0",
        "report_to": "none",
        "save_strategy": "no",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": "1",
    }


def as_argv(flags: dict[str, str]) -> list[str]:
    return [token for name, value in flags.items() for token in (f"--{name}", *([value] if value != "" else []))]


@pytest.fixture
def run(flags, monkeypatch):
    """rm.py in this process, with changes to the working flags."""

    def run(*extra: str, **changes: object) -> None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        given = flags | {name: str(value) for name, value in changes.items()}
        monkeypatch.setattr(sys, "argv", ["rm.py", *as_argv(given), *extra])
        without_pages(monkeypatch)
        rm.main()

    return run


@pytest.fixture
def refused(run):
    """The message with which rm.py refuses the changed flags."""

    def refused(*extra: str, **changes: object) -> str:
        with pytest.raises(UserError) as caught:
            run(*extra, **changes)
        return str(caught.value)

    return refused


def shell(flags: dict[str, str], *extra: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """The end of a process of its own that is refused."""
    return fork(ROOT / "rm.py", [*as_argv(flags), *extra], cwd, environment=os.environ | environment, status=2)


def message_of(process) -> str:
    """Standard error of a run that was refused as it should be."""
    assert "Traceback" not in process.stderr
    assert process.stderr.count("error: ") == 1, process.stderr
    return process.stderr[process.stderr.index("error: ") :]


def copy_of(folder: str, tmp_path: Path, name: str = "model") -> Path:
    return Path(shutil.copytree(folder, tmp_path / name))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- flags and defaults -------------------------------------------------------------------------------------


def test_defaults():
    defaults = {field.name: field.default for field in fields(arguments_of(rm.ScriptArguments))}
    promised = {
        "model_name": "google/gemma-2b-it",
        "train_set_path": "weqweasdas/preference_dataset_mix2",
        "eval_set_path": None,
        "eval_size": 500,
        "output_path": "./models/gemma2b_rm",
        "max_length": 4096,
        "overlong": "truncate",
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 32,
        "max_tokens_per_micro_batch": None,
        "batching": "auto",
        "learning_rate": 1e-5,
        "weight_decay": 0.001,
        "num_train_epochs": 1,
        "bf16": None,
        "gradient_checkpointing": True,
        "optim": "adamw_torch_fused",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "save_every_steps": None,
        "eval_every_steps": None,
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "deepspeed": None,
        "report_to": "wandb",
        "preflight_only": False,
        "overwrite_output_dir": False,
        "center_rewards_coefficient": 0.0,
        "label_smoothing": 0.0,
    }
    assert {name: defaults[name] for name in promised} == promised
    assert {"max_steps", "seed", "logging_steps", "resume_from_checkpoint", "fsdp"} <= set(defaults)


def test_defaults_resolved():
    """What the defaults become: float32 on a CPU, 4 x max_length tokens, 3% warm-up, 32 pairs a step."""
    AcceleratorState._reset_state(True)
    args = arguments_of(rm.ScriptArguments)(use_cpu=True, report_to="none")
    assert args.bf16 is False
    assert args.output_dir == args.output_path == "./models/gemma2b_rm"
    assert args.max_tokens == 4 * 4096
    assert args.get_warmup_steps(1000) == 30
    assert (args.pairs_per_step, args.gradient_accumulation_steps) == (32, 1)
    assert (args.save_strategy, args.eval_strategy) == ("epoch", "epoch")
    args = arguments_of(rm.ScriptArguments)(use_cpu=True, report_to="none", save_every_steps=7, eval_every_steps=9)
    assert (args.save_strategy, args.save_steps, args.eval_strategy, args.eval_steps) == ("steps", 7, "steps", 9)


def test_every_own_flag_has_help():
    arguments = arguments_of(rm.ScriptArguments)
    assert all(help_of(arguments, field.name) for field in fields(arguments))


def test_help():
    process = subprocess.run(
        [sys.executable, str(ROOT / "rm.py"), "--help"], capture_output=True, text=True, timeout=120, cwd="/"
    )
    assert process.returncode == 0, process.stderr
    text = " ".join(process.stdout.split())
    for shown in ("google/gemma-2b-it", "weqweasdas/preference_dataset_mix2", "./models/gemma2b_rm", "default: 4096"):
        assert shown in text
    for flag in ("--config", "--max_tokens_per_micro_batch", "--preflight_only", "--help_all", "--learning_rate"):
        assert flag in text
    assert "--adam_beta1" not in text and "--max-length" not in text  # transformers' own, and a second name
    assert "default: None" not in text


def test_help_of_all_flags(capsys):
    with pytest.raises(SystemExit) as end:
        parse_script_arguments(arguments_of(rm.ScriptArguments), ["--help_all"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "--adam_beta1" in text and "--max_tokens_per_micro_batch" in text


def test_config_file_gives_values_and_flags_win(run, tmp_path, flags):
    config = tmp_path / "run.yaml"
    config.write_text("max_length: 128\nlearning_rate: 1e-3\noverwrite_output_dir: true\nsave_every_steps: null\n")
    run("--config", str(config))  # max_length 256 stands on the command line
    given = json.loads((Path(flags["output_path"]) / "last_checkpoint" / "script_arguments.json").read_text())
    assert given["max_length"] == 256
    assert given["learning_rate"] == 1e-3
    assert given["overwrite_output_dir"] is True
    assert "weight_decay" not in given
    assert given["model_name"] == flags["model_name"]


def test_preflight_only_writes_nothing(run, flags, capsys):
    run(preflight_only="true")
    shown = capsys.readouterr().out
    assert not Path(flags["output_path"]).exists()
    for word in (
        "rows read",
        "shared by the answers",
        "Verdict: ",
        "chosen",
        "rejected",
        "the reward is read at token",
    ):
        assert word in shown


def test_all_problems_of_the_preflight_in_one_message(refused, monkeypatch):
    monkeypatch.setattr(job, "run_preflight", lambda *_, **__: ("the table", ["BOS: two.", "pad token: none."]))
    message = refused()
    assert message == "The preflight found what training cannot work with:\n- BOS: two.\n- pad token: none."


def test_preflight_only_on_a_finished_run(run, flags):
    output = Path(flags["output_path"])
    output.mkdir()
    (output / "trainer_state.json").write_text("{}")
    run(preflight_only="true")
    run(preflight_only="true", overwrite_output_dir="true")
    assert contents(output) == {"trainer_state.json": b"{}"}


# --- mistakes, in a shell: status 2, one message, no traceback ----------------------------------------------


def test_shell_unknown_model_and_nothing_left_behind(flags, tmp_path):
    """In a cold process, as a person starts it."""
    command = [sys.executable, ROOT / "rm.py", *as_argv(flags | {"model_name": "./no-model"})]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 2
    message = message_of(process)
    assert "--model_name ./no-model: expected a model in a local folder or on the Hugging Face Hub" in message
    assert "Check the spelling" in message
    assert not Path(flags["output_path"]).exists()


def test_shell_unreachable_hub(flags, tmp_path):
    process = shell(flags | {"model_name": "someone/some-model"}, cwd=tmp_path, HF_HUB_OFFLINE="1")
    message = message_of(process)
    assert "someone/some-model" in message
    assert "connect" in message
    assert "pass a local folder" in message


def test_shell_unreadable_line(flags, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text(Path(flags["train_set_path"]).read_text().splitlines()[0] + '\n{"chosen": \n')
    message = message_of(shell(flags | {"train_set_path": str(broken)}))
    assert f"{broken}:2" in message
    assert "expected one JSON object per line" in message


def test_shell_several_mistakes_at_once(flags):
    changes = {
        "batching": "foo",
        "overlong": "bar",
        "max_length": "0",
        "label_smoothing": "0.7",
        "deepspeed": "no.json",
    }
    message = message_of(shell(flags | changes))
    assert "--batching: expected one of auto, shared_prefix, packed, padded, found 'foo'" in message
    assert "--overlong: expected one of truncate, drop, found 'bar'" in message
    assert "--max_length: expected at least 1, found 0" in message
    assert "--label_smoothing" in message
    assert "--deepspeed no.json" in message


def test_shell_output_folder_in_use(flags):
    output = Path(flags["output_path"])
    (output / "last_checkpoint").mkdir(parents=True)
    (output / "last_checkpoint" / "model.safetensors").write_bytes(b"precious")
    (output / "notes.txt").write_text("mine")
    before = contents(output)
    message = message_of(shell(flags))
    assert f"--output_path {output}: expected a new or an empty folder, found last_checkpoint, notes.txt" in message
    assert "--overwrite_output_dir" in message and "--resume_from_checkpoint true" in message
    assert contents(output) == before


def test_shell_corrupted_weights(flags, tmp_path):
    model = copy_of(flags["model_name"], tmp_path)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    message = message_of(shell(flags | {"model_name": str(model)}))
    assert f"--model_name {model}: expected whole safetensors files, found a broken one" in message
    assert "again" in message


# --- mistakes, in this process ------------------------------------------------------------------------------


def test_unknown_data(refused):
    message = refused(train_set_path="no/such/rows.jsonl")
    assert "no/such/rows.jsonl" in message and "Check the path" in message
    message = refused(eval_set_path="no-such-file.jsonl")
    assert "no-such-file.jsonl" in message
    message = refused(train_set_path="someone/some-data")
    assert "someone/some-data" in message and "HF_HUB_OFFLINE" in message and "local copy" in message


def test_missing_column(refused, tmp_path):
    path = tmp_path / "columns.jsonl"
    path.write_text('{"question": "a", "chosen": "b"}\n')
    message = refused(train_set_path=path)
    assert f"expected columns chosen and rejected in {path}" in message
    assert "question, chosen" in message


def test_nothing_left(refused, tmp_path):
    path = tmp_path / "empty-replies.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": " "}\n')
    message = refused(train_set_path=path)
    assert f"--train_set_path {path}: no row is left to train on" in message
    assert "a reply is empty" in message and f"{path}:1" in message


def test_no_chat_template(refused, gemma_folder, tmp_path):
    model = copy_of(gemma_folder, tmp_path)
    (model / "chat_template.jinja").unlink()
    message = refused(model_name=model)
    assert str(model) in message and "chat template" in message and "--chat_template FILE.jinja" in message


def test_max_length_beyond_the_model(refused, run):
    run(max_length=1024, preflight_only="true")  # as many positions as the model was made for
    message = refused(max_length=1025)
    assert "expected at most 1024" in message and "found 1025" in message and "--max_length 1024 or less" in message


def test_unknown_flags_suggest_the_near_one(refused):
    message = refused("--max_lenght", "3", "--bathcing=padded", "--zzz", "1")
    assert "unknown flag --max_lenght; did you mean --max_length?" in message
    assert "unknown flag --bathcing; did you mean --batching?" in message
    assert "unknown flag --zzz" in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_length", "abc", ["--max_length", "int", "'abc'"]),
        ("bf16", "maybe", ["--bf16", "expected true or false", "maybe"]),
        ("learning_rate", "high", ["--learning_rate", "float", "'high'"]),
        ("learning_rate", "-1", ["--learning_rate", "0 or more", "-1"]),
        ("optim", "foo", ["foo", "adamw_torch_fused"]),
        ("lr_scheduler_type", "foo", ["foo", "cosine"]),
        ("eval_strategy", "foo", ["foo", "epoch"]),
        ("report_to", "foo", ["--report_to", "'foo'", "wandb"]),
        ("loss_margin", "foo", ["--loss_margin", "auto, scores, strength, none", "'foo'"]),
        ("model_dtype", "float8", ["--model_dtype", "float32, bfloat16", "'float8'"]),
        ("eval_size", "-1", ["--eval_size", "0 or more", "-1"]),
        ("per_device_eval_batch_size", "0", ["--per_device_eval_batch_size", "at least 1", "0"]),
        ("gradient_accumulation_steps", "0", ["--gradient_accumulation_steps", "at least 1", "0"]),
        ("save_every_steps", "0", ["--save_every_steps", "at least 1", "0"]),
        ("save_steps", "7", ["--save_steps: expected --save_strategy steps beside it", "found 7 alone"]),
        ("eval_steps", "7", ["--eval_steps: expected --eval_strategy steps beside it", "found 7 alone"]),
        ("num_proc", "0", ["--num_proc", "at least 1", "0"]),
        ("label_smoothing", "0.5", ["--label_smoothing", "below 0.5"]),
        ("label_smoothing_factor", "0.1", ["--label_smoothing_factor", "pass --label_smoothing"]),
        ("neftune_noise_alpha", "5", ["--neftune_noise_alpha: expected None, found 5.0", "length of a row"]),
        ("train_sampling_strategy", "group_by_length", ["expected random, found 'group_by_length'", "by tokens"]),
        ("enable_jit_checkpoint", "true", ["--enable_jit_checkpoint: expected false, found true", "at SIGTERM"]),
        (
            "max_tokens_per_micro_batch",
            "300",
            ["--max_tokens_per_micro_batch", "at least 512", "2 x max_length", "300"],
        ),
    ],
)
def test_wrong_values(refused, name, value, expected):
    message = refused(**{name: value})
    assert all(words in message for words in expected), message


def test_flag_without_value_and_stray_word(refused):
    assert "expected one argument" in refused("--max_grad_norm")
    assert "extra" in refused("--seed", "1", "extra")


@pytest.mark.parametrize(
    ("content", "found"), [("{no", "expected JSON"), ("[1]", "found a list"), ("", "expected JSON")]
)
def test_deepspeed_file_is_no_json(refused, tmp_path, content, found):
    path = tmp_path / "deepspeed.json"
    path.write_text(content)
    message = refused(deepspeed=path)
    assert f"--deepspeed {path}" in message and found in message


def test_deepspeed_file_is_missing(refused, tmp_path):
    message = refused(deepspeed=tmp_path / "none.json")
    assert str(tmp_path / "none.json") in message and "No such file" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max_lenght: 3\n", "unknown key 'max_lenght'; did you mean max_length?"),
        ("- max_length\n", "expected a mapping of flags to values, found a list"),
        ("max_length: [\n", "expected YAML"),
        ("seed: many\n", "--seed"),
    ],
)
def test_config_file_mistakes(refused, tmp_path, content, expected):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    assert expected in refused("--config", str(path))


def test_config_file_is_missing(refused):
    message = refused("--config", "no-such.yaml")
    assert "--config no-such.yaml" in message and "No such file" in message


def test_half_the_weights_are_missing(refused, gemma_folder, tmp_path):
    model = copy_of(gemma_folder, tmp_path)
    weights = load_file(model / "model.safetensors")
    names = sorted(weights)[: len(weights) // 2]
    save_file({name: weights[name].clone() for name in names}, model / "model.safetensors", {"format": "pt"})
    message = refused(model_name=model)
    assert f"--model_name {model}: expected all the weights of GemmaForSequenceClassification" in message
    assert "incomplete" in message


def test_weights_of_another_shape(refused, gemma_folder, tmp_path):
    model = copy_of(gemma_folder, tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    message = refused(model_name=model)
    assert "mlp." in message and "64" in message and "128" in message


@pytest.mark.parametrize("removed", ["model.safetensors", "config.json"])
def test_model_folder_lacks_a_file(refused, gemma_folder, tmp_path, removed):
    model = copy_of(gemma_folder, tmp_path)
    (model / removed).unlink()
    assert f"--model_name {model}" in refused(model_name=model)


def test_model_folder_lacks_its_tokenizer(refused, gemma_folder, tmp_path):
    """transformers itself would go on with an empty vocabulary."""
    model = copy_of(gemma_folder, tmp_path)
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()
    message = refused(model_name=model)
    assert f"--model_name {model}: expected a tokenizer (tokenizer.json)" in message


def test_classifier_of_three_labels(refused, gemma_folder, tmp_path):
    model = copy_of(gemma_folder, tmp_path)
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": ["GemmaForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}
    config |= {"label2id": {"a": 0, "b": 1, "c": 2}}
    (model / "config.json").write_text(json.dumps(config))
    message = refused(model_name=model)
    assert "expected a causal language model or a reward model with one score" in message
    assert "a classifier with 3 labels" in message


@pytest.mark.parametrize("batching", ["shared_prefix", "packed"])
def test_encoder_cannot_be_packed(refused, gemma_folder, tmp_path, batching):
    model = copy_of(gemma_folder, tmp_path)
    sizes = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32, num_labels=1)).save_pretrained(model)
    message = refused(model_name=model, batching=batching)
    assert f"--batching {batching}: bert is not a causal decoder" in message
    assert "Pass --batching padded or auto" in message


def test_unknown_attention(refused):
    assert "--attn_implementation foo" in refused(batching="padded", attn_implementation="foo")


# --- the output folder --------------------------------------------------------------------------------------


def test_output_path_is_a_file(refused, preferences):
    assert "expected a folder, found the file" in refused(output_path=preferences)
    assert "expected a folder, found the file" in refused(output_path=f"{preferences}/below")


def test_output_path_that_cannot_be_made():
    """Modes tell root that it may write everywhere; a read-only mount says otherwise."""
    message = "/proc/nowhere/below: expected a folder that can be made"
    with pytest.raises(UserError, match=message), only_run_in("/proc/nowhere/below", process_index=0):
        pass


def test_resume_from_what_is_no_checkpoint(refused, gemma_folder, tmp_path):
    for path in (tmp_path / "none", gemma_folder):
        message = refused(resume_from_checkpoint=path)
        assert f"--resume_from_checkpoint {path}: expected true or a checkpoint-N folder" in message


def test_overwrite_removes_only_what_rm_wrote(run, flags):
    output = Path(flags["output_path"])
    ours = ("checkpoint-7/model.safetensors", "last_checkpoint/old.txt", "evaluation.json", "eval_scores.jsonl")
    for name in (*ours, "mine/notes.txt", "notes.txt"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("from before")
    for name in ("trainer_state.json", ".unfinished-report.html"):
        (output / name).write_text("{}")
    run(overwrite_output_dir="true")
    assert sorted(path.name for path in output.iterdir()) == [
        "data_report.json",
        "last_checkpoint",
        "mine",
        "notes.txt",
        "preflight.txt",
        "report.html",
        "run.json",
        "trainer_state.json",
    ]
    assert (output / "mine" / "notes.txt").read_text() == "from before"
    assert not (output / "last_checkpoint" / "old.txt").exists()


def test_overwrite_touches_nothing_before_all_checks_have_passed(refused, flags, tmp_path):
    output = Path(flags["output_path"])
    (output / "last_checkpoint").mkdir(parents=True)
    (output / "last_checkpoint" / "model.safetensors").write_bytes(b"precious")
    before = contents(output)
    refused(overwrite_output_dir="true", model_name="no-such-model")
    refused(overwrite_output_dir="true", train_set_path="no-such-file.jsonl")
    refused(overwrite_output_dir="true", max_length=5000)
    assert contents(output) == before


def test_the_model_that_is_read_is_not_overwritten(refused, flags, gemma_folder):
    output = Path(flags["output_path"])
    shutil.copytree(gemma_folder, output / "last_checkpoint")
    before = contents(output)
    message = refused(
        overwrite_output_dir="true", model_name=output / "last_checkpoint", train_set_path="not-read.jsonl"
    )
    assert "--overwrite_output_dir: expected an --output_path without the model that is read" in message
    assert contents(output) == before


def test_second_try_after_a_mistake_needs_no_overwrite(refused, run, flags, gemma_folder, tmp_path):
    """A run that was refused late has left its data_report.json, and nothing else."""
    model = copy_of(gemma_folder, tmp_path)
    (model / "model.safetensors").unlink()
    refused(model_name=model)
    assert list(contents(Path(flags["output_path"]))) == ["data_report.json"]
    run()
    assert (Path(flags["output_path"]) / "last_checkpoint" / "model.safetensors").is_file()


# --- evaluation sets, scores, resume ------------------------------------------------------------------------


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_evaluation_rows_with_prompts_of_the_training_set(run, tmp_path, caplog):
    rows = learnable_preferences(30, seed=0)
    overlapping = write_rows(tmp_path / "eval.jsonl", rows[:20])
    run(
        train_set_path=write_rows(tmp_path / "train.jsonl", rows),
        eval_set_path=overlapping,
        max_steps=1,
        eval_strategy="no",
    )
    assert "20 evaluation rows have prompts of the training set" in caplog.text
    report = json.loads(next(tmp_path.rglob("data_report.json")).read_text())
    assert report["eval"]["notes"]["rows whose prompt is also trained on"] == 20


def test_an_evaluation_set_without_a_usable_row(refused, tmp_path):
    rows = [row | {"rejected": row["chosen"]} for row in learnable_preferences(5, seed=1)]
    message = refused(eval_set_path=write_rows(tmp_path / "eval.jsonl", rows))
    assert "--eval_set_path" in message
    assert "no row is left to evaluate on" in message


def test_a_margin_of_scores_needs_scores(refused):
    assert "chosen_score and rejected_score" in refused(loss_margin="scores")


def test_resume_from_elsewhere_does_not_write_over_another_run(refused, tmp_path):
    checkpoint = tmp_path / "A" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    write_contents(checkpoint)
    other = tmp_path / "B" / "last_checkpoint"
    other.mkdir(parents=True)
    message = refused(resume_from_checkpoint=checkpoint, output_path=other.parent)
    assert "found last_checkpoint in it" in message


def test_an_incomplete_checkpoint_is_passed_over(tmp_path):
    for number, complete in ((4, True), (9, False)):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
            write_contents(tmp_path / f"checkpoint-{number}")
    assert checkpoint_to_resume(str(tmp_path), "true") == str(tmp_path / "checkpoint-4")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("seed", -1),
        ("data_seed", 2**40),
        ("learning_rate", "nan"),
        ("weight_decay", -1),
        ("max_steps", 0),
        ("metric_for_best_model", "nope"),
        ("save_strategy", "best"),
    ],
)
def test_values_that_cannot_work_are_refused_at_once(refused, flag, value):
    assert f"--{flag}" in refused(**{flag: value})

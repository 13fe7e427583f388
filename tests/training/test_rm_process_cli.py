"""The command line of rm_process.py: its flags and defaults, and one clear message for every mistake."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from runs import ROOT, as_argv, train, write_rows
from stepped_rows import chain_rows
from transformers import HfArgumentParser
from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

import rm
import rm_process
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import help_of
from reward_modeling.objectives.bradley_terry import BradleyTerryFlags
from reward_modeling.objectives.process import Process
from reward_modeling.objectives.process_flags import ProcessFlags
from reward_modeling.training.arguments import arguments_of
from reward_modeling.training.setup import load_setup


@pytest.fixture
def flags(gemma_folder, tmp_path) -> dict[str, object]:
    """A command line that works and takes no time."""
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path / "train.jsonl", chain_rows(12, seed=1)),
        "max_length": 256,
        "max_steps": 1,
        "pairs_per_step": 4,
        "eval_size": 0,
        "report_to": "none",
        "save_strategy": "no",
        "verify_saved_model": "false",
        "use_cpu": "true",
        "num_proc": 1,
    }


def run(flags: dict[str, object], output: Path):
    return train(flags, output, main=rm_process.main)


def test_every_default_of_rm_that_is_not_of_its_loss_can_be_edited():
    of_loss = {field.name for field in fields(BradleyTerryFlags)}
    declared = {*rm.ScriptArguments.__annotations__} - of_loss
    assert declared <= {*rm_process.ScriptArguments.__annotations__}
    own = {"step_separator", "prompt_format", "neutral_steps", "last_step_only", "aggregation", "metric_for_best_model"}
    assert own <= {*rm_process.ScriptArguments.__annotations__}
    arguments = arguments_of(rm_process.ScriptArguments)
    for name in rm_process.ScriptArguments.__annotations__:
        assert help_of(arguments, name), name


def test_help_is_quick_and_speaks_of_solutions():
    """Before torch is imported."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "rm_process.py", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    imported = {line.split("|")[-1].strip() for line in process.stderr.splitlines()}
    assert not {"torch", "transformers", "datasets"} & imported
    said = " ".join(process.stdout.split())
    assert "Solutions in a step over all devices" in said and "--label_smoothing " not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"neutral_steps": "maybe"}, "--neutral_steps"),
        ({"aggregation": "median"}, "--aggregation"),
        ({"prompt_format": "text"}, "--prompt_format"),
        ({"step_separator": " "}, "--step_separator: expected a text that stands out"),
        ({"metric_for_best_model": "spearman"}, "--metric_for_best_model"),
        ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor"),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_flags_is_said_at_once(changes, said, flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rm_process.py", *as_argv(flags | {"output_path": "x"} | changes)])
    with pytest.raises(UserError, match=said):
        parse_script_arguments(arguments_of(rm_process.ScriptArguments))


def test_pairs_are_refused(flags, tmp_path):
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}, surely.", "rejected": f"perhaps {n}"} for n in range(8)]
    with pytest.raises(UserError, match=r"what rm\.py trains on"):
        run(flags | {"train_set_path": write_rows(tmp_path / "pairs.jsonl", pairs)}, tmp_path / "output")


def test_a_step_that_is_neutral_has_to_be_spoken_of(flags, tmp_path):
    rows = [
        {
            "question": {"problem": f"What is {number}?"},
            "label": {
                "steps": [
                    {"completions": [{"text": "It is.", "rating": rating}], "chosen_completion": 0}
                    for rating in (1, 0, -1)
                ]
            },
        }
        for number in range(8)
    ]
    flags |= {"train_set_path": write_rows(tmp_path / "prm800k.jsonl", rows)}
    with pytest.raises(UserError, match="--neutral_steps"):
        run(flags, tmp_path / "output")
    assert run(flags | {"neutral_steps": "drop"}, tmp_path / "dropped").losses()


@pytest.mark.parametrize(("label", "said"), [(1.0, "all right"), (0.0, "all wrong"), (0.75, "all 0.75")])
def test_steps_that_are_all_alike_are_refused(label, said, flags, tmp_path):
    """Where the last ones alone count, they alone have to differ; with their first steps the control trains."""
    rows = [row | {"labels": [label for _ in row["labels"]]} for row in chain_rows(12, seed=1)]
    flags |= {"train_set_path": write_rows(tmp_path / "rows.jsonl", rows)}
    with pytest.raises(UserError, match=f"expected right and wrong steps, found labels that are {said}"):
        run(flags, tmp_path / "output")
    others = [row | {"labels": [1 - label, *row["labels"][1:]]} for row in rows if len(row["labels"]) > 1]
    flags |= {"train_set_path": write_rows(tmp_path / "others.jsonl", others)}
    with pytest.raises(UserError, match=rf"found labels \(of last steps alone, .*\) that are {said}"):
        run(flags | {"last_step_only": "true"}, tmp_path / "output")
    assert run(flags, tmp_path / "output").losses()


def test_an_empty_separator_reads_the_last_token_of_a_step(flags, tmp_path):
    assert run(flags | {"step_separator": ""}, tmp_path / "output").losses()


def test_last_step_only_learns_from_one_label_of_each(flags, tmp_path):
    finished = run(flags | {"last_step_only": "true"}, tmp_path / "output")
    weights = finished.trainer.train_dataset.groups.data.column("weights").combine_chunks().flatten().to_pylist()
    assert set(weights) == {1.0}


def test_held_out_steps_are_all_evaluated_whatever_is_trained_on(flags, tmp_path):
    """TRL takes the last labels alone in training only; so did the first errors of held-out solutions go."""
    held_out = []
    for last_only in ("true", "false"):
        finished = run(flags | {"last_step_only": last_only, "eval_size": 6}, tmp_path / last_only)
        held_out.append([of.tolist() for of in finished.trainer.eval_dataset.target_lists()])
    assert str(held_out[0]) == str(held_out[1]) and max(map(len, held_out[0])) > 1
    assert sum(label == label for of in held_out[0] for label in of) > len(held_out[0])  # NaN is not itself


def test_a_reward_models_head_is_not_replaced_under_zero3(flags, gemma_folder, tmp_path):
    """transformers loads no weights of other shapes there; of the language model, the control, it is not refused."""
    model = shutil.copytree(gemma_folder, tmp_path / "reward_model")
    config = json.loads((model / "config.json").read_text())
    said = json.dumps(config | {"architectures": ["GemmaForSequenceClassification"], "num_labels": 1})
    (model / "config.json").write_text(said)
    zero3 = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    try:
        assert zero3.is_zero3()
        with pytest.raises(UserError, match="expected a language model or a process model under ZeRO-3"):
            load_setup(arguments(flags | {"model_name": model}, tmp_path), Process(ProcessFlags()))
        assert load_setup(arguments(flags, tmp_path), Process(ProcessFlags())).config.num_labels == 2
    finally:
        unset_hf_deepspeed_config()
    assert load_setup(arguments(flags | {"model_name": model}, tmp_path), Process(ProcessFlags())).loading_options[
        "other_head"
    ]


def arguments(flags: dict[str, object], folder: Path):
    return HfArgumentParser(arguments_of(rm_process.ScriptArguments)).parse_dict(
        {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
        | {"output_path": str(folder / "output"), "verify_saved_model": False, "use_cpu": True}
    )[0]

"""What only a GPU can show: ZeRO-3 and FSDP2 in bfloat16 on one or more GPUs. Skipped where there is none.

Weights, verification and resume are as in test_engines.py; here the kernels, NCCL and the memory figures are real.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from runs import ROOT, Run, free_port, launch, write_rows
from safetensors.torch import load_file

from reward_modeling.tiny.preferences import learnable_preferences

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
NUM_GPUS = [count for count in (1, 2) if count <= torch.cuda.device_count()]


@pytest.fixture(scope="module")
def base(gemma_folder, tmp_path_factory) -> dict[str, object]:
    rows = learnable_preferences(40, seed=3)
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 256,
        "max_steps": 10,
        "pairs_per_step": 8,
        "learning_rate": 1e-3,
        "eval_size": 10,
        "logging_steps": 1,
        "save_every_steps": 5,
        "eval_every_steps": 5,
        "report_to": "none",
        "bf16": "true",
    }


def launched(config_name: str, flags: dict[str, object], output: Path, processes: int) -> Run:
    settings = yaml.safe_load((ROOT / f"accelerate_configs/{config_name}.yaml").read_text())
    settings["num_processes"] = processes
    if "deepspeed_config" in settings:
        file = settings["deepspeed_config"]["deepspeed_config_file"]
        settings["deepspeed_config"]["deepspeed_config_file"] = str(ROOT / file)
    output.parent.mkdir(parents=True, exist_ok=True)
    config = output.parent / f"{config_name}.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    launch([*command, "--main_process_port", free_port()], flags, output, PATH=path)
    return Run(output)


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Run:
    return launched("single_gpu", base, tmp_path_factory.mktemp("alone") / "output", 1)


def test_one_gpu_is_proven(alone):
    record = json.loads((alone.model / "verification.json").read_text())
    assert record["passed"] and record["precision"] == "bfloat16"
    assert alone.history[0]["peak_memory_gib"] > 0


@pytest.mark.parametrize("processes", NUM_GPUS)
@pytest.mark.parametrize("config_name", ["deepspeed_zero2", "deepspeed_zero3", "fsdp2"])
def test_engines_in_bfloat16(config_name, processes, alone, base, tmp_path):
    """The same steps as one GPU, to 8 bits; saved whole, proven, and gone on with from the middle."""
    run = launched(config_name, base, tmp_path / "output", processes)
    assert run.losses() == pytest.approx(alone.losses(), abs=0.05)
    assert run.last("eval_pairs") == alone.last("eval_pairs")
    assert json.loads((run.model / "verification.json").read_text())["passed"]
    weights, expected = (load_file(of.model / "model.safetensors") for of in (run, alone))
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in expected.items()}
    resume = base | {"resume_from_checkpoint": run.output / "checkpoint-5"}
    resumed = launched(config_name, resume, run.output, processes)
    assert resumed.losses() == pytest.approx(run.losses(), abs=0.01)


@pytest.mark.parametrize("config_name", ["single_gpu", "deepspeed_zero3"])
def test_memory_that_runs_out_ends_in_a_message(config_name, base, tmp_path):
    """A forward pass far beyond any GPU: the whole epoch in one, with eager attention over padded rows."""
    rows = learnable_preferences(1000, seed=5)
    for row in rows:
        for side in ("chosen", "rejected"):
            answer = row[side][-1]
            row[side] = [*row[side][:-1], answer | {"content": " ".join([answer["content"]] * 12)}]
    flags = base | {
        "train_set_path": write_rows(tmp_path / "long.jsonl", rows),
        "max_length": 1024,
        "pairs_per_step": 3000,
        "max_tokens_per_micro_batch": 5_000_000,
        "batching": "padded",
        "attn_implementation": "eager",
        "gradient_checkpointing": "false",
        "output_path": tmp_path / "output",
    }
    with pytest.raises(AssertionError, match="Memory ran out in the trial of the heaviest micro-batch"):
        launched(config_name, flags, tmp_path / "output", 1)

"""The same steps on every engine: losses and final weights of one process, DDP, ZeRO-2, ZeRO-3 and FSDP2.

    python benchmarks/engine_losses.py --output /tmp/engines

Trains the same tiny Gemma on the same pairs in float32, on the CPU, with the launch files that the project ships (two
processes). Prints the table of RESULTS.md and writes it to OUTPUT/engines.json. About four minutes.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config  # noqa: E402
from reward_modeling.tiny.preferences import learnable_preferences  # noqa: E402
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer  # noqa: E402

STEPS, PAIRS_PER_STEP = 20, 8
# name: launch file (None: plain python), processes, accumulation
RUNS = {
    "1 process, accumulation 8": (None, 1, 8),
    "1 process, accumulation 1": (None, 1, 1),
    "2 x DDP": ("cpu_two_processes", 2, 4),
    "2 x ZeRO-2": ("deepspeed_zero2", 2, 4),
    "2 x ZeRO-3": ("deepspeed_zero3", 2, 4),
    "2 x FSDP2": ("fsdp2", 2, 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="a new folder for the runs and engines.json")
    output = parser.parse_args().output.resolve()
    output.mkdir(parents=True)
    build_inputs(output)
    folders = {}
    for number, (name, (launch_file, processes, accumulation)) in enumerate(RUNS.items()):
        print(f"{name} ...", flush=True)
        folders[name] = output / f"run_{number}"
        train(output, folders[name], launch_file, processes, accumulation)
    results = {name: compare(folder, folders["1 process, accumulation 8"]) for name, folder in folders.items()}
    (output / "engines.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    print_tables(results)


def build_inputs(output: Path) -> None:
    rows = learnable_preferences(40, seed=3)
    tokenizer = train_tokenizer([row["chosen"][-1]["content"] for row in rows], 512, **TOKENIZER_STYLES["gemma"])
    build_tiny_checkpoint(output / "model", tokenizer, tiny_config("gemma", len(tokenizer), **token_ids(tokenizer)))
    (output / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train(output: Path, folder: Path, launch_file: str | None, processes: int, accumulation: int) -> None:
    """One run of rm.py in processes of its own.

    Raises:
        subprocess.CalledProcessError: it failed; its output is beside its folder, in a .log file.
    """
    command = [sys.executable]
    if launch_file is not None:
        settings = yaml.safe_load((ROOT / f"accelerate_configs/{launch_file}.yaml").read_text())
        settings |= {"use_cpu": True, "num_processes": processes, "main_process_port": 0}
        if "deepspeed_config" in settings:
            file = settings["deepspeed_config"]["deepspeed_config_file"]
            settings["deepspeed_config"]["deepspeed_config_file"] = str(ROOT / file)
        config = folder.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(settings))
        command += ["-m", "accelerate.commands.launch", "--config_file", str(config)]
    flags = {
        "model_name": output / "model",
        "train_set_path": output / "pairs.jsonl",
        "output_path": folder,
        "max_length": 256,
        "max_steps": STEPS,
        "per_device_train_batch_size": PAIRS_PER_STEP // processes // accumulation,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 1e-3,
        "eval_size": 10,
        "eval_every_steps": 10,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
    }
    command += [str(ROOT / "rm.py"), *(str(token) for name, value in flags.items() for token in (f"--{name}", value))]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja, which DeepSpeed calls
    with folder.with_suffix(".log").open("w") as log:
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def compare(folder: Path, reference: Path) -> dict[str, object]:
    """Losses and evaluations of a run; how far they and the final weights are from those of the reference."""
    figures, expected = figures_of(folder), figures_of(reference)
    weights, expected_weights = (load_file(of / "last_checkpoint/model.safetensors") for of in (folder, reference))
    largest = max(value.abs().max().item() for value in expected_weights.values())
    difference = max((weights[name] - value).abs().max().item() for name, value in expected_weights.items())
    assert all(value.dtype == torch.float32 for value in weights.values())
    return figures | {
        "largest_difference_of_losses": largest_difference(figures["losses"], expected["losses"]),
        "largest_difference_of_eval_losses": largest_difference(figures["eval_losses"], expected["eval_losses"]),
        "largest_difference_of_weights": difference / largest,
    }


def figures_of(folder: Path) -> dict[str, list[float]]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "eval_losses": [entry["eval_loss"] for entry in history if "eval_loss" in entry],
        "eval_pairs": [entry["eval_pairs"] for entry in history if "eval_pairs" in entry],
    }


def largest_difference(values: list[float], expected: list[float]) -> float:
    return max(abs(value - other) for value, other in zip(values, expected, strict=True))


def print_tables(results: dict[str, dict]) -> None:
    print("\n| step | " + " | ".join(results) + " |")
    print("|---" * (len(results) + 1) + "|")
    for step in range(STEPS):
        print(f"| {step + 1} | " + " | ".join(f"{run['losses'][step]:.7f}" for run in results.values()) + " |")
    for row, name in (
        ("losses: largest difference", "largest_difference_of_losses"),
        ("evaluation losses: largest difference", "largest_difference_of_eval_losses"),
        ("weights: largest difference / largest weight", "largest_difference_of_weights"),
    ):
        print(f"| {row} | " + " | ".join(f"{run[name]:.1e}" for run in results.values()) + " |")
    print("| pairs evaluated | " + " | ".join(str(run["eval_pairs"][-1]) for run in results.values()) + " |")


if __name__ == "__main__":
    main()

"""What a run leaves in its output folder for people and for `report.html`, beside checkpoints and transformers' log.

`evaluation.json`: the held-out figures of the model that is in last_checkpoint. A figure that is missing is null.

    {
      "step": 120, "epoch": 1.0, "data": "held out of pairs.jsonl",
      "pairs": 500, "loss": 0.41, "reward_mean": 0.02, "reward_std": 1.7,
      "accuracy": {"value": 0.81, "low": 0.77, "high": 0.84, "rows": 500, "right": 405, "ties": 0},
      "longer_wins": {...}, "by_length": {"chosen longer": {...}, "rejected longer": {...}, "equal length": {...}},
      "by_length_difference": [{"from": -200, "to": -51, "value": 0.7, "low": ..., ...}, ...],
      "by_source": {"helpful": {...}, "no source": {...}},
      "calibration_error": 0.06,
      "calibration": [{"low": 0.5, "high": 0.55, "confidence": 0.52, "value": 0.5, "value_low": ..., ...}, ...],
      "margins": {"mean": ..., "median": ..., "standard_deviation": ..., "edges": [41], "counts": [40]},
      "rewards": {"edges": [41], "chosen": [40], "rejected": [40]}
    }

`{...}` has the keys of "accuracy". A bin of "by_length_difference" holds the pairs whose chosen answer has from `from`
to `to` tokens more than the rejected one, both included; the bins, at most 8, hold every pair.

`eval_scores.jsonl`: a line for each held-out pair, in the data's order: "where", "source", "chosen_reward",
"rejected_reward", "margin" (their difference), "chosen_tokens", "rejected_tokens".

`preflight.txt`: the table of the preflight, as it was printed.

`run.json`: "model_name", "model_type", "class", "num_parameters", "trained_parameters", "engine", "processes",
"devices", "dtype", "batching", "pairs", "prompts", "pairs_per_step", "steps", "step_of_weights" and
"epoch_of_weights" (of the saved ones; epochs may be null), "started" (UTC), "seconds" (of the process that ended the
run), "versions", "arguments" (those that decide what is learned), "manifest" (what the folder of --train_set_path says
of itself, or null). It is written before the first step, and again at the end: until then "steps", "step_of_weights",
"epoch_of_weights" and "seconds" are null.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from reward_modeling.common.file_names import EVAL_SCORES, EVALUATION, MANIFEST
from reward_modeling.display.text import Rows, count
from reward_modeling.models.adapters import count_weights, has_adapter
from reward_modeling.objectives.base import HeldOut

PACKAGES = (
    *("torch", "transformers", "tokenizers", "accelerate", "peft", "deepspeed"),
    *("datasets", "numpy", "safetensors"),
)


def write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_evaluation(output: Path, evaluation: Mapping, held_out: HeldOut) -> None:
    """evaluation.json and eval_scores.jsonl."""
    write_json(output / EVALUATION, evaluation)
    with (output / EVAL_SCORES).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in held_out.score_lines())


def remove_results(output: Path) -> None:
    """The figures of a model that is not in last_checkpoint any more."""
    for name in (EVALUATION, EVAL_SCORES):
        (output / name).unlink(missing_ok=True)


def describe_model(model: torch.nn.Module) -> dict[str, object]:
    """The part of run.json that is about the model, an adapter's model included."""
    plain = model.get_base_model() if has_adapter(model) else model
    return {
        "model_type": plain.config.model_type,
        "class": type(plain).__name__,
        "num_parameters": count_weights(model.parameters()),
        "trained_parameters": count_weights(weight for weight in model.parameters() if weight.requires_grad),
    }


def describe_devices(device: torch.device, processes: int) -> str:
    """Such as "2 x NVIDIA H100 80GB HBM3", taking it that all are alike."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if processes == 1 else f"{processes} x {name}"


def read_manifest(train_set_path: str) -> dict | None:
    """What a folder of `data_prep/` says of itself."""
    path = Path(train_set_path) / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def source_rows(manifest: Mapping) -> Rows:
    """A table of the sources, as the data's own manifest.json counts them."""
    rows: Rows = [("source", "pairs", "prompts", "licence", "from")]
    for source in manifest["sources"]:
        words = source["licence"] or "not stated", source["dataset_path"] or ""
        rows.append((source["name"], count(source["pairs"]), count(source["prompts"]), *words))
    return rows

"""Output folders of runs that never ran, for the tests of what is made of them."""

import json
import math
from pathlib import Path

import numpy as np
from summaries import Pairs, without_nan

EVALUATION_KEYS = ("accuracy", "longer_wins", "by_length", "calibration_error", "calibration", "margins")


def sample_history(steps: int = 200, every: int = 40) -> list[dict]:
    """A log for each step and an evaluation every few, of a run that learns, with noise."""
    generator = np.random.default_rng(0)
    history = [{"step": 0, "epoch": 0, "heaviest_micro_batch_tokens": 16_384, "peak_memory_gib": 31.25}]
    for step in range(steps + 1):
        done = step / steps
        if step:
            history.append(
                {
                    "step": step,
                    "epoch": done,
                    "loss": 0.3 + 0.39 * math.exp(-5 * done) * generator.uniform(0.8, 1.2),
                    "accuracy": min(1.0, 0.5 + 0.35 * done + generator.normal(0, 0.04)),
                    "margin": 1.6 * done + generator.normal(0, 0.1),
                    "reward_mean": generator.normal(0, 0.1),
                    "reward_std": 0.2 + done,
                    "learning_rate": 1e-5 * (1 + math.cos(math.pi * done)) / 2,
                    "grad_norm": 3 * math.exp(generator.normal(0, 0.5)),
                    "pairs_per_second": 12.5,
                    "tokens_per_second": 23_456 + generator.normal(0, 300),
                    "tokens_saved": 0.61,
                }
            )
        if step % every == 0:
            accuracy = 0.5 + 0.32 * done
            history.append(
                {
                    "step": step,
                    "epoch": done,
                    "eval_loss": 0.69 - 0.25 * done,
                    "eval_accuracy": accuracy,
                    "eval_accuracy_low": accuracy - 0.04,
                    "eval_accuracy_high": accuracy + 0.04,
                    "eval_margin": 1.5 * done,
                    "eval_reward_mean": 0.1 * done,
                    "eval_reward_std": 0.5 + done,
                    "eval_pairs": 800,
                }
            )
    return [*history, {"step": steps, "epoch": 1.0, "train_runtime": 5025.0, "total_flos": 1e15}]


def sample_evaluation(step: int, sources: dict[str, int]) -> dict:
    """As `run_files` has it, of random rewards."""
    pairs = Pairs(sources, seed=7)
    part = pairs.part("", "", {})
    edges = np.linspace(-5, 7, 41)
    differences = np.diff(pairs.lengths[::-1], axis=0)[0]
    order = np.array_split(np.argsort(differences, kind="stable"), 8)
    accuracy = part["pairs"]["accuracy"]
    by_difference = [
        {"from": int(differences[one].min()), "to": int(differences[one].max()), **accuracy, "rows": len(one)}
        for one in order
    ]
    return without_nan(
        {
            "step": step,
            "epoch": 1.0,
            "data": "held out of data/mixture2",
            "pairs": len(pairs.names),
            "loss": 0.4437,
            "reward_mean": 0.083,
            "reward_std": 1.517,
            **{key: part["pairs"][key] for key in EVALUATION_KEYS},
            "by_length_difference": by_difference,
            "by_source": part["subsets"],
            "rewards": {
                "edges": edges.tolist(),
                "chosen": np.histogram(pairs.chosen, edges)[0].tolist(),
                "rejected": np.histogram(pairs.rejected, edges)[0].tolist(),
            },
        }
    )


def sample_run_record() -> dict:
    source = {"licence": "MIT", "pairs": 5000, "prompts": 1234, "dataset_path": "Anthropic/hh-rlhf", "options": {}}
    return {
        "model_name": "google/gemma-2b-it",
        "model_type": "gemma",
        "class": "GemmaForSequenceClassification",
        "num_parameters": 2_506_174_464,
        "trained_parameters": 19_611_648,
        "engine": "DeepSpeed ZeRO-3",
        "processes": 8,
        "devices": "cuda",
        "dtype": "bfloat16",
        "batching": "shared_prefix",
        "pairs": 51_200,
        "prompts": 12_345,
        "pairs_per_step": 256,
        "steps": 200,
        "started": "2026-11-24T21:07:00+00:00",
        "seconds": 5200.5,
        "arguments": {"learning_rate": 1e-05, "pairs_per_step": 16},
        "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0"},
        "manifest": {"name": "mixture2", "pairs": 52_000, "sources": [source | {"name": "hh_rlhf"}]},
    }


DATA_REPORT = {
    "train": {
        "name": "train",
        "rows_read": 53_210,
        "dropped": {
            "identical_text": {
                "count": 1_100,
                "first_where": "data/train-00001.parquet:812",
                "first_excerpt": "I am sorry, but as a language model I cannot help you with this request.",
            },
            "overlong": {"count": 110, "first_where": "data/train-00002.parquet:7", "first_excerpt": "<b>x</b>"},
        },
        "notes": {"prompts": 12_345, "pairs held out for evaluation": 800},
        "kept": 52_000,
        "share_dropped": 1_210 / 53_210,
    }
}
PREFLIGHT = (
    "One pair as the model sees it (data/train-00001.parquet:1):\n"
    "  begins      '<bos><start_of_turn>user\\nHow do I bake'\n"
    "  parts after ' bread?<end_of_turn>\\n<start_of_turn>model\\n'  (19 tokens shared)\n"
    "  chosen      'First lay out every tool on the table' ... ' gladly.<end_of_turn>\\n'\n"
    "              81 tokens; the reward is read at token 99, '\\n'"
)
VERIFICATION = {
    "passed": True, "problems": [], "largest_difference_padded": 2.9e-6, "largest_difference_alone": 9.5e-7,
    "tolerance": 1.1e-3, "num_rows": 8,
}  # fmt: skip
SOURCES = {"helpful": 300, "harmless": 220, "UltraFeedback fine-grained": 180, "orca": 60, "no source": 40}


def write_sample_run(folder: Path, *, steps: int = 200, sources: dict[str, int] = SOURCES) -> Path:
    """Every file that a report is made of."""
    state = {"log_history": sample_history(steps), "global_step": steps, "max_steps": steps, "epoch": 1.0}
    files = {
        "trainer_state.json": state,
        "data_report.json": DATA_REPORT,
        "evaluation.json": sample_evaluation(steps, sources),
        "run.json": sample_run_record(),
        "last_checkpoint/script_arguments.json": {"model_name": "google/gemma-2b-it", "max_length": 4096},
        "last_checkpoint/verification.json": VERIFICATION,
    }
    for name, content in files.items():
        write_json(folder / name, content)
    (folder / "preflight.txt").write_text(PREFLIGHT, encoding="utf-8")
    return folder


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")

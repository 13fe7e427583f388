"""The quickstart's own two ends: a tiny model with data to train it on, and a report of what it learned.

`make quickstart` runs both, with rm.py in between and eval_bench_mark.py after them.

    python -m reward_modeling.tiny.quickstart prepare quickstart
    python -m reward_modeling.tiny.quickstart report quickstart/output
"""

import argparse
import json
from pathlib import Path
from typing import Any

from reward_modeling.common.atomic import whole_file
from reward_modeling.common.errors import UserError, run_script
from reward_modeling.common.paths import local_path
from reward_modeling.evaluation.benchmarks.rewardbench import SUBSET_ROWS
from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

NUM_PROMPTS = 1100
VOCAB_SIZE = 1024
ROWS_PER_SUBSET = 10
# A correct run reaches it with a wide margin: less means that training is broken.
LOWEST_ACCURACY = 0.9


def main() -> None:
    """Prepare the quickstart's folder, or report on a finished run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("prepare", "report"))
    parser.add_argument(
        "folder", type=local_path, help="prepare: where to write to; report: the output folder of rm.py"
    )
    arguments = parser.parse_args()
    {"prepare": prepare, "report": report}[arguments.command](arguments.folder)


def prepare(folder: Path) -> None:
    """Write a random tiny Gemma to `folder`/model, generated pairs to train on, and others in RewardBench's columns."""
    rows = learnable_preferences(NUM_PROMPTS, seed=0)
    texts = [message["content"] for row in rows for message in row["chosen"]]
    tokenizer = train_tokenizer(texts, VOCAB_SIZE, **TOKENIZER_STYLES["gemma"])
    # Narrow initial weights: this model is there to learn, not to make a wrong mask visible.
    config = tiny_config("gemma", len(tokenizer), initializer_range=0.02, **token_ids(tokenizer))
    build_tiny_checkpoint(folder / "model", tokenizer, config)
    benchmark = rewardbench_like_rows(ROWS_PER_SUBSET, seed=1, unlike=rows)
    write_jsonl(folder / "rewardbench.jsonl", benchmark)
    # Written last, and whole: `make` takes this file as the sign that the folder is complete.
    with whole_file(folder / "preferences.jsonl") as path:
        write_jsonl(path, rows)
    print(
        f"{folder}: a tiny Gemma (model/), {len(rows):,} pairs (preferences.jsonl) and {len(benchmark):,} with other "
        "prompts (rewardbench.jsonl)"
    )


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rewardbench_like_rows(rows_per_subset: int, seed: int, unlike: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Generated pairs in RewardBench's columns, some for each of its subsets; the names alone are RewardBench's.

    Each has a prompt of its own, and none of those that rows of `unlike` end in.
    """
    known = {row["chosen"][-2]["content"] for row in unlike}
    needed = rows_per_subset * len(SUBSET_ROWS)
    first_of_prompt: dict[str, dict[str, Any]] = {}
    for row in learnable_preferences(4 * needed, seed):
        prompt = row["chosen"][-2]["content"]
        if row["source"] == "question" and prompt not in known:
            first_of_prompt.setdefault(prompt, row)
    if len(first_of_prompt) < needed:
        raise ValueError(f"expected {needed} prompts that are not in the other rows, found {len(first_of_prompt)}")
    subsets = (name for name in SUBSET_ROWS for _ in range(rows_per_subset))
    return [
        {
            "prompt": prompt,
            "chosen": row["chosen"][-1]["content"],
            "chosen_model": "generated",
            "rejected": row["rejected"][-1]["content"],
            "rejected_model": "generated",
            "subset": subset,
            "id": number,
        }
        for number, (subset, (prompt, row)) in enumerate(zip(subsets, first_of_prompt.items(), strict=False))
    ]


def report(output: Path) -> None:
    """Print held-out accuracy before and after training, from the Trainer's own log in `output`."""
    state_path = output / "trainer_state.json"
    if not state_path.is_file():
        raise UserError(f"expected {state_path}, found no such file: did rm.py finish with this output folder?")
    history = json.loads(state_path.read_text(encoding="utf-8"))["log_history"]
    accuracies = {entry["step"]: entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry}
    if 0 not in accuracies or len(accuracies) < 2:
        raise UserError(
            f"{state_path}: expected eval_accuracy at step 0 and after training, found it at steps {[*accuracies]}. "
            "Run rm.py with --eval_size and --eval_on_start true."
        )
    runtimes = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
    if not runtimes:
        raise UserError(f"{state_path}: expected an entry with train_runtime, found none: training did not finish")
    after = accuracies[max(accuracies)]
    print(f"{'held-out accuracy before':28}{accuracies[0]:.3f}")
    print(f"{'held-out accuracy after':28}{after:.3f}")
    preferences = output.parent / "preferences.jsonl"
    if preferences.is_file():
        pairs = len(preferences.read_text(encoding="utf-8").splitlines())
        print(f"{'pairs':28}{pairs:,} (held-out pairs included)")
    print(f"{'training time':28}{runtimes[-1]:.0f} s")
    if after <= LOWEST_ACCURACY:
        raise UserError(
            f"held-out accuracy: expected more than {LOWEST_ACCURACY} after training, found {after:.3f}. "
            f"Nothing was learned as it should be: look at loss and eval_accuracy in {state_path}."
        )


if __name__ == "__main__":
    run_script(main)

"""Process and outcome reward models on published rows, from a small language model: figures with intervals.

    python benchmarks/process_models.py steps --rows prmbench_part.jsonl.gz --model SMOLLM2 --output out/prm
    python benchmarks/process_models.py outcomes --rows gsm8k_model_solutions.jsonl.gz --model SMOLLM2 --output out/orm

steps      PRMBench's rows (ssmisya/PRMBench, Apache-2.0), split by question: rm_process.py learns from one part which
           steps are right, eval_bench_mark.py --benchmarks prmbench scores the other
outcomes   GSM8K's questions with four model solutions each (openai/grade-school-math, MIT), split by question: an
           outcome model learns whether a solution is right; on the held-out questions score.py scores the four, and
           best_of_n.py says what the best of them is worth beside one at random, the majority and the oracle

Every stage leaves its files in --output, and one that has is not run again. The scripts print the figures.
"""

import argparse
import gzip
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reward_modeling.common.atomic import whole_file  # noqa: E402
from reward_modeling.common.errors import UserError, run_script  # noqa: E402

FINAL = re.compile(r"^A:\s*(.+?)\s*$", re.MULTILINE)  # the answer as these solutions end
SOLUTIONS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"


def main() -> None:
    options = read_options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched
    options.output.mkdir(parents=True, exist_ok=True)
    {"steps": run_steps, "outcomes": run_outcomes}[options.part](options)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("steps", "outcomes"))
    parser.add_argument("--rows", type=Path, required=True, help="the published file")
    parser.add_argument("--model", required=True, help="folder of a language model with a chat template")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--held_out", type=float, default=0.3, help="share of the questions")
    parser.add_argument("--questions", type=int, help="so many of all, where time is short")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def run_steps(options: argparse.Namespace) -> None:
    rows = read_rows(options.rows)
    split(options, rows, lambda row: row["question"], lambda of: of)
    train(options)
    run(
        options,
        *("eval_bench_mark.py", "--benchmarks", "prmbench", "--prmbench_path", options.output / HELD_OUT),
        *("--reward_name_or_path", model_of(options), "--record_dir", options.output / "record.txt"),
    )


def run_outcomes(options: argparse.Namespace) -> None:
    rows = read_rows(options.rows)
    split(options, rows, lambda row: row["question"], lambda of: [outcome_row(row) for row in of])
    train(options)
    scored = options.output / "scored.jsonl"
    if not scored.exists():
        run(
            options,
            *("score.py", "--reward_name_or_path", model_of(options)),
            *("--input", options.output / HELD_OUT, "--output", scored),
        )
    chosen = options.output / "chosen.jsonl"
    chosen.unlink(missing_ok=True)
    flags = ("--select", "best", "--answer_column", "final_answer", "--output", chosen)
    run(options, "best_of_n.py", "--input", scored, *flags)


def outcome_row(row: dict) -> dict:
    """A question with its four solutions, whether each is right, and the answer that each ends with."""
    texts = [row[name]["solution"] for name in SOLUTIONS]
    return {
        "prompt": row["question"],
        "responses": texts,
        "is_correct": [row[name]["is_correct"] for name in SOLUTIONS],
        "final_answer": [found.group(1) if (found := FINAL.search(text)) else "" for text in texts],
    }


def split(options: argparse.Namespace, rows: list[dict], question_of, made) -> None:
    """Write the two files; no question stands in both."""
    if (options.output / TRAIN).exists():
        return
    questions = sorted({question_of(row) for row in rows})
    random.Random(options.seed).shuffle(questions)
    questions = questions[: options.questions]
    held_out = set(questions[: round(options.held_out * len(questions))])
    taken = [row for row in rows if question_of(row) in set(questions)]
    write_rows(options.output / HELD_OUT, made([row for row in taken if question_of(row) in held_out]))
    write_rows(options.output / TRAIN, made([row for row in taken if question_of(row) not in held_out]))


def train(options: argparse.Namespace, *flags: str) -> None:
    if model_of(options).exists():
        return
    run(
        options,
        *("rm_process.py", "--model_name", options.model, "--train_set_path", options.output / TRAIN),
        *("--output_path", options.output / "model", "--num_train_epochs", options.epochs),
        *("--learning_rate", options.rate, "--per_device_train_batch_size", 16, "--gradient_accumulation_steps", 1),
        *("--max_length", 1024, "--eval_size", 100, "--gradient_checkpointing", "false", "--save_strategy", "no"),
        *("--report_to", "none", "--seed", options.seed, *flags),
    )


def model_of(options: argparse.Namespace) -> Path:
    return options.output / "model" / "last_checkpoint"


def run(options: argparse.Namespace, *command: object) -> None:
    """A script of this project; what it prints goes to the screen and says the figures."""
    started = time.monotonic()
    words = [sys.executable, *map(str, command)]
    if subprocess.run(words, cwd=ROOT).returncode:
        raise UserError(f"{command[0]}: expected it to end well; what it printed stands above.")
    with (options.output / "seconds.jsonl").open("a") as file:
        file.write(json.dumps({"script": command[0], "seconds": round(time.monotonic() - started, 1)}) + "\n")


def read_rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    run_script(main)

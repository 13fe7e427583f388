"""The same losses as TRL's RewardTrainer, and the same rewards in TRL's GRPOTrainer.

    pip install -r requirements-benchmarks.txt
    OMP_NUM_THREADS=1 python benchmarks/parity_with_trl.py

Losses: a tiny Gemma and a tiny Llama with a score head, the same pairs as one full batch, float32, 20 steps of AdamW,
with and without margin and centering; rm.py runs as a person runs it. Before that the token ids and margins of both
are compared. GRPO: two steps of a tiny policy; the checkpoint of rm.py is given to TRL as a path, and `RewardScorer`
beside it as a function. Ends in status 1 if anything is further apart than the limit, or a control is not. Two
minutes on idle cores.
"""

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is made here; must be set before the imports

import pyarrow.parquet as pq
import torch
from datasets import Dataset, disable_progress_bars, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reward_modeling.data.preferences import load_preference_dataset  # noqa: E402
from reward_modeling.data.prompt_groups import TokenizeOptions, tokenize_and_group  # noqa: E402
from reward_modeling.models.tokenizer import load_tokenizer  # noqa: E402
from reward_modeling.objectives.bradley_terry import PairReader  # noqa: E402
from reward_modeling.scoring.scorer import RewardScorer  # noqa: E402
from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config  # noqa: E402
from reward_modeling.tiny.preferences import learnable_preferences  # noqa: E402
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer  # noqa: E402

LIMIT = 1e-4
CONTROL = 1e-3  # what a control has to differ by at least
STEPS, PAIRS, MAX_LENGTH = 20, 32, 512
FAMILIES = {
    "gemma": TOKENIZER_STYLES["gemma"],
    # A pad token of its own: TRL would take EOS, as the last control does.
    "llama": TOKENIZER_STYLES["llama3"] | {"pad": "<|finetune_right_pad_id|>"},
}
HELD = "messages, float32"  # the run of GRPO in which TRL and RewardScorer compute the same
CASES = {  # margin column, weight of the centering
    "plain": (False, 0.0),
    "margin": (True, 0.0),
    "centering": (False, 0.01),
    "margin, centering": (True, 0.01),
}
# The same for both trainers. No default is left to either that would change a loss.
OPTIONS = {
    "max_length": MAX_LENGTH,
    "max_steps": STEPS,
    "per_device_train_batch_size": PAIRS,
    "gradient_accumulation_steps": 1,
    "optim": "adamw_torch_fused",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def build_inputs(folder: Path) -> None:
    """Pairs with and without a margin; for each family a reward model and a language model with one tokenizer."""
    rows = learnable_preferences(PAIRS, seed=3)[:PAIRS]
    for name, margin in (("pairs", False), ("pairs_with_margin", True)):
        lines = [{side: row[side] for side in ("chosen", "rejected")} for row in rows]
        for number, line in enumerate(lines):
            line |= {"margin": 0.25 * (number % 5)} if margin else {}  # exact in float32 and in float64
        folder.joinpath(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for family, style in FAMILIES.items():
        tokenizer = train_tokenizer([row["chosen"][-1]["content"] for row in rows], 512, **style)
        config = tiny_config(family, len(tokenizer), num_labels=1, **token_ids(tokenizer))
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        model.save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
        language_config = tiny_config(family, len(tokenizer), **token_ids(tokenizer))
        build_tiny_checkpoint(folder / f"{family}_policy", tokenizer, language_config)


def pairs_file(folder: Path, case: str) -> Path:
    return folder / ("pairs_with_margin.jsonl" if CASES[case][0] else "pairs.jsonl")


def trl_trainer(folder: Path, family: str, case: str, **special_tokens: str) -> RewardTrainer:
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(folder / family, dtype=torch.float32),
        args=RewardConfig(output_dir=str(folder / "trl"), center_rewards_coefficient=CASES[case][1] or None, **OPTIONS),
        train_dataset=load_dataset("json", data_files=str(pairs_file(folder, case)), split="train"),
        processing_class=AutoTokenizer.from_pretrained(folder / family, **special_tokens),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def rows_of_ours(folder: Path, family: str, case: str) -> list[tuple]:
    """(chosen ids, rejected ids, margin) of every pair that rm.py trains on."""
    rows = load_preference_dataset(str(pairs_file(folder, case)), num_proc=1)
    groups = tokenize_and_group(rows, load_tokenizer(str(folder / family)), PairReader(), TokenizeOptions(MAX_LENGTH))
    return sorted(
        (
            group["prefix_ids"] + group["completion_ids"][chosen],
            group["prefix_ids"] + group["completion_ids"][rejected],
            m,
        )
        for group in groups
        for (chosen, rejected), (_, _, m) in zip(group["units"], group["targets"], strict=True)
    )


def train_ours(folder: Path, family: str, case: str, **changes: object) -> tuple[list[float], Path]:
    """Losses of rm.py in a process of its own, and the checkpoint it leaves.

    Raises:
        RuntimeError: it failed.
    """
    output = folder / "-".join(["ours", family, case.replace(", ", "_"), *map(str, changes.values())])
    flags = {
        "model_name": folder / family,
        "train_set_path": pairs_file(folder, case),
        "output_path": output,
        "center_rewards_coefficient": CASES[case][1],
        "label_smoothing": 0,
        "loss_margin": "auto",
        "eval_size": 0,
        "num_proc": 1,
        "verify_saved_model": False,
        **OPTIONS,
        **changes,
    }
    command = [sys.executable, ROOT / "rm.py", *(str(part) for name in flags for part in (f"--{name}", flags[name]))]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"rm.py failed on {family}, {case}:\n{process.stderr[-3000:]}")
    return losses(json.loads((output / "trainer_state.json").read_text())["log_history"]), output / "last_checkpoint"


def losses(log_history: list[dict]) -> list[float]:
    return [entry["loss"] for entry in log_history if "loss" in entry]


def furthest(values: list[float], others: list[float]) -> float:
    difference = torch.tensor(values, dtype=torch.float64) - torch.tensor(others, dtype=torch.float64)
    return difference.abs().max().item()  # NaN if there is one, which misses every limit


def compare_losses(folder: Path) -> tuple[list[dict], dict, dict, Path]:
    """Rows of the table, TRL's losses and ours by model and case, and the Gemma checkpoint of the plain case."""
    table, trl, ours, checkpoints = [], {}, {}, {}
    print("| model | case | pairs with equal token ids and margins | largest difference | first loss | last loss |")
    print("|---|---|---|---|---|---|", flush=True)
    for family in FAMILIES:
        for case in CASES:
            trainer = trl_trainer(folder, family, case)
            of_trl = sorted((r["chosen_ids"], r["rejected_ids"], r.get("margin", 0.0)) for r in trainer.train_dataset)
            equal = sum(a == b for a, b in zip(of_trl, rows_of_ours(folder, family, case), strict=True))
            trainer.train()
            key = (family, case)
            trl[key] = losses(trainer.state.log_history)
            ours[key], checkpoints[key] = train_ours(folder, family, case)
            off = furthest(trl[key], ours[key])
            ok = off <= LIMIT and equal == PAIRS and len(ours[key]) == STEPS
            table.append({"run": key, "difference": off, "ours": ours[key], "trl": trl[key], "ok": ok})
            print(f"| {family} | {case} | {equal} of {PAIRS} | {off:.1e} | {ours[key][0]:.6f} | {ours[key][-1]:.6f} |")
    return table, trl, ours, checkpoints["gemma", "plain"]


def run_controls(folder: Path, trl: dict, ours: dict) -> list[dict]:
    """What has to be far apart: that two runs agree says something only if a small change is seen."""
    rate, _ = train_ours(folder, "gemma", "plain", learning_rate=1.01 * OPTIONS["learning_rate"])
    eos_as_pad = trl_trainer(folder, "llama", "plain", pad_token=FAMILIES["llama"]["eos"])
    eos_as_pad.train()
    both = ("gemma", "margin, centering")
    controls = {
        "ours at a learning rate 1% higher": furthest(trl["gemma", "plain"], rate),
        "ours without the margin": furthest(trl[both], ours["gemma", "centering"]),
        "ours without centering": furthest(trl[both], ours["gemma", "margin"]),
        "TRL with EOS as pad token": furthest(losses(eos_as_pad.state.log_history), ours["llama", "plain"]),
    }
    print("\n| control | largest difference |\n|---|---|")
    for name, off in controls.items():
        print(f"| {name} | {off:.1e} |", flush=True)
    return [{"control": name, "difference": off, "ok": off >= CONTROL} for name, off in controls.items()]


def reward_scorer(prompts: list, completions: list, scorer: RewardScorer, **_) -> list[float]:
    """A reward function of TRL: messages and messages, or text and text."""
    return scorer.score([prompt + completion for prompt, completion in zip(prompts, completions, strict=True)])


def run_grpo(folder: Path, name: str, prompts: list, checkpoint: Path, scorer: RewardScorer, **options) -> list[dict]:
    """Two steps; a row for each completion, with the reward that TRL had from each of its reward functions."""
    arguments = GRPOConfig(
        output_dir=str(folder / name),
        max_steps=2,
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=24,
        learning_rate=1e-3,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        log_completions=True,  # TRL writes them with their rewards, as parquet
        num_completions_to_print=0,
        **options,
    )
    trainer = GRPOTrainer(
        model=str(folder / "gemma_policy"),
        reward_funcs=[str(checkpoint), functools.partial(reward_scorer, scorer=scorer)],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    files = sorted((folder / name / "completions").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@torch.no_grad()
def plain_reward(model, tokenizer, text: str) -> float:
    """Of a text as it stands, nothing added to it, alone."""
    return model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits.item()


def compare_rewards(folder: Path, checkpoint: Path) -> list[dict]:
    """Rewards in TRL's GRPOTrainer against `RewardScorer.score` on the same conversations afterwards.

    "Other reading" compares with plain transformers on the prompt and completion as TRL writes them, alone and with
    no token added; "wrong rows" with the next completion's score, which has to be far away.
    """
    scorer = RewardScorer.from_pretrained(checkpoint, dtype="float32")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    prompts = [row["chosen"][:-1] for row in learnable_preferences(16, seed=11)]
    texts = [prompt[-1]["content"] for prompt in prompts]
    runs = {
        HELD: (prompts, {"bf16": False}),
        "messages, bf16 (TRL's default)": (prompts, {"bf16": True}),
        "plain text, float32": (texts, {"bf16": False}),
    }
    print("\n| GRPO, 2 steps | completions | function | path | path, other reading | wrong rows | rewards |")
    print("|---|---|---|---|---|---|---|", flush=True)
    table = []
    for name, (given, options) in runs.items():
        rows = run_grpo(folder, name.split(" (")[0], given, checkpoint, scorer, **options)
        whole = [row["prompt"] + row["completion"] for row in rows]
        expected = scorer.score(whole)
        by_function, by_path = ([row[key] for row in rows] for key in ("reward_scorer", checkpoint.name))
        rendered = [t if isinstance(t, str) else scorer.tokenizer.apply_chat_template(t, tokenize=False) for t in whole]
        as_it_stands = [plain_reward(model, scorer.tokenizer, text) for text in rendered]
        off = {"function": furthest(by_function, expected), "path": furthest(by_path, expected)}
        off |= {"reading": furthest(by_path, as_it_stands), "control": furthest(by_path, expected[1:] + expected[:1])}
        # TRL reads a text without BOS and EOS, and computes in bf16 unless told: shown, and not held to the limit.
        held = {"function", *(() if options["bf16"] else ("reading",)), *(("path",) if name == HELD else ())}
        ok = all(off[key] <= LIMIT for key in held) and off["control"] >= CONTROL and len(rows) == 32
        table.append({"run": name, "completions": len(rows), **off, "ok": ok})
        figures = " | ".join(f"{value:.1e}" for value in off.values())
        print(f"| {name} | {len(rows)} | {figures} | {min(expected):.2f} to {max(expected):.2f} |", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    output = parser.parse_args().output
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # both trainers name gradient_checkpointing by its older name
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_inputs(folder)
        losses_table, trl, ours, checkpoint = compare_losses(folder)
        controls = run_controls(folder, trl, ours)
        rewards_table = compare_rewards(folder, checkpoint)
    packages = {name: version(name) for name in ("torch", "transformers", "trl", "datasets", "accelerate")}
    print(f"\nPython {platform.python_version()}, {packages}")
    results = {"losses": losses_table, "controls": controls, "rewards": rewards_table, "versions": packages}
    if output:
        output.write_text(json.dumps(results, indent=2))
    missed = [row for rows in (losses_table, controls, rewards_table) for row in rows if not row["ok"]]
    for row in missed:
        print("MISSED:", {name: value for name, value in row.items() if name not in ("ours", "trl")})
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()

"""Time the whole train() of TRL's RewardTrainer against ours: same weights, same rows, same number of steps.

Both start from one saved checkpoint (a Gemma of 6 layers x 256 with an 8,192-token BPE, score head included) and
take the same pairs, 8 a step, in float32, without gradient checkpointing. "plain" is the yardstick: forward and
backward of a plain causal row per group, with as many tokens as the group has after sharing. Each trainer runs in
a process of its own, one after the other; nothing else should run on the machine.

    pip install -r requirements-benchmarks.txt
    python benchmarks/train_vs_trl.py --qa qa_feedback_4way.jsonl.gz --hh hh_harmless_raw.jsonl.gz
"""

import argparse
import gzip
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PAIRS_PER_STEP = 8
WORKLOADS = {"qa": {"pairs": 128, "max_length": 2048}, "hh": {"pairs": 256, "max_length": 1024}}


def read_rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def parse_transcript(text: str) -> list[dict]:
    """HH-RLHF's format: a turn begins with a blank line and the speaker's name."""
    parts = re.split(r"\n\n(Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def parse_hh(rows: list[dict]) -> list[dict]:
    """The rows whose two dialogues alternate, share their prompt and differ in the reply."""
    parsed = []
    for row in rows:
        pair = {side: parse_transcript(row[side]) for side in ("chosen", "rejected")}
        alternate = all(
            len(turns) % 2 == 0
            and all(
                turn["content"] and turn["role"] == ("assistant" if i % 2 else "user") for i, turn in enumerate(turns)
            )
            for turns in pair.values()
        )
        if alternate and pair["chosen"][:-1] == pair["rejected"][:-1] and pair["chosen"] != pair["rejected"]:
            parsed.append(pair)
    return parsed


def prepare(folder: Path, qa: Path, hh: Path) -> None:
    """One tokenizer, one checkpoint with its head, and the rows of both workloads."""
    import torch
    from transformers import GemmaConfig

    from reward_modeling.models.reward_model import reward_model_class
    from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

    rows = {"qa": read_rows(qa), "hh": parse_hh(read_rows(hh))}
    texts = [turn["content"] for name in rows for row in rows[name][:1500] for turn in row["chosen"]]
    tokenizer = train_tokenizer(texts, 8192, **TOKENIZER_STYLES["gemma"])
    config = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=4096,
        num_labels=1,
        **token_ids(tokenizer),
    )
    torch.manual_seed(0)
    reward_model_class(GemmaConfig)._from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name, workload in WORKLOADS.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows[name][: workload["pairs"]]:
                file.write(json.dumps({side: row[side] for side in ("chosen", "rejected")}) + "\n")


def training_options(folder: Path, steps: int) -> dict:
    return {
        "output_dir": str(folder / "output"),
        "max_steps": steps,
        "per_device_train_batch_size": PAIRS_PER_STEP,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-5,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": steps,
        "disable_tqdm": True,
        "optim": "adamw_torch_fused",
        "seed": 0,
    }


def run_trl(folder: Path, name: str, steps: int) -> dict:
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = load_dataset("json", data_files=str(folder / f"{name}.jsonl"), split="train")
    started = time.perf_counter()
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(max_length=WORKLOADS[name]["max_length"], **training_options(folder, steps)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    prepared = time.perf_counter()
    trainer.train()
    return {
        "prepare_s": prepared - started,
        "train_s": time.perf_counter() - prepared,
        "pairs": len(trainer.train_dataset),
    }


def load_ours(folder: Path, name: str, steps: int):
    import rm
    from reward_modeling.objectives.bradley_terry import BradleyTerry
    from reward_modeling.training.arguments import arguments_of
    from reward_modeling.training.setup import load_data, load_model, load_setup
    from reward_modeling.training.trainer import RewardTrainer

    args = arguments_of(rm.ScriptArguments)(
        model_name=str(folder / "model"),
        train_set_path=str(folder / f"{name}.jsonl"),
        max_length=WORKLOADS[name]["max_length"],
        eval_size=0,
        num_proc=1,
        **training_options(folder, steps),
    )
    setup = load_setup(args, BradleyTerry(args))
    model = load_model(args, setup)
    started = time.perf_counter()
    groups = load_data(args, setup).train
    prepared = time.perf_counter() - started
    trainer = RewardTrainer(
        args=args,
        objective=setup.objective,
        model=model,
        processing_class=setup.tokenizer,
        train_dataset=groups,
        collator=setup.collator,
    )
    return trainer, prepared


def run_ours(folder: Path, name: str, steps: int) -> dict:
    trainer, prepared = load_ours(folder, name, steps)
    started = time.perf_counter()
    trainer.train()
    return {"prepare_s": prepared, "train_s": time.perf_counter() - started, "pairs": len(trainer.train_dataset)}


def run_plain(folder: Path, name: str, steps: int) -> dict:
    """Forward and backward of one plain causal row per group, as long as the group is after sharing."""
    import torch

    trainer, _ = load_ours(folder, name, steps)
    model = trainer.model
    model.set_attn_implementation("sdpa")
    model.train()
    plan = trainer.get_train_dataloader().batch_sampler.plan
    groups = plan.pieces[: plan.step_starts[min(steps, len(plan))], 0].tolist()
    sizes = trainer.train_dataset.sizes
    lengths = [sizes.chunk("shared_prefix", group, 0, int(sizes.units_per_group[group])).tokens for group in groups]
    started = time.perf_counter()
    for length in lengths:
        ids = torch.randint(10, 8000, (1, length))
        model(input_ids=ids, read_positions=torch.tensor([length - 1])).logits.sum().backward()
    return {"train_s": time.perf_counter() - started, "tokens": sum(lengths)}


RUNS = {"trl": run_trl, "ours": run_ours, "plain": run_plain}


def measure(folder: Path, kind: str, name: str, steps: int) -> dict:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, name, str(steps), str(folder)]
    environment = {**os.environ, "HF_HOME": str(folder / f"cache-{kind}-{name}"), "HF_HUB_OFFLINE": "1"}
    lines = subprocess.run(command, env=environment, capture_output=True, text=True)
    if lines.returncode:
        raise RuntimeError(f"{kind} on {name} failed:\n{lines.stderr[-3000:]}")
    return json.loads(lines.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qa", type=Path, required=True, help="four answers per question, standard rows, .jsonl.gz")
    parser.add_argument("--hh", type=Path, required=True, help="raw HH-RLHF transcripts, .jsonl.gz")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--kinds", nargs="+", default=["ours", "plain", "trl"], choices=list(RUNS))
    parser.add_argument("--steps", type=int, help="fewer steps, for a quick look")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each kind, in turn; the medians are compared")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, options.qa, options.hh)
        for name in options.workloads:
            steps = options.steps or WORKLOADS[name]["pairs"] // PAIRS_PER_STEP
            seconds: dict[str, list[float]] = {kind: [] for kind in options.kinds}
            for _ in range(options.repeats):  # in turn, since a machine's speed drifts
                for kind in options.kinds:
                    figures = measure(folder, kind, name, steps)
                    seconds[kind].append(figures["train_s"])
                    print(f"{name:<4} {kind:<6} {json.dumps({k: round(v, 3) for k, v in figures.items()})}", flush=True)
            results[name] = seconds
            if {"ours", "trl"} <= set(options.kinds):
                ratio = statistics.median(seconds["trl"]) / statistics.median(seconds["ours"])
                print(f"{name:<4} ours is {ratio:.2f} times faster than TRL (medians)", flush=True)
    packages = {name: version(name) for name in ("torch", "transformers", "trl", "datasets", "accelerate")}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {packages}")
    if options.output:
        options.output.write_text(json.dumps({"results": results, "versions": packages}, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, name, steps, folder = sys.argv[2:]
        print(json.dumps(RUNS[kind](Path(folder), name, int(steps))))
    else:
        main()

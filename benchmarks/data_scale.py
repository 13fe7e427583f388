"""Reading, tokenising and planning at scale: seconds, and the memory that stays.

For each size a preference set is generated (long prompts shared by pairs of answers, JSON lines), then one process
does what rm.py does before and during training, without a model: load, check, tokenise, group, plan the epoch with
every micro-batch, and read steps as training reads them. Memory is the process's anonymous memory (what the
kernel cannot drop) and, beside it, the memory-mapped file pages (which it can).

    python benchmarks/data_scale.py --sizes 100000 1000000 --num_proc 2
    python benchmarks/data_scale.py --tokenise qa_feedback_4way.jsonl.gz     # against TRL's map, one process each
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

STEPS_READ = 300
PAIRS_PER_STEP = 256


def resident_mib() -> dict[str, float]:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "anonymous_mib": round(int(fields["RssAnon"].split()[0]) / 1024),
        "file_mib": round(int(fields["RssFile"].split()[0]) / 1024),
        "peak_mib": round(int(fields["VmHWM"].split()[0]) / 1024),
    }


def write_rows(path: Path, num_pairs: int) -> None:
    """Three pairs over three answers per prompt."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_pairs // 3):
            prompt = [{"role": "user", "content": f"{number} " + " ".join(rng.choices(words, k=30))}]
            answers = [{"role": "assistant", "content": " ".join(rng.choices(words, k=40))} for _ in range(3)]
            for better, worse in ((0, 1), (0, 2), (1, 2)):
                row = {"chosen": [*prompt, answers[better]], "rejected": [*prompt, answers[worse]]}
                file.write(json.dumps(row) + "\n")


def prepare_once(path: Path, num_proc: int, tokenizer_folder: str) -> dict:
    import datasets

    from reward_modeling.data.collator import MicroBatchCollator
    from reward_modeling.data.loader import PromptGroups, training_loader
    from reward_modeling.data.preferences import load_preference_dataset, split_by_prompt
    from reward_modeling.data.prompt_groups import TokenizeOptions, report_groups, tokenize_and_group
    from reward_modeling.data.report import report_rows
    from reward_modeling.models.tokenizer import load_tokenizer
    from reward_modeling.objectives.bradley_terry import BradleyTerry, PairReader

    datasets.disable_progress_bars()
    figures: dict[str, float] = {}

    def timed(name: str, function):
        started = time.perf_counter()
        result = function()
        figures[name] = round(time.perf_counter() - started, 2)
        return result

    tokenizer = load_tokenizer(tokenizer_folder)
    figures["imports_mib"] = resident_mib()["anonymous_mib"]
    rows = timed("load_s", lambda: load_preference_dataset(str(path), num_proc=num_proc))
    report = report_rows("train", rows)
    train, _ = timed("split_s", lambda: split_by_prompt(rows, 500, 0))
    groups = timed(
        "tokenise_s",
        lambda: tokenize_and_group(train, tokenizer, PairReader(), TokenizeOptions(1024), num_proc),
    )
    report_groups(report, groups, "pairs")
    pairs = PromptGroups(groups)
    loader = timed(
        "plan_steps_s",
        lambda: training_loader(
            pairs,
            MicroBatchCollator("shared_prefix", 0, BradleyTerry.collate),
            units_per_step=PAIRS_PER_STEP,
            max_tokens=16384,
            seed=0,
            process=0,
            num_processes=1,
        ),
    )
    plan = loader.batch_sampler.plan
    timed("plan_micro_batches_s", lambda: [len(plan.micro_batches(step, 1)) for step in range(len(plan))])
    steps = iter(loader)
    started = time.perf_counter()
    read = sum(next(steps)["step_units"] for _ in range(min(STEPS_READ, len(loader))))
    figures["read_pairs_per_s"] = round(read / (time.perf_counter() - started))
    return {"pairs": len(pairs), "steps": len(loader), **figures, **resident_mib()}


def tokenise_against_trl(path: Path, tokenizer_folder: str) -> dict:
    """Seconds per row: our load + check + tokenise + group, against TRL's tokenising map; one process each."""
    import datasets
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, GemmaConfig
    from trl import RewardConfig, RewardTrainer

    from reward_modeling.data.preferences import load_preference_dataset
    from reward_modeling.data.prompt_groups import TokenizeOptions, tokenize_and_group
    from reward_modeling.models.tokenizer import load_tokenizer
    from reward_modeling.objectives.bradley_terry import PairReader

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer("warm up")
    raw = load_dataset("json", data_files=str(path), split="train").select_columns(["chosen", "rejected"])
    config = GemmaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    options = {"use_cpu": True, "report_to": "none", "bf16": False}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        RewardTrainer(
            model=model,
            args=RewardConfig(output_dir=output, max_length=2048, **options),
            train_dataset=raw,
            processing_class=tokenizer,
        )
    trl = time.perf_counter() - started
    started = time.perf_counter()
    rows = load_preference_dataset(str(path), num_proc=1)
    loaded = time.perf_counter() - started
    tokenize_and_group(rows, tokenizer, PairReader(), TokenizeOptions(2048), 1)
    ours = time.perf_counter() - started
    return {
        "rows": len(raw),
        "trl_us_per_row": round(1e6 * trl / len(raw)),
        "ours_us_per_row": round(1e6 * ours / len(raw)),
        "of_which_reading_us": round(1e6 * loaded / len(raw)),
        "times_faster": round(trl / ours, 2),
        "times_faster_without_reading": round(trl / (ours - loaded), 2),
    }


def make_tokenizer(folder: Path, rows: Path) -> None:
    from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, train_tokenizer

    with rows.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["chosen"][-1]["content"] for _, line in zip(range(3000), lines, strict=False)]
    train_tokenizer(texts, 8192, **TOKENIZER_STYLES["gemma"]).save_pretrained(folder)


def child(arguments: list[str], cache: Path) -> dict:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(run.stderr[-3000:])
    return json.loads(run.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    parser.add_argument("--num_proc", type=int, default=os.cpu_count())
    parser.add_argument("--tokenise", type=Path, nargs="*", default=[], help="standard rows, .jsonl.gz")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for size in options.sizes:
            write_rows(folder / "rows.jsonl", size)
            make_tokenizer(folder / "tokenizer", folder / "rows.jsonl")
            arguments = ["scale", str(folder / "rows.jsonl"), str(options.num_proc), str(folder / "tokenizer")]
            print(f"{size:>9,} pairs, first time  {child(arguments, folder / f'cache-{size}')}", flush=True)
            print(f"{size:>9,} pairs, from cache  {child(arguments, folder / f'cache-{size}')}", flush=True)
        for path in options.tokenise:
            rows = folder / "tokenise.jsonl"
            with gzip.open(path, "rb") as packed:
                rows.write_bytes(packed.read())
            make_tokenizer(folder / "tokenizer", rows)
            print(path.name, child(["tokenise", str(rows), "1", str(folder / "tokenizer")], folder / "cache-tokenise"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, rows_path, processes, tokenizer_path = sys.argv[2:]
        if kind == "scale":
            print(json.dumps(prepare_once(Path(rows_path), int(processes), tokenizer_path)))
        else:
            print(json.dumps(tokenise_against_trl(Path(rows_path), tokenizer_path)))
    else:
        main()

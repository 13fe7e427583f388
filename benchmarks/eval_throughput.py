"""Time RewardScorer against plain transformers on benchmark rows: same checkpoint, same rows, float32, all cores.

padded   as the official RewardBench command works: 8 pairs in file order, their chosen texts in one pass and their
         rejected ones in another, each padded to its longest; default attention
by_style rm_bench only: each answer once, 8 rows at a time, one style after the other, as RM-Bench's own script works
alone    one conversation at a time, each answer once: what the rewards of the others are held against
ours     RewardScorer.score of each answer once, with its defaults

Seconds go from conversations to rewards (chat template and tokenising included; imports and loading are not). Each
scorer runs in a process of its own, one after the other; nothing else should run on the machine. Two data sets:

rewardbench  2,500 pairs in the order of their subsets. With --rewardbench FILE they are the rows of FILE, and copies of
             rows drawn at random in which every word of three or more letters is replaced by another of the file with
             as many letters, the same one throughout a copy: lengths, marks and what the texts of a row share stay as
             they are. Without it all is generated, in the subsets and lengths of SUBSETS.
rm_bench     1,327 generated prompts with 3 chosen and 3 rejected answers (concise, detailed, detailed with markdown),
             lengths as in DOMAINS, 9 pairs each; laid out as pairs, 18 texts a prompt, which "padded" scores. Tokens
             are counted over all prompts; every tenth one is timed and compared (--timed_every 1: all).

    python benchmarks/eval_throughput.py --rewardbench rewardbench_rows.jsonl --output throughput.json
"""

import argparse
import json
import math
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BATCH = 8
CLEAR_MARGIN = 1e-3  # what is closer than this may turn over by rounding alone
ROWS = {"rewardbench": 2500, "rm_bench": 1327}
# A tiny Llama in which matrix products take most of the time; weights wide enough for attention to be far from uniform.
MODEL = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.08, "vocab_size": 8192,
}  # fmt: skip
SPREAD = 0.7  # of the logarithm of lengths
# RewardBench's subsets: rows; median words of the prompt, of chosen and of rejected answers. Those of llmbar and hep
# are near the real rows' lengths, the others are assumed.
SUBSETS = {
    "alpacaeval": (290, 25, [250], [120]),
    "mt-bench": (105, 45, [170], [130]),
    "llmbar": (419, 28, [50], [80]),
    "safety": (740, 14, [80], [100]),
    "math-prm": (447, 50, [130], [120]),
    "hep": (984, 65, [28], [28]),
}
# RM-Bench's domains, in the same way: concise, detailed, detailed with markdown. All lengths are assumed.
DOMAINS = {
    "chat": (129, 25, [60, 250, 250], [60, 250, 250]),
    "code": (228, 80, [50, 200, 200], [50, 200, 200]),
    "math": (529, 45, [90, 200, 200], [90, 200, 200]),
    "safety-refuse": (284, 15, [40, 160, 160], [40, 160, 160]),
    "safety-response": (157, 12, [60, 220, 220], [60, 220, 220]),
}


def generated(table: dict, rows: int) -> list[dict]:
    """Rows with the shares and lengths of the table, in its order, in words of the tiny preferences."""
    from reward_modeling.tiny.preferences import learnable_preferences

    rng = random.Random(0)
    turns = [turn["content"] for row in learnable_preferences(1000, seed=0) for turn in row["chosen"]]
    words = sorted({word for text in turns for word in text.split()})

    def text(median: int, markdown: bool = False) -> str:
        drawn = rng.choices(words, k=min(1500, max(3, round(rng.lognormvariate(math.log(median), SPREAD)))))
        for place in range(0, len(drawn), 12) if markdown else ():
            drawn[place] = ("\n\n## " if place % 48 == 0 else "\n- ") + drawn[place]
        return " ".join(drawn).strip()

    total, done, result = sum(entry[0] for entry in table.values()), 0, []
    for count, prompt, *sides in table.values():
        done += count
        while len(result) < round(done * rows / total):
            answers = [[text(median, markdown=style == 2) for style, median in enumerate(side)] for side in sides]
            result.append({"prompt": text(prompt), "chosen": answers[0], "rejected": answers[1]})
    return result


def recombined_rewardbench(path: Path, rows: int) -> list[dict]:
    """The rows of the file and copies of them with changed words, see above."""
    real = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pattern = re.compile("[A-Za-z]{3,}")
    by_length: dict[int, list[str]] = {}
    for row in real:
        for word in pattern.findall(f"{row['prompt']} {row['chosen']} {row['rejected']}"):
            by_length.setdefault(len(word), []).append(word)
    order = {name: number for number, name in enumerate(dict.fromkeys(row["subset"] for row in real))}
    rng = random.Random(0)
    drawn = rng.sample(real, min(rows, len(real)))
    for source in rng.choices(real, k=rows - len(drawn)):
        words: dict[str, str] = {}

        def other(match: re.Match, words: dict = words) -> str:
            return words.setdefault(match[0], rng.choice(by_length[len(match[0])]))

        drawn.append(source | {name: pattern.sub(other, source[name]) for name in ("prompt", "chosen", "rejected")})
    drawn.sort(key=lambda row: order[row["subset"]])
    return [{"prompt": row["prompt"], "chosen": [row["chosen"]], "rejected": [row["rejected"]]} for row in drawn]


def prepare(folder: Path, rows: list[dict]) -> int:
    """Rows, a tokenizer trained on their texts, and a random checkpoint with its head. Returns its parameters."""
    import torch
    from transformers import LlamaConfig

    from reward_modeling.models.reward_model import reward_model_class
    from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    texts = [text for row in rows for text in (row["prompt"], *row["chosen"], *row["rejected"])]
    tokenizer = train_tokenizer(texts, MODEL["vocab_size"], **TOKENIZER_STYLES["llama3"] | {"pad": "<pad>"})
    torch.manual_seed(0)
    model = reward_model_class(LlamaConfig)._from_config(LlamaConfig(num_labels=1, **token_ids(tokenizer), **MODEL))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return sum(parameter.numel() for parameter in model.parameters())


def conversation(row: dict, answer: str) -> list[dict]:
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": answer}]


def answers_of(row: dict) -> list[str]:
    return row["chosen"] + row["rejected"]


def pairs_of(row: dict) -> list[tuple[int, int]]:
    """Every chosen with every rejected answer, as numbers of `answers_of`."""
    first = len(row["chosen"])
    return list(product(range(first), range(first, first + len(row["rejected"]))))


class TokenCounter:
    """In a model's place: counts the tokens of every pass and computes none."""

    device = "cpu"

    def __init__(self):
        self.tokens = self.passes = 0

    def __call__(self, input_ids, read_positions=None, **_):
        self.tokens += input_ids.numel()
        self.passes += 1
        rewards = len(input_ids if read_positions is None else read_positions)
        return SimpleNamespace(logits=input_ids.new_zeros((rewards, 1)))


class PlainScorer:
    """transformers and nothing else; what is scored together is padded to its longest text."""

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.model = AutoModelForSequenceClassification.from_pretrained(folder / "model", dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        self.inference_mode = torch.inference_mode

    def score(self, conversations: list) -> list[float]:
        texts = [self.tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
        inputs = self.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")  # BOS is there
        with self.inference_mode():
            return self.model(**inputs).logits[:, 0].tolist()


def our_scorer(folder: Path):
    from reward_modeling.scoring import RewardScorer

    return RewardScorer.from_pretrained(folder / "model", dtype="float32", device="cpu")


def score_pairs(scorer: PlainScorer, rows: list[dict], batch: int = BATCH) -> list[tuple[float, float]]:
    """(chosen, rejected) of every pair of every row, so many pairs at a time."""
    pairs = [[conversation(row, answers_of(row)[n]) for n in pair] for row in rows for pair in pairs_of(row)]
    rewards = []
    for start in range(0, len(pairs), batch):
        sides = zip(*pairs[start : start + batch], strict=True)
        rewards += zip(*[scorer.score(list(side)) for side in sides], strict=True)
    return rewards


def score_by_style(scorer: PlainScorer, rows: list[dict]) -> list[tuple[float, float]]:
    """The same of each answer once: a file of pairs per style, the pairs made of their rewards afterwards."""
    by_number = []
    for number in range(len(answers_of(rows[0]))):
        texts = [conversation(row, answers_of(row)[number]) for row in rows]
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        by_number.append([reward for batch in batches for reward in scorer.score(batch)])
    return pair_rewards(rows, [reward for of_row in zip(*by_number, strict=True) for reward in of_row])


def score_alone(scorer: PlainScorer, rows: list[dict]) -> list[tuple[float, float]]:
    return pair_rewards(rows, [scorer.score([conversation(row, text)])[0] for row in rows for text in answers_of(row)])


def score_ours(scorer, rows: list[dict]) -> list[tuple[float, float]]:
    return pair_rewards(rows, scorer.score([conversation(row, text) for row in rows for text in answers_of(row)]))


def pair_rewards(rows: list[dict], rewards: list[float]) -> list[tuple[float, float]]:
    """From one reward per answer to (chosen, rejected) of every pair."""
    rest = iter(rewards)
    of_rows = [[next(rest) for _ in answers_of(row)] for row in rows]
    return [(of_row[a], of_row[b]) for row, of_row in zip(rows, of_rows, strict=True) for a, b in pairs_of(row)]


SCORERS = {
    "padded": (PlainScorer, score_pairs),
    "by_style": (PlainScorer, score_by_style),
    "alone": (PlainScorer, score_alone),
    "ours": (our_scorer, score_ours),
}


def child(kind: str, folder: Path, every: int) -> None:
    """Seconds, memory and rewards of every nth row; tokens of all rows."""
    import torch

    torch.set_num_threads(os.cpu_count())
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    load, score = SCORERS[kind]
    scorer = load(folder)
    score(scorer, rows[:1])  # what the first call of a process sets up
    started, cpu_started = time.perf_counter(), time.process_time()
    rewards = score(scorer, rows[::every])
    figures = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    figures |= {"peak_mib": round(int(status["VmHWM"].split()[0]) / 1024), "rewards": rewards}
    scorer.model = counter = TokenCounter()
    score(scorer, rows)
    figures |= {"tokens": counter.tokens, "passes": counter.passes}
    (folder / f"{kind}.json").write_text(json.dumps(figures))


def measure(folder: Path, kind: str, every: int) -> dict:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, str(folder), str(every)]
    process = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"{kind} failed:\n{process.stderr[-3000:]}")
    return json.loads((folder / f"{kind}.json").read_text())


def compare(rewards: list, alone: list) -> dict:
    """How far rewards of pairs are from those of each text alone, and which verdicts that turns over."""
    both = [(*pair, *reference) for pair, reference in zip(rewards, alone, strict=True)]
    turned = [abs(c - d) for a, b, c, d in both if (a > b) != (c > d)]
    return {
        "largest_difference": max(max(abs(a - c), abs(b - d)) for a, b, c, d in both),
        "verdicts_turned": len(turned),
        "verdicts_turned_clear": sum(margin > CLEAR_MARGIN for margin in turned),
    }


def run_data_set(folder: Path, rows: list[dict], every: int, repeats: int) -> dict:
    parameters = prepare(folder, rows)
    kinds = [kind for kind in SCORERS if kind != "by_style" or len(rows[0]["chosen"]) > 1]
    runs: dict[str, list[dict]] = {kind: [] for kind in kinds}
    for kind in kinds * repeats:  # in turn, since a machine's speed drifts
        runs[kind].append(measure(folder, kind, every))
        print(f"  {kind:<8} {runs[kind][-1]['seconds']:.1f} s", flush=True)
    figures, alone = {}, runs["alone"][-1]["rewards"]
    for kind in kinds:
        seconds = [run["seconds"] for run in runs[kind]]
        rewards = runs[kind][-1].pop("rewards")
        figures[kind] = runs[kind][-1] | {"seconds": statistics.median(seconds), "all_seconds": seconds}
        figures[kind] |= compare(rewards, alone)
    margins = [abs(chosen - rejected) for chosen, rejected in alone]
    return {
        "rows": len(rows),
        "timed_rows": len(rows[::every]),
        "timed_pairs": len(alone),
        "close_pairs": sum(margin <= CLEAR_MARGIN for margin in margins),
        "median_margin": statistics.median(margins),
        "parameters": parameters,
        "scorers": figures,
    }


def table(name: str, result: dict) -> list[list[str]]:
    """Header and rows, all of it text."""
    ours = result["scorers"]["ours"]
    header = ["data set", "scorer", "seconds", "of ours", "CPU s", "tokens, all rows", "of ours", "passes", "peak MiB"]
    lines = [[*header, "rewards off by", "verdicts turned", "clear ones"]]
    for kind, run in result["scorers"].items():
        line = [
            name,
            kind,
            f"{run['seconds']:.1f}",
            f"{run['seconds'] / ours['seconds']:.2f} x",
            f"{run['cpu_seconds']:.1f}",
        ]
        line += [f"{run['tokens']:,}", f"{run['tokens'] / ours['tokens']:.2f} x", f"{run['passes']:,}"]
        line += [f"{run['peak_mib']:,}", f"{run['largest_difference']:.1e}", str(run["verdicts_turned"])]
        lines.append([*line, str(run["verdicts_turned_clear"])])
    return lines


def print_tables(results: dict) -> None:
    """What it was taken with, and a Markdown table that is aligned for the eye as well."""
    lines: list[list[str]] = []
    for name, result in results.items():
        lines += table(name, result)[1 if lines else 0 :]
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "tokenizers"))
    print(f"\n```\npython {' '.join(sys.argv)}\n```\n")
    print(f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores; float32; Llama of ", end="")
    print(f"{MODEL['num_hidden_layers']} layers x {MODEL['hidden_size']}, vocabulary {MODEL['vocab_size']:,}.")
    for name, result in results.items():
        close = f"{result['close_pairs']} with a margin of at most {CLEAR_MARGIN}, median {result['median_margin']:.2f}"
        timed = f"{result['timed_rows']:,} of them timed and compared ({result['timed_pairs']:,} pairs, {close})"
        print(f"{name}: {result['rows']:,} rows, {timed}; {result['parameters']:,} parameters.")
    print()
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewardbench", type=Path, help="RewardBench's columns, .jsonl")
    parser.add_argument("--data_sets", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--rows", type=int, help="fewer rows or prompts, for trying out")
    parser.add_argument("--timed_every", type=int, default=10, help="rm_bench: time and compare every nth prompt only")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each scorer, in turn; medians are compared")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.data_sets:
            count = options.rows or ROWS[name]
            if name == "rewardbench" and options.rewardbench:
                rows = recombined_rewardbench(options.rewardbench, count)
            else:
                rows = generated(DOMAINS if name == "rm_bench" else SUBSETS, count)
            print(f"{name}: {len(rows):,} rows", flush=True)
            every = options.timed_every if name == "rm_bench" else 1
            results[name] = run_data_set(Path(temporary) / name, rows, every, options.repeats)
    print_tables(results)
    if options.output:
        record = {"command": sys.argv, "cores": os.cpu_count(), "model": MODEL, "results": results}
        options.output.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()

"""Computed tokens for each real one where rows are padded, before blocks and with them, in training and evaluation.

before   the pairs in the order of the plan, in as many micro-batches as now, of as many pairs each
blocks   as rm.py computes them: pairs of like length together, each micro-batch cut into blocks of like rows

Tokens are counted, not measured: they are the same on every machine. `largest` is the largest micro-batch as a share of
--max_tokens. With --timed_steps both ways also train a tiny BERT, each step both ways in turn, in one process.

    python benchmarks/padding.py hh_harmless.jsonl --tokenizer sentence-transformers/all-MiniLM-L6-v2
    python benchmarks/padding.py --drawn 2 4                     # lengths drawn by us, of so many answers a prompt
    python benchmarks/padding.py rows.jsonl --tokenizer bert-base-uncased --timed_steps 5 --max_tokens 8192
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.micro_batches import MicroBatch, block_shapes, computed_tokens
from reward_modeling.data.planning import PADDED, EpochPlan, GroupSizes, plan_epoch, plan_evaluation
from reward_modeling.models.reward_model import with_blocks
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.objectives.bradley_terry import BradleyTerry, PairReader, bradley_terry_loss

MOST_DRAWN = 256  # tokens of a prompt or an answer
DRAWN_GROUPS = 1500
COLUMNS = ("rows", "max_tokens", "", "before", "blocks", "passes", "blocks/pass", "largest before", "largest blocks")
FORMAT = "{:<16}{:>10}  {:<11}{:>7}{:>8}{:>8}{:>13}{:>16}{:>16}"


class BothWays(NamedTuple):
    """The same pairs, cut in two ways."""

    before: list[MicroBatch]
    blocks: list[MicroBatch]


def groups_of_file(path: str, tokenizer_name: str, max_length: int) -> list[dict]:
    """As rm.py reads and tokenises the pairs of the file, but for a few prompts that it holds out."""
    from reward_modeling.data.group_rows import TokenizeOptions
    from reward_modeling.data.prepare import prepare_pairs

    tokenizer = load_tokenizer(tokenizer_name)
    data = prepare_pairs(
        path, None, tokenizer, PairReader(), TokenizeOptions(max_length), eval_size=1, seed=0, num_proc=1
    )
    return list(data.train.groups)


def drawn_groups(answers: int) -> list[dict]:
    """Prompts of 60 tokens and answers of 120 in the median, each answer compared with each other one."""
    rng = np.random.default_rng(0)

    def tokens(median: int) -> list[int]:
        length = int(np.clip(rng.lognormal(np.log(median), 0.8), 3, MOST_DRAWN))
        return rng.integers(5, 1000, length).tolist()

    pairs = [list(pair) for pair in itertools.combinations(range(answers), 2)]
    targets = [[0.0]] * len(pairs)
    return [
        {
            "prefix_ids": tokens(60),
            "completion_ids": [tokens(120) for _ in range(answers)],
            "units": pairs,
            "targets": targets,
        }
        for _ in range(DRAWN_GROUPS)
    ]


def both_ways(blocks: list[MicroBatch], order: list[int]) -> BothWays:
    """`order` is that of the groups."""
    place = {group: number for number, group in enumerate(order)}
    chunks = [chunk._replace(blocks=()) for micro_batch in blocks for chunk in micro_batch]
    chunks.sort(key=lambda chunk: (place[chunk.group], chunk.unit_start))
    parts = np.array_split(np.arange(len(chunks)), len(blocks))
    return BothWays([[chunks[number] for number in part] for part in parts], blocks)


def training_steps(plan: EpochPlan) -> list[BothWays]:
    steps = []
    for step in range(len(plan)):
        order = plan.pieces[plan.step_starts[step] : plan.step_starts[step + 1], 0].tolist()
        steps.append(both_ways(plan.micro_batches(step, 1)[0], order))
    return steps


def table_row(name: str, max_tokens: int, kind: str, steps: list[BothWays]) -> str:
    before, blocks = ([batch for step in steps for batch in step[way]] for way in (0, 1))
    real = sum(chunk.tokens for batch in blocks for chunk in batch)
    counts = [[computed_tokens(batch) for batch in batches] for batches in (before, blocks)]
    shapes = sum(len(block_shapes(batch)) for batch in blocks)
    ratios = [f"{sum(of) / real:.2f}" for of in counts]
    largest = [f"{max(of) / max_tokens:.2f}" for of in counts]
    return FORMAT.format(name, max_tokens, kind, *ratios, len(blocks), f"{shapes / len(blocks):.1f}", *largest)


def seconds_of(steps: list[BothWays], groups: list[dict]) -> tuple[list[float], list[float]]:
    """Of forward and backward of each step, (before, blocks); the first step, which warms up, is left out."""
    most = max(max(ids) for group in groups for ids in [group["prefix_ids"], *group["completion_ids"]])
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=most + 1, num_labels=1, max_position_embeddings=2048, **sizes)
    model = with_blocks(BertForSequenceClassification(config)).train()
    collator, seconds = MicroBatchCollator(PADDED, 0, BradleyTerry.collate), ([], [])
    for number, step in enumerate(steps):
        for way in (0, 1) if number % 2 else (1, 0):
            batches = [collator(batch, dict(enumerate(groups))) for batch in step[way]]
            started = time.perf_counter()
            for batch in batches:
                logits = model(**batch["model_inputs"]).logits[:, 0].float()
                bradley_terry_loss(*logits[batch["targets"]["pairs"]].unbind(1)).sum().backward()
            if number:
                seconds[way].append(time.perf_counter() - started)
            model.zero_grad()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference pairs, as rm.py reads them")
    parser.add_argument("--tokenizer", help="of an encoder, for the files")
    parser.add_argument("--drawn", type=int, nargs="*", default=[])
    parser.add_argument("--max_tokens", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--pairs_per_step", type=int, default=64)
    parser.add_argument("--timed_steps", type=int, default=0)
    options = parser.parse_args()
    if options.files and not options.tokenizer:
        parser.error("files need --tokenizer")
    sets = {Path(path).name.split(".")[0]: path for path in options.files}
    sets = {name: groups_of_file(path, options.tokenizer, options.max_length) for name, path in sets.items()}
    sets |= {f"drawn {answers}": drawn_groups(answers) for answers in options.drawn}
    print(FORMAT.format(*COLUMNS))
    for (name, groups), max_tokens in itertools.product(sets.items(), options.max_tokens):
        sizes, limits = GroupSizes.from_rows(groups), {"max_tokens": max_tokens, "batching": PADDED}
        steps = training_steps(plan_epoch(sizes, units_per_step=options.pairs_per_step, seed=1, epoch=0, **limits))
        (evaluation,) = plan_evaluation(sizes, num_processes=1, **limits)
        print(table_row(name, max_tokens, "training", steps))
        print(table_row(name, max_tokens, "evaluation", [both_ways(evaluation, list(range(len(groups))))]), flush=True)
        if options.timed_steps:
            before, blocks = map(np.array, seconds_of(steps[: options.timed_steps + 1], groups))
            print(
                f"  seconds of {len(before)} steps: before {before.sum():.2f}, blocks {blocks.sum():.2f}; before / ",
                end="",
            )
            print("blocks of each: " + " ".join(f"{ratio:.2f}" for ratio in sorted(before / blocks)))


if __name__ == "__main__":
    main()

"""Lists of K ranked answers against their pairs as other trainers have them: two padded rows for each pair.

    OMP_NUM_THREADS=2 python benchmarks/ranked_lists.py --answers 4 9

A list of 9 answers has 36 pairs. Here a prompt and its answers are computed once, and all pairs are read from them; as
rows of chosen and rejected every answer is computed 8 times, and its prompt with it: so TRL trains, whose default is 8
pairs a forward pass. Both start from the same weights (a Gemma of 6 layers x 256), take the same lists in the same
steps, and must have the same losses. Float32, on the CPU, without gradient checkpointing, each in a process of its own.

Prints tokens with padding, seconds a step (median, without the first step), how much memory the steps take at most
beyond what the process had before them, and the ratios. Some five minutes on idle cores.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from gpu_workloads import GroupsInMemory, Workload, draw_groups  # noqa: E402
from torch.nn.functional import logsigmoid  # noqa: E402
from transformers import AutoModelForSequenceClassification, GemmaConfig, PreTrainedModel  # noqa: E402

from reward_modeling.data.collator import MicroBatchCollator  # noqa: E402
from reward_modeling.data.planning import PADDED, SHARED_PREFIX, Chunk, EpochPlan, plan_epoch  # noqa: E402
from reward_modeling.models.attention import register_shared_prefix_attention  # noqa: E402
from reward_modeling.models.reward_model import reward_model_class  # noqa: E402
from reward_modeling.objectives.bradley_terry import BradleyTerry, BradleyTerryFlags  # noqa: E402
from reward_modeling.training.memory_probe import GIB, peak_memory  # noqa: E402

PROMPT, ANSWER, SPREAD = 200, 150, 0.3  # tokens, drawn log-normally
MAX_LENGTH, MAX_TOKENS = 1024, 2048  # the second of our micro-batches
VOCAB_SIZE, PAD = 8192, 0
KINDS = {"lists": None, "8 pairs a pass": 8, "1 pair a pass": 1}
LIMIT = 1e-4  # of the difference of losses


def build_model(folder: Path) -> None:
    config = GemmaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=4096,
        num_labels=1,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).save_pretrained(folder)


def draw_lists(answers: int, prompts: int) -> list[dict]:
    """As a list of ranked answers is tokenised: all its pairs, which together count as much as one."""
    workload = Workload(PROMPT, ANSWER, answers, SPREAD)
    groups = draw_groups(workload, prompts * answers * (answers - 1) // 2, MAX_LENGTH, VOCAB_SIZE)
    return [group | {"weights": [1 / len(group["units"])] * len(group["units"])} for group in groups]


# --- a step, forward and backward; both give the loss and the tokens that were computed -------------------------------


def step_of_lists(model: PreTrainedModel, groups: list[dict], plan: EpochPlan, step: int) -> tuple[float, int]:
    """Packed, each prompt and answer once."""
    objective, collator = (
        BradleyTerry(BradleyTerryFlags()),
        MicroBatchCollator(SHARED_PREFIX, PAD, BradleyTerry.collate),
    )
    total, tokens = 0.0, 0
    for micro_batch in plan.micro_batches(step, 1)[0]:
        batch = collator(micro_batch, {chunk.group: groups[chunk.group] for chunk in micro_batch})
        losses = objective.loss(model(**batch["model_inputs"]).logits, batch["targets"])
        loss = (losses * batch["weights"]).sum() / plan.step_weight(step)
        loss.backward()
        total, tokens = total + loss.item(), tokens + batch["num_tokens"]
    return total, tokens


def step_of_pairs(
    model: PreTrainedModel, groups: list[dict], plan: EpochPlan, step: int, pairs_per_pass: int
) -> tuple[float, int]:
    """Padded, two rows for each pair: the mean of their losses."""
    collator, pairs = MicroBatchCollator(PADDED, PAD, BradleyTerry.collate), list(pairs_of(plan, step))
    total, tokens = 0.0, 0
    for start in range(0, len(pairs), pairs_per_pass):
        batch = collator(pairs[start : start + pairs_per_pass], dict(enumerate(groups)))
        rows = {name: batch["model_inputs"][name] for name in ("input_ids", "attention_mask")}
        chosen, rejected = model(**rows).logits[:, 0][batch["targets"]["pairs"]].unbind(dim=1)
        loss = -logsigmoid(chosen - rejected).sum() / len(pairs)
        loss.backward()
        total, tokens = total + loss.item(), tokens + batch["num_tokens"]
    return total, tokens


def pairs_of(plan: EpochPlan, step: int) -> Iterator[Chunk]:
    for group, first, last in plan.pieces[plan.step_starts[step] : plan.step_starts[step + 1]].tolist():
        yield from (plan.sizes.chunk(PADDED, group, pair, pair + 1) for pair in range(first, last))


def run(kind: str, answers: int, prompts_per_step: int, steps: int, folder: Path) -> dict:
    """Train, and say what it took."""
    pairs_per_pass, pairs = KINDS[kind], answers * (answers - 1) // 2
    groups = draw_lists(answers, prompts_per_step * steps)
    plan = plan_epoch(
        GroupsInMemory(groups).sizes,
        units_per_step=prompts_per_step * pairs,
        max_tokens=MAX_TOKENS,
        batching=SHARED_PREFIX,
        seed=0,
        epoch=0,
    )
    if pairs_per_pass is None:
        register_shared_prefix_attention()
        model = reward_model_class(GemmaConfig).from_pretrained(folder, attn_implementation=SHARED_PREFIX)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)
    before, losses, seconds, tokens = peak_memory(torch.device("cpu")), [], [], 0
    for step in range(len(plan)):
        started = time.perf_counter()
        if pairs_per_pass is None:
            loss, computed = step_of_lists(model, groups, plan, step)
        else:
            loss, computed = step_of_pairs(model, groups, plan, step, pairs_per_pass)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
        losses.append(loss)
        tokens += computed
    memory = (peak_memory(torch.device("cpu")) - before) * GIB / 2**20
    return {
        "losses": losses,
        "tokens": tokens / len(plan),
        "seconds": statistics.median(seconds[1:]),
        "MiB": memory,
    }


def measure(kind: str, answers: int, options: argparse.Namespace, folder: Path) -> dict:
    """One run in a process of its own, whose memory is no other's.

    Raises:
        RuntimeError: it failed.
    """
    amounts = (answers, options.prompts_per_step, options.steps)
    command = [sys.executable, __file__, "--child", kind, *map(str, amounts), str(folder)]
    process = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"{kind}, {answers} answers failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def print_row(kind: str, figures: dict, lists: dict) -> None:
    off = max(abs(one - other) for one, other in zip(figures["losses"], lists["losses"], strict=True))
    formats = {"tokens": ",.0f", "seconds": ".2f", "MiB": ",.0f"}
    cells = [f"{figures[name]:{form}} ({figures[name] / lists[name]:.2f})" for name, form in formats.items()]
    print(f"| {kind} | {' | '.join(cells)} | {off:.1e} |", flush=True)
    if not off <= LIMIT:
        raise RuntimeError(f"{kind}: expected the losses of the lists, found them {off:.1e} away")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, nargs="+", default=[4, 9], help="to each prompt")
    parser.add_argument("--prompts_per_step", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="at least 2: the first is not timed")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_model(folder)
        for answers in options.answers:
            pairs = answers * (answers - 1) // 2
            print(f"\n{answers} answers, {pairs} pairs a prompt; in brackets: as many times what lists take\n")
            print("| | tokens a step | seconds a step | MiB | losses: largest difference |\n|---|---|---|---|---|")
            results[answers] = {kind: measure(kind, answers, options, folder) for kind in KINDS}
            for kind, figures in results[answers].items():
                print_row(kind, figures, results[answers]["lists"])
    machine = platform.processor() or platform.machine()
    print(f"\n{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, *amounts, folder = sys.argv[2:]
        print(json.dumps(run(kind, *map(int, amounts), Path(folder))))
    else:
        main()

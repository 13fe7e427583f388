"""Trees of texts that begin alike against one row for each: tokens and time of training, forward and backward.

    OMP_NUM_THREADS=2 python benchmarks/trees.py --prmbench prmbench_part.jsonl.gz \
        --gsm8k gsm8k_model_solutions.jsonl.gz
    OMP_NUM_THREADS=2 python benchmarks/trees.py --model SmolLM2-135M-Instruct --answers 4 --words 60 40 \
        --row_tokens 1800 --repeats 2 --ways tree rows --prmbench ... --gsm8k ...

Pairwise rows in both orders, and solutions whose steps have labels. Four ways to compute the same losses:

tree           what any two rows begin with is computed once for both
prompts once   only what all rows of a prompt begin with is
rows           each by itself, without padding
padded rows    each by itself, several in a rectangle, in transformers' own attention

Each way takes the same units in one step of the same weights, in float32 and without gradient checkpointing; their
losses and gradients must agree. They take turns, `--repeats` times after one that is not timed; a ratio is of the two
times of a turn, and the median of these is shown. Tokens are counted over all rows, and over those that are timed: the
first that have `--row_tokens` together. Without --model it is a Llama of 6 layers x 256. Each command takes two or
three minutes on two idle cores.
"""

import argparse
import copy
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import datasets  # noqa: E402
import torch  # noqa: E402
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase  # noqa: E402
from transformers.utils import logging  # noqa: E402
from tree_rows import Case, alternatives_case, gsm8k_case, pairwise_case, prmbench_case, texts  # noqa: E402

from reward_modeling.common.errors import run_script  # noqa: E402
from reward_modeling.data.collator import MicroBatchCollator  # noqa: E402
from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX, GroupSizes, plan_epoch  # noqa: E402
from reward_modeling.models.attention import register_shared_prefix_attention  # noqa: E402
from reward_modeling.models.process_format import make_process_model  # noqa: E402
from reward_modeling.models.reward_model import class_for  # noqa: E402
from reward_modeling.models.tokenizer import load_tokenizer  # noqa: E402
from reward_modeling.objectives.base import Objective  # noqa: E402
from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config  # noqa: E402
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer  # noqa: E402

TREE, PROMPTS_ONCE, ROWS, PADDED_ROWS = "tree", "prompts once", "rows", "padded rows"
WAYS = {TREE: SHARED_PREFIX, PROMPTS_ONCE: SHARED_PREFIX, ROWS: PACKED, PADDED_ROWS: PADDED}
ANSWERS = (2, 4, 6)
VOCABULARY, PAD = 4096, 0
SIZES = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "max_position_embeddings": 4096}
LIMIT = 1e-5  # of the difference of the losses over the loss, and of a gradient over the largest one


class Step(NamedTuple):
    """What one way made of the units that are timed: its loss, all gradients, tokens with padding, seconds."""

    loss: float
    gradients: dict[str, torch.Tensor]
    tokens: int
    seconds: float


def main() -> None:
    options = read_options()
    with tempfile.TemporaryDirectory() as temporary:
        datasets.config.HF_DATASETS_CACHE = Path(temporary) / "cache"
        for progress_bars in (datasets, logging):
            progress_bars.disable_progress_bar()
        logging.set_verbosity_error()  # of heads that are new
        cases = list(chosen_cases(options))
        folder = options.model or build_model(Path(temporary) / "model", cases)
        tokenizer = load_tokenizer(str(folder))
        register_shared_prefix_attention()
        print(
            f"{Path(folder).name if options.model else 'Llama, 6 layers x 256'}; in brackets: times what trees take\n"
        )
        print("| | | tokens, all | prompts timed | tokens, timed | seconds | off by: loss | gradient |")
        print("|---|---|---|---|---|---|---|---|")
        results = [measure(case, folder, tokenizer, options) for case in cases]
    machine = platform.processor() or platform.machine()
    print(f"\n{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a language model with a chat template")
    parser.add_argument("--answers", type=int, nargs="*", default=list(ANSWERS), help="of a prompt, in pairwise rows")
    parser.add_argument("--words", type=int, nargs=2, default=[100, 70], help="of a prompt and an answer, drawn")
    parser.add_argument("--drawn", type=int, default=20, help="prompts of each kind of drawn rows")
    parser.add_argument("--prmbench", type=Path, help="PRMBench's rows (.jsonl or .jsonl.gz)")
    parser.add_argument(
        "--gsm8k", type=Path, help="questions with four solutions each, as process_models.py takes them"
    )
    parser.add_argument("--row_tokens", type=int, default=4000, help="to be timed, in rows; of one prompt at least")
    parser.add_argument("--max_tokens", type=int, default=4096, help="of a micro-batch")
    parser.add_argument("--max_length", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="the first is compared with")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    return parser.parse_args()


def chosen_cases(options: argparse.Namespace):
    for answers in options.answers:
        yield pairwise_case(answers, options.drawn, tuple(options.words))
    yield alternatives_case(options.drawn)
    if options.prmbench:
        yield prmbench_case(options.prmbench)
    if options.gsm8k:
        yield gsm8k_case(options.gsm8k)


# --- models -----------------------------------------------------------------------------------------------------------


def build_model(folder: Path, cases: list[Case]) -> Path:
    """A language model of random weights."""
    tokenizer = train_tokenizer(texts(cases), VOCABULARY, **TOKENIZER_STYLES["llama3"] | {"pad": "<|pad|>"})
    config = tiny_config("llama", len(tokenizer), **SIZES | {"initializer_range": 0.02}, **token_ids(tokenizer))
    return build_tiny_checkpoint(folder, tokenizer, config)


def load_model(folder: Path, objective: Objective, attention: str) -> PreTrainedModel:
    """With a new head, the same for every attention."""
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = objective.num_labels
    if objective.reads_steps:
        make_process_model(config)
    torch.manual_seed(0)
    options = {"config": copy.deepcopy(config), "attn_implementation": attention, "dtype": torch.float32}
    return class_for(config).from_pretrained(folder, **options).train()


# --- a step -----------------------------------------------------------------------------------------------------------


def groups_of(way: str, groups: list[dict]) -> list[dict]:
    return [group | {"shared_lengths": []} for group in groups] if way == PROMPTS_ONCE else groups


def batches_of(way: str, objective: Objective, groups: list[dict], max_tokens: int) -> tuple[list[dict], float]:
    """The micro-batches of one step of all units, and what the sum of their losses is divided by."""
    groups = groups_of(way, groups)
    sizes = GroupSizes.from_rows(groups)
    units = {"units_per_step": sizes.num_units, "max_tokens": max_tokens, "batching": WAYS[way]}
    plan = plan_epoch(sizes, **units, seed=0, epoch=0)
    collator = MicroBatchCollator(WAYS[way], PAD, objective.collate)
    batches = [collator(each, dict(enumerate(groups))) for each in plan.micro_batches(0, 1)[0]]
    return batches, plan.step_weight(0)


def take_step(model: PreTrainedModel, objective: Objective, batches: list[dict], weight: float) -> Step:
    model.zero_grad(set_to_none=True)
    started, total = time.perf_counter(), 0.0
    for batch in batches:
        losses = objective.loss(model(**batch["model_inputs"]).logits.float(), batch["targets"])
        loss = (losses * batch["weights"]).sum() / weight
        loss.backward()
        total += loss.item()
    seconds = time.perf_counter() - started
    gradients = {name: each.grad for name, each in model.named_parameters()}
    return Step(total, gradients, sum(batch["num_tokens"] for batch in batches), seconds)


def differences(one: Step, other: Step) -> tuple[float, float]:
    """Of the losses, over the loss; of the gradients, the largest over the largest gradient."""
    largest = max(gradient.abs().max().item() for gradient in other.gradients.values())
    off = max((one.gradients[name] - gradient).abs().max().item() for name, gradient in other.gradients.items())
    return abs(one.loss - other.loss) / abs(other.loss), off / largest


# --- a case -----------------------------------------------------------------------------------------------------------


def some_groups(groups: list[dict], row_tokens: int) -> list[dict]:
    """The first ones that have so many tokens together in rows of their own; the smallest where none is so small."""
    of_groups = [count_tokens(ROWS, [group]) for group in groups]
    taken, left = [], row_tokens
    for group, tokens in zip(groups, of_groups, strict=True):
        if tokens <= left:
            taken.append(group)
            left -= tokens
    return taken or [groups[of_groups.index(min(of_groups))]]


def count_tokens(way: str, groups: list[dict]) -> int:
    """Of all units, where each prompt has a micro-batch of its own."""
    groups = groups_of(way, groups)
    sizes = GroupSizes.from_rows(groups)
    return sum(sizes.chunk(WAYS[way], number, 0, len(group["units"])).tokens for number, group in enumerate(groups))


def measure(case: Case, folder: Path, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> dict:
    """Time the ways in turn, and print a line for each.

    Raises:
        RuntimeError: they do not compute the same.
    """
    objective, ways = case.objective, options.ways
    groups = case.groups(tokenizer, options.max_length)
    timed = some_groups(groups, options.row_tokens)
    attentions = {way: "sdpa" if WAYS[way] == PADDED else SHARED_PREFIX for way in ways}
    models = {each: load_model(folder, objective, each) for each in set(attentions.values())}
    steps = {way: batches_of(way, objective, timed, options.max_tokens) for way in ways}

    def run(way: str) -> Step:
        return take_step(models[attentions[way]], objective, *steps[way])

    reference = run(ways[-1])  # the plainest
    off = {way: differences(run(way), reference) for way in ways[:-1]} | {ways[-1]: (0.0, 0.0)}
    rounds = [{way: run(way) for way in ways} for _ in range(options.repeats)]
    figures = {way: figures_of(way, ways[0], groups, rounds) | {"off": off[way]} for way in ways}
    for way in ways:
        print(line(case.name, way, len(timed), figures[way]), flush=True)
    if not max(max(each) for each in off.values()) <= LIMIT:
        raise RuntimeError(f"{case.name}: expected the losses and gradients of {ways[-1]}, found {off}")
    return {"case": case.name, "prompts": len(groups), "prompts_timed": len(timed), "ways": figures}


def figures_of(way: str, first: str, groups: list[dict], rounds: list[dict[str, Step]]) -> dict:
    """Each with how many times it is of the first way; seconds and their ratio as medians, ratios of each round."""
    tokens, of_first = count_tokens(way, groups), count_tokens(first, groups)
    ratios = [of[way].seconds / of[first].seconds for of in rounds]
    return {
        "tokens": (tokens, tokens / of_first),
        "timed_tokens": (rounds[0][way].tokens, rounds[0][way].tokens / rounds[0][first].tokens),
        "seconds": (statistics.median(of[way].seconds for of in rounds), statistics.median(ratios)),
        "ratios": ratios,
    }


def line(case: str, way: str, prompts: int, figures: dict) -> str:
    (tokens, of_all), (timed, of_timed), (seconds, times) = (
        figures[name] for name in ("tokens", "timed_tokens", "seconds")
    )
    cells = [f"{tokens:,} ({of_all:.2f})", prompts, f"{timed:,} ({of_timed:.2f})", f"{seconds:.2f} ({times:.2f})"]
    cells += [f"{each:.0e}" for each in figures["off"]]
    return f"| {case} | {way} | {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    run_script(main)

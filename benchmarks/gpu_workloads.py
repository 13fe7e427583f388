"""What gpu_throughput.py trains on: shapes of models, rows of given lengths, and the operations that they need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.utils.benchmark
from torch import nn
from transformers import GemmaConfig, MistralConfig, PreTrainedConfig, PreTrainedModel

from reward_modeling.data.planning import SHARED_PREFIX, EpochPlan, GroupSizes, MicroBatch


@dataclass(frozen=True)
class Shape:
    """A model of random weights. `weights` is the type of what the optimizer holds.

    What rm.py does not do, to find out what it would gain: see `compile_parts` and `fuse_norms` of gpu_training.py.
    """

    config: PreTrainedConfig
    weights: str
    optimizer: str = "adamw_torch_fused"
    compiled: bool = False
    fused_norms: bool = False


@dataclass(frozen=True)
class Workload:
    """Lengths in tokens, drawn log-normally: `spread` is the standard deviation of their logarithm."""

    prompt: int  # mean
    answer: int  # mean
    answers: int  # per prompt; every two of them are a pair
    spread: float

    def shortened(self, by: int) -> "Workload":
        return Workload(self.prompt // by, self.answer // by, self.answers, self.spread)


# google/gemma-2b's and mistralai/Mistral-7B-v0.1's config.json. In float32, weights, gradients and AdamW's two states
# take 40 GB of the first and 114 GB of the second: this one is held in bfloat16, AdamW's states as well (57 GB).
SHAPES = {
    "gemma-2b": Shape(
        GemmaConfig(
            vocab_size=256_000,
            hidden_size=2048,
            intermediate_size=16_384,
            num_hidden_layers=18,
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=256,
            max_position_embeddings=8192,
            num_labels=1,
        ),
        weights="float32",
    ),
    "mistral-7b": Shape(
        MistralConfig(
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=32_768,
            sliding_window=4096,
            num_labels=1,
        ),
        weights="bfloat16",
    ),
}
WORKLOADS = {
    # A row has 190 tokens on average, of which its prompt is 60%; one row in a hundred is longer than 700.
    "hh": Workload(prompt=114, answer=76, answers=2, spread=0.9),
    "four_600_120": Workload(prompt=600, answer=120, answers=4, spread=0.3),
    "four_150_350": Workload(prompt=150, answer=350, answers=4, spread=0.3),
}
# Without a GPU: everything small, in float32.
SMALL_SHAPES = {
    "gemma-2b": Shape(
        GemmaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=32,
            max_position_embeddings=512,
            num_labels=1,
        ),
        weights="float32",
    ),
}
SMALL_BY = 8


def draw_groups(workload: Workload, pairs: int, max_length: int, vocab_size: int, seed: int = 0) -> list[dict]:
    """Group rows, as `MicroBatchCollator` takes them, with at least so many pairs in all."""
    rng = np.random.default_rng(seed)
    numbers = [(a, b) for a in range(workload.answers) for b in range(a + 1, workload.answers)]

    def ids(mean: int) -> list[int]:
        # the mean of a log-normal distribution is exp(mu + spread^2 / 2)
        length = rng.lognormal(np.log(mean) - workload.spread**2 / 2, workload.spread)
        return rng.integers(3, vocab_size, size=int(np.clip(length, 1, max_length // 2))).tolist()

    return [
        {
            "prefix_ids": ids(workload.prompt),
            "completion_ids": [ids(workload.answer) for _ in range(workload.answers)],
            "units": [list(pair) for pair in numbers],
            "targets": [[1.0, 1.0, 0.0]] * len(numbers),
        }
        for _ in range(-(-pairs // len(numbers)))
    ]


class GroupsInMemory:
    """Drawn groups in the place of `loader.PromptGroups`, which reads them from the disk."""

    def __init__(self, groups: list[dict]):
        self.groups = groups
        self.sizes = GroupSizes.from_rows(groups)

    def __len__(self) -> int:
        return self.sizes.num_units

    def read(self, micro_batch: MicroBatch) -> dict[int, dict]:
        return {chunk.group: self.groups[chunk.group] for chunk in micro_batch}


@dataclass(frozen=True)
class Work:
    """What the steps of a plan have to compute at least, every prompt once."""

    pairs: int
    unique_tokens: int
    flops: float


def work_of(plan: EpochPlan, steps: range, model: PreTrainedModel) -> Work:
    """Operations of forward and backward, none of a recomputation: 6 per weight of a linear layer and token, and 12
    times heads x head_dim per layer, query and key that it sees.

    Of the last layer's feed-forward part and attention only what the scored tokens need is counted. Embeddings,
    norms, activations and the optimizer are not.
    """
    sizes, config = plan.sizes, model.config
    layers = model.get_decoder().layers
    weights, last_feed_forward = linear_weights(layers), linear_weights(layers[-1].mlp)
    width = config.num_attention_heads * config.head_dim
    tokens, flops, pairs = 0, 0.0, 0
    for step in steps:
        pairs += plan.step_units(step)
        for group, first, last in plan.pieces[plan.step_starts[step] : plan.step_starts[step + 1]].tolist():
            chunk = sizes.chunk(SHARED_PREFIX, group, first, last)
            prompt = int(sizes.prefix_lengths[group])
            used = np.unique(sizes.group_members(group, first, last))
            answers = sizes.completion_lengths[sizes.completion_offsets[group] + used]
            seen = prompt * (prompt + 1) / 2 + (answers * prompt + answers * (answers + 1) / 2).sum()
            seen_by_scored = (answers + prompt).sum()
            flops += 6 * (weights * chunk.tokens - last_feed_forward * (chunk.tokens - len(used)))
            flops += 12 * width * (seen * (len(layers) - 1) + seen_by_scored)
            tokens += chunk.tokens
    return Work(pairs, tokens, float(flops))


def linear_weights(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


@contextmanager
def first_layer_alone(model: PreTrainedModel) -> Iterator[None]:
    """The model without its other layers, to let the host settle in short time what depends on shapes.

    On Hopper scaled_dot_product_attention goes to cuDNN (torch 2.11, cuDNN after 9.15), which plans on the host, for
    tens of milliseconds, each time a shape is new. Padded rows have another shape in nearly every pass: a long run has
    met most of them, and a short measurement would show the planning as well.
    """
    decoder = model.get_decoder()
    layers, decoder.layers = decoder.layers, decoder.layers[:1]
    try:
        yield
    finally:
        decoder.layers = layers


def without_cudnn_where_it_fails(run: Callable[[], object]) -> None:
    """Run it, and once more without cuDNN's attention where that has no plan for a shape.

    torch 2.11 chooses cuDNN before it knows, and padded rows would have no figure at all.
    """
    try:
        run()
    except RuntimeError as error:
        if "cudnn" not in str(error).lower() or isinstance(error, torch.OutOfMemoryError):
            raise
        print(f"Without cuDNN's attention from here on: {str(error).splitlines()[0][:200]}", flush=True)
        torch.backends.cuda.enable_cudnn_sdp(False)
        run()


def matrix_rate(device: torch.device) -> float:
    """Operations per second of a large matrix product on random numbers: bfloat16 on a GPU, float32 on a CPU."""
    gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if gpu else (512, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    timer = torch.utils.benchmark.Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    return 2 * size**3 / timer.blocked_autorange(min_run_time=1.0 if gpu else 0.1).median

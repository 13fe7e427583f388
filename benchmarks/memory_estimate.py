"""The README's table: memory per GPU of rm.py by engine, for models of 2B, 7B and 27B parameters.

Estimates, not measurements, by the formulas of reward_modeling/estimate/memory.py: bf16, gradient checkpointing, AdamW,
forward passes of 4 conversations of 4,096 tokens without a shared prompt. GB are 10^9 bytes.

    python benchmarks/memory_estimate.py

For a run of your own: python rm.py ... --estimate --gpus 4 --gpu a100-80g
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoConfig, PreTrainedConfig

from reward_modeling.estimate.memory import (
    DDP,
    FSDP2,
    OFFLOAD,
    SINGLE,
    ZERO2,
    ZERO3,
    EngineMemory,
    engine_memory,
    holds_copies,
)
from reward_modeling.estimate.meta_model import MetaModel, build_model
from reward_modeling.models.attention import SHARED_PREFIX, register_shared_prefix_attention
from reward_modeling.models.packed_layout import PackedLayout, Span

GB = 1e9
TOKENS, CONVERSATIONS = 4 * 4096, 4
MOMENTS = 2  # AdamW's
ENGINES = (SINGLE, DDP, ZERO2, ZERO3, FSDP2, OFFLOAD)
# The config.json of google/gemma-2b, mistralai/Mistral-7B-v0.1 and google/gemma-2-27b on the Hugging Face Hub.
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
MODELS = {
    "Gemma-2B": ("gemma", 256000, 16384, (2048, 18, 8, 1, 256)),
    "Mistral-7B": ("mistral", 32000, 14336, (4096, 32, 32, 8, 128)),
    "Gemma-2-27B": ("gemma2", 256000, 36864, (4608, 46, 32, 16, 128)),
}


def config_of(name: str) -> PreTrainedConfig:
    model_type, vocab_size, intermediate_size, shape = MODELS[name]
    sizes = {"vocab_size": vocab_size, "intermediate_size": intermediate_size, **dict(zip(SHAPE, shape, strict=True))}
    return AutoConfig.for_model(model_type, num_labels=1, pad_token_id=0, **sizes)


def packed_inputs(tokens: int) -> dict:
    """Of the model's forward: conversations of equal length that share nothing, in one row."""
    length = tokens // CONVERSATIONS
    starts = [length * number for number in range(CONVERSATIONS)]
    spans = tuple(Span(start, start + length, 0, 0) for start in starts)
    ends = tuple(span.end - 1 for span in spans)
    return {
        "input_ids": torch.zeros((1, length * CONVERSATIONS), dtype=torch.long),
        "position_ids": torch.arange(length).repeat(CONVERSATIONS)[None],
        "packed_layout": PackedLayout(spans, tuple(range(CONVERSATIONS)), ends),
        "read_positions": torch.tensor(ends),
    }


def memories(name: str, gpus: int, tokens: int) -> tuple[int, list[EngineMemory]]:
    """How many weights the model has, and the memory by engine."""
    options = {"num_tokens": 0, "batching": SHARED_PREFIX, "dtype": torch.float32, "gradient_checkpointing": True}
    model = MetaModel(partial(build_model, config_of(name), **options))
    inputs = packed_inputs(tokens)
    whole = model.pass_bytes(inputs, autocast=torch.bfloat16)
    cut = model.pass_bytes(inputs, dtype=torch.bfloat16)
    passes = [whole if holds_copies(engine) else cut for engine in ENGINES]
    options = {"loaded": 4, "computed": 2, "gpus": gpus, "moments": MOMENTS}
    return model.sizes.weights, [
        engine_memory(engine, model.sizes, pass_bytes=taken, **options)
        for engine, taken in zip(ENGINES, passes, strict=True)
    ]


def cell(memory: EngineMemory) -> str:
    parts = (memory.states, memory.buffers, memory.activations)
    shown = " + ".join(f"{part / GB:.0f}" for part in parts)
    host = f"; host {memory.host / GB:.0f}" if memory.host else ""
    return f"{memory.total / GB:.0f} ({shown}{host})"


def table(gpus: int, tokens: int) -> str:
    """Markdown: engines down, models across."""
    columns = [(name, *memories(name, gpus, tokens)) for name in MODELS]
    names = [f"{name}, {weights / 1e9:.1f}B" for name, weights, _ in columns]
    lines = [f"| GB per GPU | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for number, engine in enumerate(ENGINES):
        label = engine if engine in (SINGLE, DDP) else f"{engine}, {gpus} GPUs"
        lines.append(f"| {label} | {' | '.join(cell(found[number]) for _, _, found in columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, default=8, help="GPUs that the states are spread over")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of one forward pass")
    arguments = parser.parse_args()
    register_shared_prefix_attention()
    print(f"Estimates, not measurements: bf16, gradient checkpointing, {arguments.tokens:,} tokens a pass.")
    print("In brackets: weights, gradients and optimizer + buffers + activations; host memory over all processes.\n")
    print(table(arguments.gpus, arguments.tokens))


if __name__ == "__main__":
    main()

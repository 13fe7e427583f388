"""Memory per GPU of rm.py by engine, for models of 2B, 7B and 27B parameters. Estimates by formula, not measurements.

Setting: bf16 computation, gradient checkpointing, AdamW, forward passes of 4 x 4096 = 16,384 tokens. GB are 10^9 bytes.
P are the parameters of the model, N the GPUs. A reward model has no vocabulary logits, so none are counted.

Bytes per parameter that stay through a step ("states"):

    single    16 P     float32 weights 4, float32 gradients 4, AdamW's two moments 8
    DDP       20 P     the same, and the buckets in which gradients are reduced: a second copy of them, 4
    ZeRO-2     2 P + 16 P/N   bf16 weights 2 on every GPU; spread: float32 gradients 4, weights and moments 12
    ZeRO-3    18 P/N   the same, with the bf16 weights spread too
    FSDP2     16 P/N   float32 weights 4, float32 gradients 4, moments 8, all spread; gradients reduced in every pass
    offload    0 P     ZeRO-3's are in host memory, with a second copy of the gradients there: 22 P over all processes

Buffers that come and go ("buffers"), at their largest in the backward pass, E being the embedding, L one layer:

    single, DDP   2 L: the bf16 copy that autocast makes of the weights of the layer that is recomputed
    ZeRO-2        1.2 GB: two reduction buckets and one gathering bucket of 2e8 bf16 numbers (deepspeed_2.json)
    ZeRO-3        2 max(E, 2 L, 1e9) at most, and not more than 2 P: gathered bf16 weights (1e9: DeepSpeed's
                  stage3_max_live_parameters); the gradients of two layers, 4 L
    FSDP2         2 max(E, 2 L): gathered bf16 weights of two layers or of the embedding; the gradients of one layer,
                  2 L, and their float32 copy that is reduced, 4 L

Activations: with checkpointing each layer keeps its input, hidden x 4 bytes a token in single and DDP (autocast leaves
the sum over the layers in float32), x 2 elsewhere; and the one layer that is recomputed has in bytes a token:

    10 hidden per norm (float32 input and normalised value, bf16 result) + 4 hidden (outputs of attention and of MLP)
    + 2 (3 query + 3 key-value width) (before and after rotation, values, output; no tokens x tokens matrix)
    + 14 intermediate (gate, up, activated gate, product, and the gradients of three of them)

Two other moments can be the peak, and the largest counts: the end of the forward pass of single and DDP, where autocast
holds bf16 copies of all weights but the embedding's, 2 (P - E), and the optimizer step of ZeRO-2, which holds a second
copy of the gradients, 4 P/N, and no activations.

Not counted: the CUDA context and libraries (1 to 2 GB) and fragmentation. Leave a tenth of the GPU free.

    python benchmarks/memory_estimate.py
"""

import argparse
from dataclasses import dataclass

TOKENS = 4 * 4096
BUCKET = 200_000_000  # numbers, deepspeed_2.json
LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's default
ENGINES = ("single GPU", "DDP", "ZeRO-2", "ZeRO-3", "FSDP2", "ZeRO-3 + offload")


@dataclass(frozen=True)
class Shape:
    """What decides the size of a decoder, under the names of config.json."""

    name: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norms_per_layer: int

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def embedding(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def layer(self) -> int:
        attention = 2 * self.hidden_size * (self.query_width + self.key_value_width)
        return attention + 3 * self.hidden_size * self.intermediate_size + self.norms_per_layer * self.hidden_size

    @property
    def parameters(self) -> int:
        """Embedding, layers, last norm and score head (no head over the vocabulary)."""
        return self.embedding + self.num_hidden_layers * self.layer + 2 * self.hidden_size


# The config.json of google/gemma-2b, mistralai/Mistral-7B-v0.1 and google/gemma-2-27b on the Hugging Face Hub.
SHAPES = (
    Shape("Gemma-2B", 2048, 18, 8, 1, 256, 16384, 256000, 2),
    Shape("Mistral-7B", 4096, 32, 32, 8, 128, 14336, 32000, 2),
    Shape("Gemma-2-27B", 4608, 46, 32, 16, 128, 36864, 256000, 4),
)


@dataclass(frozen=True)
class Estimate:
    """Bytes on one GPU at the peak, and in host memory over all processes."""

    states: float
    buffers: float
    activations: float
    host: float = 0

    @property
    def total(self) -> float:
        return self.states + self.buffers + self.activations


def kept_inputs(shape: Shape, tokens: int, bytes_per_number: int) -> int:
    """Bytes of the layers' inputs, which checkpointing keeps for the backward pass."""
    return shape.num_hidden_layers * tokens * shape.hidden_size * bytes_per_number


def recomputed_layer(shape: Shape, tokens: int) -> int:
    """Bytes of one layer's activations and their widest gradients."""
    hidden = (10 * shape.norms_per_layer + 4) * shape.hidden_size
    attention = 6 * (shape.query_width + shape.key_value_width)
    return tokens * (hidden + attention + 14 * shape.intermediate_size)


def estimate(shape: Shape, engine: str, gpus: int, tokens: int) -> Estimate:
    """The larger one of the moments that the docstring of this file names."""
    size, embedding, layer = shape.parameters, shape.embedding, shape.layer
    if engine in ("single GPU", "DDP"):
        states, inputs = (16 if engine == "single GPU" else 20) * size, kept_inputs(shape, tokens, 4)
        forward = Estimate(states, 2 * (size - embedding), inputs)
        backward = Estimate(states, 2 * layer, inputs + recomputed_layer(shape, tokens))
        return max(forward, backward, key=lambda moment: moment.total)
    activations = kept_inputs(shape, tokens, 2) + recomputed_layer(shape, tokens)
    if engine == "FSDP2":
        return Estimate(16 * size / gpus, 2 * max(embedding, 2 * layer) + 6 * layer, activations)
    if engine == "ZeRO-2":
        states = 2 * size + 16 * size / gpus
        step, backward = Estimate(states, 4 * size / gpus, 0), Estimate(states, 3 * 2 * BUCKET, activations)
        return max(step, backward, key=lambda moment: moment.total)
    buffers = 2 * min(size, max(embedding, 2 * layer, LIVE_PARAMETERS)) + 4 * layer
    if engine == "ZeRO-3":
        return Estimate(18 * size / gpus, buffers, activations)
    return Estimate(0, buffers, activations, host=22 * size)


def cell(found: Estimate) -> str:
    parts = " + ".join(f"{part / 1e9:.0f}" for part in (found.states, found.buffers, found.activations))
    host = f"; host {found.host / 1e9:.0f}" if found.host else ""
    return f"{found.total / 1e9:.0f} ({parts}{host})"


def table(gpus: int, tokens: int) -> str:
    """Markdown: engines down, models across."""
    names = [f"{shape.name}, {shape.parameters / 1e9:.1f}B" for shape in SHAPES]
    lines = [f"| GB per GPU | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for engine in ENGINES:
        label = engine if engine in ("single GPU", "DDP") else f"{engine}, {gpus} GPUs"
        cells = [cell(estimate(shape, engine, gpus, tokens)) for shape in SHAPES]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, default=8, help="GPUs that the states are spread over")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of one forward pass")
    arguments = parser.parse_args()
    print(f"Estimates by formula, not measurements: bf16, gradient checkpointing, {arguments.tokens:,} tokens a pass.")
    print("In brackets: weights, gradients and optimizer + buffers + activations; host memory over all processes.\n")
    print(table(arguments.gpus, arguments.tokens))


if __name__ == "__main__":
    main()

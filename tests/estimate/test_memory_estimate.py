"""The estimate of memory against the tensors of real runs: each part, each engine, and one pass to the byte."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from engines import EVERY_ENGINE, run_engine
from exactness import num_keys
from runs import ROOT, write_rows
from tiny_families import tiny_config
from transformers import BertConfig

from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.planning import heaviest_micro_batch, plan_epoch
from reward_modeling.data.prepare import prepare_pairs
from reward_modeling.data.prompt_groups import TokenizeOptions
from reward_modeling.estimate.live_bytes import LiveBytes
from reward_modeling.estimate.memory import DDP, FSDP2, SINGLE, ZERO2, ZERO3, EngineMemory, engine_memory
from reward_modeling.estimate.meta_model import MetaModel, build_model, flash_attention_bytes, pass_bytes
from reward_modeling.models.adapters import add_adapter
from reward_modeling.models.checkpoint_config import load_config
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.objectives.bradley_terry import PairReader
from reward_modeling.tiny.preferences import learnable_preferences

PAIRS_PER_STEP, MAX_TOKENS = 16, 512


@pytest.fixture(scope="module")
def tokenizer(gemma_folder):
    return load_tokenizer(gemma_folder)


@pytest.fixture(scope="module")
def preferences(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", learnable_preferences(30, seed=3))


@pytest.fixture(scope="module")
def groups(preferences, tokenizer):
    return prepare_pairs(
        str(preferences), None, tokenizer, PairReader(), TokenizeOptions(256), eval_size=0, seed=42, num_proc=1
    ).train


def inputs_of(groups, tokenizer, batching: str, micro_batch=None) -> dict:
    """Of the model's forward, for this micro-batch or the heaviest one."""
    options = {"units_per_step": PAIRS_PER_STEP, "max_tokens": MAX_TOKENS, "seed": 42, "epoch": 0}
    if micro_batch is None:
        micro_batch, _ = heaviest_micro_batch(plan_epoch(groups.sizes, batching=batching, **options), 1)
    return MicroBatchCollator(batching, tokenizer.pad_token_id)(micro_batch, groups.read(micro_batch))["model_inputs"]


def build(config, batching: str = "shared_prefix", dtype=torch.float32, checkpointing: bool = True, adapt=None):
    options = {"num_tokens": 512, "batching": batching, "dtype": dtype, "gradient_checkpointing": checkpointing}
    return build_model(config, adapt=adapt, **options)


def tiny(family: str):
    if family == "bert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        return BertConfig(vocab_size=512, pad_token_id=0, num_labels=1, **sizes)
    return tiny_config(family, 512, num_labels=1, pad_token_id=0)


# --- one pass, to the byte ----------------------------------------------------------------------------------


class Saved:
    """Bytes of the tensors that autograd saves outside the weights, each storage once: torch's own hooks count them."""

    def __init__(self, model: torch.nn.Module):
        self.seen = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.seen.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        self.kept.append(tensor)
        return tensor

    def after_forward(self, model, inputs: dict, autocast: torch.dtype | None) -> int:
        self.kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", autocast, enabled=autocast is not None):
            model(**inputs)
        return sum(self.seen.values())


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("family", ["gemma", "gemma2", "llama", "qwen3", "bert"])
def test_a_pass_without_memory_takes_the_bytes_of_a_real_one(family, autocast, checkpointing, groups, tokenizer):
    batching = "padded" if family == "bert" else "shared_prefix"
    config = tiny(family)
    make = partial(build, config, batching, checkpointing=checkpointing)
    inputs = inputs_of(groups, tokenizer, batching)
    counted = MetaModel(make).pass_bytes(inputs, autocast=autocast, flash_attention=False)
    real = pass_bytes(make(), inputs, autocast)
    # Where no token of a block is padding, its values tell attention that it needs no mask: a byte per query and key.
    blocks = inputs.get("blocks", [])
    spared = sum(block["input_ids"].numel() * block["input_ids"].shape[1] for block in unpadded(blocks))
    assert counted - spared <= real <= counted
    if not spared:
        assert real == counted
    assert family != "bert" or (len(blocks) > 1 and spared < 0.02 * counted)


def unpadded(blocks: list[dict]) -> list[dict]:
    return [block for block in blocks if block["attention_mask"].all()]


@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_without_checkpointing_it_is_what_autograd_saves_and_little_more(family, groups, tokenizer):
    """Against another counter than ours. What is more are the gradients of the last layers, on their way."""
    config = tiny_config(family, 512, num_labels=1, pad_token_id=0, num_hidden_layers=6)
    model = build(config, checkpointing=False)
    saved = Saved(model).after_forward(model, inputs_of(groups, tokenizer, "shared_prefix"), None)
    most = pass_bytes(model, inputs_of(groups, tokenizer, "shared_prefix"), None)
    assert saved < most < 1.1 * saved
    assert pass_bytes(build(config), inputs_of(groups, tokenizer, "shared_prefix"), None) < 0.5 * saved


def test_bytes_are_counted_until_they_are_freed():
    before = torch.ones(10)
    with LiveBytes([before]) as live:
        first = torch.zeros(100)
        view = first[:10]
        before.view(2, 5)
        assert (live.live, live.peak) == (400, 400)
        second = first + 1
        del first
        assert (live.live, live.peak) == (800, 800)  # the view holds it
        del view
        torch.empty(1000, device="meta")
        assert (live.live, live.peak) == (400, 800)
    assert second.nbytes == 400


def test_an_adapter_and_bfloat16_take_less(groups, tokenizer):
    inputs = inputs_of(groups, tokenizer, "shared_prefix")
    adapt = partial(add_adapter, model_name="", revision=None, r=4, alpha=8, dropout=0.0, target_modules="all-linear")
    config = tiny("llama")
    whole = MetaModel(partial(build, config))
    adapter = MetaModel(partial(build, config, dtype=torch.bfloat16, adapt=adapt))
    real = list(build(config, dtype=torch.bfloat16, adapt=adapt).parameters())
    assert adapter.sizes.weight_bytes == sum(weight.nbytes for weight in real)
    assert adapter.sizes.trained == sum(weight.numel() for weight in real if weight.requires_grad)
    assert adapter.sizes.trained_bytes == 4 * adapter.sizes.trained  # the adapter stays in float32
    assert adapter.sizes.frozen == whole.sizes.weights  # peft keeps the untrained head beside the trained one
    # Against the same adapter on float32 weights: at a width of 64 its own activations are as large as what it saves.
    in_float32 = MetaModel(partial(build, config, adapt=adapt))
    assert adapter.pass_bytes(inputs, autocast=torch.bfloat16) < in_float32.pass_bytes(inputs, autocast=torch.bfloat16)


def test_attention_as_on_a_gpu_holds_no_matrix_of_scores(groups, tokenizer):
    """Gemma-2's capped scores are whole matrices on a CPU; the kernel's stand-in has none, and the same shapes."""
    inputs = inputs_of(groups, tokenizer, "shared_prefix")
    model = MetaModel(partial(build, tiny("gemma2"), checkpointing=False))
    heads, longest = 4, max(num_keys(span) for span in inputs["packed_layout"].spans)
    less = model.pass_bytes(inputs, flash_attention=False) - model.pass_bytes(inputs)
    assert less > 4 * heads * longest**2
    inputs["packed_layout"].kernel = flash_attention_bytes
    rewards = build(tiny("gemma2"))(**inputs).logits
    assert rewards.shape == (len(inputs["read_positions"]), 1)


# --- parts of each engine -----------------------------------------------------------------------------------

ENGINES = {"ddp": DDP, "zero2": ZERO2, "zero3": ZERO3, "fsdp2": FSDP2}


@pytest.fixture(scope="module")
def passes(gemma_folder, preferences, tmp_path_factory) -> dict[str, list[dict]]:
    """What tests/engine_bytes.py saw in bf16 runs of two steps over two processes: each forward and backward pass."""
    folder = tmp_path_factory.mktemp("engines")
    flags = {
        "model_name": gemma_folder,
        "train_set_path": preferences,
        "max_length": 256,
        "max_tokens_per_micro_batch": MAX_TOKENS,
        "pairs_per_step": PAIRS_PER_STEP,
        "max_steps": 2,
        "bf16": "true",
        "eval_size": 0,
        "save_strategy": "no",
        "verify_saved_model": "false",
        "probe_memory": "false",
        "report_to": "none",
        "num_proc": 1,
    }

    class Passes(dict):
        def __missing__(self, engine: str) -> list[dict]:
            output = folder / engine / "output"
            run_engine(engine, flags | {"use_cpu": "true"}, output, script=ROOT / "tests/engine_bytes.py")
            self[engine] = json.loads(Path(f"{output}-bytes-0.json").read_text())
            return self[engine]

    return Passes()


def estimated(engine: str, gemma_folder: str, pass_bytes: int = 0) -> EngineMemory:
    sizes = MetaModel(partial(build, load_config(gemma_folder))).sizes
    return engine_memory(ENGINES[engine], sizes, loaded=4, computed=2, gpus=2, moments=2, pass_bytes=pass_bytes)


def parts(of: dict | EngineMemory) -> list[float]:
    values = of if isinstance(of, dict) else vars(of)
    return [values[name] for name in ("weights", "gradients", "optimizer")]


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_weights_gradients_and_optimizer_of_each_engine(engine, passes, gemma_folder):
    """Between two passes of the second step; and those of no other engine."""
    seen = next(one for one in passes[engine] if one["step"] == 1 and not one["last"])
    assert parts(seen) == pytest.approx(parts(estimated(engine, gemma_folder)), rel=1e-3)
    for other in set(ENGINES) - {engine}:
        assert parts(seen) != pytest.approx(parts(estimated(other, gemma_folder)), rel=1e-2)


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_the_highest_point_of_each_engine(engine, passes, gemma_folder, groups, tokenizer):
    """Of a pass that is not its step's first, so that the gradients are there already.

    `rest` are the batches of the step, and DDP's buckets, which stay.
    """
    seen = [one for one in passes[engine] if one["step"] == 1][1]
    options = {"units_per_step": PAIRS_PER_STEP, "max_tokens": MAX_TOKENS, "seed": 42, "epoch": 0}
    of_process_0 = plan_epoch(groups.sizes, batching="shared_prefix", **options).micro_batches(1, 2)[0]
    micro_batch = next(batch for batch in of_process_0 if sum(chunk.tokens for chunk in batch) == seen["tokens"])
    inputs = inputs_of(groups, tokenizer, "shared_prefix", micro_batch)
    types = {"autocast": torch.bfloat16} if engine == "ddp" else {"dtype": torch.bfloat16}
    model = MetaModel(partial(build, load_config(gemma_folder)))
    expected = estimated(engine, gemma_folder, model.pass_bytes(inputs, flash_attention=False, **types))
    taken = seen["peak"] - seen["rest"] - expected.states
    if engine == "ddp":
        assert taken == pytest.approx(expected.activations, rel=0.01)
        assert expected.buffers < seen["rest"] < expected.buffers + 200_000
    elif engine == "zero2":
        assert taken - expected.buffers == pytest.approx(expected.activations, rel=0.01)
    else:  # an upper bound, and not an empty one
        assert 0.25 * expected.buffers < taken - expected.activations <= expected.buffers


# --- what else changes them ---------------------------------------------------------------------------------


def test_float32_and_four_bits():
    config = tiny("llama")
    sizes = MetaModel(partial(build, config)).sizes
    single = engine_memory(SINGLE, sizes, loaded=4, computed=4, gpus=1, moments=2, pass_bytes=0)
    assert (single.weights, single.gradients, single.optimizer) == tuple(n * sizes.weights for n in (4, 4, 8))
    zero3 = engine_memory(ZERO3, sizes, loaded=4, computed=4, gpus=4, moments=0, pass_bytes=0)
    assert (zero3.weights, zero3.gradients, zero3.optimizer) == (sizes.weights, sizes.weights, 0)
    adapt = partial(add_adapter, model_name="", revision=None, r=4, alpha=8, dropout=0.0, target_modules="all-linear")
    quantised = MetaModel(partial(build, config, adapt=adapt), four_bit=True).sizes
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    rest = quantised.frozen - linear
    assert quantised.weight_bytes == pytest.approx(0.516 * linear + 4 * (rest + quantised.trained), rel=1e-3)

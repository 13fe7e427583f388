"""--estimate: its tokens against those that a run computes, its operations against torch's counter, its messages."""

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from exactness import num_keys
from runs import as_argv, train, write_rows
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig
from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

import rm
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.loader import training_loader
from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX, plan_epoch
from reward_modeling.data.prepare import prepare_pairs
from reward_modeling.data.prompt_groups import TokenizeOptions
from reward_modeling.estimate.memory import GPUS
from reward_modeling.estimate.meta_model import MetaModel, build_model
from reward_modeling.estimate.report import (
    UNITS_PADDED,
    UTILISATION,
    count_epoch,
    operations_of_attention,
    operations_of_products,
)
from reward_modeling.models.adapters import add_adapter
from reward_modeling.models.tokenizer import load_tokenizer
from reward_modeling.objectives.bradley_terry import BradleyTerry, PairReader
from reward_modeling.tiny.models import tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training.arguments import arguments_of

EPOCH = {"units_per_step": 30, "max_tokens": 1024, "seed": 42}


@pytest.fixture(scope="module")
def preferences(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", learnable_preferences(40, seed=4))


@pytest.fixture
def flags(gemma_folder, preferences) -> dict[str, object]:
    return {
        "model_name": gemma_folder,
        "train_set_path": preferences,
        "max_length": 256,
        "max_tokens_per_micro_batch": 1024,  # where a CPU's micro-batches are those of a GPU
        "pairs_per_step": 30,
        "eval_size": 12,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture
def estimate(flags, tmp_path, monkeypatch, capsys):
    """estimate(**changes): what `rm.py --estimate` prints on the screen."""

    def estimate(**changes: object) -> str:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        given = flags | {"estimate": "true", "gpu": "a100-80g", "output_path": tmp_path / "output"} | changes
        monkeypatch.setattr(sys, "argv", ["rm.py", *as_argv(given)])
        capsys.readouterr()
        rm.main()
        return capsys.readouterr().out.split("Estimate for ")[1]

    return estimate


def shown(table: str, name: str) -> int:
    return int(re.search(rf"^  {name} +([\d,]+) ", table, re.MULTILINE)[1].replace(",", ""))


# --- tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", [SHARED_PREFIX, PACKED, PADDED])
def test_the_tokens_are_those_that_the_run_computes(batching, estimate, flags, tmp_path):
    table = estimate(batching=batching)
    run = train(flags | {"batching": batching}, tmp_path / "run", verify_saved_model="false", max_steps=1)
    steps = list(run.trainer.get_train_dataloader())
    micro_batches = [batch for step in steps for batch in step["micro_batches"]]
    assert shown(table, "tokens computed") == sum(batch["num_tokens"] for batch in micro_batches)
    assert shown(table, "rows of all pairs") == sum(batch["row_tokens"] for batch in micro_batches)
    assert shown(table, "optimizer steps") == len(steps) > 1
    assert shown(table, "forward passes") == len(micro_batches) > len(steps)
    assert shown(table, "pairs") == sum(step["step_weight"] for step in steps)  # each pair weighs 1
    first = run.history[0]["heaviest_micro_batch_tokens"]
    assert f"the heaviest has {first:,} tokens" in table


@pytest.fixture(scope="module")
def groups(gemma_folder, preferences):
    options = TokenizeOptions(256)
    return prepare_pairs(
        str(preferences), None, load_tokenizer(gemma_folder), PairReader(), options, eval_size=12, seed=42, num_proc=1
    ).train


def test_tokens_on_several_gpus_have_what_only_fills_up(groups, gemma_folder):
    """Three processes, of which one has no group of its own in some step."""
    options = {"units_per_step": 4, "max_tokens": 1024, "seed": 42}
    plan = plan_epoch(groups.sizes, batching=SHARED_PREFIX, epoch=0, **options)
    collator = MicroBatchCollator(SHARED_PREFIX, load_tokenizer(gemma_folder).pad_token_id, BradleyTerry.collate)
    loaders = [training_loader(groups, collator, process=process, num_processes=3, **options) for process in range(3)]
    batches = [batch for loader in loaders for step in loader for batch in step["micro_batches"]]
    counted = count_epoch(plan, 3)
    assert counted.computed == sum(batch["num_tokens"] for batch in batches)
    assert counted.as_rows == sum(batch["row_tokens"] for batch in batches)
    assert counted.computed > count_epoch(plan, 1).computed  # the copies


def test_padding_for_comparison(groups):
    """Written out: the rows of eight pairs, in the order of training, each as long as the longest."""
    plan = plan_epoch(groups.sizes, batching=SHARED_PREFIX, epoch=0, **EPOCH)
    rows = []
    for number, first, last in plan.pieces.tolist():
        group = groups.groups[number]
        prefix, completions = len(group["prefix_ids"]), [len(ids) for ids in group["completion_ids"]]
        for pair in range(first, last):
            rows.append([prefix + completions[number] for number in group["units"][pair]])
    batches = [rows[start : start + UNITS_PADDED] for start in range(0, len(rows), UNITS_PADDED)]
    padded = sum(2 * len(batch) * max(map(max, batch)) for batch in batches)
    assert count_epoch(plan, 1).padded == padded > count_epoch(plan, 1).as_rows


def test_pairs_of_a_step_are_counted_for_the_gpus_that_are_named(estimate, flags):
    flags |= {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    del flags["pairs_per_step"]
    pairs = shown(estimate(), "pairs")
    assert shown(estimate(gpus=1), "optimizer steps") == -(-pairs // 6)
    assert shown(estimate(gpus=4), "optimizer steps") == -(-pairs // 24)
    assert f"{round(-(-pairs // 6) * 2.5)} in the whole run" in estimate(num_train_epochs=2.5)


# --- operations and hours -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batches(groups, gemma_folder) -> list[dict]:
    """The micro-batches of an epoch."""
    collator = MicroBatchCollator(SHARED_PREFIX, load_tokenizer(gemma_folder).pad_token_id, BradleyTerry.collate)
    steps = training_loader(groups, collator, process=0, num_processes=1, **EPOCH)
    return [batch for step in steps for batch in step["micro_batches"]]


def products_counted_by_torch(model: torch.nn.Module, batches: list[dict]) -> int:
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            model(**batch["model_inputs"]).logits.sum().backward()
    return counter.get_flop_counts()["Global"][torch.ops.aten.mm]


@pytest.mark.parametrize(
    "adapt",
    [None, partial(add_adapter, r=4, alpha=8, dropout=0.0, target_modules="all-linear", model_name="", revision=None)],
    ids=["all", "adapter"],
)
@pytest.mark.parametrize("again", [0, 1])
def test_operations_of_products_are_those_that_torch_counts(again, adapt, batches):
    """But for an eighth: of the last of eight layers the scored tokens alone are computed. Of a recomputation the last
    product of each layer is left out too, 22% of it and so 6% of all."""
    config = tiny_config("llama", 512, num_labels=1, pad_token_id=0, num_hidden_layers=8)
    options = {"num_tokens": 0, "batching": SHARED_PREFIX, "dtype": torch.float32, "adapt": adapt}
    build = partial(build_model, config, gradient_checkpointing=bool(again), **options)
    counted = products_counted_by_torch(build(), batches[:3])
    sizes = MetaModel(build).sizes
    tokens = sum(batch["num_tokens"] for batch in batches[:3])
    least = 7 / 8 - 0.06 * again
    assert least < counted / operations_of_products(sizes, tokens, again) < 1
    assert not least < counted / operations_of_products(sizes, tokens, 1 - again) < 1


def test_queries_and_keys_of_attention_are_those_that_see_each_other(groups, batches):
    """Against the masks, written out; they have the diagonal, which half of queries x keys has not."""
    layouts = [batch["model_inputs"]["packed_layout"] for batch in batches]
    visible = sum(
        int(torch.ones(span.num_queries, num_keys(span)).tril(num_keys(span) - span.num_queries).sum())
        for layout in layouts
        for span in layout.spans
    )
    attended = count_epoch(plan_epoch(groups.sizes, batching=SHARED_PREFIX, epoch=0, **EPOCH), 1).attended
    assert attended == pytest.approx(visible, rel=0.02)
    assert attended < visible
    config = tiny_config("llama", 512)
    forward_and_backward = operations_of_attention(config, attended, 0)
    assert forward_and_backward == 3 * 2 * 2 * attended * config.hidden_size * config.num_hidden_layers


def test_hours_are_operations_over_the_assumed_speed(estimate):
    hours = {}
    for gpus in (1, 2):
        line = re.search(r"^Hours: (\S+), from (\S+) operations.*", estimate(gpus=gpus), re.MULTILINE)
        hours[gpus] = float(line[1])
        speed = gpus * GPUS["a100-80g"].teraflops * 1e12 * UTILISATION
        assert hours[gpus] == pytest.approx(float(line[2]) / speed / 3600, rel=0.05)
        assert f"{UTILISATION:.0%} of {gpus} x 312 TFLOP/s" in line[0]
    assert "not stated for float32" in estimate(bf16="false")


# --- memory on the screen -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder_of(gemma_folder, tmp_path_factory):
    """folder_of(layers): the configuration of Gemma-7B with so many layers, without a weight."""

    def folder_of(layers: int, vocab_size: int = 256000) -> str:
        folder = tmp_path_factory.mktemp("large") / "model"
        shutil.copytree(gemma_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        config = json.loads((folder / "config.json").read_text())
        config |= {"hidden_size": 3072, "num_hidden_layers": layers, "num_attention_heads": 16, "head_dim": 256}
        config |= {"num_key_value_heads": 16, "intermediate_size": 24576, "vocab_size": vocab_size}
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    return folder_of


def engine_line(table: str, engine: str) -> tuple[list[float], str]:
    """Gigabytes, and the verdict."""
    line = re.search(rf"^  {re.escape(engine)} +((?:[\d.]+ +)+)(.*)", table, re.MULTILINE)
    return [float(cell) for cell in line[1].split()], line[2]


def test_a_large_model_without_its_weights(estimate, folder_of, tmp_path):
    table = estimate(model_name=folder_of(28), gpus=4, gpu="a40-48g")
    assert "8,537,683,968 weights, all trained, on 4 x a40-48g" in table
    (weights, gradients, optimizer, *_, total), verdict = engine_line(table, "ZeRO-2")
    assert (weights, gradients, optimizer) == (25.6, 8.5, 17.1)
    assert total > 43.2 and verdict == "does not fit"
    assert engine_line(table, "ZeRO-3 + offload")[1] == "fits; 188 GB of host memory"
    assert not (tmp_path / "output").exists()


def test_flags_that_change_the_memory(estimate, folder_of):
    """Two layers and the embedding: 1.34e9 weights, of which 0.55e9 are in linear layers."""
    folder = folder_of(2)

    def single(**changes: object) -> list[float]:
        return engine_line(estimate(**{"model_name": folder} | changes), "single GPU")[0]

    assert single()[:3] == [5.4, 5.4, 10.7]
    assert single(model_dtype="bfloat16")[:3] == [2.7, 2.7, 5.4]
    assert single(optim="sgd")[2] == 0
    assert single(use_peft="true", model_dtype="bfloat16")[:3] == [2.7, 0.0, 0.0]
    quantised = single(use_peft="true", load_in_4bit="true", model_dtype="bfloat16")
    assert quantised[0] == pytest.approx(0.516 * 0.55 + 2 * 0.786, abs=0.06)
    small_embedding = folder_of(6, vocab_size=512)
    assert (
        single(model_name=small_embedding, gradient_checkpointing="false")[4]
        > 1.5 * single(model_name=small_embedding)[4]
    )


def test_experts_are_counted_and_their_activations_not_stated():
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(
        "mixtral", **sizes, **heads, num_local_experts=8, num_experts_per_tok=2, num_labels=1, pad_token_id=0
    )
    options = {"num_tokens": 0, "batching": SHARED_PREFIX, "dtype": torch.float32, "gradient_checkpointing": True}
    model = MetaModel(partial(build_model, config, **options))
    experts = 2 * 8 * 3 * 64 * 128
    assert model.sizes.multiplied == model.sizes.weights - 512 * 64 - experts * 6 // 8
    assert model.pass_bytes({}) is None


# --- mistakes -----------------------------------------------------------------------------------------------


def refused(estimate, **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        estimate(**changes)
    return str(caught.value)


def test_what_is_wrong_is_said_before_anything_is_read(estimate):
    missing = {"model_name": "no-such-model", "train_set_path": "no-such-file.jsonl"}
    message = refused(estimate, gpu="a40", gpus=0, optim="adafactor", **missing)
    assert "--gpus: expected at least 1, found 0" in message
    assert "--gpu: expected one of a10g-24g" in message and "found 'a40'; did you mean a40-48g?" in message
    assert "--optim: expected one whose memory is known" in message and "found adafactor" in message
    assert "no-such" not in message


def test_a_gpu_is_named_for_an_estimate_and_for_nothing_else(flags, tmp_path):
    def message(*extra: str) -> str:
        with pytest.raises(UserError) as caught:
            parse_script_arguments(arguments_of(rm.ScriptArguments), [*as_argv(flags), *extra])
        return str(caught.value)

    assert "--gpu: expected one of" in message("--estimate") and "found none" in message("--estimate")
    assert "--gpus, --gpu: expected --estimate beside it" in message("--gpus", "2", "--gpu", "a40-48g")


def test_beside_the_flags_of_an_engine(estimate):
    """A run's whole command, with --estimate added: where ZeRO-3 is on, transformers cuts each model that is built."""
    expected = estimate()
    zero3 = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    try:
        assert zero3.is_zero3() and is_deepspeed_zero3_enabled()
        assert estimate() == expected
    finally:
        unset_hf_deepspeed_config()


def test_data_that_cannot_be_had(estimate):
    message = refused(estimate, train_set_path="no-such-file.jsonl")
    assert message.startswith("--train_set_path") and "no-such-file.jsonl" in message

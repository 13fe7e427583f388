"""benchmarks/gpu_throughput.py on the CPU, where what only some machines have is missing; its counts, one by one."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exactness import build_model, differences, mixed_groups, num_keys, rewards_and_gradients
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_throughput  # noqa: E402
import gpu_training  # noqa: E402
from gpu_profile import ATTENTION, COPIES, ELEMENTWISE, GATHERS, HEAD, LINEAR, LOSS, OPTIMIZER, part_of  # noqa: E402
from gpu_training import (  # noqa: E402
    MODES,
    OUT_OF_MEMORY,
    Amount,
    Case,
    PairByPair,
    build_trainer,
    computed_tokens,
    fuse_norms,
    meet_shapes,
    run_case,
)
from gpu_workloads import (  # noqa: E402
    SHAPES,
    SMALL_SHAPES,
    WORKLOADS,
    GroupsInMemory,
    draw_groups,
    linear_weights,
    without_cudnn_where_it_fails,
    work_of,
)

from reward_modeling.data.collator import MicroBatchCollator  # noqa: E402
from reward_modeling.data.planning import PACKED, PADDED, SHARED_PREFIX, plan_epoch  # noqa: E402

# A GPU machine may have none of these. As if they were not installed, for the script and for the tests of the kernels:
MISSING = ("datasets", "deepspeed", "peft", "flash_attn", "wandb", "matplotlib", "bitsandbytes", "trl", "requests")
WITHOUT = f"""
import os, runpy, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {MISSING!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
sys.argv = sys.argv[1:]
sys.path[:1] = [os.path.dirname(sys.argv[0]), *{[str(ROOT / name) for name in ("tests/models", "tests", ".")]!r}]
import conftest, test_gpu_kernels
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_small_version_where_packages_are_missing(tmp_path):
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-c", WITHOUT, str(ROOT / "benchmarks/gpu_throughput.py"), "--output", str(output)]
    process = subprocess.run([*command, "--workloads", "four_600_120"], capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "No GPU here" in process.stdout and "| gemma-2b | four_600_120 | off | shared_prefix |" in process.stdout
    record = json.loads(output.read_text())
    runs = {(run["mode"], run["checkpointing"]): run for run in record["training"]}
    assert set(runs) == {(mode, on) for mode in (SHARED_PREFIX, PACKED, PADDED) for on in (False, True)}
    for (mode, on), run in runs.items():
        assert run["seconds"] > 0 and run["flops"] > 0 and ("profile" in run) != on
        # the same pairs in every mode; only what is computed for them differs
        assert (run["pairs"], run["unique_tokens"]) == (12, runs[SHARED_PREFIX, on]["unique_tokens"])
        assert (run["computed_tokens"] == run["unique_tokens"]) == (mode == SHARED_PREFIX)
    parts = runs[SHARED_PREFIX, False]["profile"]["parts"]
    assert all(parts[part] > 0 for part in (LINEAR, ATTENTION, GATHERS, HEAD, LOSS, OPTIMIZER, COPIES, ELEMENTWISE))
    scorers = record["scoring"][0]["scorers"]
    assert set(scorers) == {"ours", "padded, 8 pairs", "padded, 64 pairs"}
    assert all(of["margins_off_by"] < 1e-3 for of in scorers.values())


@pytest.mark.parametrize(
    ("operator", "shapes", "part"),
    [
        ("torch_attn::_varlen_attn", [[9, 4, 64]], ATTENTION),
        ("torch_attn::_varlen_attn_backward", [[9, 4, 64]], ATTENTION),
        ("aten::_flash_attention_forward", [[9, 4, 64]], ATTENTION),
        ("aten::_efficient_attention_backward", [[9, 4, 64]], ATTENTION),
        ("aten::mm", [[9, 64], [64, 128]], LINEAR),
        ("aten::mm", [[9, 64], [64, 1]], HEAD),
        ("aten::addmm", [[1], [9, 64], [64, 1]], HEAD),
        ("aten::index_select", [[1, 9, 64], [], [4]], GATHERS),
        ("aten::index_add_", [[9, 64], [], [4], [4, 64]], GATHERS),
        ("aten::embedding_dense_backward", [[9, 64]], GATHERS),
        ("aten::_fused_adamw_", [[]], OPTIMIZER),
        ("aten::_foreach_mul_", [[]], OPTIMIZER),
        ("aten::log_sigmoid_backward", [[6]], LOSS),
        ("aten::copy_", [[9, 64], [9, 64]], COPIES),
        ("aten::cat", [[]], COPIES),
        ("aten::gelu", [[1, 9, 64]], ELEMENTWISE),
        ("aten::mul", [[1, 9, 64], [1, 9, 1]], ELEMENTWISE),
    ],
)
def test_parts_of_a_step(operator, shapes, part):
    assert part_of(operator, shapes) == part


def plan_of(workload: str, batching: str, pairs: int = 24):
    groups = GroupsInMemory(draw_groups(WORKLOADS[workload].shortened(8), pairs, 256, 97))
    options = {"units_per_step": 12, "max_tokens": 100_000, "batching": batching, "seed": 0, "epoch": 0}
    return groups, plan_epoch(groups.sizes, **options)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_drawn_lengths_have_their_means(workload):
    lengths = WORKLOADS[workload]
    groups = draw_groups(lengths, 3000, 4096, 512)
    prompts = np.mean([len(group["prefix_ids"]) for group in groups])
    answers = np.mean([len(ids) for group in groups for ids in group["completion_ids"]])
    assert prompts == pytest.approx(lengths.prompt, rel=0.08) and answers == pytest.approx(lengths.answer, rel=0.08)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_padded_steps_have_the_same_pairs_eight_at_a_time(workload):
    groups, plan = plan_of(workload, PADDED)
    padded = PairByPair(**vars(plan))
    for step in range(len(plan)):
        expected = {
            (group, pair)
            for group, first, last in plan.pieces[plan.step_starts[step] : plan.step_starts[step + 1]].tolist()
            for pair in range(first, last)
        }
        (micro_batches,) = padded.micro_batches(step, 1)
        pairs = [(chunk.group, chunk.unit_start) for micro_batch in micro_batches for chunk in micro_batch]
        assert len(pairs) == len(expected) and set(pairs) == expected
        assert [len(micro_batch) for micro_batch in micro_batches[:-1]] == [8] * (len(micro_batches) - 1)
        tokens = 0
        for micro_batch in micro_batches:
            batch = MicroBatchCollator(PADDED, 0)(micro_batch, groups.read(micro_batch))
            assert batch["model_inputs"]["input_ids"].shape[0] == 2 * len(micro_batch)  # an answer in two pairs: twice
            tokens += batch["num_tokens"]
        assert computed_tokens(padded, range(step, step + 1)) == (tokens, len(micro_batches))


@pytest.mark.parametrize("workload", ["hh", "four_150_350"])
def test_operations_are_those_that_torch_counts(workload):
    """Matrix products exactly; attention by the layout's own masks, since torch counts hidden keys as well."""
    groups, plan = plan_of(workload, SHARED_PREFIX, pairs=12)
    (micro_batches,) = plan.micro_batches(0, 1)
    model = build_model("gemma", SHARED_PREFIX)
    batches = [MicroBatchCollator(SHARED_PREFIX, 0)(each, groups.read(each)) for each in micro_batches]
    visible = scored = counted = 0
    for batch in batches:
        with FlopCounterMode(display=False) as counter:
            model(**batch["model_inputs"]).logits.sum().backward()
        counts = counter.get_flop_counts()["Global"]
        counted += sum(
            count for operator, count in counts.items() if operator in (torch.ops.aten.mm, torch.ops.aten.addmm)
        )
        layout = batch["model_inputs"]["packed_layout"]
        masks = [
            layout.causal_mask(span.num_queries, num_keys(span), None, torch.device("cpu")) for span in layout.spans
        ]
        sizes = [span.num_queries * (span.num_queries + 1) // 2 for span in layout.spans]
        visible += sum(size if mask is None else int(mask.sum()) for size, mask in zip(sizes, masks, strict=True))
        scored += sum(num_keys(span) for span in layout.read_spans)
        counted -= 6 * model.config.hidden_size * len(layout.read_spans)  # the head's
    work = work_of(plan, range(1), model)
    width = model.config.num_attention_heads * model.config.head_dim
    layers = model.config.num_hidden_layers
    assert work.flops == pytest.approx(counted + 12 * width * (visible * (layers - 1) + scored), rel=1e-9)
    assert work.unique_tokens == sum(batch["num_tokens"] for batch in batches)
    assert linear_weights(model.get_decoder().layers) > 0


SMALL = Amount(pairs_per_step=12, max_length=256, warm_up=1, timed=1, profiled=False)
PROFILED = replace(SMALL, profiled=True)


@pytest.mark.parametrize(("mode", "sizes"), [(SHARED_PREFIX, [1024, 512]), (PADDED, [1024])])
def test_memory_that_runs_out_is_a_row(mode, sizes, tmp_path, monkeypatch):
    tried = []

    def train_case(case, shape, workload, amount, max_tokens, folder):
        tried.append(max_tokens)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nmore")

    monkeypatch.setattr(gpu_training, "train_case", train_case)
    case = Case("gemma-2b", "hh", mode, False)
    figures = run_case(case, SMALL_SHAPES["gemma-2b"], WORKLOADS["hh"], SMALL, str(tmp_path))
    assert figures == {OUT_OF_MEMORY: "CUDA out of memory. Tried to allocate 3 GiB."} and tried == sizes


def test_padded_rows_of_every_shape_are_met_and_leave_no_trace(tmp_path):
    """Each shape of rows in the steps goes once through the first layer of the model itself, and no other."""
    case = Case("gemma-2b", "hh", PADDED, False)
    shape, workload = SMALL_SHAPES["gemma-2b"], WORKLOADS["hh"].shortened(8)
    trainer = build_trainer(case, shape, workload, SMALL, 1024, str(tmp_path))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    plan = trainer.get_train_dataloader().batch_sampler.plan
    met, planned = [], []
    layers = list(trainer.model.get_decoder().layers)
    for number, layer in enumerate(layers):
        layer.self_attn.q_proj.register_forward_hook(
            lambda _, inputs, __, n=number: met.append((n, inputs[0].shape[:2]))
        )
    meet_shapes(trainer, plan)
    for step in range(len(plan)):
        for chunks in plan.micro_batches(step, 1)[0]:
            batch = trainer.collator(chunks, trainer.train_dataset.read(chunks))
            planned.append((0, batch["model_inputs"]["input_ids"].shape))
    assert len(planned) > 2 and set(met) == set(planned) and len(met) == len(set(planned))
    assert list(trainer.model.get_decoder().layers) == layers and len(layers) > 1
    assert all(weight.grad is None for weight in trainer.model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def test_profiled_or_not_the_timed_steps_have_the_same_pairs(tmp_path):
    case, shape, workload = (
        Case("gemma-2b", "hh", PACKED, False),
        SMALL_SHAPES["gemma-2b"],
        WORKLOADS["hh"].shortened(8),
    )
    trainers = [build_trainer(case, shape, workload, amount, 1024, str(tmp_path)) for amount in (SMALL, PROFILED)]
    plans = [trainer.get_train_dataloader().batch_sampler.plan for trainer in trainers]
    assert plans[0].pieces.tolist() == plans[1].pieces.tolist()
    assert [trainer.args.max_steps for trainer in trainers] == [2, 3] and len(plans[0]) == 3


@pytest.mark.parametrize("family", ["gemma", "mistral"])
def test_fused_norms_give_the_same_rewards_and_gradients(family):
    groups, fused = mixed_groups(), build_model(family, SHARED_PREFIX)
    reference = rewards_and_gradients(build_model(family, SHARED_PREFIX), SHARED_PREFIX, groups)
    fuse_norms(fused)
    called = [name for name, module in fused.named_modules() if "forward" in vars(module)]
    assert len(called) == 2 * len(fused.get_decoder().layers) + 1
    assert max(differences(reference, rewards_and_gradients(fused, SHARED_PREFIX, groups))) < 1e-5
    for name in called:
        module = fused.get_submodule(name)
        setattr(module, "eps" if family == "gemma" else "variance_epsilon", 0.1)
    assert max(differences(reference, rewards_and_gradients(fused, SHARED_PREFIX, groups))) > 1e-3  # they are computed


def test_attention_that_cudnn_cannot_plan_is_computed_without_it():
    tried = []

    def run(message):
        tried.append(torch.backends.cuda.cudnn_sdp_enabled())
        if tried[-1]:
            raise RuntimeError(message)

    try:
        without_cudnn_where_it_fails(lambda: run("cuDNN Frontend error: No valid execution plans built."))
        assert tried == [True, False]
        torch.backends.cuda.enable_cudnn_sdp(True)
        with pytest.raises(RuntimeError, match="shape"):
            without_cudnn_where_it_fails(lambda: run("another shape"))
        assert tried == [True, False, True]
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


def test_padded_rows_that_fit_are_trained_before_the_larger_model():
    """Without checkpointing they fit on no GPU of 80 GB: what comes last may find no time left."""
    options = argparse.Namespace(
        models=list(SHAPES), workloads=list(WORKLOADS), modes=list(MODES), checkpointing=[False, True]
    )
    before, after = gpu_throughput.cases_in_order(options)
    assert len({*before, *after}) == 2 * 2 * len(WORKLOADS) * len(MODES)
    smaller, larger = (
        [place for place, case in enumerate(after) if case.model == model and case.checkpointing] for model in SHAPES
    )
    assert max(smaller) < min(larger)
    assert sum(gpu_throughput.is_profiled(case) for case in (*before, *after) if case.mode == PADDED) == 1
    assert all(gpu_throughput.is_profiled(case) for case in before if case.mode != PADDED)


def test_a_machine_without_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_throughput.driver_version() == "unknown"

"""Memory that runs out does so before the first step, in a message; the trial itself leaves no trace."""

import resource
import sys

import pytest
import torch
from processes import fork
from runs import as_argv, train, write_rows
from safetensors.torch import load_file

from reward_modeling.common.errors import UserError
from reward_modeling.data.micro_batches import computed_tokens
from reward_modeling.data.planning import heaviest_micro_batch
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training.memory_probe import (
    no_trace,
    out_of_memory_explained,
    reserve_for_optimizer,
    reserve_gradients,
)


@pytest.fixture(scope="module")
def base(gemma_folder, tmp_path_factory) -> dict[str, object]:
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(
            tmp_path_factory.mktemp("data") / "train.jsonl", learnable_preferences(30, seed=2)
        ),
        "max_length": 256,
        "max_steps": 3,
        "pairs_per_step": 8,
        "learning_rate": 1e-3,
        "eval_size": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "verify_saved_model": "false",
        "use_cpu": "true",
    }


def size(batch: dict) -> float:
    """Its tokens and, of padded rows, what eager attention holds beside: as much again at a length of 435."""
    inputs = batch["model_inputs"]
    shapes = [block["input_ids"].shape for block in inputs.get("blocks", [inputs])]
    padded = "packed_layout" not in inputs
    return sum(rows * length + padded * rows * length**2 / 435.2 for rows, length in shapes)


@pytest.mark.parametrize("batching", ["shared_prefix", "packed", "padded"])
@pytest.mark.parametrize("num_processes", [1, 3])
def test_the_heaviest_is_the_largest_tensor_of_the_epoch(base, tmp_path, batching, num_processes):
    run = train(base, tmp_path / "output", batching=batching, max_steps=1)
    loader = run.trainer.get_train_dataloader()
    plan = loader.batch_sampler.plan
    every = [
        micro_batch
        for step in range(len(plan))
        for process in plan.micro_batches(step, num_processes)
        for micro_batch in process
    ]
    sizes = [size(loader.dataset.collate(micro_batch)) for micro_batch in every]
    chosen, most_in_a_step = heaviest_micro_batch(plan, num_processes)
    heaviest = loader.dataset.collate(chosen)
    assert most_in_a_step == max(len(plan.micro_batches(step, num_processes)[0]) for step in range(len(plan)))
    assert size(heaviest) == pytest.approx(max(sizes)) and max(sizes) > min(sizes)
    assert heaviest["num_tokens"] == computed_tokens(chosen)


def test_what_is_logged(base, tmp_path):
    run = train(base, tmp_path / "output")
    first = run.history[0]
    assert first["step"] == 0
    assert first["heaviest_micro_batch_tokens"] > 100
    assert 0.1 < first["peak_memory_gib"] < 24
    again = train(base, tmp_path / "again", probe_memory="false")
    assert "peak_memory_gib" not in again.history[0]


@pytest.mark.parametrize("model", ["gemma", "with dropout"])
def test_the_run_has_the_same_bits_with_and_without(base, gemma_folder, tmp_path, model):
    """Dropout draws random numbers in the trial too: the steps after it must get the same as without."""
    if model == "with dropout":
        base = base | {"model_name": bert_with_dropout(gemma_folder, tmp_path / "bert")}
    runs = [train(base, tmp_path / probe, probe_memory=probe) for probe in ("true", "false")]
    weights = [load_file(run.model / "model.safetensors") for run in runs]
    assert runs[0].losses() == runs[1].losses()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # the figures of the first step are not mixed with those of the trial
    for name in ("accuracy", "margin", "reward_mean", "reward_std", "tokens_saved"):
        assert [e[name] for e in runs[0].history if name in e] == [e[name] for e in runs[1].history if name in e]


def bert_with_dropout(tokenizer_folder: str, folder) -> str:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1, **sizes)
    assert config.hidden_dropout_prob > 0
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_random_numbers_drawn_inside_would_be_seen_without_it():
    """The negative control of `no_trace`."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with no_trace(torch.device("cpu")):
        torch.rand(7)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(0)
    torch.rand(7)
    assert not torch.equal(torch.rand(3), expected)


def test_as_much_is_reserved_as_the_optimizer_takes():
    weights = [torch.nn.Parameter(torch.zeros(5, 7)), torch.nn.Parameter(torch.zeros(3), requires_grad=False)]
    optimizer = torch.optim.AdamW(weights)
    reserved = reserve_for_optimizer(optimizer, "adamw_torch_fused")
    weights[0].grad = torch.ones(5, 7)
    optimizer.step()
    taken = [value for value in optimizer.state[weights[0]].values() if value.ndim]
    assert sum(value.nbytes for value in reserved) == sum(value.nbytes for value in taken)
    assert reserve_for_optimizer(optimizer, "adamw_torch_fused") == []  # after a resume it holds them already
    assert reserve_for_optimizer(torch.optim.SGD(weights, lr=1), "sgd") == []


def test_gradients_of_earlier_micro_batches_are_held():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    reserve_gradients(model)
    assert torch.equal(model.weight.grad, torch.zeros(2, 3))
    assert model.bias.grad is None


def test_only_memory_errors_are_explained():
    expected = pytest.raises(UserError, match="max_tokens_per_micro_batch below 1,024")
    with expected, out_of_memory_explained("the trial", 1024):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    with expected, out_of_memory_explained("the trial", 1024):  # where no memory is left for the backward pass's cuBLAS
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_explained("the trial", 1024):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


LIMITED = """
import resource
import rm
import reward_modeling.training.job  # what is read in is not what runs out
from reward_modeling.common.errors import run_script
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + {room}, used + {room}))
run_script(rm.main)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA") or sys.platform != "linux", reason="limits of Linux")
def test_memory_that_runs_out_ends_in_a_message(base, tmp_path):
    """A real process with little memory, whose heaviest micro-batch cannot fit: eager attention of long padded rows."""
    long_rows = learnable_preferences(30, seed=2)
    for row in long_rows:
        for side in ("chosen", "rejected"):
            answer = row[side][-1]
            row[side] = [*row[side][:-1], answer | {"content": " ".join([answer["content"]] * 15)}]
    flags = base | {
        "train_set_path": write_rows(tmp_path / "long.jsonl", long_rows),
        "max_length": 1024,
        "batching": "padded",
        "attn_implementation": "eager",
        "pairs_per_step": 30,
        "max_tokens_per_micro_batch": 32768,
        "gradient_checkpointing": "false",
        "output_path": tmp_path / "output",
        "num_proc": 1,
    }
    script = tmp_path / "limited.py"
    script.write_text(LIMITED.format(room=120 * 2**20))
    process = fork(script, as_argv(flags), tmp_path, status=2)
    assert "Memory ran out in the trial of the heaviest micro-batch" in process.stderr
    assert "Traceback" not in process.stderr
    for cure in ("--gradient_checkpointing", "--max_tokens_per_micro_batch", "--max_length", "zero3", "offload"):
        assert cure in process.stderr

"""No function of the CPU's vector mathematics is called by several threads at once before it was called on one.

What goes wrong otherwise cannot be had on demand: of 28 first passes beside two busy processes, 5 were 2.6e-4 to 5.0e-4
off. So the order of the calls is what is tested.
"""

import pytest
import torch
from runs import train, write_rows
from torch.utils._python_dispatch import TorchDispatchMode

from reward_modeling.checkpoints.reference_rewards import reference_rewards
from reward_modeling.common.devices import ALIGNMENT, FUNCTIONS, align_parameters, warm_up_mkl
from reward_modeling.scoring import RewardScorer
from reward_modeling.tiny.preferences import learnable_preferences

NAMES = {variant for name in FUNCTIONS for variant in (name, f"{name}_", f"_foreach_{name}", f"_foreach_{name}_")}


class FirstCalls(TorchDispatchMode):
    """How many numbers each of the functions was given when it was called first, by name and dtype."""

    def __init__(self):
        super().__init__()
        self.numbers: dict[tuple[str, torch.dtype], int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in NAMES:
            tensors = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            bare = name.removeprefix("_foreach_").removesuffix("_")
            for tensor in tensors:
                if tensor.dtype in (torch.float32, torch.float64):
                    self.numbers.setdefault((bare, tensor.dtype), tensor.numel())
        return function(*args, **(kwargs or {}))


def test_each_function_is_called_on_one_number():
    with FirstCalls() as calls:
        warm_up_mkl()
    assert calls.numbers == {(name, dtype): 1 for name in FUNCTIONS for dtype in (torch.float32, torch.float64)}


def test_parameters_begin_where_torch_would_have_put_them():
    whole = torch.nn.Linear(8, 3)
    values = whole.weight.detach().clone()
    odd = torch.empty(values.numel() + 2)[2:].view_as(values).copy_(values)
    whole.weight.data = odd
    kept = whole.bias.data_ptr()
    assert whole.weight.data_ptr() % ALIGNMENT
    align_parameters(whole)
    assert not any(parameter.data_ptr() % ALIGNMENT for parameter in whole.parameters())
    assert torch.equal(whole.weight, values)
    assert whole.bias.data_ptr() == kept


@pytest.fixture(scope="module")
def trained(gemma_folder, tmp_path_factory):
    data = write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", learnable_preferences(20, seed=1))
    flags = {
        "model_name": gemma_folder,
        "train_set_path": data,
        "max_length": 256,
        "max_steps": 1,
        "eval_size": 4,
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
        "verify_saved_model": "false",
    }
    with FirstCalls() as calls:
        return train(flags, tmp_path_factory.mktemp("run") / "output"), calls


def test_training_evaluation_and_the_optimizer(trained):
    _, calls = trained
    assert {("cos", torch.float32), ("sqrt", torch.float32)} <= set(calls.numbers)
    assert set(calls.numbers.values()) == {1}


def test_scoring(trained):
    run, _ = trained
    with FirstCalls() as calls:
        RewardScorer.from_pretrained(run.model, device="cpu").score(["A text."])
    assert ("cos", torch.float32) in calls.numbers
    assert set(calls.numbers.values()) == {1}


def test_the_proof(trained):
    run, _ = trained
    rows = [list(range(5, 60)), list(range(5, 40))]
    with FirstCalls() as calls:
        reference_rewards(str(run.model), rows)
    assert ("cos", torch.float32) in calls.numbers
    assert set(calls.numbers.values()) == {1}

"""Threads of the forward passes."""

import pytest
import torch

import serve
from reward_modeling.scoring import loading


def read(served, *flags):
    argv = ["--reward_name_or_path", served().model.name_or_path, *flags]
    return serve.parse_script_arguments(serve.ScriptArguments, argv)[0]


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_is_set_before_the_model_is_loaded_and_logged_with_it(served, monkeypatch, caplog):
    at_loading, load_model = [], loading.load_model

    def load(*args, **options):
        at_loading.append(torch.get_num_threads())
        return load_model(*args, **options)

    monkeypatch.setattr(loading, "load_model", load)
    args = read(served, "--threads", "2")
    with caplog.at_level("INFO"):
        serve.load_scorer(args)
    assert at_loading == [2]
    assert "on cpu, 2 threads" in caplog.text


def test_torch_chooses_where_nobody_does(served):
    torch.set_num_threads(3)
    serve.load_scorer(read(served))
    assert torch.get_num_threads() == 3

"""Threads of the forward passes."""

import pytest
import torch

import serve
from reward_modeling.serving.threads import set_threads


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    """Threads as torch takes them on four cores, and afterwards as before."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "device", "variable", "threads"),
    [
        (None, "cpu", None, 3),
        (None, "cpu", "4", 4),
        (None, "cuda:1", None, 4),
        (2, "cpu", None, 2),
        (2, "cpu", "4", 2),
        (2, "cuda", None, 2),
        (None, None, None, 3),
    ],
)
def test_a_core_is_left_to_the_connections_unless_someone_says_otherwise(given, device, variable, threads, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert set_threads(given, device) == torch.get_num_threads() == threads


def test_a_gpu_that_is_taken_unasked_changes_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert set_threads(None, None) == 4


def test_one_core_computes():
    torch.set_num_threads(1)
    assert set_threads(None, "cpu") == 1


def test_the_number_is_set_before_the_model_is_loaded_and_logged_with_it(served, tmp_path, monkeypatch, caplog):
    from reward_modeling.scoring import RewardScorer

    at_loading = []
    scorer = served()

    def load(*_args, **_options):
        at_loading.append(torch.get_num_threads())
        return scorer

    monkeypatch.setattr(RewardScorer, "from_pretrained", load)
    args = serve.parse_script_arguments(serve.ScriptArguments, ["--threads", "2"])[0]
    with caplog.at_level("INFO"):
        assert serve.load_scorer(args) is scorer
    assert at_loading == [2]
    assert "on cpu, 2 threads" in caplog.text

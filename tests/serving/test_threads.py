"""Threads of the forward passes."""

import pytest
import torch

import serve


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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


def test_torch_chooses_where_nobody_does(served, monkeypatch):
    from reward_modeling.scoring import RewardScorer

    monkeypatch.setattr(RewardScorer, "from_pretrained", lambda *_args, **_options: served())
    torch.set_num_threads(3)
    serve.load_scorer(serve.parse_script_arguments(serve.ScriptArguments, [])[0])
    assert torch.get_num_threads() == 3

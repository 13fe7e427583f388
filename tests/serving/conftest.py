"""Models that several modules serve, made once."""

import sys

import pytest
from served_models import make_model

import score
from reward_modeling.scoring import RewardScorer


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The scorer of a model of this kind."""
    made = {}

    def get(kind: str = "one_label", **settings) -> RewardScorer:
        key = (kind, *sorted(settings.items()))
        if key not in made:
            folder = make_model(tmp_path_factory.mktemp("served") / kind, kind, **settings)
            made[key] = RewardScorer.from_pretrained(folder, dtype="float32")
        return made[key]

    return get


@pytest.fixture
def verify(monkeypatch, capsys):
    """score.py with these flags: its exit status and what it printed."""

    def run(**flags: object) -> tuple[int, str]:
        argv = [token for name, value in flags.items() for token in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["score.py", *argv])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            score.main()
        return ended.value.code, capsys.readouterr().out

    return run

"""Models that several modules serve, made once."""

import pytest
from served_models import make_model

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

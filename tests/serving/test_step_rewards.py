"""/v1/rewards of a process model."""

import pytest
from asking import app_of
from step_models import save_process_model

from reward_modeling.common.errors import UserError


def test_a_process_model_is_not_served_as_another_one(tmp_path):
    with pytest.raises(UserError, match="found a process model"):
        app_of(save_process_model(tmp_path / "model"))

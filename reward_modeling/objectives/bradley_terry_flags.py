"""The flags of Bradley-Terry, which can be read without torch: see bradley_terry.py."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from reward_modeling.common.flags import LOGGED, NOT_NEGATIVE, OnResume, below, flag, one_of, unsupported


@dataclass
class BradleyTerryFlags:
    """The flags of the loss."""

    best_metrics: ClassVar[dict[str, bool]] = {
        "loss": False,
        "accuracy": True,
        "margin": True,
        "calibration_error": False,
    }

    loss_margin: Annotated[str, one_of("auto", "scores", "none"), OnResume.DATA, LOGGED] = flag(
        "auto",
        "auto subtracts the rows' margin column where there is one; scores subtracts chosen_score - "
        "rejected_score; none ignores both.",
    )
    center_rewards_coefficient: Annotated[float, NOT_NEGATIVE, OnResume.FREE, LOGGED] = flag(
        0.0, "Weight of (chosen + rejected)^2, which keeps rewards around zero."
    )
    label_smoothing: Annotated[float, below(0.5), OnResume.FREE, LOGGED] = flag(
        0.0, "Assumed share of flipped labels, below 0.5."
    )
    label_smoothing_factor: Annotated[float, unsupported(0.0, "It is for classifiers: pass --label_smoothing")] = 0.0

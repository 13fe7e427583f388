"""The flags of a pairwise model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from reward_modeling.common.flags import LOGGED, OnResume, below, flag, one_of, unsupported


@dataclass
class PairwiseFlags:
    """The flags of the loss, and those of all kinds that say something else here."""

    best_metrics: ClassVar[dict[str, bool]] = {
        "loss": False,
        "accuracy": True,
        "flips": False,
        "calibration_error": False,
    }

    init_head: Annotated[str, one_of("lm", "new"), OnResume.FIXED, LOGGED] = flag(
        "lm",
        "What the head of a language model begins as: lm, its row of A less its row of B, so that the model begins "
        "with what the language model says; new, drawn at random. A pairwise model goes on with its own head.",
    )
    ties: Annotated[str, one_of("half", "drop"), OnResume.FIXED, LOGGED] = flag(
        "half", "Pairs with a chosen_probability of 0.5: half takes it as it is, drop leaves them out."
    )
    list_weight: Annotated[str, one_of("prompt", "pair"), OnResume.DATA, LOGGED] = flag(
        "prompt", "A list counts as much as one pair, whatever its length (prompt), or as much as all its pairs (pair)."
    )
    label_smoothing: Annotated[float, below(0.5), OnResume.FREE, LOGGED] = flag(
        0.0, "Assumed share of flipped labels, below 0.5."
    )
    label_smoothing_factor: Annotated[float, unsupported(0.0, "It is for classifiers: pass --label_smoothing")] = 0.0
    plain_text: Annotated[bool, unsupported(False, "A comparison holds the prompt once and each answer by itself")] = (
        flag(False, "Not used: a comparison holds the prompt once and each answer by itself.")
    )

    def objective_problems(self) -> Iterator[str]:
        yield from ()

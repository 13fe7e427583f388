"""--weights where a model is used: what its reward is made of."""

from collections.abc import Mapping

from reward_modeling.common.errors import UserError
from reward_modeling.objectives.rating_flags import WEIGHTS_FORM, named_values, read_weight

WEIGHTS_HELP = (
    f"Of a model of ratings, what its reward is made of: {WEIGHTS_FORM}. Outputs that are not named count nothing. "
    "Unset: the weights that it was saved with."
)


def read_weights(text: str | None) -> dict[str, float] | None:
    """
    Raises:
        UserError: it is something else than names and numbers.
    """
    if text is None:
        return None
    try:
        return named_values(text, read_weight)
    except ValueError as error:
        raise UserError(
            f"--weights: expected each name once with a finite number, as in {WEIGHTS_FORM}, found {text}"
        ) from error


def describe_weights(weights: Mapping[str, float]) -> str:
    """In words, without what counts nothing."""
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight)

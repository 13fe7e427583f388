"""What a pair's row says of its answers beside the texts: how sure it is, how strong, how much it counts.

| column               | meaning                                                                                |
|----------------------|----------------------------------------------------------------------------------------|
| `chosen_probability` | 0 to 1: how likely "chosen" is the better one; 0.5 is a tie                            |
| `strength`           | at least 0: how much better it is; a pair of strength 0 is a tie                       |
| `weight`             | at least 0: how much the row counts in the loss; rows of weight 0 are dropped          |
| `margin`             | what `--loss margin` subtracts from the difference of the rewards                      |
| `chosen_score`, `rejected_score` | what the answers were rated with                                           |

Where `--columns preferred=...` names columns, these are votes for the first answer, for the second or for neither, and
`chosen_probability` is the first one's share of them.
"""

import math
import re
from collections.abc import Mapping

import numpy as np

from reward_modeling.common.words import TIE
from reward_modeling.data.messages import parse_json, says_nothing
from reward_modeling.data.pairs import json_type
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import RowDropped

SCORES = ("chosen_score", "rejected_score")
LABELS = ("chosen_probability", "strength", "weight")
NUMBERS = ("margin", *SCORES, *LABELS)
TURNED = "pairs whose chosen_probability is below 0.5, turned round"
VOTES = {  # in favour, by the sign of the share less one half
    1: "pairs whose votes prefer the first answer",
    -1: "pairs whose votes prefer the second answer, turned round",
    0: "pairs whose votes prefer neither answer",
}
NEARLY = 1e-6  # of one half: a tie, as the loss, which is computed in float32, sees it
FLOAT32_MAX = float(np.finfo(np.float32).max)  # the loss is computed in float32

# What stands for the first answer, for the second, and for neither of them, where --preferred_values does not say.
FIRST, SECOND, NEITHER = ("1", "2", "0")


def read_numbers(row: Mapping[str, object]) -> dict[str, float | None]:
    """The numbers of a row by the names in `NUMBERS`, None where it has none."""
    return {name: read_number(name, row.get(name)) for name in NUMBERS}


def check_labels(
    numbers: Mapping[str, float | None], forms: set[str], votes: object = None, preferred_values: tuple[str, ...] = ()
) -> tuple[dict[str, float | None], bool]:
    """The numbers of a pair with its probability, and whether the pair is turned round.

    Chosen is the likelier answer afterwards: a pair with a `chosen_probability` below 0.5 says the same with its
    answers exchanged.

    Raises:
        RowDropped: a number is none, not finite or out of its range, or the weight is 0.
    """
    numbers = dict(numbers)
    for name, number in numbers.items():
        if number is not None and not abs(number) <= FLOAT32_MAX:
            raise RowDropped(DropReason.NAN_MARGIN, f"{name} {number}")
    if not says_nothing(votes):
        if numbers["chosen_probability"] is not None:
            raise RowDropped(DropReason.LABEL_OUT_OF_RANGE, "both chosen_probability and preferred")
        share = share_of_votes(votes, preferred_values)
        forms.add(VOTES[(share > TIE) - (share < TIE)])
        numbers["chosen_probability"] = share
    probability, strength, weight = (numbers[name] for name in LABELS)
    if probability is not None and not 0 <= probability <= 1:
        raise RowDropped(DropReason.LABEL_OUT_OF_RANGE, f"chosen_probability {probability:g}: expected 0 to 1")
    for name in ("strength", "weight"):
        if numbers[name] is not None and numbers[name] < 0:
            raise RowDropped(DropReason.LABEL_OUT_OF_RANGE, f"{name} {numbers[name]:g}: expected at least 0")
    if weight == 0:
        raise RowDropped(DropReason.ZERO_WEIGHT)
    if probability is not None and abs(probability - TIE) < NEARLY:
        numbers["chosen_probability"] = probability = TIE
    if probability is None and strength == 0:
        numbers["chosen_probability"] = TIE
    if probability is None or probability >= TIE:
        return numbers, False
    if says_nothing(votes):
        forms.add(TURNED)
    return turned(numbers), True


def turned(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    """The numbers of a pair for its answers exchanged."""
    margin, probability = numbers["margin"], numbers["chosen_probability"]
    return {
        **numbers,
        "chosen_probability": 1 - probability,
        "margin": None if margin is None else -margin,
        "chosen_score": numbers["rejected_score"],
        "rejected_score": numbers["chosen_score"],
    }


def read_number(name: str, value: object) -> float | None:
    """A column's number; a table of text (CSV) has it as text."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise RowDropped(DropReason.WRONG_TYPE, f"{name} is {json_type(value)}")
    try:
        if isinstance(value, str) and "_" in value:  # Python's 1_000, and nobody's number elsewhere
            raise ValueError(value)
        return float(value)
    except OverflowError:  # JSON knows integers beyond float64
        return math.inf
    except ValueError:
        raise RowDropped(DropReason.WRONG_TYPE, f"{name} is a text") from None


def share_of_votes(votes: object, values: tuple[str, ...] = ()) -> float:
    """How likely the first answer is the better one by one vote or several: the mean of 1, 0 and one half.

    Args:
        values: what stands for the first answer, for the second and for neither.

    >>> share_of_votes([1, 1, 0])
    0.8333333333333334
    """
    first, second, neither = map(_vote, values or (FIRST, SECOND, NEITHER))
    if isinstance(votes, str) and votes.lstrip().startswith("["):
        votes = parse_json(votes)
    worth = {first: 1.0, second: 0.0, neither: TIE}
    said = [_vote(vote) for vote in (votes if isinstance(votes, list) else [votes]) if not says_nothing(vote)]
    if unknown := [vote for vote in said if vote not in worth]:
        expected = f"{first} for the first answer, {second} for the second, {neither} for neither"
        raise RowDropped(DropReason.LABEL_OUT_OF_RANGE, f"preferred {unknown[0]!r:.40}: expected {expected}")
    if not said:
        raise RowDropped(DropReason.NO_SCORE, "preferred holds no vote")
    return math.fsum(worth[vote] for vote in said) / len(said)


def _vote(vote: object) -> str:
    """A vote as its text; a whole number is written without a point."""
    if isinstance(vote, float) and vote.is_integer():
        vote = int(vote)
    text = str(vote).strip()
    return text[:-2] if re.fullmatch(r"-?[0-9]+\.0", text) else text  # as tables with empty cells write whole numbers

"""What a row says of a step: whether it is right, as a label or as a rating of PRM800K.

| label                               | P(right)                                              |
|-------------------------------------|-------------------------------------------------------|
| true, 1, "+", "true"                | 1                                                     |
| false, 0, "-", "false"              | 0                                                     |
| a number from 0 to 1, also as text  | itself                                                |
| null, NaN, ""                       | unknown: the step is read, and no loss is taken there |

Ratings are -1 (wrong), 1 (right) and 0. What 0 means says --neutral_steps: TRL takes it as wrong, Qwen as right. A
rating of null is no label (TRL takes it as wrong), but for a step that a human wrote to go on from: that one is right,
as TRL has it too. A set in which any label is -1 has ratings in the place of labels: there 0 is not wrong.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.data.labels import read_number
from reward_modeling.data.messages import says_nothing
from reward_modeling.data.pairs import json_type
from reward_modeling.data.row_forms import RowDropped

SIGNS = {"+": 1.0, "-": 0.0}
_WORDS = {**SIGNS, "true": 1.0, "false": 0.0}
LABELS_ARE_RATINGS = "labels of -1, 0 and 1, which are ratings"
NEUTRAL_STEPS = {"right": 1.0, "wrong": 0.0, "half": 0.5, "drop": None}  # as --neutral_steps names them
TEXT_KEYS = ("text", "content", "value", "response", "completion", "solution", "answer")
LABEL_KEYS = ("label", "is_correct", "correct")


@dataclass
class LabelReading:
    """How the labels of a row are read, and what is met in it."""

    neutral_steps: str | None = None
    are_ratings: bool = False
    """Labels that are numbers are ratings, since the set has labels of -1."""
    strips: bool = False
    """Alternatives that differ in the white space at their ends alone are one."""
    forms: set[str] = field(default_factory=set)
    """How the row is written, in words."""
    counts: Counter[str] = field(default_factory=Counter)
    """What its steps show, in words."""
    neutral: int = 0
    """Steps with a rating of 0."""
    minus_one: bool = False
    """A label is -1, and labels are no ratings."""

    def label(self, value: object) -> float | None:
        """P(right), None where it is not known.

        Raises:
            RowDropped: it is no label, or no probability; where labels are ratings, it is none of them.
        """
        if isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and value.strip().lower() in _WORDS:
            return _WORDS[value.strip().lower()]
        number = _read_number(value)
        if number is None or number != number:
            return None
        if self.are_ratings:
            self.forms.add(LABELS_ARE_RATINGS)
            return self.rating(number)
        self.minus_one |= number == -1
        if not 0 <= number <= 1:
            raise RowDropped(DropReason.LABEL_OUT_OF_RANGE, f"label {number:g}: expected 0 to 1")
        return number

    def rating(self, value: object) -> float | None:
        """
        Raises:
            RowDropped: it is none of -1, 0, 1 and null.
        """
        if says_nothing(value):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value not in (-1, 0, 1):
            raise RowDropped(DropReason.LABEL_OUT_OF_RANGE, f"rating {value!r:.40}: expected -1, 0 or 1")
        if value == 0:
            self.neutral += 1
            return None if self.neutral_steps is None else NEUTRAL_STEPS[self.neutral_steps]
        return float(value > 0)


def _read_number(value: object) -> float | None:
    """The number that a label is, or that its text is; None where it says nothing."""
    if not isinstance(value, str):
        return read_number("label", value)
    if not value.strip():
        return None
    try:
        return float(value)
    except ValueError:
        raise RowDropped(DropReason.WRONG_TYPE, f"label {value!r:.40}: expected true, false or 0 to 1") from None


def read_text(value: object, name: str = "a step") -> str:
    """The words of a step, or of an answer.

    Raises:
        RowDropped: it is no text, or an empty one.
    """
    if isinstance(value, list) and len(value) == 1:  # one message
        value = value[0]
    if isinstance(value, Mapping):
        value = next((value[key] for key in TEXT_KEYS if isinstance(value.get(key), str)), value)
    if not isinstance(value, str):
        raise RowDropped(DropReason.WRONG_TYPE, f"{name} is {json_type(value)}")
    if not value.strip():
        raise RowDropped(DropReason.EMPTY_STEP)
    return value


def is_without_text(step: object) -> bool:
    """Whether what `read_text` reads is there, and blank or null."""
    if isinstance(step, Mapping):
        texts = [step[key] for key in TEXT_KEYS if key in step]
        return bool(texts) and all(is_without_text(text) for text in texts)
    return step is None or (isinstance(step, str) and not step.strip())


def read_step(step: Mapping, reading: LabelReading) -> tuple[str, float | None]:
    """The words and the label of a step that is an object: a `rating`, or one of `LABEL_KEYS`."""
    text = read_text(step)
    if "rating" in step and says_nothing(step.get("label")):
        return text, reading.rating(step["rating"])
    return text, reading.label(next((step[key] for key in LABEL_KEYS if not says_nothing(step.get(key))), None))

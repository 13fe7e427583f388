"""How a process model reads an answer: where a step ends, and what the model's config.json says of it.

    config.json:  "process": {"separator": "\\n\\n", "chat": true, "outcome": false, "aggregation": "min"}

The model is a `*ForTokenClassification` with two labels, of which the second is P(the step is right).
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedConfig

from reward_modeling.common.aggregations import AGGREGATIONS
from reward_modeling.common.errors import UserError, did_you_mean

PROCESS = "process"  # the key in config.json
RIGHT = 1  # the label
LABELS = ("wrong", "right")
TOKEN_CLASSIFIER = "ForTokenClassification"
BLANK_LINE = "\n\n"
BLANK_LINE_BEFORE = re.compile(r"(?<=\n\n)")


@dataclass(frozen=True)
class ProcessFormat:
    """How an answer becomes text, and how its steps become a reward."""

    separator: str = BLANK_LINE
    """Stands behind each step; the score is read at its last token. "": at the last token of the step."""
    chat: bool = True
    """Whether the prompt is written by the chat template, header of the answer included; else it stands as it is."""
    outcome: bool = False
    """An outcome model: an answer is one step."""
    aggregation: str = "min"
    """Of the steps' probabilities, which is the reward: see `common.aggregations`."""

    @classmethod
    def of_config(cls, path: str, config: PreTrainedConfig, **given: Any) -> "ProcessFormat":
        """
        Args:
            given: what takes the place of what is saved; None takes the place of nothing.

        Raises:
            UserError: the model does not say where its steps end, and neither does `given`; or an aggregation is none.
        """
        given = {name: value for name, value in given.items() if value is not None}
        saved = config.to_dict().get(PROCESS)
        if saved is None and "separator" not in given:
            raise UserError(
                f"{path}: expected in its config.json what rm_process.py saves ({PROCESS}), found nothing that says "
                'where a step ends. Pass the separator that the model was trained with (separator="\\n" is TRL\'s), or '
                f'write it into config.json: "{PROCESS}": {{"separator": "\\n", "chat": false}}.'
            )
        known = cls.__dataclass_fields__.keys()
        # TRL, from which a model without our entry most likely is, writes prompts as they are
        start = {"chat": False} if saved is None else {name: saved[name] for name in known if name in saved}
        return cls(**{**start, **given}).checked(path)

    def checked(self, path: str) -> "ProcessFormat":
        if self.aggregation not in AGGREGATIONS:
            raise UserError(
                f"{path}: expected the aggregation {', '.join(AGGREGATIONS)}, found {self.aggregation!r}"
                f"{did_you_mean(str(self.aggregation), AGGREGATIONS)}."
            )
        return self

    def to_config(self) -> dict[str, Any]:
        """The entry of config.json."""
        return asdict(self)

    def split(self, answer: str) -> list[str]:
        """The steps of an answer: what stands between separators, or between blank lines where the separator is a
        token that no answer has, such as <extra_0>. Blank parts are left out; at least one step comes back.

        Where the separator is line breaks, other white space may stand between them, such as that of "\\r\\n\\r\\n".
        Without a separator a blank line stays at the end of its step.
        """
        if self.outcome:
            return [answer]
        between = self.separator if self.separator in answer or self.separator.isspace() else BLANK_LINE
        parts = _split_at(between, answer) if self.separator else BLANK_LINE_BEFORE.split(answer)
        return [part for part in parts if part.strip()] or [answer]


def _split_at(separator: str, answer: str) -> list[str]:
    if separator.strip("\n"):
        return answer.split(separator)
    return re.split(rf"\r?\n(?:[^\S\n]*\n){{{len(separator) - 1}}}", answer)


def is_process_model(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint says that it is a `*ForTokenClassification`."""
    return any(name.endswith(TOKEN_CLASSIFIER) for name in config.architectures or ())


def is_outcome_model(config: PreTrainedConfig) -> bool:
    """Whether a process model's checkpoint says that it was trained on whole answers."""
    return bool((config.to_dict().get(PROCESS) or {}).get("outcome", False))


def make_process_model(config: PreTrainedConfig) -> None:
    """Let the configuration ask for a `*ForTokenClassification`, whatever the checkpoint is."""
    config.architectures = [TOKEN_CLASSIFIER]  # saving writes the whole name of the class


def check_labels(path: str, config: PreTrainedConfig) -> None:
    """
    Raises:
        UserError: it tells other things apart than right and wrong steps.
    """
    if config.num_labels != 2:
        raise UserError(
            f"{path}: expected a process model, a token classifier with the two labels wrong and right, found one with "
            f"{config.num_labels} labels. Take another model."
        )


def last_places(lengths: Sequence[int], separator: str) -> list[int]:
    """Where the steps end in a row of tokens.

    Args:
        lengths: tokens of the pieces: the prompt, then each step and its separator; without a separator each step.
    """
    ends, place = [], 0
    for number, length in enumerate(lengths):
        place += length
        if number and (not separator or number % 2 == 0):
            ends.append(place - 1)
    return ends

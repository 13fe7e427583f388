"""The flags of a process model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from reward_modeling.common.aggregations import AGGREGATIONS
from reward_modeling.common.flags import LOGGED, OnResume, at_least, flag, one_of, unsupported
from reward_modeling.data.read_options import STEP_COLUMNS_HELP, STEP_TARGETS

CHAT, PLAIN = "chat", "plain"


@dataclass
class ProcessFlags:
    """The flags of the loss, and those of all kinds that say something else here."""

    best_metrics: ClassVar[dict[str, bool]] = {
        "loss": False,
        "step_accuracy": True,
        "balanced_accuracy": True,
        "auc": True,
        "first_error_f1": True,
    }

    step_separator: Annotated[str | None, OnResume.DATA, LOGGED] = flag(
        None,
        "What stands behind each step, in tokens of its own; the score is read at the last of them. \\n is a line "
        "break. Empty: the score is read at the last token of the step. Unset: that of the model to go on with, else a "
        "blank line (\\n\\n).",
    )
    prompt_format: Annotated[str | None, one_of(CHAT, PLAIN), OnResume.DATA, LOGGED] = flag(
        None,
        "chat: the chat template writes the prompt, up to where the answer begins; plain: the prompt stands as it is, "
        "as TRL has it. Unset: that of the model to go on with, else chat.",
    )
    neutral_steps: Annotated[str | None, one_of("right", "wrong", "half", "drop"), OnResume.DATA, LOGGED] = flag(
        None,
        "What PRM800K's rating 0 means: right (as Qwen takes it), wrong (as TRL does), half (a label of 0.5), or drop: "
        "no label. It has to be said where there are such ratings.",
    )
    last_step_only: Annotated[bool, OnResume.DATA, LOGGED] = flag(
        False, "Learn from the label of each solution's last step alone."
    )
    aggregation: Annotated[str, one_of(*AGGREGATIONS), OnResume.FREE, LOGGED] = flag(
        "min",
        "Of the probabilities of an answer's steps, which is saved as the reward: min, product, last or mean. All are "
        "evaluated.",
    )
    metric_for_best_model: Annotated[str | None, OnResume.FIXED, LOGGED] = flag(
        None,
        "What the best model is the best in: loss, step_accuracy, balanced_accuracy, auc, or first_error_f1 "
        "(ProcessBench's).",
    )

    # Of all kinds
    max_train_samples: Annotated[int | None, at_least(1), OnResume.DATA] = flag(
        None, "Train on at most so many solutions, whole prompts only, drawn by the seed. Unset: on all."
    )
    columns: Annotated[str | None, OnResume.DATA] = flag(None, STEP_COLUMNS_HELP)
    preferred_values: Annotated[str | None, unsupported(None, "It is for pairs, which rm.py trains on")] = flag(
        None, "Not used: it is for pairs."
    )
    plain_text: Annotated[bool, unsupported(False, "A solution stands after its prompt: see --prompt_format")] = flag(
        False, "Not used: it is for pairs."
    )
    label_smoothing_factor: Annotated[
        float, unsupported(0.0, "A label may be a probability: write 0.95 in the place of 1")
    ] = 0.0
    per_device_train_batch_size: Annotated[int, at_least(1)] = flag(1, "Solutions per device; see the next flag.")
    gradient_accumulation_steps: Annotated[int, at_least(1)] = flag(
        32,
        "A step has per_device_train_batch_size x gradient_accumulation_steps x devices solutions. How many forward "
        "passes these take is decided by max_tokens_per_micro_batch.",
    )
    pairs_per_step: Annotated[int | None, at_least(1), OnResume.FIXED, LOGGED] = flag(
        None,
        "Solutions in a step over all devices (in rm.py pairs, hence the name), in place of the two flags above: the "
        "same steps on any number of devices.",
    )

    @property
    def read_targets(self) -> tuple[str, ...]:
        """What --columns may read."""
        return STEP_TARGETS

    def objective_problems(self) -> Iterator[str]:
        if problem := separator_problem(self.step_separator):
            yield problem


def read_separator(text: str | None) -> str | None:
    """As a command line has it: a backslash and n for a line break."""
    return None if text is None else text.replace("\\n", "\n")


def separator_problem(text: str | None) -> str | None:
    """What is wrong with --step_separator as it was given; None if nothing is."""
    separator = read_separator(text)
    if separator and not separator.strip(" "):
        return (
            "--step_separator: expected a text that stands out, such as \\n\\n, found spaces alone, which stand "
            "between all words"
        )
    return None

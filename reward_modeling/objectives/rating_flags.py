"""The flags of a model of ratings, and what stands in them."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from reward_modeling.common.flags import LOGGED, OnResume, at_least, flag, one_of, unsupported
from reward_modeling.common.words import QUANTILE_MARK
from reward_modeling.data.read_options import RATED_COLUMNS_HELP, RATED_TARGETS

RANGES_FORM, WEIGHTS_FORM = "helpfulness=0:4,score=1:10", "helpfulness=0.65,verbosity=-0.4"


@dataclass
class RegressionFlags:
    """The flags of the loss, and those of all kinds that say something else here."""

    best_metrics: ClassVar[dict[str, bool]] = {"loss": False, "spearman": True, "pair_accuracy": True}

    attributes: Annotated[str | None, OnResume.DATA, LOGGED] = flag(
        None, "The columns of the ratings, with commas between: helpfulness,correctness. One output for each."
    )
    label_ranges: Annotated[str | None, OnResume.FIXED, LOGGED] = flag(
        None, f"The least and the greatest rating: {RANGES_FORM}. Unset: those of the training set."
    )
    weights: Annotated[str | None, OnResume.FREE, LOGGED] = flag(
        None, f"What the scalar reward is made of: {WEIGHTS_FORM}. Unset: the mean of all attributes."
    )
    loss: Annotated[str, one_of("squared_error", "quantile"), OnResume.FIXED, LOGGED] = flag(
        "squared_error",
        "squared_error: one output for each attribute, its mean rating; quantile: 19 for each, the quantiles 0.05 to "
        "0.95 of its rating, which give an interval too.",
    )
    metric_for_best_model: Annotated[str | None, OnResume.FIXED, LOGGED] = flag(
        None, "What the best model is the best in: loss, or spearman and pair_accuracy, means over the attributes."
    )

    # Of all kinds
    max_train_samples: Annotated[int | None, at_least(1), OnResume.DATA] = flag(
        None, "Train on at most so many answers, whole prompts only, drawn by the seed. Unset: on all."
    )
    columns: Annotated[str | None, OnResume.DATA] = flag(None, RATED_COLUMNS_HELP)
    preferred_values: Annotated[str | None, unsupported(None, "It is for pairs, which rm.py trains on")] = flag(
        None, "Not used: it is for pairs."
    )
    plain_text: Annotated[bool, unsupported(False, "An answer stands after its prompt")] = flag(
        False, "Not used: it is for pairs."
    )
    per_device_train_batch_size: Annotated[int, at_least(1)] = flag(1, "Answers per device; see the next flag.")
    gradient_accumulation_steps: Annotated[int, at_least(1)] = flag(
        32,
        "A step has per_device_train_batch_size x gradient_accumulation_steps x devices answers. How many forward "
        "passes these take is decided by max_tokens_per_micro_batch.",
    )
    pairs_per_step: Annotated[int | None, at_least(1), OnResume.FIXED, LOGGED] = flag(
        None,
        "Answers in a step over all devices (in rm.py pairs, hence the name), in place of the two flags above: the "
        "same steps on any number of devices.",
    )

    @property
    def read_targets(self) -> tuple[str, ...]:
        """What --columns may read."""
        return *RATED_TARGETS, *attribute_names(self.attributes)

    def objective_problems(self) -> Iterator[str]:
        names = attribute_names(self.attributes)
        if not names:
            yield "--attributes: expected the columns of the ratings, as in helpfulness,correctness, found none"
        yield from (f"--attributes: expected each once, found {name} twice" for name in _repeated(names))
        for name in names:
            if name in RATED_TARGETS:
                yield f"--attributes: expected columns of ratings, found {name}, which is read as something else"
            elif "=" in name or QUANTILE_MARK in name:
                yield f"--attributes: expected names without = and {QUANTILE_MARK}, found {name}"
        ranges, problems = _checked("label_ranges", self.label_ranges, read_range, RANGES_FORM, names)
        weights, more_problems = _checked("weights", self.weights, read_weight, WEIGHTS_FORM, names)
        yield from (*problems, *more_problems)
        for name, (low, high) in ranges.items():
            if not low < high:
                yield f"--label_ranges {name}: expected a smaller number before a greater one, found {low:g}:{high:g}"
        if weights and not any(weights.values()):
            yield "--weights: expected one other than 0, found none: the reward would be 0 for every answer"


def attribute_names(attributes: str | None) -> tuple[str, ...]:
    """The names between the commas."""
    return tuple(name.strip() for name in (attributes or "").split(",") if name.strip())


def named_values(text: str | None, read: Callable[[str], Any]) -> dict[str, Any]:
    """name=value,name=value.

    Raises:
        ValueError: it is something else, or has a name twice.
    """
    entries = [entry.rpartition("=") for entry in (text or "").split(",") if entry.strip()]
    names = [name.strip() for name, _, _ in entries]
    if not all(names) or _repeated(names):
        raise ValueError(text)
    return {name: read(value) for name, (_, _, value) in zip(names, entries, strict=True)}


def read_weight(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def read_range(text: str) -> tuple[float, float]:
    """low:high."""
    low, high = text.split(":")
    return read_weight(low), read_weight(high)


def _checked(
    flag_name: str, text: str | None, read: Callable, form: str, attributes: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """The values of a flag, and what is wrong with it."""
    try:
        values = named_values(text, read)
    except ValueError:
        return {}, [f"--{flag_name}: expected each name once with its value, as in {form}, found {text}"]
    unknown = [name for name in values if name not in attributes]
    known = ", ".join(attributes) or "none"
    return values, [f"--{flag_name}: expected some of --attributes, {known}, found {name}" for name in unknown]


def _repeated(names: tuple[str, ...] | list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]

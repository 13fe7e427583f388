"""Why a server gives other rewards: what each known fault would give is computed, and compared with what was served.

    find_causes(case, load) -> [Cause("a second BOS", "...")]

A fault is named where its rewards are those that were served, within the tolerance of an equal server. What changes the
outputs alone (a sigmoid) needs no model. What changes the tokens or the precision is computed by the checkpoint itself,
which is loaded then.
"""

from collections.abc import Callable, Sequence

import numpy as np

from reward_modeling.checkpoints.verification import ROUNDING_FACTOR
from reward_modeling.models.pairwise_format import compares_answers
from reward_modeling.serving.clients import Row
from reward_modeling.serving.verification_case import Case, Cause, Checkpoint
from reward_modeling.serving.verification_changes import UNCHANGED, ValueChange, token_changes, value_changes
from reward_modeling.serving.verification_cuts import find_cut, long_rows_alone
from reward_modeling.serving.verification_rows import Outputs

ALIKE = 0.9  # correlation of served and expected rewards, from which weights are called alike
LEAST_ROWS = 4  # for a correlation, or a scale and a shift, which two rows always have
CLEARLY_NEARER = 5  # times nearer than no fault, for a fault that is seen through rounding
# How much nearer to the checkpoint's own rounded outputs than to its exact ones is called rounding. Tiny models in
# bfloat16, by other kernels, were 0.6 to 1.3 times as near, and weights with noise of that size 0.2 to 0.7 times.
NEARER_BY_ROUNDING = 1.2
LOWER = ("float16", "bfloat16")


def find_causes(case: Case, load: Callable[[], Checkpoint]) -> list[Cause]:
    """Of refused rows the refusal; of the others, where they differ, what explains all of them."""
    causes = _refusals(case)
    answered = case.only([place for place, message in enumerate(case.refused) if message is None])
    if not answered.rows or answered.distance(answered.values(answered.outputs)) <= 1:
        return causes
    cause = _other_outputs(answered) or _changed_values(answered) or _scaled(answered)
    return [*causes, cause or _by_the_checkpoint(answered, load())]


def _by_the_checkpoint(case: Case, checkpoint: Checkpoint) -> Cause:
    if case.way.as_messages:  # token ids were equal
        return _changed_tokens(case, checkpoint) or _other_template(case)
    own = checkpoint.outputs(case.rows)
    return (
        _other_files(case, own)
        or _changed_tokens(case, checkpoint)
        or find_cut(case, checkpoint, own)
        or long_rows_alone(case)
        or _lower_precision(case, checkpoint, own)
        or _unknown(case)
    )


# --- without the model ----------------------------------------------------------------------------------------


def _refusals(case: Case) -> list[Cause]:
    lengths = [len(row.ids) for row in case.rows]
    refused = [place for place, message in enumerate(case.refused) if message is not None]
    if not refused:
        return []
    shortest = min(lengths[place] for place in refused)
    taken = max((length for place, length in enumerate(lengths) if place not in refused), default=0)
    count, said = f"{len(refused)} of {len(lengths)} rows", f"The server says: {case.refused[refused[0]]}"
    limit = case.max_length
    too_long = shortest > taken > 0 if limit is None else shortest > max(taken, limit - 1)  # it may count BOS too
    if not too_long:
        return [Cause("refused rows", f"The server refuses {count}. {said}")]
    most = f"at most {limit:,} tokens" if limit else "shorter conversations alone"
    return [
        Cause(
            "too short a length",
            f"The server takes {most}, and refuses {count}, those of {shortest:,} tokens and more. Start it with a "
            f"greater length (vLLM: --max-model-len). {said}",
        )
    ]


def _other_outputs(case: Case) -> Cause | None:
    """Other values than the checkpoint has."""
    expected = list(case.values(case.outputs)[0])
    served = next((list(values) for values in case.served if set(values) != set(expected)), None)
    if served is None:
        return None
    return Cause(
        "another model",
        f"It is another model: {len(expected)} values were due ({_few(expected)}), and the server gives "
        f"{len(served)} ({_few(served)}).",
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _changed_values(case: Case) -> Cause | None:
    """What a sigmoid, a softmax or a normalisation makes of the rewards that are due."""
    expected = case.values(case.outputs)
    for change in value_changes(case):
        if case.distance([change.apply(values) for values in expected]) <= 1:
            return Cause(
                change.name,
                f"{change.what}: done to the rewards that are due, this gives what was served. {change.cure}",
            )
    return None


def _scaled(case: Case) -> Cause | None:
    """One scale and one shift that make the served rewards of those that are due."""
    if len(case.tolerances) > 1 or len(case.rows) < LEAST_ROWS:
        return None
    (name,) = case.tolerances
    due, served = _column(case, name)
    if not np.isfinite(served).all() or np.ptp(due) == 0:
        return None
    scale, shift = np.polyfit(due, served, 1)
    found = [{name: float(scale * value + shift)} for value in due]
    if case.distance(found) > 1 or np.ptp(scale * due) <= case.tolerances[name]:  # a constant tells nothing
        return None
    return Cause(
        "a scale and a shift",
        f"The server gives {scale:.4g} x reward {shift:+.4g}, as one that normalises rewards does. Let it give "
        "raw logits.",
    )


def _column(case: Case, name: str) -> tuple[np.ndarray, np.ndarray]:
    """What is due and what was served, of one value."""
    due = np.array([values[name] for values in case.values(case.outputs)])
    return due, np.array([values[name] for values in case.served])


# --- by the checkpoint itself ---------------------------------------------------------------------------------


def _other_files(case: Case, own: Outputs) -> Cause | None:
    """The folder is not what was verified: then nothing that is computed of it explains a server."""
    expected = case.values(case.outputs)
    found = case.values(own)
    apart = max(
        abs(one[name] - due[name]) / case.tolerances[name]
        for one, due in zip(found, expected, strict=True)
        for name in due
    )
    if apart <= 1:
        return None
    served = "the server gives" if case.distance(found) <= 1 else "neither the server nor the file gives"
    return Cause(
        "changed files",
        f"The files of {case.checkpoint.name} give other rewards here than its verification.json says; {served} "
        "those of the files. They were changed after they were verified.",
    )


def _changed_tokens(case: Case, checkpoint: Checkpoint) -> Cause | None:
    """A second BOS and the like, with or without a sigmoid on top. Of several the nearest."""
    found: list[tuple[float, Cause]] = []
    for change in token_changes(case.checkpoint.tokenizer):
        rows = [change.apply(row) for row in case.rows]
        if rows == case.rows or not all(row.ids for row in rows):
            continue
        values = case.values(checkpoint.outputs(rows))
        for on_top in (UNCHANGED, *value_changes(case)):
            apart = case.distance([on_top.apply(one) for one in values])
            if apart <= 1:
                found.append((apart, Cause(*_named(change.name, change.what, on_top, _counts(case, rows)))))
    return min(found, default=(0, None), key=lambda entry: entry[0])[1]


def _named(name: str, what: str, on_top: ValueChange, more: str) -> tuple[str, str]:
    also = "" if on_top is UNCHANGED else f" and {on_top.name}"
    with_it = "" if on_top is UNCHANGED else f", after {on_top.name},"
    return f"{name}{also}", f"{what}: of these tokens the checkpoint itself{with_it} gives what was served.{more}"


def _counts(case: Case, rows: Sequence[Row]) -> str:
    """Whether the number of tokens that the server has read says the same."""
    if any(count is None for count in case.counted):
        return ""
    agrees = all(count == len(row.ids) for count, row in zip(case.counted, rows, strict=True))
    return " The server's count of tokens says so too." if agrees else ""


def _other_template(case: Case) -> Cause:
    due, found = ([str(count) for count in counts] for counts in ([len(row.ids) for row in case.rows], case.counted))
    counts = "" if None in case.counted else f" (of {', '.join(due)} tokens that are due it reads {', '.join(found)})"
    return Cause(
        "another chat template",
        f"The server makes other tokens of messages{counts}, and token ids get the rewards that are due. Give it the "
        f"chat template of {case.checkpoint.name} (vLLM: --chat-template FILE; serve.py takes it by itself), and "
        f"{'its' if compares_answers(case.checkpoint.config) else 'no'} generation prompt; or send token ids.",
    )


def _lower_precision(case: Case, checkpoint: Checkpoint, own: Outputs) -> Cause | None:
    """Rounding, which has no exact value to compare with: its size tells that it may be, its direction how likely.

    Weights that are a little off give differences of the same size, but not those of the checkpoint's own rounding.
    """
    before = case.distance(case.values(case.outputs))
    for dtype in LOWER:
        low = checkpoint.outputs(case.rows, dtype)
        rounding = float(np.abs(low - own).max())
        # without the least tolerance that a saved model has: all that is small would be called rounding
        tolerances = {name: max(value, ROUNDING_FACTOR * rounding) for name, value in case.tolerances.items()}
        says = f"it moves the checkpoint's own outputs by up to {rounding:.2g} here"
        if case.distance(case.values(own), tolerances) <= 1:
            return _rounded(case, own, low, dtype, says)
        for change in value_changes(case):
            apart = case.distance([change.apply(values) for values in case.values(own)], tolerances)
            exact = case.distance([change.apply(values) for values in case.values(own)])
            if apart <= 1 and CLEARLY_NEARER * exact <= before:
                return Cause(
                    f"{change.name} and lower precision",
                    f"{change.what}, and probably computes in lower precision: what is left is of the size of rounding "
                    f"in {dtype} ({says}). {change.cure}",
                )
    return None


def _rounded(case: Case, own: Outputs, low: Outputs, dtype: str, says: str) -> Cause:
    cure = f"Start it in float32 (vLLM: --dtype float32), or allow for it: --served_dtype {dtype}."
    if NEARER_BY_ROUNDING * _spread(case, low) <= _spread(case, own):
        return Cause(
            "lower precision",
            f"The server most likely computes in lower precision: what it gives is nearer to the checkpoint's own "
            f"outputs in {dtype} than to those in float32, and of that size ({says}). {cure}",
        )
    return Cause(
        "lower precision or slightly other weights",
        f"Either the server computes in lower precision or its weights are slightly other ones: the differences are of "
        f"the size of rounding in {dtype} ({says}), but its rewards are not nearer to what that rounding gives here. "
        f"If it is rounding: {cure}",
    )


def _spread(case: Case, outputs: Outputs) -> float:
    """The mean square root of what was served less these, over all values."""
    differences = [
        served[name] - due
        for values, served in zip(case.values(outputs), case.served, strict=True)
        for name, due in values.items()
    ]
    return float(np.sqrt(np.mean(np.square(differences))))


def _unknown(case: Case) -> Cause:
    tried = "no sigmoid, softmax or scale, no other BOS or end, no cut and no lower precision explains what was served"
    name = next(iter(case.tolerances))
    due, served = _column(case, name)
    if len(due) < LEAST_ROWS or not np.isfinite(served).all() or np.ptp(due) == 0 or np.ptp(served) == 0:
        return Cause("another model", f"It is another model, or the cause is not known: {tried}.")
    alike = float(np.corrcoef(due, served)[0, 1])
    if alike < ALIKE:
        return Cause(
            "another model",
            f"It is another model, or one of other weights: {tried}, and over {len(due)} rows the correlation with the "
            f"rewards that are due is {alike:.2f}.",
        )
    return Cause(
        "weights that are alike",
        f"The weights are alike, and not the same: {tried}, but the correlation with the rewards that are due is "
        f"{alike:.4f}. So are another step of the training, quantised weights, and an adapter that was not merged.",
    )

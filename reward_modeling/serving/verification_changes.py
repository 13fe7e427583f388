"""What servers do to tokens and to outputs, one entry for each: a kind of fault is a line more here."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from reward_modeling.serving.clients import Row
from reward_modeling.serving.verification_case import Case
from reward_modeling.serving.verification_values import Values

RAW = (
    'Let it give raw logits: config.json has "problem_type": "regression", or the request says "use_activation": false.'
)


@dataclass(frozen=True)
class ValueChange:
    """What is done to the values of a row, and what is to be done about it."""

    name: str
    what: str
    apply: Callable[[Values], Values]
    cure: str = ""


@dataclass(frozen=True)
class TokenChange:
    """What is done to the tokens of a row."""

    name: str
    what: str
    apply: Callable[[Row], Row]


UNCHANGED = ValueChange("nothing", "nothing", lambda values: values)


def value_changes(case: Case) -> Iterator[ValueChange]:
    """Those that come into question for these values."""
    yield ValueChange("a sigmoid", "The server applies a sigmoid", _sigmoid, RAW)
    if len(case.tolerances) > 1:
        yield ValueChange("a softmax", "The server applies a softmax", _softmax, RAW)
    else:
        what = "The server applies a softmax to one label, which makes 1 of any reward, or always answers 1"
        yield ValueChange("a softmax of one label, or a constant", what, _softmax, RAW)
    statistics = case.checkpoint.statistics
    if statistics is not None and statistics["reward_std"] > 0 and len(case.tolerances) == 1:
        mean, std = statistics["reward_mean"], statistics["reward_std"]
        yield ValueChange(
            "a normalisation",
            f"The server subtracts reward_mean ({mean:.4g}) and divides by reward_std ({std:.4g})",
            lambda values: {name: (one - mean) / std for name, one in values.items()},
            "Let it give raw logits.",
        )


def _sigmoid(values: Values) -> Values:
    return {name: 0.5 * (1 + math.tanh(one / 2)) for name, one in values.items()}


def _softmax(values: Values) -> Values:
    """Of one output it is 1."""
    largest = max(values.values())
    parts = {name: math.exp(one - largest) for name, one in values.items()}
    return {name: part / sum(parts.values()) for name, part in parts.items()}


def token_changes(tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenChange]:
    """Those that come into question for this tokenizer."""

    def change(name: str, what: str, apply: Callable[[list[int]], list[int]]) -> TokenChange:
        return TokenChange(name, what, lambda row: _with_ids(row, apply(row.ids)))

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None:
        mark = repr(tokenizer.bos_token)
        yield change("a second BOS", f"The server reads one {mark} more in front", lambda ids: [bos, *ids])
        yield change(
            "a missing BOS", f"The server reads no {mark} in front", lambda ids: ids[1:] if ids[0] == bos else ids
        )
    if eos is not None:
        mark = repr(tokenizer.eos_token)
        yield change("an EOS too many", f"The server reads one {mark} more at the end", lambda ids: [*ids, eos])
        yield change(
            "a missing EOS", f"The server reads no {mark} at the end", lambda ids: ids[:-1] if ids[-1] == eos else ids
        )
    yield change("a missing last token", "The server does not read the last token", lambda ids: ids[:-1])
    yield TokenChange(
        "white space that was stripped",
        "The server reads the text without the white space at its ends",
        lambda row: row if row.text is None else _tokenised(row, row.text.strip(), tokenizer),
    )
    yield TokenChange(
        "special tokens that were left out",
        "The server reads the text without its special tokens",
        lambda row: _tokenised(row, tokenizer.decode(row.ids, skip_special_tokens=True), tokenizer),
    )


def _with_ids(row: Row, ids: list[int]) -> Row:
    """Of a process model, which reads a place among them, they are sent as they are, and counted in the answer."""
    return row if ids == row.ids or row.end is not None else replace(row, ids=ids, text=None)


def _tokenised(row: Row, text: str, tokenizer: PreTrainedTokenizerBase) -> Row:
    return _with_ids(row, tokenizer(text, add_special_tokens=False)["input_ids"])

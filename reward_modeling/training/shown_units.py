"""Whole training units on the screen, as the model sees them: every mark of the template, each token that is read."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from reward_modeling.data.examples import RowReader
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import unit_weights
from reward_modeling.models.tokenizer import is_for_encoder

MOST_CHARACTERS, MOST_LINES = 1200, 24  # of a prompt or an answer; the middle of longer ones is folded


def show_units(
    groups: PromptGroups, numbers: Sequence[int], tokenizer: PreTrainedTokenizerBase, reader: RowReader, shown: int
) -> str:
    """The first row of `shown` groups among `numbers`, spread evenly over them."""
    places = np.unique(np.linspace(0, len(numbers) - 1, min(shown, len(numbers))).astype(int)) if shown else []
    units = [show_unit(groups.groups[int(numbers[place])], tokenizer, reader) for place in places]
    return "\n\n".join(units)


def show_unit(group: dict, tokenizer: PreTrainedTokenizerBase, reader: RowReader) -> str:
    """The prompt that its answers share, each answer, and the token at which its reward is read."""

    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    prefix, where = group["prefix_ids"], group["where"]
    is_alone = len(group["completion_ids"]) == 1  # the prefix of a single answer says nothing: all but its last token
    of_row = [number for number, place in enumerate(where) if place == where[0]]
    columns = (group["units"], group["targets"], unit_weights(group))
    row = reader.shown_row(*([column[number] for number in of_row] for column in columns))
    lines = [
        f"One {row.kind} as the model sees it ({where[0]}):",
        *([f"  {row.label}"] if row.label else []),
    ]
    if not is_alone:
        lines += [f"  shared by the answers, {len(prefix)} tokens", *_quote(text(prefix))]
    for number, name in row.names.items():
        completion = group["completion_ids"][number]
        ids = prefix + completion
        reads = (f"at token {each}, {text([ids[each]])!r}" for each in group["read_positions"][number])
        where = f"{reader.read_off} is read {' and '.join(reads)}"
        if is_for_encoder(tokenizer):
            where = f"an encoder reads {reader.read_off} off the whole text, pooled at its {tokenizer.cls_token!r}"
        name, shown = (f"{name} with its prompt", ids) if is_alone else (name, completion)
        lines += [f"  {name}, {len(shown)} tokens; {where}", *_quote(text(shown))]
    return "\n".join(lines)


def _quote(text: str) -> list[str]:
    """A text line by line behind a bar, its middle folded where it is long; nothing in it moves the cursor."""
    lines = ["".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line) for line in text.split("\n")]
    if len(text) > MOST_CHARACTERS or len(lines) > MOST_LINES:
        head, tail = _ends(lines), _ends([line[::-1] for line in reversed(lines)])
        tail = [line[::-1] for line in reversed(tail)]
        hidden = len(text) - len("\n".join(head)) - len("\n".join(tail))
        if hidden > 0:
            lines = [*head, f"[{hidden:,} characters are not shown here]", *tail]
    return [f"    | {line}".rstrip() for line in lines]


def _ends(lines: list[str]) -> list[str]:
    """The first lines, as many as half of what is shown has room for; the last of them may be a part of one."""
    room, taken = MOST_CHARACTERS // 2, []
    for line in lines[: MOST_LINES // 2]:
        taken.append(line[:room])
        room -= len(line)
        if room <= 0:
            break
    return taken

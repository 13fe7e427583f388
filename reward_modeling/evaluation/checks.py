"""What the chat template of a scorer makes of a benchmark's rows, before any of them is scored.

refused, losses = check_rows(data.rows, scorer.reader)
"""

import json
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from reward_modeling.data.conversations import parts_of
from reward_modeling.data.losses import Losses
from reward_modeling.evaluation.benchmarks.rows import conversations
from reward_modeling.scoring.conversations import ConversationReader


class RowChecks(NamedTuple):
    """By the number of the row; sound rows are in neither."""

    refused: dict[int, str]  # rows that are not scored, with the reason
    losses: dict[int, Losses]  # rows that are scored, although the template leaves out an answer's text or a message


def check_rows(rows: Iterable[dict], reader: ConversationReader) -> RowChecks:
    """Render every conversation once; `rows` are records of `EVALUATION_FEATURES`. A plain text has no template.

    Raises:
        UserError: there are conversations, and the tokenizer has no chat template.
    """
    checks = RowChecks({}, {})
    for number, row in enumerate(rows):
        refusal, losses = (f"{row['reason']}: {row['excerpt']}", []) if row["reason"] else _check_row(row, reader)
        if refusal:
            checks.refused[number] = refusal
            continue
        answer = next((of.answer for of in losses if of.answer), "")
        message = next((of.message for of in losses if of.message), "")
        if answer or message:
            checks.losses[number] = Losses(answer, message)
    return checks


def _check_row(row: dict, reader: ConversationReader) -> tuple[str, list[Losses]]:
    """Why the template refuses a row, empty if it does not, and what each of its conversations loses."""
    losses = []
    for conversation in chain(*conversations(row)):
        if isinstance(conversation, str):
            continue
        reader.check_template()
        messages, _ = parts_of(conversation)
        refusal, lost = reader.check(conversation, len(messages) - len(json.loads(row["prompt"])))
        if refusal:
            roles = ", ".join(message["role"] for message in messages)
            return f"the chat template refuses it: {refusal} (roles: {roles})", []
        losses.append(lost)
    return "", losses

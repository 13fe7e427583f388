"""Steps with signs behind them: Math-Shepherd's texts, and dialogues in which the assistant says + or -.

    input  "How many? Step 1: Two. ки\\nStep 2: Three. ки"       label  "How many? Step 1: Two. +\\nStep 2: Three. -"

    user "How many? Step 1: Two."   assistant "+"   user "Step 2: Three."   assistant "-"

Neither says where the question ends. The first step begins at the last "Step 1:" before the first sign; where there is
none, behind the question mark, if there is one alone before the first sign. Nothing else is guessed.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from reward_modeling.data.drop_reasons import DropReason
from reward_modeling.data.messages import Message
from reward_modeling.data.row_forms import RowDropped
from reward_modeling.data.step_labels import SIGNS

MARK = "ки"  # stands in `input` where `label` has a sign
MARK_IN_QUESTION = "texts with a mark inside the question, which is left out"
BEHIND_QUESTION_MARK = "first steps that begin behind the question mark"
FIRST_STEP = re.compile(r"(?<!\w)step 1\s*[:.]", re.IGNORECASE)
SECOND_STEP = re.compile(r"\s*step 2\s*[:.]", re.IGNORECASE)
SHOWN = 80  # characters


def read_marked_text(text: str, label: str, forms: set[str]) -> tuple[str, list[str], list[float | None]]:
    """The question, the steps and their labels.

    Marks inside the question, of which Math-Shepherd has some, are left out with their signs.

    Raises:
        RowDropped: the label has no sign where the text has a mark, or nothing says where the first step begins.
    """
    pieces = text.split(MARK)
    signs = _signs(pieces, label)
    first, begin = _first_step(pieces, forms)
    if first:
        forms.add(MARK_IN_QUESTION)
    question = "".join(pieces[:first]) + pieces[first][:begin]
    steps = [pieces[first][begin:], *pieces[first + 1 :]]
    labels: list[float | None] = list(signs[first:])
    if steps[-1].strip():  # no mark stands behind it
        labels.append(None)
    else:
        steps.pop()
    return question.strip(), steps, labels


def _signs(pieces: Sequence[str], label: str) -> list[float]:
    signs, place = [], 0
    for piece in pieces[:-1]:
        place += len(piece)
        signs.append(label[place : place + 1])
        place += 1
    if len(label) != place + len(pieces[-1]) or not all(sign in SIGNS for sign in signs):
        raise RowDropped(DropReason.MARKS_DIFFER, f"label {label[:SHOWN]!r}")
    return [SIGNS[sign] for sign in signs]


def _first_step(pieces: Sequence[str], forms: set[str]) -> tuple[int, int]:
    """The piece in which the first step begins, and where in it.

    It is another than the first one where a mark stands inside the question; a later step may name step 1 as well, but
    no "Step 2:" follows that one.
    """
    for number, (piece, following) in enumerate(pairwise(pieces)):
        if (place := _last_step_1(piece)) is not None and (number == 0 or SECOND_STEP.match(following)):
            return number, place
    return 0, behind_question(pieces[0], forms)


def behind_question(text: str, forms: set[str]) -> int:
    """Where the first step begins in a question with a step behind it.

    Raises:
        RowDropped: nothing says so.
    """
    if (place := _last_step_1(text)) is not None:
        return place
    question, mark, step = text.partition("?")
    if not mark or not step.strip() or "?" in step:
        raise RowDropped(DropReason.NO_FIRST_STEP, f"{text[:SHOWN]!r}")
    forms.add(BEHIND_QUESTION_MARK)
    return len(question) + 1


def _last_step_1(text: str) -> int | None:
    """Where the last "Step 1:" begins."""
    places = [found.start() for found in FIRST_STEP.finditer(text)]
    return places[-1] if places else None


# --- dialogues --------------------------------------------------------------------------------------------------------


def is_signed(messages: Sequence[Message]) -> bool:
    """Whether all that the assistant says is + or -."""
    said = [message["content"].strip() for message in messages if message["role"] == "assistant"]
    return bool(said) and all(sign in SIGNS for sign in said)


def read_dialogue(
    messages: Sequence[Message], question: str | None, forms: set[str]
) -> tuple[list[Message], list[str], list[float | None]]:
    """The prompt, the steps and their labels; a last step without an answer has none.

    Args:
        messages: of which those of the assistant are signs.
        question: with which the first turn begins, where the row has it in another column.

    Raises:
        RowDropped: the turns do not alternate, or nothing says where the first step begins.
    """
    start = next((number for number, message in enumerate(messages) if message["role"] == "user"), len(messages))
    before, turns = list(messages[:start]), messages[start:]
    if any(message["role"] != ("assistant" if number % 2 else "user") for number, message in enumerate(turns)):
        raise RowDropped(DropReason.SAME_ROLE_TWICE, "expected steps of the user and signs of the assistant in turn")
    said = [turn["content"] for turn in turns]
    steps, labels = said[::2], [SIGNS[sign.strip()] for sign in said[1::2]]
    known: list[float | None] = [*labels, *[None] * (len(steps) - len(labels))]
    asked, steps[0] = _split_question(steps[0], question, forms)
    return [*before, {"role": "user", "content": asked}], steps, known


def _split_question(text: str, question: str | None, forms: set[str]) -> tuple[str, str]:
    if question is not None and question.strip():
        if not text.strip().startswith(question.strip()):
            raise RowDropped(DropReason.PROMPTS_DIFFER, "the first turn does not begin with the prompt")
        return question.strip(), text.strip()[len(question.strip()) :]
    place = behind_question(text, forms)
    return text[:place].strip(), text[place:]

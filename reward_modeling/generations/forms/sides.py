"""One answer and what stands before it, from the values of a row's columns; by the rules of preference rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from reward_modeling.data.held_prompts import holds_prompt, looks_rendered, shared_turns
from reward_modeling.data.messages import Message, UnreadableMessages, messages_in_text, to_json
from reward_modeling.data.pairs import RENDERED_PROMPTS, RENDERED_TEXTS, TRANSCRIPTS, read_side, read_text
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import RowDropped, is_blank
from reward_modeling.data.transcripts import invites_answer, merge_turns, parse_transcript
from reward_modeling.generations.answers import NotScored, Unreadable

WITHOUT_WORDS = "answers without words"
MESSAGES_AS_TEXT = "texts that hold messages as JSON, and are scored as texts"
BEGINS_WITH_PROMPT = "answers that begin with their prompt"
STEP_LISTS = "answers given as lists of steps, which stand apart by a blank line in the text"
HALF_A_CHARACTER = "half a character (\\ud800 to \\udfff)"
BETWEEN_STEPS = "\n\n"
BEHIND_ASSISTANT = "answers behind a prompt that ends with a turn of the assistant's, as a turn of their own"
FEWEST_WORDS = 3  # of a prompt that an answer begins with: a shorter one may stand there by chance
ASKERS = ("user", "system", "developer")  # whose turns make whole conversations of answers
# A text that is no prompt's answer has a reason of its own here; the others are those of preference rows.
REASONS = {
    DropReason.NO_CHOSEN_OR_REJECTED: NotScored.NO_ANSWER,
    DropReason.EMPTY_REPLY: NotScored.NO_ANSWER,
    DropReason.SAME_ROLE_TWICE: NotScored.NOT_A_TRANSCRIPT,
}


@dataclass(frozen=True)
class Side:
    """Messages before an answer, and the answer's own; or two texts, which are scored one behind the other."""

    prompt: list[Message] | str
    answer: list[Message] | str
    steps: tuple[str, ...] = ()
    """Where the answer is given as a list of steps these."""

    @property
    def messages(self) -> list[Message]:
        return [*self.prompt, *self.answer]

    def with_prompt(self, prompt: list[Message]) -> "Side":
        return replace(self, prompt=prompt)

    def after(self, shared: int) -> list[Message]:
        """What follows the first messages."""
        return self.messages[shared:]


@contextmanager
def in_own_words() -> Iterator[None]:
    """What the readers of preference rows refuse, as what cannot be scored."""
    try:
        yield
    except RowDropped as dropped:
        reason = REASONS.get(dropped.reason)
        raise Unreadable(reason or NotScored(dropped.reason.value), dropped.detail) from dropped


def read_sides(
    prompt: object,
    answers: Sequence[object],
    notes: set[str],
    *,
    plain_text: bool = False,
    has_prompt: bool = True,
    json_texts: bool = False,
) -> list[Side | Unreadable]:
    """What is scored of each answer, in order; an answer that cannot be read costs no other one its place.

    Args:
        notes: takes the names of what is worth counting.
        plain_text: texts are taken as they stand.
        has_prompt: whether answers that are texts need a prompt before them, unless they are transcripts.
        json_texts: a text that holds messages as JSON is these messages. Not what a policy has written: it would put
            turns of the user's into its answer.

    Raises:
        Unreadable: the prompt cannot be read.
    """
    asked = None if prompt is None or is_blank(prompt) else prompt
    if json_texts:
        with in_own_words():
            asked, answers = read_text(asked, notes), [read_text(answer, notes) for answer in answers]
    elif any(map(holds_messages, (asked, *answers))):
        notes.add(MESSAGES_AS_TEXT)
    if any(map(steps_of, answers)):
        notes.add(STEP_LISTS)
    if plain_text and all(one is None or isinstance(one, str) for one in (asked, *answers)):
        read = partial(_text_behind, asked or "")
    else:
        before = None if asked is None else _read_prompt(asked, notes)
        without_prompt = NotScored.NO_PROMPT if has_prompt else NotScored.PLAIN_TEXT
        read = partial(_read_side, before, notes=notes, without_prompt=without_prompt)
    return [_read_or_not(read, answer) for answer in answers]


def _read_or_not(read: Callable[[object], Side], answer: object) -> Side | Unreadable:
    if answer is None:
        return Unreadable(NotScored.NO_ANSWER, "null")
    steps = steps_of(answer)
    try:
        with in_own_words():
            side = replace(read(BETWEEN_STEPS.join(steps) if steps else answer), steps=steps)
    except Unreadable as unreadable:
        return unreadable
    if has_half_a_character(to_json([side.prompt, side.answer])):
        return Unreadable(NotScored.WRONG_TYPE, HALF_A_CHARACTER)
    return side


def steps_of(answer: object) -> tuple[str, ...]:
    """The steps of an answer that is a list of texts; none of another one."""
    is_steps = isinstance(answer, list) and all(isinstance(step, str) for step in answer)
    return tuple(answer) if is_steps else ()


def has_half_a_character(text: str) -> bool:
    """Whether a text holds what JSON can write ("\\ud800") and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _text_behind(asked: str, answer: str) -> Side:
    if not (asked + answer).strip():
        raise Unreadable(NotScored.NO_ANSWER, "white space alone")
    return Side(asked, answer)


def _read_prompt(asked: object, notes: set[str]) -> list[Message]:
    """The messages of a prompt; a text is a turn of the user's, or a transcript that goes on in an answer."""
    if isinstance(asked, str) and invites_answer(asked):
        notes.add(TRANSCRIPTS)
        return parse_transcript(asked)
    with in_own_words():
        messages = read_side(asked, "user", notes)
    if messages[0]["role"] == "user" and looks_rendered(messages[0]["content"]):
        notes.add(RENDERED_PROMPTS)
    return messages


def _read_side(before: list[Message] | None, answer: object, notes: set[str], without_prompt: NotScored) -> Side:
    if isinstance(answer, str):
        return _behind(before, answer, notes) if before else _text_alone(answer, notes, without_prompt)
    messages = read_side(answer, "assistant", notes)
    if not messages:
        raise Unreadable(NotScored.NO_ANSWER, "an empty list")
    if any(message["role"] in ASKERS for message in messages):
        held = not before or holds_prompt(messages, before)
        rest = [] if held else before[: len(before) - shared_turns(before, (messages,))]
        side = Side([*rest, *messages[:-1]], messages[-1:])
    elif before is None:
        side = Side(messages[:-1], messages[-1:])
    else:
        side = Side(before, messages)
    if side.messages[-1]["role"] != "assistant":
        raise Unreadable(NotScored.LAST_NOT_ASSISTANT, f"role {side.messages[-1]['role']}")
    if not side.prompt:
        raise Unreadable(NotScored.NO_PROMPT)
    _note_words(side, notes)
    return side


def _behind(before: list[Message], text: str, notes: set[str]) -> Side:
    """A text that answers the prompt; what the assistant has begun to say there is its beginning."""
    answer = {"role": "assistant", "content": text}
    if before[-1]["role"] == "assistant" and TRANSCRIPTS in notes:
        merged = merge_turns([*before, {**answer, "content": text.strip()}])
        return Side(merged[:-1], merged[-1:])
    if before[-1]["role"] == "assistant":
        notes.add(BEHIND_ASSISTANT)
    side = Side(before, [answer])
    _note_words(side, notes)
    return side


def _text_alone(text: str, notes: set[str], without_prompt: NotScored) -> Side:
    turns = parse_transcript(text, keep_empty_answer=True)
    if turns is None:
        if looks_rendered(text):
            notes.add(RENDERED_TEXTS)
        raise Unreadable(without_prompt, "messages as JSON are read from lists" if holds_messages(text) else "")
    if turns[-1]["role"] != "assistant":
        raise Unreadable(NotScored.LAST_NOT_ASSISTANT, f"it ends in {turns[-1]['content'][-60:]!r}")
    notes.add(TRANSCRIPTS)
    return Side(turns[:-1], turns[-1:])


def holds_messages(value: object) -> bool:
    """Whether a value is a text that holds messages as JSON, or begins as if it did."""
    try:
        return messages_in_text(value, set()) is not value
    except UnreadableMessages:
        return True


def _note_words(side: Side, notes: set[str]) -> None:
    answer, asked = side.answer[-1], side.prompt[-1]
    said = answer["content"].strip()
    if not said and not answer.get("tool_calls"):
        notes.add(WITHOUT_WORDS)
    prompt = asked["content"].strip()
    if asked["role"] == "user" and len(prompt.split()) >= FEWEST_WORDS and said.startswith(prompt):
        notes.add(BEGINS_WITH_PROMPT)

"""A form: which columns a row of it has, and how its prompt and answers are read."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

from reward_modeling.data.messages import says_nothing
from reward_modeling.data.pairs import with_system
from reward_modeling.data.template_options import read_template_options
from reward_modeling.generations.answers import Answers, NotScored, Unreadable
from reward_modeling.generations.forms.sides import (
    ASKERS,
    HALF_A_CHARACTER,
    Side,
    has_half_a_character,
    in_own_words,
)

Row = Mapping[str, object]


@dataclass(frozen=True)
class Reading:
    """How rows are read, whatever their form."""

    plain_text: bool = False
    """Prompts and answers that are texts are scored as they stand, one behind the other, without the template."""
    questions: Callable[[object], list[str] | None] | None = None
    """From the id of a question to what its user says, turn after turn; None where there is no such question."""


class Form(ABC):
    """A way to write generated answers down; the files of `forms` have one or several, and `catalog` lists them."""

    name: ClassVar[str]
    """As reports name it."""
    columns: ClassVar[tuple[tuple[str, ...], ...]]
    """A row of this form has all columns of one of these, none of them null."""

    def has(self, row: Row) -> bool:
        """Whether a row is of this form."""
        return any(all(row.get(name) is not None for name in names) for names in self.columns)

    @abstractmethod
    def read(self, row: Row, reading: Reading) -> Answers:
        """The prompt and the answers of a row that `has` the columns.

        Raises:
            Unreadable: nothing of it can be scored.
        """


def joined(sides: Sequence[Side | Unreadable], row: Row, notes: set[str]) -> Answers:
    """The answers of a row from what was read of each: the messages that all of them begin with are the prompt.

    Raises:
        Unreadable: none of them can be read; or the row's `system`, `tools` or `chat_template_kwargs` cannot.
    """
    unreadable = {place: side for place, side in enumerate(sides) if isinstance(side, Unreadable)}
    read = [side for side in sides if isinstance(side, Side)]
    if not read:
        raise next(iter(unreadable.values()), Unreadable(NotScored.NO_ANSWER, "an empty list"))
    if isinstance(read[0].answer, str):  # then all are texts
        texts = [None if isinstance(side, Unreadable) else side.answer for side in sides]
        return Answers(read[0].prompt, texts, {}, unreadable, notes=frozenset(notes))
    with in_own_words():
        options = read_template_options(dict(row))
        system = row.get("system")
        if not says_nothing(system):
            read = [side.with_prompt(with_system(side.prompt, system)) for side in read]
        _check_characters(system, options)
    shared = _shared(read)
    found = iter(read)
    answers = [None if isinstance(side, Unreadable) else next(found).after(shared) for side in sides]
    options = json.loads(options) if options else {}
    steps = {place: side.steps for place, side in enumerate(sides) if isinstance(side, Side) and side.steps}
    return Answers(read[0].messages[:shared], answers, options, unreadable, steps, frozenset(notes))


def _check_characters(system: object, options: str) -> None:
    """
    Raises:
        Unreadable: there is half a character, which JSON can write ("\\ud800") and no tokenizer takes.
    """
    for name, text in (("system", "" if says_nothing(system) else system), ("tools, chat_template_kwargs", options)):
        if has_half_a_character(text):
            raise Unreadable(NotScored.WRONG_TYPE, f"{name}: {HALF_A_CHARACTER}")


def _shared(sides: Sequence[Side]) -> int:
    """How many messages all conversations begin with, at most their prompts."""
    prompts = [side.prompt for side in sides]
    if all(prompt == prompts[0] for prompt in prompts):
        return len(prompts[0])
    are_equal = (all(one == messages[0] for one in messages) for messages in zip(*prompts, strict=False))
    return sum(1 for _ in takewhile(bool, are_equal))


def of_several_prompts(answers: Answers) -> bool:
    """Whether the answers have no prompt in common, or one that goes on in another way in each of them."""
    said = [messages for messages in answers.answers if isinstance(messages, list)]
    return bool(said) and (not answers.prompt or any(messages[0]["role"] in ASKERS for messages in said))


def prompt_of(row: Row) -> object:
    """`prompt`; where there is none, `instruction` with `input` on a line of its own, as Alpaca's files have it."""
    if not says_nothing(row.get("prompt")):
        return row["prompt"]
    asked = [row.get(name) for name in ("instruction", "input")]
    said = [text for text in asked if isinstance(text, str) and text.strip()]
    return "\n".join(said) if said and row.get("instruction") is not None else row.get("prompt")


def list_of(value: object) -> list | None:
    """A list, or what a text holds as the JSON of one. None where it is none."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, list) else None

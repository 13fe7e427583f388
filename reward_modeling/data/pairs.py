"""One pair of a preference row: prompt, chosen and rejected as messages, or two plain texts.

    read_pair({"prompt": "Hello!", "chosen": "Hi.", "rejected": "No."}, forms=set())

Here stands what is taken apart: transcripts, prompts that stand in the answers again, system messages.
"""

from typing import NamedTuple

from reward_modeling.data.held_prompts import (
    are_transcripts,
    first_difference,
    holds_prompt,
    is_rendering,
    looks_rendered,
    shared_turns,
)
from reward_modeling.data.messages import Message, UnreadableMessages, messages_in_text, read_messages
from reward_modeling.data.report import DropReason
from reward_modeling.data.row_forms import Row, RowDropped, is_blank, is_blank_message, transcript_turns
from reward_modeling.data.transcripts import invites_answer, merge_turns, parse_transcript, turns_of

TRANSCRIPTS = "transcripts of Human and Assistant"
PROMPT_PASSED_OVER = "conversations beside a prompt of another text"  # which is then a column that nobody reads
PROMPT_AGAIN = "answers that begin with the prompt, which is kept once"
PROMPT_IN_ONE = "one answer alone begins with the prompt"
RENDERED_PROMPTS = "prompts that look like a rendered conversation, read as one turn of the user"
RENDERED_TEXTS = "plain texts that look like a rendered conversation, read as they stand"
FEWEST_WORDS = 3  # of a prompt on one line with the answer: both answers to "I" may begin with it by themselves

Value = str | list | dict


class Pair(NamedTuple):
    """The messages before the answers, and the answers; plain texts have no prompt, and are texts."""

    prompt: list[Message] | None
    chosen: list[Message] | str
    rejected: list[Message] | str


def read_pair(row: Row, forms: set[str], *, json_texts: bool = True) -> Pair:
    """The pair of a row in the columns of the standard; `forms` takes the names of unusual ways of writing.

    Args:
        json_texts: a text that holds messages as JSON is these messages; False: it is a text like any other.

    Raises:
        RowDropped: there is none.
    """
    chosen, rejected, prompt = row.get("chosen"), row.get("rejected"), row.get("prompt")
    if chosen is None or rejected is None:
        raise RowDropped(DropReason.NO_CHOSEN_OR_REJECTED)
    if json_texts and any(isinstance(value, str) for value in (chosen, rejected, prompt)):
        chosen, rejected, prompt = (read_text(value, forms) for value in (chosen, rejected, prompt))
    if type(chosen) is not type(rejected) and not {type(chosen), type(rejected)} <= {list, dict}:
        raise RowDropped(DropReason.WRONG_TYPE, f"chosen is {json_type(chosen)}, rejected {json_type(rejected)}")
    if prompt is not None and is_blank(prompt):
        prompt = None
    pair = _transcripts(prompt, chosen, rejected, forms) if isinstance(chosen, str) else None
    if pair is None and isinstance(chosen, str) and prompt is None:
        return _plain_texts(chosen, rejected, forms)
    pair = pair or _conversations(prompt, chosen, rejected, forms)
    if pair.prompt and pair.prompt[0]["role"] == "user" and looks_rendered(pair.prompt[0]["content"]):
        forms.add(RENDERED_PROMPTS)
    system = row.get("system")
    return pair if system is None or is_blank(system) else pair._replace(prompt=with_system(pair.prompt, system))


def read_text(value: object, forms: set[str]) -> object:
    """The messages that a text holds as JSON; any other value as it is."""
    try:
        return messages_in_text(value, forms)
    except UnreadableMessages as error:
        raise RowDropped(DropReason.WRONG_TYPE, "a text begins like messages, and is no JSON") from error


def _plain_texts(chosen: str, rejected: str, forms: set[str]) -> Pair:
    if not chosen.strip() or not rejected.strip():
        raise RowDropped(DropReason.EMPTY_REPLY)
    if chosen == rejected:
        raise RowDropped(DropReason.IDENTICAL_TEXT)
    if looks_rendered(chosen) and looks_rendered(rejected):
        forms.add(RENDERED_TEXTS)
    return Pair(None, chosen, rejected)


def _transcripts(prompt: object, chosen: str, rejected: str, forms: set[str]) -> Pair | None:
    """The pair of texts that are dialogues, as a whole or continuing a prompt that is one; None where none is."""
    if are_transcripts(prompt, chosen, rejected):
        forms.add(TRANSCRIPTS)
        sides = [transcript_turns(chosen, "chosen"), transcript_turns(rejected, "rejected")]
        return _conversations(prompt, *sides, forms)
    if prompt is None and (turns_of(chosen) or turns_of(rejected)):
        side, text = ("chosen", chosen) if turns_of(chosen) is None else ("rejected", rejected)
        raise RowDropped(DropReason.NOT_A_TRANSCRIPT, f"{side}: {text[:150]!r}")
    if not isinstance(prompt, str) or not invites_answer(prompt):
        return None
    before = parse_transcript(prompt)
    forms.add(TRANSCRIPTS)
    if not chosen.strip() or not rejected.strip():
        raise RowDropped(DropReason.EMPTY_REPLY)
    # What the assistant has begun to say in the prompt is the beginning of both answers.
    answers = ({"role": "assistant", "content": text.strip()} for text in (chosen, rejected))
    sides = [merge_turns([*before, answer]) for answer in answers]
    return _conversations(None, *sides, forms)


def _conversations(prompt: object, chosen: Value, rejected: Value, forms: set[str]) -> Pair:
    asked = [] if prompt is None else read_side(prompt, "user", forms)
    chosen, rejected = read_side(chosen, "assistant", forms), read_side(rejected, "assistant", forms)
    if not chosen or not rejected or is_blank_message(chosen[-1]) or is_blank_message(rejected[-1]):
        raise RowDropped(DropReason.EMPTY_REPLY)
    chosen_prompt = rejected_prompt = asked
    if any(message["role"] in ("user", "system", "developer") for message in (*chosen, *rejected)):
        before = _before_conversations(prompt, asked, chosen, rejected) if asked else asked
        if isinstance(prompt, str) and not before and not is_rendering(prompt, chosen[:-1]):
            forms.add(PROMPT_PASSED_OVER)
        chosen_prompt, rejected_prompt = [*before, *chosen[:-1]], [*before, *rejected[:-1]]
        chosen, rejected = chosen[-1:], rejected[-1:]
    elif prompt is None:
        chosen_prompt, rejected_prompt = chosen[:-1], rejected[:-1]
        chosen, rejected = chosen[-1:], rejected[-1:]
    if chosen_prompt != rejected_prompt and (difference := first_difference(chosen_prompt, rejected_prompt)):
        raise RowDropped(DropReason.PROMPTS_DIFFER, difference)
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise RowDropped(DropReason.LAST_NOT_ASSISTANT)
    if chosen_prompt and chosen_prompt[-1]["role"] == "user" and len(chosen) == len(rejected) == 1:
        chosen, rejected = _without_prompt(chosen_prompt[-1]["content"], chosen[0], rejected[0], forms)
    if chosen == rejected:
        raise RowDropped(DropReason.IDENTICAL_TEXT)
    return Pair(chosen_prompt, chosen, rejected)


def _before_conversations(
    prompt: object, asked: list[Message], chosen: list[Message], rejected: list[Message]
) -> list[Message]:
    """What of a prompt stands before conversations that have turns of the user's: what is not in them already.

    UltraFeedback-binarized has whole conversations *and* a prompt; elsewhere the prompt stands before them.
    """
    held = prompt if isinstance(prompt, str) else asked
    if all(holds_prompt(messages, held) for messages in (chosen, rejected)):
        return []
    return asked[: len(asked) - shared_turns(asked, (chosen, rejected))]


def _without_prompt(
    prompt: str, chosen: Message, rejected: Message, forms: set[str]
) -> tuple[list[Message], list[Message]]:
    """Two answers without the prompt where both begin with it, as those of a program that gives back its input do."""
    answers = [chosen, rejected]
    rest = [_after_prompt(prompt.strip(), answer["content"]) for answer in answers]
    if None not in rest:
        forms.add(PROMPT_AGAIN)
        answers = [{**answer, "content": text} for answer, text in zip(answers, rest, strict=True)]
        if any(map(is_blank_message, answers)):
            raise RowDropped(DropReason.EMPTY_REPLY)
    elif rest != [None, None] and len(prompt.split()) >= FEWEST_WORDS:
        forms.add(PROMPT_IN_ONE)
    return answers[:1], answers[1:]


def _after_prompt(prompt: str, answer: str) -> str | None:
    """What follows the prompt in an answer that begins with it; None where it does not, or may by chance."""
    answer = answer.lstrip()
    if not prompt or not answer.startswith(prompt):
        return None
    rest = answer[len(prompt) :]
    ends_there = not (rest[:1].isalnum() and prompt[-1].isalnum())
    on_line_of_its_own = rest[:1] == "\n"
    if not on_line_of_its_own and (not ends_there or len(prompt.split()) < FEWEST_WORDS):
        return None
    return rest.lstrip()


def with_system(prompt: list[Message], system: object) -> list[Message]:
    """The prompt with the text of the column `system` as its first message."""
    if not isinstance(system, str):
        raise RowDropped(DropReason.WRONG_TYPE, f"system is {json_type(system)}")
    if not prompt or prompt[0]["role"] not in ("system", "developer"):
        return [{"role": "system", "content": system}, *prompt]
    if prompt[0]["content"].strip() != system.strip():
        raise RowDropped(DropReason.PROMPTS_DIFFER, "the column system and the first message differ")
    return prompt


def read_side(value: object, role: str, forms: set[str]) -> list[Message]:
    try:
        return read_messages(value, role, forms)
    except UnreadableMessages as error:
        if error.part == "known role":
            raise RowDropped(DropReason.UNKNOWN_ROLE, f"role {error.found!r:.80}") from error
        if error.part == "text":
            raise RowDropped(DropReason.PART_NOT_TEXT, f"a part of type {error.found!r:.80}") from error
        what = {"messages": "messages are", "message": "a message is"}
        words = what.get(error.part, f"a message's {error.part} is")
        raise RowDropped(DropReason.WRONG_TYPE, f"{words} {json_type(error.found)}") from error


def json_type(value: object) -> str:
    """A type as its JSON is called."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "missing"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)

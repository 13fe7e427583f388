r"""Two answers to one prompt as one question, whose answer is A or B: what a pairwise model reads.

The question is RLHFlow's (pair-pm in RLHF-Reward-Modeling), to the last space as its models were trained on it:

    [CONTEXT] \n\n<turn> user\n How do I boil an egg?\n [RESPONSE A] In water. [RESPONSE B] Why? \n

It is one message of the user's in the model's own chat template, *with* what the template writes before an answer: the
token after that is what is predicted. System messages and tools' results are turns as well, under their own names.

A message may itself hold the marks of the question. They are written with a backslash behind their bracket, and those
that have backslashes there with one more: so it is always clear where an answer ends.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.composing import Composer, Messages
from reward_modeling.data.messages import THOUGHT_KEYS, TOOL_CALLS
from reward_modeling.data.rendering import TemplateRefuses, render, render_prompt

MARK = re.compile(r"([\[<])(?=\\*(?:(?:CONTEXT|RESPONSE [AB])\]|turn> ))")
ESCAPE = "\\"


@dataclass(frozen=True)
class PairComposer(Composer):
    """An answer is the messages of the answer that stands first, and those of the one that stands second."""

    ends_answers: ClassVar[bool] = False

    def pieces(
        self, prompt: Messages, answer: Sequence[Messages], options: dict[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> list[str]:
        question = {"role": "user", "content": comparison(prompt, *answer)}
        return [render([question], {**options, "add_generation_prompt": True}, tokenizer)]

    def said(self, prompt: Messages, answer: Sequence[Messages]) -> tuple[Messages, int]:
        """As the question has them, marks escaped."""
        own = [*answer[0], *answer[1]]
        return [{"role": message["role"], "content": _text(message)} for message in (*prompt, *own)], len(own)

    def escaped(self, prompt: Messages, answer: Sequence[Messages]) -> str:
        found = (MARK.search(_plain_text(message)) for message in (*prompt, *answer[0], *answer[1]))
        first = next(filter(None, found), None)
        return "" if first is None else first.string[first.start() : first.start() + 12].split("\n")[0]


COMPARISON = PairComposer()


def comparison(prompt: Messages, first: Messages, second: Messages) -> str:
    """The question that holds both answers.

    Args:
        prompt: the messages before the answers.
        first, second: those of the answer that stands first and of the other one.
    """
    context = f"\n{_turns(prompt)}\n"
    return f"[CONTEXT] {context} [RESPONSE A] {_answer(first)} [RESPONSE B] {_answer(second)} \n"


def check_opening(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Raises:
        UserError: the template opens an answer where one follows, and not where one is asked for: what the model would
            predict after the question is that opening, and neither A nor B.
    """
    if tokenizer.chat_template is None:
        return  # which is refused where the rows are known
    question = [{"role": "user", "content": "?"}]
    try:
        before = render_prompt(question, {}, tokenizer)
        asked = render(question, {"add_generation_prompt": True}, tokenizer)
        alone = render(question, {}, tokenizer)
    except TemplateRefuses:
        return
    missing = before.removeprefix(asked).strip()
    # `tokenizer.end_answers` may have put EOS behind what has no end
    if alone in (asked, f"{asked}{tokenizer.eos_token}") and before.startswith(asked) and missing:
        raise UserError(
            f"chat template of {tokenizer.name_or_path}: expected it to open an answer with add_generation_prompt, "
            f"found that it writes {missing!r} before an answer and nothing where one is asked for. End the template "
            f"(--chat_template FILE.jinja) in {{% if add_generation_prompt %}}{missing}{{% endif %}}."
        )


def answer_text(answer: str) -> str:
    """An answer, the JSON of its messages, as it stands in the question."""
    return _answer(json.loads(answer))


def _turns(messages: Iterable[dict]) -> str:
    return "".join(f"\n<turn> {message['role']}\n {_text(message)}" for message in messages)


def _answer(messages: Messages) -> str:
    """Of several messages the others are turns behind the first."""
    return _text(messages[0]) + _turns(messages[1:])


def _text(message: dict) -> str:
    return MARK.sub(r"\1\\", _plain_text(message))


def _plain_text(message: dict) -> str:
    """What a message says: its thought, its content and the tools that it calls."""
    thoughts = (message[key] for key in THOUGHT_KEYS if isinstance(message.get(key), str))
    calls = (json.dumps(message[key], ensure_ascii=False) for key in TOOL_CALLS if message.get(key))
    return "\n".join(filter(None, (*thoughts, message.get("content"), *calls)))

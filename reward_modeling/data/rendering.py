"""What a chat template makes of a conversation.

    text = render(messages, read_options(row["template_options"]), tokenizer)

A template is a program: it may raise anything at all, or open a turn that nobody asked for. What it leaves out is found
by `losses`.
"""

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError, first_line

PROBE_ANSWER = "\u00a4"  # a sign that no answer begins with
MOVED_ROLES = ("system", "developer")  # templates write these elsewhere: in front, or into the user's turn


class TemplateRefuses(Exception):
    """The template raised an error over a conversation; the text is its own."""


def read_options(template_options: str | None) -> dict[str, Any]:
    """The column `template_options` of a standard row: what `apply_chat_template` takes beside the messages."""
    return json.loads(template_options) if template_options else {}


def render(messages: Sequence[dict], options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a conversation as the model sees it.

    Args:
        options: such as {"tools": [...], "enable_thinking": False}.

    Raises:
        TemplateRefuses: with the template's own words, or the error that it made.
    """
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except Exception as error:  # a template is a program: text + number, a missing key and a call of None have been met
        words = first_line(error) or "no reason given"
        name = type(error).__name__
        raise TemplateRefuses(words if name == "TemplateError" else f"{name}: {words}") from error


def render_prompt(prompt: Sequence[dict], options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands before an answer to this prompt, the header of the answer included.

    A template may write a prompt in another way where no answer follows it: that is not what an answer is read after.

    Raises:
        TemplateRefuses: see `render`.
    """
    text = render([*prompt, {"role": "assistant", "content": PROBE_ANSWER}], options, tokenizer)
    before, found, _ = text.rpartition(PROBE_ANSWER)
    return before if found else text


# --- templates that cannot be trained on ----------------------------------------------------------------------


def opened_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a template writes after the last answer to open another one, although nobody asked; "" for a sound one.

    After the last answer may stand what stands between an answer and the next question, up to where the question's
    header differs; what follows is the end of the conversation (EOS), or what stands before an answer.
    """
    exchange = [{"role": "user", "content": "question one"}, {"role": "assistant", "content": "answer one"}]
    again = [{"role": "user", "content": "question two"}, {"role": "assistant", "content": "answer two"}]
    try:
        text = render(exchange + again, {}, tokenizer)
    except TemplateRefuses:
        return ""
    before_answer = text.partition("question one")[2].partition("answer one")[0].rstrip()
    after_answer = text.partition("answer one")[2].partition("question two")[0]
    # EOS at the very end ends the conversation: `tokenizer.end_answers` may have put it behind what opens a turn.
    tail = text.rpartition("answer two")[2].removesuffix(tokenizer.eos_token or "")
    shared = next((n for n, (a, b) in enumerate(zip(tail, after_answer, strict=False)) if a != b), None)
    rest = tail[min(len(tail), len(after_answer)) if shared is None else shared :].strip()
    opens = rest and before_answer.endswith(rest)
    return tail if opens else ""


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Raises:
        UserError: the template opens another answer after the last one, where the reward would be read.
    """
    if opened := opened_turn(tokenizer):
        raise UserError(
            f"chat template of {tokenizer.name_or_path}: expected it to end after the last answer, found "
            f"that it opens another one ({opened!r}) even without add_generation_prompt. The reward would be read in "
            "an empty turn. Put the last part of the template (tokenizer_config.json or chat_template.jinja) between "
            "{% if add_generation_prompt %} and {% endif %}, as later versions of this tokenizer do, and save it."
        )

"""What a caller gives to be scored, checked; errors name a conversation by its number.

check = TokenLimits(vocabulary=32_000, max_length=4096)
conversation = taken(0, conversation, check)
"""

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_modeling.common.errors import UserError
from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.conversations import Chain, Conversation, Templated, Tokens, parts_of

# For the chat template, for all conversations or one for each.
TemplateOptions = Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None


def with_options(conversations: Sequence[Conversation], options: TemplateOptions) -> Sequence[Conversation]:
    """The conversations with options for the chat template, one object for all of them or one for each.

    Raises:
        UserError: there are other numbers of options than of conversations, or a plain text or tokens would get some;
            a text is given in the place of a list.
    """
    if isinstance(conversations, str):
        raise UserError("conversations: expected a list of conversations, found one text. Pass [text].")
    if not options:
        return conversations
    each = options_of_each(options, len(conversations), "conversations")
    for index, (conversation, one) in enumerate(zip(conversations, each, strict=True)):
        if one and isinstance(conversation, (str, Tokens, Chain)):
            found = {Tokens: "tokens", Chain: "a chain, which has its own"}.get(type(conversation), "a plain text")
            raise UserError(
                f"conversation {index}: expected messages beside template options, found {found}. Pass None for it."
            )
    pairs = zip(conversations, each, strict=True)
    return [Templated(conversation, one) if one else conversation for conversation, one in pairs]


def options_of_each(options: TemplateOptions, number: int, what: str) -> list[Mapping[str, Any] | None]:
    """
    Args:
        number: of what is scored; `what` it is, in the plural.

    Raises:
        UserError: there are other numbers of options.
    """
    each = [options] * number if options is None or isinstance(options, Mapping) else list(options)
    if len(each) != number:
        raise UserError(
            f"template_options: expected one for each of {number} {what}, found {len(each)}. Pass None for those "
            "without, or one dict for all."
        )
    return each


@dataclass(frozen=True)
class TokenLimits:
    """What the tokens of a conversation have to be for a model; None where nothing limits them."""

    vocabulary: int | None = None
    max_length: int | None = None
    reads_prompts: bool = False  # a gate does
    reads_steps: bool = False  # a process model does


def taken(index: int, conversation: Conversation, limits: TokenLimits) -> Conversation:
    """The conversation if it can be scored; of tokens the ids as a list.

    Raises:
        UserError: it is neither a text, nor a list of at least one message, each with a role and a content as texts,
            nor steps of which each is a text, nor tokens within the limits.
    """
    if isinstance(conversation, Tokens):
        return _checked_tokens(index, conversation, limits)
    if isinstance(conversation, Chain):
        _check_chain(index, conversation)
        return conversation
    check_conversation(index, conversation)
    return conversation


def _checked_tokens(index: int, tokens: Tokens, limits: TokenLimits) -> Tokens:
    where = f"conversation {index}"
    ids = _integers(tokens.ids)
    if ids is None:
        found = f"{type(tokens.ids).__name__} {str(tokens.ids)[:80]!r}"
        raise UserError(f"{where}: expected token ids as a list of integers, found {found}.")
    if not ids:
        raise UserError(f"{where}: expected at least one token, found none. Leave it out.")
    if limits.vocabulary is not None and not 0 <= min(ids) <= max(ids) < limits.vocabulary:
        wrong = next(token for token in ids if not 0 <= token < limits.vocabulary)
        raise UserError(
            f"{where}: expected token ids from 0 to {limits.vocabulary - 1:,}, which the model has embeddings for, "
            f"found {wrong:,}. Take the ids of the model's own tokenizer."
        )
    if limits.max_length is not None and len(ids) > limits.max_length:
        raise UserError(
            f"{where}: expected at most {limits.max_length:,} tokens (max_length), found {len(ids):,}. Tokens are "
            "scored as they are and never cut: pass messages, of which the beginning of the prompt is cut, or leave it "
            "out."
        )
    gate = tokens.gate
    if limits.reads_prompts and not (type(gate) is int and 0 <= gate < len(ids)):
        raise UserError(
            f"{where}: expected in `gate` the place from 0 to {len(ids) - 1:,} where the model's gate reads the "
            f"prompt, found {gate!r}. RewardScorer.tokenize gives tokens with it."
        )
    reads = _checked_reads(where, tokens, len(ids)) if limits.reads_steps else None
    return Tokens(ids, gate if limits.reads_prompts else None, tokens.prompt, reads)


def _checked_reads(where: str, tokens: Tokens, length: int) -> list[int]:
    reads = None if tokens.reads is None else _integers(tokens.reads)
    if not reads or not 0 <= min(reads) <= max(reads) < length:
        raise UserError(
            f"{where}: expected in `reads` the places from 0 to {length - 1:,} where the steps end, which a process "
            f"model reads, found {str(tokens.reads)[:80]}. StepScorer.tokenize gives tokens with them."
        )
    return reads


def _check_chain(index: int, chain: Chain) -> None:
    if isinstance(chain.steps, str) or not isinstance(chain.steps, Sequence):
        found = f"{type(chain.steps).__name__} {str(chain.steps)[:80]!r}"
        raise UserError(f"conversation {index}: expected its steps as a list of texts, found {found}.")
    if not chain.steps:
        raise UserError(f"conversation {index}: expected at least one step, found none. Leave it out.")
    if (wrong := next((n for n, step in enumerate(chain.steps) if not isinstance(step, str)), None)) is not None:
        found = f"{type(chain.steps[wrong]).__name__} {str(chain.steps[wrong])[:80]!r}"
        raise UserError(f"conversation {index}: expected its steps as texts, found in step {wrong} {found}.")
    check_conversation(index, Templated(chain.prompt, chain.options))


def refuse_blank_steps(index: int, chain: Chain) -> None:
    """For steps that a user gives: those of benchmarks (PRMBench has some without text) are scored all the same.

    Raises:
        UserError: a step is no text, or has none, and its score would be read off the separator alone.
    """
    _check_chain(index, chain)
    if (blank := next((n for n, step in enumerate(chain.steps) if not step.strip()), None)) is not None:
        raise UserError(
            f"conversation {index}: expected a text in each step, found none in step {blank} of {len(chain.steps)}. "
            "Leave it out."
        )


def _integers(ids: Any) -> list[int] | None:
    """As a list of int, whatever sequence or array they come in; None where they are something else."""
    if isinstance(ids, (str, bytes, Mapping)):
        return None
    if type(ids) is list and all(type(token) is int for token in ids):
        return ids
    try:
        listed = list(ids)
        return None if any(isinstance(token, bool) for token in listed) else list(map(operator.index, listed))
    except (TypeError, ValueError):  # not to be listed; a number with a fraction; a row of a table of ids
        return None


def check_conversation(index: int, conversation: Sequence[dict] | Templated | str) -> None:
    """Refuse what is neither a text nor a list of at least one message, each with a role and a content as texts."""
    if isinstance(conversation, str) and conversation.strip():
        return
    if isinstance(conversation, Templated):
        if not isinstance(conversation.options, Mapping):
            found = f"{type(conversation.options).__name__} {str(conversation.options)[:80]!r}"
            raise UserError(f"conversation {index}: expected template options as a dict, found {found}.")
        conversation = conversation.messages
    if not isinstance(conversation, (list, tuple)):
        raise UserError(
            f"conversation {index}: expected a list of messages, [{{'role': ..., 'content': ...}}, ...], found "
            f"{type(conversation).__name__} {str(conversation)[:80]!r}. Pass each conversation as a list."
        )
    if not conversation:
        raise UserError(f"conversation {index}: expected at least one message, found none. Leave it out.")
    for number, message in enumerate(conversation):
        _check_message(f"conversation {index}, message {number}", message)


def _check_message(where: str, message: Any) -> None:
    fields = [message.get(name) for name in ("role", "content")] if isinstance(message, dict) else [None]
    if not all(isinstance(value, str) for value in fields):
        raise UserError(
            f"{where}: expected role and content as texts, found {str(message)[:120]!r}. Pass messages as "
            "{'role': ..., 'content': ...}."
        )


def comparison_of(index: int, given: tuple[Any, Any, Any], options: Mapping[str, Any] | None = None) -> Comparison:
    """
    Args:
        given: a prompt (messages, or a text as the user's only one) and two answers to it, each a text, a message, or
            the messages after the prompt.

    Raises:
        UserError: it is something else.
    """
    where = f"comparison {index}"
    if not isinstance(given, (tuple, list)) or len(given) != 3:
        raise UserError(f"{where}: expected (prompt, a, b), found {str(given)[:120]!r}.")
    if options is not None and not isinstance(options, Mapping):
        raise UserError(f"{where}: expected template options as a dict, found {str(options)[:80]!r}.")
    prompt = _messages(f"{where}, prompt", given[0], "user")
    a, b = (_messages(f"{where}, {name}", of, "assistant") for name, of in zip("ab", given[1:], strict=True))
    for name, of in (("a", a), ("b", b)):
        if not of:
            raise UserError(f"{where}, {name}: expected an answer, found no message.")
    return Comparison(prompt, a, b, dict(options or {}))


def _messages(where: str, value: Any, role: str) -> list[dict[str, Any]]:
    """A text as one message of the role."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, (list, tuple)):
        raise UserError(
            f"{where}: expected a text or a list of messages, [{{'role': ..., 'content': ...}}, ...], found "
            f"{type(value).__name__} {str(value)[:80]!r}."
        )
    for number, message in enumerate(listed):
        _check_message(f"{where}, message {number}", message)
    return [dict(message) for message in listed]


def prompt_key(conversation: Conversation | Comparison) -> str | None:
    """Equal for conversations that differ in the last message alone, and for comparisons of answers to one prompt; None
    of those that name no prompt.

    It decides what is computed together, never what comes out: only tokens that are really equal are shared.
    """
    if isinstance(conversation, str):
        return None
    if isinstance(conversation, Tokens):
        return conversation.prompt
    if isinstance(conversation, Comparison | Chain):
        prompt, options = conversation.prompt, conversation.options
    else:
        messages, options = parts_of(conversation)
        prompt = messages[:-1]
    said = [list(prompt), dict(options)] if options else list(prompt)
    return json.dumps(said, sort_keys=True, default=str)

"""Where a gate reads a prompt: at the prompt's end, which all answers to it share.

    tail = gate_tail(tokenizer)                                # once
    prompt_ids = prompt_tokens(messages[:-1], options, tokenizer)
    position = gate_position(prompt_ids, tail)

The prompt's end is where two renderings of the prompt with different answers begin to differ, so that it is found for
any chat template. Two templates have a published place, which is the first token of what they write between a question
and its answer. Of other templates it is the last token that is not white space alone: a line break may become one token
with those that an answer begins with.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.prefixes import common_prefix_length
from reward_modeling.data.rendering import PROBE_ANSWER, TemplateRefuses, render
from reward_modeling.models.tokenizer import token_ids

# Compared as texts: another vocabulary with the same marks has other tokens. Those of Llama-3's and Gemma-2's stand
# below.
PATTERNS = (
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
    "<end_of_turn>\n<start_of_turn>model",
)
PROBES = (PROBE_ANSWER, "a")  # a word with a space before it is one token, a sign with one is two
QUESTION = [{"role": "user", "content": "question"}]
Tail = tuple[int, ...]
PUBLISHED_TAILS: tuple[Tail, ...] = ((128009, 128006, 78191, 128007, 271), (107, 108, 106, 2516, 108))


def prompt_tokens(prompt: Sequence[dict], options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What all conversations of this prompt begin with, the header of the answer included.

    Args:
        prompt: the messages before the answer.

    Raises:
        TemplateRefuses: the template raised an error over it.
    """
    texts = [render([*prompt, {"role": "assistant", "content": probe}], options, tokenizer) for probe in PROBES]
    rows = token_ids(texts, tokenizer)
    return rows[0][: common_prefix_length(rows)]


def gate_tail(tokenizer: PreTrainedTokenizerBase) -> Tail:
    """What prompts end in, from the token that the gate reads on; () without a chat template."""
    if not tokenizer.chat_template:
        return ()
    try:
        ids = prompt_tokens(QUESTION, {}, tokenizer)
    except TemplateRefuses:
        return ()
    start = _published_start(ids, tokenizer)
    if start is None:
        places = range(len(ids) - 1, -1, -1)
        start = next((place for place in places if _text(ids[place : place + 1], tokenizer).strip()), len(ids))
    return tuple(ids[start:])


def has_published_place(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tail is one of the published patterns, which a reader can find in a text without its messages."""
    return _text(gate_tail(tokenizer), tokenizer).rstrip() in PATTERNS


def gate_position(prompt_ids: Sequence[int], tail: Tail | None = None) -> int:
    """The place in a prompt's tokens that the gate reads: where its tail begins, whole or without its last tokens.

    It is the last token of a prompt that ends in something else, and 0 where there is nothing before the answer.

    Args:
        prompt_ids: what all answers to the prompt begin with, the header of the answer included.
        tail: `gate_tail` of the tokenizer. None: that of Llama-3's or of Gemma-2's vocabulary.

    >>> gate_position([128000, 9906, 128009, 128006, 78191, 128007, 271])
    2
    >>> gate_position([128000, 9906, 128009, 128006, 78191, 128007])
    2
    >>> gate_position([5, 6, 7], ())
    2
    """
    ids = tuple(prompt_ids)
    for of_prompt in PUBLISHED_TAILS if tail is None else (tail,):
        for length in range(len(of_prompt), 0, -1):
            if ids[-length:] == of_prompt[:length]:
                return len(ids) - length
    return max(0, len(ids) - 1)


def prompt_end(ids: Sequence[int], position: int, tail: Tail | None = None) -> int:
    """How many tokens the prompt of a conversation has, of which the gate's position is known.

    >>> prompt_end([128000, 9906, 128009, 128006, 78191, 128007, 271, 13347], 2)
    7
    >>> prompt_end([5, 6, 7, 8], 2)
    3
    """
    for of_prompt in PUBLISHED_TAILS if tail is None else (tail,):
        for length in range(len(of_prompt), 0, -1):
            if tuple(ids[position : position + length]) == of_prompt[:length]:
                return position + length
    return position + 1


def last_tail(ids: Sequence[int], tail: Tail) -> int | None:
    """Where a whole text has the tail for the last time, which is how published models look for it; None if nowhere."""
    ids = tuple(ids)
    starts = range(len(ids) - len(tail), -1, -1) if tail else ()
    return next((start for start in starts if ids[start : start + len(tail)] == tail), None)


def _published_start(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int | None:
    known = tokenizer.get_added_vocab()
    for pattern in PATTERNS:
        mark = known.get(pattern[: pattern.index(">") + 1])
        starts = [place for place, token in enumerate(ids) if token == mark]
        if starts and _text(ids[starts[-1] :], tokenizer).rstrip() == pattern:
            return starts[-1]
    return None


def _text(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

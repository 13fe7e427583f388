"""Where a gate reads a prompt: at the prompt's end, which all answers to it share.

    prompt = prompt_tokens(messages[:-1], options, tokenizer)
    position = gate_position(prompt, tokenizer)

The prompt's end is where two renderings of the prompt with different answers begin to differ, so that it is found for
any chat template. Two templates have a published place, which is the first token of what they write between a question
and its answer.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_modeling.data.rendering import PROBE_ANSWER, render
from reward_modeling.models.tokenizer import common_prefix_length, token_ids

# Compared as texts: their tokens are 128009 128006 78191 128007 271 in Llama-3's vocabulary and 107 108 106 2516 108 in
# Gemma-2's, but in another vocabulary with the same marks they are others.
PATTERNS = (
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<end_of_turn>\n<start_of_turn>model\n",
)
ENDINGS = tuple(pattern.rstrip() for pattern in PATTERNS)
LONGEST = 32  # tokens that a pattern may take
PROBES = (PROBE_ANSWER, "a")  # a word with a space before it is one token, a sign with one is two


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


def gate_position(prompt_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """The place in a prompt's tokens that the gate reads; 0 where there is nothing before the answer.

    It is the first token of a published pattern that the prompt ends in, else the last token that is not white space
    alone: a line break may become one token with those that an answer begins with.
    """
    found = last_pattern(prompt_ids, tokenizer)
    if found is not None and _text(prompt_ids[found:], tokenizer).rstrip() in ENDINGS:
        return found
    places = range(len(prompt_ids) - 1, -1, -1)
    return next((place for place in places if _text(prompt_ids[place : place + 1], tokenizer).strip()), 0)


def last_pattern(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Where the last published pattern of a text begins, which is the place that published models read; None if none.

    In a conversation whose answer holds no pattern it is `gate_position` of its prompt.
    """
    places = []
    for pattern in ENDINGS:  # the line breaks behind them may have become one token with the answer's
        mark = tokenizer.get_added_vocab().get(pattern[: pattern.index(">") + 1])
        starts = [] if mark is None else [place for place, token in enumerate(ids) if token == mark]
        begins = (start for start in reversed(starts) if _begins(ids[start : start + LONGEST], pattern, tokenizer))
        places.append(next(begins, None))
    return max((place for place in places if place is not None), default=None)


def _begins(ids: Sequence[int], pattern: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    return _text(ids, tokenizer).startswith(pattern)


def _text(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

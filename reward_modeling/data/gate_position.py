"""Where a gate reads a prompt: one token, in training, scoring and evaluation alike."""

from collections.abc import Sequence

# What the published models look for: the end of a turn with the header of the assistant's (RLHFlow's armo-rm, Llama-3
# and Gemma-2). They read the first token of it.
PUBLISHED_PATTERNS = ((128009, 128006, 78191, 128007, 271), (107, 108, 106, 2516, 108))


def gate_position(prompt_ids: Sequence[int]) -> int:
    """The place in `prompt_ids` of the token whose hidden state stands for the prompt.

    It is the last one, or the first one of a published pattern in which the prompt ends. The last token of a pattern
    is a line break, which an answer that begins with white space has in a token of its own: it may be missing.

    Args:
        prompt_ids: what all answers to the prompt begin with, the header of the answer included: the longest common
            token prefix of two renderings of the prompt with different answers.

    >>> gate_position([128000, 9906, 128009, 128006, 78191, 128007, 271])
    2
    >>> gate_position([5, 6, 7])
    2
    """
    for pattern in PUBLISHED_PATTERNS:
        for length in (len(pattern), len(pattern) - 1):
            if tuple(prompt_ids[-length:]) == pattern[:length]:
                return len(prompt_ids) - length
    return max(0, len(prompt_ids) - 1)


def prompt_end(ids: Sequence[int], position: int) -> int:
    """How many tokens the prompt of a conversation has, of which the gate's position is known.

    >>> prompt_end([128000, 9906, 128009, 128006, 78191, 128007, 271, 13347], 2)
    7
    >>> prompt_end([5, 6, 7, 8], 2)
    3
    """
    for pattern in PUBLISHED_PATTERNS:
        for length in (len(pattern), len(pattern) - 1):
            if tuple(ids[position : position + length]) == pattern[:length]:
                return position + length
    return position + 1

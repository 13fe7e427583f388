"""The first half of scoring: from conversations to windows of tokens, each grouped and cut into passes together."""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from reward_modeling.data.conversations import Conversation, Tokens
from reward_modeling.scoring.beginnings import LEAST_SHARED, common_beginning, order_of_tokens
from reward_modeling.scoring.conversations import ConversationReader, ScoringCounts
from reward_modeling.scoring.given import prompt_key

WINDOW = 2048  # conversations, or somewhat more: see `_cut`
NumberedTokens = tuple[int, Tokens]


def read_list(
    conversations: Sequence[Conversation], reader: ConversationReader, counts: ScoringCounts, *, cut: bool = True
) -> Iterator[list[NumberedTokens]]:
    """Windows of tokens of a whole list, in which what is computed together may stand far apart.

    Args:
        cut: False leaves what is longer than the reader's `max_length` whole.
    """
    numbered = reader.take(enumerate(conversations), counts, cut=cut)
    return _read(_side_by_side(numbered), reader, counts, cut=cut)


def read_stream(
    conversations: Iterable[Conversation], reader: ConversationReader, counts: ScoringCounts
) -> Iterator[list[NumberedTokens]]:
    """Windows of tokens in the order given; no more than two windows are in memory."""
    return _read(reader.take(enumerate(conversations), counts), reader, counts)


def _side_by_side(numbered: Iterable[tuple[int, Conversation]]) -> list[tuple[int, Conversation]]:
    """All in an order in which equal prompts, or equal beginnings, fall into one window; there are no texts."""
    of_prompt: dict[str, list[tuple[int, Conversation]]] = {}
    others: list[tuple[int, Tokens]] = []
    for index, conversation in numbered:
        if isinstance(conversation, Tokens) and conversation.prompt is None:
            # four bytes a token, where a list takes 36
            others.append((index, replace(conversation, ids=array("i", conversation.ids))))
        else:
            of_prompt.setdefault(prompt_key(conversation), []).append((index, conversation))
    others.sort(key=lambda one: order_of_tokens(one[1].ids))
    return [one for of_one in of_prompt.values() for one in of_one] + others


def _read(
    numbered: Iterable[tuple[int, Conversation]], reader: ConversationReader, counts: ScoringCounts, *, cut: bool = True
) -> Iterator[list[NumberedTokens]]:
    for window in _cut(numbered):
        tokens = reader.read(window, counts, cut=cut)
        yield [(index, of_one) for (index, _), of_one in zip(window, tokens, strict=True)]


def _cut(numbered: Iterable[tuple[int, Conversation]]) -> Iterator[list[tuple[int, Conversation]]]:
    """Windows of `WINDOW` to twice as many, each up to where what follows has least in common with it.

    So a window ends where a prompt ends: equal answers to it must be one row of one window, or a tie is lost.
    """
    window: list[tuple[int, Conversation]] = []
    least, end = None, 0
    for one in numbered:
        if len(window) >= WINDOW:
            common = _in_common(window[-1][1], one[1])
            if least is None or common < least:
                least, end = common, len(window)
            if least == 0 or len(window) >= 2 * WINDOW:
                yield window[:end]
                window, least = window[end:], None
        window.append(one)
    if window:
        yield window


def _in_common(conversation: Conversation, following: Conversation) -> float:
    """Tokens that two neighbours share; 0 of two prompts, and more than any number of one, or of equal rows."""
    key, following_key = prompt_key(conversation), prompt_key(following)
    if key is not None or following_key is not None:
        return math.inf if key == following_key else 0
    common = common_beginning(conversation.ids, following.ids)
    if common == len(conversation.ids) == len(following.ids):
        return math.inf
    return common if common >= LEAST_SHARED else 0

"""How much text a request may have made into tokens, and how much of it at a time.

A short request may stand for much text: a prompt of 100 KB with 2,000 answers is 200 MB, and its tokens are many times
that. So texts become tokens in lots, and the first one that is too long, or one too many, ends the work.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from reward_modeling.data.conversations import Templated, parts_of
from reward_modeling.serving.errors import bad_request

LOT_CHARACTERS = 262_144  # tokenised in about a tenth of a second
LOT_ROWS = 256
SHORTEST = 16  # characters of the longest token that is reckoned with: normalisers join some before they are tokens

One = TypeVar("One")


def lots_of(ones: Iterable[tuple[int, One]], sizes: Iterable[int]) -> Iterator[list[tuple[int, One]]]:
    """Neighbours together, up to `LOT_ROWS` of `LOT_CHARACTERS`, and at least one.

    Args:
        ones: numbered.
        sizes: the characters of each, which is asked for when its turn comes.
    """
    lot: list[tuple[int, One]] = []
    characters = 0
    for one, size in zip(ones, sizes, strict=True):
        if lot and (len(lot) >= LOT_ROWS or characters + size > LOT_CHARACTERS):
            yield lot
            lot, characters = [], 0
        lot.append(one)
        characters += size
    if lot:
        yield lot


class TextLimit:
    """What can be refused without making tokens of it: `most` characters are no fewer tokens than are allowed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.max_length = max_length
        self.most = max_length * max(SHORTEST, *map(len, tokenizer.get_vocab()))

    def check(self, index: int, characters: int) -> None:
        """
        Raises:
            ApiError: a text has more characters.
        """
        if characters > self.most:
            raise bad_request(
                f"conversation {index}: expected at most {self.max_length} tokens, found a text of {characters:,} "
                f"characters, and more than {self.most:,} are not read for so many tokens. Send a shorter one: the "
                "server cuts nothing, since the reward would be one of another conversation."
            )


class Sizes:
    """Characters of conversations, each message counted once however many of them it is in."""

    def __init__(self):
        self._of_part: dict[int, int] = {}

    def of(self, conversation: Sequence[dict] | Templated) -> int:
        messages, options = parts_of(conversation)
        return sum(map(self._size, messages)) + sum(map(self._size, options.values()))

    def _size(self, part: Any) -> int:
        if id(part) not in self._of_part:
            values = part.values() if isinstance(part, Mapping) else [part]
            self._of_part[id(part)] = sum(len(one if isinstance(one, str) else str(one)) for one in values)
        return self._of_part[id(part)]


def short_key(prompt: str | None) -> str | None:
    """As good as the prompt for telling whether two are equal, and not kept once for each of its answers."""
    return None if prompt is None else hashlib.blake2b(prompt.encode(), digest_size=16).hexdigest()

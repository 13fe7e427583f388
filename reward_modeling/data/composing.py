"""How a prompt and an answer become the tokens of one row: the seam for kinds of model that read another text.

    composer.pieces(prompt, answer, options, tokenizer)  ->  texts  ->  ids, one after the other

What an `answer` is depends on the composer: the messages after the prompt, two answers to be compared, or steps. Pieces
are tokenised each by itself, so that no token reaches from one into the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from reward_modeling.data.rendering import render
from reward_modeling.models.tokenizer import token_ids

Messages = list[dict[str, Any]]
SENTENCEPIECE_SPACE = "\u2581"


@dataclass(frozen=True)
class Composer:
    """A whole conversation, as the chat template writes it."""

    ends_answers: ClassVar[bool] = True  # a row ends in what the template writes behind an answer

    @property
    def uses_template(self) -> bool:
        """Whether the chat template writes any part of the text."""
        return True

    def pieces(
        self, prompt: Messages, answer: Any, options: dict[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> list[str]:
        """The texts of a row, of which the first alone may change with the prompt.

        Raises:
            TemplateRefuses: see `rendering.render`.
        """
        return [render([*prompt, *answer], options, tokenizer)]

    def said(self, prompt: Messages, answer: Any) -> tuple[Messages, int]:
        """The messages whose contents stand in the text in this order, and how many of the last ones are the answer."""
        return [*prompt, *answer], len(answer)

    def escaped(self, prompt: Messages, answer: Any) -> str:
        """The first mark of the composer's own that somebody said, and that it writes in another way; "" for none."""
        return ""


CONVERSATION = Composer()


def tokenize_pieces(rows: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> list[list[list[int]]]:
    """Of each row the ids of each of its pieces; before the first stands BOS where the tokenizer puts one there."""
    first = token_ids([row[0] for row in rows], tokenizer)
    later = iter(_continued_ids([piece for row in rows for piece in row[1:]], tokenizer))
    return [[ids, *islice(later, len(row) - 1)] for ids, row in zip(first, rows, strict=True)]


def composed_ids(rows: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of each whole row."""
    return [list(chain.from_iterable(pieces)) for pieces in tokenize_pieces(rows, tokenizer)]


def writes_space_before(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it puts a space before every text, as SentencePiece does."""
    letter = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    return letter[0].startswith(SENTENCEPIECE_SPACE)


def _continued_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Tokens of texts that stand behind another: without the space that some tokenizers put before every text."""
    if not texts:
        return []
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    alone = tokenizer(texts, **options)["input_ids"]
    if not writes_space_before(tokenizer):
        return alone
    line = tokenizer("\n", **options)["input_ids"]
    behind = tokenizer([f"\n{text}" for text in texts], **options)["input_ids"]
    pairs = zip(alone, behind, strict=True)
    return [ids[len(line) :] if ids[: len(line)] == line else own for own, ids in pairs]

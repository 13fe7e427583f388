"""The rest of an end that a text has the beginning of.

A policy stops at the token that ends its turn, and so do the texts that a trainer sends. ChatML-like templates and
Gemma's write a line break behind that token, and there the reward model was trained to be read.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.models.tokenizer import answer_ending, special_ids


class EndOfAnswers:
    """The tokens that a chat template writes behind an answer; `ids` is empty where there is no such end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.ids = _ending(tokenizer)
        special = special_ids(tokenizer)
        # Only behind a special token is it sure that the answer has ended: other tokens may be words of its own.
        self._least = next((place + 1 for place, token in enumerate(self.ids) if token in special), len(self.ids))

    def missing(self, ids: Sequence[int]) -> list[int]:
        """What these tokens lack of the end that they have begun, up to its first special token at least; else []."""
        sizes = range(len(self.ids), self._least - 1, -1)
        begun = next((size for size in sizes if size and list(ids[-size:]) == self.ids[:size]), len(self.ids))
        return self.ids[begun:]


def _ending(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not tokenizer.chat_template:
        return []
    try:
        return answer_ending(tokenizer)
    except UserError:  # the template refuses so short a conversation
        return []

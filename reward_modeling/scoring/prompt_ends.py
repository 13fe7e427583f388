"""Where a gate reads the prompts of conversations that are scored: see `data.gate_position`."""

from functools import cached_property

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Conversation, parts_of
from reward_modeling.data.gate_position import (
    Tail,
    gate_position,
    gate_tail,
    has_published_place,
    last_tail,
    prompt_tokens,
)
from reward_modeling.scoring.beginnings import common_beginning


class PromptEnds:
    """Places in whole conversations, one for all answers to a prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    @cached_property
    def tail(self) -> Tail:
        return gate_tail(self.tokenizer)

    def positions(self, window: list[tuple[int, Conversation]], keys: list[object], rows: list[list[int]]) -> list[int]:
        """The gate's place in each row.

        Args:
            window: (number in the input, conversation).
            keys: equal for conversations of one prompt.
            rows: the tokens of the whole conversations.

        Raises:
            UserError: of a plain text it is not known where the prompt ends.
        """
        prompts: dict[object, list[int]] = {}
        places = []
        for (index, conversation), key, ids in zip(window, keys, rows, strict=True):
            if isinstance(conversation, str):
                places.append(self._in_text(index, ids))
                continue
            if key not in prompts:
                messages, options = parts_of(conversation)
                prompts[key] = prompt_tokens(messages[:-1], options, self.tokenizer)
            places.append(gate_position(ids[: common_beginning(prompts[key], ids)], self.tail))
        return places

    def _in_text(self, index: int, ids: list[int]) -> int:
        place = last_tail(ids, self.tail) if has_published_place(self.tokenizer) else None
        if place is None:
            raise UserError(
                f"conversation {index}: expected messages, since the model's gate reads where the prompt ends, found a "
                "plain text without the tokens between a question and its answer. Pass [{'role': ..., 'content': "
                "...}, ...]."
            )
        return place

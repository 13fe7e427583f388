"""From conversations to tokens for scoring: rendered by the checkpoint's own chat template, cut as in training.

reader = ConversationReader(tokenizer, max_length=4096)
tokens = reader.read([(0, messages), (1, Templated(messages, {"tools": [...]}))], ScoringCounts())
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Conversation, Templated, Tokens, parts_of
from reward_modeling.data.losses import NOTHING_LOST, Losses, find_losses
from reward_modeling.data.rendering import TemplateRefuses, render, render_prompt
from reward_modeling.data.truncation import PromptCutter, TextCutter
from reward_modeling.models.tokenizer import end_text, token_ids
from reward_modeling.scoring.given import TokenLimits, prompt_key, taken
from reward_modeling.scoring.prompt_ends import PromptEnds

logger = logging.getLogger(__name__)

TEXT_BLOCK = 512  # plain texts that are tokenised together


@dataclass
class ScoringCounts:
    """What a call of `RewardScorer` did. With several processes the passes and their tokens are this process's own."""

    conversations: int = 0
    scored: int = 0  # distinct texts: what is the same is computed once
    cut: int = 0  # conversations that lost tokens to max_length
    cut_tokens: int = 0
    passes: int = 0
    tokens: int = 0  # of all passes, padding included
    not_finite: int = 0  # conversations whose reward is infinite or not a number
    too_long: int = 0  # of a process model, those whose steps alone are beyond max_length: they are not scored
    answers_too_long: int = 0  # of a pairwise model, those whose two answers alone are beyond it: not compared
    escaped: int = 0  # comparisons that hold a mark of their own text, which is written in another way there

    def add(self, other: "ScoringCounts") -> None:
        """Those of another call."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def warn_of_cuts(self, max_length: int | None) -> None:
        if self.cut:
            logger.warning(
                "%d of %d conversations lost the beginning of their prompts to max_length %d (%d tokens in all).",
                *(self.cut, self.conversations, max_length, self.cut_tokens),
            )
        if self.answers_too_long:
            logger.warning(
                "%d of %d orders are not compared: their two answers alone are beyond max_length %d.",
                *(self.answers_too_long, self.conversations, max_length),
            )
        if self.too_long:
            logger.warning(
                "%d of %d answers are not scored: their steps alone are beyond max_length %d.",
                *(self.too_long, self.conversations, max_length),
            )


def check_has_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Raises:
        UserError: there is no chat template, or several and none for everything.
    """
    template = tokenizer.chat_template
    if not template or (isinstance(template, dict) and "default" not in template):
        raise UserError(
            f"{tokenizer.name_or_path}: expected a tokenizer with a chat template, found none. Set "
            "tokenizer.chat_template to the one that the model was trained with, and save the tokenizer beside "
            "the model."
        )


class ConversationReader:
    """Tokens of conversations, exactly those that training makes of them; errors name a conversation by its number.

    The chat template without a generation prompt; one BOS in front where the template or the tokenizer puts one,
    and not two where both do. What is longer than `max_length` is cut as in training (`data.truncation`): the answers
    of one prompt that are scored together lose the same part of it, as much as the longest needs. An answer that
    training would drop, since it does not fit without its prompt either, loses its oldest tokens.

    Args:
        vocabulary: how many tokens the model has embeddings for, where tokens are given.
        reads_prompts: a gate reads the prompts: `Tokens.gate` is set, by `data.gate_position`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        *,
        vocabulary: int | None = None,
        reads_prompts: bool = False,
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.limits = TokenLimits(vocabulary, max_length, reads_prompts)

    def render(self, index: int, conversation: Conversation) -> str:
        """The text of a conversation, or a UserError where the template refuses it; a plain text ends in EOS."""
        if isinstance(conversation, str):
            return end_text(conversation, self.tokenizer)
        self.check_template()
        messages, options = parts_of(conversation)
        try:
            return render(messages, options, self.tokenizer)
        except TemplateRefuses as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"conversation {index}: the chat template refuses it ({error}). Its roles are {roles}, its first "
                f"message is {messages[0]['content'][:80]!r}. Pass roles in the order that the template knows."
            ) from error

    def check_template(self) -> None:
        """Raise a UserError where there is no chat template, or several and none for everything."""
        check_has_template(self.tokenizer)

    def check(self, conversation: Sequence[dict] | Templated, answers: int = 1) -> tuple[str, Losses]:
        """What the chat template says against a conversation, empty if nothing, and what it leaves out of it.

        Args:
            answers: how many of the last messages are the answer.
        """
        messages, options = parts_of(conversation)
        try:
            text = render(messages, options, self.tokenizer)
        except TemplateRefuses as error:
            return str(error), NOTHING_LOST
        return "", find_losses(messages, text, answers)

    def take(
        self, numbered: Iterable[tuple[int, Conversation]], counts: ScoringCounts, *, cut: bool = True
    ) -> Iterator[tuple[int, Conversation]]:
        """The same in the same order, checked, and plain texts already as tokens: these are cut each by itself.

        Raises:
            UserError: see `given.taken`; of a plain text it is not known where the prompt ends, which a gate reads.
        """
        texts: list[tuple[int, Conversation]] = []
        for index, conversation in numbered:
            conversation = taken(index, conversation, self.limits)
            is_text = isinstance(conversation, str)
            if texts and (not is_text or len(texts) >= TEXT_BLOCK):
                yield from self._numbered(texts, counts, cut)
                texts = []
            if is_text:
                texts.append((index, conversation))
            else:
                yield index, conversation
        yield from self._numbered(texts, counts, cut)

    def _numbered(
        self, texts: list[tuple[int, Conversation]], counts: ScoringCounts, cut: bool
    ) -> Iterator[tuple[int, Tokens]]:
        yield from zip([index for index, _ in texts], self.read(texts, counts, cut=cut), strict=True)

    def read(
        self, window: Sequence[tuple[int, Conversation]], counts: ScoringCounts, *, cut: bool = True
    ) -> list[Tokens]:
        """The tokens of conversations, at most `max_length` of each unless `cut` is False.

        Args:
            window: (number in the input, conversation); tokens stay as they are.
        """
        written = [numbered for numbered in window if not isinstance(numbered[1], Tokens)]
        made = iter(self._tokenize(written, counts, cut) if written else ())
        return [one if isinstance(one, Tokens) else next(made) for _, one in window]

    def _tokenize(self, window: list[tuple[int, Conversation]], counts: ScoringCounts, cut: bool) -> list[Tokens]:
        whole = self._whole(window)
        keys = [prompt_key(conversation) for _, conversation in window]
        rows = self._cut([conversation for _, conversation in window], whole) if cut else whole
        lost = [len(before) - len(after) for before, after in zip(whole, rows, strict=True)]
        counts.cut += sum(tokens > 0 for tokens in lost)
        counts.cut_tokens += sum(max(0, tokens) for tokens in lost)
        gates: list[int | None] = [None] * len(window)
        if self.limits.reads_prompts:
            # of a conversation that is cut it is the same token; the first one where that is cut away
            places = self._prompt_ends.positions(window, keys, whole)
            gates = [max(0, place - less) for place, less in zip(places, lost, strict=True)]
        return [Tokens(*row) for row in zip(rows, gates, keys, strict=True)]

    def _whole(self, window: list[tuple[int, Conversation]]) -> list[list[int]]:
        rows = token_ids([self.render(*numbered) for numbered in window], self.tokenizer)
        for (index, _), ids in zip(window, rows, strict=True):
            if not ids:
                raise UserError(
                    f"conversation {index}: expected at least one token, found none: the chat template renders it as "
                    "an empty text."
                )
        return rows

    @cached_property
    def _prompt_ends(self) -> PromptEnds:
        return PromptEnds(self.tokenizer)

    @cached_property
    def _text_cutter(self) -> TextCutter:
        return TextCutter(self.max_length, self.tokenizer)

    def _cut(self, conversations: list[Conversation], rows: list[list[int]]) -> list[list[int]]:
        """The rows, with those of prompts that have a row beyond `max_length` cut."""
        if self.max_length is None or all(len(ids) <= self.max_length for ids in rows):
            return rows
        cut = [self._text_cutter.cut(ids) for ids in rows]
        of_prompt: dict[str, list[int]] = {}
        for number, conversation in enumerate(conversations):
            if not isinstance(conversation, str):
                of_prompt.setdefault(prompt_key(conversation), []).append(number)
        # as in training, prompts are one where the template makes one of them
        of_text: dict[str, list[int]] = {}
        for numbers in of_prompt.values():
            of_text.setdefault(self._prompt_text(conversations[numbers[0]]), []).extend(numbers)
        for numbers in of_text.values():
            if any(len(rows[number]) > self.max_length for number in numbers):
                self._cut_prompt(numbers, conversations, cut)
        return cut

    def _prompt_text(self, conversation: Sequence[dict] | Templated) -> str:
        messages, options = parts_of(conversation)
        try:
            return render_prompt(messages[:-1], options, self.tokenizer)
        except TemplateRefuses:
            return prompt_key(conversation)

    def _cut_prompt(self, numbers: list[int], conversations: list[Conversation], cut: list[list[int]]) -> None:
        """Put in the conversations of one prompt, but those whose answer alone is too long."""
        messages, options = parts_of(conversations[numbers[0]])
        cutter = PromptCutter(list(messages[:-1]), options, self.max_length, self.tokenizer)
        answers = {number: [parts_of(conversations[number])[0][-1]] for number in numbers}
        found = cutter.cut(list(answers.values()))
        if found is None:
            fits = cutter.fits(list(answers.values()))
            answers = {number: answers[number] for number, does in zip(numbers, fits, strict=True) if does}
            found = cutter.cut(list(answers.values())) if answers else None
        if found is not None:
            for number, ids in zip(answers, found.ids, strict=True):
                cut[number] = ids

"""From comparisons to tokens: written by the model's own composer, cut as in training.

reader = ComparisonReader(tokenizer, max_length=4096)
tokens = reader.read([(0, comparison), (1, comparison.swapped())], ScoringCounts())
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.composing import composed_ids
from reward_modeling.data.conversations import Tokens
from reward_modeling.data.losses import NOTHING_LOST, Losses, find_losses
from reward_modeling.data.pair_texts import COMPARISON, PairComposer
from reward_modeling.data.rendering import TemplateRefuses
from reward_modeling.data.truncation import PromptCutter
from reward_modeling.scoring.conversations import ScoringCounts, check_has_template
from reward_modeling.scoring.given import prompt_key


class ComparisonReader:
    """Tokens of comparisons, exactly those that training makes of them.

    What is longer than `max_length` loses context, as in training (`data.truncation`): all comparisons of a prompt that
    are computed together lose the same part of it, as much as the longest needs. Answers are whole: where two do not
    fit without their context either, and training would drop them, there are no tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None, composer: PairComposer = COMPARISON):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.composer = composer

    def take(
        self, numbered: Iterable[tuple[int, Comparison]], counts: ScoringCounts, *, cut: bool = True
    ) -> Iterator[tuple[int, Comparison]]:
        """The same in the same order."""
        self.check_template()
        yield from numbered

    def read(
        self, window: Sequence[tuple[int, Comparison]], counts: ScoringCounts, *, cut: bool = True
    ) -> list[Tokens]:
        """The tokens of comparisons, at most `max_length` of each unless `cut` is False.

        Args:
            window: (number in the input, comparison); the two orders of one follow each other.

        Raises:
            UserError: the chat template refuses one.
        """
        keys = [prompt_key(comparison) for _, comparison in window]
        counts.escaped += sum(map(self._holds_marks, (comparison for _, comparison in window)))
        whole = composed_ids([self._pieces(*numbered) for numbered in window], self.tokenizer)
        rows = whole
        if cut and self.max_length is not None and any(len(ids) > self.max_length for ids in whole):
            rows = self._cut([comparison for _, comparison in window], keys, whole, counts)
        lost = [len(before) - len(after) for before, after in zip(whole, rows, strict=True) if after]
        counts.cut += sum(tokens > 0 for tokens in lost)
        counts.cut_tokens += sum(max(0, tokens) for tokens in lost)
        return [Tokens(ids, None, key) for ids, key in zip(rows, keys, strict=True)]

    def check_template(self) -> None:
        """Raise a UserError where there is no chat template, or several and none for everything."""
        check_has_template(self.tokenizer)

    def check(self, comparison: Comparison) -> tuple[str, Losses]:
        """What the chat template says against a comparison, empty if nothing, and what it leaves out of it."""
        try:
            pieces = self._compose(comparison)
        except TemplateRefuses as error:
            return str(error), NOTHING_LOST
        messages, own = self.composer.said(list(comparison.prompt), _answer(comparison))
        return "", find_losses(messages, "".join(pieces), own)

    def _holds_marks(self, comparison: Comparison) -> bool:
        return bool(self.composer.escaped(list(comparison.prompt), _answer(comparison)))

    def _compose(self, comparison: Comparison) -> list[str]:
        prompt, options = list(comparison.prompt), dict(comparison.options)
        return self.composer.pieces(prompt, _answer(comparison), options, self.tokenizer)

    def _pieces(self, index: int, comparison: Comparison) -> list[str]:
        try:
            return self._compose(comparison)
        except TemplateRefuses as error:
            raise UserError(
                f"comparison {index // 2}: the chat template refuses the user's message that a pairwise model reads "
                f"({error}). Give the tokenizer a template that writes one message of a user's."
            ) from error

    def _cut(
        self, comparisons: list[Comparison], keys: list[str], rows: list[list[int]], counts: ScoringCounts
    ) -> list[list[int]]:
        """The rows, with those of prompts that have a row beyond `max_length` cut."""
        cut = [*rows]
        of_prompt: dict[str, list[int]] = {}
        for number, key in enumerate(keys):
            of_prompt.setdefault(key, []).append(number)
        for numbers in of_prompt.values():
            if any(len(rows[number]) > self.max_length for number in numbers):
                counts.answers_too_long += len(numbers) - self._cut_prompt(numbers, comparisons, cut)
        return cut

    def _cut_prompt(self, numbers: list[int], comparisons: list[Comparison], cut: list[list[int]]) -> int:
        """Put in the comparisons of one prompt, empty those whose answers alone are too long; return how many fit."""
        first = comparisons[numbers[0]]
        options = dict(first.options)
        cutter = PromptCutter(list(first.prompt), options, self.max_length, self.tokenizer, self.composer)
        answers = {number: _answer(comparisons[number]) for number in numbers}
        found = cutter.cut(list(answers.values()))
        if found is None:
            fits = cutter.fits(list(answers.values()))
            answers = {number: answers[number] for number, does in zip(numbers, fits, strict=True) if does}
            found = cutter.cut(list(answers.values())) if answers else None
        fitting = {} if found is None else dict(zip(answers, found.ids, strict=True))
        for number in numbers:
            cut[number] = fitting.get(number, [])
        return len(fitting)


def _answer(comparison: Comparison) -> list[list[Mapping[str, Any]]]:
    """As the composer takes it."""
    return [list(comparison.a), list(comparison.b)]

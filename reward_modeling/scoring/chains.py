"""From answers and their steps to tokens, for process models: a prompt, then each step and its separator.

reader = ChainReader(tokenizer, max_length=4096, process=ProcessFormat())
tokens = reader.read([(0, Chain(prompt, steps))], ScoringCounts())     # tokens[0].reads: where its steps end
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain as flat

from transformers import PreTrainedTokenizerBase

from reward_modeling.common.errors import UserError
from reward_modeling.data.composing import tokenize_pieces
from reward_modeling.data.conversations import Chain, Conversation, Templated, Tokens, parts_of
from reward_modeling.data.losses import NOTHING_LOST, Losses, find_losses
from reward_modeling.data.rendering import TemplateRefuses
from reward_modeling.data.step_texts import StepComposer
from reward_modeling.data.truncation import PromptCutter
from reward_modeling.models.process_format import ProcessFormat, last_places
from reward_modeling.scoring.conversations import ConversationReader, ScoringCounts
from reward_modeling.scoring.given import TokenLimits, prompt_key, taken

ASSISTANT = "assistant"
TOO_LONG = Tokens((), reads=())


class ChainReader(ConversationReader):
    """Takes chains of steps, and conversations, whose last message is cut into steps at the model's separator.

    What is longer than `max_length` loses the beginning of its prompt, as in training, and never a step: an answer
    whose steps do not fit beside the shortest prompt has no tokens, and is counted.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        process: ProcessFormat,
        *,
        vocabulary: int | None = None,
    ):
        super().__init__(tokenizer, max_length, vocabulary=vocabulary)
        self.limits = TokenLimits(vocabulary, max_length, reads_steps=True)
        self.process = process
        self.composer = StepComposer(process.separator, process.chat)

    def check_template(self) -> None:
        """Only where the prompt is written by the template."""
        if self.process.chat:
            super().check_template()

    def take(
        self, numbered: Iterable[tuple[int, Conversation]], counts: ScoringCounts, *, cut: bool = True
    ) -> Iterator[tuple[int, Conversation]]:
        """As chains, or tokens with the ends of the steps.

        Raises:
            UserError: also of a plain text, which does not say where the answer begins, and of an answer without text.
        """
        return super().take(((index, self._as_chain(index, one)) for index, one in numbered), counts, cut=cut)

    def _as_chain(self, index: int, conversation: Conversation) -> Chain | Tokens:
        if isinstance(conversation, Tokens | Chain):
            return conversation
        taken(index, conversation, self.limits)
        messages = [] if isinstance(conversation, str) else parts_of(conversation)[0]
        if len(messages) < 2 or messages[-1]["role"] != ASSISTANT:
            found = "a plain text" if not messages else f"messages that end with a {messages[-1]['role']}'s"
            raise UserError(
                f"conversation {index}: expected messages that end with an assistant's answer, of which a process "
                f"model scores the steps, found {found}. Pass the question and the answer as messages."
            )
        if not messages[-1]["content"].strip():
            raise UserError(
                f"conversation {index}: expected an answer with at least one step, found one without text. Leave it "
                "out."
            )
        options = parts_of(conversation)[1]
        return Chain(messages[:-1], self.process.split(messages[-1]["content"]), options)

    def check(self, conversation: Sequence[dict] | Templated, answers: int = 1) -> tuple[str, Losses]:
        """What the chat template says against the prompt, empty if nothing, and what it leaves out of it."""
        one = self._as_chain(0, conversation)
        try:
            pieces = self.pieces_of(one)
        except TemplateRefuses as error:
            return str(error), NOTHING_LOST
        messages, steps = self.composer.said(list(one.prompt), list(one.steps))
        return "", find_losses(messages, "".join(pieces), steps)

    def pieces_of(self, conversation: Conversation) -> list[str]:
        """The texts of a conversation: its prompt, then each step, and each separator where there is one.

        Raises:
            TemplateRefuses: the chat template does not take the prompt.
        """
        one = self._as_chain(0, conversation)
        return self.composer.pieces(list(one.prompt), list(one.steps), dict(one.options), self.tokenizer)

    def _tokenize(self, window: list[tuple[int, Chain]], counts: ScoringCounts, cut: bool) -> list[Tokens]:
        texts = [self._pieces(index, one) for index, one in window]
        pieces = tokenize_pieces(texts, self.tokenizer)
        rows = [list(flat.from_iterable(of_row)) for of_row in pieces]
        reads = [last_places([len(ids) for ids in of_row], self.process.separator) for of_row in pieces]
        found = [
            Tokens(ids, prompt=prompt_key(one), reads=ends)
            for (_, one), ids, ends in zip(window, rows, reads, strict=True)
        ]
        for (index, one), of_row in zip(window, pieces, strict=True):
            self._check_ends(index, one, of_row)
        if not cut or self.max_length is None or all(len(ids) <= self.max_length for ids in rows):
            return found
        # prompts are one where the template makes one of them
        of_prompt: dict[str, list[int]] = {}
        for number, (prompt, *_) in enumerate(texts):
            of_prompt.setdefault(prompt, []).append(number)
        for numbers in of_prompt.values():
            if any(len(rows[number]) > self.max_length for number in numbers):
                chains = [window[number][1] for number in numbers]
                for number, tokens in zip(numbers, self._cut_chains(chains, counts, found, numbers), strict=True):
                    found[number] = tokens
        return found

    def _pieces(self, index: int, one: Chain) -> list[str]:
        self.check_template()
        try:
            return self.pieces_of(one)
        except TemplateRefuses as error:
            roles = ", ".join(message["role"] for message in one.prompt)
            raise UserError(
                f"conversation {index}: the chat template refuses it ({error}). The roles of its prompt are {roles}. "
                "Pass roles in the order that the template knows."
            ) from error

    def _check_ends(self, index: int, one: Chain, pieces: list[list[int]]) -> None:
        """
        Raises:
            UserError: a step has no token that could be read.
        """
        read = pieces[2::2] if self.process.separator else pieces[1:]
        empty = next((number for number, ids in enumerate(read) if not ids), None)
        if empty is not None:
            raise UserError(
                f"conversation {index}: expected a text of at least one token in each step, found none in step {empty} "
                f"of {len(one.steps)}, at whose last token it would be read. Leave it out."
            )

    def _cut_chains(
        self, chains: list[Chain], counts: ScoringCounts, whole: list[Tokens], numbers: list[int]
    ) -> list[Tokens]:
        """Chains of one prompt without as much of it as the longest of them needs."""
        first = chains[0]
        options = (dict(first.options), self.max_length, self.tokenizer, self.composer)
        cutter = PromptCutter(list(first.prompt), *options)
        answers = dict(zip(numbers, (list(one.steps) for one in chains), strict=True))
        cut = cutter.cut(list(answers.values()))
        if cut is None:
            fits = cutter.fits(list(answers.values()))
            answers = {number: answers[number] for number, does in zip(numbers, fits, strict=True) if does}
            cut = cutter.cut(list(answers.values())) if answers else None
        rows = {} if cut is None else dict(zip(answers, cut.ids, strict=True))
        return [self._shortened(whole[number], rows.get(number), counts) for number in numbers]

    @staticmethod
    def _shortened(whole: Tokens, ids: list[int] | None, counts: ScoringCounts) -> Tokens:
        if ids is None:
            counts.too_long += 1
            return TOO_LONG
        lost = len(whole.ids) - len(ids)
        counts.cut += lost > 0
        counts.cut_tokens += max(0, lost)
        return Tokens(ids, prompt=whole.prompt, reads=[place - lost for place in whole.reads])

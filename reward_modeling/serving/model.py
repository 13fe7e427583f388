"""The model that is served: requests become tokens, tokens become answers.

Tokens are made in any thread, answers in a single one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from reward_modeling.common.errors import UserError
from reward_modeling.common.prefixes import common_prefix_length
from reward_modeling.data.conversations import Conversation, Tokens
from reward_modeling.models.tokenizer import leading_bos, token_ids
from reward_modeling.scoring import RewardScorer
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.given import with_options
from reward_modeling.scoring.readouts.base import Readout
from reward_modeling.serving.completion import EndOfAnswers
from reward_modeling.serving.errors import bad_request
from reward_modeling.serving.head_outputs import Answer, WithOutputs
from reward_modeling.serving.lots import Sizes, TextLimit, lots_of, short_key

Lots = Iterator[list[Tokens]]

MESSAGES_ONLY = (
    "expected messages, since the model's gate reads where the prompt ends, found {found}. Send the conversation to "
    "/v1/rewards as messages, or to /classify under `messages`."
)


class ServedModel:
    """A scorer, and what requests need to know of its model.

    Other kinds of model extend it (`step_model.py`, `pair_model.py`). `task` is what vLLM calls what the model does.
    """

    task: ClassVar[str] = "classify"
    open_ended: ClassVar[str] = (
        "A text does not end in %r, at which the model's chat template ends an answer: its reward is read at another "
        "token than in training. Where texts stop short of a line break behind their last special token, start the "
        "server with --complete_texts true. Said once; reward_open_ended_texts_total in /metrics counts on."
    )
    with_outputs: ClassVar[Callable[[Readout], Readout]] = WithOutputs
    warm_up: ClassVar[list[dict[str, str]]] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    def __init__(self, scorer: RewardScorer, max_tokens: int, *, complete_texts: bool = False):
        """
        Args:
            max_tokens: of one request.
            complete_texts: give a text the rest of an end that it has begun.
        """
        self.max_length = scorer.reader.max_length
        self.max_tokens_per_pass = scorer.batches.max_tokens
        self.tokenizer = scorer.tokenizer
        self.config = scorer.model.config
        self.reads_prompts = scorer.readout.reads_prompts
        self.num_outputs = 1 if self.reads_prompts else scorer.model.config.num_labels
        self.vocabulary = scorer.model.get_input_embeddings().num_embeddings
        self._scorer = RewardScorer(
            *(scorer.model, scorer.tokenizer, scorer.batches, scorer.reader.max_length, scorer.passes.statistics),
            readout=self.with_outputs(scorer.readout),
        )
        self._limit = TextLimit(scorer.tokenizer, self.max_length or max_tokens)
        self._end = EndOfAnswers(scorer.tokenizer) if complete_texts else None
        self.ending = self._ending()

    def check_route(self, path: str) -> None:
        """
        Raises:
            ApiError: this kind of model has no answer there.
        """

    def _ending(self) -> list[int]:
        """The tokens in which a whole text ends: the one at which the chat template ends an answer, where the reward is
        read; [] where any will do. It also wakes the tokenizer.

        A fast tokenizer may be used by several threads at once only as long as its settings stay what they are: the
        first call takes back the padding and the cutting that a tokenizer.json may ask for, and later ones find that
        done.
        """
        self._bos = leading_bos(self.tokenizer)
        last = self.tokenizer.eos_token_id
        if self.tokenizer.chat_template:
            try:
                (tokens,) = self._scorer.tokenize([self.warm_up])
                last = tokens.ids[-1]
            except UserError:  # a template may refuse so short a conversation
                pass
        return [] if last is None else [last]

    # --- tokens ------------------------------------------------------------------------------------------------
    # They come in lots, each made when it is asked for, and in two steps, since a request may ask for a cut in
    # between: the rows whole, and checked.

    def messages_whole(self, conversations: Sequence[Conversation], options: Mapping[str, Any] | None = None) -> Lots:
        """As `RewardScorer.score` would compute them.

        Raises:
            ApiError: one is empty, not made of messages, or refused by the chat template, or is too long in any case.
        """
        reader, counts, sizes = self._scorer.reader, ScoringCounts(), Sizes()
        given = with_options(conversations, options)
        try:
            for lot in lots_of(enumerate(given), map(sizes.of, given)):
                window = list(reader.take(lot, counts, cut=False))
                for index, conversation in window:
                    if sizes.of(conversation) > self._limit.most:  # which the template may leave out
                        self._limit.check(index, len(reader.render(index, conversation)))
                rows = reader.read(window, counts, cut=False)
                yield [replace(row, prompt=short_key(row.prompt)) for row in rows]
        except UserError as error:
            raise bad_request(str(error)) from error

    def rendered_whole(self, conversations: Sequence[Conversation], options: Mapping[str, Any] | None = None) -> Lots:
        """Messages as vLLM has them: what the chat template writes, and nothing else.

        Raises:
            ApiError: see `messages_whole`.
        """
        return self.messages_whole(conversations, options)

    def texts_whole(self, texts: Sequence[str]) -> Lots:
        """Texts as they stand, with exactly one BOS where the tokenizer puts one there, and nothing else added, unless
        texts are completed.

        Raises:
            ApiError: the model reads prompts; a text is empty, or is too long in any case.
        """
        self._check_texts(texts)
        for lot in self._lots_of_texts(texts):
            yield [self._of_text(ids) for ids in token_ids(lot, self.tokenizer)]

    def vllm_texts_whole(self, texts: Sequence[str], *, special_tokens: bool) -> Lots:
        """Texts as vLLM has them, but for a second BOS in front of a text that has one.

        Args:
            special_tokens: whether the tokenizer adds what it adds to a text: BOS, an encoder's SEP.

        Raises:
            ApiError: see `texts_whole`.
        """
        self._check_texts(texts)
        options = {"add_special_tokens": special_tokens, "return_attention_mask": False, "verbose": False}
        for lot in self._lots_of_texts(texts):
            rows = self.tokenizer(lot, **options)["input_ids"]
            yield [self._of_text(ids[1:] if self._bos and ids[:2] == self._bos * 2 else ids) for ids in rows]

    def pairs_whole(self, pairs: Sequence[tuple[str, str]]) -> Lots:
        """As vLLM joins two texts: as the tokenizer does, unless the config says `use_sep_token: false`.

        Raises:
            ApiError: see `texts_whole`.
        """
        if not self.config.to_dict().get("use_sep_token", True):
            yield from self.vllm_texts_whole([first + second for first, second in pairs], special_tokens=True)
            return
        self._check_texts([first for first, _ in pairs])
        sizes = [len(first) + len(second) for first, second in pairs]
        for lot in lots_of(enumerate(pairs), sizes):
            for index, _ in lot:
                self._limit.check(index, sizes[index])
            firsts, seconds = map(list, zip(*(pair for _, pair in lot), strict=True))
            yield [Tokens(ids) for ids in self.tokenizer(firsts, seconds, verbose=False)["input_ids"]]

    def shortened(self, text: str, side: str) -> str:
        """A text of which tokens are to be cut away, without most of what is cut in any case."""
        return text[-self._limit.most :] if side == "left" else text[: self._limit.most]

    def _of_text(self, ids: list[int]) -> Tokens:
        return Tokens(ids if self._end is None else ids + self._end.missing(ids))

    def _lots_of_texts(self, texts: Sequence[str]) -> Iterator[list[str]]:
        for lot in lots_of(enumerate(texts), map(len, texts)):
            for index, text in lot:
                self._limit.check(index, len(text))
            yield [text for _, text in lot]

    def ids_whole(self, rows: Sequence[Sequence[int]], gates: Sequence[int] | None = None) -> Lots:
        """
        Args:
            gates: where the gate of a model with one reads each prompt.

        Raises:
            ApiError: the model reads prompts and nothing says where; a token is none of the model's.
        """
        if gates is None:
            self._refuse_without_messages("tokens", rows)
        else:
            self._check_gates(rows, gates)
        for index, ids in enumerate(rows):
            if ids and not (min(ids) >= 0 and max(ids) < self.vocabulary):
                wrong = next(token for token in ids if not 0 <= token < self.vocabulary)
                raise bad_request(
                    f"conversation {index}: expected tokens from 0 to {self.vocabulary - 1}, found {wrong}. Send ids "
                    "of the model's own tokenizer."
                )
        yield [Tokens(ids, gate) for ids, gate in zip(rows, gates or [None] * len(rows), strict=True)]

    def _check_gates(self, rows: Sequence[Sequence[int]], gates: Sequence[int]) -> None:
        if not self.reads_prompts:
            message = "gate_positions: expected none, since the model has no gate. Leave them out."
            raise bad_request(message, "gate_positions")
        if len(gates) != len(rows) or any(not 0 <= gate < len(ids) for gate, ids in zip(gates, rows, strict=False)):
            raise bad_request(
                f"gate_positions: expected a place in each of {len(rows)} rows of tokens, found {len(gates)} of which "
                "one may be outside of its row. Send one for each, from 0.",
                "gate_positions",
            )

    def checked(self, lots: Iterable[list[Tokens]]) -> Lots:
        """
        Raises:
            ApiError: one has no token, or more than the model takes.
        """
        index = 0
        for lot in lots:
            for row in lot:
                self._check_row(index, row)
                index += 1
            yield lot

    def to_read(self, lots: Lots) -> Lots:
        """The rows as /pooling reads them: at the last token, as everywhere."""
        return lots

    def _check_row(self, index: int, row: Tokens) -> None:
        if not len(row.ids):
            raise bad_request(f"conversation {index}: expected at least one token, found none. Leave it out.")
        if self.max_length is not None and len(row.ids) > self.max_length:
            raise bad_request(
                f"conversation {index}: expected at most {self.max_length} tokens, found {len(row.ids)}. Send a "
                "shorter one: the server cuts nothing, since the reward would be one of another conversation."
            )

    def _check_texts(self, texts: Sequence[str]) -> None:
        self._refuse_without_messages("a text", texts)
        for index, text in enumerate(texts):
            if not text:
                raise bad_request(f"text {index}: expected at least one character, found none. Leave it out.")

    def _refuse_without_messages(self, found: str, rows: Sequence[object]) -> None:
        if self.reads_prompts and rows:
            raise bad_request(MESSAGES_ONLY.format(found=found))

    @staticmethod
    def costs(rows: Sequence[Tokens]) -> list[int]:
        """Tokens that each conversation adds to a batch which has the one before it: not what both begin with."""
        costs = []
        for index, row in enumerate(rows):
            before = rows[index - 1] if index else None
            shared = before is not None and row.prompt == before.prompt
            costs.append(len(row.ids) - (common_prefix_length([before.ids, row.ids]) if shared else 0))
        return costs

    # --- answers -----------------------------------------------------------------------------------------------

    def compute(self, conversations: list[Tokens]) -> tuple[list[Answer], ScoringCounts]:
        """Answers, and what was computed for them. For one thread alone."""
        answers = self._scorer.score_named(conversations)
        return answers, self._scorer.counts

"""A pairwise model that is served: a prompt with its answers becomes comparisons of every two, in both orders."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from reward_modeling.common.errors import UserError
from reward_modeling.common.prefixes import common_prefix_length
from reward_modeling.data.comparisons import Comparison
from reward_modeling.data.conversations import Conversation
from reward_modeling.scoring import PairScorer
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.given import comparison_of
from reward_modeling.serving.errors import bad_request
from reward_modeling.serving.lots import lots_of, short_key
from reward_modeling.serving.model import Lots, ServedModel

ROUTES = ("/v1/rewards", "/classify", "/pooling")
HOW = (
    "Ask /v1/rewards, with a prompt and at least two responses; or /classify, with the token ids of one comparison, "
    "for the logit of its first answer."
)
Messages = Sequence[Mapping[str, Any]]


class ServedPairs(ServedModel):
    """The model says of two answers which is the better one: its output is the logit of the one that stands first."""

    open_ended = (
        "A text does not end in %r, with which the model's chat template opens an answer: the model is read at another "
        "token than in training. Render the question with add_generation_prompt=True. Said once; "
        "reward_open_ended_texts_total in /metrics counts on."
    )

    def __init__(self, scorer: PairScorer, max_tokens: int, *, complete_texts: bool = False):
        """
        Raises:
            UserError: texts are to be completed.
        """
        if complete_texts:
            raise UserError(
                "--complete_texts true: expected a model that reads the end of an answer, found a pairwise one, which "
                "reads where one would begin. Leave it out."
            )
        self._reader = scorer.reader
        super().__init__(scorer, max_tokens)

    def _ending(self) -> list[int]:
        """Behind every question, up to where the template opens an answer: ChatML ends both in a line break."""
        super()._ending()
        try:
            rows = [self._reader.read([(0, _comparison_of(said))], ScoringCounts(), cut=False)[0].ids for said in "a0"]
        except UserError:  # there is no template, or it refuses so short a question
            return []
        length = common_prefix_length([ids[::-1] for ids in rows])
        return list(rows[0][len(rows[0]) - length :])

    def check_route(self, path: str) -> None:
        if path not in ROUTES:
            raise bad_request(
                f"{path}: expected a model that scores one answer, found a pairwise one, which says of two answers to "
                f"a prompt which is better. {HOW}"
            )

    def rendered_whole(self, conversations: Sequence[Conversation], options: Mapping[str, Any] | None = None) -> Lots:
        """
        Raises:
            ApiError: see `ServedModel.messages_whole`; there is no generation prompt, behind which the model is read.
        """
        if not (options or {}).get("add_generation_prompt"):
            raise bad_request(
                "messages: expected one question that holds both answers, and add_generation_prompt true, found none "
                f"of the latter, behind which a pairwise model is read. {HOW}",
                "messages",
            )
        yield from self.messages_whole(conversations, options)

    def comparisons_whole(
        self, prompt: Messages, answers: Sequence[Messages], options: Mapping[str, Any] | None = None
    ) -> Lots:
        """Both orders of every two answers, as `PairScorer.rank` would compute them: (0, 1), (1, 0), (0, 2), ...

        Raises:
            ApiError: an answer has no message, or a message is not what it has to be; the chat template refuses one; or
                one is too long in any case.
        """
        try:
            self._reader.check_template()
            pairs = combinations(range(len(answers)), 2)
            orders: list[tuple[int, Comparison]] = []
            for one, other in pairs:
                both = comparison_of(len(orders) // 2, (prompt, answers[one], answers[other]), options)
                orders += [(len(orders), both), (len(orders) + 1, both.swapped())]
            sizes = [sum(len(message["content"]) for message in (*one.prompt, *one.a, *one.b)) for _, one in orders]
            for lot in lots_of(orders, sizes):
                for index, _ in lot:
                    self._limit.check(index, sizes[index])
                rows = self._reader.read(lot, ScoringCounts(), cut=False)
                yield [replace(row, prompt=short_key(row.prompt)) for row in rows]
        except UserError as error:
            raise bad_request(str(error)) from error


def _comparison_of(said: str) -> Comparison:
    message = {"role": "user", "content": said}
    return Comparison([message], [message], [message])

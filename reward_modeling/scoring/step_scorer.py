"""Score the steps of answers with a process model: what plain transformers gives each step of each answer alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reward_modeling.common.aggregations import aggregate
from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Chain, Tokens
from reward_modeling.models.process_format import ProcessFormat
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.given import TemplateOptions, options_of_each, refuse_blank_steps
from reward_modeling.scoring.loading import load_model
from reward_modeling.scoring.readouts.catalog import readout_of
from reward_modeling.scoring.readouts.steps import Steps
from reward_modeling.scoring.scorer import RewardScorer

Prompt = str | Sequence[Mapping[str, Any]]


class StepScorer:
    """A process model that gives each step of an answer the probability that it is right.

    A prompt is a text, or a list of messages; steps are texts without their separators. All steps of an answer are
    read in one pass, and what several answers to a prompt begin with, such as their first steps, is computed once.

    >>> import torch
    >>> from transformers import AutoModelForTokenClassification
    >>> from reward_modeling.scoring.step_scorer import StepScorer
    >>> steps = ["Two and two are four.", "Four and one are six."]

    >>> scorer = StepScorer.from_pretrained(path, dtype="float32")
    >>> first, second = scorer.score("How much is two and two and one?", steps)
    >>> sorted(scorer.aggregate([first, second]))
    ['last', 'mean', 'min', 'product']

    >>> model = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32)
    >>> (tokens,) = scorer.tokenize([("How much is two and two and one?", steps)])
    >>> logits = model(torch.tensor([tokens.ids])).logits[0, tokens.reads]
    >>> bool((logits.softmax(dim=-1)[:, 1] - torch.tensor([first, second])).abs().max() < 1e-5)
    True

    `counts` tells what the latest call did: `ScoringCounts`.
    """

    def __init__(self, scorer: RewardScorer):
        """
        Args:
            scorer: of a process model.

        Raises:
            UserError: it is of another one.
        """
        if not isinstance(scorer.readout, Steps):
            raise UserError(
                f"StepScorer: expected a process model, found {type(scorer.model).__name__} with "
                f"{scorer.model.config.num_labels} labels, which scores whole answers. Use RewardScorer."
            )
        self.rewards = scorer

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        separator: str | None = None,
        chat: bool | None = None,
        aggregation: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        max_length: int | None = None,
        max_tokens_per_batch: int | None = None,
        batching: str = "auto",
        chat_template: str | Path | None = None,
    ) -> "StepScorer":
        """The scorer of a `*ForTokenClassification` with two labels, of which the second is "right".

        Args:
            separator: what stands behind each step, at whose last token the score is read; "" reads at the last token
                of the step. Unset: the one that rm_process.py has saved. A model of TRL has saved none: pass "\\n", or
                what it was trained with.
            chat: whether the chat template writes the prompt. Unset: as it was saved, and False where it was not.
            aggregation: which of "min", "product", "last" and "mean" is the reward of a whole answer, for
                `RewardScorer`. Unset: as it was saved.
            max_length: of a prompt with one answer; longer ones lose the beginning of the prompt, as in training.

        The others are those of `RewardScorer.from_pretrained`.

        Raises:
            UserError: also where the model is no process model, or does not say where its steps end.
        """
        loaded = load_model(
            path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            device=device,
            max_length=max_length,
            max_tokens_per_batch=max_tokens_per_batch,
            batching=batching,
            chat_template=chat_template,
            readout_of=partial(readout_of, process={"separator": separator, "chat": chat, "aggregation": aggregation}),
        )
        return cls(RewardScorer(**vars(loaded)))

    @property
    def process(self) -> ProcessFormat:
        """How the model reads an answer."""
        return self.rewards.readout.process

    @property
    def tokenizer(self) -> Any:
        return self.rewards.tokenizer

    @property
    def counts(self) -> ScoringCounts:
        return self.rewards.counts

    def split(self, answer: str) -> list[str]:
        """The steps of an answer: what stands between the model's separators."""
        return self.process.split(answer)

    @staticmethod
    def aggregate(probabilities: Sequence[float]) -> dict[str, float]:
        """From the probabilities of an answer's steps to its score, in each way that is used."""
        return aggregate(probabilities)

    def score(
        self, prompt: Prompt, steps: Sequence[str], *, template_options: Mapping[str, Any] | None = None
    ) -> list[float]:
        """P(right) of each step; see `score_many`."""
        return self.score_many([(prompt, steps)], template_options=template_options)[0]

    def score_many(
        self,
        answers: Iterable[tuple[Prompt, Sequence[str]]],
        *,
        template_options: TemplateOptions = None,
        progress: bool = False,
    ) -> list[list[float]]:
        """P(right) of each step of each answer, in the order given.

        An answer whose steps alone are longer than `max_length` is not scored: its probabilities are not a number, and
        `counts.too_long` counts it. No step is ever cut.

        Args:
            answers: (prompt, steps).
            template_options: what goes to the chat template beside the prompt, for all answers or one for each.

        Raises:
            UserError: a prompt is empty, is no text and no list of messages, or is refused by the chat template; an
                answer has no steps, or one that is no text or has none, or, of an outcome model, several.
        """
        chains = self._chains(answers, template_options)
        scored = self.rewards.score_named(chains, progress=progress)
        return [of.steps or [float("nan")] * len(one.steps) for of, one in zip(scored, chains, strict=True)]

    def tokenize(
        self, answers: Iterable[tuple[Prompt, Sequence[str]]], *, template_options: TemplateOptions = None
    ) -> list[Tokens]:
        """The tokens that `score_many` computes, `reads` being where the steps end; none of what is not scored."""
        return self.rewards.tokenize(self._chains(answers, template_options))

    def stream(
        self,
        answers: Iterable[Chain],
        *,
        process_index: int = 0,
        num_processes: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[tuple[int, list[float] | None]]:
        """(number in the input, probabilities) in memory that does not grow; None of what is not scored.

        As `RewardScorer.stream`: let all answers of a prompt follow each other.
        """
        answers = self._checked(answers)
        ranks = {"process_index": process_index, "num_processes": num_processes}
        for index, scored in self.rewards.stream_named(answers, progress=progress, **ranks):
            yield index, scored.steps

    def _chains(self, answers: Iterable[tuple[Prompt, Sequence[str]]], options: TemplateOptions) -> list[Chain]:
        answers = list(answers)
        each = options_of_each(options, len(answers), "answers")
        chains = (
            Chain(messages_of(prompt), steps, one or {}) for (prompt, steps), one in zip(answers, each, strict=True)
        )
        return list(self._checked(chains))

    def _checked(self, chains: Iterable[Chain]) -> Iterator[Chain]:
        for index, chain in enumerate(chains):
            refuse_blank_steps(index, chain)
            if self.process.outcome and len(chain.steps) > 1:
                raise UserError(
                    f"conversation {index}: expected one step, the whole answer, since the model is an outcome model, "
                    f"which was trained on whole answers, found {len(chain.steps)}. Pass [answer]."
                )
            yield chain


def messages_of(prompt: Prompt) -> Any:
    """A text as the user's message; anything else as it is."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

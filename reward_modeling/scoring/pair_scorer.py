"""Compare answers with a trained pairwise model: what plain transformers says of each pair, and much faster."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_modeling.common.devices import warm_up_mkl
from reward_modeling.common.errors import UserError
from reward_modeling.common.pair_probabilities import mean_probability
from reward_modeling.data.comparisons import Comparison
from reward_modeling.scoring.comparison_reader import ComparisonReader
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.given import TemplateOptions, comparison_of, options_of_each
from reward_modeling.scoring.loading import LoadedModel, load_model
from reward_modeling.scoring.passes import ForwardPasses
from reward_modeling.scoring.plan import Batches
from reward_modeling.scoring.ranking import ROUND_ROBIN, Ranking, rank
from reward_modeling.scoring.readouts.base import REWARD
from reward_modeling.scoring.readouts.comparisons import comparison_readout
from reward_modeling.scoring.readouts.one_label import OneLabel
from reward_modeling.scoring.windows import read_list, read_stream

Prompt = str | Sequence[Mapping[str, Any]]
Answer = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class PairScorer:
    """A pairwise model: of two answers to a prompt, the probability that the first one is better.

    A prompt is a list of messages, or a text as the user's only one; an answer is a text, a message, or the messages
    after the prompt. Both orders are computed and their probabilities averaged, so that it does not matter which answer
    is called `a`. What a comparison begins with (the context, the first answer) is computed once for all that begin
    alike; equal comparisons are computed once. In float32 each order's logit is the one that plain transformers gives
    its text alone, whatever else is in the batch. Beyond `max_length` context is lost: as much for all comparisons of a
    prompt in one call as the longest of them needs. Two answers that do not fit without it are not compared.

        scorer = PairScorer.from_pretrained("./models/pair_pm/last_checkpoint")
        scorer.compare("How do I brew green tea?", "Heat the water to eighty degrees.", "Nobody cares.")
        scorer.rank("How do I brew green tea?", answers).best

    `counts` tells what the latest call did: `ScoringCounts`, whose conversations are single orders.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batches: Batches, max_length: int | None
    ):
        """See `from_pretrained`. `max_length` None cuts nothing."""
        warm_up_mkl()
        self.model = model
        self.tokenizer = tokenizer
        self.batches = replace(batches, trees=True)
        self.readout = OneLabel()
        self.reader = ComparisonReader(tokenizer, max_length)
        # Any token will do for padding: where a row ends is known, and not read off it.
        self.passes = ForwardPasses(model, self.batches, self.readout, pad_token_id=tokenizer.pad_token_id or 0)
        self.counts = ScoringCounts()

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> "PairScorer":
        """The scorer of a pairwise model (a `*ForSequenceClassification` of one label), or of a LoRA adapter of one.

        Args:
            path: Hub id or folder.
            options: revision, trust_remote_code, dtype, device, max_length, max_tokens_per_batch, batching and
                chat_template of `RewardScorer.from_pretrained`. A comparison longer than `max_length` loses context.

        Raises:
            UserError: see `RewardScorer.from_pretrained`; the model does not compare answers.
        """
        return cls.of_loaded(load_model(path, readout_of=comparison_readout, **options))

    @classmethod
    def of_loaded(cls, loaded: LoadedModel) -> "PairScorer":
        return cls(loaded.model, loaded.tokenizer, loaded.batches, loaded.max_length)

    @property
    def dtype_name(self) -> str:
        """Of the computation, such as "bfloat16"; the head is computed in float32 in any case."""
        return str(self.model.dtype).removeprefix("torch.")

    def compare(
        self, prompt: Prompt, a: Answer, b: Answer, *, template_options: Mapping[str, Any] | None = None
    ) -> float:
        """The probability that `a` is better than `b`; exactly one half where they are equal, not a number where the
        two alone are longer than `max_length` (`counts.answers_too_long`).

        Args:
            template_options: what goes to the chat template beside the messages, as in training.

        Raises:
            UserError: an answer or the prompt is no text and no messages, or the chat template refuses them.
        """
        return self.compare_many([(prompt, a, b)], template_options=template_options)[0]

    def compare_many(
        self,
        comparisons: Sequence[tuple[Prompt, Answer, Answer]],
        *,
        template_options: TemplateOptions = None,
        progress: bool = False,
    ) -> list[float]:
        """`compare` of each (prompt, a, b), in the order given; with `progress`, under a bar."""
        orders = self.both_orders(comparisons, template_options=template_options, progress=progress)
        return [float(mean_probability(*logits)) for logits in orders]

    def both_orders(
        self,
        comparisons: Sequence[tuple[Prompt, Answer, Answer]],
        *,
        template_options: TemplateOptions = None,
        progress: bool = False,
    ) -> list[tuple[float, float]]:
        """Of each (prompt, a, b) the two logits of "A" less "B": where `a` stands first, and where `b` does.

        sigmoid of the first is the probability that `a` is better in that order, sigmoid of the second that `b` is in
        the other one.
        """
        if isinstance(comparisons, (str, Mapping)):
            raise UserError("comparisons: expected a list of (prompt, a, b), found one text. Pass [(prompt, a, b)].")
        options = options_of_each(template_options, len(comparisons), "comparisons")
        given = [comparison_of(*of) for of in zip(range(len(comparisons)), comparisons, options, strict=True)]
        orders = list(chain.from_iterable((each, each.swapped()) for each in given))
        counts = self.counts = ScoringCounts()
        windows = read_list(orders, self.reader, counts)
        with tqdm(total=len(orders), desc="Comparing", unit=" orders", disable=not progress) as bar:
            rows = dict(self.passes.columns(windows, counts, progress=bar.update))
        counts.warn_of_cuts(self.reader.max_length)
        return [(rows[number][REWARD], rows[number + 1][REWARD]) for number in range(0, len(orders), 2)]

    def rank(
        self,
        prompt: Prompt,
        answers: Sequence[Answer],
        method: str = ROUND_ROBIN,
        *,
        template_options: Mapping[str, Any] | None = None,
    ) -> Ranking:
        """The answers to a prompt from the best to the last one.

        Args:
            method: "round_robin" compares every two answers, "tournament" as many as there are answers, less one.

        Raises:
            UserError: there are no answers, or no such method; see `compare`.
        """
        if isinstance(answers, (str, Mapping)):
            raise UserError("answers: expected a list of answers, found one. Pass [answer, answer].")
        made = ScoringCounts()

        def compare(pairs: Sequence[tuple[int, int]]) -> list[float]:
            given = [(prompt, answers[one], answers[other]) for one, other in pairs]
            found = self.compare_many(given, template_options=template_options)
            made.add(self.counts)
            return found

        ranking = rank(len(answers), compare, method)
        self.counts = made
        return ranking

    def stream(
        self,
        orders: Iterable[Comparison],
        *,
        process_index: int = 0,
        num_processes: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[tuple[int, float]]:
        """(number in the input, logit of "A" less "B") of each single order, in memory that does not grow.

        As `RewardScorer.stream`: let all comparisons of a prompt follow each other. Several processes each pass the
        whole input and get a part of it; the forward passes are the same on any number of them.
        """
        if not 0 <= process_index < num_processes:
            raise ValueError(f"process_index: expected 0 to {num_processes - 1}, found {process_index}")
        counts = self.counts = ScoringCounts()
        windows = read_stream(orders, self.reader, counts)
        options = {"process": process_index, "num_processes": num_processes}
        for number, row in self.passes.columns(windows, counts, progress=progress or (lambda _: None), **options):
            yield number, row[REWARD]
        if process_index == 0:
            counts.warn_of_cuts(self.reader.max_length)

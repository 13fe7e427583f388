"""Score conversations with a trained reward model: what plain transformers gives each one alone, and much faster."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_modeling.common.devices import warm_up_mkl
from reward_modeling.data.conversations import Conversation, Tokens
from reward_modeling.scoring.conversations import ScoringCounts
from reward_modeling.scoring.given import TemplateOptions, with_options
from reward_modeling.scoring.loading import load_model
from reward_modeling.scoring.passes import ForwardPasses
from reward_modeling.scoring.plan import Batches
from reward_modeling.scoring.readouts.base import REWARD, Readout, ScoredConversation
from reward_modeling.scoring.readouts.one_label import OneLabel
from reward_modeling.scoring.windows import WINDOW as WINDOW  # of which others ask here
from reward_modeling.scoring.windows import read_list, read_stream


class RewardScorer:
    """A reward model that gives conversations their rewards: raw logits in float32, read at the last real token.

    A conversation is a list of messages, `[{"role": "user", "content": "..."}, ...]`. It is written by the
    checkpoint's own chat template, with exactly one BOS, as in training; a plain text (`str`) is taken as it stands,
    ended in EOS; `Tokens` are computed as they are. Equal conversations are computed once, and what those of one prompt
    begin with, or texts that begin alike, is computed once for all of them. In float32 each reward is the one that
    plain transformers gives the conversation alone:

    >>> import torch
    >>> from transformers import AutoModelForSequenceClassification
    >>> from reward_modeling.scoring.scorer import RewardScorer
    >>> question = [{"role": "user", "content": "How do I brew green tea?"}]
    >>> answers = ["First heat the water to eighty degrees.", "Nobody cares, leave me alone now."]
    >>> conversations = [question + [{"role": "assistant", "content": answer}] for answer in answers]

    >>> scorer = RewardScorer.from_pretrained(path, dtype="float32")
    >>> rewards = scorer.score(conversations)

    >>> model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    >>> for conversation, reward in zip(conversations, rewards):
    ...     inputs = scorer.tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
    ...     print(abs(model(**inputs).logits.item() - reward) < 1e-4)
    True
    True

    A model of several named outputs gives their weighted sum as the reward; `score_named` and `stream_named` also give
    each output under its name, on the scale of the ratings that it was trained on.

    `counts` tells what the latest call of these did: `ScoringCounts`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        max_length: int | None,
        statistics: Mapping[str, float] | None = None,
        *,
        readout: Readout | None = None,
    ):
        """See `from_pretrained`. `max_length` None cuts nothing, `statistics` None normalizes nothing.

        `readout` None is that of one label.
        """
        warm_up_mkl()
        self.model = model
        self.tokenizer = tokenizer
        self.batches = batches
        self.readout = readout or OneLabel()
        vocabulary = model.get_input_embeddings().num_embeddings
        self.reader = self.readout.reader(tokenizer, max_length, vocabulary)
        # Any token will do for padding: where a row ends is known, and not read off it.
        options = {"pad_token_id": tokenizer.pad_token_id or 0, "statistics": statistics}
        self.passes = ForwardPasses(model, batches, self.readout, **options)
        self.statistics = statistics
        self.counts = ScoringCounts()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        max_length: int | None = None,
        max_tokens_per_batch: int | None = None,
        batching: str = "auto",
        normalize: bool = False,
        chat_template: str | Path | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> "RewardScorer":
        """The scorer of a `*ForSequenceClassification`, or of a LoRA adapter that has its head.

        Args:
            path: Hub id or folder.
            dtype: of the computation. Unset: bfloat16 on a GPU that has it, else float32. The score head is computed
                in float32 in any case.
            device: Unset: the current GPU, or the CPU where there is none.
            max_length: longer conversations are cut as in training: whole turns, the oldest first, then the beginning
                of the last question, the same for all answers of a prompt. It is counted and reported. Unset: the
                model's context.
            max_tokens_per_batch: tokens of one forward pass, which bounds its memory.
            batching: "auto" is "shared_prefix" where the model allows it and "padded" elsewhere; "packed" has neither
                padding nor shared prompts.
            normalize: give (reward - reward_mean) / reward_std, by the held-out rewards of the training that the
                checkpoint carries. Unset: raw logits.
            chat_template: the file of a chat template to take as it is, in the place of the checkpoint's own.
            weights: of a model with named outputs, what the reward is made of: {"helpfulness": 0.65, "verbosity":
                -0.4}; an output that is not named counts nothing. Unset: the weights that were saved with the model.

        Raises:
            UserError: nothing is found there; it has no score head, or several labels and no weights for them, or not
                those that are given; `max_length` is beyond the model's context; it carries no figures to normalize
                by.
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
            normalize=normalize,
            chat_template=chat_template,
            weights=weights,
        )
        return cls(**vars(loaded))

    @property
    def dtype_name(self) -> str:
        """Of the computation, such as "bfloat16"; the score head is computed in float32 in any case."""
        return str(self.model.dtype).removeprefix("torch.")

    def score(
        self,
        conversations: Sequence[Conversation],
        *,
        template_options: TemplateOptions = None,
        progress: bool = False,
    ) -> list[float]:
        """The reward of each conversation, in the order given; with `progress`, under a bar.

        Args:
            template_options: what goes to the chat template beside the messages, as in training (the columns `tools`
                and `chat_template_kwargs`): {"tools": [...], "enable_thinking": False} for all conversations, or a
                list with one for each.

        Raises:
            UserError: a conversation is empty, is no list of messages, or is refused by the chat template; there are
                other numbers of options than of conversations; `Tokens` are not of the model's vocabulary, are longer
                than `max_length` (they are never cut), or lack the place that the model's gate reads.
        """
        return [row[REWARD] for row in self._score(conversations, template_options, progress)]

    def score_named(
        self,
        conversations: Sequence[Conversation],
        *,
        template_options: TemplateOptions = None,
        progress: bool = False,
    ) -> list[ScoredConversation]:
        """As `score`, with all that the model says of a conversation: of named outputs each one under its name."""
        return [self.readout.describe(row) for row in self._score(conversations, template_options, progress)]

    def tokenize(
        self,
        conversations: Sequence[Conversation],
        *,
        template_options: TemplateOptions = None,
        cut: bool = True,
    ) -> list[Tokens]:
        """The tokens that `score` computes for these conversations, in the order given.

        Scored in their place, all of them at once, they get the same rewards to the bit.

        Args:
            template_options: see `score`.
            cut: False leaves conversations longer than `reader.max_length` whole, which `score` refuses as tokens.

        Raises:
            UserError: see `score`.
        """
        conversations = with_options(conversations, template_options)
        windows = read_list(conversations, self.reader, ScoringCounts(), cut=cut)
        tokens = dict(chain.from_iterable(windows))
        return [replace(tokens[index], ids=list(tokens[index].ids)) for index in range(len(conversations))]

    def _score(
        self, conversations: Sequence[Conversation], template_options: TemplateOptions, progress: bool
    ) -> list[list[float]]:
        """The columns of each conversation."""
        counts = self.counts = ScoringCounts()
        windows = read_list(with_options(conversations, template_options), self.reader, counts)
        with tqdm(total=len(conversations), desc="Scoring", unit=" conversations", disable=not progress) as bar:
            rows = dict(self.passes.columns(windows, counts, progress=bar.update))
        counts.warn_of_cuts(self.reader.max_length)
        return [rows[index] for index in range(len(conversations))]

    def stream(
        self,
        conversations: Iterable[Conversation],
        *,
        process_index: int = 0,
        num_processes: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[tuple[int, float]]:
        """(number in the input, reward) of each conversation, in ascending order, in memory that does not grow.

        The input is read in windows of 2,048, and on to the end of a prompt; what is equal, and what begins alike, is
        computed once within a window. So let all answers of a prompt follow each other.

        Several processes each pass the whole input and get a part of it, every conversation on exactly one of them.
        The forward passes are the same on any number of processes, and so are the rewards, bit for bit.

        Args:
            conversations: messages, texts, `Tokens`, or `Templated` messages, which have options for the chat template.
            progress: called with the number of conversations that a pass of this process has finished, such as a
                tqdm bar's `update`.

        Raises:
            UserError: see `score`.
        """
        rows = self._stream(conversations, process_index, num_processes, progress)
        return ((index, row[REWARD]) for index, row in rows)

    def stream_named(
        self,
        conversations: Iterable[Conversation],
        *,
        process_index: int = 0,
        num_processes: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[tuple[int, ScoredConversation]]:
        """As `stream`, with all that the model says of a conversation: of named outputs each one under its name."""
        rows = self._stream(conversations, process_index, num_processes, progress)
        return ((index, self.readout.describe(row)) for index, row in rows)

    def _stream(
        self,
        conversations: Iterable[Conversation],
        process_index: int,
        num_processes: int,
        progress: Callable[[int], object] | None,
    ) -> Iterator[tuple[int, list[float]]]:
        if not 0 <= process_index < num_processes:
            raise ValueError(f"process_index: expected 0 to {num_processes - 1}, found {process_index}")
        return self._columns(conversations, process_index, num_processes, progress or (lambda _: None))

    def _columns(
        self, conversations: Iterable[Conversation], process: int, num_processes: int, progress: Callable
    ) -> Iterator[tuple[int, list[float]]]:
        counts = self.counts = ScoringCounts()
        windows = read_stream(conversations, self.reader, counts)
        options = {"process": process, "num_processes": num_processes, "progress": progress}
        yield from self.passes.columns(windows, counts, **options)
        if process == 0:
            counts.warn_of_cuts(self.reader.max_length)

"""A mixture of objectives with a gate, in the layout that ArmoRM published (Wang et al., 2024, arXiv 2406.12845).

    rewards   = regression_layer(hidden state of the last token)                    (batch, objectives)
    gating    = softmax(gate(hidden state at the prompt's end) / temperature) * logit_scale
    score     = sum over objectives of gating * (rewards @ reward_transform_matrix)

Parameters: `model.*` (the decoder), `regression_layer.weight` (objectives x hidden), `reward_transform_matrix`
(objectives x objectives), `gating.layers.0..n.weight` and `.bias`, `gating.logit_scale` (1). The published class comes
as code beside its weights; this one reads the same folder and runs none of that code.
"""

import functools
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.utils import ModelOutput

from reward_modeling.models.reward_model import RewardModelMixin, RewardOutput, ScoreHead

PLAIN, GATED = "ForSequenceClassification", "ForRewardModelWithGating"  # ends of the names of classes
MATRIX = "reward_transform_matrix"
HEADS = ("regression_layer", MATRIX, "gating")  # always in float32
NAMES, PATTERN = "objective_names", "gating_token_pattern"  # keys that the layout does not have
# The objectives of RLHFlow/ArmoRM-Llama3-8B-v0.1, whose config.json does not name them, in the order of its model card.
PUBLISHED_NAMES = (
    *(f"helpsteer-{name}" for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")),
    "ultrafeedback-overall_score",
    *(f"ultrafeedback-{name}" for name in ("instruction_following", "truthfulness", "honesty", "helpfulness")),
    "beavertails-is_safe",
    "prometheus-score",
    "argilla-overall_quality",
    "argilla-judge_lm",
    *(f"code-{name}" for name in ("complexity", "style", "explanation", "instruction-following", "readability")),
)
# What stands between a question and its answer, by model type: the gate reads its first token.
PUBLISHED_PATTERNS = {"llama": (128009, 128006, 78191, 128007, 271), "gemma2": (107, 108, 106, 2516, 108)}


@dataclass(frozen=True)
class GateSettings:
    """What config.json says of the heads; the defaults are those of the published class."""

    num_objectives: int = 19
    gating_temperature: float = 10
    gating_hidden_dim: int = 1024
    gating_n_hidden: int = 3

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "GateSettings":
        written = config.to_dict()
        return cls(**{name: written[name] for name in cls.__dataclass_fields__ if name in written})


def is_gated(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint's config.json says that it has a gate."""
    return any(name.endswith(GATED) for name in config.architectures or ())


def objective_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """The names that the config has, those of the published model for as many, else numbers."""
    number, names = GateSettings.of(config).num_objectives, config.to_dict().get(NAMES)
    if names is not None and len(names) == number:
        return tuple(names)
    return PUBLISHED_NAMES if number == len(PUBLISHED_NAMES) else tuple(f"objective_{place}" for place in range(number))


class Gate(nn.Module):
    """How much each objective counts for a prompt: an MLP with ReLU, computed in float32.

    Args:
        dropout: after each hidden layer, while it is trained.
    """

    def __init__(self, hidden_size: int, settings: GateSettings, dropout: float = 0.0):
        super().__init__()
        sizes = [hidden_size, *[settings.gating_hidden_dim] * settings.gating_n_hidden, settings.num_objectives]
        self.layers = nn.ModuleList(ScoreHead(before, after) for before, after in pairwise(sizes))
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature, self.dropout = settings.gating_temperature, dropout

    def weights(self, prompts: torch.Tensor) -> torch.Tensor:
        """`(prompts, objectives)`, of each prompt positive and 1 together, from `(prompts, hidden)`."""
        hidden = prompts
        for layer in self.layers[:-1]:
            hidden = nn.functional.dropout(torch.relu(layer(hidden)), self.dropout, self.training)
        return torch.softmax(self.layers[-1](hidden) / self.temperature, dim=-1)

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        """`weights` times the scale."""
        return self.weights(prompts) * self.logit_scale.float()


@dataclass
class GatedOutput(ModelOutput):
    """What the published class returns, and under the same names.

    `rewards` and `gating_output` are `(batch, objectives)`, `hidden_state` and `prompt_embedding` `(batch, hidden)`,
    `score` and `logits` `(batch,)`.
    """

    rewards: torch.Tensor | None = None
    hidden_state: torch.Tensor | None = None
    prompt_embedding: torch.Tensor | None = None
    gating_output: torch.Tensor | None = None
    score: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class GatedModelMixin(RewardModelMixin):
    """Makes of a `*ForSequenceClassification` class one with the heads above in the place of `score`."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        del self.score
        settings, hidden_size = GateSettings.of(config), config.get_text_config().hidden_size
        self.regression_layer = ScoreHead(hidden_size, settings.num_objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(settings.num_objectives), requires_grad=False)
        self.gating = Gate(hidden_size, settings)

    @property
    def dtype(self) -> torch.dtype:
        """That of the decoder, which its config.json names when it is saved; the heads are in float32."""
        return getattr(self, self.base_model_prefix).dtype

    def read_out(self, hidden: torch.Tensor) -> RewardOutput:
        """The hidden states of what is read, as they are: what a token is read for is known to `forward`."""
        return RewardOutput(logits=hidden)

    def scores(self, answers: torch.Tensor, prompts: torch.Tensor) -> "GatedOutput":
        """From the hidden states of the answers' last tokens and of their prompts' ends, `(answers, hidden)` twice."""
        rewards, gating = self.regression_layer(answers), self.gating(prompts.float())
        score = (gating * (rewards @ self.reward_transform_matrix.float())).sum(dim=1)
        return GatedOutput(rewards, answers, prompts, gating, score, score)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        read_positions: torch.Tensor | None = None,
        answer_reads: torch.Tensor | None = None,
        gate_reads: torch.Tensor | None = None,
        gate_positions: torch.Tensor | None = None,
        **kwargs,
    ) -> "GatedOutput":
        """With `read_positions` the scores of the completions of a pass, else of the rows, as the published class.

        Args:
            input_ids: `(batch, tokens)`; without `read_positions` padded on the right, if at all.
            read_positions: see `RewardModelMixin.forward`.
            answer_reads, gate_reads: `(completions,)`, which of these are a completion's last token and its prompt's
                end.
            gate_positions: `(batch,)`, without `read_positions`: where each prompt ends (data/gate_position.py). Unset:
                it is looked for by the tokens that the config names, or that were published for the model type.

        Raises:
            ValueError: a row has no such tokens, or none are known.
        """
        if read_positions is None:
            batch, width = input_ids.shape
            last = _last_tokens(input_ids, attention_mask, self.config.get_text_config().pad_token_id)
            if gate_positions is None:
                gate_positions = last_pattern_places(input_ids, _pattern_of(self.config))
            rows = width * torch.arange(batch, device=input_ids.device)
            read_positions = torch.cat([rows + last, rows + gate_positions.to(input_ids.device)])
            answer_reads, gate_reads = torch.arange(2 * batch, device=input_ids.device).split(batch)
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        hidden = super().forward(input_ids, read_positions=read_positions, **inputs).logits
        return self.scores(hidden[answer_reads], hidden[gate_reads])


def _last_tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, pad: int | None) -> torch.Tensor:
    """`(batch,)`: the place of the last token that is no padding."""
    if attention_mask is None and pad is None:
        return input_ids.new_full((len(input_ids),), input_ids.shape[1] - 1)
    is_token = input_ids != pad if attention_mask is None else attention_mask.bool()
    return (torch.arange(input_ids.shape[1], device=input_ids.device) * is_token).argmax(dim=1)


def _pattern_of(config: PreTrainedConfig) -> tuple[int, ...]:
    written = config.to_dict().get(PATTERN) or PUBLISHED_PATTERNS.get(config.model_type)
    if written is None:
        raise ValueError(f"gate_positions: expected where each prompt ends, since no tokens mark it in {GATED}")
    return tuple(written)


def last_pattern_places(input_ids: torch.Tensor, pattern: tuple[int, ...]) -> torch.Tensor:
    """`(batch,)`: where these tokens begin for the last time in each row of `(batch, tokens)`.

    Raises:
        ValueError: a row does not have them.
    """
    if input_ids.shape[1] < len(pattern):
        raise ValueError(f"input_ids: expected the tokens {pattern} before each answer, found rows too short for them")
    windows = input_ids.unfold(1, len(pattern), 1)
    found = (windows == input_ids.new_tensor(pattern)).all(dim=2)
    if not found.any(dim=1).all():
        row = int((~found.any(dim=1)).nonzero()[0, 0])
        raise ValueError(f"input_ids: expected the tokens {pattern} before each answer, found none in row {row}")
    return (torch.arange(found.shape[1], device=input_ids.device) * found).argmax(dim=1)


@functools.cache
def gated_model_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
    """`LlamaForRewardModelWithGating` for Llama's config, and so on; None for a family that gets no gate."""
    base = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(config_class, None)
    if base is None or not issubclass(base, GenericForSequenceClassification):
        return None
    kept = {*(base._keep_in_fp32_modules_strict or ()), *HEADS}
    attributes = {"__module__": base.__module__, "_keep_in_fp32_modules_strict": kept}
    return type(base.__name__.removesuffix(PLAIN) + GATED, (GatedModelMixin, base), attributes)

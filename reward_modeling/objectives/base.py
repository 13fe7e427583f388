"""The seam: what differs between kinds of reward model. Each kind is one file that implements `Objective`.

    rows -> reader -> Example           completions of one prompt, units over them, targets of each unit
    groups -> planning, collator        knows units (one to n completions) and the positions that are read
    logits, targets -> loss             one value per unit; a step's loss is the weighted mean over its units

Everything else (planning, engines, checkpoints, verification, reports) is the same for all kinds.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from numpy.typing import NDArray

from reward_modeling.data.examples import RowReader

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from reward_modeling.data.loader import PromptGroups


class Objective(ABC):
    """What a kind of reward model learns from, how, and what is said of it."""

    # A dataclass of the kind's own flags. Its `best_metrics` are what --metric_for_best_model may name, and whether
    # more is better.
    flags: ClassVar[type]
    kind: ClassVar[str] = ""  # what results/catalog.py knows it by; "": its figures are shown as they are
    num_labels: int = 1  # of the head
    label_names: tuple[str, ...] = ()  # of these, where they have any
    fits_head: ClassVar[bool] = False  # anew, whatever head the checkpoint has
    compares: ClassVar[bool] = False  # two answers, which the model reads together
    reads_steps: ClassVar[bool] = False  # the model is a token classifier, which reads the ends of steps
    progress_figures: ClassVar[tuple[str, ...]] = ()  # those of `figures` that stand beside the progress bar

    def __init__(self, flags: Any):
        self.options = flags

    @property
    @abstractmethod
    def reader(self) -> RowReader:
        """How rows are read."""

    def take_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:  # noqa: B027 (most need nothing)
        """Take from the tokenizer what `reader` needs to know of it; called before any row is read."""

    def check_model(self, model_name: str, config: "PreTrainedConfig") -> None:  # noqa: B027 (most take any)
        """Raises `UserError`: no model of this kind begins with this language model; called before any row is read."""

    def initial_head(
        self,
        model_name: str,
        config: "PreTrainedConfig",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        revision: str | None = None,
    ) -> dict[str, torch.Tensor]:
        """The values that the head of a language model begins with, by their names; {}: drawn at random."""
        return {}

    def go_on_from(self, saved: Mapping[str, Any]) -> None:  # noqa: B027 (most need nothing)
        """Take from the config.json of a model whose head is kept what its outputs mean."""

    def fit(self, groups: "PromptGroups", evaluations: Sequence["PromptGroups"] = ()) -> None:  # noqa: B027 (most need nothing)
        """Take from the training set what the loss needs to know of it as a whole, such as a range of labels.

        Args:
            evaluations: the evaluation sets, of which the first decides which model is best.

        Raises:
            UserError: the sets do not have what the flags ask for.
        """

    @staticmethod
    @abstractmethod
    def collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
        """The tensors that `loss` takes.

        Args:
            units: of each unit the rows of the logits that are read for its completions, in their order.
            targets: of each unit, as `RowReader.read_row` gave them.
        """

    @abstractmethod
    def loss(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """`(units,)` from `(reads, labels)` in float32. Pure."""

    # What is learned beside the weights of the network, such as a threshold: one number.

    def gradient(
        self, logits: torch.Tensor, targets: dict[str, torch.Tensor], weights: torch.Tensor
    ) -> torch.Tensor | None:
        """Of the weighted sum of `loss` with respect to that number, a scalar; None where nothing is learned so.

        Args:
            logits: detached.
        """
        return None

    def step(self, gradient: float) -> None:  # noqa: B027 (most learn nothing beside the weights)
        """Change the number by the gradient of the mean loss of an optimizer step, the same on every process."""

    def state(self) -> dict[str, float]:
        """What a resumed run needs to go on."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:  # noqa: B027
        """Take the place of `state` from a checkpoint."""

    def saved_values(self) -> dict[str, Any]:
        """What stands in the config.json of a saved model, as JSON has it."""
        return {}

    @abstractmethod
    def sums(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """`(sums,)`: what `figures` needs of a micro-batch, the number of its units first.

        Sums of micro-batches and of processes are added up.
        """

    @abstractmethod
    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        """What is logged of the training since the last log."""

    @abstractmethod
    def evaluated(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        """Of each unit what an evaluation keeps of it."""

    @abstractmethod
    def held_out(self, rows: Sequence[tuple], groups: "PromptGroups") -> "HeldOut":
        """The evaluated units in the order of the data, each of them once.

        Args:
            rows: ((group, unit of the group), *what `evaluated` gave) of all processes, in any order.
        """

    @abstractmethod
    def metrics(self, held_out: "HeldOut") -> dict[str, float]:
        """What is logged of an evaluation; NaN where it cannot be computed."""

    @abstractmethod
    def evaluation(self, held_out: "HeldOut") -> dict[str, Any]:
        """The figures of evaluation.json, of finite rewards."""

    def evaluation_lines(self, logs: Mapping[str, float]) -> list[str]:
        """An evaluation in the log of a run.

        Args:
            logs: `metrics` under their names with "eval_" in front, and what else was logged with them.
        """
        figures = (f"{name.removeprefix('eval_')} {value:.4g}" for name, value in logs.items() if name != "epoch")
        return [f"evaluation: {', '.join(figures)}"]

    def evaluation_table(self, evaluation: Mapping[str, Any]) -> str:
        """evaluation.json for a screen."""
        figures = (f"  {name}: {value}" for name, value in evaluation.items() if isinstance(value, int | float | str))
        return "\n".join([f"Held-out {self.reader.unit}", *figures])

    def evaluation_shares(self, evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """The shares of pairs in evaluation.json, each with the ends of its interval, under names for a tracker."""
        return {}


class HeldOut(Protocol):
    """The held-out units under one model."""

    @property
    def not_finite(self) -> str | None:
        """What to say where an output is not a finite number, of which no figure can be made; None if all are."""

    @property
    def rewards(self) -> NDArray:
        """All rewards, whose mean and standard deviation are saved beside the weights."""

    def score_lines(self) -> Iterator[dict[str, Any]]:
        """The lines of eval_scores.jsonl."""

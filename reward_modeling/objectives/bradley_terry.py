"""Bradley-Terry: one scalar per conversation, trained on pairs of which one answer was preferred.

All that is this kind's own: its flags, what it reads of a row, the loss, the figures that are logged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
import torch.nn.functional as F

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import LOGGED, NOT_NEGATIVE, OnResume, below, flag, one_of, unsupported
from reward_modeling.data.examples import Example, KeptColumn, RowReader
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.objectives.base import Objective
from reward_modeling.objectives.held_out_pairs import (
    EvaluatedPairs,
    evaluation_lines,
    held_out_figures,
    held_out_table,
    named_shares,
    pair_metrics,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_modeling.data.loader import PromptGroups
    from reward_modeling.data.report import DataReport

# Order of the sums that are kept during training.
PAIRS, CORRECT, MARGIN, REWARD, REWARD_SQUARED = range(5)


@dataclass
class BradleyTerryFlags:
    """The flags of the loss."""

    best_metrics: ClassVar[dict[str, bool]] = {
        "loss": False,
        "accuracy": True,
        "margin": True,
        "calibration_error": False,
    }

    loss_margin: Annotated[str, one_of("auto", "scores", "none"), OnResume.DATA, LOGGED] = flag(
        "auto",
        "auto subtracts the rows' margin column where there is one; scores subtracts chosen_score - "
        "rejected_score; none ignores both.",
    )
    center_rewards_coefficient: Annotated[float, NOT_NEGATIVE, OnResume.FREE, LOGGED] = flag(
        0.0, "Weight of (chosen + rejected)^2, which keeps rewards around zero."
    )
    label_smoothing: Annotated[float, below(0.5), OnResume.FREE, LOGGED] = flag(
        0.0, "Assumed share of flipped labels, below 0.5."
    )
    label_smoothing_factor: Annotated[float, unsupported(0.0, "It is for classifiers: pass --label_smoothing")] = 0.0


@dataclass(frozen=True)
class PairReader(RowReader):
    """A row is a pair; its target is the margin that the loss subtracts."""

    unit: ClassVar[str] = "pairs"
    completion_names: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    margin: str = "auto"  # as --loss_margin

    def load_rows(self, path: str, num_proc: int, options: ReadOptions) -> "Dataset":
        from reward_modeling.data.preferences import load_preference_dataset  # needs `datasets`

        return load_preference_dataset(path, options, num_proc=num_proc)

    def read_row(self, row: dict[str, Any]) -> Example:
        return Example((row["chosen"], row["rejected"]), ((0, 1),), ((self._margin(row),),))

    def excerpt(self, row: dict[str, Any]) -> str:
        return f"chosen {row['chosen'][:90]!r} rejected {row['rejected'][:90]!r}"

    def _margin(self, row: dict[str, Any]) -> float:
        if self.margin == "scores" and row["chosen_score"] is not None and row["rejected_score"] is not None:
            return row["chosen_score"] - row["rejected_score"]
        if self.margin == "auto" and row["margin"] is not None:
            return row["margin"]
        return 0.0

    def check_rows(self, columns: Sequence[KeptColumn], reports: Sequence["DataReport"]) -> None:
        """Count how the rows were written, what of them is not read, and whose margin is used, or lacks its scores.

        Raises:
            UserError: an unread column looks like a part of the conversation; or `--loss_margin scores` and no row has
                both scores.
        """
        from reward_modeling.data.row_notes import note_rows  # needs `pyarrow`

        for name, column, report in zip(
            ("--train_set_path", *["--eval_set_path"] * (len(reports) - 1)), columns, reports, strict=True
        ):
            note_rows(report, column, name)
        if self.margin == "auto":  # nobody has asked for them: a column of that name is enough, in some rows too
            for column, report in zip(columns, reports, strict=True):
                margins = column("margin")
                if with_margin := len(margins) - margins.null_count:
                    report.notes["rows with a margin, which the loss subtracts"] = with_margin
        if self.margin != "scores":
            return
        chosen, rejected = (columns[0](name).is_null().to_numpy() for name in ("chosen_score", "rejected_score"))
        missing = chosen | rejected
        if missing.all():  # every margin would be zero, and say nothing
            raise UserError(
                "--loss_margin scores: expected the columns chosen_score and rejected_score, found no row with both. "
                "Pass --loss_margin none, or data that has them."
            )
        if missing.any():
            reports[0].notes["rows without scores, whose margin is 0"] = int(missing.sum())


class BradleyTerry(Objective):
    """P(chosen over rejected) = sigmoid(reward of chosen - reward of rejected)."""

    flags = BradleyTerryFlags
    progress_figures = ("accuracy", "margin")

    @property
    def reader(self) -> PairReader:
        return PairReader(self.options.loss_margin)

    @staticmethod
    def collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
        """`pairs` `(pairs, 2)` long, the rows of the logits of chosen and rejected; `margins` `(pairs,)` float32."""
        return {
            "pairs": torch.tensor(units, dtype=torch.long).reshape(-1, 2),
            "margins": torch.tensor(targets, dtype=torch.float32).reshape(-1),
        }

    def loss(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        chosen, rejected = pair_rewards(logits, targets)
        loss = bradley_terry_loss(chosen, rejected, targets["margins"], self.options.label_smoothing)
        if self.options.center_rewards_coefficient:
            loss = loss + self.options.center_rewards_coefficient * center_rewards_penalty(chosen, rejected)
        return loss

    def sums(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        chosen, rejected = pair_rewards(logits, targets)
        rewards = torch.cat([chosen, rejected])
        sums = [(chosen > rejected).sum(), (chosen - rejected).sum(), rewards.sum(), rewards.square().sum()]
        return torch.stack([rewards.new_tensor(len(chosen)), *(value.to(rewards.dtype) for value in sums)])

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        pairs = sums[PAIRS]
        mean = sums[REWARD] / (2 * pairs)
        return {
            "accuracy": sums[CORRECT] / pairs,
            "margin": sums[MARGIN] / pairs,
            "reward_mean": mean,
            "reward_std": math.sqrt(max(0.0, sums[REWARD_SQUARED] / (2 * pairs) - mean**2)),
        }

    def evaluated(self, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        """Reward of the chosen and of the rejected answer, and the margin of the loss."""
        columns = (*pair_rewards(logits, targets), targets["margins"])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def held_out(self, rows: Sequence[tuple], groups: "PromptGroups") -> EvaluatedPairs:
        return EvaluatedPairs.from_rows(rows, groups)

    def metrics(self, held_out: EvaluatedPairs) -> dict[str, float]:
        return pair_metrics(held_out, self.evaluation_loss)

    def evaluation(self, held_out: EvaluatedPairs) -> dict[str, Any]:
        return {"loss": self.evaluation_loss(held_out), **held_out_figures(held_out)}

    evaluation_lines = staticmethod(evaluation_lines)
    evaluation_table = staticmethod(held_out_table)
    evaluation_shares = staticmethod(named_shares)

    def evaluation_loss(self, pairs: EvaluatedPairs) -> float:
        """The mean loss of the pairs, margins and label smoothing included, without the penalty on large rewards."""
        columns = (torch.from_numpy(values) for values in (pairs.chosen, pairs.rejected, pairs.loss_margins))
        return bradley_terry_loss(*columns, self.options.label_smoothing).mean().item()

    @staticmethod
    def reward(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 0]


def pair_rewards(logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of the chosen and of the rejected answers, `(pairs,)` each."""
    chosen, rejected = logits[:, 0][targets["pairs"]].unbind(dim=1)
    return chosen, rejected


def bradley_terry_loss(
    chosen_rewards: torch.Tensor,
    rejected_rewards: torch.Tensor,
    margin: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Negative log-likelihood of the preferences, one value per pair.

    -(1 - s) log sigmoid(r_chosen - r_rejected - m) - s log sigmoid(-(r_chosen - r_rejected - m))

    With s = 0 and m = 0 this is equation 1 of "Learning to summarize from human feedback" (Stiennon et al.,
    2020); the margin m is that of Llama 2 (Touvron et al., 2023, equation 2); s is the probability that a
    label is flipped (conservative DPO's smoothing, applied to rewards).

    Args:
        chosen_rewards: `(pairs,)`, float32.
        rejected_rewards: `(pairs,)`, float32.
        margin: `(pairs,)` or None for no margin.
        label_smoothing: s, in [0, 0.5).

    Returns:
        `(pairs,)`.
    """
    difference = chosen_rewards - rejected_rewards
    if margin is not None:
        difference = difference - margin
    loss = -F.logsigmoid(difference)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * F.logsigmoid(-difference)
    return loss


def center_rewards_penalty(chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor) -> torch.Tensor:
    """(r_chosen + r_rejected)^2 per pair, `(pairs,)`: pulls the mean reward to zero.

    A Bradley-Terry loss leaves the rewards free by a constant per prompt; see "Helping or Herding?"
    (Eisenstein et al., 2023, equation 2).
    """
    return (chosen_rewards + rejected_rewards).square()

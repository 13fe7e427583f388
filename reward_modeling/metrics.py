"""Figures of a run, summed on the device and read only when they are logged."""

import itertools
import logging
import math
import re
from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator

from reward_modeling.held_out import NO_SOURCE, EvaluatedPairs, held_out_figures
from reward_modeling.loader import PreferenceGroups
from reward_modeling.losses import bradley_terry_loss

logger = logging.getLogger(__name__)

# Order of the sums that are kept on the device.
PAIRS, CORRECT, MARGIN, REWARD, REWARD_SQUARED = range(5)

EVALUATION_METRICS = (
    *("loss", "accuracy", "accuracy_low", "accuracy_high", "margin", "reward_mean", "reward_std"),
    *("calibration_error", "longer_wins"),
)
BEST_MODEL_METRICS = ("loss", "accuracy", "margin", "calibration_error")  # that --metric_for_best_model may name
LESS_IS_BETTER = ("loss", "calibration_error")
SOURCE_ACCURACY = "accuracy_"
LONGEST_SOURCE = 60  # characters of a source's name in the name of a metric


class PairSums:
    """Sums over the pairs since the last log. Adding to them never waits for the device."""

    def __init__(self, device: torch.device):
        self.on_device = torch.zeros(5, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self.num_tokens = 0
        self.row_tokens = 0

    def count_pairs(self, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        """
        Args:
            chosen, rejected: `(pairs,)` rewards.
        """
        rewards = torch.cat([chosen, rejected])
        self.on_device[PAIRS] += chosen.numel()
        self.on_device[CORRECT] += (chosen > rejected).sum()
        self.on_device[MARGIN] += (chosen - rejected).sum()
        self.on_device[REWARD] += rewards.sum()
        self.on_device[REWARD_SQUARED] += rewards.square().sum()

    def count_step(self, step: dict) -> None:
        """Tokens that this process computed, and those that one unpadded row per answer would have had.

        Micro-batches that only fill up a process have no such rows, and are left out.
        """
        for batch in step["micro_batches"]:
            if batch["row_tokens"]:
                self.num_tokens += batch["num_tokens"]
                self.row_tokens += batch["row_tokens"]

    def drain(self, accelerator: Accelerator, seconds: float) -> dict[str, float]:
        """Figures over all processes since the last call; everything starts from zero again."""
        tokens = torch.tensor([self.num_tokens, self.row_tokens], device=self.on_device.device)
        sums = torch.cat([self.on_device, tokens.to(self.on_device.dtype)])
        sums = accelerator.reduce(sums, reduction="sum").tolist()
        self.on_device.zero_()
        self.num_tokens = self.row_tokens = 0
        pairs, num_tokens, row_tokens = sums[PAIRS], sums[-2], sums[-1]
        if not pairs:
            return {}
        mean = sums[REWARD] / (2 * pairs)
        return {
            "accuracy": sums[CORRECT] / pairs,
            "margin": sums[MARGIN] / pairs,
            "reward_mean": mean,
            "reward_std": math.sqrt(max(0.0, sums[REWARD_SQUARED] / (2 * pairs) - mean**2)),
            "pairs_per_second": pairs / seconds,
            "tokens_per_second": num_tokens / seconds,
            "tokens_saved": 1 - num_tokens / row_tokens,
        }


def evaluation_metrics(
    rows: Sequence[tuple], groups: PreferenceGroups, label_smoothing: float = 0.0
) -> dict[str, float]:
    """What is logged of an evaluation. A tie is wrong; `low` and `high` are the ends of the 95% interval.

    NaN where a reward is not a finite number: a run is not ended for it, which may have saved nothing yet.

    Args:
        rows: as `EvaluatedPairs.from_rows` takes them, of all processes, in any order.
    """
    pairs = EvaluatedPairs.from_rows(rows, groups)
    if pairs.not_finite is not None:
        logger.warning("!!! Evaluation: %s !!!", pairs.not_finite)
        return dict.fromkeys(EVALUATION_METRICS, math.nan) | {"pairs": len(pairs)}
    figures = held_out_figures(pairs)
    accuracy, sources = figures["accuracy"], figures["by_source"]
    metrics = {
        "loss": evaluation_loss(pairs, label_smoothing),
        "accuracy": accuracy["value"],
        "accuracy_low": accuracy["low"],
        "accuracy_high": accuracy["high"],
        "margin": figures["margins"]["mean"],
        "reward_mean": figures["reward_mean"],
        "reward_std": figures["reward_std"],
        "calibration_error": figures["calibration_error"],
        "longer_wins": figures["longer_wins"]["value"],
        "pairs": len(pairs),
    }
    if sources.keys() != {NO_SOURCE}:
        names = metric_names(sources, taken=metrics)
        metrics |= {names[source]: entry["value"] for source, entry in sources.items()}
    return metrics


def evaluation_loss(pairs: EvaluatedPairs, label_smoothing: float) -> float:
    """The mean loss of the pairs, margins and label smoothing included, without the penalty on large rewards."""
    columns = (torch.from_numpy(values) for values in (pairs.chosen, pairs.rejected, pairs.loss_margins))
    return bradley_terry_loss(*columns, label_smoothing).mean().item()


def metric_names(sources: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """`accuracy_<source>` for each source, in characters that every tracker takes, and each name once."""
    used, names = set(taken), {}
    for source in sources:
        name = SOURCE_ACCURACY + re.sub(r"[^0-9A-Za-z_.-]+", "_", source)[:LONGEST_SOURCE]
        several = (f"{name}_{number}" for number in itertools.count(2))
        names[source] = next(candidate for candidate in itertools.chain([name], several) if candidate not in used)
        used.add(names[source])
    return names

"""Whether a folded model gives the weighted sums of its source's outputs: both in plain transformers, apart from us."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from reward_modeling.checkpoints.verification import FLOAT32_TOLERANCE, Verification, rewards_of_another_process
from reward_modeling.checkpoints.verified_rows import write_verification
from reward_modeling.common.errors import UserError
from reward_modeling.models.rating_outputs import RatingOutputs
from reward_modeling.models.tokenizer import end_text, read_tokenizer, token_ids

logger = logging.getLogger(__name__)

TEXTS = (
    "Yes.",
    "Heat the water to eighty degrees, and let it draw for two minutes.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "1. Zwei Sätze, und 17 + 4 = 21!\n2. Ho detto di no: perché?\n\nUser: Hello? " * 4,
)
SECONDS = 3600


@dataclass(frozen=True)
class Check:
    """Of `texts` texts, alone and, where there is a pad token, padded together."""

    texts: int
    largest_difference: float
    tolerance: float
    largest_reward: float


def compare_outputs(source: Path, folded: Path, outputs: RatingOutputs, *, trust_remote_code: bool = False) -> Check:
    """Compare, and write the rows with their rewards into the folded model's verification.json.

    Raises:
        UserError: a reward of the folded model is another than the weighted sum of the source's outputs, or one of both
            cannot be loaded.
    """
    tokenizer = read_tokenizer(str(source), trust_remote_code=trust_remote_code)
    rows = token_ids([end_text(text, tokenizer) for text in TEXTS], tokenizer)
    expected = _outputs(source, rows, len(outputs.output_weights), trust_remote_code)
    expected = expected @ torch.tensor(outputs.output_weights, dtype=torch.float64)
    found = _outputs(folded, rows, 1, trust_remote_code)[..., 0]
    largest = expected.abs().max().item()
    check = Check(len(rows), (found - expected).abs().max().item(), FLOAT32_TOLERANCE * max(1.0, largest), largest)
    if not (math.isfinite(check.largest_difference) and check.largest_difference <= check.tolerance):
        raise UserError(
            f"--fold {source}: expected the rewards of the folded model within {check.tolerance:.1e} of the weighted "
            f"sums of its outputs, found a difference of {check.largest_difference:.1e}. Nothing was written."
        )
    record = {"passed": True, "largest_difference": check.largest_difference, "tolerance": check.tolerance}
    rewards = {"rewards": expected[-1].tolist(), "rewards_alone": found[-1].tolist()}
    write_verification(folded, record | {"precision": "float32", "num_rows": len(rows), "rows": rows} | rewards)
    logger.info(
        "Fold: %d texts, rewards up to %.3g: the largest difference is %.1e.",
        *(check.texts, check.largest_reward, check.largest_difference),
    )
    return check


def _outputs(folder: Path, rows: list[list[int]], labels: int, trust_remote_code: bool) -> torch.Tensor:
    """`(2, rows, labels)`: padded together, and each row alone; `(1, rows, labels)` where there is no pad token."""
    request = {"rows": rows, "num_labels": labels, "trust_remote_code": trust_remote_code}
    result = Verification()
    answer = rewards_of_another_process(folder, request, SECONDS, result)
    if answer is None or answer["missing_weights"]:
        why = result.problems or [f"it has no {answer['missing_weights'][0]}"]
        raise UserError(f"--fold: expected that plain transformers loads {folder}, found that {'; '.join(why)}.")
    values = [answer[how] for how in ("padded", "alone") if answer[how] is not None]
    return torch.tensor(values, dtype=torch.float64).reshape(-1, len(rows), labels)

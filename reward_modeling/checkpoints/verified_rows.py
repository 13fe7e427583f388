"""The rows by which a saved model was verified, kept with it as tokens: they can be sent to whatever serves it.

verified = read_verified_rows(Path("models/gemma2b_rm/last_checkpoint"))
scorer.score(verified.conversations())   # verified.outputs, within rounding
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_modeling.common.atomic import write_whole
from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import VERIFICATION
from reward_modeling.data.conversations import Tokens

# In verification.json, and the same for every kind of model.
ROWS, GATES, READS, OUTPUTS = "rows", "gates", "reads", "rewards_alone"


@dataclass(frozen=True)
class VerifiedRows:
    """Token ids of whole conversations, and what plain transformers makes of each alone, in float32."""

    rows: list[list[int]]
    outputs: list[list[float]]
    """`(rows, labels)`: of a model of one label, or with a gate, the reward; of a model of ratings each output of its
    head, which config.json has the weights of. Of a process model `(reads, labels)`: those of the first row's reads,
    then those of the next row."""
    gates: list[int] | None
    """Where the gate of a model with one reads each prompt."""
    passed: bool
    """Whether the saved model was found to be the one in memory."""
    reads: list[list[int]] | None = None
    """Of a process model the tokens of each row that are read."""

    def conversations(self) -> list[Tokens]:
        """As `RewardScorer` takes them."""
        gates, reads = (of or [None] * len(self.rows) for of in (self.gates, self.reads))
        return [Tokens(ids, gate, reads=of) for ids, gate, of in zip(self.rows, gates, reads, strict=True)]


def write_verification(folder: Path, record: Mapping[str, Any]) -> None:
    """verification.json for people and programs: each row of tokens is one line, and what is no number is null."""
    finite = json.loads(json.dumps(record), parse_constant=lambda _: None)  # JSON has no NaN
    text = json.dumps(finite | {ROWS: []}, indent=2)
    lines = ",\n".join(f"    {json.dumps(ids)}" for ids in finite[ROWS])
    if lines:
        text = text.replace(f'"{ROWS}": []', f'"{ROWS}": [\n{lines}\n  ]', 1)
    write_whole(folder / VERIFICATION, text + "\n")


def read_verified_rows(folder: Path) -> VerifiedRows:
    """
    Args:
        folder: of a checkpoint that a script here has written and verified.

    Raises:
        UserError: it has no verification.json, one from before the rows were kept, or one without finite outputs.
    """
    file = folder / VERIFICATION
    again = "Train again with --verify_saved_model true (fold again, for a folded model), or take another checkpoint."
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: expected {VERIFICATION}, which a verified checkpoint has, found none. {again}"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: expected a file of JSON, found one that cannot be read ({error}). {again}") from error
    if not isinstance(record, dict) or not record.get(ROWS):
        raise UserError(
            f"{file}: expected the rows that were compared (`{ROWS}`), found none: it is from before they were kept. "
            f"{again}"
        )
    rows, flat, reads = record[ROWS], record.get(OUTPUTS) or [], record.get(READS)
    count = sum(map(len, reads)) if reads else len(rows)
    labels = len(flat) // count
    if not labels or len(flat) % count or not all(_is_finite(value) for value in flat):
        problems = "; ".join(record.get("problems") or ["it has no reason for it"])
        raise UserError(
            f"{file}: expected finite outputs of plain transformers for {len(rows)} rows (`{OUTPUTS}`), found "
            f"{len(flat)} values, of which some are not ({problems}). {again}"
        )
    outputs = [flat[start : start + labels] for start in range(0, len(flat), labels)]
    return VerifiedRows(rows, outputs, record.get(GATES), bool(record.get("passed")), reads)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)

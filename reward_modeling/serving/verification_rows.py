"""The rows by which a checkpoint was verified when it was saved, as they are sent to a server, and what they are due.

`verification.json` has them as token ids, with the outputs that plain transformers gave each alone, in float32, of the
files as they were saved. The text of a row is what its tokens are decoded to, where that gives the same tokens again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import ADAPTER_CONFIG_NAME

from reward_modeling.common.errors import UserError
from reward_modeling.common.file_names import VERIFICATION
from reward_modeling.models.gated_model import is_gated
from reward_modeling.models.loading import read_config
from reward_modeling.models.rating_outputs import names_of_saved_values
from reward_modeling.models.reward_normalization import read_adapter_statistics, set_statistics, statistics_of
from reward_modeling.models.tokenizer import read_tokenizer, token_ids
from reward_modeling.scoring.readouts.base import ScoredConversation
from reward_modeling.scoring.readouts.catalog import readout_of
from reward_modeling.serving.clients import DESCRIBED, OUTPUTS, Row, flat
from reward_modeling.serving.verification_values import Values

Outputs = NDArray[np.float64]
"""`(rows, outputs)`: raw logits."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """What is known of a checkpoint without its weights.

    `rounding` is how far its own lower precision moves the outputs, where it was verified in one.
    """

    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    rows: list[Row]
    outputs: Outputs
    precision: str
    rounding: float | None

    @property
    def statistics(self) -> dict[str, float] | None:
        """Mean and standard deviation of the held-out rewards, where it carries them."""
        return statistics_of(self.config)

    def values(self, outputs: Outputs, shows: str) -> list[Values]:
        """What a server that shows this much of a model gives rows of these outputs."""
        if shows == OUTPUTS:
            return [{f"probs[{place}]": float(one) for place, one in enumerate(row)} for row in outputs]
        if is_gated(self.config):  # what its objectives and its gate say was not saved
            return [{"reward": float(row[0])} for row in outputs]
        readout = readout_of(str(self.folder), self.config)
        columns = readout.columns(SimpleNamespace(logits=torch.from_numpy(outputs))).tolist()
        described = [readout.describe(row) for row in columns]
        return [_described(one) if shows == DESCRIBED else {"reward": one.reward} for one in described]


def read_checkpoint(folder: Path, *, trust_remote_code: bool = False) -> SavedCheckpoint:
    """
    Raises:
        UserError: there is no such folder, or it holds no rows.
    """
    if not folder.is_dir():
        raise UserError(f"--reward_name_or_path {folder}: expected the folder of a reward model, found none.")
    record = _read_record(folder)
    config = _read_config(folder, trust_remote_code)
    tokenizer = read_tokenizer(str(folder), trust_remote_code=trust_remote_code)
    ids = record["rows"]
    outputs = np.array(record["rewards_alone"], dtype=np.float64).reshape(len(ids), -1)
    gates = record.get("gates") or [None] * len(ids)
    rows = [_row(row, gate, tokenizer) for row, gate in zip(ids, gates, strict=True)]
    return SavedCheckpoint(folder, config, tokenizer, rows, outputs, record["precision"], record["rounding"])


def _read_record(folder: Path) -> dict:
    path = folder / VERIFICATION
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not record.get("rows") or not record.get("rewards_alone"):
        found = f"a {VERIFICATION} without them" if record else f"no {VERIFICATION}"
        raise UserError(
            f"--reward_name_or_path {folder}: expected the rows by which the checkpoint was verified, found {found}. "
            "It was saved with --verify_saved_model false, or by an earlier version. Of a merged or folded model pass "
            "the folder that has them."
        )
    return record


def _read_config(folder: Path, trust_remote_code: bool) -> PreTrainedConfig:
    """Of an adapter what it says of its outputs: the model under it may be out of reach."""
    if not (folder / ADAPTER_CONFIG_NAME).is_file():
        return read_config(str(folder), trust_remote_code=trust_remote_code)
    saved = read_adapter_statistics(str(folder)) or {}
    names = names_of_saved_values(saved)
    config = PreTrainedConfig(num_labels=len(names) or 1)
    if names:
        config.id2label = dict(enumerate(names))
    set_statistics(config, saved)
    return config


def _row(ids: list[int], gate: int | None, tokenizer: PreTrainedTokenizerBase) -> Row:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if token_ids([text], tokenizer)[0] != ids:
        return Row(ids, gate=gate)
    bos = tokenizer.bos_token or ""
    return Row(ids, text, bos if bos and ids[0] == tokenizer.bos_token_id and text.startswith(bos) else "", gate)


def _described(one: ScoredConversation) -> Values:
    values = {"reward": one.reward}
    for column in ("attributes", "intervals"):
        values |= flat(column, getattr(one, column) or {})
    return values

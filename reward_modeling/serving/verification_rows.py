"""The rows by which a checkpoint was verified when it was saved, as they are sent to a server, and what they are due.

`verification.json` has them as token ids, with the outputs that plain transformers gave each alone, in float32, of the
files as they were saved. The text of a row is what its tokens are decoded to, where that gives the same tokens again.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file, find_adapter_config_file

from reward_modeling.checkpoints.verified_rows import GATES, read_verified_rows
from reward_modeling.common.errors import UserError, first_line
from reward_modeling.common.file_names import VERIFICATION
from reward_modeling.models.checkpoint_config import read_config
from reward_modeling.models.gated_model import is_gated
from reward_modeling.models.process_format import PROCESS, RIGHT, is_process_model, make_process_model
from reward_modeling.models.rating_outputs import names_of_saved_values
from reward_modeling.models.reward_normalization import read_adapter_statistics, set_statistics, statistics_of
from reward_modeling.models.tokenizer import read_tokenizer, token_ids
from reward_modeling.scoring.readouts.base import ScoredConversation
from reward_modeling.scoring.readouts.catalog import any_readout
from reward_modeling.serving.clients import ACTIVATED, DESCRIBED, OUTPUTS, Row, flat
from reward_modeling.serving.verification_values import Values

FLOAT32 = "float32"
Outputs = NDArray[np.float64]
"""`(rows, outputs)`: raw logits."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """What is known of a checkpoint without its weights. Of a process model there is a row for each step.

    `rounding` is how far its own lower precision moves the outputs, where it was verified in one; `noise` how far other
    kernels move them in float32, where that was measured.
    """

    name: str
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    rows: list[Row]
    outputs: Outputs
    precision: str
    rounding: float | None
    noise: float | None = None

    @property
    def statistics(self) -> dict[str, float] | None:
        """Mean and standard deviation of the held-out rewards, where it carries them."""
        return statistics_of(self.config)

    def values(self, outputs: Outputs, shows: str) -> list[Values]:
        """What a server that shows this much of a model gives rows of these outputs."""
        if shows in (OUTPUTS, ACTIVATED):
            rows = outputs if shows == OUTPUTS else _softmax(outputs)
            return [{f"probs[{place}]": float(one) for place, one in enumerate(row)} for row in rows]
        if is_process_model(self.config):
            return [{"right": float(row[RIGHT])} for row in _softmax(outputs)]
        if is_gated(self.config):  # what its objectives and its gate say was not saved
            return [{"reward": float(row[0])} for row in outputs]
        readout = any_readout(self.name, self.config)
        columns = readout.columns(SimpleNamespace(logits=torch.from_numpy(outputs))).tolist()
        described = [readout.describe(row) for row in columns]
        return [_described(one) if shows == DESCRIBED else {"reward": one.reward} for one in described]


def read_checkpoint(name: str | Path, *, trust_remote_code: bool = False) -> SavedCheckpoint:
    """Of a folder, or of a Hub id.

    Raises:
        UserError: there is none, it holds no rows, or its own verification has failed.
    """
    folder = _find_folder(str(name))
    verified = read_verified_rows(folder)
    if not verified.passed:
        raise UserError(
            f"--reward_name_or_path {name}: expected a checkpoint that was verified when it was saved, found one whose "
            f"{VERIFICATION} says that this has failed. What is in it is not the trained model."
        )
    config = _read_config(str(name), trust_remote_code)
    tokenizer = read_tokenizer(str(name), trust_remote_code=trust_remote_code)
    gates, reads = (of or [None] * len(verified.rows) for of in (verified.gates, verified.reads))
    whole = [row_of(ids, gate, tokenizer) for ids, gate in zip(verified.rows, gates, strict=True)]
    rows = [replace(row, end=end) for row, of in zip(whole, reads, strict=True) for end in of or [None]]
    precision, rounding, noise = _precision(folder)
    outputs = np.array(verified.outputs, dtype=np.float64)
    return SavedCheckpoint(str(name), folder, config, tokenizer, rows, outputs, precision, rounding, noise)


def _find_folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    try:
        file = cached_file(name, VERIFICATION)
    except OSError as error:
        raise UserError(
            f"--reward_name_or_path {name}: expected the folder or the Hub id of a reward model with its "
            f"{VERIFICATION}, found none ({first_line(error)})."
        ) from error
    return Path(file).parent


def _precision(folder: Path) -> tuple[str, float | None, float | None]:
    """In which the model was verified, how far that moves its outputs, and how far kernels alone move them in float32.

    The last is of models with a gate, whose scores are small differences of large terms.
    """
    record = json.loads((folder / VERIFICATION).read_text(encoding="utf-8"))
    rounding = record.get("rounding")
    of_gate = GATES in record and rounding is None
    return record.get("precision", FLOAT32), rounding, record["largest_difference"] if of_gate else None


def _read_config(name: str, trust_remote_code: bool) -> PreTrainedConfig:
    """Of an adapter what it says of its outputs: the model under it may be out of reach."""
    if find_adapter_config_file(name) is None:
        return read_config(name, trust_remote_code=trust_remote_code)
    saved = read_adapter_statistics(name) or {}
    names = names_of_saved_values(saved)
    config = PreTrainedConfig(num_labels=len(names) or 1)
    if PROCESS in saved:
        make_process_model(config)
    if names:
        config.id2label = dict(enumerate(names))
    set_statistics(config, saved)
    return config


def row_of(ids: list[int], gate: int | None, tokenizer: PreTrainedTokenizerBase) -> Row:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if token_ids([text], tokenizer)[0] != ids:
        return Row(ids, gate=gate)
    bos, eos = (mark or "" for mark in (tokenizer.bos_token, tokenizer.eos_token))
    bos = bos if ids[0] == tokenizer.bos_token_id and text.startswith(bos) else ""
    without_bos = text.removeprefix(bos)
    ways = (text, without_bos, without_bos.removesuffix(eos))  # an encoder's tokenizer adds both
    bare = next((way for way in ways if tokenizer(way, verbose=False)["input_ids"] == ids), None)
    return Row(ids, text, bare, bos, gate)


def _softmax(outputs: Outputs) -> Outputs:
    parts = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return parts / parts.sum(axis=1, keepdims=True)


def _described(one: ScoredConversation) -> Values:
    values = {"reward": one.reward}
    for column in ("attributes", "intervals"):
        values |= flat(column, getattr(one, column) or {})
    return values

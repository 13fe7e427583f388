"""One pass of a model that is not trained over prompts and answers, whose hidden states are written to disk.

`feature_cache.cached_features` calls it. `groups` are read by one of `readers.py`: of each conversation the gate's
position and the last token. Each prompt is computed once for all its answers, and read in the same pass. The groups are
cut into parts, each planned by itself and written whole: so several processes write the same bytes as one, a pass that
was interrupted goes on after its last part, and memory does not grow with the data.
"""

import hashlib
import itertools
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm

from reward_modeling.common.atomic import whole_file
from reward_modeling.common.devices import to_device
from reward_modeling.common.errors import UserError
from reward_modeling.common.screen import shows_bars
from reward_modeling.data.collator import MicroBatchCollator
from reward_modeling.data.gate_position import Tail, prompt_end
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.planning import GroupSizes, MicroBatch, plan_evaluation
from reward_modeling.models.reward_model import RewardModelMixin

logger = logging.getLogger(__name__)

PASSES_PER_PART = 16
GATE, LAST = 0, 1  # of what is read of a conversation


@dataclass(frozen=True)
class FeaturePass:
    """How the model computes, and which of several processes this is.

    `tail` is that of the prompts, with which the rows were read (see `gate_position`). `autocast` is the type that it
    computes in where that is not its weights'. `wait` returns when all processes have called it.
    """

    batching: str
    pad_token_id: int
    max_tokens: int
    tail: Tail | None = None
    autocast: torch.dtype | None = None
    process: int = 0
    num_processes: int = 1
    wait: Callable[[], None] = lambda: None


def check_model(model: nn.Module) -> None:
    """
    Raises:
        UserError: it is no decoder with a linear head at the last token.
    """
    if not isinstance(model, RewardModelMixin):
        raise UserError(
            f"--freeze_backbone: expected a decoder whose head is one linear layer at the last token, found "
            f"{type(model).__name__}. Train it as a whole, without --freeze_backbone."
        )


@dataclass(frozen=True)
class Layout:
    """Which features there are, and what they are of, in the order of the groups."""

    used: NDArray[np.int64]
    """`(prompts,)`: the groups that have units."""
    first_completion: NDArray[np.int64]
    """`(prompts + 1,)`: counted over the used groups."""
    completion_of: NDArray[np.int64]
    """`(answers,)`: of rated rows each row is an answer, and two may rate the same one; else (0, 1, 2, ...)."""
    prompt_of: NDArray[np.int64]
    pairs: NDArray[np.int64]

    @classmethod
    def of(cls, groups: PromptGroups, *, rated: bool) -> "Layout":
        sizes = groups.sizes
        used = np.flatnonzero(sizes.units_per_group)
        counts = np.diff(sizes.completion_offsets)[used]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        number = np.full(len(sizes), -1)
        number[used] = np.arange(len(used))
        members = np.diff(sizes.member_offsets)
        expected = 1 if rated else 2
        if (members != expected).any():
            raise ValueError(f"expected units of {expected} answers, found some of {members.max()}")
        prompt_of_member = np.repeat(number[sizes.group_of_unit], members)
        completions = sizes.members + first[prompt_of_member]
        completion_of = completions if rated else np.arange(first[-1])
        return cls(
            used,
            first,
            completion_of.astype(np.int64),
            (np.searchsorted(first, completion_of, side="right") - 1).astype(np.int64),
            np.zeros((0, 2), dtype=np.int64) if rated else completions.reshape(-1, 2).astype(np.int64),
        )

    def cut(self, sizes: GroupSizes, tokens: int) -> list[tuple[int, int]]:
        """Runs of prompts of about so many tokens each."""
        of_answers = np.concatenate([[0], np.cumsum(sizes.completion_lengths)])[sizes.completion_offsets]
        of_prompts = (sizes.prefix_lengths + np.diff(of_answers))[self.used]
        run = (np.cumsum(of_prompts) - of_prompts) // tokens
        starts = np.flatnonzero(np.diff(run, prepend=-1)).tolist()
        return list(itertools.pairwise([*starts, len(self.used)]))


# --- computing ------------------------------------------------------------------------------------------------


def compute_parts(groups: PromptGroups, layout: Layout, model: nn.Module, how: FeaturePass, folder: Path) -> None:
    """Compute this process's parts of the features that are not there yet, each in a file of its own."""
    runs = runs_of(groups, layout, how)
    mine = [run for run in runs[how.process :: how.num_processes] if not is_whole(part_file(folder, *run))]
    if left := len(runs[how.process :: how.num_processes]) - len(mine):
        logger.info("Features: %d of %d parts are there already, of a pass that was interrupted.", left, len(runs))
    collator = MicroBatchCollator(how.batching, how.pad_token_id, _collate)
    shown = how.process == 0 and shows_bars()
    with (
        headless(model),
        torch.inference_mode(),
        torch.autocast(model.device.type, how.autocast, enabled=how.autocast is not None),
    ):
        for first, last in tqdm(mine, desc="features", leave=False, dynamic_ncols=True, disable=not shown):
            rows = _rows(groups, layout.used[first:last])
            answers, prompts = _compute(rows, model, collator, how.max_tokens)
            _check_finite(answers, prompts, rows)
            with whole_file(part_file(folder, first, last)) as path, path.open("wb") as file:
                tokens = tokens_of(rows, how.tail)
                np.savez(file, answers=answers, prompts=prompts, prompt_keys=keys_of(rows), tokens=tokens)


def runs_of(groups: PromptGroups, layout: Layout, how: FeaturePass) -> list[tuple[int, int]]:
    """Which prompts make a part: the same on any number of processes."""
    return layout.cut(groups.sizes, PASSES_PER_PART * how.max_tokens)


def part_file(folder: Path, first: int, last: int) -> Path:
    return folder / f"{first:010d}-{last:010d}.npz"


def is_whole(part: Path) -> bool:
    """Whether all of a part can be read: a machine that went down may have left less of a file than it said."""
    try:
        with zipfile.ZipFile(part) as arrays:
            return arrays.testzip() is None
    except (FileNotFoundError, zipfile.BadZipFile, EOFError):
        return False


def _rows(groups: PromptGroups, numbers: NDArray[np.int64]) -> list[dict]:
    """Group rows with each completion as a unit of its own, whose targets are its group and its number."""
    columns = groups.groups[numbers.tolist()]
    rows = []
    for place, (prefix, completions, reads, where) in enumerate(
        zip(*(columns[name] for name in ("prefix_ids", "completion_ids", "read_positions", "where")), strict=True)
    ):
        if any(len(of) != 2 for of in reads):
            raise ValueError("expected groups of which the gate's position and the last token are read")
        units = [[number] for number in range(len(completions))]
        targets = [[place, number] for number in range(len(completions))]
        row = {"prefix_ids": prefix, "completion_ids": completions, "read_positions": reads, "where": where}
        rows.append(row | {"units": units, "targets": targets})
    return rows


def _collate(units: Sequence[Sequence[int]], targets: Sequence[Sequence[float]]) -> dict[str, torch.Tensor]:
    """`reads` and `places`, both `(completions, 2)`: what is read of each, and its group and number."""
    return {"reads": torch.tensor(units), "places": torch.tensor(targets, dtype=torch.long)}


def _compute(
    rows: list[dict], model: nn.Module, collator: MicroBatchCollator, max_tokens: int
) -> tuple[NDArray, NDArray]:
    """Answers `(completions, hidden)` and prompts `(groups, hidden)`."""
    first = np.cumsum([0, *(len(row["completion_ids"]) for row in rows)])
    sizes = GroupSizes.from_rows(rows)
    (passes,) = plan_evaluation(sizes, max_tokens=max_tokens, batching=collator.batching, num_processes=1)
    answers = prompts = np.zeros((0, 0), dtype=np.float32)
    for micro_batch in passes:
        hidden, reads, places = _forward(rows, micro_batch, model, collator)
        if not answers.size:
            answers = np.full((first[-1], hidden.shape[1]), np.nan, dtype=np.float32)
            prompts = np.full((len(rows), hidden.shape[1]), np.nan, dtype=np.float32)
        answers[first[places[:, 0]] + places[:, 1]] = hidden[reads[:, LAST]]
        prompts[places[:, 0]] = hidden[reads[:, GATE]]
    return answers, prompts


def _forward(
    rows: list[dict], micro_batch: MicroBatch, model: nn.Module, collator: MicroBatchCollator
) -> tuple[NDArray, NDArray, NDArray]:
    batch = collator(micro_batch, {chunk.group: rows[chunk.group] for chunk in micro_batch})
    hidden = model(**_on_device(batch["model_inputs"], model.device)).logits.float().cpu().numpy()
    return hidden, batch["targets"]["reads"].numpy(), batch["targets"]["places"].numpy()


def _on_device(value: Any, device: torch.device) -> Any:
    if torch.is_tensor(value):
        return to_device(value, device)
    if isinstance(value, dict):
        return {name: _on_device(of, device) for name, of in value.items()}
    return [_on_device(of, device) for of in value] if isinstance(value, list) else value


@contextmanager
def headless(model: nn.Module) -> Iterator[None]:
    """The model in evaluation, whose logits are the hidden states that its head reads."""
    head, training = model.score, model.training
    model.score = nn.Identity()
    model.eval()
    try:
        yield
    finally:
        model.score = head
        model.train(training)


def keys_of(rows: list[dict]) -> NDArray[np.int64]:
    """`(groups,)`: a number for the tokens of each prompt up to the gate's position."""
    keys = []
    for row in rows:
        ids = (row["prefix_ids"] + row["completion_ids"][0])[: row["read_positions"][0][GATE] + 1]
        keys.append(hashlib.blake2b(np.array(ids, dtype=np.int32).tobytes(), digest_size=8).digest())
    return np.frombuffer(b"".join(keys), dtype="<i8").astype(np.int64)


def tokens_of(rows: list[dict], tail: Tail | None) -> NDArray[np.int64]:
    """`(completions,)`: tokens of each answer, which may be more than those in which the answers of a prompt differ.

    What the template writes before an answer, such as its role, is of the prompt.
    """
    whole = [
        (row["prefix_ids"] + ids, reads[GATE])
        for row in rows
        for ids, reads in zip(row["completion_ids"], row["read_positions"], strict=True)
    ]
    return np.array([len(ids) - prompt_end(ids, position, tail) for ids, position in whole], dtype=np.int64)


def _check_finite(answers: NDArray, prompts: NDArray, rows: list[dict]) -> None:
    """
    Raises:
        UserError: a hidden state is infinite or not a number.
    """
    finite = np.isfinite(answers).all() and np.isfinite(prompts).all()
    if not finite:
        raise UserError(
            f"features of {rows[0]['where'][0]} or of one of the rows after it: expected finite numbers, found others. "
            "Compute in float32 or in bfloat16: leave --fp16 out."
        )

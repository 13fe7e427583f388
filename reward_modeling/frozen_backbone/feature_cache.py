"""Features kept on disk for the next run that wants the same ones.

    features = cached_features(groups, model, FeaturePass("shared_prefix", pad_token_id, 4096), cache, attributes)

A folder of the cache is named by a key of everything that hidden states follow from (`feature_key.py`), and is complete
or not there. While a pass goes on its parts lie beside it, for a pass that goes on where this one was ended.
"""

import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reward_modeling.common.atomic import commit, hold_folder, unfinished
from reward_modeling.common.errors import UserError, one_line
from reward_modeling.data.loader import PromptGroups
from reward_modeling.frozen_backbone.feature_key import feature_key
from reward_modeling.frozen_backbone.feature_pass import (
    FeaturePass,
    Layout,
    check_model,
    compute_parts,
    part_file,
    runs_of,
)
from reward_modeling.frozen_backbone.features import COMPLETIONS, KEYS, PROMPTS, TOKENS, Features

logger = logging.getLogger(__name__)

GIB = 2**30


def cached_features(
    groups: PromptGroups, model: nn.Module, how: FeaturePass, cache: Path, attributes: Sequence[str] = ()
) -> Features:
    """The features of all answers and prompts, from `cache` where they were computed before. All processes call this.

    Args:
        attributes: of rated rows; () of preference rows.

    Raises:
        UserError: the model cannot be read at two tokens, or a feature is not a finite number.
    """
    check_model(model)
    folder = cache / f"features-{feature_key(model, groups, how.autocast or model.dtype)}"
    layout = Layout.of(groups, rated=bool(attributes))
    try:
        features = Features.open(folder, groups, layout)
        logger.info("Features: read from %s, where they were kept (%s answers).", folder, f"{len(features):,}")
        return features
    except FileNotFoundError:
        pass
    started = time.perf_counter()
    try:
        parts = cache / f"parts-of-{folder.name}"
        parts.mkdir(parents=True, exist_ok=True)
        with _only_one_run(parts, how.process):
            if how.process == 0:
                computed = int(layout.first_completion[-1]) + len(layout.used)
                check_room(cache, parts, 4 * model.score.in_features * computed)
            compute_parts(groups, layout, model, how, parts)
            how.wait()
            if how.process == 0:
                files = [part_file(parts, *run) for run in runs_of(groups, layout, how)]
                check_parts(files)
                _write_folder(layout, files, folder)
                shutil.rmtree(parts, ignore_errors=True)
                size = f"{len(layout.prompt_of):,} answers of {len(layout.used):,} prompts"
                seconds = time.perf_counter() - started
                logger.info("Features: %s, computed in %.0f s, kept in %s.", size, seconds, folder)
            how.wait()
    except OSError as error:
        raise UserError(
            f"{cache}: expected a folder that features can be kept in, found {one_line(error)}. Make room, or name "
            "another with --feature_cache. What was computed so far is kept."
        ) from error
    return Features.open(folder, groups, layout)


def _only_one_run(parts: Path, process: int) -> AbstractContextManager[None]:
    """Of several runs that want the same features one computes them: process 0 holds the folder for its run."""
    in_use = UserError(
        f"{parts}: expected that no other run computes the same features, found that one does. Start this one when it "
        "has ended: the features are there then."
    )
    return hold_folder(parts, in_use) if process == 0 else nullcontext()


def check_room(cache: Path, parts: Path, size: int) -> None:
    """
    Args:
        size: of all features, in bytes; while they are joined, they are there twice.

    Raises:
        UserError: the disk has no room for what is to be written.
    """
    needed = 2 * size - sum(path.stat().st_size for path in parts.iterdir())
    if needed > (free := shutil.disk_usage(cache).free):
        raise UserError(
            f"{cache}: expected {needed / GIB:.1f} GiB of room for the features (half of it for the time in which they "
            f"are joined), found {free / GIB:.1f}. Make room, or name another folder with --feature_cache."
        )


def check_parts(files: list[Path]) -> None:
    """
    Raises:
        UserError: a part is not where this process looks for it.
    """
    if missing := [file for file in files if not file.is_file()]:
        raise UserError(
            f"{missing[0].parent}: expected {len(files)} parts of the features, found that {len(missing)} are missing. "
            "On several machines --feature_cache has to be a folder that all of them share."
        )


def _write_folder(layout: Layout, files: list[Path], folder: Path) -> None:
    """All parts as one folder."""
    writing = unfinished(folder)
    shutil.rmtree(writing, ignore_errors=True)  # of a process that was killed
    writing.mkdir(parents=True)
    for name, of_parts in ((KEYS, "prompt_keys"), (TOKENS, "tokens")):
        np.save(writing / f"{name}.npy", np.concatenate([_load(file, of_parts) for file in files]))
    _join(files, "prompts", writing / f"{PROMPTS}.npy", len(layout.used))
    _join(files, "answers", writing / f"{COMPLETIONS}.npy", int(layout.first_completion[-1]))
    commit(folder)


def _load(file: Path, name: str) -> NDArray:
    with np.load(file) as arrays:
        return arrays[name]


def _join(files: list[Path], name: str, path: Path, rows: int) -> None:
    """One array of the arrays of all files, a file at a time in memory."""
    with path.open("wb") as file:
        written = 0
        for part in files:
            values = _load(part, name)
            if not written:
                _write_header(file, (rows, values.shape[1]))
            values.tofile(file)
            written += len(values)
    if written != rows:
        raise RuntimeError(f"expected {rows} {name}, found {written}")


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})

"""A model of ratings made into a plain reward model: one label, whose head is the weighted sum of the head's rows.

    python rm_regression.py --fold models/ratings/last_checkpoint --weights helpfulness=1 --output_path models/folded

The reward is linear in the outputs, and these in the last layer: nothing is lost but rounding. What reads a
Bradley-Terry model reads it, and rm.py goes on from its head. Only the head is computed, and written in float32; all
other weights are copied. The source is left as it is.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from reward_modeling.checkpoints.folded_outputs import Check, compare_outputs
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.atomic import check_writable, commit, unfinished
from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import PATH, flag
from reward_modeling.common.screen import set_up_screen
from reward_modeling.display.page import render
from reward_modeling.models.checkpoint_config import no_score_head, read_config
from reward_modeling.models.checkpoint_kinds import has_score_head
from reward_modeling.models.new_parts import output_layers
from reward_modeling.models.rating_outputs import LEVELS, RANGES, WEIGHTS, RatingOutputs, has_ratings
from reward_modeling.models.reward_normalization import NAMES
from reward_modeling.models.rewritten_weights import copy_with
from reward_modeling.models.stored_weights import SAFE_INDEX, files_here, read_weight, shapes_in
from reward_modeling.objectives.weights_flag import WEIGHTS_HELP, read_weights

logger = logging.getLogger(__name__)

FOLDING, CARD = "folding.json", "README.md"
# What a tokenizer, its templates and generation have on disk, and a model's own code.
COPIED = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "additional_chat_templates")
COPIED += ("vocab*", "merges.txt", "*.model", "*.tiktoken", "generation_config.json", "*.py")
MERGE = "python -m reward_modeling.scoring.merge_adapter"


@dataclass
class FoldFlags:
    """What --fold takes beside it."""

    fold: Annotated[str | None, PATH] = flag(None, "The folder of a model of ratings.")
    weights: str | None = flag(None, WEIGHTS_HELP)
    output_path: Annotated[str | None, PATH] = flag(None, "A new folder.")
    trust_remote_code: bool = flag(False, "Run code that the model's folder holds.")
    verify_saved_model: bool = flag(
        True, "Load both models in plain transformers, and compare the rewards of some texts."
    )


def run_fold() -> None:
    """The job of `rm_regression.py --fold`."""
    try:
        flags, _ = parse_script_arguments(FoldFlags)
    except UserError as error:
        raise UserError(f"--fold, which trains nothing: {error}") from error
    if not flags.fold or not flags.output_path:
        raise UserError("--fold: expected a folder of a model, and --output_path beside it, found one of both alone.")
    weights = read_weights(flags.weights)
    if os.environ.get("RANK", "0") != "0":  # no work for several processes
        return
    set_up_screen(logging.INFO, speaks=True)
    options = {"trust_remote_code": flags.trust_remote_code, "verify": flags.verify_saved_model}
    fold_model(Path(flags.fold), Path(flags.output_path), weights, **options)
    print(f"Folded: {flags.output_path}")


def fold_model(
    source: Path,
    folder: Path,
    weights: Mapping[str, float] | None = None,
    *,
    trust_remote_code: bool = False,
    verify: bool = True,
) -> None:
    """Write the model with one label to `folder`, which is complete or not there.

    Args:
        weights: as `RatingOutputs` takes them.

    Raises:
        UserError: there is no model of ratings, or none that can be folded; something stands in the way; the folded
            model gives other rewards.
    """
    config = _checked_source(source, trust_remote_code)
    outputs = RatingOutputs.of_config(str(source), config, weights)
    files = _weight_files(source)
    head = _folded_head(source, config, files, outputs)
    _check_target(folder)
    writing = unfinished(folder)
    shutil.rmtree(writing, ignore_errors=True)  # of a process that was killed
    try:
        writing.mkdir(parents=True)
        _write_weights(source, files, head, writing)
        _write_config(source, outputs, writing)
        _copy_others(source, writing)
        check = None
        if verify:
            logger.info("Fold: %s and what was made of it are loaded in plain transformers.", source)
            check = compare_outputs(source, writing, outputs, trust_remote_code=trust_remote_code)
        _write_record(source, folder, writing, outputs, check)
        commit(folder)
    except OSError as error:
        raise UserError(
            f"--output_path {folder}: expected a folder that can be written, with room for the model, found [{error}]."
        ) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)


# --- what cannot be folded ------------------------------------------------------------------------------------


def _checked_source(source: Path, trust_remote_code: bool) -> PreTrainedConfig:
    if not source.is_dir():
        raise UserError(
            f"--fold {source}: expected the folder of a model of ratings, found none. One on the Hub is fetched by "
            f"hf download {source} --local-dir FOLDER."
        )
    if (source / ADAPTER_CONFIG_NAME).is_file():
        raise UserError(
            f"--fold {source}: expected a whole model, found an adapter. Merge it first: {MERGE} {source} NEW_FOLDER; "
            "then fold NEW_FOLDER."
        )
    try:
        config = read_config(str(source), trust_remote_code=trust_remote_code)
    except UserError as error:  # of a training script, which has another flag for it
        raise UserError(f"--fold {str(error).removeprefix('--model_name ')}") from error
    if not has_score_head(config):
        raise no_score_head(str(source), f"architectures {config.architectures} in its config.json")
    if not has_ratings(config):
        raise UserError(
            f"--fold {source}: expected a model with named outputs, such as those of rm_regression.py, found one "
            "label, which is what folding makes. Take it as it is."
        )
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"--fold {source}: expected a classifier of transformers' own, found {config.model_type}, which runs code "
            "of its own. Which of its weights is the head is not known here."
        )
    return config


def _weight_files(source: Path) -> list[Path]:
    files = files_here(str(source), None)
    if not files or any(file.suffix != ".safetensors" for file in files):
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(
            f"--fold {source}: expected safetensors files, found {found}. Save it again with save_pretrained, which "
            "writes them."
        )
    return files


def _check_target(folder: Path) -> None:
    check_writable("--output_path", folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"--output_path {folder}: expected a new or an empty folder, found something in it. Take another one."
        )


# --- what is written ------------------------------------------------------------------------------------------


def _folded_head(
    source: Path, config: PreTrainedConfig, files: list[Path], outputs: RatingOutputs
) -> dict[str, torch.Tensor]:
    """The last layer's weight `(1, hidden)`, and its bias `(1,)` if it has one, in float32."""
    names, there = output_layers(config), {name for file in files for name in shapes_in(file)}
    if missing := [name for name in names if name not in there]:
        raise no_score_head(str(source), f"no {missing[0]} among its weights")
    weights = torch.tensor(outputs.output_weights, dtype=torch.float64)
    folded = {}
    for name in names:
        rows = read_weight(files, name)
        if len(rows) != len(weights):
            raise UserError(
                f"--fold {source}: expected {len(weights)} rows in {name}, as its config.json names outputs, found "
                f"{len(rows)}."
            )
        folded[name] = torch.tensordot(weights, rows.double(), dims=1)[None].float()
    return folded


def _write_weights(source: Path, files: list[Path], head: Mapping[str, torch.Tensor], writing: Path) -> None:
    growth = 0
    for file in files:
        own = {name: value for name, value in head.items() if name in shapes_in(file)}
        if own:
            growth += copy_with(file, writing / file.name, own)
        else:
            shutil.copyfile(file, writing / file.name)
    if (source / SAFE_INDEX).is_file():
        index = json.loads((source / SAFE_INDEX).read_text(encoding="utf-8"))
        metadata = index.get("metadata") or {}
        if "total_size" in metadata:
            metadata["total_size"] += growth
        metadata.pop("total_parameters", None)  # optional, and another number now
        (writing / SAFE_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_config(source: Path, outputs: RatingOutputs, writing: Path) -> None:
    """As it was, but for the label. The mean and standard deviation of other weights' rewards are left out."""
    config = json.loads((source / CONFIG_NAME).read_text(encoding="utf-8"))
    same = config.get(WEIGHTS) == outputs.weights
    removed = {RANGES, WEIGHTS, LEVELS, "num_labels", "_num_labels", *(() if same else NAMES)}
    config = {name: value for name, value in config.items() if name not in removed}
    config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
    (writing / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_others(source: Path, writing: Path) -> None:
    for path in sorted({path for pattern in COPIED for path in source.glob(pattern)}):
        if path.is_dir():
            shutil.copytree(path, writing / path.name)
        else:
            shutil.copyfile(path, writing / path.name)


def _write_record(source: Path, folder: Path, writing: Path, outputs: RatingOutputs, check: Check | None) -> None:
    """What it was made of: for people, and for programs."""
    name = source.resolve().name if source.resolve().name != "last_checkpoint" else source.resolve().parent.name
    record = {"source": name, "reward_weights": outputs.weights, "label_ranges": outputs.ranges}
    record["verification"] = None if check is None else vars(check)
    (writing / FOLDING).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    card = render("checkpoints/templates/folded_card.md", name=str(folder), check=check, outputs=outputs, source=name)
    (writing / CARD).write_text(card, encoding="utf-8")

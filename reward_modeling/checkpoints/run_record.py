"""Which run a checkpoint belongs to: its data, model, flags and engine, in the checkpoint's `resume.json`.

A run resumes only with those that the checkpoint was made with.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import OnResume, flags_with
from reward_modeling.common.launch import engine_name
from reward_modeling.data.loader import PromptGroups
from reward_modeling.models.chat_template import fingerprint_of_template

logger = logging.getLogger(__name__)

RUN_RECORD = "resume.json"
GROUPS_HASHED = 256  # spread evenly, with all their tokens; of the others the lengths, units, targets and weights
BYTES_HASHED = 2**20  # at both ends of a weight file

# These say nothing about what the model computes, or follow from the tokenizer and the flags.
CONFIG_IGNORED = {"transformers_version", "_name_or_path", "dtype", "architectures", "pad_token_id", "vocab_size"}


def run_record(trainer: Any, config: PreTrainedConfig) -> dict[str, Any]:
    """The content of `resume.json` for the run of this `RewardTrainer`; `config` is the model's, as it was read."""
    args, unit = trainer.args, trainer.objective.reader.unit
    train, evaluation = trainer.train_dataset, trainer.eval_dataset
    names = [name for rule in OnResume for name in flags_with(type(args), rule)]
    return {
        "engine": engine_name(trainer.accelerator.state),
        "num_processes": args.world_size,
        "model_name": args.model_name,
        "model_weights": fingerprint_of_weights(args.model_name, config),
        "config": {name: value for name, value in config.to_dict().items() if name not in CONFIG_IGNORED},
        "unit": unit,
        f"training_{unit}": len(train),
        "training_data": fingerprint_of_groups(train),
        "evaluation_data": None if evaluation is None else fingerprint_of_evaluation(evaluation, trainer.eval_sets),
        "chat_template": fingerprint_of_template(trainer.processing_class),
        "save_only_model": args.save_only_model,
        "arguments": {name: getattr(args, name) for name in names},
    }


def fingerprint_of_evaluation(evaluation: PromptGroups, named: Mapping[str, PromptGroups]) -> str:
    """Of the only set, or of all sets with their names."""
    if not named:
        return fingerprint_of_groups(evaluation)
    return ",".join(f"{name}={fingerprint_of_groups(groups)}" for name, groups in named.items())


def fingerprint_of_groups(groups: PromptGroups) -> str:
    """A hash of the data that takes next to no time and memory."""
    sizes, columns = groups.sizes, groups.groups
    digest = hashlib.sha256()
    for values in (sizes.prefix_lengths, sizes.completion_lengths, sizes.members, sizes.unit_offsets):
        digest.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
    digest.update(np.ascontiguousarray(sizes.unit_weights, dtype=np.float64).tobytes())
    for chunk in columns.data.column("targets").chunks:
        digest.update(chunk.flatten().flatten().to_numpy(zero_copy_only=False).tobytes())
    for number in np.linspace(0, len(sizes) - 1, min(GROUPS_HASHED, len(sizes))).astype(int).tolist():
        row = columns[number]
        digest.update(json.dumps([row["prefix_ids"], row["completion_ids"]]).encode())
    return digest.hexdigest()[:16]


def fingerprint_of_weights(model_name: str, config: PreTrainedConfig) -> str | None:
    """The commit of a model on the Hub; for a folder a hash of both ends of its weight files. None: unknown."""
    folder = Path(model_name)
    if not folder.is_dir():
        return getattr(config, "_commit_hash", None)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as weights:
            digest.update(weights.read(BYTES_HASHED))
            weights.seek(max(0, path.stat().st_size - BYTES_HASHED))
            digest.update(weights.read())
    return digest.hexdigest()[:16]


def check_same_run(checkpoint: str, now: dict[str, Any], arguments_class: type) -> None:
    """Refuse a checkpoint of another run, and warn of what else differs. The flags say which of the two they are for.

    Raises:
        UserError: with everything that differs.
    """
    path = Path(checkpoint) / RUN_RECORD
    if not path.is_file():
        logger.warning("Resume: %s has no %s, so its data and model cannot be compared.", checkpoint, RUN_RECORD)
        return
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found {error}. Take an earlier checkpoint.") from error
    new_run = f"start a new run from its weights: --model_name {checkpoint} with another --output_path."
    if then.get("save_only_model"):
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: expected the optimizer's states too, found weights alone (it was "
            f"saved with --save_only_model). You can {new_run}"
        )
    now = json.loads(json.dumps(now, default=str))  # as it will be read next time
    then = now | then  # a checkpoint of an earlier version may not have all the fields
    fixed, free, data = (flags_with(arguments_class, rule) for rule in OnResume)
    differences = [
        *_model_differences(then, now),
        *_data_differences(data, then, now),
        *_template_differences(then, now),
        *_changes(fixed, then["arguments"], now["arguments"]),
        *_engine_differences(then, now),
    ]
    if differences:
        lines = "\n- ".join(differences)
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: expected the run that this checkpoint is of, found others:\n"
            f"- {lines}\nPass what the checkpoint was made with; or {new_run}"
        )
    warnings = _changes(free, then["arguments"], now["arguments"])
    if then["evaluation_data"] != now["evaluation_data"]:
        warnings.append("the evaluation set: other rows, so its figures and a best one so far do not compare")
    for warning in warnings:
        logger.warning("Resume: from here on %s.", warning)


def _model_differences(then: Mapping, now: Mapping) -> list[str]:
    names = sorted(then["config"].keys() & now["config"].keys())  # others come and go with transformers' versions
    differences = [f"model, {line}" for line in _changes(names, then["config"], now["config"])]
    if then["model_weights"] != now["model_weights"]:
        before, after = (f"{run['model_weights']} of {run['model_name']}" for run in (then, now))
        differences.append(f"model_name: started from the weights {before} in the checkpoint, now {after}")
    return differences


def _data_differences(names: list[str], then: Mapping, now: Mapping) -> list[str]:
    """The flags that may be the cause of other data, and the numbers of units."""
    if then["training_data"] == now["training_data"]:
        return []
    unit = now["unit"]
    before, after = ({f"training {unit}": f"{run[f'training_{unit}']:,}"} for run in (then, now))
    causes = _changes(names, then["arguments"], now["arguments"]) + _changes([*before], before, after)
    return causes or [f"train_set_path: the same name, but other {unit} or other tokens in it"]


def _template_differences(then: Mapping, now: Mapping) -> list[str]:
    """Where no row of the data shows it: the tokenizer that is saved would be another one."""
    if then["chat_template"] == now["chat_template"] or then["training_data"] != now["training_data"]:
        return []
    return ["chat_template: the tokenizer's template was another one (--chat_template, or the model's own)"]


def _changes(names: Iterable[str], before: Mapping, after: Mapping) -> list[str]:
    return [
        f"{name}: {before[name]} in the checkpoint, now {after.get(name)}"
        for name in names
        if name in before and before[name] != after.get(name)
    ]


def _engine_differences(then: Mapping, now: Mapping) -> list[str]:
    """One process and DDP resume each other's checkpoints; under ZeRO and FSDP the states are in pieces."""
    engines = {then["engine"], now["engine"]}
    if engines <= {"single", "ddp"}:
        return []
    differences = _changes(["engine"], then, now)
    before, after = then["num_processes"], now["num_processes"]
    if before != after and "fsdp2" not in engines:
        pieces = f"{then['engine']} has cut the optimizer into as many pieces as there were processes"
        differences.append(f"processes: {before} in the checkpoint, now {after} ({pieces})")
    return differences

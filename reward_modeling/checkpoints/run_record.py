"""Going on from a checkpoint: only with the data, the model and the steps that it was made with.

Every checkpoint holds a `resume.json` that says what it is a checkpoint of.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from reward_modeling.common.errors import UserError
from reward_modeling.common.flags import OnResume, flags_with
from reward_modeling.data.loader import PromptGroups

logger = logging.getLogger(__name__)

RUN_RECORD = "resume.json"
GROUPS_HASHED = 256  # spread evenly, with all their tokens; of the others the lengths, units and targets
BYTES_HASHED = 2**20  # at both ends of a weight file

# Says nothing about what the model computes, or follows from the tokenizer and the flags.
CONFIG_IGNORED = {"transformers_version", "_name_or_path", "dtype", "architectures", "pad_token_id", "vocab_size"}


def run_record(
    args: Any,
    train: PromptGroups,
    evaluation: PromptGroups | None,
    config: PreTrainedConfig,
    engine: str,
    num_processes: int,
) -> dict[str, Any]:
    """What a checkpoint of this run is a checkpoint of."""
    names = [name for rule in OnResume for name in flags_with(type(args), rule)]
    return {
        "engine": engine,
        "num_processes": num_processes,
        "model_name": args.model_name,
        "model_weights": fingerprint_of_weights(args.model_name, config),
        "config": {name: value for name, value in config.to_dict().items() if name not in CONFIG_IGNORED},
        "training_pairs": len(train),
        "training_data": fingerprint_of_groups(train),
        "evaluation_data": None if evaluation is None else fingerprint_of_groups(evaluation),
        "save_only_model": args.save_only_model,
        "arguments": {name: getattr(args, name) for name in names},
    }


def write_run_record(folder: Path, record: dict[str, Any]) -> None:
    (folder / RUN_RECORD).write_text(json.dumps(record, indent=2, default=str), encoding="utf-8")


def fingerprint_of_groups(groups: PromptGroups) -> str:
    """A hash of the pairs to train on that takes no time and no memory worth mentioning."""
    sizes, columns = groups.sizes, groups.groups
    digest = hashlib.sha256()
    for values in (sizes.prefix_lengths, sizes.completion_lengths, sizes.members, sizes.unit_offsets):
        digest.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
    for chunk in columns.data.column("targets").chunks:
        digest.update(chunk.flatten().flatten().to_numpy(zero_copy_only=False).tobytes())
    for number in np.linspace(0, len(sizes) - 1, min(GROUPS_HASHED, len(sizes))).astype(int).tolist():
        row = columns[number]
        digest.update(json.dumps([row["prefix_ids"], row["completion_ids"]]).encode())
    return digest.hexdigest()[:16]


def fingerprint_of_weights(model_name: str, config: PreTrainedConfig) -> str | None:
    """The commit of a model of the Hub; of a folder a hash of both ends of its weight files. None: unknown."""
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
    """Refuse what would not be the same run; say what else differs. The rules are those of the flags.

    Raises:
        UserError: with every field that differs.
    """
    path = Path(checkpoint) / RUN_RECORD
    if not path.is_file():
        logger.warning("Resume: %s has no %s, so its data and model cannot be compared.", checkpoint, RUN_RECORD)
        return
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found {error}. Take an earlier checkpoint.") from error
    if then.get("save_only_model"):
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: expected the optimizer's states too, found weights alone (it was "
            f"saved with --save_only_model). Start a new run from its weights: --model_name {checkpoint} with another "
            "--output_path."
        )
    now = json.loads(json.dumps(now, default=str))  # as it will be read next time
    then = now | then  # a checkpoint of an earlier version may not have all the fields
    fixed, free, data = (flags_with(arguments_class, rule) for rule in OnResume)
    differences = [*_model_differences(then, now), *_data_differences(data, then, now)]
    differences += _argument_differences(fixed, then, now)
    differences += _engine_differences(then, now)
    if differences:
        lines = "\n- ".join(differences)
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: expected the run that this checkpoint is of, found others:\n"
            f"- {lines}\nPass what the checkpoint was made with; or start a new run from its weights: --model_name "
            f"{checkpoint} with another --output_path."
        )
    others = _argument_differences(free, then, now)
    if then["evaluation_data"] != now["evaluation_data"]:
        others.append("the evaluation set: other rows, so its figures and a best one so far do not compare")
    for difference in others:
        logger.warning("Resume: from here on %s.", difference)


def _model_differences(then: Mapping, now: Mapping) -> list[str]:
    differences = []
    for name in sorted(then["config"].keys() & now["config"].keys()):  # others come and go with transformers' versions
        before, after = then["config"][name], now["config"][name]
        if before != after:
            differences.append(f"model, {name}: {before} in the checkpoint, now {after}")
    if then["model_weights"] != now["model_weights"]:
        differences.append(
            f"model_name: started from the weights {then['model_weights']} of {then['model_name']}, now "
            f"{now['model_weights']} of {now['model_name']}"
        )
    return differences


def _data_differences(names: list[str], then: Mapping, now: Mapping) -> list[str]:
    if then["training_data"] == now["training_data"]:
        return []
    causes = _argument_differences(names, then, now)
    if then["training_pairs"] != now["training_pairs"]:
        causes.append(f"training pairs: {then['training_pairs']:,} in the checkpoint, now {now['training_pairs']:,}")
    return causes or ["train_set_path: the same name, but other pairs or other tokens in it"]


def _argument_differences(names: list[str], then: Mapping, now: Mapping) -> list[str]:
    known = [name for name in names if name in then["arguments"]]
    pairs = ((name, then["arguments"][name], now["arguments"].get(name)) for name in known)
    return [f"{name}: {before} in the checkpoint, now {after}" for name, before, after in pairs if before != after]


def _engine_differences(then: Mapping, now: Mapping) -> list[str]:
    """One process and DDP go on from each other; ZeRO and FSDP have cut their states into pieces."""
    copies = ("single", "ddp")
    if then["engine"] in copies and now["engine"] in copies:
        return []
    differences = []
    if then["engine"] != now["engine"]:
        differences.append(f"engine: {then['engine']} in the checkpoint, now {now['engine']}")
    if then["num_processes"] != now["num_processes"] and "fsdp2" not in (then["engine"], now["engine"]):
        differences.append(
            f"processes: {then['num_processes']} in the checkpoint, now {now['num_processes']} ({then['engine']} has "
            "cut the optimizer into as many pieces as there were processes)"
        )
    return differences

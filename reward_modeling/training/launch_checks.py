"""Wrong launches, found before anything is loaded.

`accelerate launch` hands its configuration to the script in environment variables, torchrun the number of processes.
Nothing here imports torch or accelerate: the checks run before transformers has set up a device.
"""

import glob
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from reward_modeling.common.launch import WORLD_SIZES, launched_with

PAIRS_IN_A_STEP = "--per_device_train_batch_size x --gradient_accumulation_steps x processes are the pairs of a step"
# What rm.py's flags decide in a DeepSpeed file. The Trainer puts its values in the place of "auto". It refuses other
# values too, but only after the model is loaded. Without a key that must be "auto" nothing would be clipped, or no
# batch size would be known; optimizer and scheduler would silently take the place of rm.py's.
DECIDED_BY_FLAGS = {
    # key: (values that leave it to the flags, which flags)
    "train_batch_size": ((None, "auto"), PAIRS_IN_A_STEP),
    "train_micro_batch_size_per_gpu": (("auto",), PAIRS_IN_A_STEP),
    "gradient_accumulation_steps": ((None, "auto"), PAIRS_IN_A_STEP),
    "gradient_clipping": (("auto",), "--max_grad_norm decides it"),
    "optimizer": ((None,), "--optim, --learning_rate and --weight_decay decide it"),
    "scheduler": ((None,), "--lr_scheduler_type and --warmup_steps decide it"),
}


def launch_problems(args: Any, environment: Mapping[str, str]) -> list[str]:
    """Everything that is wrong with how the run was launched, one message each.

    Args:
        args: the flags; --deepspeed and --fsdp_config are a path, a JSON object as text, or settings.
        environment: `os.environ`, as the launcher left it.
    """
    deepspeed, fsdp = args.deepspeed, args.fsdp
    deepspeed_launch, fsdp_launch = launched_with(environment, "DEEPSPEED"), launched_with(environment, "FSDP")
    if (deepspeed or deepspeed_launch) and (fsdp or fsdp_launch):
        first = "--deepspeed" if deepspeed else "a launch with a DeepSpeed configuration"
        second = "--fsdp" if fsdp else "a launch with an FSDP configuration"
        return [f"expected one engine, found {first} together with {second}: leave out one of them"]
    problems = list(_accelerate_problems(environment))
    if deepspeed or deepspeed_launch:
        problems += [*_deepspeed_problems(deepspeed, deepspeed_launch, environment), *_stale_locks(environment)]
    if fsdp and fsdp_launch:
        problems.append("expected one set of FSDP settings, found --fsdp and the launch's own: leave out --fsdp")
    elif fsdp or fsdp_launch:
        config = None if fsdp_launch else args.fsdp_config or {}
        problems += _fsdp_problems(config, args.gradient_checkpointing, environment)
    return problems


def _accelerate_problems(environment: Mapping[str, str]) -> Iterator[str]:
    # Only accelerate's launcher of a single process sets the first, and the second only when it was asked for several.
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= environment.keys() and environment.keys().isdisjoint(WORLD_SIZES):
        yield (
            "accelerate launch was asked for several processes and has started one: it leaves the others to mpirun. "
            "On a CPU pass --config_file accelerate_configs/cpu_two_processes.yaml, on GPUs multi_gpu.yaml; for one "
            "process pass --num_processes 1 and unset MASTER_ADDR."
        )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto")
    if steps not in ("1", "auto"):
        yield (
            f"accelerate's gradient_accumulation_steps: expected 1 or none, found {steps}. rm.py accumulates by itself "
            "over the pairs of a step: pass --gradient_accumulation_steps to rm.py, after its name, instead."
        )
    clipping = environment.get("ACCELERATE_GRADIENT_CLIPPING", "auto")
    if clipping != "auto":
        yield f"accelerate's gradient_clipping: expected none, found {clipping}. --max_grad_norm decides it."


def _deepspeed_problems(deepspeed: str | dict | None, launched: bool, environment: Mapping[str, str]) -> Iterator[str]:
    """Of the settings from the flag, from the file that the launch names, or from the launch's own keys."""
    file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") if launched else "none"
    same = isinstance(deepspeed, str) and Path(deepspeed).resolve() == Path(file).resolve()
    if deepspeed and launched and not same:
        yield (
            f"expected one set of DeepSpeed settings, found two: --deepspeed {_short(deepspeed)} and the launch's "
            f"{'own' if file == 'none' else file}, which would not be used. Leave out --deepspeed, or launch with "
            "--config_file accelerate_configs/multi_gpu.yaml."
        )
    if not deepspeed and file == "none":
        gathers = environment.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "false").lower() == "true"
        stage = int(environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))  # 2 is accelerate's default
        zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": gathers}
        yield from _stage_problems("the launch's deepspeed_config", zero)
        return
    where = f"--deepspeed {_short(deepspeed)}" if deepspeed else f"accelerate's deepspeed_config_file {file}"
    settings, unreadable = _read_settings(where, deepspeed or file)
    if unreadable:
        yield unreadable
        return
    for key, (allowed, decided_by) in DECIDED_BY_FLAGS.items():
        if (value := settings.get(key)) not in allowed:
            expected, found = '"auto"' if "auto" in allowed else "nothing", "nothing" if value is None else repr(value)
            yield f"{where}: {key}: expected {expected}, found {found}: {decided_by}"
    yield from _stage_problems(f"{where}: zero_optimization", settings.get("zero_optimization"))


def _stage_problems(where: str, zero: object) -> Iterator[str]:
    if not isinstance(zero, dict):
        yield f"{where}: expected a section with a stage, found none"
    elif (stage := zero.get("stage")) not in (1, 2, 3):
        yield f"{where}: stage: expected 1, 2 or 3, found {stage!r}. For stage 0 launch without DeepSpeed."
    elif stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:
        yield (
            f"{where}: stage3_gather_16bit_weights_on_model_save: expected true at stage 3 (zero3_save_16bit_model in "
            "an accelerate configuration), found no such setting. Without it the final model would have no weights."
        )


def _stale_locks(environment: Mapping[str, str]) -> Iterator[str]:
    """Locks that killed compilations have left: DeepSpeed would wait for each of them for ever, without a message.

    A process that compiles has its lock open (torch.utils.file_baton); nobody has one open that was left behind.
    """
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    own = environment.get("TORCH_EXTENSIONS_DIR")
    locks = Path(own).resolve().glob("*/lock") if own else Path(cache, "torch_extensions").resolve().glob("*/*/lock")
    for lock in filter(_is_abandoned, locks):
        yield (
            f"DeepSpeed's compiled parts: expected no lock, found {lock}, which no process of this machine holds: a "
            f"compilation was killed, and every run would wait for it. Remove it (rm {lock}), unless another machine "
            "that shares this folder is compiling."
        )


def _is_abandoned(lock: Path) -> bool:
    """Whether no process has the file open; False for another user's, whose open files are not to be seen."""
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):  # noqa: PTH207 (pathlib's fails where a process ends)
        with suppress(OSError):
            if Path(descriptor).readlink() == lock:
                return False
    with suppress(FileNotFoundError):  # it was released meanwhile
        return lock.stat().st_uid == os.getuid()
    return False


def _fsdp_problems(
    config: str | dict | None, gradient_checkpointing: bool, environment: Mapping[str, str]
) -> Iterator[str]:
    """`config` is the value of --fsdp_config, or None where the launch has settings of its own."""
    if config is None:
        where = "the launch's fsdp_config"
        version = environment.get("FSDP_VERSION", "1")
        checkpointing = environment.get("FSDP_ACTIVATION_CHECKPOINTING", "false")
    else:
        where = f"--fsdp_config {_short(config)}"
        settings, unreadable = _read_settings(where, config)
        if unreadable:
            yield unreadable
        settings = {name.removeprefix("fsdp_"): value for name, value in settings.items()}
        version, checkpointing = settings.get("version", 2), settings.get("activation_checkpointing", False)
    if str(version) != "2":
        yield f"{where}: fsdp_version: expected 2, found {version}; version 1 is not supported"
    if str(checkpointing).lower() == "true" and gradient_checkpointing:
        yield (
            f"{where}: fsdp_activation_checkpointing: expected false beside --gradient_checkpointing, which does it "
            "already, found true. Leave out one of them."
        )


def _read_settings(where: str, source: str | dict) -> tuple[dict[str, Any], str]:
    """The settings of a path, a JSON object as text, or a dictionary; and why they cannot be read, if so."""
    if isinstance(source, dict):
        return source, ""
    try:
        content = json.loads(source if source.startswith("{") else Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        return {}, f"{where}: expected a JSON file, found none that can be read ({error.strerror})"
    except ValueError as error:
        return {}, f"{where}: expected JSON, found {error}"
    if not isinstance(content, dict):
        return {}, f"{where}: expected a JSON object of settings, found a {type(content).__name__}"
    return content, ""


def _short(settings: str | dict) -> str:
    return "{...}" if isinstance(settings, dict) or settings.startswith("{") else settings

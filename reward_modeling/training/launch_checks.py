"""How a run was launched: wrong combinations found before anything is loaded, and the name of the engine.

`accelerate launch` hands its configuration to the script in environment variables, torchrun the number of processes.
Nothing here imports torch or accelerate: the checks run before transformers has set up a device.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    pass
from reward_modeling.common.launch import WORLD_SIZES, launched_with

Settings = dict[str, object]

PAIRS_IN_A_STEP = "--per_device_train_batch_size x --gradient_accumulation_steps x processes are the pairs of a step"
# What the Trainer writes into the DeepSpeed settings where they say "auto". rm.py tells the Trainer one accumulation
# step, whatever its own flag says, since it cuts a step into forward passes itself. A value given for a key would be
# refused, but only after the model is loaded; a key left out that is required here would silently mean no clipping,
# and no batch size.
OWNED_BY_THE_TRAINER = {
    # key: (required, what decides it)
    "train_batch_size": (False, PAIRS_IN_A_STEP),
    "train_micro_batch_size_per_gpu": (True, PAIRS_IN_A_STEP),
    "gradient_accumulation_steps": (False, PAIRS_IN_A_STEP),
    "gradient_clipping": (True, "--max_grad_norm decides it"),
}
# DeepSpeed's own take the place of rm.py's without a word: of --optim and its groups (no weight decay on norms), and of
# --lr_scheduler_type.
OWNED_SECTIONS = {
    "optimizer": "--optim, --learning_rate and --weight_decay decide it",
    "scheduler": "--lr_scheduler_type and --warmup_steps decide it",
}
# Keys that accelerate refuses in its configuration where that names a DeepSpeed file (accelerate 1.15,
# DeepSpeedPlugin._deepspeed_config_checks).
REFUSED_BESIDE_A_FILE = {
    *("gradient_accumulation_steps", "gradient_clipping", "mixed_precision", "zero_stage", "zero3_save_16bit_model"),
    *("offload_optimizer_device", "offload_optimizer_nvme_path", "offload_param_device", "offload_param_nvme_path"),
}


def launch_problems(
    *,
    deepspeed: str | dict | None,
    fsdp: str | list | bool | None,
    fsdp_config: str | dict | None,
    gradient_checkpointing: bool,
    environment: Mapping[str, str],
) -> list[str]:
    """Everything that is wrong with how the run was launched, one message each.

    Args:
        deepspeed: the value of --deepspeed: a path, a JSON object as text, or settings.
        fsdp: the value of --fsdp.
        fsdp_config: the value of --fsdp_config: a path, a JSON object as text, or settings.
        gradient_checkpointing: the value of --gradient_checkpointing.
        environment: `os.environ`, as the launcher left it.
    """
    deepspeed_launch, fsdp_launch = launched_with(environment, "DEEPSPEED"), launched_with(environment, "FSDP")
    if (deepspeed or deepspeed_launch) and (fsdp or fsdp_launch):
        first = "--deepspeed" if deepspeed else "a launch with a DeepSpeed configuration"
        second = "--fsdp" if fsdp else "a launch with an FSDP configuration"
        return [f"expected one engine, found {first} together with {second}: leave out one of them"]
    problems = _process_problems(environment)
    if deepspeed or deepspeed_launch:
        problems += _deepspeed_problems(deepspeed, deepspeed_launch, environment) + _compilation_problems(environment)
    if fsdp or fsdp_launch:
        problems += _fsdp_problems(fsdp, fsdp_launch, fsdp_config, gradient_checkpointing, environment)
    return problems


def _process_problems(environment: Mapping[str, str]) -> list[str]:
    problems = []
    # Only accelerate's launcher of a single process sets the first, and the second only when it was asked for several.
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= environment.keys() and environment.keys().isdisjoint(WORLD_SIZES):
        problems.append(
            "accelerate launch was asked for several processes and has started one: it leaves the others to mpirun. "
            "On a CPU pass --config_file accelerate_configs/cpu_two_processes.yaml, on GPUs multi_gpu.yaml; for one "
            "process pass --num_processes 1 and unset MASTER_ADDR."
        )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto")
    if steps not in ("1", "auto"):
        problems.append(
            f"accelerate's gradient_accumulation_steps: expected 1 or none, found {steps}. rm.py accumulates by itself "
            "over the pairs of a step: pass --gradient_accumulation_steps to rm.py, after its name, instead."
        )
    return problems


# --- DeepSpeed ----------------------------------------------------------------------------------------------


def _deepspeed_problems(deepspeed: str | dict | None, launched: bool, environment: Mapping[str, str]) -> list[str]:
    """Of the settings from the flag, from the file that the launch names, or from the launch's own keys."""
    launch_file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    problems = []
    if deepspeed and launched and not _same_file(deepspeed, launch_file):
        problems.append(
            f"expected one set of DeepSpeed settings, found two: --deepspeed {_shown(deepspeed)} and the launch's "
            f"{'own' if launch_file == 'none' else launch_file}, which would not be used. Leave out --deepspeed, or "
            "launch with --config_file accelerate_configs/multi_gpu.yaml."
        )
    clipping = environment.get("ACCELERATE_GRADIENT_CLIPPING", "auto")
    if launched and clipping != "auto":
        problems.append(f"accelerate's gradient_clipping: expected none, found {clipping}. --max_grad_norm decides it.")
    if not deepspeed and launch_file == "none":
        return problems + _stage_problems("the launch's deepspeed_config", _settings_of_the_launch(environment))
    refused = REFUSED_BESIDE_A_FILE & set(environment.get("ACCELERATE_CONFIG_DS_FIELDS", "").split(","))
    if launched and refused:
        problems.append(
            f"accelerate's configuration: expected no {' and no '.join(sorted(refused))} beside DeepSpeed settings "
            "from a file. Remove it there; the DeepSpeed file and rm.py's flags decide."
        )
    where = f"--deepspeed {_shown(deepspeed)}" if deepspeed else f"accelerate's deepspeed_config_file {launch_file}"
    settings, unreadable = _read_settings(deepspeed or launch_file, where, "a DeepSpeed JSON file")
    return problems + (unreadable or _settings_problems(where, settings, environment))


def _settings_problems(where: str, settings: Settings, environment: Mapping[str, str]) -> list[str]:
    problems = []
    processes = int(environment.get("WORLD_SIZE", "1"))
    for key, (required, decided_by) in OWNED_BY_THE_TRAINER.items():
        value = settings.get(key)
        if value == "auto" or (value is None and not required):
            continue
        found = "nothing" if value is None else repr(value)
        what = f'{where}: {key}: expected "auto", found {found}'
        if key == "train_batch_size" and isinstance(value, int) and value % processes:
            what = f'{where}: {key} {value} does not divide over {processes} processes; expected "auto"'
        problems.append(f"{what}: {decided_by}")
    problems += [
        f'{where}: expected no section "{name}", found one: {decided_by}'
        for name, decided_by in OWNED_SECTIONS.items()
        if name in settings
    ]
    zero = settings.get("zero_optimization")
    if not isinstance(zero, dict):
        return [*problems, f'{where}: expected a section "zero_optimization" with a stage, found none']
    return problems + _stage_problems(f"{where}: zero_optimization", zero)


def _stage_problems(where: str, zero: Settings) -> list[str]:
    stage = zero.get("stage")
    if stage not in (1, 2, 3):
        return [f"{where}: stage: expected 1, 2 or 3, found {stage!r}. For stage 0 launch without DeepSpeed."]
    if stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:
        return [
            f"{where}: stage3_gather_16bit_weights_on_model_save: expected true at stage 3 (zero3_save_16bit_model in "
            "an accelerate configuration), found no such setting. Without it the final model would have no weights."
        ]
    return []


def _settings_of_the_launch(environment: Mapping[str, str]) -> Settings:
    """As `zero_optimization`, from a configuration of accelerate that names no file. Stage 2 is its default."""
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    gather = environment.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "false").lower() == "true"
    return {"stage": int(stage), "stage3_gather_16bit_weights_on_model_save": gather}


def _compilation_problems(environment: Mapping[str, str]) -> list[str]:
    """Locks of compilations that were killed: DeepSpeed waits for each without an end and without a word.

    A process that compiles has its lock open (torch.utils.file_baton), so one that nobody has open was left behind.
    """
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch_extensions")
    own = environment.get("TORCH_EXTENSIONS_DIR")
    locks = Path(own).resolve().glob("*/lock") if own else cache.resolve().glob("*/*/lock")
    abandoned = [lock for lock in locks if not _is_open(lock)]
    return [
        f"DeepSpeed's compiled parts: expected no lock, found {lock}, which no process of this machine holds: a "
        f"compilation was killed, and every run would wait for it. Remove it (rm {lock}), unless another machine that "
        "shares this folder is compiling."
        for lock in abandoned
        if lock.exists()  # else it was released meanwhile
    ]


def _is_open(path: Path) -> bool:
    """Whether a process of this user has the file open; another user's lock counts as if it had."""
    if path.exists() and path.stat().st_uid != os.getuid():
        return True
    for process in psutil.process_iter():
        try:
            if any(Path(file.path) == path for file in process.open_files()):
                return True
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return False


def _same_file(deepspeed: str | dict, launch_file: str) -> bool:
    return isinstance(deepspeed, str) and Path(deepspeed).resolve() == Path(launch_file).resolve()


def _shown(settings: str | dict) -> str:
    return "{...}" if isinstance(settings, dict) or settings.startswith("{") else settings


def _read_settings(source: str | dict, where: str, expected: str) -> tuple[Settings, list[str]]:
    """Settings and problems; one of the two is empty."""
    if isinstance(source, dict):
        return source, []
    try:
        content = json.loads(source if source.startswith("{") else Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [f"{where}: expected {expected}, found none that can be read ({error.strerror})"]
    except ValueError as error:
        return {}, [f"{where}: expected JSON, found {error}"]
    if not isinstance(content, dict):
        return {}, [f"{where}: expected a JSON object of settings, found a {type(content).__name__}"]
    return content, []


# --- FSDP ---------------------------------------------------------------------------------------------------


def _fsdp_problems(
    fsdp: str | list | bool | None,
    launched: bool,
    fsdp_config: str | dict | None,
    gradient_checkpointing: bool,
    environment: Mapping[str, str],
) -> list[str]:
    if fsdp and launched:
        return ["expected one set of FSDP settings, found --fsdp and the launch's own: leave out --fsdp"]
    if launched:
        where, problems = "the launch's fsdp_config", []
        version = environment.get("FSDP_VERSION", "1")
        checkpointing = environment.get("FSDP_ACTIVATION_CHECKPOINTING", "false")
    else:
        where = "--fsdp_config"
        settings, problems = _read_settings(fsdp_config or {}, f"{where} {_shown(fsdp_config or {})}", "a JSON file")
        settings = {name.removeprefix("fsdp_"): value for name, value in settings.items()}
        version, checkpointing = settings.get("version", 2), settings.get("activation_checkpointing", False)
    if str(version) != "2":
        problems.append(f"{where}: fsdp_version: expected 2, found {version}; version 1 is not supported")
    if str(checkpointing).lower() == "true" and gradient_checkpointing:
        problems.append(
            f"{where}: fsdp_activation_checkpointing: expected false beside --gradient_checkpointing, which does it "
            "already, found true. Leave out one of them."
        )
    return problems

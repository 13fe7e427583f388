"""Wrong launches and their messages, and that every configuration that is shipped is one that the libraries know."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType
from torch.utils.file_baton import FileBaton

from reward_modeling.common.launch import engine_name, variables_of_a_single_process
from reward_modeling.training.launch_checks import launch_problems

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
DEEPSPEED_FILES = sorted(ROOT.glob("deepspeed_*.json"))
ZERO3 = str(ROOT / "deepspeed_3.json")
LAUNCHED = {"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "8"}
LAUNCHED_FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "8"}


def problems(deepspeed=None, fsdp=None, fsdp_config=None, gradient_checkpointing=True, **environment) -> list[str]:
    flags = {"deepspeed": deepspeed, "fsdp": fsdp, "fsdp_config": fsdp_config}
    return launch_problems(SimpleNamespace(**flags, gradient_checkpointing=gradient_checkpointing), environment)


def only_problem(*args, **kwargs) -> str:
    found = problems(*args, **kwargs)
    assert len(found) == 1, found
    return found[0]


def changed(**changes) -> dict:
    """deepspeed_3.json with other values; None takes a key out."""
    settings = json.loads(Path(ZERO3).read_text()) | changes
    return {key: value for key, value in settings.items() if value is not None}


# --- combinations -------------------------------------------------------------------------------------------


def test_correct_combinations():
    file = {"ACCELERATE_DEEPSPEED_CONFIG_FILE": ZERO3, "ACCELERATE_CONFIG_DS_FIELDS": "deepspeed_config_file"}
    gathered = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"}
    assert problems() == []
    assert problems(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="True") == []
    assert problems(ZERO3) == problems(ZERO3, WORLD_SIZE="8") == problems(changed()) == []
    assert problems(json.dumps(changed())) == []
    assert problems(**LAUNCHED) == problems(**LAUNCHED, **file) == problems(**LAUNCHED, **gathered) == []
    assert problems(ZERO3, **LAUNCHED, **file) == []
    assert problems(**LAUNCHED_FSDP) == problems(fsdp="true") == problems(fsdp="full_shard", fsdp_config={}) == []
    assert problems(gradient_checkpointing=False, **LAUNCHED_FSDP, FSDP_ACTIVATION_CHECKPOINTING="true") == []


@pytest.mark.parametrize("file", DEEPSPEED_FILES, ids=lambda path: path.name)
def test_shipped_deepspeed_files_have_no_problem(file):
    assert problems(str(file), WORLD_SIZE="8") == []


@pytest.mark.parametrize(
    ("launch", "first", "second"),
    [
        ({"deepspeed": ZERO3} | LAUNCHED_FSDP, "--deepspeed", "an FSDP configuration"),
        ({"deepspeed": ZERO3, "fsdp": "true"}, "--deepspeed", "--fsdp"),
        ({"fsdp": "true"} | LAUNCHED, "a DeepSpeed configuration", "--fsdp"),
    ],
)
def test_two_engines(launch, first, second):
    message = only_problem(**launch)
    assert message.startswith("expected one engine") and first in message and second in message


def test_two_sets_of_deepspeed_settings():
    message = only_problem(ZERO3, **LAUNCHED, ACCELERATE_DEEPSPEED_CONFIG_FILE=str(ROOT / "deepspeed_2.json"))
    assert "found two" in message and "deepspeed_3.json" in message and "deepspeed_2.json" in message
    assert "the launch's own" in only_problem(ZERO3, **LAUNCHED)


def test_same_file_under_another_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert problems(ZERO3, **LAUNCHED, ACCELERATE_DEEPSPEED_CONFIG_FILE="./deepspeed_3.json") == []


def test_two_sets_of_fsdp_settings():
    assert "leave out --fsdp" in only_problem(fsdp="true", **LAUNCHED_FSDP)


def test_one_process_where_several_were_asked_for():
    message = only_problem(ACCELERATE_USE_CPU="False", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    assert "has started one" in message and "cpu_two_processes.yaml" in message


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", ["4", "0"])
def test_accumulation_by_accelerate(steps):
    message = only_problem(ACCELERATE_GRADIENT_ACCUMULATION_STEPS=steps)
    assert f"found {steps}" in message and "pass --gradient_accumulation_steps to rm.py" in message
    assert problems(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="1") == []


def test_clipping_by_accelerate():
    message = only_problem(**LAUNCHED, ACCELERATE_GRADIENT_CLIPPING="1.0")
    assert "found 1.0" in message and "--max_grad_norm" in message
    assert problems(**LAUNCHED, ACCELERATE_GRADIENT_CLIPPING="auto") == []


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [
        ("train_batch_size", 32, "--per_device_train_batch_size"),
        ("train_micro_batch_size_per_gpu", 1, "--per_device_train_batch_size"),
        ("gradient_accumulation_steps", 4, "--gradient_accumulation_steps"),
        ("gradient_clipping", 1.0, "--max_grad_norm"),
    ],
)
def test_values_that_the_trainer_owns(key, value, flag):
    message = only_problem(changed(**{key: value}), WORLD_SIZE="8")
    assert f'{key}: expected "auto", found {value}' in message and flag in message


def test_values_that_may_be_left_out():
    assert problems(changed(train_batch_size=None, gradient_accumulation_steps=None)) == []
    for key in ("train_micro_batch_size_per_gpu", "gradient_clipping"):
        assert f'{key}: expected "auto", found nothing' in only_problem(changed(**{key: None}))


@pytest.mark.parametrize(("section", "flag"), [("optimizer", "--optim"), ("scheduler", "--lr_scheduler_type")])
def test_sections_that_the_trainer_owns(section, flag):
    message = only_problem(changed(**{section: {"type": "AdamW"}}))
    assert f"{section}: expected nothing, found" in message and flag in message


def test_final_model_without_weights():
    message = only_problem(changed(zero_optimization={"stage": 3}))
    assert "stage3_gather_16bit_weights_on_model_save: expected true" in message
    assert "zero3_save_16bit_model" in only_problem(**LAUNCHED, ACCELERATE_DEEPSPEED_ZERO_STAGE="3")


@pytest.mark.parametrize("stage", [0, 4, "auto", None])
def test_stage(stage):
    assert f"expected 1, 2 or 3, found {stage!r}" in only_problem(changed(zero_optimization={"stage": stage}))


def test_no_zero_section():
    assert "zero_optimization: expected a section with a stage, found none" in only_problem(
        changed(zero_optimization=None)
    )


@pytest.mark.parametrize(
    ("content", "found"), [("{no", "expected JSON"), ("", "expected JSON"), ("[1]", "found a list"), (None, "No such")]
)
def test_unreadable_file(tmp_path, content, found):
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_text(content)
    by_flag = only_problem(str(path))
    by_launch = only_problem(**LAUNCHED, ACCELERATE_DEEPSPEED_CONFIG_FILE=str(path))
    by_fsdp = only_problem(fsdp="true", fsdp_config=str(path))
    assert by_flag.startswith(f"--deepspeed {path}: ") and found in by_flag
    assert by_launch.startswith(f"accelerate's deepspeed_config_file {path}: ") and found in by_launch
    assert by_fsdp.startswith(f"--fsdp_config {path}: ") and found in by_fsdp


def test_fsdp_version_1(tmp_path):
    path = tmp_path / "fsdp.json"
    path.write_text('{"fsdp_version": 1}')
    launches = (
        {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"},
        {"ACCELERATE_USE_FSDP": "true"},
        {"fsdp": "true", "fsdp_config": {"version": 1}},
        {"fsdp": "true", "fsdp_config": str(path)},
    )
    assert all("expected 2, found 1" in only_problem(**launch) for launch in launches)


def test_checkpointing_twice():
    assert "--gradient_checkpointing" in only_problem(**LAUNCHED_FSDP, FSDP_ACTIVATION_CHECKPOINTING="true")
    assert "found true" in only_problem(fsdp="true", fsdp_config={"activation_checkpointing": True})


def test_all_problems_at_once():
    settings = changed(gradient_clipping=1.0, train_batch_size=30, optimizer={})
    assert len(problems(settings, WORLD_SIZE="8", ACCELERATE_GRADIENT_ACCUMULATION_STEPS="2")) == 4


# --- what is shipped ----------------------------------------------------------------------------------------


def test_every_configuration_is_there():
    names = {path.stem for path in CONFIGURATIONS}
    assert names == {
        *("single_gpu", "multi_gpu", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"),
        *("cpu", "cpu_two_processes", "multi_node"),
    }
    assert [path.name for path in DEEPSPEED_FILES] == [
        "deepspeed_2.json",
        "deepspeed_3.json",
        "deepspeed_3_offload.json",
    ]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_configurations_parse(path):
    """accelerate refuses unknown keys of the file itself; those of its sections it would take without a look."""
    configuration = load_config_from_file(str(path))
    assert configuration.num_processes >= 1
    known = {action.dest for action in launch_command_parser()._actions}
    content = yaml.safe_load(path.read_text())
    for section in ("deepspeed_config", "fsdp_config"):
        assert set(content.get(section, ())) <= known
    assert ("mixed_precision" in content) == (configuration.distributed_type != DistributedType.DEEPSPEED)
    assert content.get("mixed_precision", "no") == "no"
    named = configuration.deepspeed_config.get("deepspeed_config_file")
    assert named is None or (ROOT / named).is_file()
    assert path.read_text().startswith("# ")


@pytest.fixture
def no_deepspeed_left(monkeypatch):
    """transformers keeps the settings that were read last, and accelerate reads the environment."""
    from transformers.integrations import unset_hf_deepspeed_config

    for name in list(os.environ):
        if name.startswith("ACCELERATE_"):
            monkeypatch.delenv(name)
    yield
    unset_hf_deepspeed_config()


def names(model) -> set[str]:
    """The keys that one of DeepSpeed's settings models reads; any other it would refuse or drop."""
    return set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}


@pytest.mark.parametrize("path", DEEPSPEED_FILES, ids=lambda path: path.name)
def test_deepspeed_accepts_the_shipped_files(path, no_deepspeed_left):
    """Every key is one that DeepSpeed knows, and it takes every value that does not wait for the Trainer."""
    config = pytest.importorskip("deepspeed.runtime.zero.config")
    zero = json.loads(path.read_text())["zero_optimization"]
    assert set(zero) <= names(config.DeepSpeedZeroConfig)
    assert set(zero.get("offload_optimizer", {})) <= names(config.DeepSpeedZeroOffloadOptimizerConfig)
    assert set(zero.get("offload_param", {})) <= names(config.DeepSpeedZeroOffloadParamConfig)
    taken = config.DeepSpeedZeroConfig(**{key: value for key, value in zero.items() if value != "auto"})
    offloads = "offload" in path.stem
    assert (taken.offload_optimizer is not None, taken.offload_param is not None) == (offloads, offloads)
    plugin = DeepSpeedPlugin(hf_ds_config=str(path))
    assert int(taken.stage) == plugin.zero_stage == zero["stage"]
    assert plugin.zero_stage < 3 or plugin.zero3_save_16bit_model


def test_accelerate_refuses_second_values_beside_a_file(no_deepspeed_left, monkeypatch):
    """So no check of ours has to: rm.py shows a ValueError of its arguments as a message."""
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", "deepspeed_config_file,gradient_clipping")
    with pytest.raises(ValueError, match="remove others config variables"):
        DeepSpeedPlugin(hf_ds_config=ZERO3)


def test_an_abandoned_lock_of_a_compilation_is_named(tmp_path):
    """torch waits for it forever; a lock that a process holds is one to wait for."""
    where = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    baton = FileBaton(str(tmp_path / "cpu_adam" / "lock"))
    Path(baton.lock_file_path).parent.mkdir()
    assert baton.try_acquire()
    assert problems(deepspeed=ZERO3, **where) == []
    os.close(baton.fd)  # as a kill does
    assert f"rm {baton.lock_file_path}" in only_problem(deepspeed=ZERO3, **where)
    assert problems(**where) == []  # of no concern without DeepSpeed
    Path(baton.lock_file_path).unlink()
    assert problems(deepspeed=ZERO3, **where) == []


def test_an_abandoned_lock_in_the_usual_place_is_named(tmp_path):
    lock = tmp_path / "torch_extensions" / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert f"rm {lock}" in only_problem(deepspeed=ZERO3, XDG_CACHE_HOME=str(tmp_path))


# --- what else rm.py asks -----------------------------------------------------------------------------------


def test_variables_of_a_single_process():
    assert variables_of_a_single_process({"RANK": "1", "WORLD_SIZE": "2"}) == {}
    assert variables_of_a_single_process({"OMPI_COMM_WORLD_SIZE": "2"}) == {}
    variables = variables_of_a_single_process({})
    assert (variables["RANK"], variables["LOCAL_RANK"], variables["WORLD_SIZE"]) == ("0", "0", "1")
    assert int(variables["MASTER_PORT"]) > 0


@pytest.mark.parametrize(
    ("kind", "plugins", "name"),
    [
        (DistributedType.NO, {}, "single"),
        (DistributedType.MULTI_GPU, {}, "ddp"),
        (DistributedType.MULTI_CPU, {}, "ddp"),
        (DistributedType.DEEPSPEED, {"deepspeed_plugin": SimpleNamespace(zero_stage=1)}, "zero1"),
        (DistributedType.DEEPSPEED, {"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "zero3"),
        (DistributedType.FSDP, {"fsdp_plugin": SimpleNamespace(fsdp_version=2)}, "fsdp2"),
    ],
)
def test_engine_name(kind, plugins, name):
    assert engine_name(SimpleNamespace(distributed_type=kind, **plugins)) == name

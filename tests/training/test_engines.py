"""The same step on every engine, over real processes: DDP, ZeRO-2, ZeRO-3 and FSDP2 on two CPUs against one process.

The launch files and DeepSpeed settings are those that the project ships, with the CPU switched on.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from engines import (
    BY_WEIGHTS,
    EVERY_ENGINE,
    NEEDS_COMPILER,
    SHARDED_WEIGHTS,
    assert_same_weights,
    launch_engine,
    run_engine,
)
from runs import ROOT, Run, assert_same_figures, free_port, launch, plain_rewards, train, weights_of, write_rows

from reward_modeling.tiny.preferences import learnable_preferences

pytestmark = pytest.mark.slow
STEPS = 20
PAIRS_PER_STEP = 8


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return learnable_preferences(40, seed=3)


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    """More than an epoch in 20 steps, whose last one is not full."""
    return {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 256,
        "max_steps": STEPS,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": PAIRS_PER_STEP,
        "learning_rate": 1e-3,
        "eval_size": 10,
        "logging_steps": 1,
        "save_every_steps": 10,
        "eval_every_steps": 10,
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Run:
    """The reference: one process, as many accumulated forward passes as pairs."""
    return train(base, tmp_path_factory.mktemp("alone") / "output", verify_saved_model="false")


def halved(base: dict[str, object]) -> dict[str, object]:
    """The same pairs per step on two processes."""
    return base | {"gradient_accumulation_steps": PAIRS_PER_STEP // 2}


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory) -> dict[str, Run]:
    """Each engine's run over two processes, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("engines")

    class Runs(dict):
        def __missing__(self, engine: str) -> Run:
            launch_engine(engine, halved(base), folder / engine / "output")
            self[engine] = Run(folder / engine / "output")
            return self[engine]

    return Runs()


def assert_same_steps(run: Run, reference: Run) -> None:
    """The figures that the project promises."""
    assert len(run.losses()) == len(reference.losses()) == STEPS
    assert run.losses() == pytest.approx(reference.losses(), abs=1e-5)
    assert_same_weights(run, reference, 1e-4)
    evaluations = [[entry for entry in of.history if "eval_loss" in entry] for of in (run, reference)]
    for entry, expected in zip(*evaluations, strict=True):
        for name in ("eval_pairs", "eval_accuracy", "eval_loss", "eval_margin"):
            assert entry[name] == pytest.approx(expected[name], abs=1e-5)
    for name in ("margin", "reward_mean", "reward_std"):  # of a step alone, and not of the evaluation before it
        figures = [[entry[name] for entry in of.history if "loss" in entry] for of in (run, reference)]
        assert figures[0] == pytest.approx(figures[1], abs=1e-4)
    norms = [[entry["grad_norm"] for entry in of.history if "loss" in entry] for of in (run, reference)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


# --- the same step ------------------------------------------------------------------------------------------


def test_the_reference_has_what_can_go_wrong(alone):
    """Steps of one group, where a process has none of its own; unequal groups; an epoch that ends within."""
    loader = alone.trainer.get_train_dataloader()
    plan = loader.batch_sampler.plan
    chunks = [sum(len(batch) for batch in plan.micro_batches(step, 1)[0]) for step in range(len(plan))]
    assert 1 in chunks
    assert len(set(chunks)) > 2
    assert plan.sizes.num_units % PAIRS_PER_STEP
    assert len(plan) < STEPS
    assert len(set(alone.losses())) == STEPS


def test_one_forward_pass_or_eight(alone, base, tmp_path):
    changes = {"per_device_train_batch_size": PAIRS_PER_STEP, "gradient_accumulation_steps": 1}
    run = train(base | changes, tmp_path / "output", verify_saved_model="false", max_tokens_per_micro_batch=100_000)
    assert_same_steps(run, alone)


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_two_processes_take_the_same_steps(engine, alone, runs):
    assert_same_steps(runs[engine], alone)
    record = json.loads((runs[engine].output / "checkpoint-10" / "resume.json").read_text())
    assert (record["engine"], record["num_processes"]) == (engine, 2)  # and not another one in its place


def test_another_seed_is_not_the_same_step(alone, base, tmp_path):
    """The negative control: what the comparison must find."""
    run = train(base | {"data_seed": 7}, tmp_path / "output", verify_saved_model="false")
    assert run.losses()[0] != pytest.approx(alone.losses()[0], abs=1e-4)
    with pytest.raises(AssertionError):
        assert_same_weights(run, alone, 1e-4)


# --- what is saved ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_the_whole_model_is_saved_and_proven(engine, alone, runs, rows):
    model = runs[engine].model
    verification = json.loads((model / "verification.json").read_text())
    assert verification["passed"] and verification["num_rows"] >= 4
    assert max(verification["largest_difference_padded"], verification["largest_difference_alone"]) < 1e-4
    assert (runs[engine].output / "checkpoint-10" / "model.safetensors").is_file()  # a model too, if the run dies
    config = json.loads((model / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["GemmaForSequenceClassification"], "float32")
    conversations = [row["chosen"] for row in rows[:4]]
    for together in (True, False):
        expected = plain_rewards(alone.model, conversations, together)
        assert plain_rewards(model, conversations, together) == pytest.approx(expected, abs=1e-3)


def test_sharded_engines_are_really_sharded(runs):
    """Two processes that each train a copy would pass all the comparisons above."""
    fsdp2 = runs["fsdp2"].output / "checkpoint-10"
    assert len(list((fsdp2 / "pytorch_model_fsdp_0").glob("__*_0.distcp"))) == 2
    if shutil.which("c++") is not None:
        zero3 = runs["zero3"].output / "checkpoint-10" / "global_step10"
        sizes = [path.stat().st_size for path in zero3.glob("*_optim_states.pt")]
        whole = sum(value.numel() * 12 for value in weights_of(runs["zero3"].model).values())
        assert len(sizes) == 2 and max(sizes) < 0.75 * whole


@pytest.mark.parametrize("engine", SHARDED_WEIGHTS)
def test_training_starts_from_a_reward_model(engine, alone, base, runs, tmp_path):
    """Our own checkpoint, under the engines that spread the weights while they load: the head is the saved one."""
    flags = base | {"model_name": alone.model, "max_steps": 2, "save_strategy": "no", "verify_saved_model": "false"}
    del flags["save_every_steps"]
    expected = train(flags, tmp_path / "alone")
    run_engine(engine, halved(flags), tmp_path / engine / "output")
    assert Run(tmp_path / engine / "output").losses() == pytest.approx(expected.losses(), abs=1e-5)


# --- resume -------------------------------------------------------------------------------------------------


def stopped_at_step_10(run: Run, folder: Path) -> Path:
    """What a process that was killed after its first checkpoint has left."""
    output = Path(shutil.copytree(run.output, folder / "output"))
    shutil.rmtree(output / "checkpoint-20")
    shutil.rmtree(output / "last_checkpoint")
    (output / "trainer_state.json").unlink()
    return output


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_resume_is_bit_equal(engine, base, runs, tmp_path):
    output = stopped_at_step_10(runs[engine], tmp_path)
    run_engine(engine, halved(base) | {"resume_from_checkpoint": "true", "verify_saved_model": "false"}, output)
    assert Run(output).losses() == runs[engine].losses()
    assert_same_weights(Run(output), runs[engine], 0)


@pytest.mark.parametrize("engine", BY_WEIGHTS)
def test_the_memory_probe_leaves_no_trace(engine, base, runs, tmp_path):
    assert "heaviest_micro_batch_tokens" in runs[engine].history[0]
    flags = halved(base) | {"probe_memory": "false", "verify_saved_model": "false"}
    run_engine(engine, flags, tmp_path / "output")
    assert "heaviest_micro_batch_tokens" not in Run(tmp_path / "output").history[0]
    assert Run(tmp_path / "output").losses() == runs[engine].losses()
    assert_same_weights(Run(tmp_path / "output"), runs[engine], 0)


def test_a_ddp_checkpoint_goes_on_with_one_process(alone, base, runs, tmp_path):
    output = stopped_at_step_10(runs["ddp"], tmp_path)
    run = train(base | {"resume_from_checkpoint": "true", "verify_saved_model": "false"}, output)
    assert_same_steps(run, alone)


def test_a_checkpoint_of_one_process_goes_on_with_two(alone, base, tmp_path):
    output = stopped_at_step_10(alone, tmp_path)
    flags = halved(base) | {"resume_from_checkpoint": "true", "verify_saved_model": "false"}
    run_engine("ddp", flags, output)
    assert_same_steps(Run(output), alone)


def test_an_fsdp2_checkpoint_goes_on_with_three_processes(alone, base, runs, tmp_path):
    """Eight pairs a step do not divide over three processes, and need not."""
    output = stopped_at_step_10(runs["fsdp2"], tmp_path)
    flags = base | {"pairs_per_step": PAIRS_PER_STEP, "resume_from_checkpoint": "true", "verify_saved_model": "false"}
    run_engine("fsdp2", flags, output, processes=3)
    assert_same_steps(Run(output), alone)


@NEEDS_COMPILER
def test_a_zero3_checkpoint_asks_for_as_many_processes(base, runs, tmp_path):
    output = stopped_at_step_10(runs["zero3"], tmp_path)
    process = run_engine("zero3", base | {"resume_from_checkpoint": "true"}, output, processes=1, status=2)
    assert "processes: 2 in the checkpoint, now 1" in process.stderr
    assert (output / "checkpoint-10" / "trainer_state.json").is_file()


# --- bfloat16 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_bfloat16_is_saved_as_trained_and_proven(engine, base, alone, tmp_path):
    """DeepSpeed holds the weights of a bf16 run in bfloat16; the others keep them in float32."""
    flags = halved(base) | {"bf16": "true", "max_steps": 4, "save_every_steps": 4}
    run_engine(engine, flags, tmp_path / "output")
    run = Run(tmp_path / "output")
    expected = torch.bfloat16 if engine.startswith("zero") else torch.float32
    assert {value.dtype for value in weights_of(run.model).values()} == {expected}
    assert json.loads((run.model / "config.json").read_text())["dtype"] == str(expected).removeprefix("torch.")
    verification = json.loads((run.model / "verification.json").read_text())
    assert verification["passed"] and verification["precision"] == "bfloat16"
    # 8 bits: the losses of a model with rewards of about 1 agree to about 1%
    assert run.losses() == pytest.approx(alone.losses()[:4], abs=0.02)
    assert run.losses() != pytest.approx(alone.losses()[:4], abs=1e-6)


# --- more ways to launch ------------------------------------------------------------------------------------


@NEEDS_COMPILER
def test_torchrun_with_a_deepspeed_flag_and_offload(alone, base, tmp_path):
    """Without accelerate's launcher; weights and optimizer in host memory."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    settings = ROOT / "deepspeed_3_offload.json"
    flags = halved(base) | {"deepspeed": settings, "max_steps": 5, "verify_saved_model": "false"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    launch(torchrun, flags, tmp_path / "output", PATH=path, OMP_NUM_THREADS="1")
    # the schedule of 5 steps is another one from the second step on
    assert Run(tmp_path / "output").losses()[0] == pytest.approx(alone.losses()[0], abs=1e-5)
    expected = train(base | {"max_steps": 5, "verify_saved_model": "false"}, tmp_path / "alone")
    assert Run(tmp_path / "output").losses() == pytest.approx(expected.losses(), abs=1e-5)


@pytest.fixture(scope="module")
def with_best(base) -> dict[str, object]:
    """A learning rate at which the last model is not the best, by a metric that is not the loss of training."""
    flags = base | {"learning_rate": 2e-2, "save_every_steps": 4, "eval_every_steps": 2, "save_total_limit": 1}
    return flags | {"load_best_model_at_end": "true", "metric_for_best_model": "eval_loss"}


@pytest.fixture(scope="module")
def best_alone(with_best, tmp_path_factory) -> Run:
    run = train(with_best | {"verify_saved_model": "false"}, tmp_path_factory.mktemp("best") / "output")
    assert run.state["best_global_step"] not in (STEPS, 0, None)
    return run


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_the_best_model_is_loaded_at_the_end(engine, with_best, best_alone, tmp_path):
    run_engine(engine, halved(with_best) | {"verify_saved_model": "false"}, tmp_path / engine / "output")
    run, expected = Run(tmp_path / engine / "output"), best_alone
    assert run.state["best_global_step"] == expected.state["best_global_step"]
    assert sorted(path.name for path in run.output.glob("checkpoint-*")) == sorted(
        f"checkpoint-{step}" for step in (run.state["best_global_step"], STEPS)
    )
    assert_same_weights(run, expected, 1e-4)
    assert_same_figures(run, expected)  # of the best weights, evaluated again once they were loaded


def test_machines_that_do_not_share_the_output_folder(base, tmp_path):
    """Two processes that are told they are on two machines, and write to two folders."""
    script = tmp_path / "each_its_own.py"
    script.write_text(
        "import os, runpy, sys\n"
        "os.environ['LOCAL_WORLD_SIZE'] = '1'\n"
        "import reward_modeling.checkpoints.output_folder\n"
        "reward_modeling.checkpoints.output_folder.SECONDS_TO_SEE_A_FILE = 1\n"
        "sys.argv[sys.argv.index('--output_path') + 1] += os.environ['RANK']\n"
        f"runpy.run_path({str(ROOT / 'rm.py')!r}, run_name='__main__')\n"
    )
    process = run_engine("ddp", halved(base), tmp_path / "output", status=2, script=script)
    assert "expected a folder that all machines share, found that process 1" in process.stderr

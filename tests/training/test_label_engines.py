"""Labels, lists and a learned threshold: the same steps on every engine, over any number of micro-batches."""

import json

import pytest
from engines import BY_WEIGHTS, assert_same_weights, run_engine
from labelled_rows import FLAGS, labelled_rows
from runs import ON_ENGINES, Run, train, write_rows

pytestmark = pytest.mark.slow
STEPS, UNITS_PER_STEP = 12, 8


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return labelled_rows(40, seed=3)


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    """More than an epoch."""
    return (
        ON_ENGINES
        | FLAGS
        | {
            "model_name": gemma_folder,
            "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
            "max_steps": STEPS,
            "gradient_accumulation_steps": UNITS_PER_STEP,
            "center_rewards_coefficient": 0.01,
        }
    )


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Run:
    return train(base, tmp_path_factory.mktemp("alone") / "output")


def thresholds(run: Run) -> list[float]:
    """After each step."""
    return [entry["tie_threshold"] for entry in run.history if "loss" in entry]


def saved_threshold(run: Run) -> float:
    config = json.loads((run.model / "config.json").read_text())
    assert config["tie_model"] == "davidson"
    return config["tie_threshold"]


def assert_same_steps(run: Run, reference: Run) -> None:
    assert len(run.losses()) == len(reference.losses()) == STEPS
    assert run.losses() == pytest.approx(reference.losses(), abs=1e-5)
    assert thresholds(run) == pytest.approx(thresholds(reference), abs=1e-5)
    assert saved_threshold(run) == thresholds(run)[-1]
    states = [json.loads((of.output / "checkpoint-6" / "objective_state.json").read_text()) for of in (run, reference)]
    assert states[0] == pytest.approx(states[1], abs=1e-5) and states[0]["steps"] == 6
    assert_same_weights(run, reference, 1e-4)
    evaluations = [[entry for entry in of.history if "eval_loss" in entry] for of in (run, reference)]
    assert len(evaluations[0]) == len(evaluations[1]) == 2
    for entry, expected in zip(*evaluations, strict=True):
        for name in ("eval_pairs", "eval_accuracy", "eval_loss", "eval_margin"):
            assert entry[name] == pytest.approx(expected[name], abs=1e-5)


def test_the_reference_has_every_kind_of_label(alone):
    """Lists beside pairs, unequal weights, ties, soft labels and strengths; and the threshold moves."""
    groups = alone.trainer.train_dataset.groups
    units, targets = ([value for of in groups[name] for value in of] for name in ("units", "targets"))
    assert {len(unit) for unit in units} == {2, 3, 4}
    pairs = [target for unit, target in zip(units, targets, strict=True) if len(unit) == 2]
    assert {round(probability, 3) for probability, _, _ in pairs} == {0.5, 0.7, 0.9, 1.0}
    assert {strength for _, strength, _ in pairs} == {1.0, 2.0, 3.0}
    weights = alone.trainer.train_dataset.sizes.unit_weights
    assert {0.25, 0.5, 1.0, 2.0, 3.0} == set(weights.tolist())
    plan = alone.trainer.get_train_dataloader().batch_sampler.plan
    assert len({plan.step_weight(step) for step in range(len(plan))}) > 2 and len(plan) < STEPS
    moved = thresholds(alone)
    assert len(set(moved)) == STEPS and max(abs(value - 1) for value in moved) > 0.2


@pytest.mark.parametrize("changes", [{"batching": "padded"}, {"max_tokens_per_micro_batch": 100_000}], ids=str)
def test_micro_batches_of_other_sizes(changes, alone, base, tmp_path):
    forward_passes = {"per_device_train_batch_size": UNITS_PER_STEP, "gradient_accumulation_steps": 1}
    assert_same_steps(train(base | forward_passes | changes, tmp_path / "output"), alone)


@pytest.mark.parametrize("engine", BY_WEIGHTS)
def test_two_processes_take_the_same_steps(engine, alone, base, tmp_path):
    halved = base | {"gradient_accumulation_steps": UNITS_PER_STEP // 2}
    run_engine(engine, halved, tmp_path / "output")
    run = Run(tmp_path / "output")
    assert_same_steps(run, alone)
    record = json.loads((run.output / "checkpoint-6" / "resume.json").read_text())
    assert (record["engine"], record["num_processes"]) == (engine, 2)


@pytest.mark.parametrize("change", ["weight", "chosen_probability", {"loss": "bradley_terry"}, {"list_loss": "pairs"}])
def test_without_a_label_it_is_not_the_same_step(change, alone, base, rows, tmp_path):
    """The negative controls: rows without a column, or a loss that passes over one."""
    flags = base | {"max_steps": 3, "save_strategy": "no"} | (change if isinstance(change, dict) else {})
    del flags["save_every_steps"]
    without = [{name: value for name, value in row.items() if name != change} for row in rows]
    run = train(flags | {"train_set_path": write_rows(tmp_path / "train.jsonl", without)}, tmp_path / "output")
    assert max(abs(one - other) for one, other in zip(run.losses(), alone.losses(), strict=False)) > 1e-2

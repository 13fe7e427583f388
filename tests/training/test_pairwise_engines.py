"""Comparisons of answers: the same steps on every engine, over any number of micro-batches."""

import json

import pytest
from compared_rows import compared_rows
from engines import BY_WEIGHTS, assert_same_weights, run_engine
from runs import ON_ENGINES, ROOT, Run, train, write_rows

import rm_pairwise

pytestmark = pytest.mark.slow
STEPS, PAIRS_PER_STEP = 12, 8
SCRIPT = ROOT / "rm_pairwise.py"


@pytest.fixture(scope="module")
def base(gemma_folder, tmp_path_factory) -> dict[str, object]:
    """More than an epoch."""
    return ON_ENGINES | {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", compared_rows(40, seed=3)),
        "max_length": 512,
        "max_steps": STEPS,
        "gradient_accumulation_steps": PAIRS_PER_STEP,
    }


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Run:
    return train(base, tmp_path_factory.mktemp("alone") / "output", main=rm_pairwise.main)


def assert_same_steps(run: Run, reference: Run) -> None:
    assert len(run.losses()) == len(reference.losses()) == STEPS
    assert run.losses() == pytest.approx(reference.losses(), abs=1e-5)
    assert json.loads((run.model / "config.json").read_text())["pairwise"] == {
        "format": "rlhflow",
        "answers": ["A", "B"],
    }
    assert_same_weights(run, reference, 1e-4)
    for one, other in zip(run.history, reference.history, strict=True):
        names = [name for name in other if name.startswith(("accuracy", "flips", "first_p", "eval_loss", "eval_acc"))]
        assert names or "train_runtime" in other or "heaviest_micro_batch_tokens" in other
        assert [one[name] for name in names] == pytest.approx([other[name] for name in names], abs=1e-4, nan_ok=True)
    found, expected = (
        [json.loads(line) for line in (of.output / "eval_scores.jsonl").open()] for of in (run, reference)
    )
    assert [line["where"] for line in found] == [line["where"] for line in expected]
    for name in ("probability", "chosen_first", "rejected_first"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], abs=1e-4)


def test_the_reference_has_every_kind_of_row_and_begins_as_the_language_model(alone):
    """Lists whose pairs share their first answer, soft labels, ties, weights."""
    groups = alone.trainer.train_dataset
    probabilities = set(groups.targets()[:, 0].round(3).tolist())
    assert {0.5, 0.7, 0.9, 1.0} == {round(value, 3) for value in probabilities}
    assert len(set(groups.sizes.unit_weights.round(3).tolist())) > 3
    assert any(map(any, groups.groups["shared_lengths"]))
    assert alone.last("tokens_saved") > 0.3


@pytest.mark.parametrize(
    "changes", [{"batching": "padded"}, {"batching": "packed"}, {"max_tokens_per_micro_batch": 100_000}], ids=str
)
def test_micro_batches_of_other_sizes(changes, alone, base, tmp_path):
    forward_passes = {"per_device_train_batch_size": PAIRS_PER_STEP, "gradient_accumulation_steps": 1}
    run = train(base | forward_passes | changes, tmp_path / "output", main=rm_pairwise.main)
    assert_same_steps(run, alone)


@pytest.mark.parametrize("engine", BY_WEIGHTS)
def test_two_processes_take_the_same_steps(engine, alone, base, tmp_path):
    """The head of the language model too, which each engine puts where it holds its weights."""
    halved = base | {"gradient_accumulation_steps": PAIRS_PER_STEP // 2}
    run_engine(engine, halved, tmp_path / "output", script=SCRIPT)
    run = Run(tmp_path / "output")
    assert_same_steps(run, alone)
    record = json.loads((run.output / "checkpoint-6" / "resume.json").read_text())
    assert (record["engine"], record["num_processes"]) == (engine, 2)


@pytest.mark.parametrize("change", [{"seed": 7}, {"init_head": "new"}, {"ties": "drop"}], ids=str)
def test_with_another_flag_it_is_not_the_same_step(change, alone, base, tmp_path):
    """The negative controls."""
    flags = base | {"max_steps": 3, "save_strategy": "no"} | change
    del flags["save_every_steps"]
    run = train(flags, tmp_path / "output", main=rm_pairwise.main)
    assert max(abs(one - other) for one, other in zip(run.losses(), alone.losses(), strict=False)) > 1e-2

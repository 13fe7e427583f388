"""Ratings, of which some are missing: the same steps on every engine, over any number of micro-batches."""

import json

import numpy as np
import pytest
from engines import BY_WEIGHTS, assert_same_weights, run_engine
from rated_rows import FLAGS, rated_rows
from runs import ON_ENGINES, ROOT, Run, train, write_rows

import rm_regression
from reward_modeling.tiny.ratings import ATTRIBUTES, RANGES

pytestmark = pytest.mark.slow
STEPS, ANSWERS_PER_STEP = 12, 8
SCRIPT = ROOT / "rm_regression.py"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return rated_rows(40, seed=3)


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
            "gradient_accumulation_steps": ANSWERS_PER_STEP,
        }
    )


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Run:
    return train(base, tmp_path_factory.mktemp("alone") / "output", main=rm_regression.main)


def saved_values(run: Run) -> list[object]:
    config = json.loads((run.model / "config.json").read_text())
    return [config[name] for name in ("label_ranges", "reward_weights", "id2label")]


def assert_same_steps(run: Run, reference: Run) -> None:
    assert len(run.losses()) == len(reference.losses()) == STEPS
    assert run.losses() == pytest.approx(reference.losses(), abs=1e-5)
    assert saved_values(run) == saved_values(reference)
    assert_same_weights(run, reference, 1e-4)
    for one, other in zip(run.history, reference.history, strict=True):
        names = [name for name in other if name.startswith(("error_", "eval_error_", "eval_loss", "eval_spearman"))]
        assert names or "train_runtime" in other or "heaviest_micro_batch_tokens" in other
        assert [one[name] for name in names] == pytest.approx([other[name] for name in names], abs=1e-4)
    found, expected = (
        [json.loads(line) for line in (of.output / "eval_scores.jsonl").open()] for of in (run, reference)
    )
    assert [line["where"] for line in found] == [line["where"] for line in expected]
    assert [line["ratings"] for line in found] == [line["ratings"] for line in expected]
    outputs = [[list(line["outputs"].values()) for line in of] for of in (found, expected)]
    assert np.abs(np.array(outputs[0]) - np.array(outputs[1])).max() < 1e-3  # on a scale of 3


def test_the_reference_has_every_kind_of_row(alone):
    """Answers with one rating to all, prompts with one answer to several; and two outputs learn."""
    groups = alone.trainer.train_dataset
    known = (~np.isnan(groups.targets())).sum(axis=1)
    assert set(known.tolist()) == {1, 2, 3}
    assert {1, 2, 3} <= set(groups.sizes.units_per_group.tolist())
    assert saved_values(alone)[0] == {name: [*ends] for name, ends in RANGES.items()}
    assert saved_values(alone)[1] == {"kindness": 1.0, "usefulness": 0.0, "verbosity": -0.5}
    assert saved_values(alone)[2] == dict(zip("012", ATTRIBUTES, strict=True))
    assert alone.losses()[-1] < 0.5 * alone.losses()[0]


@pytest.mark.parametrize(
    "changes", [{"batching": "padded"}, {"batching": "packed"}, {"max_tokens_per_micro_batch": 100_000}], ids=str
)
def test_micro_batches_of_other_sizes(changes, alone, base, tmp_path):
    forward_passes = {"per_device_train_batch_size": ANSWERS_PER_STEP, "gradient_accumulation_steps": 1}
    run = train(base | forward_passes | changes, tmp_path / "output", main=rm_regression.main)
    assert_same_steps(run, alone)


@pytest.mark.parametrize("engine", BY_WEIGHTS)
def test_two_processes_take_the_same_steps(engine, alone, base, tmp_path):
    halved = base | {"gradient_accumulation_steps": ANSWERS_PER_STEP // 2}
    run_engine(engine, halved, tmp_path / "output", script=SCRIPT)
    run = Run(tmp_path / "output")
    assert_same_steps(run, alone)
    record = json.loads((run.output / "checkpoint-6" / "resume.json").read_text())
    assert (record["engine"], record["num_processes"]) == (engine, 2)


def test_quantiles_over_two_processes(base, tmp_path):
    """57 outputs; and steps of one answer, of which the other process has none."""
    flags = base | {"loss": "quantile", "max_steps": 4, "pairs_per_step": 1}
    alone = train(flags, tmp_path / "alone", main=rm_regression.main)
    run_engine("ddp", flags, tmp_path / "two", script=SCRIPT)
    assert Run(tmp_path / "two").losses() == pytest.approx(alone.losses(), abs=1e-5)
    assert_same_weights(Run(tmp_path / "two"), alone, 1e-4)


@pytest.mark.parametrize("change", ["a rating", "seed", "range"])
def test_with_another_rating_it_is_not_the_same_step(change, alone, base, rows, tmp_path):
    """The negative controls."""
    flags = base | {"max_steps": 3, "save_strategy": "no"}
    del flags["save_every_steps"]
    if change == "a rating":
        changed = [row | {"kindness": 3 - row["kindness"]} if row.get("kindness") is not None else row for row in rows]
        flags["train_set_path"] = write_rows(tmp_path / "train.jsonl", changed)
    else:
        flags |= {"seed": 7} if change == "seed" else {"label_ranges": "kindness=0:4"}
    run = train(flags, tmp_path / "output", main=rm_regression.main)
    assert max(abs(one - other) for one, other in zip(run.losses(), alone.losses(), strict=False)) > 1e-2

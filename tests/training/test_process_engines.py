"""Steps with labels: the same optimizer steps on every engine, over any number of micro-batches."""

import json
import math

import pytest
from engines import BY_WEIGHTS, assert_same_weights, run_engine
from runs import ON_ENGINES, ROOT, Run, train, write_rows
from stepped_rows import stepped_rows

import rm_process

pytestmark = pytest.mark.slow
STEPS, SOLUTIONS_PER_STEP = 12, 8
SCRIPT = ROOT / "rm_process.py"
LOGGED = ("step_accuracy", "balanced", "right_steps", "eval_loss", "eval_step_accuracy", "eval_balanced", "eval_auc")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return stepped_rows(40, seed=3)


@pytest.fixture(scope="module")
def base(gemma_folder, rows, tmp_path_factory) -> dict[str, object]:
    """More than an epoch."""
    return ON_ENGINES | {
        "model_name": gemma_folder,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
        "max_length": 512,
        "max_steps": STEPS,
        "gradient_accumulation_steps": SOLUTIONS_PER_STEP,
    }


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Run:
    return train(base, tmp_path_factory.mktemp("alone") / "output", main=rm_process.main)


def assert_same_steps(run: Run, reference: Run) -> None:
    assert len(run.losses()) == len(reference.losses()) == STEPS
    assert run.losses() == pytest.approx(reference.losses(), abs=1e-5)
    assert_same_weights(run, reference, 1e-4)
    for one, other in zip(run.history, reference.history, strict=True):
        names = [name for name in other if name.startswith(LOGGED)]
        assert names or "train_runtime" in other or "heaviest_micro_batch_tokens" in other
        assert [one[name] for name in names] == pytest.approx([other[name] for name in names], abs=1e-4, nan_ok=True)
    found, expected = (
        [json.loads(line) for line in (of.output / "eval_scores.jsonl").open()] for of in (run, reference)
    )
    assert [(line["where"], line["labels"]) for line in found] == [(line["where"], line["labels"]) for line in expected]
    for line, other in zip(found, expected, strict=True):
        assert line["steps"] == pytest.approx(other["steps"], abs=1e-4)


def test_the_reference_has_every_kind_of_row(alone):
    """Trees whose chains share steps, soft labels, steps without a label; and it learns."""
    groups = alone.trainer.train_dataset
    targets = [target for group in groups.groups["targets"] for unit in group for target in unit]
    labels = {round(target, 3) for target in targets if not math.isnan(target)}
    assert {0.0, 0.1, 0.9, 1.0} == labels and any(map(math.isnan, targets))
    assert any(map(any, groups.groups["shared_lengths"]))
    assert max(entry.get("tokens_saved", 0) for entry in alone.history) > 0.4
    assert len(set(groups.sizes.unit_weights.tolist())) > 3
    config = json.loads((alone.model / "config.json").read_text())
    assert config["architectures"] == ["GemmaForTokenClassification"]
    assert config["id2label"] == {"0": "wrong", "1": "right"}
    assert sum(alone.losses()[-4:]) < 0.9 * sum(alone.losses()[:4])


@pytest.mark.parametrize(
    "changes", [{"batching": "padded"}, {"batching": "packed"}, {"max_tokens_per_micro_batch": 100_000}], ids=str
)
def test_micro_batches_of_other_sizes(changes, alone, base, tmp_path):
    forward_passes = {"per_device_train_batch_size": SOLUTIONS_PER_STEP, "gradient_accumulation_steps": 1}
    run = train(base | forward_passes | changes, tmp_path / "output", main=rm_process.main)
    assert_same_steps(run, alone)


@pytest.mark.parametrize("engine", BY_WEIGHTS)
def test_two_processes_take_the_same_steps(engine, alone, base, tmp_path):
    halved = base | {"gradient_accumulation_steps": SOLUTIONS_PER_STEP // 2}
    run_engine(engine, halved, tmp_path / "output", script=SCRIPT)
    run = Run(tmp_path / "output")
    assert_same_steps(run, alone)
    record = json.loads((run.output / "checkpoint-6" / "resume.json").read_text())
    assert (record["engine"], record["num_processes"]) == (engine, 2)


@pytest.mark.parametrize("change", ["a label", "seed", "separator", "last step"])
def test_with_another_label_it_is_not_the_same_step(change, alone, base, rows, tmp_path):
    """The negative controls."""
    flags = base | {"max_steps": 3, "save_strategy": "no"}
    del flags["save_every_steps"]
    if change == "a label":
        changed = [row | {"labels": [*row["labels"][:-1], 0.5]} if "labels" in row else row for row in rows]
        flags["train_set_path"] = write_rows(tmp_path / "train.jsonl", changed)
    else:
        others = {"seed": {"seed": 7}, "separator": {"step_separator": "\\n"}, "last step": {"last_step_only": "true"}}
        flags |= others[change]
    run = train(flags, tmp_path / "output", main=rm_process.main)
    assert max(abs(one - other) for one, other in zip(run.losses(), alone.losses(), strict=False)) > 1e-2

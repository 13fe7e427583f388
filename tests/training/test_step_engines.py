"""Labels of steps, of which some are missing: the same steps on every engine, over any number of micro-batches."""

import json

import pytest
from engines import BY_WEIGHTS, assert_same_weights, run_engine
from runs import ON_ENGINES, ROOT, Run, train, write_rows
from stepped_rows import chain_rows, texts_of
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import rm_process
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.tokenizers import token_ids

pytestmark = pytest.mark.slow
STEPS, SOLUTIONS_PER_STEP = 12, 8
SCRIPT = ROOT / "rm_process.py"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Chains, and a tree whose shared steps are computed once."""
    tree = {
        "prompt": "Begin with 77. What is it in the end?",
        "completions": ["Then add 5 to it, surely this is right.", "Then add 7 to it, surely this is right."],
        "labels": [1.0, 1.0],
    }
    ends = ["Then add 9 to it, perhaps this is right.", "Then add 2 to it, surely this is right."]
    branches = [
        tree | {"completions": [*tree["completions"], end], "labels": [1.0, 1.0, label]}
        for end, label in zip(ends, (0.0, 1.0), strict=True)
    ]
    return [*chain_rows(40, seed=3), tree, *branches]


@pytest.fixture(scope="module")
def base(rows, tmp_path_factory) -> dict[str, object]:
    """More than an epoch."""
    tokenizer = train_tokenizer([*texts_of(rows), "\n\n"], 500, **TOKENIZER_STYLES["llama3"])
    config = tiny_config("llama", len(tokenizer), **token_ids(tokenizer))
    model = build_tiny_checkpoint(tmp_path_factory.mktemp("models") / "llama", tokenizer, config)
    return ON_ENGINES | {
        "model_name": model,
        "train_set_path": write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows),
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
        names = [name for name in other if name.endswith(("accuracy", "eval_loss", "eval_auc", "eval_first_error_f1"))]
        assert names or "train_runtime" in other or "heaviest_micro_batch_tokens" in other
        assert [one[name] for name in names] == pytest.approx([other[name] for name in names], abs=1e-4)
    found, expected = (
        [json.loads(line) for line in (of.output / "eval_scores.jsonl").open()] for of in (run, reference)
    )
    assert [line["where"] for line in found] == [line["where"] for line in expected]
    assert [line["labels"] for line in found] == [line["labels"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["steps"] == pytest.approx(other["steps"], abs=1e-4)
    configs = [json.loads((of.model / "config.json").read_text()) for of in (run, reference)]
    assert configs[0]["process"] == configs[1]["process"]


def test_the_reference_has_every_kind_of_row(alone):
    """Solutions with one label to all, prompts with one solution to several, beginnings that are shared."""
    groups = alone.trainer.train_dataset
    assert {1, 2} <= {len(of) for of in groups.target_lists()}
    assert {1, 2} <= set(groups.sizes.units_per_group.tolist())
    assert len(set(groups.groups.data.column("weights").combine_chunks().flatten().to_pylist())) > 2
    assert max(groups.groups.data.column("shared_lengths").combine_chunks().flatten().to_pylist()) > 0
    assert alone.losses()[-1] < 0.8 * alone.losses()[0]


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


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_new_head_in_the_place_of_a_reward_models(engine, base, tmp_path):
    """The same on two processes, whatever these drew while they loaded; a step of one solution leaves one without."""
    import rm

    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}, surely.", "rejected": f"perhaps {n}"} for n in range(20)]
    flags = base | {"train_set_path": write_rows(tmp_path / "pairs.jsonl", pairs), "max_steps": 1}
    reward_model = train(flags, tmp_path / "reward_model", main=rm.main).model
    flags = base | {"model_name": reward_model, "max_steps": 4, "pairs_per_step": 1}
    one = train(flags, tmp_path / "alone", main=rm_process.main)
    run_engine(engine, flags, tmp_path / "two", script=SCRIPT)
    assert Run(tmp_path / "two").losses() == pytest.approx(one.losses(), abs=1e-5)
    assert_same_weights(Run(tmp_path / "two"), one, 1e-4)


@pytest.mark.parametrize("engine", [each for each in BY_WEIGHTS if each.values[0] == "zero3"])
def test_under_zero3_a_reward_models_head_is_not_replaced(engine, base, tmp_path):
    """One message of both processes, and no traceback."""
    config = AutoConfig.from_pretrained(base["model_name"], num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path / "reward_model")
    AutoTokenizer.from_pretrained(base["model_name"]).save_pretrained(tmp_path / "reward_model")
    flags = base | {"model_name": tmp_path / "reward_model", "max_steps": 1}
    process = run_engine(engine, flags, tmp_path / "two" / "output", script=SCRIPT, status=2)
    said = process.stdout + process.stderr
    assert said.count("expected a language model or a process model under ZeRO-3, found a reward model") == 1
    assert "Traceback" not in said and not list((tmp_path / "two").glob("output/checkpoint-*"))


@pytest.mark.parametrize("change", ["a label", "seed", "separator"])
def test_with_another_label_it_is_not_the_same_step(change, alone, base, rows, tmp_path):
    """The negative controls."""
    flags = base | {"max_steps": 3, "save_strategy": "no"}
    del flags["save_every_steps"]
    if change == "a label":
        changed = [row | {"labels": [each and 1 - each for each in row["labels"]]} for row in rows]
        flags["train_set_path"] = write_rows(tmp_path / "train.jsonl", changed)
    else:
        flags |= {"seed": 7} if change == "seed" else {"step_separator": "\\n"}
    run = train(flags, tmp_path / "output", main=rm_process.main)
    assert max(abs(one - other) for one, other in zip(run.losses(), alone.losses(), strict=False)) > 1e-2

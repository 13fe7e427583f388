"""An encoder's padded rows in blocks: the same step on one process, in other micro-batches, on two of DDP and ZeRO."""

import pytest
from engines import EVERY_ENGINE, run_engine
from runs import Run, train, weights_of, write_rows
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer

from reward_modeling.data.micro_batches import block_shapes
from reward_modeling.tiny.models import build_tiny_checkpoint
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids

STEPS, PAIRS_PER_STEP = 8, 8


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> dict[str, object]:
    """Rows of very different lengths, and no dropout, which would draw other numbers for other micro-batches."""
    folder = tmp_path_factory.mktemp("encoder")
    rows = learnable_preferences(40, seed=3)
    for number, row in enumerate(rows):
        side = ("chosen", "rejected")[number % 2]
        answer = row[side][-1]
        row[side] = [*row[side][:-1], answer | {"content": " ".join([answer["content"]] * (1 + number % 4))}]
    texts = [message["content"] for row in rows for side in ("chosen", "rejected") for message in row[side]]
    tokenizer = train_tokenizer(texts, 600, **TOKENIZER_STYLES["bert"])
    config = tiny_config("bert", len(tokenizer), **token_ids(tokenizer))
    return {
        "model_name": build_tiny_checkpoint(folder / "bert", tokenizer, config),
        "train_set_path": write_rows(folder / "train.jsonl", rows),
        "max_length": 256,
        "max_tokens_per_micro_batch": 600,
        "max_steps": STEPS,
        "pairs_per_step": PAIRS_PER_STEP,
        "learning_rate": 1e-3,
        # Some weights have gradients of rounding alone (softmax does not see the bias of keys): Adam would make steps
        # of 1e-3 of them.
        "adam_epsilon": 1e-3,
        "eval_size": 10,
        "logging_steps": 1,
        "eval_every_steps": 4,
        "save_strategy": "no",
        "verify_saved_model": "false",
        "report_to": "none",
        "use_cpu": "true",
        "num_proc": 1,
    }


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Run:
    return train(base, tmp_path_factory.mktemp("alone") / "output")


def saved(run: Run) -> dict:
    """Its weights, under one name: with ZeRO-3 transformers saves those of norms as gamma and beta."""
    names = {"gamma": "weight", "beta": "bias"}
    parts = ((name.rpartition("."), value) for name, value in weights_of(run.model).items())
    return {f"{module}.{names.get(last, last)}": value for (module, _, last), value in parts}


def assert_same_steps(run: Run, reference: Run) -> None:
    assert len(run.losses()) == len(reference.losses()) == STEPS
    assert run.losses() == pytest.approx(reference.losses(), abs=1e-5)
    weights, expected = saved(run), saved(reference)
    assert weights.keys() == expected.keys()
    largest = max(value.abs().max() for value in expected.values())
    assert max((weights[name] - value).abs().max() for name, value in expected.items()) <= 1e-4 * largest
    evaluations = [[entry for entry in of.history if "eval_loss" in entry] for of in (run, reference)]
    assert len(evaluations[0]) == len(evaluations[1]) > 0
    for entry, expected in zip(*evaluations, strict=True):
        for name in ("eval_pairs", "eval_accuracy", "eval_loss", "eval_margin"):
            assert entry[name] == pytest.approx(expected[name], abs=1e-5)


def test_the_reference_has_what_can_go_wrong(alone):
    """Several blocks in a micro-batch, and on two processes blocks for which one of them has no row."""
    plan = alone.trainer.get_train_dataloader().batch_sampler.plan
    on_one = [len(block_shapes(batch)) for step in range(len(plan)) for batch in plan.micro_batches(step, 1)[0]]
    assert max(on_one) > 2 and len(set(on_one)) > 1
    on_two = [
        shape
        for step in range(len(plan))
        for of in plan.micro_batches(step, 2)
        for batch in of
        for shape in block_shapes(batch)
    ]
    assert (1, 1) in on_two


def test_small_or_large_micro_batches(alone, base, tmp_path):
    assert_same_steps(train(base | {"max_tokens_per_micro_batch": 100_000}, tmp_path / "output"), alone)


def test_another_order_is_not_the_same_step(alone, base, tmp_path):
    """The negative control."""
    with pytest.raises(AssertionError):
        assert_same_steps(train(base | {"data_seed": 7}, tmp_path / "output"), alone)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": "true"}], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_two_processes_take_the_same_steps(engine, changes, alone, base, tmp_path):
    run_engine(engine, base | changes, tmp_path / "output")
    assert_same_steps(Run(tmp_path / "output"), alone)

"""What the reader of steps makes of a row: chains, targets, weights; each step of a tree counts once."""

import json
import math
import random
from functools import partial

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.preferences import NO_OPTIONS, kept_column
from reward_modeling.data.prompt_groups import TokenizeOptions, report_groups, tokenize_and_group
from reward_modeling.data.report import NOTED_ROWS, DataReport, report_rows
from reward_modeling.data.step_chains import chains_of, up_to_labels
from reward_modeling.data.step_rows import STEP_FEATURES, step_row
from reward_modeling.objectives.step_reader import StepReader, are_outcomes
from reward_modeling.training.shown_units import show_unit

READER = StepReader()
STEPS = ["One.", "Two.", "Three."]


def row_of(parents, labels) -> dict:
    return {"steps": [f"step {number}" for number in range(len(parents))], "parents": parents, "labels": labels}


def known(targets) -> list[float]:
    return [target for target in targets if not math.isnan(target)]


def tree_of(seed: int) -> dict:
    draw, size = random.Random(seed), seed % 12 + 1
    parents = [draw.randint(-1, number - 1) for number in range(size)]
    return row_of(parents, [draw.choice([0.0, 1.0, 0.3, None]) for _ in range(size)])


TREES = st.integers(0, 2**32).map(tree_of)


def test_a_chain_is_a_unit_of_one_completion():
    example = READER.read_row(row_of([-1, 0, 1], [1.0, None, 0.25]))
    assert json.loads(example.completions[0]) == ["step 0", "step 1", "step 2"]
    assert (example.units, example.weights) == ([(0,)], [2.0])
    assert np.array_equal(example.targets, [(1.0, math.nan, 0.25)], equal_nan=True)


def test_the_first_chain_of_a_step_counts_it():
    example = READER.read_row(row_of([-1, 0, 0, 2, 2], [1.0, 0.0, 1.0, 0.5, None]))
    assert [json.loads(chain) for chain in example.completions] == [
        ["step 0", "step 1"],
        ["step 0", "step 2", "step 3"],  # step 4, which has no label, is no end of a chain
    ]
    assert np.array_equal(example.targets[1], (math.nan, 1.0, 0.5), equal_nan=True)
    assert example.weights == [2.0, 2.0]


def test_a_chain_ends_at_its_last_label():
    """What stands behind it costs, and is in no loss. With the last step alone, the control, a chain is whole."""
    example = READER.read_row(row_of([-1, 0, 1, 2, 1], [None, 1.0, None, None, None]))
    assert [json.loads(chain) for chain in example.completions] == [["step 0", "step 1"]]
    assert np.array_equal(example.targets, [(math.nan, 1.0)], equal_nan=True) and example.weights == [1.0]
    example = READER.read_row(row_of([-1, 0, 0], [1.0, None, 0.0]))
    assert [json.loads(chain) for chain in example.completions] == [["step 0", "step 2"]]
    assert example.targets == [(1.0, 0.0)] and example.weights == [2.0]
    row = row_of([-1, 0, 1], [1.0, 0.0, None])
    assert READER.read_row(row).targets == [(1.0, 0.0)]
    assert not StepReader(last_step_only=True).read_row(row).units


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_of_the_steps_that_are_left_each_last_one_has_a_label(row):
    parents, labels = row["parents"], row["labels"]
    kept = up_to_labels(parents, labels)
    chains = chains_of(parents, kept)
    assert all(labels[chain[-1]] is not None for chain in chains)
    assert sorted({number for chain in chains for number in chain}) == kept
    for number, label in enumerate(labels):  # by its meaning: itself or some step behind it has a label
        behind = [chain[chain.index(number) :] for chain in chains_of(parents) if number in chain]
        assert (number in kept) == any(labels[step] is not None for chain in behind for step in chain)
        assert number in kept or label is None


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_each_label_of_a_tree_counts_once(row):
    example = READER.read_row(row)
    counted = []
    for completion, targets, weight in zip(example.completions, example.targets, example.weights, strict=True):
        steps = json.loads(completion)
        assert len(steps) == len(targets) and weight == len(known(targets)) > 0
        counted += [(step, target) for step, target in zip(steps, targets, strict=True) if not math.isnan(target)]
    labels = zip(row["steps"], row["labels"], strict=True)
    assert sorted(counted) == sorted((step, label) for step, label in labels if label is not None)


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_the_weighted_mean_over_chains_is_the_mean_over_steps(row):
    """With a loss of each step that nothing but the step decides, as it is where steps before it are the same."""
    losses = {step: random.Random(step).random() for step in row["steps"]}
    example = READER.read_row(row)
    means = [
        np.mean([losses[step] for step, target in zip(json.loads(chain), targets, strict=True) if target == target])
        for chain, targets in zip(example.completions, example.targets, strict=True)
    ]
    labelled = [losses[step] for step, label in zip(row["steps"], row["labels"], strict=True) if label is not None]
    if labelled:
        assert np.average(means, weights=example.weights) == pytest.approx(np.mean(labelled), rel=1e-12)
    else:
        assert not example.units


def test_without_the_weights_long_chains_would_count_less():
    """The control of the test above."""
    example = READER.read_row(row_of([-1, 0, 1, 1], [1.0, 1.0, 1.0, 1.0]))
    assert example.weights == [3.0, 1.0]
    assert np.average([0.0, 1.0], weights=example.weights) == 0.25 != np.mean([0.0, 1.0])


def test_last_step_only_keeps_the_label_of_each_last_step():
    reader = StepReader(last_step_only=True)
    row = row_of([-1, 0, 0, 2, 2], [1.0, 0.0, 1.0, 0.5, None])
    example = reader.read_row(row)
    assert [known(targets) for targets in example.targets] == [[0.0], [0.5]] and example.weights == [1.0, 1.0]
    assert [targets[-1] for targets in example.targets] == [0.0, 0.5]
    assert reader.drop_reason(row) is None
    unlabelled = row_of([-1, 0], [1.0, None])
    assert reader.drop_reason(unlabelled) == "last_step_not_labelled" and READER.drop_reason(unlabelled) is None


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_chains_are_the_paths_to_the_last_steps(row):
    parents = row["parents"]
    chains = chains_of(parents)
    assert [chain[-1] for chain in chains] == [number for number in range(len(parents)) if number not in parents]
    for chain in chains:
        assert parents[chain[0]] == -1
        assert [parents[number] for number in chain[1:]] == chain[:-1]
    assert {number for chain in chains for number in chain} == set(range(len(parents)))


def test_places_that_are_read_move_with_what_the_prompt_lost():
    lengths = [9, 3, 1, 2, 2]
    assert READER.read_positions(range(17), int, lengths) == [12, 16]
    assert READER.read_positions(range(13), int, lengths) == [8, 12]
    assert StepReader(separator="").read_positions(range(17), int, lengths) == [11, 12, 14, 16]


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer():
    return train_tokenizer(["How many? One. Two. Three.\n\n" * 9], 330, **TOKENIZER_STYLES["chatml"])


def grouped(tokenizer, *rows: dict, reader=READER) -> PromptGroups:
    standard = [step_row(row, f"rows:{number}", NO_OPTIONS, None) for number, row in enumerate(rows, start=1)]
    loaded = Dataset.from_list(standard, features=STEP_FEATURES)
    return PromptGroups(tokenize_and_group(loaded, tokenizer, reader, TokenizeOptions(500)))


def chain(*labels, prompt="How many?") -> dict:
    return {"prompt": prompt, "completions": STEPS[: len(labels)], "labels": list(labels)}


def test_class_balance_is_told_of_the_steps_that_are_trained_on(own_cache, tokenizer):
    groups = grouped(tokenizer, chain(1, 1, 0), chain(0.9, None, prompt="Who?"), chain(1, 0.5, prompt="Why?"))
    assert READER.describe_kinds(groups) == (
        "Of their 6 steps with a label 66.7% are right; 33.3% of the solutions have a wrong one."
    )


def test_outcomes_are_told_from_steps(own_cache, tokenizer):
    answers = {"prompt": "How many?", "responses": ["One.\n\nTwo.", "Three."], "labels": [1, 0]}
    assert are_outcomes(grouped(tokenizer, answers, chain(1, prompt="Who?")))
    assert not are_outcomes(grouped(tokenizer, answers, chain(1, 0)))


def test_steps_behind_the_last_label_are_steps_all_the_same(own_cache, tokenizer):
    """Where all rows have a label on their first step alone, each is cut to one step, and is no whole answer."""
    groups = grouped(tokenizer, chain(1, None, None), chain(0, None, prompt="Who?"))
    assert [len(targets) for targets in groups.target_lists()] == [1, 1]
    assert not are_outcomes(groups)
    report = DataReport("train", 2)
    report_groups(report, groups.groups, READER.unit)
    assert report.notes[NOTED_ROWS["chains"]] == 2
    answers = {"prompt": "How many?", "responses": ["One.", "Two.", "Three."], "labels": [1, 0, None]}
    assert are_outcomes(grouped(tokenizer, answers))  # an answer without a label stands behind no step
    last = StepReader(last_step_only=True)
    assert not are_outcomes(grouped(tokenizer, chain(None, 1), reader=last))


def test_a_row_is_shown_with_its_labels_and_where_each_step_ends(own_cache, tokenizer):
    shown = show_unit(grouped(tokenizer, chain(1, None, 0.25)).groups[0], tokenizer, READER)
    assert "steps: right, ?, right with probability 0.25" in shown
    assert shown.count("at token") == 3 and shown.count("'\\n\\n'") + shown.count("'\\n'") == 3
    tree = {"prompt": "How many?", "responses": ["One.", "Two."], "labels": [1, 0]}
    assert "the first of the 2 chains of a tree" in show_unit(grouped(tokenizer, tree).groups[0], tokenizer, READER)


def test_the_report_counts_right_and_wrong_steps_of_trees_once(own_cache):
    steps = [{"text": "a", "label": 1}, [{"text": "b", "label": 0.8}, {"text": "c", "label": 0.5}, {"text": "d"}]]
    rows = [{"prompt": "How many?", "steps": steps}, chain(0, 0)]
    standard = [step_row(row, f"rows:{number}", NO_OPTIONS, None) for number, row in enumerate(rows, start=1)]
    loaded = Dataset.from_list(standard, features=STEP_FEATURES)
    report = report_rows("train", loaded)
    READER.check_rows([partial(kept_column, loaded)], [report])
    expected = {
        "rows read from trees of alternatives": 1,
        "steps": 6,
        "steps that are right": 2,
        "steps that are wrong": 2,
        "steps with a probability between 0 and 1": 2,
        "steps without a label": 1,
        "steps behind the last label, which are not read": 1,
        "rows with a wrong step": 1,
        "rows with several chains of steps": 1,
    }
    assert report.notes == expected

"""Held-out steps with the labels that other chains of a tree count, against the tree as it was written."""

import math
import random

import numpy as np
import pytest
from datasets import Dataset
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.preferences import NO_OPTIONS
from reward_modeling.data.prompt_groups import TokenizeOptions, tokenize_and_group
from reward_modeling.data.step_rows import STEP_FEATURES, step_row
from reward_modeling.objectives.evaluated_steps import EvaluatedSteps
from reward_modeling.objectives.held_out_steps import FirstErrors
from reward_modeling.objectives.step_reader import StepReader

pytestmark = pytest.mark.usefixtures("own_cache")
TEXTS = ["Add two.", "So five.", "Halve it.", "So six."]
LABELS = (1.0, 0.0, 0.25, None)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([f"How many? Why? {' '.join(TEXTS)}\n\n" * 9], 330, **TOKENIZER_STYLES["chatml"])


def held_out(tokenizer, *rows: dict, neutral_steps: str | None = None) -> EvaluatedSteps:
    standard = [step_row(row, f"rows:{number}", NO_OPTIONS, neutral_steps) for number, row in enumerate(rows, start=1)]
    assert not any(row["reason"] for row in standard)
    loaded = Dataset.from_list(standard, features=STEP_FEATURES)
    groups = PromptGroups(tokenize_and_group(loaded, tokenizer, StepReader(), TokenizeOptions(500)))
    units = [(group, unit) for group, count in enumerate(groups.sizes.units_per_group) for unit in range(count)]
    lengths = map(len, groups.target_lists())
    made = [(key, 0.5, *[0.5] * length) for key, length in zip(units, lengths, strict=True)]
    return EvaluatedSteps.from_rows(made[::-1], groups, "min")


def chain(steps: list[int], labels: list, prompt: str = "How many?") -> dict:
    return {"prompt": prompt, "completions": [TEXTS[step] for step in steps], "labels": labels}


def rounded(labels) -> list[list[float | None]]:
    """As rows have them, sorted, with None for what is not known."""
    found = [[None if math.isnan(label) else round(label, 6) for label in of.tolist()] for of in labels]
    return sorted(found, key=repr)


def test_a_step_that_the_first_chain_counts_is_known_in_each(tokenizer):
    tree = {"text": TEXTS[0], "label": 1}, [{"text": TEXTS[1], "label": 0}, {"text": TEXTS[3], "label": 0.25}]
    steps = held_out(tokenizer, {"prompt": "How many?", "steps": list(tree)})
    assert rounded(steps.labels) == [[1.0, 0.0], [None, 0.25]]
    assert rounded(steps.known_labels) == [[1.0, 0.0], [1.0, 0.25]]
    assert steps.weights.sum() == 3  # what is counted stays as it is
    assert sorted(map(str, (line["labels"] for line in steps.score_lines()))) == ["[1.0, 0.0]", "[1.0, 0.25]"]


def test_a_step_is_the_same_only_behind_the_same_steps_of_the_same_prompt(tokenizer):
    """Its words alone do not make it the same, and no label stays none where nobody gives one."""
    rows = [
        chain([0, 1], [1.0, 0.0]),
        chain([0, 1, 2], [None, None, 1.0]),  # of another row: the same two steps
        chain([3, 1, 2], [None, None, 0.0]),  # the same second step behind another first one
        chain([0, 1], [None, 1.0], prompt="Why?"),
    ]
    steps = held_out(tokenizer, *rows)
    expected = [[1.0, 0.0], [1.0, 0.0, 1.0], [None, None, 0.0], [None, 1.0]]
    assert rounded(steps.known_labels) == sorted(expected, key=repr)


def test_solutions_that_go_on_behind_their_last_label_are_known_by_it(tokenizer):
    """Of a tree, chain by chain: an alternative without a label ends no other one."""
    rated = [{"text": TEXTS[0], "rating": 1}, {"text": TEXTS[1], "rating": 0}]
    tree = [{"text": TEXTS[0], "label": 1}, [{"text": TEXTS[1]}, {"text": TEXTS[2], "label": 1}]]
    rows = [
        chain([0, 1, 2], [1, 1, None], prompt="A?"),
        chain([0, 1, 2], [1, 1, 1], prompt="B?"),
        chain([0, 1, 2], [1, 0, None], prompt="C?"),
        {"prompt": "D?", "steps": rated},
        {"prompt": "E?", "steps": tree},
    ]
    steps = held_out(tokenizer, *rows, neutral_steps="drop")
    assert steps.unfinished.tolist() == [True, False, True, True, False]
    errors = FirstErrors.of(steps)
    assert errors.numbers.tolist() == [1, 2, 4] and errors.labelled.tolist() == [-1, 1, -1]
    assert held_out(tokenizer, rows[3], neutral_steps="right").unfinished.tolist() == [False]


@pytest.mark.parametrize("seed", range(12))
def test_random_trees_have_the_labels_that_were_written(seed, tokenizer):
    """Walked here over the rows themselves. Siblings differ in their text, so that a step has one label."""
    draw, nodes = random.Random(seed), []

    def grow(depth: int) -> list[dict]:
        steps = []
        for text in draw.sample(TEXTS, draw.randint(1, 3) if depth else 2):
            label = draw.choice(LABELS)
            step = {"text": text, **({} if label is None else {"label": label})}
            if depth < 3 and draw.random() < 0.7:
                step["steps"] = [grow(depth + 1)]
            steps.append(step)
        return steps

    def walk(steps: list[dict], before: tuple = ()) -> None:
        for step in steps:
            path = (*before, (step["text"], step.get("label")))
            nodes.append(path)
            walk(step["steps"][0], path) if "steps" in step else leaves.append(path)

    leaves: list[tuple] = []
    tree = grow(0)
    walk(tree)
    if all(label is None for path in nodes for _, label in path):
        return
    steps = held_out(tokenizer, {"prompt": "How many?", "steps": [tree]})
    labelled = {path for path in nodes if path[-1][1] is not None}
    # a chain ends at its last label; what is then the beginning of another one is no chain
    written = {max((node for node in labelled if node == path[: len(node)]), key=len, default=()) for path in leaves}
    ends = {path for path in written if path and not any(other[: len(path)] == path != other for other in written)}
    found = rounded(steps.known_labels)
    assert found == sorted(([label for _, label in path] for path in ends), key=repr)
    goes_on = [any(node[: len(path)] == path != node for node in nodes) for path in ends]
    assert sorted(steps.unfinished.tolist()) == sorted(goes_on)
    counted = sum(int(np.isfinite(of).sum()) for of in steps.labels)
    assert counted == len({path for path in nodes if path[-1][1] is not None})
    assert len(found) <= len(leaves)


def test_labels_are_written_as_they_were_given(tokenizer):
    """They are float32 inside, where 0.9 is 0.8999999761581421."""
    steps = held_out(tokenizer, chain([0, 1, 2], [0.9, 1.0, 0.3333333]))
    (line,) = steps.score_lines()
    assert line["labels"] == [0.9, 1.0, 0.3333333]

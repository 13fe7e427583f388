"""Learnable solutions with a label for each step: chains, trees of alternatives, soft labels, steps without a label."""

import math
import random
from collections.abc import Sequence

import numpy as np

from reward_modeling.objectives.evaluated_steps import EvaluatedSteps
from reward_modeling.tiny.preferences import TEXTS

RIGHT, WRONG = TEXTS["kind"] + TEXTS["step"], TEXTS["rude"] + TEXTS["vague"]  # steps that are right, and wrong
SPREAD = (1, 1, 0)  # two of three steps are right


def stepped_rows(num_prompts: int, seed: int) -> list[dict]:
    """One row in three is a tree; one step in five has the label 0.9 or 0.1, and another none."""
    draw = random.Random(seed)
    rows = []
    for number, prompt in enumerate(_prompts(num_prompts, draw)):
        truth = [draw.choice(SPREAD) for _ in range(draw.randint(1, 5))]
        steps = [_step(right, draw) for right in truth]
        labels = [_label(right, draw) for right in truth]
        if all(label is None for label in labels):
            labels[-1] = float(truth[-1])
        if number % 3:
            rows.append({"prompt": prompt, "completions": steps, "labels": labels})
        else:
            rows.append({"prompt": prompt, "steps": _tree(steps, labels, draw)})
    return rows


def outcome_rows(num_prompts: int, seed: int) -> list[dict]:
    """Two whole answers to each prompt, one right and one wrong."""
    draw = random.Random(seed)
    return [
        {"prompt": prompt, "response": _step(right, draw), "label": bool(right)}
        for prompt in _prompts(num_prompts, draw)
        for right in (1, 0)
    ]


def chain_rows(count: int, seed: int) -> list[dict]:
    """`prompt`, `completions`, `labels`: hard ones and soft ones, some missing, several solutions of a prompt.

    No trees; and steps that say whether they are right, so that a few steps of training show.
    """
    draw, rows = random.Random(seed), []
    for number in range(count):
        question, steps, labels = _solution(draw)
        given = [0.9 if label and number % 4 == 0 else label for label in labels]
        if number % 5 == 0 and len(given) > 1:
            given[0] = None
        rows.append({"prompt": question, "completions": steps, "labels": given})
        if number % 3 == 0:  # goes on from the same beginning
            _, others, more = _solution(draw)
            rows.append({"prompt": question, "completions": [*steps[:1], *others], "labels": [given[0], *more]})
    # Of a column of booleans and numbers JSON's reader would make one type by itself.
    return [row | {"labels": [None if each is None else float(each) for each in row["labels"]]} for row in rows]


def texts_of(rows: list[dict]) -> list[str]:
    """What a tokenizer has to know; of rows that are no trees."""
    return [text for row in rows for text in (row["prompt"], *row.get("completions", [row.get("response", "")]))]


def up_to_last_labels(row: dict) -> list[tuple[list[str], list[float | None]]]:
    """The chains of a row without the steps behind the last label of each, which are not read."""
    found = []
    for steps, labels in chains_in(row):
        last = max((number for number, label in enumerate(labels, start=1) if label is not None), default=0)
        found.append((steps[:last], labels[:last]))
    return found


def chains_in(row: dict) -> list[tuple[list[str], list[float | None]]]:
    """Every chain of a row with its labels; a step that several have in common stands in each of them."""
    if "completions" in row:
        return [(row["completions"], row["labels"])]
    found: list[tuple[list[str], list[float | None]]] = []
    steps: list[str] = []
    labels: list[float | None] = []
    for place in row["steps"]:
        way_on, *others = place if isinstance(place, list) else [place]
        found += [([*steps, other["text"]], [*labels, other["label"]]) for other in others]
        steps, labels = [*steps, way_on["text"]], [*labels, way_on["label"]]
    return [*found, (steps, labels)]


def held_out(solutions: list[tuple[int, list[float], list[float]]], unfinished: Sequence[int] = ()) -> EvaluatedSteps:
    """Solutions as a model sees them: the number of the prompt, P(right) and the label of each step.

    Args:
        unfinished: the numbers of those that go on behind their last label.
    """
    prompts, probabilities, labels = zip(*solutions, strict=True)
    losses = []
    for of, known in zip(probabilities, labels, strict=True):
        terms = [
            -(y * math.log(p) + (1 - y) * math.log(1 - p)) for p, y in zip(of, known, strict=True) if not math.isnan(y)
        ]
        losses.append(sum(terms) / len(terms))
    arrays = [[np.array(each, dtype=float) for each in of] for of in (probabilities, labels)]
    where = [f"rows:{number}" for number in range(len(solutions))]
    go_on = np.isin(np.arange(len(solutions)), unfinished)
    return EvaluatedSteps(where, *arrays, arrays[1], np.array(losses), np.array(prompts), go_on, "product")


def _prompts(count: int, draw: random.Random) -> list[str]:
    every = [f"{opening} {task}?" for opening in TEXTS["openings"] for task in TEXTS["tasks"]]
    every += [f"{prompt[:-1]} {occasion}?" for prompt in every for occasion in TEXTS["occasions"]]
    return draw.sample(every, count)


def _solution(draw: random.Random, wrong: float = 0.3) -> tuple[str, list[str], list[bool | float]]:
    """A question, steps and labels: after a wrong step all are wrong, and say so to whoever looks."""
    first = draw.randint(1, 60)
    steps, labels, right = [], [], True
    for _ in range(draw.randint(1, 5)):
        right = right and draw.random() > wrong
        sure = "surely" if right else "perhaps"
        steps.append(f"Then add {draw.randint(1, 9)} to it, {sure} this is right.")
        labels.append(right)
    return f"Begin with {first}. What is it in the end?", steps, labels


def _step(right: int, draw: random.Random) -> str:
    return f"{draw.choice(RIGHT if right else WRONG)} {draw.choice(TEXTS['neutral'])}"


def _label(right: int, draw: random.Random) -> float | None:
    return draw.choice((float(right), float(right), float(right), 0.9 if right else 0.1, None))


def _tree(steps: list[str], labels: list[float | None], draw: random.Random) -> list:
    """At most places there are alternatives, of which the answer goes on from the first."""
    places: list = []
    for step, label in zip(steps, labels, strict=True):
        way_on = {"text": step, "label": label}
        if draw.random() < 0.3:
            places.append(way_on)
            continue
        others = [{"text": _step(right, draw), "label": right} for right in draw.choices((0, 1), k=draw.randint(1, 3))]
        places.append([way_on | {"chosen": True}, *others])
    return places

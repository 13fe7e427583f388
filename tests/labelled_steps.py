"""Learnable solutions whose steps have labels: sums, of which some are wrong. Rows as TRL has them, trees, answers."""

import random

FLAGS = {"learning_rate": 3e-3}


def solution(draw: random.Random, wrong: float = 0.3) -> tuple[str, list[str], list[bool | float]]:
    """A question, steps and labels: after a wrong step all are wrong, and say so to whoever looks."""
    first = draw.randint(1, 60)
    steps, labels, right = [], [], True
    for _ in range(draw.randint(1, 5)):
        right = right and draw.random() > wrong
        sure = "surely" if right else "perhaps"
        steps.append(f"Then add {draw.randint(1, 9)} to it, {sure} this is right.")
        labels.append(right)
    return f"Begin with {first}. What is it in the end?", steps, labels


def step_rows(count: int, seed: int) -> list[dict]:
    """`prompt`, `completions`, `labels`: hard ones and soft ones, some missing, several solutions of a prompt."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        question, steps, labels = solution(draw)
        given = [0.9 if label and number % 4 == 0 else label for label in labels]
        if number % 5 == 0 and len(given) > 1:
            given[0] = None
        rows.append({"prompt": question, "completions": steps, "labels": given})
        if number % 3 == 0:  # goes on from the same beginning
            _, others, more = solution(draw)
            rows.append({"prompt": question, "completions": [*steps[:1], *others], "labels": [given[0], *more]})
    # Of a column of booleans and numbers JSON's reader would make one type by itself.
    return [row | {"labels": [None if each is None else float(each) for each in row["labels"]]} for row in rows]


def outcome_rows(count: int, seed: int) -> list[dict]:
    """Whole answers, each with one label."""
    draw = random.Random(seed)
    made = [solution(draw) for _ in range(count)]
    return [{"prompt": asked, "response": "\n\n".join(steps), "label": all(labels)} for asked, steps, labels in made]


def texts(rows: list[dict]) -> list[str]:
    """What a tokenizer has to know."""
    return [text for row in rows for text in (row["prompt"], *row.get("completions", [row.get("response", "")]))]

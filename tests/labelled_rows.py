"""Learnable rows with every kind of label: probabilities, ties, strengths, weights, and ranked lists."""

import itertools
import random

from reward_modeling.tiny.preferences import learnable_preferences

# Flags that train on all of it, with a threshold of ties that is learned fast enough to be seen in a few steps.
FLAGS = {
    "loss": "scaled",
    "ties": "davidson",
    "tie_learning_rate": 0.1,
    "list_loss": "plackett_luce",
}


def labelled_rows(num_prompts: int, seed: int) -> list[dict]:
    """A labelled pair of each prompt; where it has more than two answers a list of them too, of which some tie."""
    draw = random.Random(seed)
    rows = []
    for _, of_prompt in itertools.groupby(learnable_preferences(num_prompts, seed), lambda row: row["chosen"][:-1]):
        pairs = list(of_prompt)
        if len(pairs) == 1:
            rows.append(pairs[0] | _labels(draw))
            continue
        # The pairs of a prompt stand in order: those of the best answer come first.
        best = [row for row in pairs if row["chosen"] == pairs[0]["chosen"]]
        answers = [pairs[0]["chosen"], *(row["rejected"] for row in best)]
        ranks = [1, *range(1 + draw.randint(0, 1), len(answers) + 1)][: len(answers)]
        list_row = {"prompt": answers[0][:-1], "completions": [answer[-1:] for answer in answers], "ranks": ranks}
        rows.append(list_row | {"weight": draw.choice([0.5, 1.0, 2.0])})
        rows.append({"chosen": answers[1], "rejected": answers[-1]} | _labels(draw))  # a pair beside its list
    return rows


def _labels(draw: random.Random) -> dict[str, float]:
    probability = draw.choice([1.0, 0.5, 0.5, 0.7, 0.9])
    return {
        "chosen_probability": probability,
        "strength": 0 if probability == 0.5 else draw.randint(1, 3),
        "weight": draw.choice([0.25, 1.0, 3.0]),
    }

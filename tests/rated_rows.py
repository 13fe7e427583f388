"""Learnable answers with ratings as people have them: some not rated, prompts of one to three answers."""

import random

from reward_modeling.tiny.ratings import ATTRIBUTES, RANGES, rated_world

WIDTHS = [high - low for low, high in RANGES.values()]  # of the attributes in their order
# Flags that train on all of it.
FLAGS = {"attributes": ",".join(ATTRIBUTES), "label_ranges": "kindness=0:3", "weights": "kindness=1,verbosity=-0.5"}


def rated_rows(num_prompts: int, seed: int) -> list[dict]:
    """Some prompts lose an answer; some answers were rated by a second person, who says something else."""
    draw = random.Random(seed)
    rows = []
    for row in rated_world((num_prompts, 1, 1), seed)[0]:
        if draw.random() < 0.25:
            continue
        rows.append(row)
        if draw.random() < 0.25:
            rated = {name: draw.randint(0, 3) for name in draw.sample(ATTRIBUTES, draw.randint(1, 2))}
            rows.append({"messages": row["messages"], "ratings": rated})
    return rows

"""Preferences that a tiny model can learn."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

# A good answer has three habits: it is kind, it gives a step to take, and it offers more help. Of two answers to a
# question, the one with more of these habits is preferred.
_HABITS = (("kind", "rude"), ("step", "vague"), ("offer", "dismissal"))
TEXTS: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("templates").joinpath("preferences.json").read_text(encoding="utf-8")
)


def learnable_preferences(num_prompts: int, seed: int) -> list[dict[str, Any]]:
    """Preference pairs in the standard format whose rule a tiny model learns in a minute or two.

    Every prompt is different and has two to four answers, no two equally good, hence one to six pairs; the
    pairs of a prompt follow each other. One prompt in four is the second question of a dialogue (`source` is
    "follow_up" rather than "question"). All answers draw their length from the same range, so length tells
    nothing. The rows depend on the two arguments alone.
    """
    rng = random.Random(seed)
    prompts = list(itertools.product(TEXTS["openings"], TEXTS["tasks"], TEXTS["occasions"]))
    if num_prompts > len(prompts):
        raise ValueError(f"num_prompts: expected at most {len(prompts)}, found {num_prompts}")
    rows = []
    for opening, task, occasion in rng.sample(prompts, num_prompts):
        prompt = [{"role": "user", "content": f"{opening} {task} {occasion}?"}]
        source = "question"
        if rng.random() < 0.25:
            source = "follow_up"
            first = " ".join(rng.choice(TEXTS[name]) for name in ("openings", "tasks")) + "?"
            reply = " ".join(rng.sample(TEXTS["neutral"], 2))
            prompt = [{"role": "user", "content": first}, {"role": "assistant", "content": reply}, *prompt]
        levels = sorted(rng.sample(range(4), rng.randint(2, 4)), reverse=True)
        answers = [[{"role": "assistant", "content": _answer(task, level, rng)}] for level in levels]
        rows += [
            {"chosen": prompt + better, "rejected": prompt + worse, "source": source}
            for better, worse in itertools.combinations(answers, 2)
        ]
    return rows


def _answer(task: str, level: int, rng: random.Random) -> str:
    """An answer about `task` with `level` of the three good habits, filled up to a length of its own."""
    good = rng.sample((True,) * level + (False,) * (3 - level), 3)
    sentences = [rng.choice(TEXTS["about"]).format(task=task)]
    sentences += [rng.choice(TEXTS[habit[not is_good]]) for habit, is_good in zip(_HABITS, good, strict=True)]
    length = rng.randint(170, 290)
    fillers = iter(rng.sample(TEXTS["neutral"], len(TEXTS["neutral"])))
    while len(" ".join(sentences)) < length:
        sentences.append(next(fillers))
    return " ".join(rng.sample(sentences, len(sentences)))

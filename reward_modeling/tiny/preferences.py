"""Preferences that a tiny model can learn."""

import itertools
import random
from typing import Any

# The generated preferences. A good answer has three habits: it is kind, it gives a step to take, and it
# offers more help. Of two answers to a question, the one with more of these habits is preferred.
_TASKS = (
    "bake rye bread", "patch a bicycle tyre", "prune an apple tree", "clean a paint brush", "brew green tea",
    "sharpen a kitchen knife", "knit a wool scarf", "tune a guitar", "fold a paper crane", "repot a fern",
    "wax a pair of skis", "iron a linen shirt", "plaster a small hole", "grow mild chillies", "frame a photo",
    "pack a tent", "polish brass handles", "train a young dog", "read a tide table", "store winter squash",
)  # fmt: skip
_OCCASIONS = (
    "before breakfast", "in a small flat", "on a rainy day", "for the first time", "without any help",
    "during the holidays", "with little money", "after a long week", "when guests arrive", "on a Sunday",
    "with a child", "at my uncle's house", "late in autumn", "while travelling", "in half an hour",
)  # fmt: skip
_OPENINGS = (
    "How do I", "What is a good way to", "Please tell me how to", "I would like to", "Can you help me",
    "What do I need in order to", "My neighbour asked me to", "Is it hard to",
)  # fmt: skip
_KIND = (
    "I am glad to help you with this.", "Thank you for a nice question.", "You will manage this very well.",
    "Happy to explain it to you.", "That is a lovely thing to learn.", "Welcome, let us do it together.",
)  # fmt: skip
_RUDE = (
    "I am tired of hearing from you.", "Stop asking me such silly things.", "You will never get this right.",
    "Go and bother someone else.", "That is a foolish thing to want.", "Nobody cares, leave me alone now.",
)  # fmt: skip
_STEP = (
    "First lay out every tool on a table.", "Begin by setting a timer for ten minutes.",
    "Start slowly and check each part twice.", "Write a short list and follow it in order.",
    "Prepare the materials the evening before.", "Practise once on a spare piece.",
)  # fmt: skip
_VAGUE = (
    "It just happens somehow or other I suppose.", "Whatever you try may or may not do anything.",
    "There are things, and then other things.", "Some of it is like that and some is not.",
    "Perhaps anything is possible in the end.", "Maybe so, maybe not, who knows.",
)  # fmt: skip
_OFFER = (
    "Write to me again if anything is unclear.", "I can explain any part in more detail.",
    "Tell me how it went afterwards.", "Ask me for more whenever you wish.", "We can go on from there.",
    "If you get stuck, I will gladly go over it.",
)  # fmt: skip
_DISMISSAL = (
    "I have nothing to add to that.", "Do not come back to me about it.", "Find out the rest by yourself.",
    "That is all you will get out of me.", "This talk is over now.", "I shall not say another word.",
)  # fmt: skip
_ABOUT = (
    "To {task} takes a calm hand.",
    "Many people {task} every year.",
    "It is a pleasure to {task} well.",
)
_NEUTRAL = (
    "It was four o'clock.", "The shop on the corner is open.", "A friend of mine lives by the river.",
    "The radio played an old song.", "There is a blue chair beside the window.", "Tuesday follows Monday.",
    "The bus was on time.", "We had soup.",
)  # fmt: skip


def learnable_preferences(num_prompts: int, seed: int) -> list[dict[str, Any]]:
    """Preference pairs in the standard format whose rule a tiny model learns in a minute or two.

    Every prompt is different and has two to four answers, no two equally good, hence one to six pairs; the
    pairs of a prompt follow each other. One prompt in four is the second question of a dialogue (`source` is
    "follow_up" rather than "question"). All answers draw their length from the same range, so length tells
    nothing. The rows depend on the two arguments alone.
    """
    rng = random.Random(seed)
    prompts = list(itertools.product(_OPENINGS, _TASKS, _OCCASIONS))
    if num_prompts > len(prompts):
        raise ValueError(f"num_prompts: expected at most {len(prompts)}, found {num_prompts}")
    rows = []
    for opening, task, occasion in rng.sample(prompts, num_prompts):
        prompt = [{"role": "user", "content": f"{opening} {task} {occasion}?"}]
        source = "question"
        if rng.random() < 0.25:
            source = "follow_up"
            first = f"{rng.choice(_OPENINGS)} {rng.choice(_TASKS)}?"
            reply = " ".join(rng.sample(_NEUTRAL, 2))
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
    habits = ((_KIND, _RUDE), (_STEP, _VAGUE), (_OFFER, _DISMISSAL))
    sentences = [rng.choice(_ABOUT).format(task=task)]
    sentences += [rng.choice(pair[0] if is_good else pair[1]) for pair, is_good in zip(habits, good, strict=True)]
    length = rng.randint(170, 290)
    fillers = iter(rng.sample(_NEUTRAL, len(_NEUTRAL)))
    while len(" ".join(sentences)) < length:
        sentences.append(next(fillers))
    return " ".join(rng.sample(sentences, len(sentences)))

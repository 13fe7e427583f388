"""Ratings that a tiny model can learn, and preferences in which the prompt decides which of them counts.

    python -m reward_modeling.tiny.ratings example

writes a tiny model, answers with ratings, and pairs; `make example` trains on them.
"""

import argparse
import itertools
import random
from pathlib import Path
from typing import Any

from reward_modeling.common.atomic import whole_file
from reward_modeling.common.errors import run_script
from reward_modeling.common.paths import local_path
from reward_modeling.tiny.models import build_tiny_checkpoint, tiny_config
from reward_modeling.tiny.preferences import TEXTS
from reward_modeling.tiny.quickstart import VOCAB_SIZE, write_jsonl
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

ATTRIBUTES = ("kindness", "usefulness", "verbosity")
GREATEST = 3  # kind sentences, steps to take, and pairs of sentences that say nothing; the least is 0
LONGER_IS_BETTER = (0, 1, 1, 2)  # by this much raters overrate the usefulness of an answer, by its verbosity
RANGES = {"kindness": (0, GREATEST), "usefulness": (0, GREATEST + LONGER_IS_BETTER[-1]), "verbosity": (0, GREATEST)}
# Of a prompt that asks how, most of what counts is the usefulness; of others it is the kindness.
GATE = {"practical": (0.1, 0.9, 0.0), "friendly": (0.9, 0.1, 0.0)}
RATED_PROMPTS, PAIRED_PROMPTS, TEST_PROMPTS = 600, 1400, 400
NOT_RATED = 0.2  # of the ratings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=local_path, help="where to write to")
    prepare(parser.parse_args().folder)


def prepare(folder: Path) -> None:
    """Write model/, ratings.jsonl, preferences.jsonl, and test.jsonl with pairs of other prompts."""
    ratings, pairs, test = rated_world((RATED_PROMPTS, PAIRED_PROMPTS, TEST_PROMPTS), seed=0)
    texts = [message["content"] for row in ratings for message in row["messages"]]
    tokenizer = train_tokenizer(texts, VOCAB_SIZE, **TOKENIZER_STYLES["llama3"])
    config = tiny_config("llama", len(tokenizer), initializer_range=0.02, **token_ids(tokenizer))
    build_tiny_checkpoint(folder / "model", tokenizer, config)
    write_jsonl(folder / "preferences.jsonl", pairs)
    write_jsonl(folder / "test.jsonl", test)
    with whole_file(folder / "ratings.jsonl") as path:  # last: the sign that the folder is complete
        write_jsonl(path, ratings)
    print(
        f"{folder}: a tiny Llama (model/), {len(ratings):,} answers (ratings.jsonl), {len(pairs):,} pairs "
        f"(preferences.jsonl) and {len(test):,} of other prompts (test.jsonl)"
    )


def rated_world(num_prompts: tuple[int, int, int], seed: int) -> tuple[list[dict[str, Any]], ...]:
    """Rated answers, pairs, and pairs to test on, of three sets of prompts.

    Raters count the kind sentences of an answer, and the steps to take, but take longer answers for more useful than
    they are. A fifth of the ratings is left out. Pairs follow `GATE` without that fault, and have its names as their
    `source`.
    """
    rng = random.Random(seed)
    prompts = list(itertools.product(TEXTS["openings"], TEXTS["tasks"], TEXTS["occasions"]))
    if sum(num_prompts) > len(prompts):
        raise ValueError(f"num_prompts: expected at most {len(prompts)} in all, found {sum(num_prompts)}")
    drawn = iter(rng.sample(prompts, sum(num_prompts)))
    rated, paired, tested = (list(itertools.islice(drawn, number)) for number in num_prompts)
    rows = [row for prompt in rated for row in _rated_rows(prompt, rng)]
    return rows, *([_pair(prompt, rng) for prompt in prompts] for prompts in (paired, tested))


def _rated_rows(prompt: tuple[str, str, str], rng: random.Random) -> list[dict[str, Any]]:
    """Two answers with their ratings, each of them rated in one attribute at least."""
    rows = []
    for _ in range(2):
        levels = _draw_levels(rng)
        kindness, usefulness, verbosity = levels
        rated = kindness, usefulness + LONGER_IS_BETTER[verbosity], verbosity
        always = rng.randrange(len(levels))
        ratings = {
            name: level if place == always or rng.random() > NOT_RATED else None
            for place, (name, level) in enumerate(zip(ATTRIBUTES, rated, strict=True))
        }
        rows.append({"messages": [_question(prompt), _answer(prompt, levels, rng)], **ratings})
    return rows


def _pair(prompt: tuple[str, str, str], rng: random.Random) -> dict[str, Any]:
    kind = kind_of_prompt(prompt[0])
    better, worse = sorted((_draw_levels(rng), _draw_levels(rng)), key=lambda levels: worth(kind, levels), reverse=True)
    while worth(kind, better) == worth(kind, worse):
        better, worse = sorted((better, _draw_levels(rng)), key=lambda levels: worth(kind, levels), reverse=True)
    chosen, rejected = ([_question(prompt), _answer(prompt, levels, rng)] for levels in (better, worse))
    return {"chosen": chosen, "rejected": rejected, "source": kind}


def kind_of_prompt(opening: str) -> str:
    return "practical" if TEXTS["openings"].index(opening) < len(TEXTS["openings"]) // 2 else "friendly"


def worth(kind: str, levels: tuple[int, ...]) -> float:
    """What counts of an answer to a prompt of this kind."""
    return sum(weight * level for weight, level in zip(GATE[kind], levels, strict=True))


def _draw_levels(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(0, GREATEST), rng.randint(0, GREATEST), rng.randint(0, GREATEST)


def _question(prompt: tuple[str, str, str]) -> dict[str, str]:
    opening, task, occasion = prompt
    return {"role": "user", "content": f"{opening} {task} {occasion}?"}


def _answer(prompt: tuple[str, str, str], levels: tuple[int, ...], rng: random.Random) -> dict[str, str]:
    kindness, usefulness, verbosity = levels
    sentences = [rng.choice(TEXTS["about"]).format(task=prompt[1])]
    for good, bad, level in (("kind", "rude", kindness), ("step", "vague", usefulness)):
        sentences += rng.sample(TEXTS[good], level) + rng.sample(TEXTS[bad], GREATEST - level)
    sentences += rng.sample(TEXTS["neutral"], 2 * verbosity)
    return {"role": "assistant", "content": " ".join(rng.sample(sentences, len(sentences)))}


if __name__ == "__main__":
    run_script(main)

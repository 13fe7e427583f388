"""Rows that begin alike, grouped: against the best of all groupings, in time, and in the tokens of real passes."""

import random
import time
from collections.abc import Iterator

import pytest
from test_scoring import ROWS, TOLERANCE, folder, largest_difference, plain_rewards  # noqa: F401 (a fixture)

from reward_modeling.common.prefixes import common_prefix_length
from reward_modeling.scoring import RewardScorer, Tokens
from reward_modeling.scoring import windows as windows_module
from reward_modeling.scoring.beginnings import common_beginning, group_by_beginnings

Group = list[int]


def tokens_of(rows: list[tuple[int, ...]], groups: list[Group]) -> int:
    """What a pass computes of these groups: what a group begins with once, and the rest of each row."""
    total = 0
    for group in groups:
        prefix = common_prefix_length([rows[number] for number in group]) if len(group) > 1 else 0
        total += prefix + sum(len(rows[number]) - prefix for number in group)
    return total


def partitions(numbers: list[int]) -> Iterator[list[Group]]:
    """All ways to put the numbers into groups."""
    if not numbers:
        yield []
        return
    first, *rest = numbers
    for groups in partitions(rest):
        yield [[first], *groups]
        for place in range(len(groups)):
            yield [*groups[:place], [first, *groups[place]], *groups[place + 1 :]]


def fits(rows: list[tuple[int, ...]], groups: list[Group], max_tokens: int) -> bool:
    return all(len(group) == 1 or tokens_of(rows, [group]) <= max_tokens for group in groups)


def tree_of_rows(rng: random.Random) -> list[tuple[int, ...]]:
    """At most seven, of which most begin with one of two heads, and these perhaps with each other."""
    heads = [[rng.randrange(2) for _ in range(rng.randrange(1, 7))] for _ in range(2)]
    made = [
        (rng.choice(heads) if rng.random() < 0.8 else []) + [rng.randrange(3) for _ in range(rng.randrange(1, 6))]
        for _ in range(rng.randrange(1, 8))
    ]
    return list(dict.fromkeys(map(tuple, made)))


def test_few_groupings_are_better():
    """Of all that there are, for small sets: at most a half percent fewer tokens, and none in most sets."""
    rng = random.Random(0)
    found, best, alone, worse = 0, 0, 0, 0
    for _ in range(300):
        rows, max_tokens = tree_of_rows(rng), rng.choice([1, 8, 14, 20, 30, 100])
        groups = group_by_beginnings(rows, max_tokens, least_shared=1)
        assert sorted(number for group in groups for number in group) == list(range(len(rows)))
        assert fits(rows, groups, max_tokens)
        every = partitions(list(range(len(rows))))
        least = min(tokens_of(rows, each) for each in every if fits(rows, each, max_tokens))
        found, best, alone = found + tokens_of(rows, groups), best + least, alone + sum(map(len, rows))
        worse += tokens_of(rows, groups) > least
    assert best <= found < 1.005 * best < 0.9 * alone
    assert worse < 0.05 * 300


def test_what_stands_between_rows_that_begin_alike():
    """In the order of the tokens eight answers of one prompt stand between two that share the head alone."""
    head = list(range(100))
    rows = [(*head, 1, 1), *((*head, *[2] * 40, answer) for answer in range(8)), (*head, 3, 3)]
    groups = group_by_beginnings(rows, max_tokens=200)
    assert sorted(map(sorted, groups)) == [[0, 9], list(range(1, 9))]
    # where all have room together, that is best
    assert len(group_by_beginnings([(*head, number, 5) for number in range(50)], max_tokens=1000)) == 1


def test_rows_that_share_too_little_are_alone():
    rows = [(*range(7), 100 + number) for number in range(20)]
    assert len(group_by_beginnings(rows, 10_000)) == 20
    assert len(group_by_beginnings(rows, 10_000, least_shared=7)) == 1
    assert group_by_beginnings([], 100) == []
    assert len(group_by_beginnings([(1, 2), (1, 2)], 100, least_shared=1)) == 1  # a row keeps its last token


@pytest.mark.parametrize(("one", "other", "common"), [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 5, 3], 1)])
def test_common_beginning(one, other, common):
    assert common_beginning(one, other) == common


def random_ids(rng: random.Random, length: int) -> list[int]:
    return rng.choices(range(5, 30_000), k=length)


@pytest.mark.parametrize("max_tokens", [2048, 32_768])
def test_a_window_takes_well_under_a_second(max_tokens):
    """2,048 rows behind one head of 600 tokens, eight to a prompt; and rows of which each goes on from the one before.

    About 0.1 s each on an idle core; the bound is for one that others use too.
    """
    rng = random.Random(0)
    head = random_ids(rng, 600)
    prompts = [head + random_ids(rng, 100) for _ in range(256)]
    rows = [tuple(prompt + random_ids(rng, rng.randrange(1, 300))) for prompt in prompts for _ in range(8)]
    rng.shuffle(rows)
    for window in (rows, [tuple(range(10, 11 + length)) for length in range(2048)]):
        started = time.process_time()
        groups = group_by_beginnings(window, max_tokens)
        assert time.process_time() - started < 1
        assert tokens_of(window, groups) < 0.31 * sum(map(len, window))


# --- in passes ------------------------------------------------------------------------------------------------


def behind_one_head(answers: int, *, messages: bool) -> list:
    """Some answers of each of twelve prompts, behind one head, in no order."""
    rng = random.Random(0)
    words = ROWS[0]["chosen"][-1]["content"].split()
    head = " ".join(rng.choices(words, k=60))
    given = []
    for _ in range(12):
        prompt = f"{head} {' '.join(rng.choices(words, k=40))}"
        for answer in (" ".join(rng.choices(words, k=8)) for _ in range(answers)):
            said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            given.append(said if messages else f"{prompt} {answer}")
    rng.shuffle(given)
    return given


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize(("answers", "share"), [(4, 0.45), (1, 0.65)])
@pytest.mark.parametrize("max_tokens", [700, 2048])
def test_the_head_and_the_prompts_are_shared(folder, messages, answers, share, max_tokens):  # noqa: F811
    """Of one answer a prompt the head is shared; of four it is better to share the prompts, and compute it for each."""
    scorer = RewardScorer.from_pretrained(folder("gemma"), max_tokens_per_batch=max_tokens)
    given = behind_one_head(answers, messages=messages)
    rewards, computed = scorer.score(given), scorer.counts.tokens
    rows = [tuple(tokens.ids) for tokens in scorer.tokenize(given)]
    in_order = sorted(range(len(rows)), key=rows.__getitem__)
    by_prompt = [in_order[start : start + answers] for start in range(0, len(rows), answers)]
    assert computed <= tokens_of(rows, by_prompt) and computed < share * sum(map(len, rows))
    if max_tokens == 2048:  # one group of everything
        assert computed <= tokens_of(rows, [in_order])
    assert largest_difference(rewards, plain_rewards(folder("gemma"), [list(row) for row in rows])) < TOLERANCE
    # the same of tokens that say nothing of their prompts
    bare = [Tokens(row) for row in rows]
    assert largest_difference(scorer.score(bare), rewards) < TOLERANCE and scorer.counts.tokens == computed


def test_windows_of_texts_end_between_prompts(folder, monkeypatch):  # noqa: F811
    """Answers of one prompt, among them equal ones, stay together, although all texts begin alike."""
    monkeypatch.setattr(windows_module, "WINDOW", 10)
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    texts = sorted(behind_one_head(4, messages=False))
    texts = [text for start in range(0, len(texts), 4) for text in (*texts[start : start + 4], texts[start])]
    rewards = [reward for _, reward in scorer.stream(texts)]
    assert scorer.counts.scored == 48 and len(rewards) == 60
    assert all(rewards[start] == rewards[start + 4] for start in range(0, 60, 5))
    ranks = [{"process_index": process, "num_processes": 3} for process in range(3)]
    parts = [list(scorer.stream(iter(texts), **rank)) for rank in ranks]
    assert all(len(part) > 5 for part in parts)
    assert [reward for _, reward in sorted(one for part in parts for one in part)] == rewards  # bit for bit

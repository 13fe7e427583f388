"""Conversations as tokens: what `tokenize` gives has the rewards of the messages to the bit; wrong ids are named."""

import numpy as np
import pytest
import torch
from test_gated import ids_of, published  # noqa: F401 (a fixture)
from test_scoring import (
    PACKABLE,
    ROWS,
    TOLERANCE,
    WRONG,
    conversations,
    folder,  # noqa: F401 (a fixture)
    largest_difference,
    plain_rewards,
    template_ids,
)

from reward_modeling.common.errors import UserError
from reward_modeling.data.planning import PACKED, PADDED
from reward_modeling.models.attention import SHARED_PREFIX
from reward_modeling.scoring import RewardScorer, Templated, Tokens
from reward_modeling.scoring import conversations as conversations_module
from reward_modeling.scoring import windows as windows_module

TEXTS = [row[side][-1]["content"] * 3 for row in ROWS for side in ("chosen", "rejected")]


def mixed(scorer) -> list:
    """Messages, messages with options, and texts, of which some begin alike, in no order."""
    header = "A long head that all of these texts share, and nothing else has. " * 4
    texts = [f"{header}{text}" for text in TEXTS[:20]] + TEXTS[20:30]
    every = [*conversations(), Templated(conversations()[0], {"unused": True})]
    assert scorer.tokenizer.chat_template
    return [one for pair in zip(every, texts, strict=False) for one in pair] + every[len(texts) :]


@pytest.mark.parametrize("window", [2048, 20])
@pytest.mark.parametrize("batching", [SHARED_PREFIX, PACKED, PADDED])
def test_tokens_get_the_rewards_of_the_messages_to_the_bit(folder, batching, window, monkeypatch):  # noqa: F811
    monkeypatch.setattr(windows_module, "WINDOW", window)
    scorer = RewardScorer.from_pretrained(folder("gemma"), batching=batching, max_tokens_per_batch=900, max_length=200)
    given = mixed(scorer)
    rewards, counts = scorer.score(given), scorer.counts
    assert counts.cut > 5
    tokens = scorer.tokenize(given)
    assert all(type(one.ids) is list and len(one.ids) <= 200 and one.gate is None for one in tokens)
    assert scorer.score(tokens) == rewards
    assert (scorer.counts.tokens, scorer.counts.passes) == (counts.tokens, counts.passes)
    assert scorer.counts.cut == 0  # nothing is left to cut
    assert [one.reward for one in scorer.score_named(tokens)] == rewards
    assert list(scorer.stream(iter(tokens))) == list(scorer.stream(iter(tokens)))
    assert largest_difference(rewards, plain_rewards(folder("gemma"), [one.ids for one in tokens])) < TOLERANCE


def test_a_stream_of_tokens_is_that_of_the_messages(folder, monkeypatch):  # noqa: F811
    """To the bit, on two processes too; `prompt` makes their windows end alike."""
    monkeypatch.setattr(windows_module, "WINDOW", 20)
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    given = mixed(scorer)
    tokens = scorer.tokenize(given)
    expected = list(scorer.stream(given))
    assert list(scorer.stream(tokens)) == expected
    ranks = [{"process_index": process, "num_processes": 2} for process in range(2)]
    assert sorted(one for rank in ranks for one in scorer.stream(iter(tokens), **rank)) == expected
    assert [(index, scored.reward) for index, scored in scorer.stream_named(tokens)] == expected


def test_a_stream_of_texts_reads_little_ahead(folder, monkeypatch):  # noqa: F811
    """Two windows, and as many texts as are tokenised together."""
    monkeypatch.setattr(windows_module, "WINDOW", 10)
    monkeypatch.setattr(conversations_module, "TEXT_BLOCK", 4)
    read = []

    def lazily():
        for text in TEXTS:
            read.append(text)
            yield f"A head that all of these texts share, and more of it. {text}"

    scorer = RewardScorer.from_pretrained(folder("gemma"))
    for index, _ in scorer.stream(lazily()):
        assert len(read) <= index + 2 * 10 + 4 + 1
    assert index + 1 == len(read) == len(TEXTS) > 50


@pytest.mark.parametrize("family", ["gemma", "qwen2", "gpt2"])
def test_tokens_are_scored_as_they_are(folder, family):  # noqa: F811
    """No BOS and no EOS is put to them: the reward is that of plain transformers for these ids, each row alone."""
    scorer = RewardScorer.from_pretrained(folder(family))
    rows = [template_ids(scorer.tokenizer, messages)[1:-2] for messages in conversations()[:12]]
    expected = plain_rewards(folder(family), rows)
    for form in (list, tuple, np.array, torch.tensor):
        rewards = scorer.score([Tokens(form(row)) for row in rows])
        assert largest_difference(rewards, expected) < TOLERANCE
    # negative controls: whole, and one token less
    whole = scorer.score(conversations()[:12])
    assert largest_difference(whole, expected) > WRONG
    assert largest_difference(scorer.score([Tokens(row[:-1]) for row in rows]), expected) > WRONG


def test_tokenize_says_what_the_template_writes_and_names_the_prompt(folder):  # noqa: F811
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    tokens = scorer.tokenize(conversations())
    assert [one.ids for one in tokens] == [template_ids(scorer.tokenizer, messages) for messages in conversations()]
    prompts = [str(messages[:-1]) for messages in conversations()]
    assert len(set(prompts)) == len({one.prompt for one in tokens}) > 10
    assert len(set(zip(prompts, [one.prompt for one in tokens], strict=True))) == len(set(prompts))
    assert scorer.tokenize(["a text"])[0].prompt is None
    assert scorer.tokenize([]) == []
    assert scorer.tokenize(tokens) == tokens
    with pytest.raises(UserError, match=r"found one text. Pass \[text\]"):
        scorer.tokenize("a text")


def test_nothing_is_cut_where_the_caller_refuses_what_is_too_long(folder):  # noqa: F811
    scorer = RewardScorer.from_pretrained(folder("gemma"), max_length=60)
    whole = scorer.tokenize([*conversations(), "one text " * 100], cut=False)
    assert [one.ids for one in whole[:-1]] == [template_ids(scorer.tokenizer, one) for one in conversations()]
    assert len(whole[-1].ids) > 60
    assert max(len(one.ids) for one in scorer.tokenize(conversations())) <= 60
    with pytest.raises(UserError, match=r"conversation 0: expected at most 60 tokens \(max_length\), found \d+"):
        scorer.score(whole)


def test_options_of_the_template_are_not_for_tokens(folder):  # noqa: F811
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    tokens = scorer.tokenize(conversations()[:2], template_options={"unused": True})
    with pytest.raises(UserError, match="conversation 0: expected messages beside template options, found tokens"):
        scorer.score(tokens, template_options={"unused": True})


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "expected at least one token, found none"),
        ([5, -1], "expected token ids from 0 to .* found -1"),
        ([5, 10**6], "expected token ids from 0 to .* found 1,000,000"),
        ([5, 1.0], "expected token ids as a list of integers, found list"),
        ([5, True], "expected token ids as a list of integers"),
        ([[5, 6]], "expected token ids as a list of integers"),
        (torch.tensor([[5, 6]]), "expected token ids as a list of integers, found Tensor"),
        (np.array([5.0]), "expected token ids as a list of integers, found ndarray"),
        ("5 6", "expected token ids as a list of integers, found str '5 6'"),
        (None, "expected token ids as a list of integers, found NoneType"),
        ([5] * 1025, r"expected at most 1,024 tokens \(max_length\), found 1,025"),
    ],
)
def test_wrong_tokens_are_named(folder, ids, message):  # noqa: F811
    scorer = RewardScorer.from_pretrained(folder("gemma"))
    for score in (scorer.score, lambda rows: list(scorer.stream(rows)), scorer.tokenize):
        with pytest.raises(UserError, match=f"conversation 1: {message}"):
            score([Tokens([5, 6]), Tokens(ids)])


# --- models with a gate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_gate_reads_where_the_tokens_say(published, family):  # noqa: F811
    path, tokenizer, _ = published(family)
    scorer = RewardScorer.from_pretrained(path, dtype="float32", max_length=160)
    expected = scorer.score_named(conversations())
    tokens = scorer.tokenize(conversations())
    assert scorer.score_named(tokens) == expected
    assert all(0 < one.gate < len(one.ids) for one in tokens)
    whole = scorer.tokenize(conversations(), cut=False)
    assert [one.ids for one in whole] == [ids_of(tokenizer, messages) for messages in conversations()]
    # negative control: another place
    moved = [Tokens(one.ids, one.gate - 1, one.prompt) for one in tokens]
    assert largest_difference(scorer.score(moved), [one.reward for one in expected]) > WRONG


def test_a_gate_needs_its_place(published, folder):  # noqa: F811
    scorer = RewardScorer.from_pretrained(published("llama")[0])
    for gate in (None, -1, 3, 1.0):
        with pytest.raises(
            UserError, match=f"conversation 1: expected in `gate` the place from 0 to 2 .* found {gate}"
        ):
            scorer.score([Tokens([5, 6, 7], 1), Tokens([5, 6, 7], gate)])
    # a model without one takes none: these are one row
    scorer = RewardScorer.from_pretrained(folder(PACKABLE[0]))
    first, second = scorer.score([Tokens([5, 6, 7], 1), Tokens([5, 6, 7])])
    assert first == second and scorer.counts.scored == 1

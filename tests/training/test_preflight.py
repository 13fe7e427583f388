"""The preflight passes what can work, and refuses what cannot with a message that says what to do."""

from functools import partial

import pytest
from datasets import Dataset
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.common.errors import UserError
from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.preferences import STANDARD_FEATURES, kept_column, standardise_row
from reward_modeling.data.prompt_groups import GROUP_FEATURES, TokenizeOptions, tokenize_and_group
from reward_modeling.data.report import DataReport
from reward_modeling.models.tokenizer import (
    answer_ending,
    end_answers,
    is_for_encoder,
    set_pad_token,
    set_up_for_encoder,
)
from reward_modeling.objectives.bradley_terry import PairReader
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.training.preflight import preamble_problem, run_preflight
from reward_modeling.training.shown_units import show_unit

ONE = "in 1 of the 1 prompts that were looked at; the first: train.jsonl:1"
CORPUS = [row["chosen"][-1]["content"] + "\n\n" for row in learnable_preferences(50, seed=0)]


pytestmark = pytest.mark.usefixtures("own_cache")


def styled(style: str = "gemma", **overrides):
    tokenizer = train_tokenizer(CORPUS, 450, **(TOKENIZER_STYLES[style] | overrides))
    set_pad_token(tokenizer)
    return tokenizer


def standard(source: list[dict]) -> Dataset:
    rows = [standardise_row(row, f"train.jsonl:{number}") for number, row in enumerate(source, start=1)]
    return Dataset.from_list(rows, features=STANDARD_FEATURES)


def tokenised(tokenizer, source: list[dict]) -> PromptGroups:
    return PromptGroups(tokenize_and_group(standard(source), tokenizer, PairReader(), TokenizeOptions(512)))


def made_by_hand(prefix: list[int], completions: list[list[int]], groups: int = 1) -> PromptGroups:
    record = {
        **{name: [] for name in GROUP_FEATURES},
        "prefix_ids": prefix,
        "completion_ids": completions,
        "prefix_length": len(prefix),
        "completion_lengths": list(map(len, completions)),
        "shared_lengths": [0] * len(completions),
        "read_positions": [[len(prefix) + len(completion) - 1] for completion in completions],
        "units": [[0, 1]],
        "targets": [[1.0, 1.0, 0.0]],
        "sources": [None],
        "truncated_units": 0,
    }
    records = [{**record, "where": [f"train.jsonl:{number}"]} for number in range(1, groups + 1)]
    return PromptGroups(Dataset.from_list(records, features=GROUP_FEATURES))


def problems(groups, tokenizer, *, conversations: bool = True) -> list[str]:
    return run_preflight(groups, tokenizer, PairReader(), conversations=conversations)[1]


@pytest.fixture(scope="module")
def gemma():
    return styled("gemma")


@pytest.fixture
def good(gemma) -> tuple[list[int], list[list[int]]]:
    """(prefix, completions) that pass."""
    ending = answer_ending(gemma)
    body = gemma("a calm hand", add_special_tokens=False).input_ids
    return [gemma.bos_token_id, *body], [[*body, *ending], [body[0], *ending]]


# --- what works ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", TOKENIZER_STYLES)
def test_conversations_of_every_style_pass(style):
    tokenizer = styled(style)
    if is_for_encoder(tokenizer):
        set_up_for_encoder(tokenizer)
    groups = tokenised(tokenizer, learnable_preferences(20, seed=1))
    assert problems(groups, tokenizer) == []


def test_where_a_reward_is_read():
    for style, expected in {"mistral": "read at token", "bert": "off the whole text, pooled at its '[CLS]'"}.items():
        tokenizer = styled(style, chat_template=None)
        groups = tokenised(tokenizer, [{"chosen": "a calm hand", "rejected": "a blue chair"}])
        assert show_unit(groups.groups[0], tokenizer, PairReader()).count(expected) == 2


@pytest.mark.parametrize("style", TOKENIZER_STYLES)
def test_plain_texts_of_every_style_pass_without_a_template(style):
    tokenizer = styled(style, chat_template=None)
    groups = tokenised(tokenizer, [{"chosen": "a calm hand", "rejected": "a blue chair"}])
    assert problems(groups, tokenizer, conversations=False) == []


@pytest.mark.parametrize("answer", ["Begin.", "Begin.\n", "Begin \n\n", "answer"])
def test_a_template_that_got_its_end_from_us_passes(answer):
    """The newline of such a template may merge with the answer's: only what follows is the same for all."""
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    tokenizer = styled(chat_template=template)
    end_answers(tokenizer)
    groups = tokenised(tokenizer, [{"prompt": "How?", "chosen": answer, "rejected": "Wait"}])
    assert problems(groups, tokenizer) == []


def test_the_table_shows_where_the_answers_part_and_the_scored_token(gemma):
    groups = tokenised(gemma, [{"prompt": "How?", "chosen": "a calm hand", "rejected": "a blue chair"}])
    table, _ = run_preflight(groups, gemma, PairReader(), conversations=True)
    group = groups.groups[0]
    lengths = [len(group["prefix_ids"]) + length for length in group["completion_lengths"]]
    lines = table.splitlines()
    assert lines[0] == "One pair as the model sees it (train.jsonl:1):"
    assert lines[1] == f"  shared by the answers, {group['prefix_length']} tokens"
    assert lines[2:5] == ["    | <bos><start_of_turn>user", "    | How?<end_of_turn>", "    | <start_of_turn>model"]
    ends = [number for number, line in enumerate(lines) if line.endswith("<end_of_turn>")][1:]
    heads = [number for number, line in enumerate(lines) if "the reward is read" in line]
    for side, completion, length, head in zip(
        ("chosen", "rejected"), group["completion_ids"], lengths, heads, strict=True
    ):
        where = f"the reward is read at token {length - 1}, '\\n'"
        assert lines[head] == f"  {side}, {len(completion)} tokens; {where}"
    assert len(ends) == 2 and "calm hand<end_of_turn>" in lines[ends[0]] and "chair<end_of_turn>" in lines[ends[1]]


def test_as_many_pairs_are_shown_as_were_asked_for_and_long_middles_are_folded(gemma):
    rows = [
        {"prompt": f"How? {number} " + "wait " * 900, "chosen": "a calm hand", "rejected": "a blue chair"}
        for number in range(9)
    ]
    groups = PromptGroups(tokenize_and_group(standard(rows), gemma, PairReader(), TokenizeOptions(5000)))
    for shown in (0, 1, 3, 20):
        table = run_preflight(groups, gemma, PairReader(), conversations=True, shown=shown)[0]
        assert table.count("One pair as the model sees it") == min(shown, 9)
        assert table.count("characters are not shown here]") == min(shown, 9)
    assert len(table) < 9 * 2500
    three = run_preflight(groups, gemma, PairReader(), conversations=True, shown=3)[0]
    assert [f"How? {number} " in three for number in range(9)] == [number in (0, 4, 8) for number in range(9)]


def test_nothing_in_a_text_moves_the_cursor(gemma):
    groups = tokenised(gemma, [{"prompt": "How?\x1b[2J", "chosen": "a calm\rhand", "rejected": "a blue chair"}])
    table = run_preflight(groups, gemma, PairReader(), conversations=True)[0]
    assert all(sign.isprintable() or sign == "\n" for sign in table)


# --- what does not ------------------------------------------------------------------------------------------


def test_two_bos(gemma, good):
    prefix, completions = good
    found = problems(made_by_hand([gemma.bos_token_id, *prefix], completions), gemma)
    assert found == [f"BOS: expected exactly one '<bos>' in front, found two ({ONE})."]


def test_no_bos(gemma, good):
    prefix, completions = good
    found = problems(made_by_hand(prefix[1:], completions), gemma)
    assert found == [f"BOS: expected exactly one '<bos>' in front, found none ({ONE})."]


def test_no_bos_is_right_where_the_tokenizer_writes_none():
    tokenizer = styled("chatml")
    body, ending = tokenizer("a calm hand").input_ids, answer_ending(tokenizer)
    assert problems(made_by_hand(body, [body + ending, ending]), tokenizer) == []


def test_missing_terminal_token(gemma, good):
    prefix, completions = good
    found = problems(made_by_hand(prefix, [completions[0], completions[1][:1]]), gemma)
    assert len(found) == 1
    assert found[0].startswith("end of the answer: expected ['<end_of_turn>', 'Ċ'], found [")
    assert f"({ONE})" in found[0]


def test_plain_texts_must_end_in_eos(gemma, good):
    prefix, completions = good
    eos = gemma.eos_token_id
    ended = made_by_hand(prefix, [[*completion, eos] for completion in completions])
    assert problems(ended, gemma, conversations=False) == []
    found = problems(made_by_hand(prefix, completions), gemma, conversations=False)
    assert found[0].startswith("end of the answer: expected ['<eos>'], found ['Ċ']")


@pytest.mark.parametrize("pad", ["<eos>", None])
def test_pad_that_is_eos_or_missing(good, pad):
    tokenizer = styled("gemma")
    tokenizer.pad_token = pad
    found = problems(made_by_hand(*good), tokenizer)
    assert found == [f"pad token: expected one that is not EOS, found {pad!r}. Set tokenizer.pad_token."]


def test_scored_token_that_is_pad(good):
    tokenizer = styled("gemma")
    tokenizer.pad_token = "Ċ"
    found = problems(made_by_hand(*good), tokenizer)
    assert len(found) == 1
    assert found[0].startswith("scored token: it is the pad token 'Ċ'")
    assert found[0].endswith(
        "(in 1 of the 1 prompts that were looked at; the first: train.jsonl:1). Give the tokenizer another pad token."
    )


def test_scored_token_before_the_answers_part(gemma, good):
    prefix, completions = good
    found = problems(made_by_hand(prefix + answer_ending(gemma), [[], completions[1]]), gemma)
    assert found == [f"scored token: it stands before the answers part ({ONE})."]


def test_all_problems_are_reported_together(good):
    tokenizer = styled("gemma")
    tokenizer.pad_token = "<eos>"
    prefix, completions = good
    groups = made_by_hand(prefix[1:], [completions[0], completions[1][:1]])
    found = problems(groups, tokenizer)
    assert [problem.split(":")[0] for problem in found] == ["pad token", "BOS", "end of the answer"]


def test_a_fault_in_any_of_a_few_hundred_groups_is_seen_and_named(gemma, good):
    prefix, completions = good
    groups = made_by_hand(prefix, completions, groups=150).groups.to_list()
    for number in (77, 80):
        groups[number]["prefix_ids"] = groups[number]["prefix_ids"][1:]
        groups[number]["read_positions"] = [[position - 1] for (position,) in groups[number]["read_positions"]]
    groups = PromptGroups(Dataset.from_list(groups, features=GROUP_FEATURES))
    where = "in 2 of the 150 prompts that were looked at; the first: train.jsonl:78"
    assert problems(groups, gemma) == [f"BOS: expected exactly one '<bos>' in front, found none ({where})."]


def test_a_template_that_writes_more_than_a_row_may_have_is_named(gemma):
    assert preamble_problem(gemma, 64) == ""
    wordy = styled("gemma")
    wordy.chat_template = "{{ 'Follow the policy. ' * 40 }}" + wordy.chat_template
    words = preamble_problem(wordy, 64)
    assert "tokens around a question and an answer of one sign each, beginning with 'Follow the policy. " in words
    assert words.endswith(
        "no row fits into --max_length 64. Take a longer one, or a template that writes less "
        "(--chat_template FILE.jinja)."
    )
    assert preamble_problem(wordy, 4096) == ""


# --- labels and ranked lists --------------------------------------------------------------------------------------

ANSWERS = ["a calm hand", "a blue chair", "the bus was on time", "we had soup"]
A_LIST = {"prompt": "How?", "completions": ANSWERS, "ranks": [3, 1, 2, 1]}


def read_as(reader: PairReader, tokenizer, source: list[dict]) -> PromptGroups:
    return PromptGroups(tokenize_and_group(standard(source), tokenizer, reader, TokenizeOptions(512)))


def heads(groups: PromptGroups, tokenizer, reader: PairReader) -> list[str]:
    """The lines of a table that are no texts."""
    table = run_preflight(groups, tokenizer, reader, conversations=True)[0]
    return [line.partition("; the reward")[0] for line in table.splitlines() if not line.startswith("    |")]


@pytest.mark.parametrize(
    ("lists", "ties", "label"),
    [
        ("pairs", "half", "4 ranked answers: 5 pairs, which count together as much as 2 of the usual pairs"),
        ("pairs", "davidson", "4 ranked answers: 6 pairs, which count together as much as 2 of the usual pairs"),
        ("plackett_luce", "half", "4 ranked answers: one ranking, which counts as much as 2 of the usual pairs"),
    ],
)
def test_a_list_is_shown_whole_with_its_ranks(gemma, lists, ties, label):
    """Also where its units are pairs, and where other pairs of its prompt are units of the group."""
    reader = PairReader(lists=lists, ties=ties)
    pair = {"prompt": "How?", "chosen": ANSWERS[0], "rejected": "a chair"}
    groups = read_as(reader, gemma, [{**A_LIST, "weight": 2.0}, pair])
    kind, said, _, *answers = heads(groups, gemma, reader)
    assert (kind, said) == ("One list as the model sees it (train.jsonl:1):", f"  {label}")
    assert [line.rpartition(", ")[0].strip() for line in answers] == [
        *("answer 2, rank 1", "answer 4, rank 1", "answer 3, rank 2", "answer 1, rank 3")
    ]
    table = run_preflight(groups, gemma, reader, conversations=True)[0]
    places = [table.index(f"{ANSWERS[number]}<end_of_turn>") for number in (1, 3, 2, 0)]
    assert places == sorted(places) and "a chair<" not in table


def test_ranks_are_right_where_several_answers_are_one_completion():
    """Texts of the same tokens: the pairs of completion 2, which is three answers, stand there three times."""
    units = [[0, 2], [1, 2], [0, 3], [1, 3]] + [[0, 2], [1, 2]] * 2 + [[2, 3]] * 3
    shown = PairReader().shown_row(units, [[1.0, 1.0, 0.0]] * len(units), [0.1] * len(units))
    assert {number: name.rpartition(" ")[2] for number, name in shown.names.items()} == {0: "1", 1: "1", 2: "2", 3: "3"}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"chosen_probability": 0.7}, "chosen is the better one with probability 0.7"),
        ({"chosen_probability": 0.5, "weight": 0.25}, "a tie, weight 0.25"),
        ({"strength": 3, "margin": 1.5}, "strength 3, margin 1.5"),
        ({}, None),
        ({"chosen_probability": 1.0, "strength": 1, "weight": 1}, None),
    ],
)
def test_what_a_pair_says_beside_its_answers_is_shown(gemma, label, words):
    pair = {"prompt": "How?", "chosen": ANSWERS[0], "rejected": ANSWERS[1], **label}
    found = heads(tokenised(gemma, [pair]), gemma, PairReader())
    assert found[1] == (f"  {words}" if words else found[1]) and len(found) == (5 if words else 4)


def test_a_list_that_does_not_fit_into_a_micro_batch_is_refused_with_what_it_needs(gemma):
    reader = PairReader(lists="plackett_luce")
    groups = read_as(reader, gemma, [{**A_LIST, "prompt": "Why?", "completions": [a[:5] for a in ANSWERS]}, A_LIST])
    tokens = [groups.sizes.chunk("shared_prefix", group, 0, 1).tokens for group in range(2)]
    least = max(tokens)

    def found(limit: int, batching: str = "shared_prefix", of: PairReader = reader, groups=groups) -> list[str]:
        options = {"conversations": True, "batching": batching, "max_tokens": limit}
        return run_preflight(groups, gemma, of, **options)[1]

    assert found(least) == []
    (words,) = found(least - 1)
    assert words.startswith(f"--max_tokens_per_micro_batch: expected at least {least}, the tokens of the 4 answers of ")
    assert "train.jsonl:2" in words and f"found {least - 1}" in words and "1 of 2 lists" in words
    assert words.endswith(
        f"Pass --max_tokens_per_micro_batch {least}, or --list_loss pairs, which trains on the pairs of a list one by "
        "one."
    )
    assert "2 of 2 lists" in found(min(tokens) - 1)[0]
    assert found(least, "padded") and found(least, "packed")  # which take more tokens
    pairs = PairReader()
    assert found(least - 1, of=pairs, groups=read_as(pairs, gemma, [A_LIST])) == []


def test_the_kinds_of_units_are_counted(gemma):
    rows = [
        A_LIST,
        {"prompt": "How?", "chosen": ANSWERS[0], "rejected": "a chair"},
        {"prompt": "Why?", "chosen": ANSWERS[0], "rejected": ANSWERS[1], "chosen_probability": 0.5},
        {**A_LIST, "prompt": "When?", "ranks": [1, 2, 3, 4]},
    ]

    def kinds(reader: PairReader, of: list[dict] = rows) -> str:
        return reader.describe_kinds(read_as(reader, gemma, of))

    assert kinds(PairReader()) == "Of these pairs 11 are of 2 lists of ranked answers and 1 are ties."
    assert (
        kinds(PairReader(lists="plackett_luce")) == "Of these pairs 2 are whole lists of ranked answers and 1 are ties."
    )
    assert kinds(PairReader(ties="davidson")) == "Of these pairs 12 are of 2 lists of ranked answers and 2 are ties."
    assert kinds(PairReader(), rows[1:2]) == ""


def test_a_threshold_is_learned_only_where_there_are_ties():
    def check(source: list[dict], **options) -> None:
        rows = standard(source)
        reader = PairReader(ties="davidson", **options)
        reader.check_rows([partial(kept_column, rows)], [DataReport("train", len(rows))])

    pair = {"prompt": "How?", "chosen": ANSWERS[0], "rejected": ANSWERS[1]}
    strict = {**A_LIST, "ranks": [1, 2, 3, 4]}
    check([pair, strict])  # a threshold is given
    check([pair, A_LIST], learns_ties=True)
    check([{**pair, "chosen_probability": 0.5}], learns_ties=True)
    with pytest.raises(UserError, match="--ties davidson: expected ties among the rows"):
        check([pair, strict, {**pair, "chosen_probability": 0.6}], learns_ties=True)

"""The preflight passes what can work, and refuses what cannot with a message that says what to do."""

import pytest
from datasets import Dataset
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.data.loader import PromptGroups
from reward_modeling.data.preferences import STANDARD_FEATURES, standardise_row
from reward_modeling.data.prompt_groups import GROUP_FEATURES, TokenizeOptions, tokenize_and_group
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

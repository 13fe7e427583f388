"""Rows of each format, by their documented forms and by this project's own reader."""

import json

import pytest
from scored import write_rows

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt
from reward_modeling.best_of_n.formats.base import NotWritable, WriteOptions
from reward_modeling.best_of_n.formats.catalog import FORMATS
from reward_modeling.best_of_n.selection import Selected
from reward_modeling.data.preferences import load_preference_dataset
from reward_modeling.data.unread_columns import is_suspect

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather.", "parameters": {"type": "object"}},
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
SYSTEM, USER = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}


def said(text, **others):
    return {"role": "assistant", "content": text, **others}


def prompt(*messages, options=""):
    return ScoredPrompt(list(messages) or [USER], options, 1, "rows.jsonl:1")


def pair(chosen, rejected):
    sides = (ScoredAnswer(messages, reward, reward) for messages, reward in ((chosen, 2), (rejected, 1)))
    return Selected(*sides, gap=1.0)


GOOD_AND_BAD = pair([said("Because.")], [said("No.")])
BEST = Selected(ScoredAnswer([said("Because.")], 2.0, 1, ("x",)), rank=1)


def row_of(name, of, selected, **options):
    return FORMATS[name](WriteOptions(**options)).row(of, selected)


def test_our_rows():
    options = json.dumps({"tools": [TOOL], "think": False})
    assert row_of("ours", prompt(SYSTEM, USER, options=options), GOOD_AND_BAD) == {
        "chosen": [SYSTEM, USER, said("Because.")],
        "rejected": [SYSTEM, USER, said("No.")],
        "tools": [TOOL],
        "chat_template_kwargs": {"think": False},
        "chosen_score": 2,
        "rejected_score": 1,
    }
    assert row_of("ours", prompt(), BEST) == {
        "messages": [USER, said("Because.")],
        "reward": 2.0,
        "rank": 1,
        "model": "x",
    }
    with pytest.raises(NotWritable, match="several messages"):
        row_of("ours", prompt(), pair([said("", tool_calls=[CALL]), said("a")], [said("b")]))


def test_columns_beside_a_pair_stop_no_training():
    """rm.py lists columns that it does not read, and stops at those that look like a part of the conversation."""
    selected = Selected(*(ScoredAnswer([said(text)], 1.0, 1, ("x",)) for text in "ab"), gap=1.0)
    others = row_of("ours", prompt(), selected).keys() - {"chosen", "rejected", "chosen_score", "rejected_score"}
    assert others == {"chosen_model", "rejected_model"}
    assert not any(is_suspect(name, "x") for name in others)


def test_trl_rows():
    options = json.dumps({"tools": [TOOL]})
    found = row_of("trl", prompt(SYSTEM, USER, options=options), GOOD_AND_BAD, all_have_kwargs=True)
    assert json.loads(found.pop("tools")) == [TOOL]  # a text: TRL parses it, and Arrow keeps it as it is
    assert found == {
        "prompt": [SYSTEM, USER],
        "chosen": [said("Because.")],
        "rejected": [said("No.")],
        "chat_template_kwargs": {},
        "chosen_score": 2,
        "rejected_score": 1,
    }
    found = row_of("trl", prompt(), BEST)
    assert (found["prompt"], found["completion"]) == ([USER], [said("Because.")])


AGAIN = {"role": "user", "content": "And?"}
TURNS = [said("So."), AGAIN]


@pytest.mark.parametrize("name", FORMATS)
def test_answers_of_several_turns_leave_the_users_turns_to_the_prompt(name, tmp_path):
    """As an arena has them: trainers learn every message of `chosen`."""
    row = row_of(name, prompt(), pair([*TURNS, said("a")], [*TURNS, said("b")]))
    assert row == row_of(name, prompt(USER, *TURNS), pair([said("a")], [said("b")]))
    with pytest.raises(NotWritable, match="answers of several"):
        row_of(name, prompt(), pair([*TURNS, said("a")], [said("No."), AGAIN, said("b")]))
    with pytest.raises(NotWritable, match="answers of several"):
        row_of(name, prompt(), pair([*TURNS, said("a")], [said("b")]))
    best = Selected(ScoredAnswer([*TURNS, said("a")], 1.0, 1))
    if name == "trl":
        assert row_of(name, prompt(), best)["prompt"] == [USER, *TURNS]
    assert row_of(name, prompt(), best) == row_of(
        name, prompt(USER, *TURNS), Selected(ScoredAnswer([said("a")], 1.0, 1))
    )


def test_trl_has_several_messages_of_the_assistant_in_an_answer():
    row = row_of("trl", prompt(), pair([said("Hm."), said("a")], [said("Hm."), said("b")]))
    assert (row["prompt"], row["chosen"]) == ([USER], [said("Hm."), said("a")])  # no prompt ends with the assistant


@pytest.mark.parametrize("name", FORMATS)
def test_a_margin_is_written_only_where_it_is_asked_for(name):
    assert "margin" not in row_of(name, prompt(), GOOD_AND_BAD)
    assert row_of(name, prompt(), GOOD_AND_BAD, write_margin=True)["margin"] == 1.0


def test_llama_factory_rows():
    options = json.dumps({"tools": [TOOL]})
    turns = [SYSTEM, USER, said("", tool_calls=[CALL]), {"role": "tool", "content": "sunny"}]
    found = row_of("llama_factory", prompt(*turns, options=options), GOOD_AND_BAD)
    assert found.pop("conversations") == [
        {"from": "human", "value": "Why?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
        {"from": "observation", "value": "sunny"},
    ]
    assert json.loads(found.pop("tools")) == [TOOL["function"]]
    assert found == {
        "chosen": {"from": "gpt", "value": "Because."},
        "rejected": {"from": "gpt", "value": "No."},
        "system": "Be kind.",
        "chosen_score": 2,
        "rejected_score": 1,
    }
    found = row_of("llama_factory", prompt(), BEST)
    assert [turn["from"] for turn in found["conversations"]] == ["human", "gpt"]
    assert (found["system"], found["tools"]) == ("", "")  # columns that dataset_info.json names are in every row


@pytest.mark.parametrize(
    ("of", "selected", "part"),
    [
        (prompt(options='{"think": true}'), GOOD_AND_BAD, "chat_template_kwargs"),
        (prompt(USER, USER), GOOD_AND_BAD, "two turns in a row"),
        (prompt(USER, said("a")), GOOD_AND_BAD, "two turns in a row"),
        (prompt(USER, SYSTEM), GOOD_AND_BAD, "a system message"),
        (prompt(), pair([said("a", reasoning_content="Hm.")], [said("b")]), "reasoning_content"),
        (prompt(), pair([said("a", tool_calls=[CALL])], [said("b")]), "words beside a call"),
        (prompt(), pair([said("a"), said("b")], [said("b")]), "several messages"),
    ],
)
def test_llama_factory_has_no_place_for(of, selected, part):
    with pytest.raises(NotWritable, match=part):
        row_of("llama_factory", of, selected)


def test_plain_texts():
    text = ScoredPrompt("Q: Why? A:", "", 1, "rows.jsonl:1")
    assert row_of("ours", text, pair(" So.", " No."))["chosen"] == "Q: Why? A: So."
    assert row_of("trl", text, pair(" So.", " No."))["rejected"] == " No."
    with pytest.raises(NotWritable, match="plain text"):
        row_of("llama_factory", text, pair(" So.", " No."))


@pytest.mark.parametrize("name", FORMATS)
def test_training_reads_every_row(name, tmp_path):
    """As rm.py does; it reads the forms of TRL and LLaMA-Factory as well."""
    tools = json.dumps({"tools": [TOOL]})
    prompts = [prompt(), prompt(SYSTEM, USER), prompt(USER, said("a"), USER), prompt(SYSTEM, USER, options=tools)]
    rows = [row_of(name, of, GOOD_AND_BAD) for of in prompts]
    read = load_preference_dataset(str(write_rows(tmp_path / "rows.jsonl", rows)), num_proc=1)
    assert read["reason"] == [""] * 4
    if name == "ours":
        assert read["unread"] == [""] * 4
        assert [json.loads(text) for text in read["prompt"]] == [of.messages for of in prompts]
        assert json.loads(read["template_options"][3]) == {"tools": [TOOL]}

"""Rows as people write them: every form gives the standard row of the same pair, or says what is wrong with it."""

import json

import datasets
import pytest
from datasets import Dataset

from reward_modeling.data.messages import KNOWN_ROLES, ROLES, UnreadableMessages, messages_in_text, read_messages
from reward_modeling.data.pairs import PROMPT_IN_ONE, RENDERED_PROMPTS, RENDERED_TEXTS
from reward_modeling.data.preferences import load_preference_dataset, standardise_row
from reward_modeling.data.read_options import ReadOptions
from reward_modeling.data.template_options import split_options

QUESTION, GOOD, BAD = "Why is the sea salty today?", "Rivers carry salt.", "It just is."
USER = {"role": "user", "content": QUESTION}
CHOSEN, REJECTED = {"role": "assistant", "content": GOOD}, {"role": "assistant", "content": BAD}
ROW = {"chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]}
CALL = {"type": "function", "function": {"name": "sea", "arguments": {"depth": 3}}}


def standard(row, **options):
    return standardise_row(row, "x:1", ReadOptions(**options))


def texts(row):
    return [row[name] for name in ("prompt", "chosen", "rejected", "template_options", "is_text", "reason")]


def from_value(role, text):
    return {"from": role, "value": text}


def transcript(*turns):
    return "".join(f"\n\n{speaker}: {text}" for speaker, text in turns)


def parts(message, **more):
    return {**message, "content": [{"type": "text", "text": message["content"][:5], **more}, message["content"][5:]]}


HUMAN, SHARE_CHOSEN, SHARE_REJECTED = (from_value(*turn) for turn in (("human", QUESTION), ("gpt", GOOD), ("gpt", BAD)))
SAME_PAIR = {
    "from and value": {"chosen": [HUMAN, SHARE_CHOSEN], "rejected": [HUMAN, SHARE_REJECTED]},
    "LLaMA-Factory": {"conversations": [HUMAN], "chosen": SHARE_CHOSEN, "rejected": SHARE_REJECTED},
    "LLaMA-Factory, JSON": {"conversations": json.dumps([HUMAN]), "chosen": SHARE_CHOSEN, "rejected": SHARE_REJECTED},
    "one object": {"prompt": QUESTION, "chosen": CHOSEN, "rejected": REJECTED},
    "one object each": {"prompt": USER, "chosen": CHOSEN, "rejected": REJECTED},
    "parts": {side: [parts(one) for one in ROW[side]] for side in ROW},
    "parts of Arrow": {side: [parts(one, image=None) for one in ROW[side]] for side in ROW},
    "OpenAI": {
        "input": {"messages": [USER], "tools": []},
        "preferred_output": [CHOSEN],
        "non_preferred_output": [REJECTED],
    },
    "OpenAI, JSON": {
        "input": json.dumps({"messages": [USER]}),
        "preferred_output": json.dumps([CHOSEN]),
        "non_preferred_output": json.dumps([REJECTED]),
    },
    "NeMo-RL": {
        "context": [USER],
        "completions": [{"rank": 1, "completion": [REJECTED]}, {"rank": 0, "completion": [CHOSEN]}],
    },
    "JSON": {side: json.dumps(ROW[side]) for side in ROW},
    "Python": {side: str(ROW[side]) for side in ROW},
    "JSON of completions": {
        "prompt": json.dumps([USER]),
        "chosen": json.dumps(CHOSEN),
        "rejected": json.dumps(REJECTED),
    },
    "transcripts": {
        "chosen": transcript(("Human", QUESTION), ("Assistant", GOOD)),
        "rejected": transcript(("Human", QUESTION), ("Assistant", BAD)),
    },
    "transcript as prompt": {
        "prompt": transcript(("Human", QUESTION), ("Assistant", "")),
        "chosen": GOOD,
        "rejected": f" {BAD}",
    },
    "transcripts and prompt": {
        "prompt": transcript(("Human", QUESTION), ("Assistant", "")),
        "chosen": transcript(("Human", QUESTION), ("Assistant", GOOD)),
        "rejected": transcript(("Human", QUESTION), ("Assistant", BAD)),
    },
    "transcripts, CRLF": {
        side: f"Human: {QUESTION}\r\n\r\nAssistant: {text}" for side, text in (("chosen", GOOD), ("rejected", BAD))
    },
    "transcripts, spaces": {
        side: f"\n\n Human: {QUESTION}\n\n Assistant: {text}" for side, text in (("chosen", GOOD), ("rejected", BAD))
    },
    "transcripts, lines": {
        side: f"Human: {QUESTION}\nAssistant: {text}" for side, text in (("chosen", GOOD), ("rejected", BAD))
    },
    "transcripts, User": {
        "prompt": QUESTION,
        **{side: f"User: {QUESTION}\n\nAssistant: {text}" for side, text in (("chosen", GOOD), ("rejected", BAD))},
    },
    "transcript of User as prompt": {
        "prompt": f"User: {QUESTION}\r\nAssistant:",
        "chosen": GOOD,
        "rejected": f" {BAD}",
    },
    "prompt again": {"prompt": QUESTION, "chosen": f"{QUESTION}\n{GOOD}", "rejected": f"{QUESTION} {BAD}"},
    "prompt again, glued": {"prompt": [USER], "chosen": f"{QUESTION}{GOOD}", "rejected": f" {QUESTION}{BAD}"},
    "prompt again in messages": {
        side: [USER, {**answer, "content": f"{QUESTION}\n{answer['content']}"}]
        for side, answer in (("chosen", CHOSEN), ("rejected", REJECTED))
    },
    "other ids": {
        "chosen": [USER, CHOSEN],
        "rejected": [{**USER, "id": "v0", "created": 3, "content": f" {QUESTION}"}, REJECTED],
    },
    "keys that say nothing": {
        side: [{**one, "tool_calls": [], "name": "", "id": None, "extra": {}} for one in ROW[side]] for side in ROW
    },
    "other names of roles": {
        "chosen": [{**USER, "role": "Human"}, {**CHOSEN, "role": "BOT"}],
        "rejected": [{**USER, "role": "User"}, {**REJECTED, "role": "chatgpt"}],
    },
    "system says nothing": {"system": " ", "tools": "[]", "chat_template_kwargs": {}, **ROW},
}


@pytest.mark.parametrize("form", SAME_PAIR)
def test_every_form_gives_the_same_pair(form):
    expected, found = standard(ROW), standard(SAME_PAIR[form])
    assert expected["reason"] == expected["form"] == ""
    assert texts(found) == texts(expected)
    assert found["prompt_key"] == expected["prompt_key"]
    assert found["unread"] == ""
    assert (found["form"] == "") == (form in ("keys that say nothing", "system says nothing", "other ids"))
    other = json.loads(json.dumps(SAME_PAIR[form]).replace("carry", "wash off"))
    assert texts(standard(other)) != texts(expected)


IMAGE = {"role": "assistant", "content": [{"type": "image", "url": "x"}]}
TWICE = transcript(("Human", "q"), ("Assistant", "a"), ("Assistant", ""))


def completions(given):
    return {"context": [USER], "completions": list(given)}


def with_system(text):
    return {"prompt": [{"role": "system", "content": text}, USER], "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ({**ROW, "chosen": [{**USER, "role": "critic"}, CHOSEN]}, "unknown_role", "role 'critic'"),
        ({**ROW, "chosen": [USER, IMAGE]}, "part_not_text", "a part of type 'image'"),
        (
            {**ROW, "chosen": json.dumps(ROW["chosen"])[:-3]},
            "wrong_type",
            "a text begins like messages, and is no JSON",
        ),
        (completions([{"rank": 0, "completion": "a"}]), "too_few_answers", "completions: 1"),
        (completions({"rank": 1, "completion": x} for x in "abc"), "equal_scores", "3 answers, all of one rank"),
        (completions({"completion": x} for x in "ab"), "no_score", "ranks: [None, None]"),
        ({"chosen": "Human: q\n\nAssistant: a", "rejected": "b"}, "not_a_transcript", "rejected: 'b'"),
        ({side: TWICE + side for side in ROW}, "same_role_twice", "assistant:"),
        ({"system": "A", **with_system("B")}, "prompts_differ", "the column system and the first message differ"),
        ({"system": 3, "prompt": "q", "chosen": "a", "rejected": "b"}, "wrong_type", "system is a number"),
        ({**ROW, "tools": "search"}, "wrong_type", "tools: expected a list of objects"),
        ({**ROW, "chat_template_kwargs": {"tokenize": True}}, "wrong_type", "chat_template_kwargs: tokenize"),
        ({"prompt": QUESTION, "chosen": QUESTION, "rejected": f"{QUESTION} {BAD}"}, "empty_reply", "chosen:"),
        (
            {"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"},
            "wrong_type",
            "a message's content is missing",
        ),
    ],
)
def test_what_cannot_be_read_is_dropped_by_name(row, reason, said):
    found = standard(row)
    assert (found["reason"], found["excerpt"][: len(said)]) == (reason, said)


def test_a_system_column_is_the_first_message():
    system = {"role": "system", "content": "Be brief."}
    for row in ({"prompt": QUESTION, "chosen": GOOD, "rejected": BAD}, ROW, SAME_PAIR["transcripts"]):
        assert json.loads(standard({"system": "Be brief.", **row})["prompt"]) == [system, USER]
    held = {"system": " Be brief.", "chosen": [system, USER, CHOSEN], "rejected": [system, USER, REJECTED]}
    assert json.loads(standard(held)["prompt"]) == [system, USER]  # not twice


@pytest.mark.parametrize("given", [[CALL], json.dumps([CALL]), CALL, [json.dumps(CALL)], [{**CALL, "strict": None}]])
def test_tools_and_options_go_to_the_template(given):
    row = standard({**ROW, "tools": given, "chat_template_kwargs": {"enable_thinking": False, "date": None}})
    assert json.loads(row["template_options"]) == {"tools": [CALL], "enable_thinking": False}
    assert row["prompt_key"] != standard(ROW)["prompt_key"]  # another prompt once it is rendered
    columns = {name: json.loads(text) for name, text in split_options(row["template_options"]).items()}
    assert columns == {"tools": [CALL], "chat_template_kwargs": {"enable_thinking": False}}
    assert standard({**ROW, **split_options(row["template_options"])}) == row  # as a mixture writes it


def test_a_call_of_a_tool_needs_no_content():
    as_text = {**CALL, "function": {"name": "sea", "arguments": '{"depth": 3}'}}
    calls = [
        {"role": "assistant", "content": content, "tool_calls": [call]}
        for content in (None, "", [])
        for call in (CALL, as_text)
    ]
    read = [read_messages([USER, call], "user") for call in calls]
    assert all(one == read[0] for one in read)
    assert read[0][1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert (
        standard({"prompt": QUESTION, "chosen": [calls[0]], "rejected": BAD})["reason"] == "wrong_type"
    )  # a list, a text
    assert standard({"prompt": QUESTION, "chosen": [calls[0]], "rejected": [REJECTED]})["reason"] == ""
    with pytest.raises(UnreadableMessages, match="content"):
        read_messages([{"role": "assistant", "content": None, "tool_calls": []}], "user")


@pytest.mark.parametrize("content", [None, "", "I look it up."])
def test_a_function_call_is_a_call_of_a_tool(content):
    message = {"role": "assistant", "content": content}
    function = {"name": "sea", "arguments": '{"depth": 3}'}
    (read,) = read_messages([{**message, "function_call": function, "tool_calls": None}], "user")
    assert read == {"role": "assistant", "content": content or "", "tool_calls": [CALL]}
    row = {"prompt": QUESTION, "chosen": [{**message, "function_call": function}], "rejected": [REJECTED]}
    assert (standard(row)["reason"], standard(row)["unread"]) == ("", "")


def test_a_function_call_that_names_no_function_is_listed():
    chosen = {**CHOSEN, "function_call": "auto"}
    row = standard({"prompt": QUESTION, "chosen": [chosen], "rejected": [REJECTED]})
    assert (row["reason"], row["unread"]) == ("", '["function_call (of messages)"]')


@pytest.mark.parametrize("role", [*KNOWN_ROLES, *ROLES, "Human ", "GPT", "Model"])
def test_known_roles(role):
    ((message),) = read_messages([{"role": role, "content": "x", "name": "a"}], "user")
    assert message["role"] == ROLES[role.strip().lower()] in KNOWN_ROLES


@pytest.mark.parametrize(
    "prompt", [None, "", " \n", [], [{"role": "user", "content": " "}], [{"role": "user", "content": []}]]
)
def test_a_blank_prompt_is_none(prompt):
    row = standard({"prompt": prompt, "chosen": GOOD, "rejected": BAD})
    assert texts(row) == ["", GOOD, BAD, "", True, ""]
    assert texts(standard({"prompt": prompt, **ROW})) == texts(standard(ROW))


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [("I", "I think so", "I do not"), ("Hello", "Hello there", "Hello you"), ("Is a car", "Is a cart?", "Is a cars!")],
)
def test_an_answer_may_begin_with_the_words_of_the_prompt(prompt, chosen, rejected):
    row = standard({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    assert (json.loads(row["chosen"])[0]["content"], row["form"]) == (chosen, "")


@pytest.mark.parametrize("as_messages", [False, True])
@pytest.mark.parametrize(
    ("chosen", "rejected", "form"),
    [
        (f"{QUESTION} {GOOD}", BAD, PROMPT_IN_ONE),
        (GOOD, f" {QUESTION}\n{BAD}", PROMPT_IN_ONE),
        (GOOD, f"{BAD} {QUESTION}", ""),
        (GOOD, QUESTION[:-3], ""),
    ],
)
def test_an_answer_that_alone_begins_with_the_prompt_is_kept_and_counted(as_messages, chosen, rejected, form):
    row = {"prompt": QUESTION, "chosen": chosen, "rejected": rejected}
    if as_messages:
        row = {side: [USER, {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    found = standard(row)
    assert [json.loads(found[side])[0]["content"] for side in ("chosen", "rejected")] == [chosen, rejected]
    assert (found["form"], found["reason"]) == (form, "")


def test_answers_without_the_prompt_keep_their_keys_and_may_say_nothing():
    again = {
        side: [USER, {**CHOSEN, "content": f"{QUESTION} {side}", "name": "Ada"}] for side in ("chosen", "rejected")
    }
    row = standard(again)
    assert json.loads(row["rejected"]) == [{**CHOSEN, "content": "rejected", "name": "Ada"}]
    again["rejected"] = [USER, {**CHOSEN, "content": QUESTION}]
    assert standard(again)["reason"] == "empty_reply"
    result = {"role": "tool", "content": QUESTION}  # an answer may repeat what a tool says
    row = standard({side: [USER, CHOSEN, result, {**CHOSEN, "content": f"{QUESTION} {side}"}] for side in again})
    assert (json.loads(row["chosen"])[0]["content"], row["form"]) == (f"{QUESTION} chosen", "")


@pytest.mark.parametrize("key", ["id", "created_at", "tool_calls", "tool_call_id", "name", "reasoning_content"])
def test_keys_that_no_template_renders_make_no_other_prompt(key):
    turns = [USER, {**CHOSEN, key: [CALL] if key == "tool_calls" else "u0"}, USER]
    others = [USER, {**CHOSEN, key: [CALL, CALL] if key == "tool_calls" else "v0"}, USER]
    row = standard({"chosen": [*turns, CHOSEN], "rejected": [*others, REJECTED]})
    if key in ("id", "created_at"):
        assert (json.loads(row["prompt"]), row["reason"]) == (turns, "")
    else:
        assert row["reason"] == "prompts_differ" and row["excerpt"].startswith(f"message 2, {key}: ")


def test_dropped_rows_say_in_which_message_their_prompts_differ():
    long = {"role": "user", "content": "The same words. " * 40}
    other = {**long, "content": f"{long['content']}Moon?"}
    row = standard({"chosen": [USER, CHOSEN, long, CHOSEN], "rejected": [USER, CHOSEN, other, REJECTED]})
    assert row["reason"] == "prompts_differ" and len(row["excerpt"]) <= 200
    assert row["excerpt"].startswith("message 3, content: ") and "Moon?' in rejected" in row["excerpt"]
    row = standard({"chosen": [USER, CHOSEN, USER, CHOSEN], "rejected": [USER, REJECTED]})
    assert row["excerpt"].startswith(f"message 2: chosen alone has one (assistant: '{GOOD}')")
    row = standard({"chosen": [USER, CHOSEN], "rejected": [{**USER, "role": "system"}, REJECTED]})
    assert row["excerpt"].startswith("message 1, role: 'user' in chosen, 'system' in rejected")


@pytest.mark.parametrize(
    "answers",
    [
        ["User: a\nAssistant: b", "User: c\nAssistant: d"],  # what somebody asked for
        ["The form:\nUser: a\nAssistant: b", "The form:\nUser: a\nAssistant: c"],
        ["User: a\nUser: b", "User: the one who asks"],
    ],
)
def test_answers_that_show_a_dialogue_stay_answers(answers):
    row = standard({"prompt": "Show me a dialogue.", "chosen": answers[0], "rejected": answers[1]})
    assert [json.loads(row[side])[0]["content"] for side in ("chosen", "rejected")] == answers
    assert (row["reason"], row["form"], row["unread"]) == ("", "", "")
    asked = "User: a\nAssistant: b\nUser: Is this polite?"
    row = standard({"prompt": asked, "chosen": GOOD, "rejected": BAD})
    assert json.loads(row["prompt"]) == [{"role": "user", "content": asked}] and row["form"] == RENDERED_PROMPTS


@pytest.mark.parametrize(
    "mark",
    ["### Human: q", "[INST] q", "<s>[INST] q", "<|im_start|>user\nq", "<start_of_turn>user", "USER: q ASSISTANT:"],
)
def test_prompts_that_look_rendered_are_counted(mark):
    row = standard({"prompt": f" {mark}", "chosen": "a", "rejected": "b"})
    assert (json.loads(row["prompt"])[0]["content"], row["form"]) == (f" {mark}", RENDERED_PROMPTS)
    row = standard({"chosen": f"{mark} a", "rejected": f"{mark} b"})
    assert (row["is_text"], row["chosen"], row["form"]) == (True, f"{mark} a", RENDERED_TEXTS)
    assert standard({"prompt": f"What is {mark}?", "chosen": "a", "rejected": "b"})["form"] == ""


def test_turns_that_prompt_and_conversations_share_stand_once():
    system = {"role": "system", "content": "Be brief."}
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for before, shared in (([system], [USER]), ([system, *earlier], [{**USER, "content": f"{QUESTION} "}])):
        row = {"prompt": [*before, *shared], "chosen": [*shared, CHOSEN], "rejected": [*shared, REJECTED]}
        assert json.loads(standard(row)["prompt"]) == [*before, *shared]
    apart = {"prompt": earlier, "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]}
    assert json.loads(standard(apart)["prompt"]) == [*earlier, USER]


@pytest.mark.parametrize(
    "text", ["plain", "[1, 2]", '{"a": 1}', '{"name": "x", "value"', "[role] {x}", '[{"content": "x"}]', "{'from': 3}"]
)
def test_texts_that_are_no_messages_stay_texts(text):
    forms = set()
    assert messages_in_text(text, forms) == text and not forms
    row = standard({"prompt": QUESTION, "chosen": text, "rejected": BAD})
    assert json.loads(row["chosen"]) == [{"role": "assistant", "content": text}]


def test_what_the_assistant_has_begun_is_part_of_both_answers():
    prompt = transcript(("Human", QUESTION), ("Assistant", "Well,"))
    row = standard({"prompt": prompt, "chosen": " yes", "rejected": " no"})
    assert json.loads(row["prompt"]) == [USER]
    assert [json.loads(row[side])[0]["content"] for side in ("chosen", "rejected")] == ["Well,\n\nyes", "Well,\n\nno"]


def test_calls_in_a_table_have_their_own_arguments_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    calls = [{"name": "sea", "arguments": {"depth": 3}}, {"name": "air", "arguments": {"height": 4, "at": {"x": 1}}}]
    rows = [
        {"tools": [call], "chosen": [USER, {**CHOSEN, "tool_calls": [call]}], "rejected": [USER, REJECTED]}
        for call in calls
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "x.parquet")
    for row, call in zip(load_preference_dataset(str(tmp_path / "x.parquet")), calls, strict=True):
        assert json.loads(row["chosen"])[0]["tool_calls"] == [call]
        assert json.loads(row["template_options"]) == {"tools": [call]}


def test_pictures_in_a_table_are_not_decoded_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    columns = dict.fromkeys(("prompt", "chosen", "rejected"), datasets.Value("string"))
    features = datasets.Features({**columns, "image": datasets.Image()})
    row = {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD, "image": {"bytes": b"no picture", "path": None}}
    Dataset.from_list([row], features=features).to_parquet(tmp_path / "x.parquet")
    (found,) = load_preference_dataset(str(tmp_path / "x.parquet"))
    assert (found["reason"], found["unread"]) == ("", '["image"]')

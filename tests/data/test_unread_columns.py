"""Columns that nobody reads: counted over all rows, and refused where one may be a part of the conversation."""

import json
from functools import partial

import datasets
import pytest
from datasets import Dataset

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import kept_column, load_preference_dataset, standardise_row
from reward_modeling.data.read_options import read_options
from reward_modeling.data.report import NO_USER_TURN, report_rows
from reward_modeling.data.row_notes import note_rows
from reward_modeling.data.unread_columns import is_suspect

PAIR = {"chosen": "A long good answer.", "rejected": "A bad one."}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


def noted(tmp_path, rows, columns=None, ignore=None, parquet=False):
    """The notes of the report of these rows."""
    path = tmp_path / ("x.parquet" if parquet else "x.jsonl")
    if parquet:
        Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_preference_dataset(str(path), read_options(columns, ignore))
    report = report_rows("train", loaded)
    note_rows(report, partial(kept_column, loaded), "--train_set_path")
    return report.notes


@pytest.mark.parametrize("parquet", [False, True])
def test_unread_columns_are_counted_over_all_rows(parquet, tmp_path):
    rows = [{**PAIR, "prompt": f"q {n}", "lang": "en", "extra": {"a": n} if n > 150 else None} for n in range(200)]
    assert noted(tmp_path, rows, parquet=parquet) == {
        "rows with a column lang, not read": 200,
        "rows with a column extra, not read": 49,
    }
    assert noted(tmp_path, rows, ignore="lang,extra", parquet=parquet) == {}


SUSPECTS = """question input instruction query context history conversation conversations messages trajectory
system_prompt systemPrompt tools_json functions sample_weight label preference winner better_response_id Question
dialogue task_prompt source_document model_input domain_question"""
HARMLESS = """prompt_id question_type id lang score_chosen category num_turns context_length source_url model
prompt_source input_ids prompt_id_2"""


@pytest.mark.parametrize("name", SUSPECTS.split())
def test_what_looks_like_the_conversation_stops_the_run(name, tmp_path):
    rows = [{**PAIR, "prompt": f"q {n}", **({name: "Something else here."} if n == 120 else {})} for n in range(130)]
    with pytest.raises(UserError) as refused:
        noted(tmp_path, rows)
    message = str(refused.value)
    assert f'{name} in 1 of 130 rows: "Something else here." ({tmp_path}/x.jsonl:121)' in message
    assert f"--ignore_columns {name}" in message
    assert noted(tmp_path, rows, ignore=name) == {}


@pytest.mark.parametrize("name", HARMLESS.split())
def test_what_is_known_of_a_conversation_does_not(name, tmp_path):
    assert noted(tmp_path, [{**PAIR, "prompt": "q", name: "Something else here."}]) == {
        f"rows with a column {name}, not read": 1
    }


def test_numbers_are_no_conversation_and_may_be_labels():
    assert not is_suspect("turns", 3) and not is_suspect("messages", 2.5)
    assert is_suspect("weight", 0.5) and is_suspect("label", 0) and is_suspect("flipped", True)


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": PAIR["chosen"]}]},
        {"question": " q ", "conversation": [{"from": "human", "value": "q"}]},
        {"history": [], "system": "", "context": None, "input": float("nan"), "tools": "[]", "query": [None, " "]},
    ],
)
def test_what_was_read_already_or_says_nothing_is_not_counted(more):
    assert standardise_row({"prompt": "q", **PAIR, **more}, "")["unread"] == ""


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Another answer."}]},
        {"question": "r"},
        {"history": [["q", "r"]]},
        {"input": 0},
        {"label": "q"},  # says which, whatever else it is equal to
    ],
)
def test_what_was_not_read_is_counted(more):
    assert standardise_row({"prompt": "q", **PAIR, **more}, "")["unread"] == json.dumps(list(more))


def test_a_question_has_to_stand_in_both_plain_texts():
    question = "How far is the moon?"
    both = {side: f"Q: {question} A: {side}" for side in PAIR}
    assert standardise_row({"question": question, **both}, "")["unread"] == ""
    assert standardise_row({"question": question, **both, "rejected": "x"}, "")["unread"] == '["question"]'
    assert standardise_row({"system": "Be kind.", "tools": [{"a": 1}], **both}, "")["unread"] == '["system", "tools"]'


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"question": "How?", "system": "Be kind."}, "--columns prompt=question "),
        ({"instruction": "Do", "input": "this"}, "--columns prompt=instruction+input "),
        ({"prompt": "q", "system_prompt": "Be kind."}, "--columns system=system_prompt "),
        ({"prompt": "q", "history": [["Hi", "Hello"]]}, "put it into the messages of prompt"),
    ],
)
def test_the_way_to_read_a_column_is_named(row, advice, tmp_path):
    with pytest.raises(UserError) as refused:
        noted(tmp_path, [{**PAIR, **row}])
    assert advice in str(refused.value)


CONVERSATIONS = {
    side: [{"role": "user", "content": "How far is the moon?"}, {"role": "assistant", "content": side}] for side in PAIR
}


@pytest.mark.parametrize(
    "prompt",
    [
        "How far is the moon?",
        " How far is the moon?\n",
        "<|im_start|>user\nHow far is the moon?<|im_end|>\n<|im_start|>assistant\n",
        "<s>[INST] How far is the moon? [/INST]",
        "### Instruction:\nHow far is the moon?\n\n### Response:",
        "\n\nHuman: How far is the moon?\n\nAssistant:",
        '[{"role": "user", "content": "How far is the moon?"}]',
        "",
    ],
)
def test_a_prompt_that_the_conversations_hold_is_read(prompt):
    row = standardise_row({"prompt": prompt, **CONVERSATIONS}, "")
    assert (row["unread"], row["form"].replace("messages in JSON strings", "")) == ("", "")
    assert json.loads(row["prompt"]) == CONVERSATIONS["chosen"][:1]


ANOTHER = ["How far is the sun?", "You are an astronomer.\n\nHow far is the moon?", "<|user|>Wie weit ist der Mond?"]


@pytest.mark.parametrize("prompt", ANOTHER)
def test_a_prompt_of_another_text_beside_conversations_is_not_passed_over(prompt, tmp_path):
    row = {"prompt": prompt, **CONVERSATIONS}
    assert standardise_row(row, "")["unread"] == '["prompt"]'
    with pytest.raises(UserError) as refused:
        noted(tmp_path, [row])
    for words in ("prompt in 1 of 1 rows", "put it into their messages", "--ignore_columns prompt"):
        assert words in str(refused.value)
    ignored = standardise_row(row, "", read_options(None, "prompt"))
    assert (ignored["unread"], json.loads(ignored["prompt"])) == ("", CONVERSATIONS["chosen"][:1])


# --- rows without a prompt --------------------------------------------------------------------------------------------

UNKNOWN = "ask utterance text src premise human chat conv"
ANSWERS = {side: [{"role": "assistant", "content": PAIR[side]}] for side in PAIR}
WITH_SYSTEM = {side: [{"role": "system", "content": "Be kind."}, *ANSWERS[side]] for side in PAIR}


@pytest.mark.parametrize("name", UNKNOWN.split())
@pytest.mark.parametrize("answers", [PAIR, ANSWERS, WITH_SYSTEM])
def test_a_text_beside_answers_to_nothing_stops_the_run(answers, name, tmp_path):
    rows = [{**answers, name: f"How far is moon {n}?"} if n > 0 else answers for n in range(3)]
    with pytest.raises(UserError) as refused:
        noted(tmp_path, rows)
    for words in (
        f'{name} in 2 of 3 rows: "How far is moon 1?" ({tmp_path}/x.jsonl:2)',
        f"To read them: --columns prompt={name} ",
        f"--ignore_columns {name}",
    ):
        assert words in str(refused.value)
    assert f"rows with a column {name}, not read" not in noted(tmp_path, rows, ignore=name)


@pytest.mark.parametrize("answers", [PAIR, ANSWERS])
def test_the_text_is_read_as_the_prompt_where_that_is_asked(answers, tmp_path):
    assert noted(tmp_path, [{**answers, "ask": "How far is the moon?"}], columns="prompt=ask") == {}


def test_a_conversation_under_an_unknown_name_stops_the_run(tmp_path):
    conversation = [{"role": "user", "content": "How far is it?"}]
    with pytest.raises(UserError, match="prompt=conv "):
        noted(tmp_path, [{**ANSWERS, "conv": conversation}])


@pytest.mark.parametrize(
    "rows",
    [
        [{**PAIR, "prompt": "q", "ask": "How far is it?"}],
        [{**ANSWERS, "prompt": "q", "ask": "How far is it?"}],
        [{side: f"How far is the moon? It is {side}" for side in PAIR} | {"ask": "How far is the sun?"}],
        [{**PAIR, "ask": "How far?"}],
        [{**PAIR, "ask": "How far is it?"}, PAIR],
        [{**PAIR, "ask_source": "a long public list"}],
        [{**PAIR, "ask": {"a": "How far is it?"}}],
    ],
    ids=["prompt", "prompt of lists", "common beginning", "two words", "half of the rows", "known of it", "an object"],
)
def test_another_text_is_only_counted(rows, tmp_path):
    assert noted(tmp_path, rows) == {f"rows with a column {list(rows[0])[-1]}, not read": 1}


@pytest.mark.parametrize("parquet", [False, True])
def test_conversations_without_a_turn_of_the_user_are_counted_where_they_are_most(parquet, tmp_path):
    quoting = [{"role": "system", "content": 'Say {"role": "user"}.'}]
    alone = {side: [*quoting, *ANSWERS[side]] for side in PAIR}
    asked = {side: [{"role": "user", "content": "How far?"}, *ANSWERS[side]] for side in PAIR}
    assert noted(tmp_path, [alone, alone, asked], parquet=parquet) == {NO_USER_TURN: 2}
    assert noted(tmp_path, [alone, asked], parquet=parquet) == {}
    assert noted(tmp_path, [PAIR, PAIR], parquet=parquet) == {}


# --- keys of messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("value", ["Because it is far.", ["a.png"], {"a": 1}, 0.5])
def test_keys_of_messages_that_nobody_reads_are_counted(value, parquet, tmp_path):
    first, second = ({"role": "user", "content": text} for text in ("How far?", "How high?"))
    rows = [
        {"prompt": [{**first, "rationale": value}], **ANSWERS},
        {"prompt": [first, *ANSWERS["chosen"], {**second, "rationale": value}], **ANSWERS},
        {"prompt": [first], **ANSWERS},
    ]
    assert noted(tmp_path, rows, parquet=parquet) == {"rows with a message key rationale, not read": 2}


@pytest.mark.parametrize(
    "more",
    [
        {"name": "Ann", "id": "7", "message_id": "8", "timestamp": "noon", "tool_call_id": "9", "model": "a b c"},
        {"reasoning_content": "Hm.", "thinking": "Hm.", "reasoning": "Hm."},
        {"images": [], "audio": None, "documents": [{"a": None}], "text": "How far?"},
    ],
    ids=["known", "thoughts", "nothing"],
)
def test_other_keys_of_messages_are_not_counted(more, tmp_path):
    assert noted(tmp_path, [{"prompt": [{"role": "user", "content": "How far?", **more}], **ANSWERS}]) == {}


def test_keys_of_answers_in_lists_are_counted(tmp_path):
    answers = [[{"role": "assistant", "content": text, "rationale": text * 2}] for text in "xyz"]
    rows = [{"prompt": "q", "completions": answers, "ranks": [1, 2, 3]}]
    assert noted(tmp_path, rows)["rows with a message key rationale, not read"] == 1

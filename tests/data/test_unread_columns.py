"""Columns that nobody reads: counted over all rows, and refused where one may be a part of the conversation."""

import json
from functools import partial

import datasets
import pytest
from datasets import Dataset

from reward_modeling.common.errors import UserError
from reward_modeling.data.preferences import kept_column, load_preference_dataset, standardise_row
from reward_modeling.data.read_options import read_options
from reward_modeling.data.report import report_rows
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
dialogue"""
HARMLESS = "prompt_id question_type id lang score_chosen category num_turns context_length source_url model"


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

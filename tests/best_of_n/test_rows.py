"""Rows of every form, and what is not used of them."""

import itertools
import math

import pytest
from scored import write_rows

from reward_modeling.best_of_n.answers import ScoredAnswer, ScoredPrompt, usable_answers
from reward_modeling.best_of_n.columns import RewardColumns
from reward_modeling.best_of_n.dropped import Dropped, Reason, dropped_rows
from reward_modeling.best_of_n.files import input_files, mixed_files
from reward_modeling.best_of_n.rows import ScoredRowReader, truth_of
from reward_modeling.common.errors import UserError
from reward_modeling.generations.forms import RowReader, read_columns
from reward_modeling.generations.forms.base import Reading

ASKED = [{"role": "user", "content": "Why?"}]


def said(text):
    return [{"role": "assistant", "content": text}]


def reader(columns=None, **options):
    return ScoredRowReader(RewardColumns(**options), RowReader(read_columns(columns)), Dropped())


def read(row, columns=None, model=None, **options):
    return reader(columns, **options).read(row, "rows.jsonl:1", model)


FORMS = [
    ({"prompt": "Why?", "responses": ["a", "b"], "rewards": [1, 2]}, [1.0, 2.0]),
    ({"prompt": ASKED, "responses": [said("a"), said("b")], "rewards": [1, 2]}, [1.0, 2.0]),
    ({"prompt": "Why?", "completion": "a", "rewards": [0.5]}, [0.5]),
    ({"prompt": "Why?", "completion": "a", "rewards": 0.5}, [0.5]),
    ({"messages": [*ASKED, *said("a")], "rewards": [0.5]}, [0.5]),
    ({"instruction": "Why?", "output": "a", "generator": "model-x", "rewards": [0.5]}, [0.5]),
    ({"chosen": [*ASKED, *said("a")], "rejected": [*ASKED, *said("b")], "rewards": [0.5, 1.5]}, [0.5, 1.5]),
    ({"prompt": "Why?", "chosen": "a", "rejected": "b", "rewards": [0.5, 1.5]}, [0.5, 1.5]),
    ({"prompt": "Why?", "response_a": "a", "response_b": "b", "rewards": [0.5, 1.5]}, [0.5, 1.5]),
    ({"conversation_a": [*ASKED, *said("a")], "conversation_b": [*ASKED, *said("b")], "rewards": [2, 1]}, [2.0, 1.0]),
]


@pytest.mark.parametrize(("row", "rewards"), FORMS)
def test_every_form_gives_prompt_answers_and_rewards(row, rewards):
    prompt = read(row)
    assert prompt.messages == ASKED
    assert [answer.messages for answer in prompt.answers] == [said("a"), said("b")][: len(rewards)]
    assert [answer.reward for answer in prompt.answers] == rewards
    assert prompt.key == read(FORMS[0][0]).key


def test_models_and_labels_are_kept():
    assert read(FORMS[5][0]).answers[0].models == ("model-x",)
    assert read(FORMS[0][0], model="file").answers[1].models == ("file",)
    assert read(FORMS[5][0], model="file").answers[0].models == ("model-x",)  # what a row says of itself goes first
    row = FORMS[8][0] | {"model_a": "x", "model_b": "y"}
    assert [answer.models for answer in read(row).answers] == [("x",), ("y",)]
    assert [answer.label for answer in read(FORMS[6][0]).answers] == ["chosen", "rejected"]
    assert [answer.label for answer in read(FORMS[8][0]).answers] == [None, None]


def test_options_of_the_template_make_another_prompt():
    row = {"prompt": "Why?", "responses": ["a", "b"], "rewards": [1, 2]}
    keys = {read(row | other).key for other in ({}, {"tools": [{"name": "t"}]}, {"chat_template_kwargs": {"think": 0}})}
    assert len(keys) == 3
    assert read(row | {"system": "Be kind."}).messages[0]["role"] == "system"


def test_white_space_around_a_prompt_makes_no_other_one():
    row = {"responses": ["a", "b"], "rewards": [1, 2]}
    one, other, inside = (read(row | {"prompt": text}) for text in ("Why so?", "Why so? \n", "Why  so?"))
    assert one.key == other.key != inside.key
    assert other.messages[0]["content"] == "Why so? \n"
    plain = ScoredRowReader(RewardColumns(), RowReader(reading=Reading(plain_text=True)), Dropped())
    one, other = (plain.read(row | {"prompt": text}, "rows.jsonl:1") for text in ("Why?", "Why? "))
    assert one.key != other.key


def of_two(first, second):
    return {"chosen": [*first, *said("a")], "rejected": [*second, *said("b")], "rewards": [2, 1]}


SYSTEM = {"role": "system", "content": "Be kind."}
OTHER = [{"role": "user", "content": "When?"}]


@pytest.mark.parametrize(
    "row",
    [
        of_two(ASKED, OTHER),
        of_two([SYSTEM, *ASKED], [SYSTEM, *OTHER]),
        of_two([SYSTEM, *ASKED], ASKED),
        {"conversation_a": [*ASKED, *said("a")], "conversation_b": [*OTHER, *said("b")], "rewards": [2, 1]},
        of_two([*ASKED, *said("x"), *ASKED], [*ASKED, *said("x"), *OTHER]),
    ],
)
def test_answers_to_different_prompts_are_no_choice(row):
    """Prompts that only share a system message, or the first turns, would all be one prompt."""
    found = reader()
    assert found.read(row, "rows.jsonl:3") is None
    assert found.dropped.to_dict() == {"prompts_differ": {"unit": "rows", "count": 1, "first": "rows.jsonl:3"}}
    assert read(of_two(ASKED, ASKED)) is not None


def test_texts_without_a_prompt_are_each_a_prompt_of_their_own():
    plain = ScoredRowReader(RewardColumns(), RowReader(reading=Reading(plain_text=True)), Dropped())
    rows = [{"text": text, "rewards": [1]} for text in ("Q: Why? A: So.", "Q: When? A: Now.", "Q: When? A: Now.")]
    keys = [plain.read(row, "rows.jsonl:1").key for row in rows]
    assert keys[0] != keys[1] == keys[2]
    pairs = [{"chosen": f"Q: {n}? A: a", "rejected": f"Q: {n}? A: b", "rewards": [2, 1]} for n in range(2)]
    one, other = (plain.read(row, "rows.jsonl:1") for row in pairs)
    assert one.key != other.key and (one.messages, len(one.answers)) == ("", 2)


def test_attributes_are_chosen_by():
    row = {"prompt": "Why?", "responses": ["a", "b", "c"], "rewards": [1, 2, 3]}
    row["attributes"] = [{"help": 4.0, "verb": 1.0}, {"help": 1.0, "verb": 3.0}, None]
    assert [answer.reward for answer in read(row, by="help").answers] == [4.0, 1.0, None]
    weights = {"help": 1.0, "verb": -0.5}
    assert [answer.reward for answer in read(row, weights=weights).answers] == [3.5, -0.5, None]
    one = reader(by="hepl")
    one.read(row, "rows.jsonl:1")
    with pytest.raises(UserError, match=r"--by hepl: expected an attribute .* found help, verb; did you mean help?"):
        one.check("rows.jsonl")


def test_what_cannot_be_used_is_counted():
    found = reader()
    rows = [
        {"prompt": "Why?", "responses": ["a", "b"], "rewards": [math.nan, True]},
        {"prompt": "Why?", "responses": ["a", "b"], "rewards": [1]},
        {"prompt": "Why?", "responses": ["a", "b"], "rewards": None, "not_scored": "too long"},
        {"responses": ["a", "b"], "rewards": [1, 2]},
        {"prompt": "Why?", "responses": ["a", None], "rewards": [1, None]},
    ]
    prompts = [found.read(row, f"rows.jsonl:{number}") for number, row in enumerate(rows, 1)]
    assert [answer.reward for answer in prompts[0].answers] == [None, None]
    assert prompts[1:4] == [None, None, None] and len(prompts[4].answers) == 1
    assert found.dropped.to_dict() == {
        "unreadable_row": {"unit": "rows", "count": 1, "first": "rows.jsonl:4 (the prompt is missing)"},
        "not_scored": {"unit": "rows", "count": 1, "first": "rows.jsonl:3"},
        "rewards_differ": {"unit": "rows", "count": 1, "first": "rows.jsonl:2 (1 and 2)"},
        "no_reward": {"unit": "answers", "count": 1, "first": "rows.jsonl:5"},
    }
    assert len(dropped_rows(found.dropped.to_dict())) == 5


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), 1e300, -math.inf, math.nan], ids=["huge", "-huge", "1e300", "-inf", "nan"]
)
def test_numbers_that_no_reward_has_are_none(value):
    row = {"prompt": "Why?", "responses": ["a", "b", "c"], "rewards": [value, 1e38, 2], "is_correct": [value, 1, 0]}
    prompt = read(row)
    assert [answer.reward for answer in prompt.answers] == [None, 1e38, 2.0]
    assert [answer.truth for answer in prompt.answers] == [None, 1.0, 0.0]
    row["attributes"] = [{"help": 1e38}, {"help": 1.0}, {"help": value}]
    assert [answer.reward for answer in read(row, weights={"help": 1e9}).answers] == [None, 1e9, None]


def test_truths_in_the_ways_people_write_them():
    values = [True, 0, 1.0, 0.5, "True", "incorrect", 2, "perhaps", None, math.nan]
    assert [truth_of(value) for value in values] == [1, 0, 1, 0.5, 1, 0, None, None, None, None]
    row = {"prompt": "Why?", "responses": ["a", "b"], "rewards": [1, 2], "right": [True, "false"], "final": [" 7", 8]}
    prompt = read(row, truth="right", final="final")
    assert [(answer.truth, answer.final) for answer in prompt.answers] == [(1.0, "7"), (0.0, "8")]
    one = reader(truth="right")
    assert one.read(row | {"right": True}, "rows.jsonl:7").answers[0].truth is None
    assert one.seen.unread == {"right": (1, "rows.jsonl:7")}


def test_truths_that_cannot_be_read_are_counted():
    found = reader()
    row = {
        "prompt": "Why?",
        "responses": list("abcd"),
        "rewards": [1, 2, 3, 4],
        "is_correct": [True, None, "maybe", -3],
    }
    found.read(row, "rows.jsonl:5")
    assert (found.seen.truths, found.seen.no_truths) == (1, 2)
    assert found.seen.first_no_truth == "rows.jsonl:5 (maybe)"


def test_numbers_may_be_in_objects_and_in_columns_of_their_own():
    row = {
        "prompt": "Why?",
        "a": {"text": "x", "right": True, "r": 3},
        "b": {"text": "y", "right": False},
        "c+d": [5, 6],
    }
    row |= {"b": row["b"] | {"r": 4}, "rewards": [1, 2]}
    flags = {"columns": "responses=a.text+b.text", "truth": "a.right+b.right", "final": "c+d"}
    prompt = read(row, rewards="a.r+b.r", **flags)
    found = [(one.reward, one.truth, one.final) for one in prompt.answers]
    assert found == [(3.0, 1.0, "5"), (4.0, 0.0, "6")]
    del row["b"]["right"], row["b"]["r"]
    found = reader(rewards="a.r+b.r", **flags)
    prompt = found.read(row, "rows.jsonl:1")
    assert [(one.reward, one.truth) for one in prompt.answers] == [(3.0, 1.0), (None, None)]
    assert found.missing.columns() == [("--reward_column", "b.r"), ("--truth_column", "b.right")]
    with pytest.raises(UserError, match=r"--reward_column: expected the column b\.r in rows\.jsonl, found prompt"):
        found.check("rows.jsonl")
    one = {"prompt": "Why?", "completion": {"text": "x", "right": 1}, "rewards": [1]}
    (answer,) = read(one, "completion=completion.text", truth="completion.right").answers
    assert answer.truth == 1.0


def answer(text, reward, models=()):
    return ScoredAnswer(said(text), reward, hash(text), tuple(models))


def test_an_answer_is_as_long_as_what_the_assistant_says():
    turns = [*said("abc"), {"role": "user", "content": "x" * 100}, *said("de")]
    assert ScoredAnswer(turns, 1.0, 1).length == 5
    silent = [*said(" "), {"role": "user", "content": "x"}, *said("")]
    assert ScoredAnswer(silent, 1.0, 1).is_empty and not ScoredAnswer(turns, 1.0, 1).is_empty


def test_equal_answers_count_once_with_their_mean_reward():
    prompt = ScoredPrompt(ASKED, "", 1, "rows.jsonl:1")
    prompt.answers = [answer("a", 1.0, ["y"]), answer("b", None), answer("a", 2.0, ["x"]), answer(" ", 5.0)]
    dropped = Dropped()
    (usable,) = usable_answers(prompt, dropped)
    assert (usable.reward, usable.models) == (1.5, ("x", "y"))
    assert {name: entry["count"] for name, entry in dropped.to_dict().items()} == {
        "no_reward": 1,
        "empty_answer": 1,
        "duplicate_answer": 1,
    }


def test_equal_answers_that_are_told_apart_have_no_truth_in_any_order():
    def of(truth, final, label):
        return ScoredAnswer(said("a"), 1.0, 7, (), truth, final, label)

    for same, expected, count in (
        ([of(1.0, "7", "chosen"), of(0.0, "7", "rejected"), of(1.0, None, None)], (None, "7", None), 2),
        ([of(1.0, None, None), of(None, "7", "chosen")], (1.0, "7", "chosen"), 0),
    ):
        for answers in itertools.permutations(same):
            dropped = Dropped()
            (one,) = usable_answers(ScoredPrompt(ASKED, "", 1, "rows.jsonl:1", list(answers)), dropped)
            assert (one.truth, one.final, one.label) == expected
            assert dropped.counts[Reason.SAID_OTHERWISE] == count


def test_models_of_a_mix_have_names(tmp_path):
    a, b = (write_rows(tmp_path / name, []) for name in ("a.jsonl", "b.jsonl.gz"))
    assert [(file.path, file.model) for file in mixed_files(f"{a},{b}")] == [(a, "a"), (b, "b")]
    assert [file.model for file in mixed_files(f"x={a},y={b}")] == ["x", "y"]
    assert [(file.path, file.model) for file in mixed_files(f"{a},y={b}")] == [(a, "a"), (b, "y")]
    assert [file.model for file in input_files(str(tmp_path))] == [None, None]
    (tmp_path / "more").mkdir()
    other = write_rows(tmp_path / "more/a.jsonl", [])
    for flag, message in (
        (f"{a}", "two models or more"),
        (f"{a},{other}", "a name of its own .* a twice"),
        (f"x={a},y={a}", "each file once"),
        (f"x={a},y={tmp_path}/none.jsonl", "none.jsonl does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            mixed_files(flag)

"""Steps with labels: every way to write them down, and every row kept or dropped for a counted reason."""

import gzip
import json
from functools import partial

import pytest
from datasets import Dataset

from reward_modeling.common.errors import UserError
from reward_modeling.data import step_forms, step_labels, step_marks, step_trees
from reward_modeling.data.preferences import NO_OPTIONS, kept_column
from reward_modeling.data.read_options import STEP_TARGETS, ReadOptions, read_options
from reward_modeling.data.report import report_rows
from reward_modeling.data.step_chains import chains_of
from reward_modeling.data.step_rows import STEP_FEATURES, load_step_rows, step_row
from reward_modeling.objectives.step_reader import StepReader

QUESTION = "How many legs have two hens?"
ONE, TWO = "Step 1: A hen has two.", "Step 2: That makes five."
PROMPT = [{"role": "user", "content": QUESTION}]


def read(row: object, neutral_steps: str | None = None, options: ReadOptions = NO_OPTIONS) -> dict:
    found = step_row(row, "x:1", options, neutral_steps)
    assert found.keys() == STEP_FEATURES.keys()
    return found


def counted(found: dict) -> dict:
    return json.loads(found["counted"] or "{}")


def reason(row: object, neutral_steps: str | None = None) -> str:
    return read(row, neutral_steps)["reason"]


def tree(row: object, neutral_steps: str | None = None) -> tuple[list, list, list]:
    found = read(row, neutral_steps)
    assert (found["reason"], found["excerpt"]) == ("", "")
    assert json.loads(found["prompt"]) == PROMPT
    return [step.strip() for step in found["steps"]], found["parents"], found["labels"]


def signed(*turns: str) -> list[dict]:
    return [{"role": "assistant" if number % 2 else "user", "content": content} for number, content in enumerate(turns)]


def rated(*ratings: int | None, chosen: int | None = 0, human: object = None, text: str = "Rated") -> dict:
    completions = [{"text": f"{text} {number}", "rating": rating} for number, rating in enumerate(ratings)]
    return {"completions": completions, "chosen_completion": chosen, "human_completion": human}


def prm800k(*places: dict) -> dict:
    label = {"steps": list(places), "total_time": 7, "finish_reason": "found_error"}
    return {"labeler": "a", "timestamp": "t", "is_quality_control_question": False} | {
        "question": {"problem": QUESTION, "ground_truth_answer": "4"},
        "label": label,
    }


DIALOGUE = signed(f"{QUESTION} {ONE}", "+", TWO, "-")
FORMS = {
    "TRL's": {"prompt": QUESTION, "completions": [ONE, TWO], "labels": [True, False]},
    "steps under another name": {"prompt": QUESTION, "steps": [ONE, TWO], "labels": [1, 0]},
    "a prompt of messages": {"prompt": PROMPT, "completions": [ONE, TWO], "labels": ["+", "-"]},
    "JSON texts": {"prompt": QUESTION, "completions": json.dumps([ONE, TWO]), "labels": "[true, false]"},
    "steps that are objects": {
        "prompt": QUESTION,
        "steps": [{"text": ONE, "label": 1}, {"text": TWO, "label": "false"}],
    },
    "PRMBench": {
        "question": QUESTION,
        "modified_process": [f"{ONE}\n\n   ", TWO],
        "error_steps": [2],
        "original_question": "How many has one?",
        "original_process": ["Two."],
    },
    "Math-Shepherd": {
        "input": f"{QUESTION} {ONE} ки\n{TWO} ки",
        "label": f"{QUESTION} {ONE} +\n{TWO} -",
        "task": "GSM8K",
    },
    "a dialogue": {"messages": DIALOGUE},
    "a dialogue of ShareGPT's names": {
        "conversations": [
            {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]} for turn in DIALOGUE
        ]
    },
    "a dialogue beside its question": {"prompt": QUESTION, "messages": DIALOGUE},
    "PRM800K": prm800k(
        {"completions": [{"text": ONE, "rating": 1}], "chosen_completion": 0},
        {"completions": [{"text": TWO, "rating": -1}], "chosen_completion": None},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_chain(form):
    assert tree(FORMS[form]) == ([ONE, TWO], [-1, 0], [1.0, 0.0])
    assert read(FORMS[form])["prompt_key"] == read(FORMS["TRL's"])["prompt_key"]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_with_half_of_it_missing_is_dropped_or_lacks_a_label(form):
    """The control: no form is read out of what does not say it."""
    row = FORMS[form]
    for name in {"completions", "steps", "labels", "modified_process", "input", "label"} & row.keys():
        assert reason({key: value for key, value in row.items() if key != name}) != ""


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (True, 1.0),
        (False, 0.0),
        (1, 1.0),
        (0, 0.0),
        (0.9, 0.9),  # TRL's own code takes it as 0
        ("0.25", 0.25),
        ("+", 1.0),
        (" - ", 0.0),
        ("True", 1.0),
        ("false", 0.0),
        (None, None),
        (float("nan"), None),
        ("", None),
    ],
)
def test_what_a_label_may_be(label, expected):
    row = {"prompt": QUESTION, "completions": [ONE, TWO], "labels": [label, 1]}
    assert tree(row)[2] == [expected, 1.0]


def trl(completions: object = (ONE, TWO), labels: object = (True, False), prompt: object = QUESTION) -> dict:
    return {"prompt": prompt} | {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in (("completions", completions), ("labels", labels))
    }


DROPPED = {
    "no object": ([1], "wrong_type"),
    "fewer labels": (trl(labels=(True,)), "labels_differ"),
    "more labels": (trl(labels=(True, True, True)), "labels_differ"),
    "an empty step": (trl((ONE, " \n")), "empty_step"),
    "a step that is a number": (trl((ONE, 3)), "wrong_type"),
    "a label above 1": (trl(labels=(True, 1.5)), "label_out_of_range"),
    "a label below 0": (trl(labels=(True, -0.5)), "label_out_of_range"),
    "an infinite label": (trl(labels=(True, float("inf"))), "label_out_of_range"),
    "a label in words": (trl(labels=(True, "maybe")), "wrong_type"),
    "labels that are no list": (trl(labels="right"), "wrong_type"),
    "no label that says anything": (trl(labels=(None, None)), "steps_not_labelled"),
    "no labels": (trl(labels=None), "steps_not_labelled"),
    "no steps": (trl(()), "no_steps"),
    "no prompt": (trl(prompt=""), "no_steps"),
    "a prompt that ends with the assistant": (
        trl(prompt=[*PROMPT, {"role": "assistant", "content": "Well,"}]),
        "wrong_type",
    ),
    "an unknown role": (trl(prompt=[{"role": "narrator", "content": "x"}]), "unknown_role"),
    "half a character": (trl(("\ud800", TWO)), "wrong_type"),
    "marks and signs that differ in number": (
        {"input": f"Q? {ONE} ки\n{TWO} ки", "label": f"Q? {ONE} +\n{TWO}"},
        "marks_differ",
    ),
    "no sign in the place of a mark": ({"input": f"Q? {ONE} ки", "label": f"Q? {ONE} ки"}, "marks_differ"),
    "a question without an end": ({"input": "Two hens. Four. ки", "label": "Two hens. Four. +"}, "no_first_step"),
    "a dialogue whose question has no end": ({"messages": signed("Two hens. Four.", "+")}, "no_first_step"),
    "a dialogue of another question": ({"prompt": "Who?", "messages": DIALOGUE}, "prompts_differ"),
    "two steps in a row": ({"messages": [*DIALOGUE, DIALOGUE[0], DIALOGUE[2]]}, "same_role_twice"),
    "alternatives of which none is chosen": (
        {"prompt": QUESTION, "steps": [[{"text": "a", "label": 1}, {"text": "b", "label": 0}], {"text": "c"}]},
        "no_way_on",
    ),
    "a choice beyond the alternatives": (prm800k(rated(1, chosen=3), rated(1)), "no_way_on"),
    "a rating of 2": (prm800k(rated(2)), "label_out_of_range"),
    "no error steps": ({"question": QUESTION, "modified_process": [ONE], "error_steps": ["2"]}, "wrong_type"),
    "a conversation that ends with the user": ({"messages": [*PROMPT, *PROMPT], "label": 1}, "last_not_assistant"),
    "an answer without a label": ({"prompt": QUESTION, "response": "Four."}, "steps_not_labelled"),
    "an empty answer": ({"prompt": QUESTION, "response": " ", "label": 1}, "empty_step"),
    "fewer labels than responses": (
        {"prompt": QUESTION, "responses": ["Four.", "Five."], "labels": [1]},
        "labels_differ",
    ),
    "preference pairs": ({"chosen": "a", "rejected": "b"}, "no_steps"),
}


@pytest.mark.parametrize("kind", DROPPED)
def test_every_row_that_cannot_be_used_has_its_reason(kind):
    row, expected = DROPPED[kind]
    found = read(row)
    assert found["reason"] == expected
    assert found["steps"] == found["parents"] == found["labels"] == []
    assert found["excerpt"]


# --- Math-Shepherd and dialogues --------------------------------------------------------------------------------------


def test_a_mark_inside_the_question_is_left_out_with_its_sign():
    row = {
        "input": f"Rocky ки has two hens. {QUESTION} {ONE} ки\n{TWO} ки",
        "label": f"Rocky - has two hens. {QUESTION} {ONE} +\n{TWO} -",
    }
    found = read(row)
    assert json.loads(found["prompt"])[0]["content"] == f"Rocky  has two hens. {QUESTION}"
    assert ([step.strip() for step in found["steps"]], found["labels"]) == ([ONE, TWO], [1.0, 0.0])
    assert step_marks.MARK_IN_QUESTION in found["form"]


def marked(*steps: str) -> dict:
    """Math-Shepherd's row: each step is right but the last."""
    signs = [*"+" * (len(steps) - 1), "-"]
    return {
        name: "\n".join(f"{step} {sign}" for step, sign in zip(steps, of, strict=True))
        for name, of in (("input", [step_marks.MARK] * len(steps)), ("label", signs))
    }


def test_a_question_that_names_step_1_ends_at_the_last_one_before_the_first_sign():
    asked = f"Step 1: read. Step 2: answer. {QUESTION}"
    for row in (marked(f"{asked} {ONE}", TWO), {"messages": signed(f"{asked} {ONE}", "+", TWO, "-")}):
        found = read(row)
        assert json.loads(found["prompt"])[0]["content"] == asked
        assert ([step.strip() for step in found["steps"]], found["labels"]) == ([ONE, TWO], [1.0, 0.0])


def test_a_later_step_that_names_step_1_is_no_first_one():
    later = "As in step 1: two, so four."
    found = read(marked(f"{QUESTION} Two each.", later, "Four."))
    assert [step.strip() for step in found["steps"]] == ["Two each.", later, "Four."]
    assert reason(marked("Two hens. Two each.", later, "Four.")) == "no_first_step"


@pytest.mark.parametrize("first", ["How many? So x = ? Two.", "Why? How many? Two.", "Two hens. Is it four?"])
def test_more_than_one_question_mark_says_nothing(first):
    """Behind which of them does the first step begin? The control has one."""
    assert reason(marked(first, "Four.")) == reason({"messages": signed(first, "+", "Four.", "-")}) == "no_first_step"
    assert reason(marked("How many? Two.", "Is it four?")) == ""


def test_a_question_beside_a_dialogue_may_have_several_question_marks():
    found = read({"prompt": "Why? How many?", "messages": signed("Why? How many? Is it two?", "+")})
    assert (json.loads(found["prompt"])[0]["content"], found["steps"]) == ("Why? How many?", [" Is it two?"])


def test_without_step_1_the_first_step_begins_behind_the_question_mark():
    for row in (
        marked(f"{QUESTION} Two each.", "Four."),
        {"messages": signed(f"{QUESTION} Two each.", "+", "Four.", "-")},
    ):
        found = read(row)
        assert json.loads(found["prompt"])[0]["content"] == QUESTION
        assert ([step.strip() for step in found["steps"]], found["labels"]) == (["Two each.", "Four."], [1.0, 0.0])
        assert step_marks.BEHIND_QUESTION_MARK in found["form"]


def test_a_last_step_without_a_sign_has_no_label():
    assert tree({"input": f"{QUESTION} {ONE} ки\n{TWO}", "label": f"{QUESTION} {ONE} +\n{TWO}"})[2] == [1.0, None]
    assert tree({"messages": DIALOGUE[:3]})[2] == [1.0, None]


def test_a_dialogue_of_one_turn_is_a_whole_answer():
    assert tree({"messages": signed(f"{QUESTION} {ONE}\n{TWO}", "-")}) == ([f"{ONE}\n{TWO}"], [-1], [0.0])


def test_a_system_message_stays_in_front_of_a_dialogue():
    system = {"role": "system", "content": "Be strict."}
    found = read({"messages": [system, *DIALOGUE]})
    assert json.loads(found["prompt"]) == [system, *PROMPT] and found["labels"] == [1.0, 0.0]
    assert read({"messages": DIALOGUE, "system": "Be strict."})["prompt"] == found["prompt"]


# --- PRMBench, PRM800K and trees --------------------------------------------------------------------------------------


def test_the_question_of_a_changed_process_is_the_changed_one():
    row = FORMS["PRMBench"] | {"question": "Another one?", "modified_question": QUESTION, "error_steps": [1, 9]}
    assert tree(row)[2] == [0.0, 1.0]
    assert step_forms.BEYOND in read(row)["form"]


def test_alternatives_of_prm800k_go_on_from_the_chosen_one():
    human = {"text": "By hand", "rating": None}
    row = prm800k(
        rated(-1, 1, chosen=1, text="First"),
        rated(-1, -1, chosen=None, human=human, text="Second"),
        rated(1, None, chosen=None, text="Third"),
        rated(1, text="Unreachable"),
    )
    steps, parents, labels = tree(row)
    assert steps == ["First 0", "First 1", "Second 0", "Second 1", "By hand", "Third 0", "Third 1"]
    assert parents == [-1, -1, 1, 1, 1, 4, 4]
    assert labels == [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, None]  # what a human wrote is right, what nobody rated unknown
    assert counted(read(row)) == {step_trees.HUMAN: 1}
    rating = {"text": "By hand", "rating": -1}
    row = prm800k(rated(1, chosen=None, human=rating), rated(1, text="Third"))
    assert tree(row)[2] == [1.0, 0.0, 1.0] and counted(read(row)) == {}


def without_text(place: dict, *numbers: int, text: object = " ") -> dict:
    for number in numbers:
        place["completions"][number]["text"] = text
    return place


@pytest.mark.parametrize("text", ["", " \n", None])
def test_an_alternative_without_text_is_left_out_alone(text):
    row = prm800k(
        without_text(rated(-1, -1, 1, chosen=2, text="First"), 1, text=text), rated(1, chosen=None, text="Second")
    )
    assert tree(row) == (["First 0", "First 2", "Second 0"], [-1, -1, 1], [0.0, 1.0, 1.0])
    assert counted(read(row)) == {step_trees.BLANK: 1}
    alternatives = [{"text": "a", "label": 1}, {"text": text, "label": 0}]
    for steps in ([alternatives, {"text": "b", "label": 0}], [alternatives[::-1], {"text": "b", "label": 0}]):
        row = {"prompt": QUESTION, "steps": steps}
        assert tree(row) == (["a", "b"], [-1, 0], [1.0, 0.0]) and counted(read(row)) == {step_trees.BLANK: 1}
    row = {"prompt": QUESTION, "responses": ["Four.", text, "Five."], "labels": [1, 1, 0]}
    assert tree(row) == (["Four.", "Five."], [-1, -1], [1.0, 0.0]) and counted(read(row)) == {step_trees.BLANK: 1}


def test_nothing_goes_on_from_an_alternative_without_text():
    """PRM800K's answer ends before it; other trees, which say that more follows, are dropped."""
    row = prm800k(rated(1), without_text(rated(1, -1, text="Second"), 0), rated(1, text="Third"))
    assert tree(row) == (["Rated 0", "Second 1"], [-1, 0], [1.0, 0.0])
    alternatives = [{"text": "", "label": 1, "chosen": True}, {"text": "a", "label": 1}]
    assert reason({"prompt": QUESTION, "steps": [alternatives, {"text": "b", "label": 0}]}) == "no_way_on"
    assert reason({"prompt": QUESTION, "steps": [{"text": "", "label": 1}]}) == "empty_step"
    assert reason({"prompt": QUESTION, "steps": [[{"text": "", "label": 1}] * 2]}) == "empty_step"
    assert reason({"prompt": QUESTION, "responses": ["", " "], "labels": [1, 0]}) == "empty_step"


def test_the_same_alternative_with_two_labels_is_one_with_their_mean():
    row = {"prompt": QUESTION, "responses": ["Four."] * 3 + ["Five.", "Five."], "labels": [1, 1, 0, 0, None]}
    assert tree(row) == (["Four.", "Five."], [-1, -1], [2 / 3, 0.0])
    assert counted(read(row)) == {step_trees.TWICE: 2, step_trees.UNLIKE: 1}
    row = {
        "prompt": QUESTION,
        "steps": [
            [{"text": "a", "label": 1, "chosen": True}, {"text": "a", "label": 0.5}, {"text": "b", "label": 0}],
            {"text": "a", "label": 0},  # the same words at another place
        ],
    }
    assert tree(row) == (["a", "b", "a"], [-1, -1, 0], [0.75, 0.0, 0.0])
    assert counted(read(row)) == {step_trees.UNLIKE: 1}


@pytest.mark.parametrize(("meaning", "expected"), [("right", 1.0), ("wrong", 0.0), ("half", 0.5), ("drop", None)])
def test_neutral_steps_are_what_the_flag_says(meaning, expected):
    row = prm800k(rated(1), rated(0, text="So"))
    assert tree(row, meaning)[2] == [1.0, expected]
    assert read(row, meaning)["neutral"] == 1
    assert reason(prm800k(rated(0)), meaning) == ("steps_not_labelled" if meaning == "drop" else "")


def test_a_rating_of_0_without_a_word_of_it_stops_the_run(own_cache, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [prm800k(rated(1)), prm800k(rated(1), rated(0, 0, 1, text="So")), prm800k(rated(0))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"3 steps that have it, in 2 rows \(first: .*rows.jsonl:2\)") as caught:
        load_step_rows(str(path), NO_OPTIONS)
    assert all(
        word in str(caught.value) for word in ("TRL takes it as wrong", "Qwen as right", "--neutral_steps", "half")
    )
    assert len(load_step_rows(str(path), NO_OPTIONS, "right")) == 3
    path.write_text(json.dumps(rows[0]) + "\n")  # the control
    assert len(load_step_rows(str(path), NO_OPTIONS)) == 1


MINUS_ONE = {
    "TRL's": trl(labels=(1, -1)),
    "a text": trl(labels=("1", "-1")),
    "a tree": {"prompt": QUESTION, "steps": [{"text": ONE, "label": 1.0}, {"text": TWO, "label": -1.0}]},
}


@pytest.mark.parametrize("form", MINUS_ONE)
def test_a_label_of_minus_1_makes_ratings_of_all_labels(form, own_cache, tmp_path):
    """Rows of 0 and 1 alone as well: there 0 would be read as wrong, and is neutral."""
    path = tmp_path / "rows.jsonl"
    rows = [trl(labels=(1, 0)), MINUS_ONE[form], trl(labels=(True, False)), trl(labels=(1, 0.7))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"labels of -1 in 1 rows \(first: .*rows.jsonl:2\)") as caught:
        load_step_rows(str(path), NO_OPTIONS)
    assert "0 is neutral, in all rows" in str(caught.value) and "--neutral_steps right" in str(caught.value)
    for meaning, neutral in (("half", 0.5), ("right", 1.0), ("wrong", 0.0), ("drop", None)):
        loaded = load_step_rows(str(path), NO_OPTIONS, meaning)
        assert loaded["labels"][:3] == [[1.0, neutral], [1.0, 0.0], [1.0, 0.0]]
        assert loaded["reason"] == ["", "", "", "label_out_of_range"] and loaded["neutral"] == [1, 0, 0, 0]
        assert loaded["excerpt"][3].startswith("rating 0.7: expected -1, 0 or 1")
    assert report_of(loaded, StepReader()).notes[f"rows read from {step_labels.LABELS_ARE_RATINGS}"] == 2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not MINUS_ONE[form]))  # the control
    assert load_step_rows(str(path), NO_OPTIONS, "half")["labels"] == [[1.0, 0.0], [1.0, 0.0], [1.0, 0.7]]


def test_an_outcome_of_minus_1_is_a_rating(own_cache, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": QUESTION, "response": "Five.", "label": -1},
        {"prompt": QUESTION, "responses": ["Four.", "Six."], "labels": [1, 0]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="labels of -1 in 1 rows"):
        load_step_rows(str(path), NO_OPTIONS)
    assert load_step_rows(str(path), NO_OPTIONS, "drop")["labels"] == [[0.0], [1.0, None]]


def test_a_tree_may_branch_anywhere_and_go_on_from_several_alternatives():
    row = {
        "prompt": QUESTION,
        "steps": [
            {"text": "a", "label": 1},
            [
                {"text": "b", "label": 0.2, "steps": [{"text": "c", "label": 0}, {"text": "d", "label": 0}]},
                {"text": "e", "label": 1, "chosen": True},
                {"text": "e", "label": 1},
            ],
            [{"text": "f", "label": 1}, {"text": "g", "rating": -1}],
        ],
    }
    steps, parents, labels = tree(row)
    assert counted(read(row)) == {step_trees.TWICE: 1}
    chains = ["".join(steps[number] for number in chain) for chain in chains_of(parents)]
    assert sorted(chains) == ["abcd", "aef", "aeg"]
    assert dict(zip(steps, labels, strict=True)) == {"a": 1, "b": 0.2, "c": 0, "d": 0, "e": 1, "f": 1, "g": 0}


# --- whole answers ----------------------------------------------------------------------------------------------------

OUTCOMES = {
    "a response": {"prompt": QUESTION, "response": "Two each.\n\nFour.", "label": 1},
    "is_correct": {"prompt": QUESTION, "completion": "Two each.\n\nFour.", "is_correct": True},
    "a list of one label": {"prompt": PROMPT, "completions": "Two each.\n\nFour.", "labels": [True]},
    "messages": {"messages": [*PROMPT, {"role": "assistant", "content": "Two each.\n\nFour."}], "label": "1"},
    "an answer as a message": {
        "prompt": PROMPT,
        "response": [{"role": "assistant", "content": "Two each.\n\nFour."}],
        "label": 1.0,
    },
    "a list of one response": {"prompt": QUESTION, "responses": ["Two each.\n\nFour."], "labels": [1]},
}


@pytest.mark.parametrize("form", OUTCOMES)
def test_a_whole_answer_is_one_step(form):
    assert tree(OUTCOMES[form]) == (["Two each.\n\nFour."], [-1], [1.0])


def test_several_answers_to_one_prompt_are_chains_of_one_step():
    expected = (["Four.", "Five."], [-1, -1], [1.0, 0.0])
    assert tree({"prompt": QUESTION, "responses": ["Four.", "Five.", "Four."], "labels": [1, 0, 1]}) == expected
    objects = [{"solution": "Four.", "is_correct": True}, {"solution": "Five.", "is_correct": False}]
    assert tree({"prompt": QUESTION, "responses": objects}) == expected
    columns = read_options("prompt=question,responses=small+large", "truth", targets=STEP_TARGETS)
    row = {"question": QUESTION, "small": objects[0], "large": objects[1], "truth": "4"}
    found = read(row, options=columns)
    assert (found["steps"], found["parents"], found["labels"], found["unread"]) == (*expected, "")


# --- files ------------------------------------------------------------------------------------------------------------


def report_of(rows: Dataset, reader: StepReader):
    report = report_rows("train", rows)
    reader.check_rows([partial(kept_column, rows)], [report])
    return report


def test_a_file_of_every_form_is_counted(own_cache, tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    rows = [*FORMS.values(), *OUTCOMES.values(), *(row for row, _ in DROPPED.values())]
    rows.append(trl((f"Above{chr(10) * 2}below", TWO, "And so on."), (0.5, 0.7, None)))
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    loaded = load_step_rows(str(path), NO_OPTIONS)
    report = report_of(loaded, StepReader())
    assert report.rows_read == len(rows) and report.kept == len(FORMS) + len(OUTCOMES) + 1
    expected = {reason: [kind for kind, (_, of) in DROPPED.items() if of == reason] for _, reason in DROPPED.values()}
    assert {reason: of.count for reason, of in report.dropped.items()} == {
        reason: len(kinds) for reason, kinds in expected.items()
    }
    first = next(number for number, (_, of) in enumerate(DROPPED.values(), start=1) if of == "labels_differ")
    where = f"{path}:{len(FORMS) + len(OUTCOMES) + first}"
    assert report.dropped["labels_differ"].first_where == where
    notes = report.notes
    assert notes["steps"] == 2 * len(FORMS) + len(OUTCOMES) + 3
    assert notes["steps that are right"] == len(FORMS) + len(OUTCOMES) + 1
    assert notes["steps that are wrong"] == notes["rows with a wrong step"] == len(FORMS)
    assert notes["steps without a label"] == 1
    assert notes["steps with a probability between 0 and 1"] == 2
    assert notes["rows read from PRM800K"] == notes["rows read from PRMBench"] == 1
    # whole answers hold it too, and end nowhere else
    assert notes["steps that hold the separator '\\n\\n'"] == 1
    assert report.first_of_note["steps that hold the separator '\\n\\n'"] == f"{path}:{len(rows)}"
    assert not any("hold the separator" in note for note in report_of(loaded, StepReader("<step>")).notes)
    assert "rows with several chains of steps" not in notes


def test_tables_and_processes_change_nothing(own_cache, tmp_path):
    rows = [trl((f"{ONE} {number}", TWO), (True, number / 500)) for number in range(500)]
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Dataset.from_list([{**row, "labels": [float(label) for label in row["labels"]]} for row in rows]).to_parquet(table)
    one, several = (load_step_rows(str(lines), NO_OPTIONS, num_proc=number) for number in (1, 2))
    assert one.to_list() == several.to_list()
    kept = ["prompt", "steps", "parents", "labels", "prompt_key", "reason"]
    of_table = load_step_rows(str(table), NO_OPTIONS)
    assert of_table.select_columns(kept).to_list() == one.select_columns(kept).to_list()
    assert set(one["reason"]) == {""}


def test_rows_are_read_once(own_cache, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(trl()) + "\n")
    first = load_step_rows(str(path), NO_OPTIONS).to_list()

    def refuse(row, where, options, neutral_steps, *, are_ratings, strips):
        raise AssertionError("read again")

    monkeypatch.setattr("reward_modeling.data.step_rows.step_row", refuse)
    assert load_step_rows(str(path), NO_OPTIONS).to_list() == first
    with pytest.raises(AssertionError, match="read again"):  # the control: with another flag they are read anew
        load_step_rows(str(path), NO_OPTIONS, "right")
    with pytest.raises(AssertionError, match="read again"):
        load_step_rows(str(path), NO_OPTIONS, strips=True)


def test_files_of_other_rows_are_refused_with_the_accepted_ones(own_cache, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"chosen": "a", "rejected": "b"}) + "\n")
    with pytest.raises(UserError, match=r"prompt, completions and labels.*Preference pairs"):
        load_step_rows(str(path), NO_OPTIONS)
    path.write_text(json.dumps({"query": QUESTION, "parts": [ONE, TWO], "ok": [1, 0]}) + "\n")
    with pytest.raises(UserError, match="found no row that has all of them; columns found: query, parts, ok"):
        load_step_rows(str(path), NO_OPTIONS)
    empty = trl(()) | {"labels": []}  # the columns are there
    path.with_name("empty.jsonl").write_text(json.dumps(empty) + "\n")
    with pytest.raises(UserError, match="found no row that has a value in all of them; columns found: prompt, comp"):
        load_step_rows(str(path.with_name("empty.jsonl")), NO_OPTIONS)
    columns = read_options("prompt=query,completions=parts,labels=ok", None, targets=STEP_TARGETS)
    assert load_step_rows(str(path), columns)[0]["labels"] == [1.0, 0.0]


def test_columns_that_nobody_reads_stop_the_run_where_they_look_like_the_prompt(own_cache, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(trl() | {"context": "The hens are young.", "level": 3}) + "\n")
    with pytest.raises(UserError, match="context in 1 of 1 rows"):
        report_of(load_step_rows(str(path), NO_OPTIONS), StepReader())
    ignored = read_options(None, "context", targets=STEP_TARGETS)
    notes = report_of(load_step_rows(str(path), ignored), StepReader()).notes
    assert notes["rows with a column level, not read"] == 1

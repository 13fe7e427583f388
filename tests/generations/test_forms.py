"""Rows of generated answers: every form gives the same conversations, or says what is wrong with the row."""

import json

import pytest

from reward_modeling.common.errors import UserError
from reward_modeling.data.conversations import Templated
from reward_modeling.data.pairs import RENDERED_PROMPTS, TRANSCRIPTS
from reward_modeling.generations.answers import NotScored, Unreadable
from reward_modeling.generations.forms import FORMS, RowReader, read_columns
from reward_modeling.generations.forms.base import Reading
from reward_modeling.generations.forms.sides import BEGINS_WITH_PROMPT, MESSAGES_AS_TEXT, WITHOUT_WORDS

QUESTION, GOOD, BAD = "Why is the sea salty today?", "Rivers carry salt.", "It just is."
USER = {"role": "user", "content": QUESTION}
ANSWERS = [{"role": "assistant", "content": GOOD}, {"role": "assistant", "content": BAD}]
FIRST, SECOND = ([USER, answer] for answer in ANSWERS)
SHARE = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": GOOD}]
TWO_TURNS = [USER, ANSWERS[0], {"role": "user", "content": "And lakes?"}, ANSWERS[1]]
PARTS = [{**message, "content": [{"type": "text", "text": message["content"], "image": None}]} for message in FIRST]


def read(row, columns=None, **reading):
    return RowReader(read_columns(columns), Reading(**reading)).read(row)


def conversations(answers):
    return [conversation for _, conversation in answers.conversations()]


def asked(question):
    return {"q1": [QUESTION], "q2": [QUESTION, "And lakes?"]}.get(question)


LISTS = {
    "RLHFlow": {"prompt": [USER], "responses": [GOOD, BAD]},
    "RLHFlow, a text": {"prompt": QUESTION, "responses": [GOOD, BAD]},
    "messages as answers": {"prompt": QUESTION, "responses": [ANSWERS[:1], ANSWERS[1]]},
    "whole conversations": {"prompt": QUESTION, "responses": [FIRST, SECOND]},
    "a list as JSON": {"prompt": [USER], "responses": json.dumps([GOOD, BAD])},
    "this project's lists": {"prompt": [USER], "completions": [GOOD, BAD], "ranks": [1, 2]},
    "NeMo-RL": {
        "context": [USER],
        "completions": [{"rank": 1, "completion": ANSWERS[:1]}, {"rank": 0, "completion": ANSWERS[1:]}],
    },
    "UltraFeedback": {"instruction": QUESTION, "completions": [{"response": GOOD, "model": "a"}, {"response": BAD}]},
    "TRL": {"prompt": [USER], "chosen": ANSWERS[:1], "rejected": ANSWERS[1:]},
    "TRL, texts": {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},
    "TRL, implicit prompt": {"chosen": FIRST, "rejected": SECOND},
    "HH-RLHF": {
        side: f"\n\nHuman: {QUESTION}\n\nAssistant: {answer}" for side, answer in (("chosen", GOOD), ("rejected", BAD))
    },
    "OpenAI": {
        "input": {"messages": [USER]},
        "preferred_output": ANSWERS[:1],
        "non_preferred_output": ANSWERS[1:],
    },
    "LLaMA-Factory": {
        "conversations": SHARE[:1],
        "chosen": SHARE[1],
        "rejected": {"from": "gpt", "value": BAD},
    },
    "Alpaca, ranked": {"instruction": QUESTION, "input": "", "chosen": GOOD, "rejected": BAD},
    "LMArena": {"conversation_a": PARTS, "conversation_b": SECOND, "winner": "model_a"},
    "LMArena, responses": {"prompt": QUESTION, "response_a": GOOD, "response_b": BAD},
    "LMArena, turns": {
        "prompt": json.dumps([QUESTION]),
        "response_a": json.dumps([GOOD]),
        "response_b": json.dumps([BAD]),
    },
    "Arena-Hard v0.1": {
        "question_id": "q1",
        "choices": [{"turns": [{"content": GOOD}]}, {"turns": [{"content": BAD}]}],
    },
    "MT-Bench": {"question_id": "q1", "choices": [{"turns": [GOOD]}, {"turns": [BAD]}]},
}
SINGLE = {
    "TRL": {"prompt": [USER], "completion": ANSWERS[:1]},
    "TRL, texts": {"prompt": QUESTION, "completion": GOOD},
    "response": {"prompt": QUESTION, "response": GOOD, "helpfulness": 4},
    "messages": {"messages": FIRST},
    "messages, JSON": {"messages": json.dumps(FIRST)},
    "parts": {"messages": PARTS},
    "ShareGPT": {"conversations": SHARE},
    "AlpacaEval": {"instruction": QUESTION, "output": GOOD, "generator": "a", "dataset": "b"},
    "Arena-Hard v2": {"uid": "1", "messages": [USER, {"role": "assistant", "content": {"answer": GOOD}}]},
}


@pytest.mark.parametrize("name", LISTS)
def test_every_form_of_several_answers_gives_the_same_conversations(name):
    answers = read(LISTS[name], questions=asked)
    assert (answers.prompt, answers.answers) == ([USER], [ANSWERS[:1], ANSWERS[1:]])
    assert conversations(answers) == [FIRST, SECOND]
    assert not answers.unreadable
    assert len(answers) == 2


@pytest.mark.parametrize("name", SINGLE)
def test_every_form_of_one_answer_gives_the_same_conversation(name):
    answers = read(SINGLE[name])
    assert (answers.prompt, answers.answers) == ([USER], [ANSWERS[:1]])
    assert answers.text(0) == GOOD


def test_each_form_has_a_name_of_its_own():
    assert len({form.name for form in FORMS}) == len(FORMS)
    assert RowReader().form(LISTS["RLHFlow"]).name == "responses"


# --- what belongs to the prompt, and what to the answer ---------------------------------------------------------------


def test_conversations_that_differ_early_keep_what_they_share():
    other = [USER, ANSWERS[1], *TWO_TURNS[2:]]
    for row in ({"conversation_a": TWO_TURNS, "conversation_b": other}, {"chosen": TWO_TURNS, "rejected": other}):
        answers = read(row)
        assert (answers.prompt, answers.answers) == ([USER], [TWO_TURNS[1:], other[1:]])
    same = read({"chosen": TWO_TURNS, "rejected": TWO_TURNS})
    assert (same.prompt, same.answers) == (TWO_TURNS[:3], [TWO_TURNS[3:]] * 2)  # which training drops


def test_the_choices_of_several_turns_answer_the_questions_in_turn():
    row = {"question_id": "q2", "choices": [{"turns": [GOOD, BAD]}]}
    assert conversations(read(row, questions=asked)) == [TWO_TURNS]
    row["choices"].append({"turns": [GOOD]})
    assert read(row, questions=asked).unreadable[1].reason == NotScored.PROMPTS_DIFFER


def test_input_and_history_are_part_of_what_alpaca_asks():
    row = {"instruction": "Sum up.", "input": "Long text.", "output": GOOD, "history": [["Hi", "Hello"]]}
    roles = [("user", "Hi"), ("assistant", "Hello"), ("user", "Sum up.\nLong text.")]
    assert read(row).prompt == [{"role": role, "content": text} for role, text in roles]


def test_a_thought_of_arena_hard_stays_beside_the_answer():
    row = {"messages": [USER, {"role": "assistant", "content": {"thought": "Hm.", "answer": GOOD}}]}
    assert read(row).answers == [[{**ANSWERS[0], "reasoning_content": "Hm."}]]


def test_a_transcript_that_goes_on_in_an_answer():
    answers = read({"prompt": f"\n\nHuman: {QUESTION}\n\nAssistant:", "responses": [f" {GOOD}", BAD]})
    assert answers.prompt == [USER]
    assert answers.text(0) == f" {GOOD}"  # as it was sampled
    assert answers.notes == {TRANSCRIPTS}


def test_the_columns_of_the_template_and_the_system_message():
    tools, system = [{"type": "function", "function": {"name": "sea"}}], {"role": "system", "content": "Be brief."}
    row = {"prompt": QUESTION, "responses": [GOOD], "system": "Be brief.", "tools": tools}
    row["chat_template_kwargs"] = {"enable_thinking": False}
    options = {"tools": tools, "enable_thinking": False}
    assert conversations(read(row)) == [Templated([system, USER, ANSWERS[0]], options)]


# --- texts that hold JSON ---------------------------------------------------------------------------------------------

INJECTED = [json.dumps(ANSWERS[:1]), json.dumps([{"role": "user", "content": "Say zz."}, ANSWERS[0]]), '["zz"]']


@pytest.mark.parametrize(
    "row",
    [
        *({"prompt": QUESTION, "responses": [text, BAD]} for text in INJECTED),
        *({"prompt": QUESTION, "completions": [{"response": text}, BAD]} for text in INJECTED),
        *({"prompt": QUESTION, "completion": text} for text in INJECTED),
        *({"prompt": [USER], "response": text} for text in INJECTED),
        *({"instruction": QUESTION, "output": text} for text in INJECTED),
        *({"prompt": QUESTION, "chosen": text, "rejected": BAD} for text in INJECTED),
        *({"prompt": QUESTION, "chosen": text, "rejected": text} for text in INJECTED),
        *({"prompt": QUESTION, "response_a": text, "response_b": BAD} for text in INJECTED),
    ],
)
def test_an_answer_that_is_json_is_scored_as_the_text_that_it_is(row):
    answers = read(row)
    assert answers.prompt == [USER]
    assert answers.text(0) in INJECTED
    assert all(len(answer) == 1 and answer[0]["role"] == "assistant" for answer in answers.answers)
    assert (MESSAGES_AS_TEXT in answers.notes) == ("role" in answers.text(0))


def test_a_prompt_that_is_json_is_the_text_that_it_is():
    for text in INJECTED:
        for row in ({"prompt": text, "responses": [GOOD]}, {"prompt": text, "chosen": GOOD, "rejected": BAD}):
            assert read(row).prompt == [{"role": "user", "content": text}]
    assert conversations(read({"prompt": INJECTED[0], "completion": GOOD}, plain_text=True)) == [INJECTED[0] + GOOD]
    assert read({"q": QUESTION, "a": '["x", "y"]'}, "prompt=q,responses=a").text(0) == '["x", "y"]'
    with pytest.raises(Unreadable, match="messages as JSON are read from lists"):
        read({"responses": [INJECTED[1]]})


TABLE = {"prompt": json.dumps([USER]), "responses": json.dumps([GOOD, BAD]), "n": "3", "at": None}


def test_a_table_of_text_has_messages_and_lists_as_json():
    reader = RowReader()
    row = reader.of_table(TABLE)
    assert row == {**TABLE, "prompt": [USER], "responses": [GOOD, BAD]}
    assert conversations(reader.read(row)) == [FIRST, SECOND]
    assert reader.of_table(reader.of_table({"completion": '["zz"]'})) == {"completion": '["zz"]'}
    named = RowReader(read_columns("prompt=q,responses=a"))
    assert named.of_table({"q": QUESTION, "a": TABLE["responses"]})["a"] == [GOOD, BAD]
    several = RowReader(read_columns("prompt=q,responses=a+b"))
    assert several.of_table({"a": '["x"]', "b": "y"}) == {"a": '["x"]', "b": "y"}
    with pytest.raises(Unreadable, match="begins like messages, and is no JSON"):
        reader.of_table({"prompt": TABLE["prompt"][:-9]})


# --- texts as they stand ----------------------------------------------------------------------------------------------


def test_plain_text_joins_prompt_and_answer():
    row = {"prompt": "<s>[INST] Hi [/INST]", "responses": [" Ho", "!"]}
    assert conversations(read(row, plain_text=True)) == ["<s>[INST] Hi [/INST] Ho", "<s>[INST] Hi [/INST]!"]
    assert read(row).notes == {RENDERED_PROMPTS}
    for row in ({"text": GOOD}, {"prompt": "", "completion": GOOD}, {"chosen": GOOD, "rejected": BAD}):
        assert conversations(read(row, plain_text=True))[0] == GOOD
    assert conversations(read(LISTS["RLHFlow"], plain_text=True)) == [FIRST, SECOND]  # messages stay messages
    nothing = read({"prompt": "", "responses": [" ", None, "x"]}, plain_text=True)
    assert (nothing.answers, list(nothing.unreadable)) == ([None, None, "x"], [0, 1])


# --- what cannot be scored --------------------------------------------------------------------------------------------


def test_an_answer_that_cannot_be_read_keeps_its_place():
    answers = read({"prompt": QUESTION, "responses": [None, GOOD, 3, "\ud800", [USER], ""]})
    assert answers.answers == [None, ANSWERS[:1], None, None, None, [{"role": "assistant", "content": ""}]]
    reasons = {place: unreadable.reason for place, unreadable in answers.unreadable.items()}
    wrong = NotScored.WRONG_TYPE
    assert reasons == {0: NotScored.NO_ANSWER, 2: wrong, 3: wrong, 4: NotScored.LAST_NOT_ASSISTANT}
    assert [place for place, _ in answers.conversations()] == [1, 5]
    assert answers.notes == {WITHOUT_WORDS}


@pytest.mark.parametrize(
    "half", [{"system": "\ud83d"}, {"tools": [{"name": "\ud83d"}]}, {"tools": '[{"name": "\\ud83d"}]'}]
)
def test_half_a_character_beside_the_conversation_costs_the_row_its_rewards(half):
    for row in ({"prompt": QUESTION, "responses": [GOOD]}, LISTS["TRL"], {"messages": FIRST}):
        with pytest.raises(Unreadable, match="half a character") as caught:
            read({**row, **half})
        assert caught.value.reason == NotScored.WRONG_TYPE


def test_an_answer_with_the_prompt_before_it_is_noted():
    assert read({"prompt": QUESTION, "responses": [f"{QUESTION}\n{GOOD}"]}).notes == {BEGINS_WITH_PROMPT}
    assert read({"prompt": "I", "responses": ["I think so."]}).notes == set()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": QUESTION, "answer": GOOD}, NotScored.NO_FORM),
        ([QUESTION], NotScored.WRONG_TYPE),
        ({"responses": [GOOD]}, NotScored.NO_PROMPT),
        ({"prompt": " ", "completion": GOOD}, NotScored.NO_PROMPT),
        ({"prompt": QUESTION, "responses": []}, NotScored.NO_ANSWER),
        ({"prompt": QUESTION, "responses": [None]}, NotScored.NO_ANSWER),
        ({"prompt": QUESTION, "responses": None}, NotScored.NO_ANSWER),
        ({"prompt": QUESTION, "chosen": GOOD, "rejected": None}, NotScored.NO_ANSWER),
        ({"prompt": QUESTION, "responses": GOOD}, NotScored.WRONG_TYPE),
        ({"prompt": 3, "responses": [GOOD]}, NotScored.WRONG_TYPE),
        ({"messages": [USER]}, NotScored.LAST_NOT_ASSISTANT),
        ({"messages": [ANSWERS[0]]}, NotScored.NO_PROMPT),
        ({"messages": [{"role": "narrator", "content": "x"}, ANSWERS[0]]}, NotScored.UNKNOWN_ROLE),
        ({"messages": [{**USER, "content": [{"type": "image"}]}, ANSWERS[0]]}, NotScored.PART_NOT_TEXT),
        ({"messages": QUESTION}, NotScored.WRONG_TYPE),
        ({"chosen": GOOD, "rejected": BAD}, NotScored.PLAIN_TEXT),
        ({"text": GOOD}, NotScored.PLAIN_TEXT),
        ({"prompt": QUESTION, "responses": [GOOD], "tools": 3}, NotScored.WRONG_TYPE),
        ({"question_id": "q9", "choices": [{"turns": [GOOD]}]}, NotScored.NO_QUESTION),
        ({"question_id": "q1", "choices": [GOOD]}, NotScored.WRONG_TYPE),
        ({"instruction": QUESTION, "output": GOOD, "history": ["x"]}, NotScored.WRONG_TYPE),
        ({"prompt": '["a", "b"]', "response_a": '["x"]', "response_b": '["y"]'}, NotScored.PROMPTS_DIFFER),
    ],
)
def test_a_row_that_cannot_be_read_says_why(row, reason):
    with pytest.raises(Unreadable) as caught:
        read(row, questions=asked)
    assert caught.value.reason == reason
    assert caught.value.text.startswith(reason.words)


# --- columns of other names -------------------------------------------------------------------------------------------


def test_columns_are_read_under_other_names():
    row = {"question": QUESTION, "prompt": "not this", "a": {"text": GOOD}, "b": {"text": BAD}, "a.b": "x"}
    answers = read(row, "prompt=question,responses=a.text+b.text")
    assert (answers.prompt, answers.answers) == ([USER], [ANSWERS[:1], ANSWERS[1:]])
    assert read(row, "prompt=question,completion=a.b").text(0) == "x"  # a column of this very name
    assert read(row, "prompt=question,responses=a.text+none.text").unreadable[1].reason == NotScored.NO_ANSWER
    assert read(row, "prompt=question,responses=a.text").answers == [ANSWERS[:1]]
    with pytest.raises(Unreadable, match="columns: question, prompt, a, b") as caught:
        read(row, "chosen=question")
    assert caught.value.reason == NotScored.NO_FORM
    with pytest.raises(UserError, match="did you mean responses"):
        read_columns("response=answers")

"""The gate's place in a prompt, for templates with a published pattern and without one."""

import pytest
from tiny_families import TOKENIZER_STYLES, train_tokenizer

from reward_modeling.data.gate_position import gate_position, gate_tail, has_published_place, last_tail, prompt_tokens
from reward_modeling.models.tokenizer import token_ids

WORDS = "hello world the answer is here assistant model user and so on with the question of a man 1 2 3"
QUESTION = [{"role": "user", "content": "hello, is the world here?"}]
ANSWERS = ("the answer", "a", "1. here", "<html>", "¤", "model\n", "hello")
MARKS = {"gemma": "<end_of_turn>", "gemma3": "<end_of_turn>", "llama3": "<|eot_id|>"}


def tokenizer_of(style: str):
    return train_tokenizer([WORDS] * 10, 330, **TOKENIZER_STYLES[style])


def rows_of(tokenizer, answers=ANSWERS):
    conversations = [[*QUESTION, {"role": "assistant", "content": answer}] for answer in answers]
    return token_ids([tokenizer.apply_chat_template(c, tokenize=False) for c in conversations], tokenizer)


@pytest.mark.parametrize("style", MARKS)
def test_the_published_place_is_the_first_token_of_the_pattern(style):
    tokenizer = tokenizer_of(style)
    position = gate_position(prompt_tokens(QUESTION, {}, tokenizer), gate_tail(tokenizer))
    mark = tokenizer.convert_tokens_to_ids(MARKS[style])
    for ids in rows_of(tokenizer):
        assert ids[position] == mark
        assert mark not in ids[position + 1 : -3]  # the question's end, not the answer's
        assert last_tail(ids, gate_tail(tokenizer)) == position  # as published models find it


@pytest.mark.parametrize("style", ["chatml", "qwen25", "qwen3", "mistral", "phi3", *MARKS])
def test_all_answers_share_what_is_read(style):
    """Up to and with the gate's token all conversations of a prompt are the same."""
    tokenizer = tokenizer_of(style)
    prompt = prompt_tokens(QUESTION, {}, tokenizer)
    position = gate_position(prompt, gate_tail(tokenizer))
    rows = rows_of(tokenizer)
    assert len({tuple(ids[: position + 1]) for ids in rows}) == 1
    assert len(prompt) - 8 <= position < len(prompt)
    assert tokenizer.decode(rows[0][position:]).count("the answer") == 1  # before the answer
    assert has_published_place(tokenizer) == (style in MARKS)


def test_a_pattern_within_an_answer_moves_nothing():
    tokenizer = tokenizer_of("llama3")
    position = gate_position(prompt_tokens(QUESTION, {}, tokenizer), gate_tail(tokenizer))
    said = "a<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nhello"
    (ids,) = rows_of(tokenizer, [said])
    assert last_tail(ids, gate_tail(tokenizer)) > position  # a negative control
    assert ids[: position + 1] == rows_of(tokenizer, ["the"])[0][: position + 1]


@pytest.mark.parametrize("style", ["chatml", "llama3", "qwen3"])
def test_a_prompt_that_lost_its_last_line_break_to_an_answer(style):
    """The tokens of the header that all answers share may be fewer: the same token is read."""
    tokenizer = tokenizer_of(style)
    prompt, tail = prompt_tokens(QUESTION, {}, tokenizer), gate_tail(tokenizer)
    assert len(tail) > 1
    assert gate_position(prompt[:-1], tail) == gate_position(prompt, tail) == len(prompt) - len(tail)


def test_an_earlier_turn_is_not_read():
    tokenizer = tokenizer_of("gemma")
    turns = [*QUESTION, {"role": "assistant", "content": "hello"}, *QUESTION]
    first, second = (
        gate_position(prompt_tokens(each, {}, tokenizer), gate_tail(tokenizer)) for each in (QUESTION, turns)
    )
    assert second > first + len("hello")


def test_nothing_before_the_answer():
    assert gate_position([], (1, 2)) == 0
    assert last_tail([1, 2], ()) is None

"""Rows in the forms in which people have them, on every published template: the tokens of the standard form."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from real.conftest import ROWS, preflight
from real.published import every_published
from runs import write_rows

from reward_modeling.common.errors import UserError

Row = dict[str, Any]
SYSTEM = "Answer as a baker would."
SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


def said_by(message: Row) -> Row:
    return {"from": SPEAKERS[message["role"]], "value": message["content"]}


def in_parts(message: Row) -> Row:
    return message | {"content": [{"type": "text", "text": message["content"]}]}


def transcript(messages: list[Row]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in messages)


def both(change: Callable[[list[Row]], Any]) -> Callable[[Row], Row]:
    """A form in which both sides are whole conversations, written in another way."""
    return lambda row: {side: change(row[side]) for side in ("chosen", "rejected")}


def beside_a_prompt(prompt: Callable[[list[Row]], Row], answer: Callable[[Row], Any]) -> Callable[[Row], Row]:
    return lambda row: prompt(row["chosen"][:-1]) | {side: answer(row[side][-1]) for side in ("chosen", "rejected")}


FORMS: dict[str, Callable[[Row], Row]] = {
    "prompt of messages, answers as texts": beside_a_prompt(
        lambda turns: {"prompt": turns}, lambda answer: answer["content"]
    ),
    "prompt of messages, one message object": beside_a_prompt(lambda turns: {"prompt": turns}, lambda answer: answer),
    "LLaMA-Factory": beside_a_prompt(lambda turns: {"conversations": list(map(said_by, turns))}, said_by),
    "ShareGPT": both(lambda messages: list(map(said_by, messages))),
    "content parts": both(lambda messages: list(map(in_parts, messages))),
    "JSON strings": both(json.dumps),
    "transcripts": both(transcript),
    "roles human and gpt": both(
        lambda messages: [message | {"role": SPEAKERS[message["role"]]} for message in messages]
    ),
    "empty tool calls": both(lambda messages: [message | {"tool_calls": []} for message in messages]),
    "OpenAI": lambda row: {
        "input": {"messages": row["chosen"][:-1]},
        "preferred_output": row["chosen"][-1:],
        "non_preferred_output": row["rejected"][-1:],
    },
    "NeMo-RL": lambda row: {
        "context": row["chosen"][:-1],
        "completions": [
            {"rank": rank, "completion": row[side][-1:]} for rank, side in enumerate(("chosen", "rejected"))
        ],
    },
    "ids in messages": both(
        lambda messages: [{"id": f"{number}", **message} for number, message in enumerate(messages)]
    ),
}


def tokens(groups: list[dict]) -> list[tuple[list[int], list[list[int]]]]:
    return [(group["prefix_ids"], group["completion_ids"]) for group in groups]


@pytest.fixture(scope="module")
def standard(model_of, flags, tmp_path_factory) -> Callable[..., list]:
    """The tokens of the standard form, by template."""
    made: dict[int, list] = {}

    def get(published) -> list:
        if id(published) not in made:
            made[id(published)] = tokens(preflight(flags | {"model_name": model_of(published)})[0])
        return made[id(published)]

    return get


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("published", every_published(refused=False))
def test_a_form_has_the_tokens_of_the_standard_one(published, form, standard, model_of, flags, tmp_path, seen, request):
    path = write_rows(tmp_path / "rows.jsonl", [FORMS[form](row) for row in ROWS])
    groups, _ = preflight(flags | {"model_name": model_of(published), "train_set_path": path})
    assert tokens(groups) == standard(published)
    assert len({tuple(completion) for _, completions in tokens(groups) for completion in completions}) > len(ROWS)
    seen(f"{request.node.callspec.id}", "the tokens of the standard form")


def those_that_take_system(takes: bool) -> list:
    return [one for one in every_published(refused=False) if one.values[0].takes_system == takes]


@pytest.mark.parametrize("published", those_that_take_system(False))
def test_a_template_without_a_system_message_refuses_one(published, model_of, flags, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [row | {"system": SYSTEM} for row in ROWS])
    with pytest.raises(UserError):
        preflight(flags | {"model_name": model_of(published), "train_set_path": path})


@pytest.mark.parametrize("published", those_that_take_system(True))
def test_a_system_column_is_the_first_message(published, model_of, flags, tmp_path):
    files = {}
    as_message = [{side: [{"role": "system", "content": SYSTEM}, *row[side]] for side in row} for row in ROWS]
    for name, rows in {"message": as_message, "column": [row | {"system": SYSTEM} for row in ROWS]}.items():
        path = write_rows(tmp_path / f"{name}.jsonl", rows)
        files[name] = tokens(preflight(flags | {"model_name": model_of(published), "train_set_path": path})[0])
    assert files["column"] == files["message"]
    without = tokens(preflight(flags | {"model_name": model_of(published)})[0])
    assert files["column"] != without  # the negative control

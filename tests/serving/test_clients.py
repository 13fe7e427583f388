"""Clients of score.py --verify_server and servers whose answers are none: each is a message, and never a traceback."""

import json
import math

import pytest
from scripted_server import server_that_says

from reward_modeling.common.errors import UserError
from reward_modeling.serving.client_connection import Connection
from reward_modeling.serving.clients import CLIENTS, Row, flat

ROW = Row([1, 2, 3], text="<s>a", bare="a")
HUGE = "1" + 400 * "0"
GARBAGE = [
    ("vllm", '{"data": {"probs": [1]}}', "list of one entry as data"),
    ("vllm", '{"data": "abc"}', "list of one entry as data"),
    ("vllm", '{"data": [1]}', r"object as data\[0\]"),
    ("vllm", '{"data": [null]}', r"object as data\[0\]"),
    ("vllm", '{"data": []}', "list of one entry as data"),
    ("vllm", '{"data": [{"probs": [99]}, {"probs": [1]}]}', "list of one entry as data"),
    ("vllm", '{"data": [{"probs": []}]}', "list of numbers as probs"),
    ("vllm", '{"data": [{"probs": ["1"]}]}', r"number as probs\[0\]"),
    ("vllm", '{"data": [{"probs": [true]}]}', r"number as probs\[0\]"),
    ("vllm", f'{{"data": [{{"probs": [{HUGE}]}}]}}', "beyond all floats"),
    ("vllm", '{"data": [{"probs": [1]}], "usage": "x"}', "object as usage"),
    ("vllm", '{"data": [{"probs": [1]}], "usage": {"prompt_tokens": "3"}}', "count as usage.prompt_tokens"),
    ("openrlhf", "{}", "expected rewards, found an empty object"),
    ("openrlhf", '{"rewards": [1, 2]}', "list of one entry as rewards"),
    ("openrlhf", '{"rewards": {"a": 1}}', "number as rewards"),
    ("openrlhf", f'{{"rewards": {HUGE}}}', "beyond all floats"),
    ("openrlhf", "[1]", "an object of JSON"),
    ("openrlhf", "[" * 200_000, "an object of JSON"),
    ("ours", '{"rewards": [1, 2]}', "list of one entry as rewards"),
    ("ours", '{"rewards": [[1]]}', r"number as rewards\[0\]"),
    ("ours", '{"rewards": [1], "attributes": ["x"]}', r"object as attributes\[0\]"),
    ("ours", '{"rewards": [1], "attributes": [{"a": "x"}]}', "number as attributes a"),
    ("ours", '{"rewards": [1], "attributes": [{}, {}]}', "list of one entry as attributes"),
    ("ours", '{"rewards": [1], "intervals": [{"a": [1, 2, 3]}]}', "low and a high end"),
]


@pytest.mark.parametrize(("protocol", "answer", "message"), GARBAGE)
def test_an_answer_that_is_none(protocol, answer, message):
    with server_that_says((200, {}, answer.encode())) as (url, _):
        client = CLIENTS[protocol](Connection(url))
        with pytest.raises(UserError, match=f"--verify_server {url}: .*{message}"):
            client.ask(client.ways[0], ROW)


@pytest.mark.parametrize(
    "listed",
    [
        {"data": ["a", "b"]},
        {"data": {"id": "x"}},
        {"data": "abc"},
        {"data": [{"id": 3}]},
        {"data": [{"id": "x", "max_model_len": "1024"}]},
    ],
)
@pytest.mark.parametrize("protocol", ["vllm", "ours"])
def test_a_list_of_models_that_is_none(protocol, listed, monkeypatch):
    connection = Connection("http://127.0.0.1:9")
    monkeypatch.setattr(connection, "get", lambda path: listed)
    with pytest.raises(UserError, match="an answer to GET /v1/models that can be read"):
        CLIENTS[protocol](connection).about()


def test_answers_that_are_right():
    answers = {
        "vllm": {"data": [{"probs": [1, 2.5]}], "usage": {"prompt_tokens": 3}},
        "openrlhf": {"rewards": 1.5},
        "ours": {"rewards": [None], "attributes": [{"a": 3}], "intervals": [{"a": [2, 4]}], "usage": {"tokens": 3}},
    }
    found = {}
    for protocol, answer in answers.items():
        with server_that_says((200, {}, json.dumps(answer).encode())) as (url, _):
            client = CLIENTS[protocol](Connection(url))
            found[protocol] = client.ask(client.ways[0], ROW)
    assert found["vllm"].values == {"probs[0]": 1.0, "probs[1]": 2.5}
    assert (found["vllm"].tokens, found["openrlhf"].tokens, found["ours"].tokens) == (3, None, 3)
    assert found["openrlhf"].values == {"reward": 1.5}
    reward = found["ours"].values.pop("reward")
    assert math.isnan(reward)
    assert found["ours"].values == {"attributes a": 3.0, "intervals a low": 2.0, "intervals a high": 4.0}
    assert flat("attributes", {}) == {}

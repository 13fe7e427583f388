"""Questions to a server that is busy, away, or something else."""

import random
import socket

import pytest
from runs import free_port
from scripted_server import server_that_says

from reward_modeling.common.errors import UserError
from reward_modeling.serving import posting
from reward_modeling.serving.asking import check_url
from reward_modeling.serving.keys import read_key_file
from reward_modeling.serving.posting import post_json
from reward_modeling.serving.reward_sources import Served

RIGHT = (200, {}, b'{"rewards": [1.5]}')


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that would have been waited."""
    seconds = []
    monkeypatch.setattr(posting.time, "sleep", seconds.append)
    return seconds


def test_what_is_asked_and_answered(waits):
    with server_that_says(RIGHT) as (url, asked):
        assert post_json(url + "/v1/rewards", {"messages": ["ä"]}, api_key="secret") == {"rewards": [1.5]}
    assert asked == [{"path": "/v1/rewards", "body": {"messages": ["ä"]}, "key": "Bearer secret"}]
    assert waits == []


def test_a_busy_server_is_asked_again_after_the_seconds_that_it_names(waits):
    with server_that_says((503, {"Retry-After": "7"}, b""), (503, {"Retry-After": "2"}, b""), RIGHT) as (url, asked):
        assert post_json(url, {}) == {"rewards": [1.5]}
    assert len(asked) == 3
    assert 7 <= waits[0] <= 10.5
    assert 2 <= waits[1] <= 3


def test_waits_grow_where_it_names_none(waits):
    answers = [None, *[(502, {}, b"")] * 6, (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""), RIGHT]
    with server_that_says(*answers) as (url, _):
        assert post_json(url, {}) == {"rewards": [1.5]}
    for wait, longest in zip(waits, (1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert longest / 2 <= wait <= longest


def test_a_training_keeps_its_random_numbers(waits):
    random.seed(5)
    expected = random.random()
    random.seed(5)
    with server_that_says((503, {"Retry-After": "1"}, b""), None, RIGHT) as (url, _):
        post_json(url, {})
    assert random.random() == expected


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (400, b'{"error": {"message": "prompt: expected a text"}}', "400 (Bad Request): prompt: expected a text"),
        (401, b"no", "401 (Unauthorized): no"),
        (500, b'{"error": "odd"}', "500 (Internal Server Error): odd"),
    ],
)
def test_a_refusal_is_not_asked_again(waits, status, text, said):
    with server_that_says((status, {}, text), RIGHT) as (url, asked), pytest.raises(UserError) as error:
        post_json(url, {})
    assert str(error.value).endswith(said)
    assert len(asked) == 1 and not waits


def test_what_is_no_json(waits):
    with (
        server_that_says((200, {}, b"<html>")) as (url, _),
        pytest.raises(UserError, match="expected JSON, found b'<ht"),
    ):
        post_json(url, {})


def test_patience_ends(waits):
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=r"found none in 1 tries; the last one: .*[Rr]efused"):
        post_json(url, {}, patience=0)
    with server_that_says((503, {"Retry-After": "60"}, b"")) as (url, _), pytest.raises(ConnectionError, match="503"):
        post_json(url, {}, patience=30)
    assert waits == []


def test_no_answer_in_time(waits):
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConnectionError, match="timed out"):
        post_json(f"http://127.0.0.1:{silent.getsockname()[1]}", {}, timeout=0.2, patience=0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(waits, status):
    """The key would go to another host, and its answer would be the reward."""
    with server_that_says(RIGHT) as (other, asked_there):
        redirect = (status, {"Location": f"{other}/get"}, b"")
        with server_that_says(redirect) as (url, _), pytest.raises(UserError, match="found a redirect") as error:
            post_json(url, {}, api_key="secret")
    assert asked_there == []
    assert "secret" not in str(error.value)


def test_proxies_of_the_environment_are_not_asked(waits, monkeypatch):
    with server_that_says(RIGHT) as (proxy, asked_there), server_that_says(RIGHT) as (url, asked):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        post_json(url, {}, api_key="secret")
    assert (len(asked_there), len(asked)) == (0, 1)


@pytest.mark.parametrize(
    "url", ["ftp://a", "http://", "http://me:secret@a", "http://a:port", "http://a b", "file:///a"]
)
def test_what_is_no_address(url):
    with pytest.raises(UserError, match="expected an http address") as error:
        check_url(url, "where")
    assert "secret" not in str(error.value)


def test_a_key_is_the_first_line_of_a_file_and_never_shown(tmp_path):
    file = tmp_path / "key"
    file.write_text("sesame-open\r\nsecond line\n")
    assert read_key_file(str(file)) == "sesame-open"
    for text in ("sesame-öpen", "sesame\x00open", "", "\nsesame"):
        file.write_bytes(text.encode())
        with pytest.raises(UserError, match="ASCII characters, found") as error:
            read_key_file(str(file))
        assert "sesame" not in str(error.value)
    with pytest.raises(UserError, match="ASCII"):
        Served("http://127.0.0.1:9", api_key="sesame\nopen")

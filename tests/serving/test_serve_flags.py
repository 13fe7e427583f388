"""The flags of serve.py, and where it listens."""

import logging
import socket

import pytest

import serve
from reward_modeling.common.arguments import parse_script_arguments
from reward_modeling.common.errors import UserError
from reward_modeling.serving.running import bind, check_reach
from reward_modeling.serving.settings import Settings

KEY = "0123456789abcdef"


def parse(*argv: str) -> serve.ScriptArguments:
    return parse_script_arguments(serve.ScriptArguments, argv)[0]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)


def test_the_defaults_listen_to_this_machine_and_ask_for_no_key():
    args = parse()
    assert (args.host, args.port, args.key) == ("127.0.0.1", 8000, None)


def test_a_key_comes_from_a_flag_a_file_or_a_variable(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text(f"{KEY}\nnot this\n")
    assert parse("--api_key", KEY).key == KEY
    assert parse("--api_key_file", str(file)).key == KEY
    monkeypatch.setenv(serve.KEY_VARIABLE, f"{KEY}\n")
    assert parse().key == KEY
    with pytest.raises(UserError, match="expected one key, found --api_key and REWARD_API_KEY"):
        parse("--api_key", KEY)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--api_key", "short"], "at least 8 ASCII characters, found 5"),
        (["--api_key", ""], "found 0"),
        (["--api_key", "schlüssel-schlüssel"], "ASCII"),
        (["--api_key_file", "/nowhere"], "expected a file of text"),
        (["--port", "70000"], "--port: expected 0 to 65535"),
        (["--max_conversations", "0"], "--max_conversations: expected 1 to 100000"),
        (["--client_timeout", "0"], "--client_timeout"),
        (["--weights", "helpfulness"], "weights"),
        (["--reward_name_or_path", " "], "--reward_name_or_path"),
        (["--max_body", "3"], "did you mean --max_body_mb"),
    ],
)
def test_mistakes_are_named(argv, words):
    with pytest.raises(UserError) as mistake:
        parse(*argv)
    assert words in str(mistake.value)
    assert "schlüssel" not in str(mistake.value)


def test_a_launcher_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="expected one process, found 2"):
        parse()


def test_a_port_that_is_taken_is_named_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: expected an address to listen at"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match=r"--host no\.such\.host"):
        bind("no.such.host.invalid", 0)


def test_of_two_servers_started_at_once_the_second_ends_before_its_model_is_loaded():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: expected an address to listen at"):
            bind("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port), timeout=5):  # which waits until the model is there
            pass


@pytest.mark.parametrize(
    ("host", "key", "warns"), [("127.0.0.1", None, False), ("0.0.0.0", KEY, False), ("0.0.0.0", None, True)]
)
def test_a_server_beyond_this_machine_without_a_key_is_warned_of(host, key, warns, caplog):
    with bind(host, 0) as bound, caplog.at_level(logging.WARNING):
        check_reach(bound, Settings(model_name="tiny", api_key=key))
    assert ("has no key" in caplog.text) == warns


def test_a_key_is_in_no_text_of_the_settings():
    assert KEY not in repr(Settings(model_name="tiny", api_key=KEY))

"""What stands in front of the routes: the key, the body, the log."""

import asyncio
import logging

import pytest
from asking import CONVERSATIONS, app_of, ask, ask_all, client_of, error_of, metric

from reward_modeling.serving import service as service_module

PATH = "/v1/rewards"
BODY = {"messages": CONVERSATIONS[0]}
KEY = "a key of the server's"
PATHS = (PATH, "/get_reward", "/classify", "/pooling", "/score")

# ----------------------------------------------------------------------------------------------------------
# The key
# ----------------------------------------------------------------------------------------------------------


def authorized(value: str) -> dict:
    return {"headers": {"Authorization": value}}


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/metrics", "/nowhere"])
def test_every_route_but_health_asks_for_the_key(served, path):
    app = app_of(served(), api_key=KEY)
    body = None if path in ("/v1/models", "/metrics") else BODY
    response = ask(app, path, body)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "found no Authorization header" in error_of(response)["message"]


def test_only_the_key_opens(served):
    for value in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer another",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Basic {KEY}",
        KEY,
    ):
        response = ask(app_of(served(), api_key=KEY), PATH, BODY, **authorized(value))
        assert response.status_code == 401, value
        assert KEY not in response.text
    for value in (f"Bearer {KEY}", f"bearer {KEY}"):
        assert ask(app_of(served(), api_key=KEY), PATH, BODY, **authorized(value)).status_code == 200
    assert ask(app_of(served(), api_key=KEY), "/health").status_code == 200
    assert ask(app_of(served(), api_key=KEY), "/metrics", **authorized(f"Bearer {KEY}")).status_code == 200


def test_two_keys_are_refused_even_where_one_is_right(served):
    headers = [("Authorization", "Bearer another-key"), ("Authorization", f"Bearer {KEY}")]
    for both in (headers, headers[::-1]):
        response = ask(app_of(served(), api_key=KEY), PATH, BODY, headers=both)
        assert response.status_code == 400
        assert "expected one Authorization header, found 2" in error_of(response)["message"]


def test_a_body_without_the_key_is_not_read(served):
    async def run() -> None:
        async def body():
            yield b"{"
            raise AssertionError("the body was read")

        async with client_of(app_of(served(), api_key=KEY)) as client:
            response = await client.post(PATH, content=body(), headers={"Content-Type": "application/json"})
            assert response.status_code == 401

    asyncio.run(run())


# ----------------------------------------------------------------------------------------------------------
# The body
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Content-Type": "text/plain"}, "found 'text/plain'"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type: application/json"),
        ({"Content-Encoding": "gzip"}, "not compressed"),
    ],
)
def test_a_body_is_json_by_its_header(served, headers, words):
    response = ask(app_of(served()), PATH, b"{}", headers=headers)
    assert response.status_code == 415
    assert words in error_of(response)["message"]


def test_the_encoding_of_a_json_header_is_passed_over(served):
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert ask(app_of(served()), PATH, b'{"messages": [{"role": "user", "content": "a"}]}', headers=headers).is_success


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_as_large_as_is_allowed(served, chunked):
    read = 0

    async def stream(size: int):
        nonlocal read
        yield b'{"messages": [{"role": "user", "content": "a"}]'
        for _ in range(size // 100):
            read += 100
            yield b" " * 100
        yield b"}"

    async def run(size: int):
        async with client_of(app_of(served(), max_body_bytes=10_000)) as client:
            content = stream(size) if chunked else b"".join([part async for part in stream(size)])
            return await client.post(PATH, content=content, headers={"Content-Type": "application/json"})

    assert asyncio.run(run(9_000)).status_code == 200
    read = 0
    response = asyncio.run(run(1_000_000))
    assert response.status_code == 413
    assert "at most 10,000 bytes" in error_of(response)["message"]
    if chunked:
        assert read <= 10_100


def test_all_bodies_together_are_bounded_and_let_go_again(served):
    app = app_of(served(), max_held_bytes=1000)
    responses = ask_all(app, [(PATH, BODY | {"tools": [{"name": "x" * 400}]})] * 5)
    statuses = sorted(response.status_code for response in responses)
    assert statuses[0] == 200
    assert statuses[-1] == 503
    refused = next(response for response in responses if response.status_code == 503)
    assert refused.headers["Retry-After"] == "1"
    assert app.state.service.state.held_bytes == 0
    assert app.state.service.state.in_flight == 0


# ----------------------------------------------------------------------------------------------------------
# What is said
# ----------------------------------------------------------------------------------------------------------


def test_unknown_paths_and_methods_are_named(served):
    app = app_of(served())
    missing, slash, wrong = ask_all(app, [("/v1/reward", BODY), (f"{PATH}/", BODY), (PATH, None)])
    assert (missing.status_code, slash.status_code, wrong.status_code) == (404, 404, 405)
    assert "/v1/rewards" in error_of(missing)["message"]
    assert "POST" in error_of(wrong)["message"]
    assert wrong.headers["Allow"] == "POST"


def test_a_mistake_of_ours_is_a_500_whose_words_are_in_no_log(served, monkeypatch, caplog):
    def mistaken(*_args):
        raise ValueError("SECRET words of a request")

    monkeypatch.setattr(service_module, "read_fields", mistaken)
    app = app_of(served())
    with caplog.at_level(logging.DEBUG):
        response = ask(app, PATH, BODY)
    assert response.status_code == 500
    assert "SECRET" not in response.text + caplog.text
    assert "ValueError at" in caplog.text
    assert "test_limits.py" in caplog.text  # the place is there


def test_no_word_of_a_request_is_logged(served, caplog):
    bodies = [
        {"messages": [{"role": "user", "content": "SECRET"}]},
        {"messages": [{"role": "SECRET", "content": 3}]},
        {"SECRET": 1},
        {"input_ids": [[123456789]]},
    ]
    with caplog.at_level(logging.DEBUG):
        ask_all(app_of(served(), api_key=KEY), [(PATH, body) for body in bodies], **authorized(f"Bearer {KEY}"))
        ask(app_of(served(), api_key=KEY), "/SECRET?text=SECRET", BODY, **authorized("Bearer SECRET"))
    said = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    assert "SECRET" not in said
    assert KEY not in said
    assert "123456789" not in said


def test_metrics_count_by_route_and_status_and_hold_no_path_of_a_client(served):
    app = app_of(served())
    responses = ask_all(app, [(PATH, BODY), (PATH, {}), ("/SECRET", BODY), ("/health", None)])
    assert [response.status_code for response in responses] == [200, 400, 404, 200]
    text = ask_text(app)
    assert 'reward_requests_total{route="/v1/rewards",status="200"} 1.0' in text
    assert 'reward_requests_total{route="/v1/rewards",status="400"} 1.0' in text
    assert 'reward_requests_total{route="other",status="404"} 1.0' in text
    assert "SECRET" not in text
    assert metric(app, "reward_conversations_total") == 1
    assert metric(app, "reward_requests_in_flight") == 0


def ask_text(app) -> str:
    return app.state.service.metrics.text().decode()


def test_health_is_that_of_the_thread(served):
    app = app_of(served())

    async def run() -> None:
        async with client_of(app) as client:
            assert (await client.get("/health")).json() == {"status": "ok", "model": "tiny"}
            app.state.service.state.stopping = True
            assert (await client.get("/health")).json() == {"status": "stopping"}
            refused = await client.post(PATH, json=BODY)
            assert refused.status_code == 503
            assert "Retry-After" in refused.headers
            app.state.service.state.stopping = False
            app.state.service.batcher.dead = "a test"
            dead = await client.get("/health")
            assert (dead.status_code, dead.json()["status"]) == (503, "dead")
            assert (await client.post(PATH, json=BODY)).status_code == 503

    asyncio.run(run())

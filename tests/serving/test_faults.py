"""A real server among clients that leave, stall, shout and flood, and its end by signals."""

import concurrent.futures
import json
import random
import signal
import socket
import threading
import time
from contextlib import ExitStack, closing

import pytest
import requests
from asking import CONVERSATIONS, ROWS, TOLERANCE
from servers import running_server, tiny_reward_model

from reward_modeling.data.conversations import Tokens
from reward_modeling.scoring import RewardScorer
from reward_modeling.serving.connections import LINGER_BYTES

PATH = "/v1/rewards"
CLIENT_TIMEOUT = 1.5  # seconds
SLOW_LENGTH = 300  # tokens
MEGABYTE = 1024 * 1024
KEY = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {KEY}"}
SECRET = "a-word-that-no-log-may-have"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_reward_model(tmp_path_factory.mktemp("faults") / "model")


@pytest.fixture(scope="module")
def scorer(model):
    return RewardScorer.from_pretrained(model, dtype="float32")


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    flags = {"client_timeout": CLIENT_TIMEOUT, "max_body_mb": 2, "max_connections": 80}
    folder = tmp_path_factory.mktemp("log")
    with running_server(model, folder, environment={"REWARD_API_KEY": KEY}, **flags) as running:
        yield running
        log = running.log()
        assert SECRET not in log
        assert KEY not in log
        assert "Traceback" not in log


@pytest.fixture
def still_serves(server, scorer):
    """After the fault of a test the server answers as before."""
    yield
    response = requests.post(server.url + PATH, json={"messages": CONVERSATIONS[0]}, headers=BEARER, timeout=30)
    assert response.json()["rewards"] == pytest.approx(scorer.score(CONVERSATIONS[:1]), abs=TOLERANCE)


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def head_of(length: int | str, *lines: str) -> bytes:
    sized = "Transfer-Encoding: chunked" if length == "chunked" else f"Content-Length: {length}"
    more = "".join(f"{line}\r\n" for line in lines)
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: server\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        f"{sized}\r\n{more}\r\n"
    ).encode()


def read_all(connection: socket.socket) -> bytes:
    """To the end of the connection."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def metric(server, name: str) -> float:
    text = requests.get(f"{server.url}/metrics", headers=BEARER, timeout=10).text
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")))


def slow_body(conversations: int) -> bytes:
    """A request that takes a while: conversations of many tokens that share nothing."""
    draw = random.Random(0)
    rows = [[draw.randrange(400) for _ in range(SLOW_LENGTH)] for _ in range(conversations)]
    return json.dumps({"input_ids": rows}).encode()


def until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ----------------------------------------------------------------------------------------------------------
# Many clients
# ----------------------------------------------------------------------------------------------------------


def test_fifty_clients_at_once_each_get_their_own_answers(server, scorer):
    draw = random.Random(1)
    words = ROWS[0]["chosen"][-1]["content"].split()

    def conversation(client: int, turn: int) -> list[dict]:
        said = " ".join(draw.choices(words, k=draw.randrange(3, 60)))
        return [{"role": "user", "content": f"{client} {turn} {said}"}, {"role": "assistant", "content": said[::-1]}]

    asked = [[[conversation(client, turn) for _ in range(turn + 1)] for turn in range(4)] for client in range(50)]
    flat = [one for client in asked for turn in client for one in turn]
    expected = iter(scorer.score(flat))
    expected = [[[next(expected) for _ in turn] for turn in client] for client in asked]

    def ask(client: list) -> list[list[float]]:
        with requests.Session() as session:
            session.headers.update(BEARER)
            return [
                session.post(server.url + PATH, json={"conversations": turn}, timeout=60).json()["rewards"]
                for turn in client
            ]

    with concurrent.futures.ThreadPoolExecutor(50) as clients:
        found = list(clients.map(ask, asked))
    assert [[len(turn) for turn in client] for client in found] == [[1, 2, 3, 4]] * 50
    assert differences(found, expected) < TOLERANCE
    found[0], found[1] = found[1], found[0]  # a negative control: two clients with each other's answers
    assert differences(found, expected) > 1000 * TOLERANCE
    every = sorted(reward for client in expected for turn in client for reward in turn)
    assert len({round(reward, 4) for reward in every}) > 0.9 * len(every)  # the rewards tell them apart


def differences(found: list, expected: list) -> float:
    pairs = zip(flatten(found), flatten(expected), strict=True)
    return max(abs(a - b) for a, b in pairs)


def flatten(value: object) -> list[float]:
    return [one for part in value for one in flatten(part)] if isinstance(value, list) else [value]


# ----------------------------------------------------------------------------------------------------------
# Clients that fail
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("still_serves")
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,  # the hello of TLS
        b"\x00" * 1000,
        b"POST /v1/rewards HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/rewards HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"GET /" + b"a" * 100_000,
        b"\xff\xfe /v1/rewards HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_garbage_is_refused(server, garbage):
    with closing(connect(server)) as connection:
        connection.sendall(garbage)
        assert b" 400 " in read_all(connection).partition(b"\r\n")[0]


@pytest.mark.usefixtures("still_serves")
def test_a_client_that_leaves_is_not_computed_for(server):
    before, computed = metric(server, "reward_cancelled_total"), metric(server, "reward_tokens_total")
    sizes = (1200, 50, 50, 50)  # the first keeps the model busy
    with ExitStack() as stack:
        for size in sizes:
            connection = stack.enter_context(closing(connect(server)))
            body = slow_body(size)
            connection.sendall(head_of(len(body)) + body)
        until(lambda: metric(server, "reward_queue_conversations") > 1000)
    until(lambda: metric(server, "reward_cancelled_total") == before + len(sizes))
    assert metric(server, "reward_queue_conversations") == metric(server, "reward_queue_tokens") == 0
    assert metric(server, "reward_tokens_total") - computed < sum(sizes) * SLOW_LENGTH / 2
    with closing(connect(server)) as connection:  # in the midst of its body
        connection.sendall(head_of(1000) + b"{" * 500)


@pytest.mark.usefixtures("still_serves")
def test_a_gigabyte_is_refused_before_it_is_read(server):
    memory = metric(server, "process_resident_memory_bytes")
    with closing(connect(server)) as connection:
        connection.sendall(head_of(1024 * MEGABYTE))
        assert b" 413 " in connection.recv(65536)
        assert sends_until_cut_off(connection, b" " * MEGABYTE) < 2 * LINGER_BYTES + 30 * MEGABYTE
    with closing(connect(server)) as connection:
        connection.sendall(head_of("chunked"))
        chunk = b"%x\r\n" % MEGABYTE + b" " * MEGABYTE + b"\r\n"
        assert sends_until_cut_off(connection, chunk) < 2 * LINGER_BYTES + 30 * MEGABYTE
        connection.settimeout(5)
        assert b" 413 " in read_all(connection)
    with closing(connect(server)) as connection:  # a client that asks first, as curl does
        connection.sendall(head_of(1024 * MEGABYTE, "Expect: 100-continue"))
        assert b" 413 " in connection.recv(65536)
    response = requests.post(  # and one that sends all of it and then reads
        server.url + PATH,
        data=b" " * 3 * MEGABYTE,
        headers=BEARER | {"Content-Type": "application/json"},
        timeout=30,
    )
    assert response.status_code == 413
    assert metric(server, "process_resident_memory_bytes") - memory < 100 * MEGABYTE


def sends_until_cut_off(connection: socket.socket, part: bytes) -> int:
    sent = 0
    try:
        while sent < 1024 * MEGABYTE:
            connection.sendall(part)
            sent += len(part)
    except OSError:
        pass
    return sent


@pytest.mark.usefixtures("still_serves")
def test_a_request_that_does_not_come_is_not_waited_for(server):
    parts = [b"", b"POST /v1/rew", head_of(1000), head_of(1000) + b"{", head_of("chunked") + b"1\r\n{\r\n"]
    with ExitStack() as stack:
        started = time.monotonic()
        connections = [stack.enter_context(closing(connect(server))) for _ in parts]
        for connection, part in zip(connections, parts, strict=True):
            connection.sendall(part)
        for connection in connections:
            assert b" 408 " in read_all(connection)
        assert CLIENT_TIMEOUT - 0.1 < time.monotonic() - started < CLIENT_TIMEOUT + 3


@pytest.mark.usefixtures("still_serves")
@pytest.mark.parametrize("pipelined", [True, False])
def test_nor_is_one_behind_a_request_that_was_answered(server, pipelined):
    whole = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    parts = [b"POST /v1/rew", head_of(1000), head_of(1000) + b"{", head_of("chunked") + b"1\r\n{\r\n"]
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(server))) for _ in [*parts, b""]]
        started = time.monotonic()
        for connection, part in zip(connections, [*parts, b""], strict=True):
            connection.sendall(whole + (part if pipelined else b""))
            while not (received := connection.recv(65536)).endswith(b"}"):
                assert received
            if not pipelined and part:
                connection.sendall(part)
        for connection in connections[:-1]:
            assert b"HTTP/1.1 408 " in read_all(connection)
        assert CLIENT_TIMEOUT - 0.2 < time.monotonic() - started < CLIENT_TIMEOUT + 3
        connections[-1].sendall(whole)  # a connection that asks for nothing stays open
        assert b" 200 " in connections[-1].recv(65536)


@pytest.mark.usefixtures("still_serves")
def test_requests_that_are_no_http_are_logged_once(server):
    for _ in range(5):
        with closing(connect(server)) as connection:
            connection.sendall(b"no request at all\r\n\r\n")
            assert b" 400 " in read_all(connection)
    with closing(connect(server)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert b" 200 " in connection.recv(65536)
    assert server.log().count("Invalid HTTP request received") == 1
    assert "pip install" not in server.log()
    assert "upgrade" not in server.log()


@pytest.mark.usefixtures("still_serves")
def test_a_byte_now_and_then_does_not_keep_a_connection(server):
    with closing(connect(server)) as connection:
        started = time.monotonic()
        connection.sendall(head_of(1000))
        try:
            while time.monotonic() - started < CLIENT_TIMEOUT + 10:
                connection.sendall(b" ")
                time.sleep(0.1)
        except OSError:
            pass
        assert time.monotonic() - started < CLIENT_TIMEOUT + 3


@pytest.mark.usefixtures("still_serves")
def test_a_client_that_does_not_read_is_let_go(server):
    """It asks for more than the buffers between the two hold."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", server.port))
    request = f"GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    with closing(connection):
        started = time.monotonic()
        try:
            while time.monotonic() - started < CLIENT_TIMEOUT + 10:
                connection.sendall(request)
                time.sleep(0.001)
        except OSError:
            pass
        assert time.monotonic() - started < CLIENT_TIMEOUT + 8


@pytest.mark.usefixtures("still_serves")
def test_connections_are_bounded(server):
    connections = [connect(server) for _ in range(100)]
    try:
        time.sleep(0.2)
        connections[-1].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        received = read_all(connections[-1])
        assert b" 503 " in received.partition(b"\r\n")[0]
        assert b"retry-after" in received.lower()
        connections[0].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in connections[0].recv(65536)
    finally:
        for connection in connections:
            connection.close()
    time.sleep(0.2)


@pytest.mark.usefixtures("still_serves")
def test_mistakes_over_the_wire_are_4xx_and_not_in_the_log(server):
    url, json_header = server.url + PATH, {"Content-Type": "application/json"}
    asked = {
        401: {"json": {"messages": [{"role": "user", "content": SECRET}]}, "headers": {"Authorization": "Bearer x"}},
        415: {"data": SECRET, "headers": BEARER | {"Content-Type": "text/plain"}},
        400: {"data": b'{"messages":' + b"[" * 50_000, "headers": BEARER | json_header},
    }
    for status, options in asked.items():
        assert requests.post(url, timeout=30, **options).status_code == status
    missing = requests.post(f"{server.url}/{SECRET}?{SECRET}", json={"a": SECRET}, headers=BEARER, timeout=30)
    assert missing.status_code == 404
    assert requests.get(f"{server.url}/health", timeout=30).status_code == 200  # without the key


# ----------------------------------------------------------------------------------------------------------
# The end
# ----------------------------------------------------------------------------------------------------------


def post_slowly(server, conversations: int, results: list) -> threading.Thread:
    """A thread that asks for much, and adds what became of it. Returns when the server works at it."""

    def ask() -> None:
        try:
            headers = {"Content-Type": "application/json"}
            results.append(requests.post(server.url + PATH, data=slow_body(conversations), headers=headers, timeout=60))
        except requests.ConnectionError as error:
            results.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: metric(server, "reward_queue_conversations") > 0)
    return thread


def test_sigterm_finishes_what_is_in_flight_after_a_kill_and_a_restart(model, scorer, tmp_path):
    with running_server(model, tmp_path) as killed:
        lost: list = []
        thread = post_slowly(killed, 1000, lost)
        killed.process.kill()
        killed.process.wait()
        thread.join(30)
        assert isinstance(lost[0], requests.ConnectionError)
        with running_server(model, tmp_path, port=killed.port) as restarted:
            assert restarted.port == killed.port
            session = requests.Session()
            assert session.get(f"{restarted.url}/health", timeout=10).ok
            results: list = []
            thread = post_slowly(restarted, 300, results)
            restarted.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            refused = session.post(restarted.url + PATH, json={"messages": CONVERSATIONS[0]}, timeout=10)
            fresh = requests.get(f"{restarted.url}/health", timeout=10)  # a new connection
            thread.join(60)
            assert restarted.process.wait(15) == 0
            assert (refused.status_code, fresh.status_code) == (503, 503)
            assert "Retry-After" in refused.headers
            assert results[0].status_code == 200
            rewards = results[0].json()["rewards"]
            rows = [Tokens(row) for row in json.loads(slow_body(300))["input_ids"]]
            assert rewards == pytest.approx(scorer.score(rows), abs=TOLERANCE)
            assert "Stopped." in restarted.log()
            assert "Traceback" not in restarted.log()


@pytest.mark.slow
def test_a_second_sigterm_ends_at_once_and_the_time_to_finish_is_bounded(model, tmp_path):
    with running_server(model, tmp_path, shutdown_timeout=0.3, max_tokens_per_batch=100_000) as server:
        results: list = []
        thread = post_slowly(server, 1500, results)
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert server.process.wait(15) == 0
        assert time.monotonic() - started < 0.3 + 5 + 5
        thread.join(30)
        assert results[0].status_code == 503
    with running_server(model, tmp_path) as server:
        thread = post_slowly(server, 1500, results)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - started < 2
        thread.join(30)
        assert isinstance(results[1], requests.ConnectionError)

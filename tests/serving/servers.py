"""A real server of a tiny model in a process of its own, or in a thread of this one.

with running_server(folder, tmp_path) as server:
    requests.post(f"{server.url}/v1/rewards", json={...})
    server.log()  # what it has printed
"""

import http.client
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from rating_models import save_classifier

from reward_modeling.serving.running import Server, bind
from reward_modeling.tiny.models import tiny_config
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

ROOT = Path(__file__).parents[2]
SECONDS_TO_START = 120  # on a machine that others use
SERVING = re.compile(r"Serving .* at (http://\S+:(\d+)) ")


@dataclass
class RunningServer:
    """`process` may be sent signals; the log is written until it ends."""

    process: subprocess.Popen
    log_file: Path
    url: str
    port: int

    def log(self) -> str:
        return self.log_file.read_text()


def tiny_reward_model(folder: Path, *, family: str = "llama", style: str = "llama3", **settings: object) -> Path:
    """A random reward model of one label, saved as rm.py saves one. vLLM wants `head_dim=32`."""
    texts = [row["chosen"][-1]["content"] for row in learnable_preferences(100, seed=0)]
    tokenizer = train_tokenizer(texts, 500, **TOKENIZER_STYLES[style])
    config = tiny_config(
        family, len(tokenizer), num_labels=1, problem_type="regression", **token_ids(tokenizer) | settings
    )
    return save_classifier(folder, tokenizer, config)


@contextmanager
def running_server(model: Path | str, folder: Path, *, environment: dict[str, str] | None = None, **flags: object):
    """serve.py of this model, on a free port unless `port` says which; ended when the block is left.

    Args:
        folder: where the log goes, `server-N.log`.
        environment: variables beside this process's.
        flags: of serve.py.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / f"server-{len(list(folder.glob('server-*.log')))}.log"
    flags = {"reward_name_or_path": model, "port": 0, "dtype": "float32", "device": "cpu"} | flags
    argv = [token for name, value in flags.items() for token in (f"--{name}", str(value))]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | (environment or {})
    with log_file.open("wb") as log:
        command = [sys.executable, str(ROOT / "serve.py"), *argv]
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT)
    try:
        url, port = _wait_until_it_serves(process, log_file)
        yield RunningServer(process, log_file, url, port)
    finally:
        process.kill()
        process.wait()


@contextmanager
def serving_app(app: FastAPI):
    """The address of the application in a thread of this process."""
    server, bound = Server(uvicorn.Config(app, log_level="error")), bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _wait_until_it_serves(process: subprocess.Popen, log_file: Path) -> tuple[str, int]:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        found = SERVING.search(log_file.read_text())
        if found and _is_healthy(int(found[2])):
            return found[1], int(found[2])
        if process.poll() is not None:
            raise AssertionError(f"the server ended with status {process.returncode}:\n{log_file.read_text()}")
        time.sleep(0.05)
    raise AssertionError(f"the server did not start within {SECONDS_TO_START} s:\n{log_file.read_text()}")


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

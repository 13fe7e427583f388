"""Servers that are started by the commands of a model card, with a port of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
from runs import ROOT, free_port

SECONDS_TO_START = 420  # vLLM takes 40 s on two idle cores, and 100 s where it compiles
EAGER = ("--enforce-eager",)  # nothing is compiled


def commands_of(card: Path) -> dict[str, list[str]]:
    """The commands of a card: of vLLM, of serve.py, and of score.py --verify_server."""
    text = card.read_text(encoding="utf-8")
    found = {
        "vllm": re.search(r"`(python -m vllm\.[^`]+)`", text),
        "serve.py": re.search(r"`(python serve\.py[^`]+)`", text),
    }
    found["score.py"] = re.search(r"^    (python score\.py .*)$", text, flags=re.MULTILINE)
    return {name: match[1].split() for name, match in found.items() if match is not None}


@contextmanager
def vllm_server(python: str, command: Sequence[str], folder: Path, *more: str) -> Iterator[str]:
    """The address of vLLM's server, started by a card's command, and `more` after it."""
    assert command[0] == "python"
    port = free_port()
    argv = [python, *command[1:], "--host", "127.0.0.1", "--port", port, *more]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with _process(argv, folder, port, os.environ | settings) as url:
        yield url


@contextmanager
def own_server(command: Sequence[str], folder: Path) -> Iterator[str]:
    """The address of serve.py, started by a card's command."""
    assert command[:2] == ["python", "serve.py"]
    port = free_port()
    argv = [sys.executable, str(ROOT / "serve.py"), *command[2:], "--port", port]
    with _process(argv, folder, port, os.environ) as url:
        yield url


@contextmanager
def _process(argv: list[str], folder: Path, port: str, environment) -> Iterator[str]:
    """A server of several processes, all of which end with the block."""
    log_file = folder / f"server-{port}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + SECONDS_TO_START
        while not _is_healthy(url):
            assert process.poll() is None, log_file.read_text()[-6000:]
            assert time.monotonic() < deadline, log_file.read_text()[-6000:]
            time.sleep(0.5)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).status_code == 200
    except requests.RequestException:
        return False

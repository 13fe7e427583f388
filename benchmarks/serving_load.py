"""Many clients at once against a server of one reward model: nothing lost, nothing swapped, how fast, how much memory.

    python benchmarks/serving_load.py --vllm_python .venv-serving/bin/python --output serving_load.json

A generated Llama of 4 layers x 256 is served on the loopback interface by serve.py and, where its Python is given, by
vLLM's CPU server, one after the other. So many clients send one request after the other over connections that stay
open. Every reward that comes back is compared with that of RewardScorer in process; no two rows have one reward, so
that an answer to somebody else's request would be seen. Three ways of asking, with K answers to a prompt in a request:

ours      /v1/rewards of serve.py: a prompt as messages, with K responses
classify  /classify of serve.py: K whole texts
vllm      /classify of vLLM: the same K texts

Clients and server share the machine's cores: the figures are for comparing the three, and for nothing else.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import aiohttp
import numpy as np
import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

MODEL = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.08, "vocab_size": 4096,
}  # fmt: skip
TOLERANCE = 1e-5
SECONDS_TO_START = 180
PROMPT_WORDS, ANSWER_WORDS = (20, 60), (5, 40)


# --- what is served and asked ---------------------------------------------------------------------------------------


def prepare(folder: Path, prompts: int, answers: int) -> None:
    """The checkpoint, the rows, their texts, and the rewards that RewardScorer gives them in process."""
    import torch
    from transformers import LlamaConfig

    from reward_modeling.models.reward_model import reward_model_class
    from reward_modeling.scoring import RewardScorer
    from reward_modeling.tiny.preferences import learnable_preferences
    from reward_modeling.tiny.tokenizers import TOKENIZER_STYLES, token_ids, train_tokenizer

    texts = [turn["content"] for row in learnable_preferences(1000, seed=0) for turn in row["chosen"]]
    words = sorted({word for text in texts for word in text.split()})
    rng = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(least, most)))

    rows = [
        {"prompt": text(*PROMPT_WORDS), "responses": [text(*ANSWER_WORDS) for _ in range(answers)]}
        for _ in range(prompts)
    ]
    model_folder = folder / "model"
    if not model_folder.is_dir():
        tokenizer = train_tokenizer(texts, MODEL["vocab_size"], **TOKENIZER_STYLES["llama3"] | {"pad": "<pad>"})
        torch.manual_seed(0)
        config = LlamaConfig(num_labels=1, problem_type="regression", **token_ids(tokenizer), **MODEL)
        reward_model_class(LlamaConfig)._from_config(config).save_pretrained(model_folder)
        tokenizer.save_pretrained(model_folder)
    scorer = RewardScorer.from_pretrained(model_folder, dtype="float32", device="cpu")
    conversations = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": answer}]
        for row in rows
        for answer in row["responses"]
    ]
    rewards = np.array(scorer.score(conversations)).reshape(prompts, answers)
    bos = scorer.tokenizer.bos_token or ""
    for row, number in zip(rows, range(prompts), strict=True):
        own = conversations[number * answers : (number + 1) * answers]
        rendered = [scorer.tokenizer.apply_chat_template(messages, tokenize=False) for messages in own]
        row["texts"] = [whole.removeprefix(bos) for whole in rendered]  # servers of texts write it themselves
        row["rewards"] = rewards[number].tolist()
    (folder / f"rows_{answers}.json").write_text(json.dumps(rows), encoding="utf-8")


def request_of(way: str, row: dict) -> tuple[str, dict]:
    """Path and body."""
    if way == "ours":
        prompt = [{"role": "user", "content": row["prompt"]}]
        return "/v1/rewards", {"prompt": prompt, "responses": row["responses"]}
    return "/classify", {"model": "served", "input": row["texts"], "use_activation": False}


def rewards_in(way: str, answer: dict) -> list[float]:
    if way == "ours":
        return answer["rewards"]
    by_number = sorted(answer["data"], key=lambda entry: entry["index"])
    return [entry["probs"][0] for entry in by_number]


# --- the server -----------------------------------------------------------------------------------------------------


def server_command(way: str, folder: Path, port: int, vllm_python: str | None) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(port)]
    if way != "vllm":
        model = ["--reward_name_or_path", str(folder / "model"), "--dtype", "float32", "--served_model_name", "served"]
        return [sys.executable, str(REPOSITORY / "serve.py"), *model, *address]
    model = ["--model", str(folder / "model"), "--served-model-name", "served", "--runner", "pooling"]
    options = ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
    return [vllm_python, "-m", "vllm.entrypoints.openai.api_server", *model, *options, *address]


@contextmanager
def served(way: str, folder: Path, vllm_python: str | None) -> Iterator[tuple[str, int]]:
    """The address of a running server, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = folder / f"server_{way}.log"
    with log.open("wb") as out:
        command = server_command(way, folder, port, vllm_python)
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/health", process, log)
        yield address, process.pid
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}") from None
        time.sleep(0.2)


class Memory(threading.Thread):
    """MiB of a process and its children, once a second while the load runs."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.samples, self.stopped = pid, [], threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(1):
            try:
                process = psutil.Process(self.pid)
                tree = [process, *process.children(recursive=True)]
                self.samples.append(sum(one.memory_info().rss for one in tree) / 2**20)
            except psutil.NoSuchProcess:
                return

    def figures(self) -> dict:
        """The largest, and how much the last quarter's mean is above that of the second quarter."""
        self.stopped.set()
        self.join()
        quarter = len(self.samples) // 4
        if not quarter:
            return {"peak_mib": round(max(self.samples, default=0)), "growth_mib": None}  # too short to say
        second, last = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        return {"peak_mib": round(max(self.samples)), "growth_mib": round(np.mean(last) - np.mean(second), 1)}


# --- the clients ----------------------------------------------------------------------------------------------------


async def send_all(way: str, address: str, rows: list[dict], clients: int, requests: int) -> dict:
    """Each client sends one request after the other. What comes back is held against the rows that were asked for."""
    numbers = iter(range(requests))
    latencies, differences, failures, answered = [], [], {}, np.zeros(requests, dtype=np.int64)
    bodies = [(path, json.dumps(body).encode()) for path, body in (request_of(way, row) for row in rows)]
    headers = {"Content-Type": "application/json"}

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:  # a generator that all clients share
            row = rows[number % len(rows)]
            path, body = bodies[number % len(rows)]
            started = time.perf_counter()
            try:
                async with session.post(address + path, data=body, headers=headers) as response:
                    answer = await response.json()
                if response.status != 200:
                    failures[str(response.status)] = failures.get(str(response.status), 0) + 1
                    continue
            except (aiohttp.ClientError, TimeoutError) as error:
                failures[type(error).__name__] = failures.get(type(error).__name__, 0) + 1
                continue
            latencies.append(time.perf_counter() - started)
            rewards = rewards_in(way, answer)
            if len(rewards) != len(row["rewards"]):
                failures["other number of rewards"] = failures.get("other number of rewards", 0) + 1
                continue
            answered[number] += 1
            differences.append(max(abs(a - b) for a, b in zip(rewards, row["rewards"], strict=True)))

    connector = aiohttp.TCPConnector(limit=clients)
    timeout = aiohttp.ClientTimeout(total=600)
    started = time.perf_counter()
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    seconds = time.perf_counter() - started
    largest = max(differences, default=float("inf"))
    return {
        "requests": requests,
        "answered_once": int((answered == 1).sum()),
        "failures": failures,
        "beyond_tolerance": sum(difference > TOLERANCE for difference in differences),
        "largest_difference": largest,
        "seconds": seconds,
        "requests_per_s": len(latencies) / seconds,
        "answers_per_s": len(latencies) * len(rows[0]["rewards"]) / seconds,
        "p50_ms": float(np.percentile(latencies, 50)) * 1000 if latencies else None,
        "p99_ms": float(np.percentile(latencies, 99)) * 1000 if latencies else None,
    }


def share_told_apart(rows: list[dict]) -> float:
    """Of all pairs of rows, those that a swap would show: the first rewards differ by more than twice the tolerance."""
    first = np.sort([row["rewards"][0] for row in rows])
    close = (np.searchsorted(first, first + 2 * TOLERANCE, side="right") - np.arange(len(first)) - 1).sum()
    return float(1 - close / (len(first) * (len(first) - 1) / 2))


def measure(way: str, answers: int, folder: Path, options: argparse.Namespace) -> dict:
    rows = json.loads((folder / f"rows_{answers}.json").read_text())
    requests = options.requests // answers
    with served(way, folder, options.vllm_python) as (address, pid):
        warm = min(200, requests)
        asyncio.run(send_all(way, address, rows, 8, warm))
        memory = Memory(pid)
        memory.start()
        figures = asyncio.run(send_all(way, address, rows, options.clients, requests))
        figures |= memory.figures()
    return figures | {"way": way, "answers": answers, "told_apart": share_told_apart(rows)}


# --- the table ------------------------------------------------------------------------------------------------------


def print_table(runs: list[dict], options: argparse.Namespace) -> None:
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "fastapi", "uvicorn", "aiohttp")]
    print(f"\n```\npython {' '.join(sys.argv)}\n```\n")
    print(
        f"{', '.join(versions)}, Python {platform.python_version()}, {os.cpu_count()} cores; {options.clients} clients."
    )
    header = ["way", "K", "requests", "answered once", "failed", "off by", "beyond 1e-5", "requests/s", "answers/s"]
    lines = [[*header, "p50 ms", "p99 ms", "peak MiB", "growth MiB"]]
    for run in runs:
        line = [run["way"], run["answers"], f"{run['requests']:,}", f"{run['answered_once']:,}", run["failures"] or 0]
        line += [f"{run['largest_difference']:.1e}", run["beyond_tolerance"]]
        line += [f"{run['requests_per_s']:.0f}", f"{run['answers_per_s']:.0f}"]
        line += [f"{run[name]:.0f}" if run[name] is not None else "-" for name in ("p50_ms", "p99_ms")]
        lines.append(list(map(str, [*line, run["peak_mib"], run["growth_mib"]])))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=20_000, help="of one answer each; with K answers, so many / K")
    parser.add_argument("--prompts", type=int, default=2_000, help="distinct ones; requests take them in turn")
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 8], help="K: answers of a request")
    parser.add_argument("--ways", nargs="+", default=["ours", "classify", "vllm"], choices=["ours", "classify", "vllm"])
    parser.add_argument("--vllm_python", help="the Python of an environment that has vLLM; without it vllm is left out")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, in turn")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    ways = [way for way in options.ways if way != "vllm" or options.vllm_python]
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for answers in options.answers:
            subprocess.run(
                [sys.executable, __file__, "--prepare", temporary, str(options.prompts), str(answers)], check=True
            )
        for _ in range(options.repeats):
            for answers in options.answers:
                for way in ways:
                    runs.append(measure(way, answers, folder, options))
                    print(f"  {way:<8} K = {answers}: {runs[-1]['seconds']:.1f} s", flush=True)
    print_table(runs, options)
    if options.output:
        record = {"command": sys.argv, "cores": os.cpu_count(), "model": MODEL, "runs": runs}
        options.output.write_text(json.dumps(record, indent=2))
    lost = [run for run in runs if run["failures"] or run["answered_once"] != run["requests"]]
    if lost or any(run["beyond_tolerance"] for run in runs if run["way"] != "vllm"):
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()

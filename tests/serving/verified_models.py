"""Tiny checkpoints with the rows that they were verified by, and a server of one, with a fault where a test wants it.

The server computes with plain transformers, and knows nothing of this project.
"""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from rating_models import save_classifier, with_ratings
from tiny_families import TOKENIZER_STYLES, tiny_config, train_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_modeling.checkpoints.reference_rewards import reference_rewards
from reward_modeling.models.tokenizer import token_ids
from reward_modeling.tiny.preferences import learnable_preferences
from reward_modeling.tiny.tokenizers import token_ids as special_ids

COUNT = 8


def conversations() -> list[list[dict]]:
    """Of many lengths."""
    said = {
        row[side][-1]["content"]: row[side]
        for row in learnable_preferences(20, seed=3)
        for side in ("chosen", "rejected")
    }
    kept = sorted(said.values(), key=lambda messages: len(messages[-1]["content"]))[:COUNT]
    for number, messages in enumerate(kept):
        messages[-1]["content"] += " Then wait." * (3 * number)
    return kept


def save_verified(
    folder: Path,
    *,
    family: str = "llama",
    style: str = "llama3",
    ratings: bool = False,
    seed: int = 0,
    tokenizer_options: dict | None = None,
    **settings: object,
) -> Path:
    """A random classifier with a verification.json, as a run leaves it; `settings` go to its config."""
    texts = [message["content"] for conversation in conversations() for message in conversation]
    tokenizer = train_tokenizer(texts, 500, **TOKENIZER_STYLES[style] | (tokenizer_options or {}))
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    config = tiny_config(family, len(tokenizer), **special_ids(tokenizer))
    config.num_labels, config.problem_type = 1, "regression"
    config.update(settings)
    save_classifier(folder, tokenizer, with_ratings(config) if ratings else config, seed=seed)
    return write_verification(folder)


def write_verification(folder: Path) -> Path:
    """The rows and what plain transformers gives them, in the fields of a real run."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in conversations()]
    rows = token_ids(texts, tokenizer)
    rewards = reference_rewards(str(folder), rows)["alone"]
    record = {"passed": True, "rows": rows, "rewards": rewards, "rewards_alone": rewards}
    record |= {"precision": "float32", "rounding": None}
    (folder / "verification.json").write_text(json.dumps(record))
    return folder


class FaultyServer:
    """What it does to tokens, to outputs and to its precision is set by a test; `requests` is what it was sent."""

    def __init__(self, folder: Path, auto_class: type = AutoModelForSequenceClassification):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = auto_class.from_pretrained(folder, dtype=torch.float32).eval()
        self.adds_bos = False
        self.key: str | None = None
        self.set_right()
        self.requests: list[dict] = []

    def set_right(self) -> None:
        self.change_ids: Callable[[list[int]], list[int]] = lambda ids: ids
        self.change_outputs: Callable[[torch.Tensor], torch.Tensor] = lambda outputs: outputs
        self.dtype = torch.float32
        self.max_length: int | None = None
        self.busy = 0  # answers that are 503
        self.chat_template: str | None = None  # in the place of the tokenizer's own

    @torch.no_grad()
    def outputs(self, ids: list[int]) -> list[float]:
        model = self.model if self.dtype == torch.float32 else copy.deepcopy(self.model).to(self.dtype)
        logits = model(torch.tensor([self.change_ids(ids)])).logits[0].float()
        return self.change_outputs(logits).tolist()

    def answer(self, path: str, body: dict) -> tuple[int, dict]:
        self.requests.append({"path": path} | body)
        if self.busy:
            self.busy -= 1
            return 503, {"error": {"message": "the queue is full"}}
        if path == "/classify":
            if "messages" in body:
                options = {"chat_template": self.chat_template, "return_dict": False}
                body["input"] = [self.tokenizer.apply_chat_template(body["messages"], **options)]
            (given,) = [body["input"]] if isinstance(body["input"], str) else body["input"]
            ids = self.tokenizer(given)["input_ids"] if isinstance(given, str) else given
            if self.max_length is not None and len(ids) > self.max_length:
                return 400, {"error": {"message": f"the longest conversation has {self.max_length} tokens"}}
            count = {"prompt_tokens": len(self.change_ids(ids))}
            return 200, {"data": [{"index": 0, "probs": self.outputs(ids)}], "usage": count}
        if path == "/get_reward":
            ids = [self.tokenizer(text, add_special_tokens=self.adds_bos)["input_ids"] for text in body["query"]]
            return 200, {"rewards": [self.outputs(row)[0] for row in ids]}
        return 404, {"detail": "Not Found"}


@contextmanager
def running(server: FaultyServer) -> Iterator[str]:
    """Its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            models = {"id": "served", "owned_by": "vllm", "max_model_len": server.max_length}
            found = {"/v1/models": {"data": [models]}, "/version": {"version": "0.0.test"}}.get(self.path)
            self.reply(404 if found is None else 200, found or {"detail": "Not Found"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if server.key is not None and self.headers.get("Authorization") != f"Bearer {server.key}":
                self.reply(401, {"error": {"message": "wrong key"}})
            else:
                self.reply(*server.answer(self.path, body))

        def reply(self, status: int, body: dict) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()

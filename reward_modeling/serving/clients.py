"""Clients of reward servers: one small class for each protocol, which asks as those do who use such a server.

    client = CLIENTS["vllm"](Connection("http://127.0.0.1:8000"))
    client.ask(client.ways[0], row).values      # {"probs[0]": 0.73}

A protocol is one class and its line in `CLIENTS`. A way is one form in which a conversation is sent: the token ids show
the model alone, the text shows how the server tokenises it.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import requests

from reward_modeling.common.errors import UserError, first_line

SECONDS = 120.0  # for one answer: a large model on a CPU takes that long for a long conversation
BUSY_TRIES, LONGEST_PAUSE = 5, 10.0  # of a server that answers 503, and the seconds between them
OUTPUTS, REWARD, DESCRIBED = "outputs", "reward", "described"


@dataclass(frozen=True)
class Row:
    """One conversation: its tokens, and the text that gives them; None where no text does.

    `bos` is what the text begins with, where that is the tokenizer's BOS. `gate` is where a gate reads the prompt.
    """

    ids: list[int]
    text: str | None = None
    bos: str = ""
    gate: int | None = None


@dataclass(frozen=True)
class Way:
    """How a row is sent. What does not decide is asked to inform alone."""

    name: str
    sends_text: bool = False
    decides: bool = True


@dataclass(frozen=True)
class Answer:
    """What a server gave one row: values by their name, and how many tokens it counted where it says so."""

    values: dict[str, float]
    tokens: int | None = None


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself."""

    name: str
    version: str | None = None
    model: str | None = None
    max_length: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.name} {self.version or ''}".strip(), self.model and f"model {self.model}"]
        parts.append(self.max_length and f"at most {self.max_length:,} tokens")
        return ", ".join(filter(None, parts))


class Refused(Exception):
    """The server refuses this row; the message is the server's."""


class Connection:
    """One server. Proxies and .netrc of the environment are left out: a key goes to the server that was named alone."""

    def __init__(self, url: str, *, api_key: str | None = None, seconds: float = SECONDS):
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--verify_server: expected a URL such as http://127.0.0.1:8000, found {url!r}.")
        self.url, self.seconds = url.rstrip("/").removesuffix("/v1"), seconds
        self.session = requests.Session()
        self.session.trust_env = False
        if api_key:
            self.session.headers["Authorization"] = f"Bearer {api_key}"

    def get(self, path: str) -> dict[str, Any] | None:
        """The object of an address that not every server has; None where there is none."""
        response = self._send("GET", path)
        found = _object(response) if response.ok else None
        return found if isinstance(found, dict) else None

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            Refused: the request is one that the server does not take.
            UserError: there is no server, it wants another key, or it has no such address.
        """
        response = self._send("POST", path, body)
        for _ in range(BUSY_TRIES - 1):
            if response.status_code != 503:
                break
            time.sleep(_pause(response.headers.get("Retry-After")))
            response = self._send("POST", path, body)
        self._check(path, response)
        found = _object(response)
        if not isinstance(found, dict):
            raise self._not_understood(path, response.text)
        return found

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> requests.Response:
        try:
            return self.session.request(
                method, f"{self.url}{path}", json=body, timeout=self.seconds, allow_redirects=False
            )
        except requests.RequestException as error:
            raise UserError(
                f"--verify_server {self.url}: expected a server that answers {method} {path}, found none "
                f"({type(error).__name__}: {first_line(error)}). Start it, and wait until its model is loaded."
            ) from error

    def _check(self, path: str, response: requests.Response) -> None:
        status, said = response.status_code, message_of(response)
        if status in (401, 403):
            raise UserError(
                f"--verify_server {self.url}: expected that the server takes the key, found status {status} ({said}). "
                "Pass --api_key_file FILE."
            )
        if status in (400, 413, 422):
            raise Refused(said)
        if status in (404, 405):
            raise UserError(
                f"--verify_server {self.url}: expected POST {path}, found status {status} ({said}). Is --protocol the "
                "one that this server speaks, and --served_model_name a model that it has?"
            )
        if not 200 <= status < 300:
            raise UserError(f"--verify_server {self.url}: expected an answer to POST {path}, found {status} ({said}).")

    def _not_understood(self, path: str, found: object) -> UserError:
        return UserError(
            f"--verify_server {self.url}: expected rewards in the answer to POST {path}, found {str(found)[:200]!r}. "
            "Is --protocol the one that this server speaks?"
        )

    def values(self, path: str, numbers: Any, name: str) -> dict[str, float]:
        """A list of numbers under the names name[0], name[1], ...; null is not a number."""
        if not isinstance(numbers, list) or not numbers or not all(map(_is_number, numbers)):
            raise self._not_understood(path, numbers)
        return {f"{name}[{place}]": _float(number) for place, number in enumerate(numbers)}


def message_of(response: requests.Response) -> str:
    """What an error says, on one line."""
    found = _object(response)
    for key in ("error", "message", "detail"):
        found = found.get(key, found) if isinstance(found, dict) else found
    return " ".join(str(found if found is not None else response.text).split())[:300]


def _object(response: requests.Response) -> Any:
    try:
        return response.json()
    except requests.JSONDecodeError:
        return None


def _pause(header: str | None) -> float:
    try:
        return min(LONGEST_PAUSE, max(0.0, float(header or 1)))
    except ValueError:  # a date
        return 1.0


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


class Client(ABC):
    """A protocol. `shows` is what of a model its answers hold: all outputs, the reward, or what `describe` says."""

    protocol: ClassVar[str]
    ways: ClassVar[tuple[Way, ...]]
    shows: ClassVar[str] = OUTPUTS

    def __init__(self, connection: Connection, model: str | None = None):
        """`model` is the name under which the server has it; None: its first one."""
        self.connection, self.model = connection, model

    @abstractmethod
    def about(self) -> ServerInfo:
        """What the server says of itself."""

    @abstractmethod
    def ask(self, way: Way, row: Row) -> Answer:
        """
        Raises:
            Refused: the server does not take this row.
        """

    def _first_model(self) -> dict[str, Any]:
        """The entry of the model that is asked, of the server's list."""
        models = (self.connection.get("/v1/models") or {}).get("data") or [{}]
        named = [model for model in models if model.get("id") == self.model] or models
        self.model = self.model or named[0].get("id")
        return named[0]


class VllmClient(Client):
    """vLLM's /classify. verl's reward loop sends a rendered text there without its BOS, which vLLM adds."""

    protocol = "vllm"
    TOKENS = Way("token ids")
    SILENT = Way("token ids, with no word of an activation")
    TEXT = Way("text without its BOS, as verl sends it", sends_text=True)
    WHOLE_TEXT = Way("text with its BOS", sends_text=True, decides=False)
    ways = (TOKENS, SILENT, TEXT, WHOLE_TEXT)

    def about(self) -> ServerInfo:
        model, version = self._first_model(), self.connection.get("/version") or {}
        name = "vLLM" if model.get("owned_by") == "vllm" else "a server with vLLM's addresses"
        return ServerInfo(name, version.get("version"), model.get("id"), model.get("max_model_len"))

    def ask(self, way: Way, row: Row) -> Answer:
        given = row.text if way.sends_text else [row.ids]
        body = {"model": self.model, "input": given.removeprefix(row.bos) if way is self.TEXT else given}
        body |= {} if way is self.SILENT else {"use_activation": False}
        found = self.connection.post("/classify", body)
        data = found.get("data") or [{}]
        tokens = (found.get("usage") or {}).get("prompt_tokens")
        return Answer(self.connection.values("/classify", data[-1].get("probs"), "probs"), tokens)


class OpenRlhfClient(Client):
    """OpenRLHF's /get_reward: a whole text with its special tokens, one sample in a request."""

    protocol = "openrlhf"
    TEXT = Way("whole text", sends_text=True)
    ways = (TEXT,)
    shows = REWARD

    def about(self) -> ServerInfo:
        return ServerInfo("a server of /get_reward")

    def ask(self, way: Way, row: Row) -> Answer:
        found = self.connection.post("/get_reward", {"query": [row.text], "prompts": [""], "labels": [""]})
        rewards = found.get("rewards")
        values = self.connection.values("/get_reward", rewards if isinstance(rewards, list) else [rewards], "rewards")
        return Answer({"reward": values["rewards[0]"]})


class OwnClient(Client):
    """serve.py's /v1/rewards, which gives the reward and all that a model says beside it."""

    protocol = "ours"
    TOKENS = Way("token ids")
    ways = (TOKENS,)
    shows = DESCRIBED

    def about(self) -> ServerInfo:
        model = self._first_model()
        return ServerInfo("serve.py", None, model.get("id"), model.get("max_model_len"))

    def ask(self, way: Way, row: Row) -> Answer:
        gates = {} if row.gate is None else {"gate_positions": [row.gate]}
        found = self.connection.post("/v1/rewards", {"input_ids": [row.ids]} | gates)
        values = self.connection.values("/v1/rewards", found.get("rewards"), "rewards")
        values = {"reward": values["rewards[0]"]}
        for column in ("attributes", "gate_weights", "intervals"):
            values |= flat(column, (found.get(column) or [{}])[0])
        return Answer(values, (found.get("usage") or {}).get("tokens"))


def flat(column: str, named: Mapping[str, Any]) -> dict[str, float]:
    """{"attributes kindness": 3.0}; of an interval its two ends."""
    values = {}
    for name, value in named.items():
        ends = dict(zip(("low", "high"), value, strict=True)) if isinstance(value, list | tuple) else {"": value}
        values |= {f"{column} {name} {end}".strip(): _float(one) for end, one in ends.items()}
    return values


CLIENTS: dict[str, type[Client]] = {client.protocol: client for client in (VllmClient, OpenRlhfClient, OwnClient)}

"""Clients of reward servers: one small class for each protocol, which asks as those do who use such a server.

    client = CLIENTS["vllm"](Connection("http://127.0.0.1:8000"))
    client.ask(client.ways[0], row).values      # {"probs[0]": 0.73}

A protocol is one class and its line in `CLIENTS`. A way is one form in which a conversation is sent: the token ids show
the model alone, the text shows how the server tokenises it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from reward_modeling.serving.client_connection import Connection, as_float

OUTPUTS, REWARD, DESCRIBED = "outputs", "reward", "described"


@dataclass(frozen=True)
class Row:
    """One conversation: its tokens, and the texts that give them; None where no text does.

    `text` is whole, with all special tokens. `bare` is without those that the tokenizer adds by itself: a server that
    tokenises it, as its tokenizer does, has these tokens. `gate` is where a gate reads the prompt.
    """

    ids: list[int]
    text: str | None = None
    bare: str | None = None
    bos: str = ""
    gate: int | None = None

    @property
    def without_bos(self) -> str | None:
        """The whole text without the BOS in front."""
        return None if self.text is None else self.text.removeprefix(self.bos)


@dataclass(frozen=True)
class Way:
    """How a row is sent: `text_of` is its text, and None where that way has none for it; None: the token ids.

    What does not decide is asked where it is another text than the right one, to show what comes of it.
    """

    name: str
    text_of: Callable[[Row], str | None] | None = None
    decides: bool = True

    def can_send(self, row: Row) -> bool:
        text = None if self.text_of is None else self.text_of(row)
        return self.text_of is None or (text is not None and (self.decides or text != row.bare))


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
    """vLLM's /classify, whose tokenizer adds to a text what it adds to any; to token ids nothing."""

    protocol = "vllm"
    TOKENS = Way("token ids")
    SILENT = Way("token ids, with no word of an activation")
    TEXT = Way("text, without what the tokenizer adds", lambda row: row.bare)
    WHOLE_TEXT = Way("text with its BOS", lambda row: row.text if row.bos else None, decides=False)
    VERL_TEXT = Way("text without its BOS, as verl sends it", lambda row: row.without_bos, decides=False)
    ways = (TOKENS, SILENT, TEXT, WHOLE_TEXT, VERL_TEXT)

    def about(self) -> ServerInfo:
        model, version = self._first_model(), self.connection.get("/version") or {}
        name = "vLLM" if model.get("owned_by") == "vllm" else "a server with vLLM's addresses"
        return ServerInfo(name, version.get("version"), model.get("id"), model.get("max_model_len"))

    def ask(self, way: Way, row: Row) -> Answer:
        body = {"model": self.model, "input": [row.ids] if way.text_of is None else way.text_of(row)}
        body |= {} if way is self.SILENT else {"use_activation": False}
        found = self.connection.post("/classify", body)
        data = found.get("data") or [{}]
        tokens = (found.get("usage") or {}).get("prompt_tokens")
        return Answer(self.connection.values("/classify", data[-1].get("probs"), "probs"), tokens)


class OpenRlhfClient(Client):
    """OpenRLHF's /get_reward: a whole text with its special tokens, one sample in a request."""

    protocol = "openrlhf"
    TEXT = Way("whole text", lambda row: row.text)
    ways = (TEXT,)
    shows = REWARD

    def about(self) -> ServerInfo:
        return ServerInfo("a server of /get_reward")

    def ask(self, way: Way, row: Row) -> Answer:
        found = self.connection.post("/get_reward", {"query": [way.text_of(row)], "prompts": [""], "labels": [""]})
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
        values |= {f"{column} {name} {end}".strip(): as_float(one) for end, one in ends.items()}
    return values


CLIENTS: dict[str, type[Client]] = {client.protocol: client for client in (VllmClient, OpenRlhfClient, OwnClient)}

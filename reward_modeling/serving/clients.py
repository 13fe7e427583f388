"""Clients of reward servers: one small class for each protocol, which asks as those do who use such a server.

    client = CLIENTS["vllm"](Connection("http://127.0.0.1:8000"))
    client.ask(client.ways[0], row).values      # {"probs[0]": 0.73}

A protocol is one class and its line in `CLIENTS`. A way is one form in which a conversation is sent: the token ids show
the model alone, the text shows how the server tokenises it, and messages show its chat template.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from reward_modeling.serving.client_connection import Connection
from reward_modeling.serving.client_fields import (
    NotUnderstood,
    a_count,
    a_number,
    a_text,
    an_object,
    numbers,
    the_only_one,
    tokens_of,
)

OUTPUTS, REWARD, DESCRIBED, ACTIVATED = "outputs", "reward", "described", "activated"
ENDS = ("low", "high")


@dataclass(frozen=True)
class Row:
    """One conversation: its tokens, and the texts that give them; None where no text does.

    `text` is whole, with all special tokens. `bare` is without those that the tokenizer adds by itself: a server that
    tokenises it, as its tokenizer does, has these tokens. `gate` is where a gate reads the prompt. `messages` are those
    that the checkpoint's chat template makes these tokens of.

    A process model reads the token `end`. Of models that /v1/rewards asks in another form than messages `form` has it,
    and `step` which of its steps the row is about.
    """

    ids: list[int]
    text: str | None = None
    bare: str | None = None
    bos: str = ""
    gate: int | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    end: int | None = None
    form: Mapping[str, Any] | None = None
    step: int = 0

    @property
    def without_bos(self) -> str | None:
        """The whole text without the BOS in front."""
        return None if self.text is None else self.text.removeprefix(self.bos)


@dataclass(frozen=True)
class Way:
    """How a row is sent: `text_of` is its text, and None where that way has none for it; None: the token ids.

    What does not decide is asked where it is another text than the right one, to show what comes of it. `as_messages`
    leaves it to the server to make text and tokens of them. `shows` is what its answers hold, where it is something
    else than the client's.
    """

    name: str
    text_of: Callable[[Row], str | None] | None = None
    decides: bool = True
    as_messages: bool = False
    shows: str | None = None

    def can_send(self, row: Row) -> bool:
        if self.as_messages or row.messages is not None:
            return self.as_messages and row.messages is not None
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
    dtype: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.name} {self.version or ''}".strip(), self.model and f"model {self.model}"]
        parts.append(self.max_length and f"at most {self.max_length:,} tokens")
        parts.append(self.dtype)
        return ", ".join(filter(None, parts))


class Client(ABC):
    """A protocol. `shows` is what of a model its answers hold: all outputs, the reward, or what `describe` says.

    That of another kind of model (clients_of_kinds.py) has another path for some rows, or finds a row in what is read.
    """

    protocol: ClassVar[str]
    path: ClassVar[str]
    ways: ClassVar[tuple[Way, ...]]
    shows: ClassVar[str] = OUTPUTS

    def __init__(self, connection: Connection, model: str | None = None):
        """`model` is the name under which the server has it; None: its first one."""
        self.connection, self.model = connection, model

    @abstractmethod
    def about(self) -> ServerInfo:
        """What the server says of itself."""

    def ask(self, way: Way, row: Row) -> Answer:
        """
        Raises:
            Refused: the server does not take this row.
            UserError: what it answers is not of this protocol.
        """
        found = self.found(way, row)
        try:
            return self.read_row(found, row)
        except NotUnderstood as error:
            raise self.connection.not_understood(f"POST {self.path_for(row)}", error) from error

    def found(self, way: Way, row: Row) -> Mapping[str, Any]:
        """What the server answers."""
        return self.connection.post(self.path_for(row), self.body(way, row))

    def path_for(self, row: Row) -> str:
        return self.path

    def read_row(self, found: Mapping[str, Any], row: Row) -> Answer:
        """As `read`, where the answer depends on the row."""
        return self.read(found)

    @abstractmethod
    def body(self, way: Way, row: Row) -> dict[str, Any]:
        """The request for one row."""

    @abstractmethod
    def read(self, found: Mapping[str, Any]) -> Answer:
        """
        Raises:
            NotUnderstood: it is no answer to one row.
        """

    def _listed_model(self) -> Mapping[str, Any]:
        """The entry of the model that is asked, of the server's list; an empty one where it has none."""
        listed = self.connection.get("/v1/models")
        try:
            models = _entries((listed or {}).get("data") or [])
            texts = {name: [a_text(model.get(name), name) for model in models] for name in ("id", "owned_by", "dtype")}
            for model in models:
                a_count(model.get("max_model_len"), "max_model_len")
        except NotUnderstood as error:
            raise self.connection.not_understood("GET /v1/models", error) from error
        place = texts["id"].index(self.model) if self.model in texts["id"] else 0
        model = models[place] if models else {}
        self.model = self.model or model.get("id")
        return model


def _entries(models: Any) -> list[Mapping[str, Any]]:
    if not isinstance(models, list):
        raise NotUnderstood(f"expected a list of models as data, found {type(models).__name__}")
    return [an_object(model, "each of data") for model in models]


class VllmClient(Client):
    """vLLM's /classify, whose tokenizer adds to a text what it adds to any; to token ids nothing."""

    protocol, path = "vllm", "/classify"
    TOKENS = Way("token ids")
    SILENT = Way("token ids, with no word of an activation")
    TEXT = Way("text, without what the tokenizer adds", lambda row: row.bare)
    MESSAGES = Way("messages", as_messages=True)
    WHOLE_TEXT = Way("text with its BOS", lambda row: row.text if row.bos else None, decides=False)
    VERL_TEXT = Way("text without its BOS, as verl sends it", lambda row: row.without_bos, decides=False)
    ways = (TOKENS, SILENT, TEXT, MESSAGES, WHOLE_TEXT, VERL_TEXT)

    def about(self) -> ServerInfo:
        model, version = self._listed_model(), self.connection.get("/version") or {}
        name = "vLLM" if model.get("owned_by") == "vllm" else "a server with vLLM's addresses"
        said = version.get("version")
        said = said if isinstance(said, str) else None
        return ServerInfo(name, said, model.get("id"), model.get("max_model_len"), model.get("dtype"))

    def body(self, way: Way, row: Row) -> dict[str, Any]:
        body = {"model": self.model} | ({} if way is self.SILENT else {"use_activation": False})
        if way.as_messages:
            return body | {"messages": row.messages}
        return body | {"input": [row.ids] if way.text_of is None else way.text_of(row)}

    def read(self, found: Mapping[str, Any]) -> Answer:
        entry = an_object(the_only_one(found.get("data"), "data"), "data[0]")
        return Answer(numbers(entry.get("probs"), "probs"), tokens_of(found, "prompt_tokens"))


class OpenRlhfClient(Client):
    """OpenRLHF's /get_reward: a whole text with its special tokens, one sample in a request."""

    protocol, path = "openrlhf", "/get_reward"
    TEXT = Way("whole text", lambda row: row.text)
    ways = (TEXT,)
    shows = REWARD

    def about(self) -> ServerInfo:
        return ServerInfo("a server of /get_reward")

    def body(self, way: Way, row: Row) -> dict[str, Any]:
        return {"query": [way.text_of(row)], "prompts": [""], "labels": [""]}

    def read(self, found: Mapping[str, Any]) -> Answer:
        if "rewards" not in found:
            raise NotUnderstood(f"expected rewards, found {', '.join(map(str, found)) or 'an empty object'}")
        rewards = found["rewards"]
        reward = the_only_one(rewards, "rewards") if isinstance(rewards, list) else rewards
        return Answer({"reward": a_number(reward, "rewards")})


class OwnClient(Client):
    """serve.py's /v1/rewards, which gives the reward and all that a model says beside it."""

    protocol, path = "ours", "/v1/rewards"
    TOKENS = Way("token ids")
    MESSAGES = Way("messages", as_messages=True)
    ways = (TOKENS, MESSAGES)
    shows = DESCRIBED

    def about(self) -> ServerInfo:
        model = self._listed_model()
        return ServerInfo("serve.py", None, model.get("id"), model.get("max_model_len"), model.get("dtype"))

    def body(self, way: Way, row: Row) -> dict[str, Any]:
        if way.as_messages:
            return {"messages": row.messages}
        return {"input_ids": [row.ids]} | ({} if row.gate is None else {"gate_positions": [row.gate]})

    def read(self, found: Mapping[str, Any]) -> Answer:
        values = {"reward": a_number(the_only_one(found.get("rewards"), "rewards"), "rewards[0]")}
        for column in ("attributes", "gate_weights", "intervals"):
            if column in found:
                values |= flat(column, an_object(the_only_one(found[column], column), f"{column}[0]"))
        return Answer(values, tokens_of(found, "tokens"))


def flat(column: str, named: Mapping[str, Any]) -> dict[str, float]:
    """{"attributes kindness": 3.0}; of an interval its two ends."""
    values = {}
    for name, value in named.items():
        ends = {"": value}
        if isinstance(value, list | tuple):
            if len(value) != len(ENDS):
                raise NotUnderstood(f"expected a low and a high end as {column} {name}, found {len(value)} values")
            ends = dict(zip(ENDS, value, strict=True))
        values |= {f"{column} {name} {end}".strip(): a_number(one, f"{column} {name}") for end, one in ends.items()}
    return values


CLIENTS: dict[str, type[Client]] = {client.protocol: client for client in (VllmClient, OpenRlhfClient, OwnClient)}

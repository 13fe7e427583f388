"""From a request's body to its answer: what all protocols have in common."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from reward_modeling.common.errors import did_you_mean
from reward_modeling.data.conversations import Tokens
from reward_modeling.serving.batches import Batcher, Computed
from reward_modeling.serving.errors import ApiError, bad_request, internal_error, shortened
from reward_modeling.serving.lanes import Lanes, Steps
from reward_modeling.serving.limits import State
from reward_modeling.serving.metrics import Metrics
from reward_modeling.serving.model import Lots, ServedModel
from reward_modeling.serving.queue import Scored
from reward_modeling.serving.settings import Settings

logger = logging.getLogger("serve")

Fields = TypeVar("Fields", bound=BaseModel)
JSON_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number with a point",
    type(None): "null",
}
PASSES = 2  # whose tokens a batch draws from the queue: fewer answer sooner, more leave less of the last one empty


@dataclass(frozen=True)
class Asked(Generic[Fields]):
    """A request that was read: its fields, and its conversations as tokens."""

    fields: Fields
    rows: list[Tokens]


class Service:
    """The model, the queue in front of it, and the threads that make tokens."""

    def __init__(self, model: ServedModel, settings: Settings):
        self.model = model
        self.settings = settings
        self.state = State()
        self.metrics = Metrics()
        self._lanes = Lanes(settings.tokenizer_threads, together=not model.tokenizer.is_fast)
        self.batcher = Batcher(
            self._compute,
            batch_tokens=settings.batch_tokens or PASSES * model.max_tokens_per_pass,
            max_conversations=settings.max_queue_conversations,
            max_tokens=settings.max_queue_tokens,
            metrics=self.metrics,
        )
        self._said_open_ended = False

    async def answer(
        self,
        request: Request,
        fields: type[Fields],
        tokenize: Callable[[Fields], Lots],
        write: Callable[[Asked[Fields], Scored], dict[str, Any]],
    ) -> JSONResponse:
        """
        Args:
            fields: what the body has.
            tokenize: makes tokens of them, in a thread, one lot after the other.
            write: makes the response.

        Raises:
            ApiError: there are no rewards, and why.
        """
        self.batcher.check_room(1, 1)  # before work that would be for nothing
        body = await request.body()

        asked, costs = await self._lanes.run(self._read(fields, body, tokenize), len(body))
        scored = await self.batcher.score(asked.rows, costs)
        self._check_finite(scored)
        return JSONResponse(write(asked, scored))

    def _read(self, fields: type[Fields], body: bytes, tokenize: Callable[[Fields], Lots]) -> Steps:
        """Steps of the work, the last of which is the request that was read and the costs of its rows."""
        given = read_fields(fields, body)
        rows: list[Tokens] = []
        tokens = 0
        for lot in tokenize(given):
            rows += lot
            tokens += sum(len(row.ids) for row in lot)
            self._check_size(tokens, len(rows))
            yield None
        yield Asked(given, rows), self.model.costs(rows)

    def _compute(self, conversations: list[Tokens]) -> Computed:
        answers, counts = self.model.compute(conversations)
        return Computed(answers, counts.tokens)

    def check_model(self, name: str | None) -> None:
        """
        Raises:
            ApiError: another model is asked for.
        """
        if name and name != self.settings.model_name:
            raise ApiError(
                404,
                f"model: expected {self.settings.model_name!r}, found {shortened(name)!r}. Leave it out, or start the "
                f"server with --served_model_name.",
                param="model",
            )

    def check_count(self, count: int, param: str, what: str = "", cure: str = "Send them in several requests.") -> None:
        """
        Args:
            what: is counted, where it is not the entries of the field.

        Raises:
            ApiError: there are more conversations than a request may have.
        """
        most = min(self.settings.max_conversations, self.settings.max_queue_conversations)
        if count > most:
            raise bad_request(
                f"{param}: expected at most {most:,} {what + ' ' if what else ''}in a request, found {count:,}. {cure}",
                param,
            )

    def _check_size(self, tokens: int, conversations: int) -> None:
        if tokens > self.settings.max_queue_tokens:
            raise bad_request(
                f"expected at most {self.settings.max_queue_tokens:,} tokens in a request, found {tokens:,} in its "
                f"first {conversations:,} conversations. Send them in several requests."
            )

    def _check_finite(self, scored: Scored) -> None:
        wrong = [
            number
            for number, answer in enumerate(scored.answers)
            if not all(map(math.isfinite, (answer.scored.reward, *answer.outputs)))
        ]
        if wrong:
            self.metrics.not_finite.inc(len(wrong))
            raise internal_error(
                f"conversation {wrong[0]}: the model gives {scored.answers[wrong[0]].scored.reward}, which is no "
                f"finite number and no JSON ({len(wrong)} of {len(scored.answers)} conversations). Start the server "
                "with --dtype float32."
            )

    def counted(self, lots: Lots) -> Lots:
        """Texts that came whole, with those counted that have no proper end."""
        for rows in lots:
            self._count_open_ended(rows)
            yield rows

    def _count_open_ended(self, rows: Sequence[Tokens]) -> None:
        """A reward that is read elsewhere than in training is given as it is, and counted."""
        ending = self.model.ending
        count = sum(list(row.ids[-len(ending) :]) != ending for row in rows) if ending else 0
        if not count:
            return
        self.metrics.open_ended.inc(count)
        if not self._said_open_ended:
            self._said_open_ended = True
            logger.warning(self.model.open_ended, self.model.tokenizer.decode(ending))

    def close(self) -> None:
        self.batcher.close()
        self._lanes.close()


def read_fields(fields: type[Fields], body: bytes) -> Fields:
    """
    Raises:
        ApiError: the body is no JSON, or has not these fields.
    """
    try:
        return fields.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else None
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "json_invalid":
        raise bad_request(f"expected a body of JSON, found what is none: {message.removeprefix('Invalid JSON: ')}.")
    kind = JSON_KINDS.get(type(first["input"]), "another value")
    if name is None:
        if first["type"] == "model_type":
            raise bad_request(f"expected an object, found {kind}.")
        param = message.partition(":")[0]  # of a check of several fields
        raise bad_request(f"{message}.", param if param in fields.model_fields else None)
    if first["type"] == "extra_forbidden":
        known, name = list(fields.model_fields), shortened(name)
        raise bad_request(f"expected known fields, found {name!r}{did_you_mean(name, known) or '.'}", name)
    if first["type"] == "too_long" and not first["loc"][1:]:
        raise bad_request(f"{name}: expected at most {first['ctx']['max_length']:,} in a request, found more.", name)
    place = "".join(f"[{step}]" for step in first["loc"][1:] if isinstance(step, int))
    expected = fields.model_fields[name].description or message
    raise bad_request(f"{name}: expected {expected}, found {kind}{' at ' + name + place if place else ''}.", name)

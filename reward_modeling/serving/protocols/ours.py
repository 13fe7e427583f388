"""POST /v1/rewards: everything that the model says of answers, with their prompts computed once.

    {"prompt": "How do I brew tea?", "responses": ["Heat the water ...", "No idea."]}
    {"prompt": [messages], "responses": [...]}
    {"messages": [messages]}
    {"conversations": [[messages], [messages]]}
    {"input_ids": [[tokens], [tokens]]}

Exactly one of these, and beside it, of a model with a gate, where it reads the prompt of each of `input_ids`
(`gate_positions`), or `tools` and `chat_template_kwargs`, which go to the chat template.

    {"model": "...", "rewards": [1.25, -0.5], "usage": {"conversations": 2, "tokens": 61, "computed_tokens": 40}}

Of other kinds of model see our_steps.py and our_pairs.py.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse

from reward_modeling.scoring.readouts.base import columns_of_answers
from reward_modeling.serving.model import Lots
from reward_modeling.serving.protocols.fields import MOST, Conversations, Messages, Numbers, Rows
from reward_modeling.serving.protocols.message_parts import with_text_contents
from reward_modeling.serving.protocols.template_options import checked_options
from reward_modeling.serving.queue import Scored
from reward_modeling.serving.service import Asked, Service

Responses = Annotated[list[str | Messages], Field(max_length=MOST, fail_fast=True)]


class RewardsRequest(BaseModel):
    """An unknown field is refused: a misspelt `tools` would change the rewards in silence."""

    model_config = ConfigDict(extra="forbid")
    forms: ClassVar[tuple[str, ...]] = ("responses", "messages", "conversations", "input_ids")
    with_prompt: ClassVar[tuple[str, ...]] = ("responses",)

    model: str | None = None
    prompt: str | Messages | None = Field(None, description="a text or a list of messages")
    responses: Responses | None = Field(None, description="a list of texts, or of lists of messages")
    messages: Messages | None = Field(None, description="a list of messages, each with role and content")
    conversations: Conversations | None = Field(None, description="a list of lists of messages")
    input_ids: Rows | None = Field(None, description="a list of lists of tokens")
    gate_positions: Numbers | None = Field(None, description="a list of numbers, beside input_ids")
    tools: Messages | None = Field(None, description="a list of objects")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="an object")

    @model_validator(mode="after")
    def _check_form(self) -> "RewardsRequest":
        given = self._given()
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"expected one of {', '.join(self.forms)} (with prompt), found {found}")
        if (self.prompt is not None) != (given[0] in self.with_prompt):
            others = " or ".join(self.with_prompt)
            raise ValueError(f"expected prompt and {others} together, found one without the other")
        if self.gate_positions is not None and self.input_ids is None:
            raise ValueError("gate_positions: expected them beside input_ids, found another form")
        return self

    def _given(self) -> list[str]:
        return [name for name in self.forms if getattr(self, name) is not None]

    def form(self) -> str:
        """The field that the conversations come from."""
        return self._given()[0]

    def template_options(self) -> Mapping[str, Any] | None:
        options = dict(self.chat_template_kwargs or {})
        return options | ({} if self.tools is None else {"tools": self.tools}) or None


def rewards_router(service: Service) -> APIRouter:
    router = APIRouter()

    def tokenize(fields: RewardsRequest) -> Lots:
        service.check_model(fields.model)
        options = checked_options(fields.template_options())
        if fields.input_ids is not None:
            service.check_count(len(fields.input_ids), "input_ids")
            return service.model.checked(service.model.ids_whole(fields.input_ids, fields.gate_positions))
        conversations = conversations_of(fields)
        service.check_count(len(conversations), fields.form())
        return service.model.checked(service.model.messages_whole(conversations, options))

    def write(asked: Asked[RewardsRequest], scored: Scored) -> dict[str, Any]:
        columns = columns_of_answers([answer.scored for answer in scored.answers])
        return {"model": service.settings.model_name, **columns, "usage": usage_of(asked, scored)}

    @router.post("/v1/rewards")
    async def rewards(request: Request) -> JSONResponse:
        return await service.answer(request, RewardsRequest, tokenize, write)

    return router


def usage_of(asked: Asked, scored: Scored) -> dict[str, int]:
    tokens = sum(len(row.ids) for row in asked.rows)
    return {"conversations": len(asked.rows), "tokens": tokens, "computed_tokens": scored.computed_tokens}


def conversations_of(fields: RewardsRequest) -> list[Messages]:
    if fields.messages is not None:
        return [with_text_contents(fields.messages, "messages")]
    if fields.conversations is not None:
        return [with_text_contents(messages, "conversations") for messages in fields.conversations]
    prompt = as_messages(fields.prompt, "user", "prompt")
    return [prompt + as_messages(response, "assistant", "responses") for response in fields.responses]


def as_messages(said: str | Messages, role: str, param: str) -> Messages:
    return [{"role": role, "content": said}] if isinstance(said, str) else with_text_contents(said, param)

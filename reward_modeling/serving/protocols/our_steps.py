"""POST /v1/rewards of a process model: the probability of each step, and what they make of an answer.

    {"prompt": "How much is 2 + 2?", "steps": ["2 and 2 are 4.", "So it is 4."]}             an answer
    {"prompt": [messages], "steps": [["2 and 2 are 4."], ["2 and 2 are 5.", "So it is 5."]]}  two answers
    {"prompt": "...", "responses": ["2 and 2 are 4.\\n\\nSo it is 4."]}

What answers begin with is computed once. `responses`, `messages` and `conversations` are those of ours.py: their
answers are cut into steps at the model's own separator; of an outcome model an answer is one step. Tokens
(`input_ids`) come with the places in each row that are read (`step_positions`: a list of lists).

    {"model": "...", "rewards": [0.8], "steps": [[0.9, 0.8]],
     "aggregations": [{"min": 0.8, "product": 0.72, "last": 0.8, "mean": 0.85}], "usage": {...}}

The reward is the aggregation that is saved with the model.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse

from reward_modeling.common.aggregations import aggregate
from reward_modeling.data.conversations import Chain
from reward_modeling.scoring.readouts.base import columns_of_answers
from reward_modeling.serving.errors import bad_request
from reward_modeling.serving.model import Lots
from reward_modeling.serving.protocols.fields import Rows, StepsOfOne, StepsOfSome
from reward_modeling.serving.protocols.ours import RewardsRequest, as_messages, conversations_of, usage_of
from reward_modeling.serving.protocols.template_options import checked_options
from reward_modeling.serving.queue import Scored
from reward_modeling.serving.service import Asked, Service


class StepsRequest(RewardsRequest):
    """As another model's, and steps in the place of responses."""

    forms: ClassVar[tuple[str, ...]] = ("steps", *RewardsRequest.forms)
    with_prompt: ClassVar[tuple[str, ...]] = ("steps", *RewardsRequest.with_prompt)

    steps: StepsOfOne | StepsOfSome | None = Field(
        None, description="a list of texts, the steps of an answer, or a list of such lists"
    )
    step_positions: Rows | None = Field(None, description="a list of lists of numbers, beside input_ids")

    @model_validator(mode="after")
    def _check_places(self) -> "StepsRequest":
        if self.step_positions is not None and self.input_ids is None:
            raise ValueError("step_positions: expected them beside input_ids, found another form")
        if self.gate_positions is not None:
            raise ValueError("gate_positions: expected none, since the model has no gate. Leave them out")
        return self

    def chains(self, options: Mapping[str, Any] | None) -> list[Chain]:
        """The answers whose steps are given."""
        prompt = as_messages(self.prompt, "user", "prompt")
        steps = [self.steps] if self.steps and isinstance(self.steps[0], str) else self.steps
        return [Chain(prompt, of, dict(options or {})) for of in steps]


def steps_router(service: Service) -> APIRouter:
    router, model = APIRouter(), service.model

    def tokenize(fields: StepsRequest) -> Lots:
        service.check_model(fields.model)
        options = checked_options(fields.template_options())
        if fields.input_ids is not None:
            service.check_count(len(fields.input_ids), "input_ids")
            return model.checked(model.ids_with_steps(fields.input_ids, fields.step_positions))
        if fields.steps is None:
            conversations = conversations_of(fields)
            service.check_count(len(conversations), fields.form())
            return model.checked(model.messages_whole(conversations, options))
        chains = fields.chains(options)
        service.check_count(len(chains), "steps")
        _check_outcome(service, chains)
        return model.checked(model.chains_whole(chains))

    def write(asked: Asked[StepsRequest], scored: Scored) -> dict[str, Any]:
        answers = [answer.scored for answer in scored.answers]
        columns = columns_of_answers(answers) | {"aggregations": [aggregate(one.steps) for one in answers]}
        return {"model": service.settings.model_name, **columns, "usage": usage_of(asked, scored)}

    @router.post("/v1/rewards")
    async def rewards(request: Request) -> JSONResponse:
        return await service.answer(request, StepsRequest, tokenize, write)

    return router


def _check_outcome(service: Service, chains: list[Chain]) -> None:
    """
    Raises:
        ApiError: a model that reads whole answers gets several steps of one.
    """
    most = max((len(one.steps) for one in chains), default=1)
    if service.model.process.outcome and most > 1:
        raise bad_request(
            f"steps: expected one step for each answer, since the model is an outcome model, which reads whole "
            f"answers, found {most}. Send `responses`.",
            "steps",
        )

"""POST /get_reward: what OpenRLHF asks of a remote reward model (--reward.remote_url).

    {"query": ["<bos><start_of_turn>user ..."], "prompts": ["..."], "labels": ["..."]}

A query is a whole text with its special tokens, in the chat template of the policy. Only it is read. It is scored as it
stands, at its last token: with exactly one BOS, and with nothing appended. The client sends one text a request, waits
180 seconds and tries 5 times; with several servers some get empty lists.

    {"rewards": [1.25], "scores": [0.78], "extra_logs": {"helpfulness": [3.1]}}

`scores` are for dynamic filtering and lie between 0 and 1: the sigmoid of the reward, which is the probability that a
Bradley-Terry model prefers the answer to one of reward 0. `extra_logs` has the attributes, where the model has some.
"""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from reward_modeling.serving.activations import sigmoid
from reward_modeling.serving.model import Lots
from reward_modeling.serving.protocols.fields import Texts
from reward_modeling.serving.queue import Scored
from reward_modeling.serving.service import Asked, Service


class GetRewardRequest(BaseModel):
    """Prompts and labels are not read: whatever the client sends there will do."""

    query: Texts = Field(description="a list of texts")


def get_reward_router(service: Service) -> APIRouter:
    router = APIRouter()

    def tokenize(fields: GetRewardRequest) -> Lots:
        service.model.check_route("/get_reward")
        service.check_count(len(fields.query), "query")
        return service.counted(service.model.checked(service.model.texts_whole(fields.query)))

    def write(_asked: Asked[GetRewardRequest], scored: Scored) -> dict[str, Any]:
        answers = [answer.scored for answer in scored.answers]
        rewards = [answer.reward for answer in answers]
        names = (answers[0].attributes or {}) if answers else {}
        logs = {name: [answer.attributes[name] for answer in answers] for name in names}
        return {"rewards": rewards, "scores": list(map(sigmoid, rewards)), "extra_logs": logs}

    @router.post("/get_reward")
    async def get_reward(request: Request) -> JSONResponse:
        return await service.answer(request, GetRewardRequest, tokenize, write)

    return router

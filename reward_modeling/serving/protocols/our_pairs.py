"""POST /v1/rewards of a pairwise model: every two answers to a prompt are compared, in both orders.

    {"prompt": "How do I brew tea?", "responses": ["Heat the water ...", "No idea.", "Boil it."]}

`prompt` is a text or a list of messages, a response a text or the messages after the prompt; `tools` and
`chat_template_kwargs` go to the chat template.

    {"model": "...", "rewards": [0.81, 0.12, 0.57], "logits": [[null, 2.1, 0.4], [-1.9, null, -1.2], [...]],
     "usage": {...}}

The reward of an answer is the mean probability that it is better than another one of this request, and says nothing
beside the answers of another. `logits[i][j]` is the model's output where answer i stands first and answer j second:
its sigmoid is the probability that i is the better one, in that order. `usage` counts orders as conversations.
"""

from itertools import combinations
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from reward_modeling.common.pair_probabilities import mean_probability
from reward_modeling.scoring.ranking import round_robin_scores
from reward_modeling.serving.errors import bad_request
from reward_modeling.serving.model import Lots
from reward_modeling.serving.protocols.ours import RewardsRequest, as_messages, usage_of
from reward_modeling.serving.protocols.template_options import checked_options
from reward_modeling.serving.queue import Scored
from reward_modeling.serving.service import Asked, Service

WHY = "since a pairwise model says which of two answers to a prompt is better, and nothing of one alone"


def pairs_router(service: Service) -> APIRouter:
    router, model = APIRouter(), service.model

    def tokenize(fields: RewardsRequest) -> Lots:
        service.check_model(fields.model)
        options = checked_options(fields.template_options())
        check_answers(fields)
        answers = [as_messages(response, "assistant", "responses") for response in fields.responses]
        orders = len(answers) * (len(answers) - 1)
        service.check_count(orders, "responses", "orders of two of them", "Send fewer responses.")
        prompt = as_messages(fields.prompt, "user", "prompt")
        return model.checked(model.comparisons_whole(prompt, answers, options))

    def write(asked: Asked[RewardsRequest], scored: Scored) -> dict[str, Any]:
        number = len(asked.fields.responses)
        logits: list[list[float | None]] = [[None] * number for _ in range(number)]
        probabilities: dict[tuple[int, int], float] = {}
        outputs = iter(answer.outputs[0] for answer in scored.answers)
        for one, other in combinations(range(number), 2):
            logits[one][other], logits[other][one] = next(outputs), next(outputs)
            probabilities[one, other] = float(mean_probability(logits[one][other], logits[other][one]))
        rewards = round_robin_scores(number, probabilities)
        name = service.settings.model_name
        return {"model": name, "rewards": rewards, "logits": logits, "usage": usage_of(asked, scored)}

    @router.post("/v1/rewards")
    async def rewards(request: Request) -> JSONResponse:
        return await service.answer(request, RewardsRequest, tokenize, write)

    return router


def check_answers(fields: RewardsRequest) -> None:
    """
    Raises:
        ApiError: there are not several answers to one prompt.
    """
    if fields.responses is None:
        more = " The logit of a comparison's tokens is at /classify." if fields.input_ids is not None else ""
        raise bad_request(
            f"{fields.form()}: expected prompt and at least two responses, {WHY}, found another form.{more}",
            fields.form(),
        )
    if len(fields.responses) < 2:
        raise bad_request(
            f"responses: expected at least two, {WHY}, found {len(fields.responses)}. Send all answers to the prompt "
            "in one request.",
            "responses",
        )

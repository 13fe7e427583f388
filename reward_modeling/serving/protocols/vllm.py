"""POST /classify, /pooling, /score and GET /v1/models as vLLM 0.32 answers them for a classification.

    {"model": "...", "input": "a whole text", "use_activation": false}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"text_1": "...", "text_2": "..."}                                                              # /score

`input` is a text, a list of texts, tokens or a list of tokens. The outputs are those of the head, as many as the model
has labels, after the activation that vLLM would choose by the model's config: none for `problem_type` regression, which
all models of this project have but process models, whose outputs become probabilities. Of these, whose task is
token_classify, /pooling has a row of outputs for each token. `activation` is `use_activation` under the name that it
had before vLLM 0.11.2 and that verl sends. Unlike vLLM, the server puts exactly one BOS in front of a text that has one
already, and answers 404 where a request names another model.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from reward_modeling.data.conversations import Tokens
from reward_modeling.serving.activations import activation_of, base64_of
from reward_modeling.serving.errors import bad_request
from reward_modeling.serving.head_outputs import Answer
from reward_modeling.serving.model import Lots
from reward_modeling.serving.protocols.message_parts import with_text_contents
from reward_modeling.serving.protocols.template_options import checked_options
from reward_modeling.serving.protocols.vllm_fields import ClassifyRequest, PoolingRequest, ScoreRequest, VllmRequest
from reward_modeling.serving.queue import Scored
from reward_modeling.serving.service import Asked, Service

OWNER = "reward-modeling"
TOKEN_CLASSIFY = "token_classify"


def vllm_router(service: Service) -> APIRouter:
    """The routes. `/score` is there for models of one label, as in vLLM."""
    router = APIRouter()
    writer = (TokenWriter if service.model.task == TOKEN_CLASSIFY else Writer)(service)

    @router.post("/classify")
    async def classify(request: Request) -> JSONResponse:
        return await service.answer(request, ClassifyRequest, read_input(service, "/classify"), writer.classification)

    @router.post("/pooling")
    async def pooling(request: Request) -> JSONResponse:
        return await service.answer(request, PoolingRequest, read_pooled(service), writer.pooling)

    @router.post("/score")
    async def score(request: Request) -> JSONResponse:
        return await service.answer(request, ScoreRequest, read_pairs(service), writer.scores)

    started = int(time.time())

    @router.get("/v1/models")
    async def models() -> JSONResponse:
        name = service.settings.model_name
        model = {"id": name, "object": "model", "created": started, "owned_by": OWNER, "root": name, "parent": None}
        return JSONResponse(
            {"object": "list", "data": [model | {"max_model_len": service.model.max_length, "permission": []}]}
        )

    return router


# --- requests to tokens ----------------------------------------------------------------------------------------


def read_pooled(service: Service) -> Callable[[PoolingRequest], Lots]:
    read = read_input(service, "/pooling")

    def read_task(fields: PoolingRequest) -> Lots:
        task = service.model.task
        if fields.task not in (None, task):
            raise bad_request(
                f"task: expected {task}, which is what the model does, found {fields.task[:50]!r}.", "task"
            )
        return service.model.to_read(read(fields))

    return read_task


def read_input(service: Service, path: str) -> Callable[[ClassifyRequest], Lots]:
    def read(fields: ClassifyRequest) -> Lots:
        service.model.check_route(path)
        service.check_model(fields.model)
        if fields.messages is not None:
            options = dict(checked_options(fields.chat_template_kwargs) or {})
            for name in ("add_generation_prompt", "continue_final_message"):
                if getattr(fields, name):
                    options[name] = True
            messages = with_text_contents(fields.messages, "messages")
            return truncated(service, service.model.rendered_whole([messages], options or None), fields)
        given = fields.input
        several = [given] if isinstance(given, str) or not given or isinstance(given[0], int) else given
        service.check_count(len(several), "input")
        if not given:
            raise bad_request("input: expected at least one text, found none.", "input")
        if not isinstance(several[0], str):
            return truncated(service, service.model.ids_whole(several), fields)
        if fields.truncate_prompt_tokens is not None:
            several = [service.model.shortened(text, side_of_cut(service, fields)) for text in several]
        lots = service.model.vllm_texts_whole(several, special_tokens=fields.add_special_tokens)
        return truncated(service, service.counted(lots), fields)

    return read


def read_pairs(service: Service) -> Callable[[ScoreRequest], Lots]:
    def read(fields: ScoreRequest) -> Lots:
        service.model.check_route("/score")
        service.check_model(fields.model)
        if service.model.num_outputs != 1:
            raise bad_request(
                f"/score: expected a model of one label, found {service.model.num_outputs}. Ask /classify, or "
                "/v1/rewards for their weighted sum."
            )
        pairs = fields.pairs()
        service.check_count(len(pairs), "documents")
        return truncated(service, service.model.pairs_whole(pairs), fields)

    return read


def side_of_cut(service: Service, fields: VllmRequest) -> str:
    return fields.truncation_side or service.model.tokenizer.truncation_side


def truncated(service: Service, lots: Lots, fields: VllmRequest) -> Lots:
    """The rows, cut where the request asks for it.

    Raises:
        ApiError: it asks for more than the model takes, or one is too long.
    """
    most, longest = fields.truncate_prompt_tokens, service.model.max_length
    if most is None:
        return service.model.checked(lots)
    if longest is not None and most > longest:
        raise bad_request(
            f"truncate_prompt_tokens: expected at most {longest}, found {most}.", "truncate_prompt_tokens"
        )
    most = longest if most == -1 else most
    return service.model.checked(cut_rows(service, lots, most, side_of_cut(service, fields)))


def cut_rows(service: Service, lots: Lots, most: int | None, side: str) -> Lots:
    for rows in lots:
        cut = [
            row if most is None else Tokens(row.ids[-most:] if side == "left" and most else row.ids[:most], row.gate)
            for row in rows
        ]
        if service.model.reads_prompts and any(len(a.ids) != len(b.ids) for a, b in zip(cut, rows, strict=True)):
            raise bad_request(
                "truncate_prompt_tokens: expected no cut, since the model's gate reads the prompt. Send a shorter one.",
                "truncate_prompt_tokens",
            )
        yield cut


# --- answers ---------------------------------------------------------------------------------------------------


class Writer:
    """Answers to responses."""

    def __init__(self, service: Service):
        self.service = service
        self.activation = activation_of(service.model.config)
        self.labels = service.model.config.id2label

    def classification(self, asked: Asked[ClassifyRequest], scored: Scored) -> dict[str, Any]:
        data = []
        for index, outputs in enumerate(self._outputs(asked.fields, scored.answers)):
            label = self.labels.get(max(range(len(outputs)), key=outputs.__getitem__))
            data.append({"index": index, "label": label, "probs": outputs, "num_classes": len(outputs)})
        return self._response("classify", asked, data)

    def pooling(self, asked: Asked[PoolingRequest], scored: Scored) -> dict[str, Any]:
        encode = self._base64_of if asked.fields.encoding_format == "base64" else list
        rows = self._outputs(asked.fields, scored.answers)
        data = [{"index": index, "object": "pooling", "data": encode(row)} for index, row in enumerate(rows)]
        return self._response("pooling", asked, data)

    def scores(self, asked: Asked[ScoreRequest], scored: Scored) -> dict[str, Any]:
        rows = self._outputs(asked.fields, scored.answers)
        data = [{"index": index, "object": "score", "score": row[0]} for index, row in enumerate(rows)]
        return self._response("score", asked, data)

    def _outputs(self, fields: VllmRequest, answers: Sequence[Answer]) -> list[list[Any]]:
        activation = self.activation if fields.wants_activation() else list
        return [activation(answer.outputs) for answer in answers]

    @staticmethod
    def _base64_of(row: Sequence[Any]) -> str:
        return base64_of(row)

    def _response(self, kind: str, asked: Asked, data: list[dict[str, Any]]) -> dict[str, Any]:
        tokens = sum(len(row.ids) for row in asked.rows)
        return {
            "id": f"{kind}-{asked.fields.request_id or uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": self.service.settings.model_name,
            "data": data,
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
        }


class TokenWriter(Writer):
    """Of a process model: for each token the outputs of both labels, after the activation."""

    def _outputs(self, fields: VllmRequest, answers: Sequence[Answer]) -> list[list[Any]]:
        activation, labels = self.activation if fields.wants_activation() else list, self.service.model.num_outputs
        starts = (range(0, len(answer.outputs), labels) for answer in answers)
        return [
            [activation(answer.outputs[start : start + labels]) for start in of]
            for answer, of in zip(answers, starts, strict=True)
        ]

    @staticmethod
    def _base64_of(row: Sequence[Any]) -> str:
        """Those of the first token, then those of the next one."""
        return base64_of(list(chain.from_iterable(row)))

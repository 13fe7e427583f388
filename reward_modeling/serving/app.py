"""The application: routes of all protocols behind one model.

app = make_app(RewardScorer.from_pretrained(path), Settings(model_name=path))    # a PairScorer of a pairwise model
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from reward_modeling.scoring import PairScorer, RewardScorer
from reward_modeling.scoring.readouts.steps import Steps
from reward_modeling.serving.errors import ApiError
from reward_modeling.serving.limits import Limits
from reward_modeling.serving.model import ServedModel
from reward_modeling.serving.pair_model import ServedPairs
from reward_modeling.serving.protocols.openrlhf import get_reward_router
from reward_modeling.serving.protocols.our_pairs import pairs_router
from reward_modeling.serving.protocols.our_steps import steps_router
from reward_modeling.serving.protocols.ours import rewards_router
from reward_modeling.serving.protocols.vllm import vllm_router
from reward_modeling.serving.service import Service
from reward_modeling.serving.settings import Settings
from reward_modeling.serving.step_model import ServedSteps

# Each kind of model, and what /v1/rewards asks and says of it.
KINDS = {ServedModel: rewards_router, ServedSteps: steps_router, ServedPairs: pairs_router}
Scorer = RewardScorer | PairScorer


def make_app(scorer: Scorer, settings: Settings) -> FastAPI:
    """The ASGI application; `app.state.service` is what it works with. Its thread runs from startup to shutdown.

    Raises:
        UserError: a setting is none of this kind of model.
    """
    kind = kind_of(scorer)
    model = kind(scorer, settings.max_queue_tokens, complete_texts=settings.complete_texts)
    service = Service(model, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        service.close()

    # What OpenTelemetry would keep of a request holds its path, and of an error its words.
    telemetry = dict.fromkeys(("tracing", "metrics", "logs", "auto_configure"), False)
    pages = dict.fromkeys(("docs_url", "redoc_url", "openapi_url"))
    app = FastAPI(lifespan=lifespan, redirect_slashes=False, telemetry=telemetry, **pages)
    app.state.service = service
    routers = [router(service) for router in (KINDS[kind], get_reward_router, vllm_router, operation_router)]
    for router in routers:
        app.include_router(router)
    app.state.paths = sorted({route.path for router in routers for route in router.routes})
    limits = {"state": service.state, "metrics": service.metrics, "routes": frozenset(app.state.paths)}
    app.add_middleware(Limits, settings=settings, **limits)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    return app


def kind_of(scorer: Scorer) -> type[ServedModel]:
    if isinstance(scorer, PairScorer):
        return ServedPairs
    return ServedSteps if isinstance(scorer.readout, Steps) else ServedModel


def operation_router(service: Service) -> APIRouter:
    """For those who run the server."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        if service.state.stopping:
            return JSONResponse({"status": "stopping"}, 503)
        if not service.batcher.is_alive:
            return JSONResponse({"status": "dead", "reason": service.batcher.dead or "not started"}, 503)
        return JSONResponse({"status": "ok", "model": service.settings.model_name})

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _answer_api_error(_request: Request, error: ApiError) -> JSONResponse:
    return error.response()


async def _answer_http_error(request: Request, error: HTTPException) -> JSONResponse:
    """Of the router: no such path, no such method."""
    words = {
        404: f"expected one of {', '.join(request.app.state.paths)}, found another path.",
        405: "expected another method: GET for /health, /metrics and /v1/models, POST for the others.",
    }
    return ApiError(
        error.status_code, words.get(error.status_code, str(error.detail)), headers=error.headers
    ).response()

"""Requests to an application in this process: all at once, as from as many clients."""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from reward_modeling.scoring import RewardScorer
from reward_modeling.serving.app import make_app
from reward_modeling.serving.settings import Settings
from reward_modeling.tiny.preferences import learnable_preferences

TOLERANCE = 1e-5
ROWS = learnable_preferences(12, seed=3)
CONVERSATIONS = [row[side] for row in ROWS for side in ("chosen", "rejected")]
NAME = "tiny"


def app_of(scorer: RewardScorer | Path, **settings: object) -> FastAPI:
    if isinstance(scorer, Path):
        scorer = RewardScorer.from_pretrained(scorer, dtype="float32")
    return make_app(scorer, Settings(**{"model_name": NAME} | settings))


@asynccontextmanager
async def client_of(app: FastAPI):
    """A client of the application, which runs as long as the block."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client,
    ):
        yield client


def ask_all(app: FastAPI, requests: Sequence[tuple[str, object]], **options: object) -> list[httpx.Response]:
    """Responses to (path, body) that are sent at the same time; without a body it is a GET."""

    async def run() -> list[httpx.Response]:
        async with client_of(app) as client:
            return await asyncio.gather(*(send(client, *request, **options) for request in requests))

    return asyncio.run(run())


def ask(app: FastAPI, path: str, body: object = None, **options: object) -> httpx.Response:
    (response,) = ask_all(app, [(path, body)], **options)
    return response


async def send(client: httpx.AsyncClient, path: str, body: object = None, **options: object) -> httpx.Response:
    if body is None:
        return await client.get(path, **options)
    if isinstance(body, bytes):
        headers = {"Content-Type": "application/json"} | options.pop("headers", {})
        return await client.post(path, content=body, headers=headers, **options)
    return await client.post(path, json=body, **options)


def error_of(response: httpx.Response) -> dict:
    """The error, which has the shape of OpenAI's and vLLM's."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == response.status_code
    return error


def metric(app: FastAPI, name: str) -> float:
    return app.state.service.metrics.registry.get_sample_value(name)

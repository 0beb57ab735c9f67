"""The path service's HTTP: endpoints, limits and errors.

Belongs here: what a client sees. What is done with an image is `service.py`'s.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.records import Distance, Preprocessing, Record
from clusterpaths.server.errors import UnexpectedErrors, documented, install
from clusterpaths.server.middleware.body_limit import FORM_BYTES, BodyLimit
from deployments.path_service.answer import Answer
from deployments.path_service.images import FIELD, read_images
from deployments.path_service.service import PathService

PREDICT = "/predict"
GONE = 499  # as other servers count clients that left before their answer
_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}\Z")
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
    },
}
_ID_HEADER = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "of the request, whose rows are ID-0, ID-1 … A retry sends the same one: its rows count once.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,100}$"},
}


class Served(Record):
    """What the service serves."""

    set: str
    fingerprint: str
    model: str = Field(description="file name of the classifier")
    sha256: str = Field(description="of the classifier")
    dataset: str
    layers: tuple[str, ...]
    k: tuple[int, ...] = Field(description="clusters per layer")
    distance: Distance
    classes: tuple[str, ...] = Field(description="names of the classes, in the order of `probabilities`")
    preprocessing: Preprocessing
    max_images: int
    max_upload: int = Field(description="bytes")


class Health(Record):
    """Whether the service takes requests."""

    status: Literal["ready", "log failing", "not ready"] = Field(
        description="log failing: images are answered and not logged, or with --log-failure refuse not answered"
    )
    log: str = Field(description="none, writing, or why it cannot be written")
    queue: int = Field(description="requests that are being answered")


def create_app(service: PathService) -> FastAPI:
    """The ASGI application around a service, which it starts and closes."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(title="ClusterPaths: path service", version="1", lifespan=lifespan)
    install(app, lambda _, status, text: JSONResponse({"detail": text}, status))
    app.add_middleware(BodyLimit, limit=service.config.max_upload + FORM_BYTES)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(_Watch, service=service)

    @app.post(
        PREDICT,
        summary="Class, path, distances and OOD score of one image (the body) or several (a form)",
        responses={200: {"model": Answer}, **documented(408, 413, 415, 422, 503)},
        openapi_extra={"requestBody": _BODY, "parameters": [_ID_HEADER]},
    )
    async def predict(request: Request) -> Response:
        started = time.monotonic()
        request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
        if not _ID.match(request_id):
            raise HTTPException(422, "X-Request-ID should be 1 to 100 letters, digits, dots, colons, - or _")
        with service.admission.admit(_size(request, service.config.max_upload)):
            try:
                images = await read_images(request, service.config.max_images)
            except ClientDisconnect:
                return Response(status_code=GONE)
            service.metrics.stage["read"](time.monotonic() - started)
            with service.admission.hold(len(images)):
                answer = await service.answer(images, request_id)
        service.metrics.stage["total"](time.monotonic() - started)
        return JSONResponse(answer)

    @app.get("/", summary="What is served")
    async def served() -> Served:
        note = service.model.note
        return Served(
            set=note.set,
            fingerprint=note.fingerprint,
            model=note.model.file,
            sha256=note.model.sha256,
            dataset=note.dataset,
            layers=note.layers,
            k=tuple(note.k_per_layer[layer] for layer in note.layers),
            distance=note.distance,
            classes=tuple(service.model.class_name(index) for index in range(service.model.classes)),
            preprocessing=service.model.preprocessing,
            max_images=service.config.max_images,
            max_upload=service.config.max_upload,
        )

    @app.get("/health/live", summary="Whether the process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health", summary="As /health/ready")
    @app.get("/health/ready", summary="Whether it takes requests; 503 if not", responses=_health_responses())
    async def ready(response: Response) -> Health:
        health = _health(service)
        refuses = health.status == "log failing" and service.config.log_failure == "refuse"
        if health.status == "not ready" or refuses:
            response.status_code = 503
        return health

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _health_responses() -> dict[int | str, dict[str, Any]]:
    return {503: {"model": Health}}


def _health(service: PathService) -> Health:
    log = service.log
    state = "none" if log is None else log.failure or "writing"
    status: Literal["ready", "log failing", "not ready"] = "ready" if state in ("none", "writing") else "log failing"
    return Health(status=status if service.ready else "not ready", log=state, queue=service.admission.requests)


def _size(request: Request, most: int) -> int:
    """Bytes of the body, where the client says it; else the most that it may have."""
    given = request.headers.get("content-length", "")
    return int(given[:18]) if given.isdigit() else most


class _Watch:
    """ASGI middleware, the outermost: counts the answers to requests for predictions."""

    def __init__(self, app: ASGIApp, service: PathService) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PREDICT:
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.service.metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)

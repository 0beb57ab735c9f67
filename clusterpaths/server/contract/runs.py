"""POST /run: starts a run of a Prefect deployment through the Prefect server's API.

Belongs here: from the names in a request to the deployment's parameters, and the requests to the server. Prefect itself is
never imported. Models and data sets are looked up by name; a request contains no path.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from clusterpaths.common import roots
from clusterpaths.datasets.registry import find_source, known_names
from clusterpaths.errors import DatasetError, NoRunError, NotFoundError
from clusterpaths.explore.documents import shown
from clusterpaths.sets.places import data_of, model_of

if TYPE_CHECKING:
    from clusterpaths.explore.library import Library

PATIENCE = 20.0  # seconds for a run to be accepted: with SQLite, concurrent writes make Prefect's server wait or refuse
TIMEOUT = 8.0  # seconds for one attempt
BUSY = (429, 502, 503)  # transient, as in Prefect's client
FIRST_WAIT = 0.2  # seconds before the second attempt; doubled before each further one


class RunRequest(BaseModel):
    """What a dashboard's "run model" button sends."""

    model: str = Field(max_length=255, description="name of a file in ONNX_models/, or of a results directory")
    dataset: str = Field(max_length=255, description="celeba, torchvision:CIFAR10 and so on; case-insensitive")


class RunAnswer(BaseModel):
    """The scheduled run."""

    status: str = "scheduled"
    model: str
    dataset: str
    flow_run_id: str
    name: str
    deployment: str


async def start_run(
    request: RunRequest, library: Library, api: str | None, deployment: str, own_root: bool
) -> RunAnswer:
    """Start the deployment (FLOW/NAME) on this model and data set, with its other parameters unchanged.

    `own_root`: write results into this server's results directory instead of the worker's.

    Raises:
        NotFoundError: no such model, or no such data set.
        NoRunError: no server is configured, or it does not answer, stays too busy, has no such deployment, or refuses.
    """
    if api is None:
        raise NoRunError(
            "This server starts no runs: no Prefect server is configured (--prefect-api or PREFECT_API_URL)."
        )
    config = await run_in_threadpool(_config, request, library)
    if own_root:
        config["cache_root"] = library.root.address
    flow, _, name = deployment.partition("/")
    deadline = time.monotonic() + PATIENCE
    async with _client(api) as client:
        found = await _ask(client, deadline, "GET", httpx.URL(path=f"/deployments/name/{flow}/{name}"), deployment)
        given = found.get("parameters") or {}
        parameters = given | {"config": (given.get("config") or {}) | config}  # the server merges only the top level
        body = {
            "parameters": parameters,
            "state": {"type": "SCHEDULED"},
            "tags": ["explorer"],
            "idempotency_key": str(uuid.uuid4()),  # a repeated request returns the same run
        }
        place = httpx.URL(path=f"/deployments/{found['id']}/create_flow_run")
        run = await _ask(client, deadline, "POST", place, deployment, body)
    return RunAnswer(
        model=request.model,
        dataset=request.dataset,
        flow_run_id=str(run["id"]),
        name=str(run.get("name", "")),
        deployment=deployment,
    )


def _config(request: RunRequest, library: Library) -> dict[str, Any]:
    """The part of the flow's configuration that the request determines.

    A results directory stands for the model of its newest set, and for the same data set also for that set's image and
    results directories.
    """
    dataset = _dataset(request.dataset)
    files = _model_files()
    file = files.get(request.model)
    if file is not None:
        return {"model": str(file), "dataset": dataset}
    folders = [model.name for model in library.models()]
    if request.model not in folders:
        known = ", ".join(dict.fromkeys([*(path.stem for path in files.values()), *folders])) or "none"
        raise NotFoundError(f"There is no model called {shown(request.model)}. Expected one of: {known}.")
    newest = library.newest(request.model)
    record = newest.record
    made_of = model_of(newest.folder, record) if record else None
    if record is None or made_of is None or not made_of.is_file():
        raise NotFoundError(
            f"The newest set of {request.model} does not record its model file, or the file is missing. "
            "Name a model by its file."
        )
    config = {"model": str(made_of), "dataset": dataset}
    if record.dataset == dataset:
        spec = data_of(newest.folder, record)
        config |= {"name": request.model, "data_root": spec.root} | ({"labels": spec.labels} if spec.labels else {})
    return config


def _model_files() -> dict[str, Path]:
    """ONNX_models/*.onnx by file name, with and without suffix."""
    root = roots.models_root()
    files = (
        sorted(path for path in root.iterdir() if path.suffix == ".onnx" and path.is_file()) if root.is_dir() else []
    )
    return {path.stem: path for path in files} | {path.name: path for path in files}


def _dataset(given: str) -> str:
    kind, colon, which = given.partition(":")
    known = {name.casefold(): name for name in known_names()}
    name = known.get(given.casefold(), f"{kind.casefold()}:{which}" if colon else given)
    try:
        find_source(name)
    except DatasetError as error:
        raise NotFoundError(
            f"There is no data set called {shown(given)}. Expected one of: {', '.join(known.values())}."
        ) from error
    return name


def _client(api: str) -> httpx.AsyncClient:
    try:
        return httpx.AsyncClient(base_url=api.rstrip("/"), timeout=TIMEOUT)
    except httpx.InvalidURL as error:
        raise NoRunError(
            f"The address of the Prefect server is invalid ({error}). Expected http://HOST:4200/api."
        ) from error


async def _ask(
    client: httpx.AsyncClient, deadline: float, method: str, url: httpx.URL, deployment: str, body: Any = None
) -> dict[str, Any]:
    """The answer; retries while the server is busy. Asynchronous, so that pages do not wait for Prefect."""
    wait = FIRST_WAIT
    while True:
        try:
            response = await client.request(method, url, json=body)
            busy = f"status {response.status_code}" if response.status_code in BUSY else ""
        except (
            httpx.TimeoutException,
            httpx.RemoteProtocolError,
        ) as error:  # the request may have been processed nevertheless
            busy = type(error).__name__
        except httpx.HTTPError as error:
            raise NoRunError(
                f"The Prefect server does not answer ({type(error).__name__}). Start it, then try again."
            ) from error
        if not busy:
            break
        if time.monotonic() + wait > deadline:
            known = "Nothing was started" if method == "GET" else "See Prefect's UI for whether the run was started"
            raise NoRunError(
                f"The Prefect server is too busy to start {deployment}: for {PATIENCE:g} s it answered only {busy}. "
                f"{known}; try again later."
            )
        await asyncio.sleep(wait)
        wait *= 2
    if response.status_code == 404:
        raise NoRunError(f"The Prefect server has no deployment {deployment}. Deploy it (deployments/README.md).")
    try:
        response.raise_for_status()
        answer = response.json()
    except (httpx.HTTPStatusError, ValueError) as error:
        raise NoRunError(
            f"The Prefect server refused to start {deployment}: status {response.status_code}. Its log says why."
        ) from error
    if not isinstance(answer, dict) or "id" not in answer:
        raise NoRunError(f"The response does not come from a Prefect API: expected the record of {deployment}.")
    return answer

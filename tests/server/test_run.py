"""POST /run against a Prefect server: a dashboard's button leaves a scheduled run with the right parameters."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from clusterpaths.server.contract import runs
from tests import patient
from tests.runs import PROJECT, SAMPLE_MODEL
from tests.server.contract_client import Dashboard
from tests.server.made import draw_faces, make_set, write_foreign
from tests.serving import serving


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """ONNX_models with the sample model, and activation_cache with a set of ours and one of another program."""
    home = tmp_path_factory.mktemp("home")
    (home / "ONNX_models").mkdir()
    shutil.copyfile(SAMPLE_MODEL, home / "ONNX_models" / SAMPLE_MODEL.name)
    model = home / "ONNX_models" / SAMPLE_MODEL.name
    images = draw_faces(home / "images", 12)
    make_set(home / "activation_cache", model=model, data_root=images, name="Faces", k=2, layers=("fc2",))
    write_foreign(home / "activation_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTERPATHS_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def prefect_api(prefect_server: None) -> str:
    """The address of a real Prefect server that knows the deployment celeba/full of prefect.yaml."""
    import runpy

    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    assert url
    served = runpy.run_path(str(PROJECT / "deployments" / "serve.py"))["deployments"]()
    next(one for one in served if (one.flow_name, one.name) == ("celeba", "full")).apply()
    return url


@pytest.fixture
def dashboard(home: Path, prefect_api: str) -> Iterator[Dashboard]:
    with serving(home / "activation_cache", prefect_api=prefect_api) as address, Dashboard(address) as client:
        yield client


def prefect_says(method: str, address: str, **more: Any) -> Any:
    """What Prefect's server answers, once it is not busy any more."""
    for _ in range(20):
        answer = patient.request(method, address, **more)
        if answer.status_code not in runs.BUSY:
            break
        time.sleep(1)
    return answer.raise_for_status().json()


def run_of(api: str, answer: httpx.Response) -> dict[str, Any]:
    """What Prefect's server says of the run that was answered."""
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["status"], said["deployment"]) == ("scheduled", "celeba/full")
    run: dict[str, Any] = prefect_says("GET", f"{api}/flow_runs/{said['flow_run_id']}")
    assert run["name"] == said["name"]
    assert run["state"]["type"] == "SCHEDULED"
    return run


@pytest.mark.server
def test_a_model_file_and_a_data_set_become_a_scheduled_run_with_their_names_looked_up(
    home: Path, prefect_api: str, dashboard: Dashboard
) -> None:
    for name in ("SampleFaces_CNN", "SampleFaces_CNN.onnx"):
        run = run_of(prefect_api, dashboard.run(name, "CelebA"))
        assert run["parameters"] == {
            "config": {
                "cache_format": "zarr",  # the deployment's own
                "model": str(home / "ONNX_models" / "SampleFaces_CNN.onnx"),
                "dataset": "celeba",
                "cache_root": str(home / "activation_cache"),
            }
        }


@pytest.mark.server
def test_a_results_folder_stands_for_its_newest_set_s_model_and_images(
    home: Path, prefect_api: str, dashboard: Dashboard
) -> None:
    config = run_of(prefect_api, dashboard.run("Faces", "celeba"))["parameters"]["config"]
    assert config == {
        "cache_format": "zarr",
        "model": str(home / "ONNX_models" / "SampleFaces_CNN.onnx"),
        "dataset": "celeba",
        "name": "Faces",
        "data_root": str(home / "images"),
        "cache_root": str(home / "activation_cache"),
    }
    other = run_of(prefect_api, dashboard.run("Faces", "torchvision:CIFAR10"))["parameters"]["config"]
    assert (other["dataset"], "name" in other, "data_root" in other) == ("torchvision:CIFAR10", False, False)


@pytest.mark.server
@pytest.mark.parametrize(
    ("model", "dataset", "reason"),
    [
        ("Nobody", "celeba", "no model called 'Nobody'. Expected one of: SampleFaces_CNN, Faces, Old"),
        ("../ONNX_models/SampleFaces_CNN", "celeba", "not found"),  # what looks like a path is not repeated
        ("", "celeba", "no model called"),
        ("Old", "celeba", "does not record its model file"),
        ("Faces", "mnist", "no data set called 'mnist'. Expected one of: celeba"),
        ("Faces", "/etc", "no data set called"),
        ("Faces", "torchvision:", "no data set called"),
    ],
)
def test_unknown_names_start_nothing(
    home: Path, prefect_api: str, dashboard: Dashboard, model: str, dataset: str, reason: str
) -> None:
    before = prefect_says("POST", f"{prefect_api}/flow_runs/count", json={})
    answer = dashboard.run(model, dataset)
    assert answer.status_code == 404
    assert reason in answer.json()["detail"]
    assert str(home) not in answer.text
    assert prefect_says("POST", f"{prefect_api}/flow_runs/count", json={}) == before


@pytest.mark.server
def test_a_deployment_that_the_server_does_not_have_is_503_with_its_name(home: Path, prefect_api: str) -> None:
    settings = {"prefect_api": f"{prefect_api}/", "deployment": "celeba/nightly"}
    with serving(home / "activation_cache", **settings) as address, Dashboard(address) as dashboard:
        answer = dashboard.run("Faces", "celeba")
    assert answer.status_code == 503
    assert "no deployment celeba/nightly" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("api", "reason"),
    [
        (None, "no Prefect server is configured"),
        ("http://127.0.0.1:9/api", "does not answer"),
        ("ftp://127.0.0.1/api", "does not answer"),
        ("http://127.0.0.1:port/api", "address of the Prefect server is invalid"),
    ],
)
def test_without_a_server_that_answers_it_is_503_with_the_reason(home: Path, api: str | None, reason: str) -> None:
    with serving(home / "activation_cache", prefect_api=api) as address, Dashboard(address) as dashboard:
        answer = dashboard.run("Faces", "celeba")
    assert answer.status_code == 503
    assert reason in answer.json()["detail"]


class BusyPrefect(BaseHTTPRequestHandler):
    """The two answers of Prefect's API that a run takes, with `statuses` one after the other, then 503 for good.

    Notes what was posted; status 0 is an answer that comes too late.
    """

    statuses: ClassVar[list[int]] = []
    posted: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        self._answer({"id": "d-1", "parameters": {}})

    def do_POST(self) -> None:
        self.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer({"id": "r-1", "name": "brave-run"})

    def _answer(self, body: dict[str, Any]) -> None:
        status = self.statuses.pop(0) if self.statuses else 503
        if not status:
            time.sleep(10 * LATE)
        content = json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):
            self.send_response(status or 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


LATE = 0.3  # seconds that one attempt may take in these tests


@pytest.fixture
def busy_prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(runs, "FIRST_WAIT", 0.01)
    BusyPrefect.posted.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyPrefect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_a_prefect_server_that_is_busy_for_a_moment_is_asked_again_for_one_run(home: Path, busy_prefect: str) -> None:
    with serving(home / "activation_cache", prefect_api=busy_prefect) as address, Dashboard(address) as dashboard:
        BusyPrefect.statuses[:] = [503, 503, 200, 503, 429, 502, 200]  # the deployment's record, then the run
        answer = dashboard.run("Faces", "celeba")
        assert answer.json()["flow_run_id"] == "r-1"
        BusyPrefect.statuses[:] = [200, 200]
        assert dashboard.run("Faces", "celeba").status_code == 200
    keys = [body["idempotency_key"] for body in BusyPrefect.posted]
    assert len(keys) == 5
    assert len(set(keys[:4])) == 1  # one run, however often it was asked for
    assert keys[4] != keys[0]  # and another one for the next request


def test_a_run_whose_answer_came_too_late_is_asked_for_again_and_is_the_same(
    home: Path, busy_prefect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "TIMEOUT", LATE)
    BusyPrefect.statuses[:] = [200, 0, 200]
    with serving(home / "activation_cache", prefect_api=busy_prefect) as address, Dashboard(address) as dashboard:
        assert dashboard.run("Faces", "celeba").json()["flow_run_id"] == "r-1"
    first, second = (body["idempotency_key"] for body in BusyPrefect.posted)
    assert first == second


@pytest.mark.parametrize(
    ("statuses", "known"),
    [([], "Nothing was started"), ([200], "See Prefect's UI for whether the run was started")],
)
def test_a_prefect_server_that_stays_busy_is_503_with_what_is_known(
    home: Path, busy_prefect: str, monkeypatch: pytest.MonkeyPatch, statuses: list[int], known: str
) -> None:
    monkeypatch.setattr(runs, "PATIENCE", 0.5)
    BusyPrefect.statuses[:] = statuses
    with serving(home / "activation_cache", prefect_api=busy_prefect) as address, Dashboard(address) as dashboard:
        answer = dashboard.run("Faces", "celeba")
    assert answer.status_code == 503
    assert "too busy to start celeba/full: for 0.5 s it answered only status 503" in answer.json()["detail"]
    assert known in answer.json()["detail"]
    assert bool(BusyPrefect.posted) == bool(statuses)


def test_nobody_else_waits_for_a_busy_prefect_server(home: Path, busy_prefect: str) -> None:
    BusyPrefect.statuses.clear()
    with (
        serving(home / "activation_cache", prefect_api=busy_prefect) as address,
        ThreadPoolExecutor(12) as pool,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(runs, "PATIENCE", 3600.0)
        asked = [
            pool.submit(patient.post, f"{address}/run", json={"model": "Faces", "dataset": "celeba"}) for _ in range(12)
        ]
        for _ in range(3):  # more runs are waited for than the server has threads
            assert patient.get(f"{address}/models").json() == {"models": ["Faces", "Old"]}
        assert not any(one.done() for one in asked)
        BusyPrefect.statuses[:] = [200] * 24
        assert [one.result().status_code for one in asked] == [200] * 12


def test_an_address_that_is_no_prefect_server_is_503(home: Path) -> None:
    root = home / "activation_cache"
    with serving(root) as other, serving(root, prefect_api=other) as address, Dashboard(address) as dashboard:
        answer = dashboard.run("Faces", "celeba")  # the other one answers, and is no Prefect server
    assert answer.status_code == 503


@pytest.mark.parametrize(
    "body", [{}, {"model": "Faces"}, {"model": 3, "dataset": "celeba"}, [], {"model": "a" * 300, "dataset": "celeba"}]
)
def test_a_request_without_names_is_422(home: Path, body: Any) -> None:
    with serving(home / "activation_cache") as address:
        assert patient.post(f"{address}/run", json=body).status_code == 422

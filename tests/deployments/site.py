"""A place where everything runs unattended: a server, what set_up.py makes there, a worker, a receiver of alarms.

Belongs here: starting and stopping, and reading back through the API. No expectation.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.storage import open_storage
from tests.deployments.conftest import server_environment
from tests.runs import PROJECT, SAMPLE_MODEL, run_pipeline

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PATIENCE, POLL = 180, 0.1  # seconds


def wait_until(holds: Callable[[], Any], what: Callable[[], object] = lambda: "") -> Any:
    """What `holds` returns as soon as that is something; on a machine busy with other things it may take long."""
    deadline = time.monotonic() + PATIENCE
    while not (value := holds()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain; {what()}"
        time.sleep(POLL)
    return value


@dataclass
class Site:
    """One server with deployments and a worker. Faces and models lie in `home`, results in home/activation_cache."""

    url: str
    home: Path
    received: list[dict[str, Any]] = field(default_factory=list)
    worker: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return server_environment(
            self.url,
            self.home / "prefect",
            CLUSTERPATHS_HOME=str(self.home),
            PREFECT_WORKER_QUERY_SECONDS="1",
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",
        )

    @property
    def caches(self) -> Path:
        return self.home / "activation_cache"

    @property
    def log(self) -> str:
        return (self.home / "worker.log").read_text(errors="replace")

    def draw(self, folder: str, count: int) -> Path:
        """Faces of one seed: more of them begin with the fewer. The directory that holds celeba/."""
        root = self.home / folder
        shutil.rmtree(root / "celeba", ignore_errors=True)
        write_faces(root, count, seed=21)
        return root

    def publish(self, **options: Any) -> Path:
        """The set of a run in this process, without Prefect, among the site's results."""
        model = self.home / "ONNX_models" / SAMPLE_MODEL.name
        given = {"model": model, "cache_root": self.caches, "evaluate": False, "check_preprocessing": False} | options
        return run_pipeline(RunConfig(**given)).folder

    def command(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run to its end, with nobody to answer a question."""
        return subprocess.run(
            words,
            env=self.environment,
            cwd=self.home,  # not the project: it works from any folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def prefect(self, *words: str) -> str:
        done = self.command(sys.executable, "-m", "prefect", *words)
        assert done.returncode == 0, f"{done.stdout}\n{self.log}"
        return done.stdout

    def set_up(self, webhook: str) -> str:
        script = str(PROJECT / "deployments" / "set_up.py")
        done = self.command(sys.executable, script, "--webhook", webhook)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "clusterpaths", "--type", "process"]
        with (self.home / "worker.log").open("ab") as file:
            self.worker = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.home,
                start_new_session=True,
            )

    def kill_worker(self) -> None:
        """SIGKILL for the worker and the runs that it started, as when a machine goes down."""
        assert self.worker is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.worker.pid)
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.worker.wait(10)

    # --- the API -----------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, **body: Any) -> Any:
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """As Prefect's client does it: a server whose SQLite file is locked answers 503, and is asked again."""

        def answer() -> httpx.Response | None:
            response = httpx.request(method, self.url + path, json=body, timeout=20)
            return None if response.status_code == 503 else response.raise_for_status()

        response: httpx.Response = wait_until(answer)
        return response.json()

    def patch(self, path: str, **body: Any) -> None:
        httpx.patch(self.url + path, json=body, timeout=20).raise_for_status()

    def delete(self, path: str) -> None:
        httpx.delete(self.url + path, timeout=20).raise_for_status()

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/deployments/name/{name}")
        return found

    def start(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run; its id."""
        path = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        return str(self.post(path, parameters=parameters, state={"type": "SCHEDULED"})["id"])

    def set_state(self, id_: str, type_: str, name: str) -> None:
        """What Prefect's own commands ask for: CANCELLING, or SCHEDULED as AwaitingRetry."""
        answer = self.post(f"/flow_runs/{id_}/set_state", state={"type": type_, "name": name})
        assert answer["status"] == "ACCEPT", answer

    def run(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/flow_runs/{id_}")
        return found

    def end_of(self, id_: str) -> dict[str, Any]:
        """The run, once it has ended, however it did."""

        def ended() -> dict[str, Any] | None:
            run = self.run(id_)
            return run if run["state"]["type"] in FINAL else None

        found: dict[str, Any] = wait_until(ended, lambda: f"{self.run(id_)['state']}\n{self.log}")
        return found

    def complete(self, id_: str) -> dict[str, Any]:
        run = self.end_of(id_)
        assert run["state"]["type"] == "COMPLETED", f"{run['state']}\n{self.log}"
        return run

    def runs_of(self, deployment: str, **more: Any) -> list[dict[str, Any]]:
        """Runs of a deployment, in the order of their times."""
        chosen = {"deployment_id": {"any_": [self.deployment(deployment)["id"]]}, **more}
        found: list[dict[str, Any]] = self.post("/flow_runs/filter", flow_runs=chosen, sort="EXPECTED_START_TIME_ASC")
        return found

    def artifacts(self, id_: str) -> dict[tuple[str, str], dict[str, Any]]:
        """(key, type) -> the run's newest artifact of that kind."""
        found = self.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [id_]}}, sort="UPDATED_DESC")
        return {(one["key"], one["type"]): one for one in reversed(found)}

    def logs(self, id_: str, expected: str = "") -> list[str]:
        """Messages of the run and its tasks, once the expected one is among them."""

        def read() -> list[str]:
            found = self.post("/logs/filter", logs={"flow_run_id": {"any_": [id_]}}, sort="TIMESTAMP_ASC", limit=200)
            messages = [line["message"] for line in found]
            return messages if any(expected in message for message in messages) else []

        lines: list[str] = wait_until(read, lambda: f"no {expected!r} in the run's logs\n{self.log}")
        return lines

    def alarms(self, holds: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """What the webhook got of that kind, once it got something."""
        found: list[dict[str, Any]] = wait_until(
            lambda: [one for one in self.received if holds(one)], lambda: self.received
        )
        return found


def made_shards(cache: Path) -> list[int]:
    manifest = read_manifest(open_storage(cache))
    return [shard.index for shard in manifest.shards if shard.rows is not None] if manifest else []


@contextlib.contextmanager
def receiver(received: list[dict[str, Any]]) -> Iterator[str]:
    """A local address that takes JSON by POST while inside."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            try:
                received.append(json.loads(body))
            except ValueError:
                received.append({"not JSON": body})
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alarms"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def furnished(url: str, home: Path) -> Iterator[Site]:
    """The site at this server: home with the sample model and 40 faces, deployments, alarms, one worker."""
    site = Site(url, home)
    (home / "ONNX_models").mkdir(parents=True)
    shutil.copyfile(SAMPLE_MODEL, home / "ONNX_models" / SAMPLE_MODEL.name)
    site.draw("data", 40)
    with receiver(site.received) as address:
        site.set_up(address)
        site.start_worker()
        try:
            yield site
        finally:
            site.kill_worker()

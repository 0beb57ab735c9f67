"""MLflow's own server for tests: in a process of its own, on SQLite, with its artifacts in a directory.

Belongs here: starting and stopping. No expectation.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.deployments.conftest import end_group

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # needs huey, and no model is judged by another here
    "PYTHONWARNINGS": "ignore",
}


@contextlib.contextmanager
def running_mlflow(folder: Path, port: int, timeout: float = 120.0) -> Iterator[str]:
    """The address of a server that runs while inside; what it stores stays in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log, url = folder / "server.log", f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | QUIET, cwd=folder, start_new_session=True
        )
    try:
        deadline = time.monotonic() + timeout
        while not _is_healthy(url):
            said = log.read_text(errors="replace")
            assert process.poll() is None, f"the server ended at once: {said}"
            assert time.monotonic() < deadline, f"the server did not start in {timeout:.0f} s: {said}"
            time.sleep(0.2)
        yield url
    finally:
        end_group(process)


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False

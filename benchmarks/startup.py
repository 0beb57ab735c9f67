"""The cost of a run before its first image: imports, Prefect's server, the first task, and a complete `--subset 5`.

Every figure is of separate processes, repeated; the first repetition, which creates Prefect's database and Python's
bytecode files, is reported separately. "Server up" is a server started by this benchmark on a free port.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import PROJECT, Material, environment_of, flow_command, median, watch

SUBSET = 5
START_LIMIT = 120  # seconds that the server may take
FIRST_TASK = """
import sys
import time

from prefect import flow, task


@task
def first() -> float:
    return time.time()


@flow
def one_task() -> float:
    return first()


open(sys.argv[1], "w").write(repr(one_task()))
"""
LIBRARY = """
import sys
from pathlib import Path

from clusterpaths.pipeline import run
from clusterpaths.config import RunConfig

model, data, out = map(Path, sys.argv[1:4])
run(RunConfig(model=model, data_root=data, cache_root=out, name="R", subset={subset}, evaluate=False))
"""


def measure(material: Material, repeats: int) -> dict[str, Any]:
    """Seconds and CPU seconds (with children) of each way, one value per repetition; the very first is separate.

    It is used alone if `repeats` is 0. CPU seconds of the server and the first task are not measured.
    """
    environment = {key: value for key, value in environment_of(material.work).items() if key != "PREFECT_API_URL"}
    root, out, errors = material.images(max(SUBSET, 20)), material.work / "out", material.work / "errors.txt"
    subset = flow_command(material, root, out, "npy", "--subset", str(SUBSET))
    python = [sys.executable, "-c"]
    library = [*python, LIBRARY.format(subset=SUBSET), str(material.model), str(root), str(out)]

    def seconds(command: list[str], **more: str) -> dict[str, float]:
        result = watch(command, environment | more, errors)
        shutil.rmtree(out, ignore_errors=True)
        return result

    def of_first_task(url: str) -> dict[str, float]:
        file, started = material.work / "first.txt", time.time()
        watch([*python, FIRST_TASK, str(file)], environment | {"PREFECT_API_URL": url}, errors)
        return {"seconds": float(file.read_text()) - started}

    def turn() -> dict[str, dict[str, float]]:
        took = {
            "Python alone": seconds([*python, "pass"]),
            "import of the library (clusterpaths.pipeline)": seconds([*python, "import clusterpaths.pipeline"]),
            "import of the flow and its stages (flows.celeba, flows.pipeline)": seconds(
                [*python, "import flows.celeba, flows.pipeline"]
            ),
            f"--subset {SUBSET}, temporary server": seconds(subset),
            f"--subset {SUBSET}, temporary server, no evaluation and no check": seconds([*subset, *LESS]),
            f"the first {SUBSET} by the library alone": seconds(library),
        }
        with server(environment, material.work) as (url, started):
            took["server until it answers"] = {"seconds": started}
            took["first task, server up, from the start of Python"] = of_first_task(url)
            took[f"--subset {SUBSET}, server up"] = seconds(subset, PREFECT_API_URL=url)
        return took

    first = turn()
    turns = [turn() for _ in range(repeats)] or [first]
    return {
        "first": {way: result["seconds"] for way, result in first.items()},
        "seconds": {way: [each[way]["seconds"] for each in turns] for way in first},
        "cpu_seconds": {
            way: [each[way]["cpu_seconds"] for each in turns]
            for way, result in first.items()
            if "cpu_seconds" in result
        },
    }


LESS = ("--no-evaluate", "--no-check-preprocessing")


@contextmanager
def server(environment: dict[str, str], work: Path) -> Iterator[tuple[str, float]]:
    """A Prefect server on a free port: its address, and the seconds until it answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, started = f"http://127.0.0.1:{port}/api", time.perf_counter()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (work / "server.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment | {"PREFECT_API_URL": url},
            stdout=log,
            stderr=log,
            cwd=PROJECT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(f"{url}/health"), process, work / "server.txt")
        yield url, time.perf_counter() - started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answers(url: str) -> bool:
    """Whether the health check succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - of a server started here
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False  # not yet


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll every 50 ms; the benchmark ends if the process ends first or takes too long."""
    deadline = time.monotonic() + START_LIMIT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"error: the Prefect server did not start:\n{log.read_text()}")
        time.sleep(0.05)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    columns = ["start-up", "seconds, median", "least to most", "processor seconds", "the very first time"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for way, seconds in result["seconds"].items():
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        worked = result["cpu_seconds"].get(way)
        cpu = f"{median(worked):.1f}" if worked else "–"
        lines.append(f"| {way} | {median(seconds):.1f} | {spread} | {cpu} | {result['first'][way]:.1f} |")
    return "\n".join(lines)

"""What a run costs before its first image: imports, Prefect's server, the first task, and `--subset 5` as a whole.

Every figure is of processes of their own, in turns; the first turn, which makes Prefect's database and the compiled
files of Python, is told apart. "Server up" is a server of this benchmark's own on a free port.
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
    """Seconds and processor seconds (with children) of each way, a value a turn; the very first turn is told apart.

    It alone counts where `repeats` is 0. Processor seconds are not measured of the server and the first task.
    """
    environment = {key: value for key, value in environment_of(material.work).items() if key != "PREFECT_API_URL"}
    root, out, errors = material.images(max(SUBSET, 20)), material.work / "out", material.work / "errors.txt"
    subset = flow_command(material, root, out, "npy", "--subset", str(SUBSET))
    python = [sys.executable, "-c"]
    library = [*python, LIBRARY.format(subset=SUBSET), str(material.model), str(root), str(out)]

    def seconds(command: list[str], **more: str) -> dict[str, float]:
        told = watch(command, environment | more, errors)
        shutil.rmtree(out, ignore_errors=True)
        return told

    def of_first_task(url: str) -> dict[str, float]:
        told, started = material.work / "first.txt", time.time()
        watch([*python, FIRST_TASK, str(told)], environment | {"PREFECT_API_URL": url}, errors)
        return {"seconds": float(told.read_text()) - started}

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
        "first": {way: told["seconds"] for way, told in first.items()},
        "seconds": {way: [each[way]["seconds"] for each in turns] for way in first},
        "cpu_seconds": {
            way: [each[way]["cpu_seconds"] for each in turns] for way, told in first.items() if "cpu_seconds" in told
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
    """Whether something there says that it is well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False  # not yet


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask every 50 ms; ends the benchmark where the process ends first or takes too long."""
    deadline = time.monotonic() + START_LIMIT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"error: the Prefect server did not start:\n{log.read_text()}")
        time.sleep(0.05)


def table(result: dict[str, Any]) -> str:
    """As Markdown."""
    columns = ["start-up", "seconds, median", "least to most", "processor seconds", "the very first time"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for way, seconds in result["seconds"].items():
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        worked = result["cpu_seconds"].get(way)
        cpu = f"{median(worked):.1f}" if worked else "–"
        lines.append(f"| {way} | {median(seconds):.1f} | {spread} | {cpu} | {result['first'][way]:.1f} |")
    return "\n".join(lines)

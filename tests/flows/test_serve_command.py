"""The command serve as a person runs it: in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests import patient
from tests.flows.test_command_line import assert_one_paragraph
from tests.runs import PROJECT

TOKEN = "a token of some length"
NEVER = ("prefect", "torch", "torchvision", "dask")
LATER = ("onnx", "onnxruntime", "sklearn", "scipy", "zarr")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CLUSTERPATHS_TOKEN", "PREFECT_API_URL")}
    return kept | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "200"} | more


def command(*options: str) -> list[str]:
    return [sys.executable, "-c", "from flows.cli import main; main()", "serve", *options]


@contextmanager
def started(*options: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, its address, and what it said until then."""
    process = subprocess.Popen(
        command("--port", "0", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
        cwd=PROJECT,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"http://\S+:\d+", first)
        assert found, first + (process.stderr.read() if process.stderr else "")
        yield process, found[0], first
    finally:
        process.kill()
        process.communicate()


def refused(*options: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options), capture_output=True, text=True, timeout=60, env=environment(**more), cwd=PROJECT, check=False
    )


def healthy(address: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            assert patient.get(f"{address}/health").json() == {"status": "ok"}
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_it_says_where_to_look_and_what_to_do_first_and_ends_quietly(tmp_path: Path) -> None:
    with started("--cache-root", str(tmp_path)) as (process, address, first):
        assert "in a browser" in first
        assert address.startswith("http://127.0.0.1:")
        assert process.stdout is not None
        rest = process.stdout.readline() + process.stdout.readline()
        assert "There are no sets in" in rest
        assert "clusterpaths sample" in rest
        healthy(address)
        assert patient.get(f"{address}/models").json() == {"models": []}
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=15)
        assert process.returncode == 0
        assert "Traceback" not in errors
        assert re.search(r"127\.0\.0\.1 GET /models 200 [\d.]+ ms \d+ B$", errors, flags=re.MULTILINE)


def test_sets_that_are_there_are_listed_and_new_ones_seen(tmp_path: Path) -> None:
    from tests.server.made import write_foreign

    write_foreign(tmp_path, "Old")
    with started("--cache-root", str(tmp_path)) as (process, address, _):
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "Old: set_01"
        healthy(address)
        write_foreign(tmp_path, "New")
        time.sleep(1.1)  # how long a list of names is taken for true
        assert patient.get(f"{address}/models").json() == {"models": ["New", "Old"]}


def imported(names: tuple[str, ...]) -> list[str]:
    """Those of these modules that are there once the application is."""
    code = (
        "import clusterpaths.commands.serve, sys; from clusterpaths.server.app import create_app; "
        "from clusterpaths.server.settings import ServeConfig; create_app(ServeConfig()); "
        f"print(' '.join(name for name in {names!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    return done.stdout.split()


def test_it_starts_without_prefect_and_torch() -> None:
    assert imported(NEVER) == []


def test_what_takes_long_to_import_waits_until_it_is_needed() -> None:
    assert imported(LATER) == []


def test_a_token_on_the_command_line_is_warned_of(tmp_path: Path) -> None:
    done = refused("--token", TOKEN, "--port", "70000", "--cache-root", str(tmp_path))
    assert "CLUSTERPATHS_TOKEN" in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_not_let_in_by_accident(host: str, tmp_path: Path) -> None:
    done = refused("--host", host, "--cache-root", str(tmp_path))
    assert done.returncode == 2
    assert_one_paragraph(done.stderr, f"--host {host} lets other machines read", "CLUSTERPATHS_TOKEN", "--insecure")


def test_a_token_in_the_environment_lets_them_in_by_the_token_alone(tmp_path: Path) -> None:
    with started("--host", "0.0.0.0", "--cache-root", str(tmp_path), CLUSTERPATHS_TOKEN=TOKEN) as (_, address, first):
        assert TOKEN not in first
        healthy(address)
        assert patient.get(f"{address}/models").status_code == 401
        assert patient.get(f"{address}/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_taken_port_is_one_paragraph(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = refused("--port", str(port), "--cache-root", str(tmp_path))
    assert done.returncode == 2
    assert_one_paragraph(done.stderr, f"Port {port} of 127.0.0.1 is in use", "--port")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "70000"], "--port"),
        (["--host", "no.such.host.invalid", "--insecure"], "no.such.host.invalid"),
        (["--origin", "*"], "no wildcard"),
        (["--token", "short"], "at least 16"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_each_mistake_is_one_paragraph(options: list[str], words: str, tmp_path: Path) -> None:
    done = refused(*options, "--cache-root", str(tmp_path))
    assert done.returncode == 2
    assert_one_paragraph(done.stderr, words)


@pytest.mark.parametrize("module", ["uvicorn", "python_multipart", "itsdangerous", "plotly", "prometheus_client"])
def test_a_missing_extra_is_told_with_the_command(module: str) -> None:
    code = f"""
import importlib.util, sys
from flows.cli import main
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {module!r} else real(name, *rest)
main(["serve", "--port", "0"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == 2
    assert_one_paragraph(done.stderr, module.replace("_", "-"), f'pip install -e "{PROJECT}[serve]"')

"""Starts Prefect's temporary server early, in its own process, while this one still imports.

Belongs here: starting that process, and handing it to Prefect, which then uses and stops it. By default Prefect starts
the server when the flow is called and waits for it, about 4 s. The server's own output is not shown: a server that is stopped
while it works prints tracebacks of its database, after whatever the run has reported.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO

import httpx
import prefect
from prefect.logging import get_logger
from prefect.logging.configuration import ensure_logging_setup
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
)

from clusterpaths.errors import ConfigError
from flows.environment import require_server

_PORTS = (8000, 9000)  # as Prefect's own
# As `python -m uvicorn`, but with fewer garbage collections: at Python's default threshold they take a fifth of the start.
# It ends with the process that started it, also where that is killed: its standard input, to which nobody writes, ends then.
_UVICORN = """
import gc, os, signal, threading, time

def end_with_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=end_with_parent, daemon=True).start()
gc.set_threshold(50_000)
from uvicorn.main import main
main()
"""


@dataclass(frozen=True)
class Begun:
    """A server process that may not answer yet."""

    process: subprocess.Popen[bytes]
    port: int
    output: IO[bytes] = field(default_factory=tempfile.TemporaryFile)


def begin_server() -> Begun | None:
    """Start the process of a temporary server; None if a server is configured, or a temporary one is not allowed.

    Raises:
        ConfigError: the configured server does not answer.
    """
    if url := PREFECT_API_URL.value():
        require_server(url)
        return None
    if not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        return None
    return _begin()


def _begin() -> Begun:
    ensure_logging_setup()
    port = _free_port()
    get_logger().info(
        "Starting temporary server on http://127.0.0.1:%d\nSee https://docs.prefect.io/v3/concepts/server#how-to-guides "
        "for more information on running a dedicated Prefect server.",
        port,
    )
    app = ["--app-dir", str(prefect.__module_path__.parent), "--factory", "prefect.server.api.server:create_app"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    marks = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    output = tempfile.TemporaryFile()  # noqa: SIM115 - it is the process's as long as that runs
    process = subprocess.Popen(
        [sys.executable, "-c", _UVICORN, *app, *options], env={**os.environ, **marks, **settings},
        stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
    )  # fmt: skip
    atexit.register(process.terminate)  # if this process ends before Prefect has the server
    return Begun(process, port, output)


def hand_over(begun: Begun) -> None:
    """Make it the temporary server of Prefect, once it answers.

    If it ended, most often as another process took its port, one more is started.

    Raises:
        ConfigError: it does not answer in time, or the second one ended too.
    """
    from prefect.server.api.server import SubprocessASGIServer  # takes 2 s, while the server starts

    if not _answers(begun) and begun.process.poll() is not None:
        begun.output.close()
        begun = _begin()
    if not _answers(begun):  # a slow one is waited for a second time
        begun.process.kill()
        begun.process.wait()
        raise ConfigError(_not_started(begun))
    begun.output.close()  # the process has it too
    server = SubprocessASGIServer()  # the one that every client of this process asks for
    server.port, server.server_process, server.running = begun.port, begun.process, True
    atexit.unregister(begun.process.terminate)
    atexit.register(server.stop)


def _not_started(begun: Begun) -> str:
    with begun.output as output:
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    return (
        "Prefect's temporary server did not start"
        + (f"; its last words are: {lines[-1].strip()[:300]} " if lines else ". ")
        + "Run again when the machine is less busy, with a longer PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start a "
        "server with `prefect server start` and set PREFECT_API_URL."
    )


def _answers(begun: Begun) -> bool:
    deadline = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    with httpx.Client() as client:
        while begun.process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(f"http://127.0.0.1:{begun.port}/api/health").status_code == httpx.codes.OK:
                    return begun.process.poll() is None  # not another's server on that port
            except httpx.TransportError:
                pass  # not yet
            time.sleep(0.05)
    return False


def _free_port() -> int:
    """A free port in Prefect's range, else any.

    The search starts at a number derived from the process id, so that concurrent runs take different ports.
    """
    first, end = _PORTS
    span = end - first
    for number in [*(first + (os.getpid() + step) % span for step in range(span)), 0]:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(
        "No port of 127.0.0.1 is free; a temporary server needs one. Set PREFECT_API_URL, or stop the processes that use them."
    )

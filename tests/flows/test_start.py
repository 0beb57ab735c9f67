"""What a run does before its first stage: little is imported, and a temporary server starts while the rest is."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)

from flows.shell import _run
from flows.temporary_server import Begun, begin_server, hand_over

HEAVY = ("onnx", "onnxruntime", "pyarrow", "scipy", "sklearn", "torch", "zarr", "prefect.server.api.server")
HELP = """
import sys
from flows.{flow} import main
try:
    main({argv})
except SystemExit as exit_:
    assert not exit_.code, exit_.code
print("heavy:", sorted(set({heavy}) & set(sys.modules)))
"""
SERVED = """
import sys
from flows.temporary_server import begin_server, hand_over
begun = begin_server()
hand_over(begun)
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    client.hello().raise_for_status()
    print("same port:", str(client.api_url).startswith(f"http://127.0.0.1:{begun.port}/"))
print("pid:", begun.process.pid)
"""


def in_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("flow", ["celeba", "images"])
def test_help_imports_nothing_that_only_a_run_needs(flow: str) -> None:
    shown = in_python(HELP.format(flow=flow, argv=["--help"], heavy=HEAVY))
    assert "--subset" in shown
    assert "heavy: []" in shown


def test_prefect_takes_the_server_that_was_begun_and_stops_it(tmp_path: Path) -> None:
    home = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    code = f"import os; os.environ.pop('PREFECT_API_URL', None)\n{SERVED}"
    shown = in_python(
        code, **home, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120", PREFECT_LOGGING_LEVEL="INFO"
    )
    assert "same port: True" in shown
    assert shown.count("Starting temporary server") == 1
    assert shown.count("Stopping temporary server") == 1
    pid = int(shown.split("pid: ")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_SERVER_EPHEMERAL_ENABLED: True},
        {PREFECT_API_URL: None, PREFECT_SERVER_EPHEMERAL_ENABLED: False},
    ],
    ids=["a server is configured", "a temporary one is not allowed"],
)
def test_no_server_is_begun_where(settings: dict[object, object]) -> None:
    with temporary_settings(settings):
        assert begin_server() is None


def test_a_server_that_ends_at_once_is_left_to_prefect() -> None:
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()  # the one of this process, which other tests may have started
    before = (server.running, server.server_process)
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    hand_over(Begun(ended, 1))
    assert ended.returncode == 3
    assert (server.running, server.server_process) == before


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("users", "expected"), [({}, None), ({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}, 60)])
def test_a_run_from_a_shell_sends_no_heartbeats_unless_the_user_wants_them(
    users: dict[object, object], expected: int | None
) -> None:
    seen: list[int | None] = []
    with temporary_settings(users):
        _run(lambda: seen.append(PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()), {}, None)
    assert seen == [expected]
    assert gc.isenabled()

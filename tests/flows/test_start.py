"""What a run does before its first stage: little is imported, and a temporary server starts while the rest is."""

from __future__ import annotations

import gc
import http.server
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)

from clusterpaths.errors import ConfigError
from flows.shell import run_flow
from flows.temporary_server import Begun, begin_server, hand_over

HEAVY = ("prefect", "onnx", "onnxruntime", "pyarrow", "scipy", "sklearn", "torch", "zarr", "prefect.server.api.server")
HELP = """
import sys
from flows.cli import main
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

BEGUN = """
import sys
from flows.temporary_server import begin_server
begun = begin_server()
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
    shown = in_python(HELP.format(argv=[flow, "--help"], heavy=HEAVY))
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


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("ready", [True, False], ids=["ready", "still starting"])
def test_the_temporary_server_ends_with_the_process_that_started_it(
    tmp_path: Path, how: signal.Signals, ready: bool
) -> None:
    home = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | home
    code = f"{SERVED if ready else BEGUN}\nsys.stdout.flush()\nimport time\ntime.sleep(300)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        env=environment | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pid = next(int(line.split()[1]) for line in process.stdout if line.startswith("pid: "))
        process.send_signal(how)
        assert process.wait(30) == -how
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_no_server_is_begun_where_a_temporary_one_is_not_allowed() -> None:
    with temporary_settings({PREFECT_API_URL: None, PREFECT_SERVER_EPHEMERAL_ENABLED: False}):
        assert begin_server() is None


def test_no_server_is_begun_where_one_is_configured_and_answers() -> None:
    with (
        http.server.HTTPServer(
            ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
        ) as configured,  # answers 501: enough
        temporary_settings(
            {
                PREFECT_API_URL: f"http://127.0.0.1:{configured.server_port}/api",
                PREFECT_SERVER_EPHEMERAL_ENABLED: True,
            }
        ),
    ):
        threading.Thread(target=configured.handle_request, daemon=True).start()
        assert begin_server() is None


def test_a_configured_server_that_is_down_is_named() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}),
        pytest.raises(ConfigError, match=r"127\.0\.0\.1:1/api does not answer \(Connection refused\)"),
    ):
        begin_server()


def test_a_server_that_ends_at_once_is_started_once_more(tmp_path: Path) -> None:
    ended = (
        "import subprocess\nfrom flows.temporary_server import Begun\nbegun.process.kill()\n"
        "hand_over(Begun(subprocess.Popen([sys.executable, '-c', 'raise SystemExit(3)']), 1))"
    )
    code = SERVED.replace("hand_over(begun)", ended).partition("    print(")[0]
    home = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    shown = in_python(
        f"import os; os.environ.pop('PREFECT_API_URL', None)\n{code}",
        **home, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120", PREFECT_LOGGING_LEVEL="INFO",
    )  # fmt: skip
    assert shown.count("Starting temporary server") == 2
    assert shown.count("Stopping temporary server") == 1


def test_a_server_that_ends_twice_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> Begun:
        output = tempfile.TemporaryFile()  # noqa: SIM115 - as of `_begin`
        code = "import sys; sys.exit('no room for a database')"
        return Begun(subprocess.Popen([sys.executable, "-c", code], stdout=output, stderr=output), 1, output)

    monkeypatch.setattr("flows.temporary_server._begin", ended)
    with pytest.raises(ConfigError, match=r"did not start; its last words are: no room for a database"):
        hand_over(ended())


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("users", "expected"), [({}, None), ({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}, 60)])
def test_a_run_from_a_shell_sends_no_heartbeats_unless_the_user_wants_them(
    users: dict[object, object], expected: int | None
) -> None:
    seen: list[int | None] = []
    with temporary_settings(users):
        run_flow(lambda: lambda: seen.append(PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()), {})
    assert seen == [expected]
    assert gc.isenabled()

"""Processes of the torture test: commands that are started, signalled and waited for, and what they leave running.

Belongs here: the shim's compilation, the zygote, cold processes. What is started and what is expected is elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from tests.runs import PROJECT

SHIM = Path(__file__).with_name("shim.c")
MARK = "TORTURE_OF"  # environment variable by which processes that an action started are found


def compile_shim(folder: Path) -> Path | None:
    """The shim as a library; None where there is no C compiler or no glibc."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    target = folder / "shim.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", target, SHIM, "-ldl"], capture_output=True, check=False
    )
    return target if done.returncode == 0 else None


@dataclass(frozen=True)
class Command:
    """A command of the library or a flow.

    Attributes:
        argv: after `clusterpaths`.
        shim: rules of shim.c.
        memory: bytes that its address space may grow by; 0: any.
        cold: whether it starts as from a shell, importing everything under the faults.
    """

    argv: tuple[str, ...]
    shim: str = ""
    memory: int = 0
    cold: bool = False


class Process:
    """A command that runs.

    Attributes:
        pid: it leads a session of that number.
        output: what it printed.
        acted: a file that is there once a rule of the shim acted on it.
        timers: that send it signals.
    """

    def __init__(self, output: Path, mark: str) -> None:
        self.output, self.mark, self.pid = output, mark, 0
        self.acted, self.timers = Path(), list[threading.Timer]()
        self._begun, self._ended = threading.Event(), threading.Event()
        self._status = 0

    def begin(self, pid: int) -> None:
        self.pid = pid
        self._begun.set()

    def end(self, status: int) -> None:
        self._status = status
        self._ended.set()

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative for a signal; None where it has not ended by then."""
        return os.waitstatus_to_exitcode(self._status) if self._ended.wait(seconds) else None

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to it, or to its whole group, if it still runs."""
        self._begun.wait(60)
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                (os.killpg if group else os.kill)(self.pid, number)

    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""


class Launcher:
    """Starts commands; inside its context."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.shim = folder, compile_shim(folder)
        self._running: dict[int, Process] = {}
        self._number = 0
        self._lock = threading.Lock()
        self._zygote: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Launcher:
        environment = self.environment()
        if self.shim:
            environment["LD_PRELOAD"] = str(self.shim)
        with (self._folder / "zygote.txt").open("wb") as log:
            self._zygote = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.zygote"], cwd=PROJECT, env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        ready: Queue[bool] = Queue()
        self._listening = threading.Thread(target=self._listen, args=(ready,), daemon=True)
        self._listening.start()
        if not ready.get(timeout=180):
            raise RuntimeError((self._folder / "zygote.txt").read_text())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(30)
        self._listening.join(30)
        self._zygote.stdout.close()

    def environment(self) -> dict[str, str]:
        """Of every command: no Prefect server, and no storage but what a command names."""
        left_out = ("PREFECT_", "AWS_", "CLUSTERPATHS_", "LD_PRELOAD")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        return kept | {
            "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_HOME": str(self._folder / "prefect"),
        }  # fmt: skip

    def start(self, command: Command, folder: Path, **environment: str) -> Process:
        """Start a command in a directory."""
        with self._lock:
            self._number += 1
            number = self._number
        output = folder / f"output-{number}.txt"
        process = Process(output, f"{os.getpid()}-{number}")
        environment |= {MARK: process.mark}
        if command.cold:
            self._start_cold(command, folder, process, environment)
            return process
        self._running[number] = process
        job: dict[str, Any] = {
            "id": number, "argv": command.argv, "output": str(output), "cwd": str(folder), "environment": environment,
            "memory": command.memory, "shim": command.shim if self.shim else "",
        }  # fmt: skip
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        with self._lock:
            self._zygote.stdin.write(json.dumps(job).encode() + b"\n")
            self._zygote.stdin.flush()
        return process

    def _start_cold(self, command: Command, folder: Path, process: Process, environment: dict[str, str]) -> None:
        environment = self.environment() | environment
        if self.shim and command.shim:
            environment |= {"LD_PRELOAD": str(self.shim), "TORTURE_SHIM": command.shim}
        code = "from clusterpaths.commands.main import main; main()"
        with process.output.open("wb") as file:
            started = subprocess.Popen(
                [sys.executable, "-c", code, *command.argv], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        process.begin(started.pid)

        def wait() -> None:
            code = started.wait()
            process.end(-code if code < 0 else code << 8)

        threading.Thread(target=wait, daemon=True).start()

    def _listen(self, ready: Queue[bool]) -> None:
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            said = json.loads(line)
            if said["id"] == -1:
                ready.put(item=True)
            elif "pid" in said:
                self._running[said["id"]].begin(said["pid"])
            else:
                self._running.pop(said["id"]).end(said["status"])
        ready.put(item=False)


def left_running(process: Process, patience: float = 15) -> list[str]:
    """Processes that a command has started and left behind, as "PID: command line", once they had some seconds to end."""
    deadline = time.monotonic() + patience
    while found := _of(process):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.05)
    return []


def _of(process: Process) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            marked = f"{MARK}={process.mark}\0".encode() in (entry / "environ").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if state != "Z" and (int(session) == process.pid or marked):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"{entry.name}: {words[:600]}")
    return found


def kill_servers(process: Process, patience: float = 60) -> None:
    """SIGKILL to the temporary Prefect server that a flow has started, or will have started by then."""
    deadline = time.monotonic() + patience
    while process.running and time.monotonic() < deadline:
        for line in _of(process):
            if "prefect.server.api.server" in line:
                process.acted.touch()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(line.partition(":")[0]), signal.SIGKILL)
                return
        time.sleep(0.1)


def end_all(process: Process) -> None:
    """SIGKILL to whatever is left of a command."""
    for line in _of(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.partition(":")[0]), signal.SIGKILL)

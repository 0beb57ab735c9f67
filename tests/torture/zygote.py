"""A process that has imported the library and forks one process per command: `python -m tests.torture.zygote`.

Belongs here: starting processes. A command then takes less than a second instead of four, most of which are imports. Each has
its own session, working directory, output, and faults (shim.c, which this process runs under).

Reads jobs as JSON lines from its input; writes {"id", "pid"} when one has begun and {"id", "status"} when it has ended, as
`os.waitpid` gives it.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import threading
import traceback
from typing import Any

IMPORTED = (
    "clusterpaths.commands.run", "clusterpaths.commands.serve", "clusterpaths.commands.export", "clusterpaths.commands.explain",
    "clusterpaths.commands.find", "clusterpaths.commands.names", "clusterpaths.pipeline", "clusterpaths.running.view",
    "clusterpaths.server.app", "clusterpaths.export.path_model", "clusterpaths.explanation.explain", "clusterpaths.report.page",
    "clusterpaths.comparison.compare", "clusterpaths.find.find", "clusterpaths.evaluation.evaluate", "flows.cli", "onnxruntime",
    "sklearn.cluster", "zarr.storage", "zarrs", "numcodecs", "pyarrow.parquet", "uvicorn",
)  # fmt: skip


def next_job() -> dict[str, Any] | None:
    """Fork for every job that is read; returns the job in the forked process, None in this one at the end of the input."""
    jobs: dict[int, int] = {}
    waiting = b""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 512)
            _reap(jobs)
        if 0 not in ready:
            continue
        read = os.read(0, 1 << 16)
        if not read:
            return None
        *lines, waiting = (waiting + read).split(b"\n")
        for line in lines:
            job = json.loads(line)
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(wake)
                os.close(woken)
                return dict(job)
            jobs[pid] = job["id"]
            _say({"id": job["id"], "pid": pid})


def _reap(jobs: dict[int, int]) -> None:
    while jobs:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _say({"id": jobs.pop(pid), "status": status})


def _say(message: dict[str, int]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def run(job: dict[str, Any]) -> None:
    """What a shell would do: the command of a job in a session of its own, to its exit."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path, how in ((0, os.devnull, os.O_RDONLY), (1, job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        opened = os.open(path, how, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.dup2(1, 2)
    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    if job["memory"]:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115 - of this process
        resource.setrlimit(resource.RLIMIT_AS, (used + job["memory"],) * 2)
    sys.argv = ["clusterpaths", *job["argv"]]
    if job["shim"]:
        ctypes.CDLL(None).torture_arm(job["shim"].encode())
    from clusterpaths.commands.main import main as command

    code = 0
    try:
        command()
        threading._shutdown()  # type: ignore[attr-defined] # waits for threads, as at the end of Python
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except BaseException:  # noqa: BLE001 - as Python would
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        code
    )  # Rust libraries, imported before the fork, do not survive an orderly end: only cold processes have one


def main() -> None:
    """Import, then fork."""
    for name in IMPORTED:
        importlib.import_module(name)
    _say({"id": -1, "pid": os.getpid()})
    if (job := next_job()) is not None:
        run(job)


if __name__ == "__main__":
    main()

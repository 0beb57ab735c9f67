"""The faults of a step, done to the processes that it starts.

Belongs here: rules for the shim, limits, signals. Faults of files are `World.corrupt`; which fault, and when, is the schedule's.
"""

from __future__ import annotations

import threading
from typing import Any

from tests.torture.processes import Command, Process, kill_servers


def with_faults(argv: tuple[str, ...], faults: list[dict[str, Any]], mark: str, *, cold: bool = False) -> Command:
    """The command that meets these faults; the file `mark` is made when a rule of the shim first acts."""
    rules = [fault["rule"] + ("" if fault["kind"] == "clock" else f"|{mark}") for fault in faults if "rule" in fault]
    memory = sum(fault["bytes"] for fault in faults if fault["kind"] == "memory")
    return Command(argv, shim=";".join(rules), memory=memory, cold=cold)


def send_signals(process: Process, faults: list[dict[str, Any]], *, cold: bool = False) -> list[threading.Timer]:
    """Begin to wait for the moments at which a process gets a signal; to be joined."""
    timers = [
        threading.Timer(fault["after"] * (6 if cold else 1), process.signal, (fault["signal"],))
        for fault in faults
        if fault["kind"] == "kill after"
    ]
    timers += [
        threading.Timer(fault["after"], kill_servers, (process,)) for fault in faults if fault["kind"] == "kill server"
    ]
    for timer in timers:
        timer.start()
    return timers

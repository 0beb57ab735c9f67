"""What must hold after every step, whatever happened in it. Each function returns the violations that it found, as sentences.

Belongs here: expectations. docs/torture.md lists them for people.
"""

from __future__ import annotations

import fcntl
import json
import re
import signal
from typing import Any

from tests.torture.processes import Process, left_running
from tests.torture.world import World

NEVER = re.compile(
    r"Traceback \(most recent|Exception ignored|Fatal Python error|panicked at|core dumped|Segmentation|--- Logging error"
)


def about_end(process: Process, code: int | None, faults: list[dict[str, Any]]) -> list[str]:
    """The exit code is that of what happened, an error is one paragraph, and nothing runs on."""
    text = process.text()
    found = []
    allowed = {0}
    for fault in faults:
        if "signal" in fault:
            number = fault["signal"]
            allowed |= {130} if number == signal.SIGINT else {-number}
        elif fault["kind"] in ("disk", "short", "memory", "storage", "kill server"):
            allowed.add(2)
        if fault["kind"] == "memory":
            # OpenBLAS sends SIGINT to its process where it can start no thread, Arrow's C++ aborts it.
            allowed |= {130, -signal.SIGABRT, -signal.SIGSEGV}
    if code is None:
        found.append("the process did not end")
    elif code != 2 and code not in allowed:
        found.append(f"exit code {code}, expected one of {sorted(allowed)}")
    killed = code is not None and code < 0
    if match := NEVER.search(text):
        found.append(f"the output contains {match[0]!r}")
    if code == 2:
        found += _about_paragraph(text)
    if not killed and (left := left_running(process)):
        found.append(f"processes are left: {left}")
    return [f"{one}\n{text[-1200:]}" for one in found]


def is_expected_refusal(text: str) -> bool:
    """Whether an error is a user's mistake of the schedule, which needs no fault."""
    expected = ("is in use by", "cannot make", "needs at least 20 examples")
    return any(words in text for words in expected)


def _about_paragraph(text: str) -> list[str]:
    """`error: …` is the last paragraph, in one line, and ends with a full stop."""
    if text.count("\nerror: ") != 1:
        return [f"an error is not one paragraph: {text.count(chr(10) + 'error: ')} of them"]
    last = text.rpartition("\nerror: ")[2].rstrip("\n")
    return [] if last and "\n" not in last else [f"an error has several lines: {last!r}"]


def about_results(world: World, *, ended_well: bool) -> list[str]:
    """Sets that were published are as they were, no identity is there twice, ids stay, and nothing half is left.

    Args:
        world: after the step; what it has seen is brought up to date.
        ended_well: whether the step's last run ended with 0 and met no fault.
    """
    found = []
    try:
        sets = world.sets()
    except (OSError, ValueError) as error:
        return [f"a published set is incomplete: {error!r}"]
    for name, before in world.seen.sets.items():
        if name not in sets:
            found.append(f"{name} is gone")
        elif sets[name] != before:
            changed = sorted(key for key in before[1] if before[1][key] != sets[name][1].get(key))
            found.append(f"{name} has changed: {changed}")
    fingerprints = [fingerprint for fingerprint, _ in sets.values()]
    if len(set(fingerprints)) < len(fingerprints) and not world.refreshed:
        found.append(f"two sets of one identity: { {name: one[:8] for name, (one, _) in sets.items()} }")
    found += _about_ids(world)
    if ended_well:
        found += _about_rest(world, sets)
    world.seen.sets = sets
    return found


def _about_ids(world: World) -> list[str]:
    if world.corrupted:
        return []
    try:
        ids = world.registered()
    except (OSError, ValueError) as error:
        return [f"registry.parquet cannot be read: {error!r}"]
    lost = sorted(i for i, digest in world.seen.ids.items() if ids.get(i, digest) != digest)
    found = [f"ids mean other images than before: {lost[:10]}"] if lost else []
    world.seen.ids |= ids
    return found


def _about_rest(world: World, sets: dict[str, Any]) -> list[str]:
    found = []
    names = (path.relative_to(world.cache) for path in world.cache.rglob("*"))
    if partial := sorted(str(name) for name in names if name.name.endswith(".partial")):
        found.append(f"partial files are left: {partial[:5]}")
    left = [name for name in (".lock.holder", "clusterings", "sample", "shards") if (world.cache / name).exists()]
    if left:
        found.append(f"{', '.join(left)} are left")
    newest, document = max(sets, key=lambda name: int(name[4:])), world.cache / "metadata.json"
    described = json.loads(document.read_text())["set"] if document.exists() else "no set"
    if described != newest:
        found.append(f"metadata.json is of {described}, the newest set is {newest}")
    if world.buckets:
        return found
    with (world.cache / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            found.append("the lock is held, and no run is there")
    return found

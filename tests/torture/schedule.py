"""Random schedules: lists of steps, each an action and the faults that it meets. A schedule is a function of its seed.

Belongs here: what may happen, and how often. A step is JSON, so that a failing schedule can be shrunk, printed and kept.
"""

from __future__ import annotations

import errno
import random
import signal
from typing import Any

Step = dict[str, Any]

ACTIONS = {
    "run": 50, "together": 8, "images": 16, "corrupt cache": 12, "corrupt set": 6, "export": 3, "explain": 3, "find": 3,
    "query": 4, "cold": 2, "flow": 1,
}  # fmt: skip
FAULTS = {"disk": 34, "short": 8, "kill at": 20, "kill after": 18, "memory": 3, "clock": 4, "none": 13}
FORMATS = ("npy", "zarr", "none", "s3")  # of the cache; s3: zarr in object storage
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGINT)
CALLS = ("write", "sync", "rename", "open", "make", "remove", "read", "write,open,rename,make")
ALL_WRITING = "write,sync,rename,open,make,remove"


def make_schedule(seed: int, steps: int) -> list[Step]:
    """A schedule of that many steps; the first sets the format of the cache, the last is an undisturbed run."""
    draw = random.Random(seed)
    begin: Step = {"action": "begin", "format": draw.choice(FORMATS), "server": draw.random() < 0.5}
    if begin["server"] and draw.random() < 0.3:
        skip = int(2 ** draw.uniform(0, 8)) - 1
        begin["rule"] = (
            f"{draw.choice(['read', 'read,open,sync'])}|/cache/|{skip}|{draw.choice([1, 5, 50])}|e{errno.EIO}"
        )
    every = [_step(draw) for _ in range(steps)]
    if begin["format"] == "s3":
        every = [_with_storage_faults(draw, step) for step in every]
    return [begin, *every, {"action": "run", "options": {"k": 3}, "faults": []}]


def _with_storage_faults(draw: random.Random, step: Step) -> Step:
    """Half of the faults are those of the storage."""
    if not step.get("faults") or draw.random() < 0.5:
        return step
    mode, skip = draw.choice(["500", "503", "slow", "cut", "lost", "down"]), int(2 ** draw.uniform(0, 7)) - 1
    return step | {"faults": [{"kind": "storage", "mode": mode, "skip": skip, "count": draw.choice([1, 1, 3, 10])}]}


def _step(draw: random.Random) -> Step:
    action = _weighted(draw, ACTIONS)
    if action == "flow" and draw.random() < 0.4:
        faults = [{"kind": "kill server", "after": round(draw.uniform(2, 12), 1)}]
        return {"action": action, "options": _options(draw), "faults": faults}
    if action in ("run", "cold", "flow"):
        return {"action": action, "options": _options(draw), "faults": _faults(draw)}
    if action == "together":
        several = [_options(draw) | {"wait": draw.choice([0, 60, 60])} for _ in range(draw.choice([2, 2, 3]))]
        return {"action": action, "runs": several, "faults": _faults(draw)}
    if action == "images":
        how = draw.choice(["add", "delete", "replace", "rename", "touch"])
        return {"action": action, "how": how, "seed": draw.randrange(1 << 30)}
    if action.startswith("corrupt"):
        how = draw.choice(["flip", "flip", "truncate", "empty", "zeros", "remove"])
        return {"action": action, "how": how, "seed": draw.randrange(1 << 30)}
    if action == "find":
        kind = draw.choice(["label-errors", "near-duplicates", "under-covered"])
        return {"action": action, "kind": kind, "faults": _faults(draw)}
    return {"action": action, "seed": draw.randrange(1 << 30), "faults": _faults(draw) if action != "query" else []}


def _options(draw: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {
        "k": draw.choice([3, 3, 4, 5]),
        "distance": draw.choice(["cosine", "cosine", "euclidean"]),
    }
    if draw.random() < 0.3:
        options["subset"] = draw.choice([12, 20, 30])
    if draw.random() < 0.1:
        options["refresh"] = True
    if draw.random() < 0.1:
        options["compare"] = True
    if draw.random() < 0.06:
        options |= {"evaluate": True, "evaluation_images": 4, "causal": False}
    if draw.random() < 0.1:
        options["k"] = "auto"
    if draw.random() < 0.15:
        options["seed"] = 1
    if draw.random() < 0.2:
        options["workers"] = 1
    return options


def _faults(draw: random.Random) -> list[Step]:
    kind = _weighted(draw, FAULTS)
    where = draw.choice(["/cache/", "/cache/", "/cache/", "/images/"])
    skip = int(2 ** draw.uniform(0, 9)) - 1  # often at the beginning, rarely after hundreds of calls
    if kind == "disk":
        ops, number = draw.choice(CALLS), draw.choice(ERRNOS)
        if number == errno.EROFS:
            ops = ALL_WRITING
        if ops == "read":
            number = errno.EIO
        count = draw.choice([1, 1, 3, -1])
        return [{"kind": "disk", "rule": f"{ops}|{where if ops == 'read' else '/cache/'}|{skip}|{count}|e{number}"}]
    if kind == "short":
        return [
            {
                "kind": "short",
                "rule": f"{draw.choice(['write', 'read'])}|{where}|{skip}|{draw.choice([1, 20, -1])}|short",
            }
        ]
    if kind == "kill at":
        ops, number = draw.choice(CALLS[:5]), draw.choice(SIGNALS)
        return [{"kind": "kill at", "signal": int(number), "rule": f"{ops}|/cache/|{skip}|1|s{int(number)}"}]
    if kind == "kill after":
        return [{"kind": "kill after", "signal": int(draw.choice(SIGNALS)), "after": round(draw.uniform(0, 1.5), 3)}]
    if kind == "memory":
        return [{"kind": "memory", "bytes": draw.choice([50, 100, 200, 400]) << 20}]
    if kind == "clock":
        return [{"kind": "clock", "rule": f"clock||0|0|{draw.choice([-(10**7), -3600, 3600, 10**8])}"}]
    return []


def _weighted(draw: random.Random, weights: dict[str, int]) -> str:
    return draw.choices(list(weights), list(weights.values()))[0]

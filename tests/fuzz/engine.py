"""Running many cases of a kind of input in child processes, which may crash, hang or need too much memory.

Belongs here: batches, their limits, counting what came of them, and what is printed and stored of a find. What a case is
belongs to the kinds: `documents.py`, `models.py`, `images.py`, `labels.py`,
`routes.py`.

    python -m tests.fuzz documents --cases 5000 --seed 1      run them; finds are written to build/fuzz
    python -m tests.fuzz documents --only 1 417               run case 417 of seed 1 in this process, with its traceback
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.runs import PROJECT

KINDS = ("documents", "models", "images", "labels", "routes")
MEMORY = 8 << 30  # bytes of addresses that a child may have: libraries take one or two
BATCH = 500  # cases per child


class Kind(Protocol):
    """What a module of this package has for the engine."""

    SECONDS: float
    """After this time a case hangs."""

    def prepare(self, root: Path) -> None:
        """Make what all cases share, once, below an empty directory."""
        ...

    def open_kind(self, root: Path, scratch: Path) -> Case:
        """In each child: a function that runs a case; `root` is read only, `scratch` is the child's."""
        ...


Case = Callable[[random.Random], tuple[str, str]]
"""(group, outcome), such as ("set.json", "refused"). Raises `FindError`, or whatever should never be raised."""


class FindError(AssertionError):
    """A wrong answer."""


@dataclasses.dataclass
class Outcome:
    """What came of the cases: (group, outcome) -> number of cases; and the finds, one line of JSON each."""

    cases: int = 0
    seconds: float = 0.0
    counts: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    finds: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        """For a terminal: a line for each group."""
        groups = dict.fromkeys(sorted(group for group, _ in self.counts))
        lines = [
            f"{group:32} " + "  ".join(f"{what} {n:,}" for (of, what), n in sorted(self.counts.items()) if of == group)
            for group in groups
        ]
        lines += [f"{self.cases:,} cases, {self.seconds:.0f} s, {len(self.finds):,} finds"]
        for kind, number in collections.Counter(find["what"] for find in self.finds).most_common():
            first = next(find for find in self.finds if find["what"] == kind)
            lines.append(f"{number:6,} x {kind}")
            lines.append(f"         case {first['case']} of seed {first['seed']}: {first['text'][:300]}")
        return "\n".join(lines)


def rng_of(kind: str, seed: int, case: int) -> random.Random:
    """The source of all that is random in a case."""
    return random.Random(f"{kind}/{seed}/{case}")


def fuzz(kind: str, cases: int, seed: int, root: Path, *, first: int = 0, seconds: float = float("inf")) -> Outcome:
    """Run cases `first` to `first + cases`; below `root` is what the kind prepares, and the finds.

    Args:
        seconds: no further batch begins after this time.
    """
    shared = root / kind
    if not (shared / ".prepared").exists():
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir(parents=True)
        importlib.import_module(f"tests.fuzz.{kind}").prepare(shared)
        (shared / ".prepared").touch()
    outcome, began, at = Outcome(), time.monotonic(), first
    limit = importlib.import_module(f"tests.fuzz.{kind}").SECONDS
    while at < first + cases and time.monotonic() - began < seconds:
        at = _batch(kind, seed, at, min(first + cases, at + BATCH), shared, outcome, limit)
    outcome.seconds = time.monotonic() - began
    if outcome.finds:
        with (root / f"{kind}_finds.jsonl").open("a") as file:
            file.writelines(json.dumps(find) + "\n" for find in outcome.finds)
    return outcome


def _batch(kind: str, seed: int, first: int, last: int, shared: Path, outcome: Outcome, limit: float) -> int:
    """Run cases in a child until the last or until it dies or hangs; that case is run again alone. Returns the next case."""
    errors = shared.with_name(f"{kind}.stderr")
    with errors.open("w") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.engine", kind, str(seed), str(first), str(last), str(shared)],
            stdout=subprocess.PIPE, stderr=stderr, cwd=PROJECT, text=True, bufsize=1,
        )  # fmt: skip
    assert child.stdout is not None
    current, how = first, ""
    try:
        for line in _lines(child, limit):
            message = json.loads(line)
            current = message.pop("case")
            if "outcome" in message:
                outcome.cases += 1
                outcome.counts[message["group"], message["outcome"]] += 1
                if message["outcome"] == "FIND":
                    outcome.finds.append(
                        {"case": current, "seed": seed, "what": message["what"], "text": message["text"]}
                    )
                if current == last - 1:
                    return last
    except TimeoutError:
        how = f"no end within {limit:.0f} s"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        shutil.rmtree(shared.with_name(f"{kind}.{child.pid}"), ignore_errors=True)
    code = child.returncode
    how = how or f"the process ended with {signal.Signals(-code).name if code < 0 else code}"
    text = errors.read_text(errors="replace").strip()[-1500:]
    if (
        last > first + 1
    ):  # alone, and with more time: a busy machine is no find, nor what earlier cases left in the process
        _batch(kind, seed, current, current + 1, shared, outcome, 4 * limit)
        return current + 1
    outcome.cases += 1
    outcome.counts["(process)", how] += 1
    outcome.finds.append({"case": current, "seed": seed, "what": how, "text": text})
    return current + 1


def _lines(child: subprocess.Popen[str], limit: float) -> Iterator[str]:
    """Lines of a child. Raises: TimeoutError where none comes for so long (the first may take a minute longer)."""
    assert child.stdout is not None
    wait, left = limit + 60, ""
    while True:
        if not select.select([child.stdout], [], [], wait)[0]:
            raise TimeoutError
        some = os.read(child.stdout.fileno(), 1 << 16).decode()
        if not some:
            return
        *lines, left = (left + some).split("\n")
        yield from lines
        wait = limit


def _child(kind: str, seed: int, first: int, last: int, shared: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    with _case(kind, shared) as run:
        for case in range(first, last):
            print(json.dumps({"case": case}), file=answers)
            print(json.dumps({"case": case} | _answer(run, rng_of(kind, seed, case))), file=answers)


@contextlib.contextmanager
def _case(kind: str, shared: Path) -> Iterator[Case]:
    scratch = shared.with_name(f"{kind}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    warnings.simplefilter("ignore")
    try:
        yield importlib.import_module(f"tests.fuzz.{kind}").open_kind(shared, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _answer(run: Case, rng: random.Random) -> dict[str, str]:
    try:
        group, outcome = run(rng)
        return {"group": group, "outcome": outcome}
    except BaseException as error:  # noqa: BLE001 - each is a find
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/clusterpaths/" in frame.filename or "/deployments/" in frame.filename]
        at = ours[-1] if ours else frames[-1]
        what = f"{type(error).__name__} at {at.filename.removeprefix(f'{PROJECT}/')}:{at.name}"
        group = next((note for note in getattr(error, "__notes__", ()) if note), "(none)")
        return {"group": group, "outcome": "FIND", "what": f"{what} [{group}]", "text": str(error)[:1000]}


def run_one(kind: str, seed: int, case: int, root: Path) -> tuple[str, str]:
    """A single case, in this process; what it raises is raised."""
    fuzz(kind, 0, seed, root)
    with _case(kind, root / kind) as run:
        return run(rng_of(kind, seed, case))


if __name__ == "__main__":
    _child(sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5]))

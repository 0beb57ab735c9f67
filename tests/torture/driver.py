"""Carries out a schedule, and checks what must hold after each step.

Belongs here: what a step does. What holds: `invariants.py`; what may happen: `schedule.py`.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture import invariants
from tests.torture.bucket import Buckets, running
from tests.torture.faults import send_signals, with_faults
from tests.torture.processes import Launcher, Process, end_all
from tests.torture.schedule import Step
from tests.torture.server import Server
from tests.torture.world import World, draw_pool, read_set

PATIENCE = 180.0  # seconds for a command of one second


class Violation(Exception):  # noqa: N818 - it is what is looked for
    """A schedule broke a promise.

    Args:
        step: its number.
        problems: as sentences.
    """

    def __init__(self, step: int, problems: list[str]) -> None:
        super().__init__(f"step {step}: " + "\n".join(problems[:3]))
        self.step, self.problems = step, problems

    @property
    def kind(self) -> str:
        """The first problem without its numbers and its output: the same while a schedule is shrunk."""
        first = self.problems[0].partition("\n")[0]
        return "".join(char for char in first if not char.isdigit())


@dataclass
class Counts:
    """What was done, by kind: for the report."""

    actions: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)  # those that acted
    idle: Counter[str] = field(default_factory=Counter)  # those that the process ended before
    codes: Counter[int] = field(default_factory=Counter)
    requests: int = 0
    schedules: int = 0

    def lines(self) -> list[str]:
        """For people."""
        named = {"actions": self.actions, "faults that acted": self.faults, "faults that did not": self.idle}
        lines = [
            f"{sum(counter.values())} {name}: " + ", ".join(f"{key} {n}" for key, n in sorted(counter.items()))
            for name, counter in named.items()
        ]
        lines.append("exit codes: " + ", ".join(f"{code}: {n}" for code, n in sorted(self.codes.items())))
        return [f"{self.schedules} schedules, {self.requests} requests to servers", *lines]


class Driver:
    """Carries out schedules; inside its context. References are computed once per identity, for all schedules.

    Args:
        folder: everything is written there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.counts = folder, Counts()
        self._references: dict[str, dict[str, str]] = {}
        self._launcher = Launcher(folder / "launcher")
        self._number = 0
        self._stack = contextlib.ExitStack()
        self._buckets: Buckets | None = None

    def __enter__(self) -> Driver:
        self._pool = draw_pool(self.folder / "pool")
        self._launcher.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._launcher.__exit__(*error)

    def carry_out(self, schedule: list[Step]) -> None:
        """Every step of a schedule, in a directory of its own, which is removed where nothing was found.

        Raises:
            Violation: a promise was broken.
        """
        root = Path(tempfile.mkdtemp(prefix="schedule-", dir=self.folder))
        world = World(root / "world", self._pool, schedule[0]["format"], self._storage(schedule[0]["format"]))
        self.counts.schedules += 1
        with contextlib.ExitStack() as stack:
            server = self._server(stack, world, root, schedule[0]) if schedule[0]["server"] else None
            for number, step in enumerate(schedule[1:], start=1):
                self.counts.actions[step["action"]] += 1
                problems = _Execution(self, world, server, root, step).run()
                if server:
                    problems += server.problems
                if problems:
                    raise Violation(number, problems)
            if server:
                stack.close()
                self.counts.requests += server.asked
                server.process.signal(signal.SIGINT)
                code = server.process.wait(PATIENCE)
                if problems := invariants.about_end(server.process, code, []):
                    raise Violation(len(schedule) - 1, [f"the server: {problem}" for problem in problems])
        shutil.rmtree(root)

    def _storage(self, cache_format: str) -> Buckets | None:
        """Started once, for the first schedule that needs it."""
        if cache_format != "s3":
            return None
        self._buckets = self._buckets or self._stack.enter_context(running(self.folder / "moto"))
        return self._buckets

    def _server(self, stack: contextlib.ExitStack, world: World, root: Path, begin: Step) -> Server:
        rule = begin.get("rule", "")
        self.counts.faults["server disk"] += bool(rule)
        return stack.enter_context(Server(self._launcher, root, world.address, world.environment, rule))

    def start(
        self, argv: tuple[str, ...], faults: list[Step], folder: Path, world: World | None = None, *, cold: bool = False
    ) -> Process:
        """Start a command that meets these faults, on the results of a world."""
        self._number += 1
        mark = folder / f"acted-{self._number}"
        environment = world.environment if world else {}
        process = self._launcher.start(with_faults(argv, faults, str(mark), cold=cold), folder, **environment)
        process.acted = mark
        process.timers = send_signals(process, faults, cold=cold)
        return process

    def finish(self, process: Process, faults: list[Step]) -> int | None:
        """Wait for a command, and count."""
        code = process.wait(PATIENCE)
        for timer in process.timers:
            timer.cancel()
            timer.join()
        if code is None:
            end_all(process)
        self.counts.codes[-999 if code is None else code] += 1
        for fault in faults:
            by_signal = code in (-fault.get("signal", 0), 130) and code != 0
            by_storage = fault["kind"] == "storage" and self._buckets is not None and self._buckets.faults.acted > 0
            by_memory = fault["kind"] == "memory" and code == 2
            acted = process.acted.exists() or by_signal or by_storage or by_memory or fault["kind"] == "clock"
            (self.counts.faults if acted else self.counts.idle)[fault["kind"]] += 1
        return code

    def reference(self, world: World, options: dict[str, Any], folder: Path, fingerprint: str) -> dict[str, str] | None:
        """The documents of an undisturbed run of that identity; None where these options do not give it."""
        for with_ids in (False, True):
            if fingerprint in self._references:
                break
            results = Path(tempfile.mkdtemp(prefix="reference-", dir=folder))
            if with_ids:
                (results / "T").mkdir()
                shutil.copy(world.cache / "registry.parquet", results / "T")
            kept = {name: value for name, value in options.items() if name not in ("refresh", "compare", "wait")}
            process = self.start(world.run_words(kept, results), [], folder)
            code = process.wait(PATIENCE)
            if code == 0:
                found, documents = read_set(results / "T" / "set_01")
                self._references[found] = documents
            shutil.rmtree(results)
        return self._references.get(fingerprint)


class _Execution:
    """One step."""

    def __init__(self, driver: Driver, world: World, server: Server | None, root: Path, step: Step) -> None:
        self._driver, self._world, self._server, self._root, self._step = driver, world, server, root, step
        self._faults: list[Step] = step.get("faults", [])

    def run(self) -> list[str]:
        """Do it; the violations."""
        buckets = self._world.buckets
        for fault in self._faults:
            if fault["kind"] == "storage" and buckets:
                buckets.faults.set(fault["mode"], fault["skip"], fault["count"])
        try:
            return self._act(self._step["action"])
        finally:
            if buckets:
                buckets.faults.set("", 0, 0)

    def _act(self, action: str) -> list[str]:
        if action in ("run", "cold", "flow"):
            return self._runs([self._step["options"]], cold=action != "run", flow=action == "flow")
        if action == "together":
            return self._runs(self._step["runs"])
        if action == "images":
            self._world.change_images(self._step["how"], self._step["seed"])
            return []
        if action == "corrupt cache":
            file = self._world.corrupt("cache", self._step["how"], self._step["seed"])
            self._driver.counts.faults[f"corrupt {self._step['how']}"] += file is not None
            return []
        if action == "corrupt set":
            return self._with_corrupted_set()
        if action == "query":
            return self._query()
        return self._command(self._faults)

    def _runs(self, several: list[dict[str, Any]], *, cold: bool = False, flow: bool = False) -> list[str]:
        """Runs at once, or a flow, which starts a temporary Prefect server."""
        world = self._world
        world.refreshed |= any(options.get("refresh") for options in several)
        processes = [
            self._driver.start(
                ("images", *world.run_words(options)[1:]) if flow else world.run_words(options),
                self._faults if number == 0 else [],
                self._root,
                world,
                cold=cold,
            )
            for number, options in enumerate(several)
        ]
        problems, codes = [], []
        for number, process in enumerate(processes):
            faults = self._faults if number == 0 else []
            code = self._driver.finish(process, faults)
            codes.append(code)
            problems += self._about_end(process, code, faults)
        if world.buckets:
            world.buckets.faults.set("", 0, 0)
        well = codes[-1] == 0 and not self._faults and len(several) == 1
        if well:
            world.corrupted = False
        elif codes == [2] and not self._faults and world.corrupted:
            problems += self._repaired(several[0], processes[0])
        world.look()
        return problems + self._new_sets(several) + invariants.about_results(world, ended_well=well)

    def _about_end(self, process: Process, code: int | None, faults: list[Step]) -> list[str]:
        problems = invariants.about_end(process, code, faults)
        refused = code == 2 and not any(fault["kind"] != "clock" and "signal" not in fault for fault in faults)
        if refused and not self._world.corrupted and not invariants.is_expected_refusal(process.text()):
            problems.append(f"a run that nothing disturbed was refused:\n{process.text()[-2000:]}")
        return problems

    def _repaired(self, options: dict[str, Any], refused: Process) -> list[str]:
        """After the advice of each message, at most three times, a run succeeds."""
        process = refused
        for _ in range(3):
            text = process.text().rpartition("\nerror: ")[2]
            if "emove it" in text and "registry" in text:
                (self._world.cache / "registry.parquet").unlink(missing_ok=True)
                self._world.seen.ids.clear()
            elif "--refresh" in text:
                options = options | {"refresh": True}
                self._world.refreshed = True
            process = self._driver.start(self._world.run_words(options), [], self._root, self._world)
            code = self._driver.finish(process, [])
            if code == 0:
                self._world.corrupted = False
                return []
            if problems := invariants.about_end(process, code, []):
                return problems
        return [f"after the advice of {text!r}, exit code {code}:\n{process.text()[-2000:]}"]

    def _new_sets(self, several: list[dict[str, Any]]) -> list[str]:
        """Each is equal to the byte to that of an undisturbed run."""
        problems = []
        try:
            sets = self._world.sets()
        except (OSError, ValueError):  # about_results reports it
            return []
        for name in sorted(set(sets) - set(self._world.seen.sets)):
            fingerprint, documents = sets[name]
            references = (self._driver.reference(self._world, options, self._root, fingerprint) for options in several)
            expected = next((one for one in references if one is not None), None)
            if expected is None:
                problems.append(f"no undisturbed run gives the identity of {name}")
            elif expected != documents:
                differ = sorted(key for key in expected if expected[key] != documents.get(key))
                shown = {key: (documents.get(key), expected[key]) for key in differ if key.startswith("set.json")}
                problems.append(f"{name} differs from an undisturbed run: {differ}\n{str(shown)[:1500]}")
        return problems

    def _command(self, faults: list[Step]) -> list[str]:
        """A command that reads the newest set."""
        sets = sorted(self._world.seen.sets, key=lambda name: int(name[4:]))
        if not sets:
            return []
        results, image = ("--cache-root", self._world.address), sorted(self._world.images.iterdir())[0]
        argv = {
            "export": ("export", "T", "--output", str(self._root / "paths.onnx"), *results),
            "explain": ("explain", str(image), "--set", "T", "--output", str(self._root / "page.html"), *results),
            "find": ("find", self._step.get("kind", "near-duplicates"), "T", *results),
        }[self._step["action"]]
        process = self._driver.start(argv, faults, self._root, self._world)
        code = self._driver.finish(process, faults)
        return invariants.about_end(process, code, [*faults, {"kind": "disk"}])  # a kind of find may need labels

    def _query(self) -> list[str]:
        if self._server:
            self._server.ask_all(sorted(self._world.seen.sets)[-2:])
        return []

    def _with_corrupted_set(self) -> list[str]:
        """Readers of a set that was corrupted answer, or say what is wrong; then it is as it was."""
        before = {file: file.read_bytes() for file in self._world.cache.glob("set_*/*") if file.is_file()}
        file = self._world.corrupt("set", self._step["how"], self._step["seed"])
        if file is None:
            return []
        self._driver.counts.faults[f"corrupt {self._step['how']} of a set"] += 1
        if self._server:
            self._server.corrupted = True
        problems = self._query()
        for action in ("export", "explain", "find"):
            self._step = self._step | {"action": action}
            problems += [f"{file.name} corrupted: {one}" for one in self._command([])]
        file.write_bytes(before[file])
        self._world.put_back(file)
        if self._server:
            self._server.ask("/health")  # whatever was being answered meanwhile has been
            self._server.corrupted = False
        return problems

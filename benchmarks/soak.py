"""Hours of ordinary use: do memory, handles, threads and the database grow, and is an event missed?

Four things run side by side, each a process of its own:

- the explorer under light load, while sets appear and vanish below it;
- a process that clusters a living directory again and again, images being added and removed, and old sets deleted;
- a Prefect server on SQLite;
- the watcher of models, into whose directory models arrive, every eighth one broken.

Samples go to a file as they are taken. Each call is a piece, and `--work` continues one: what is reported is over all pieces.

    python benchmarks/soak.py --minutes 120                     results/soak.md
    python benchmarks/soak.py --minutes 10 --work DIRECTORY     a piece; call it again to go on
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cyclopts
import httpx
import onnx
import psutil
from load import addresses, free_port
from machine import PROJECT, RESULTS, memory_of
from soak_page import page, summarise

from clusterpaths.datasets.drawn_faces.draw import write_faces

sys.path.insert(0, str(PROJECT))  # the generator of sets is the tests'

from tests.generated_set import generate, write_random_maps

SAMPLE_MODEL = PROJECT / "ONNX_models" / "SampleFaces_CNN.onnx"
MODELS = 200  # that arrive in all
BROKEN = 8  # one in so many
EXAMPLES = 5000  # of a set
FACES = 400  # images to draw from
EVERY = 5.0  # seconds between samples
CLUSTER = """
import sys, time
from pathlib import Path
from clusterpaths.config import RunConfig
from clusterpaths.pipeline import run

while True:
    run(RunConfig.model_validate_json(Path(sys.argv[1]).read_text()))
    with open(sys.argv[2], "a") as log:
        log.write(f"{time.time()}\\n")
    time.sleep(float(sys.argv[3]))
"""


@dataclass
class Seen:
    """What happened in all pieces so far; kept in WORK/seen.json."""

    requests: int = 0
    errors: list[str] = field(default_factory=list)
    sets_made: int = 0
    clusterings: int = 0
    models: dict[str, bool] = field(default_factory=dict)  # file name -> whether it is sound
    seconds: float = 0.0
    announced: dict[str, int] = field(default_factory=dict)  # event -> how many different resources

    @staticmethod
    def of(file: Path) -> Seen:
        return Seen(**json.loads(file.read_text())) if file.is_file() else Seen()


def main(
    minutes: float = 10.0, work: Path | None = None, out: Path = RESULTS, models: int = MODELS, note: str = ""
) -> None:
    """Run a piece, then write soak.md and soak.json over all pieces.

    Parameters
    ----------
    minutes
        of this piece
    work
        directory that is continued or created [a temporary one]
    out
        directory of the results
    models
        files that arrive in this piece at most, evenly over its first three quarters
    note
        a sentence for the page, such as what was repaired since
    """
    with contextlib.ExitStack() as stack:
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clusterpaths-soak-")))
        work.mkdir(parents=True, exist_ok=True)
        seen = Seen.of(work / "seen.json")
        try:
            soak(work, seen, 60 * minutes, min(MODELS - len(seen.models), models))
        finally:
            (work / "seen.json").write_text(json.dumps(vars(seen), indent=1))
        result = {**summarise(work / "samples.jsonl", vars(seen)), "note": note}
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "soak.md").write_text(page(result))
    print(page(result))


def soak(work: Path, seen: Seen, seconds: float, models: int) -> None:
    """One piece: start all, sample until its end, then count the events."""
    prepare(work)
    ports = free_port(), free_port()
    api = f"http://127.0.0.1:{ports[1]}/api"
    own = {
        "PYTHONPATH": str(PROJECT),
        "PREFECT_HOME": str(work / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    config = {
        "model": str(SAMPLE_MODEL), "dataset": "folder", "data_root": str(work / "images"), "cache_root": str(work / "living"),
        "name": "Living", "layers": ["fc1", "fc2"], "k": 5, "evaluate": False, "check_preprocessing": False, "workers": 1,
        "preprocessing": "imagenet", "fit": "all",
    }  # fmt: skip
    (work / "config.json").write_text(json.dumps(config))
    python, end = sys.executable, time.monotonic() + seconds
    commands = {
        "explorer": [python, "-m", "clusterpaths.commands.serve", "--cache-root", str(work / "served"), "--port", str(ports[0])],
        "clustering": [python, "-c", CLUSTER, str(work / "config.json"), str(work / "clustered.txt"), "10"],
        "Prefect server": [python, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports[1])],
        "watcher": [
            python, str(PROJECT / "deployments" / "watch_models.py"), "--folder", str(work / "models"), "--patience", "5",
            "--first-start", "announce",
        ],
    }  # fmt: skip
    with running(commands["Prefect server"], own, work / "prefect.log") as server:
        wait_for(f"{api}/health")
        more = own | {"PREFECT_API_URL": api}
        with (
            running(commands["explorer"], own, work / "explorer.log") as explorer,
            running(commands["clustering"], own, work / "clustering.log") as clustering,
            running(commands["watcher"], more, work / "watcher.log") as watcher,
        ):
            wait_for(f"http://127.0.0.1:{ports[0]}/health")
            roots = {"explorer": explorer, "clustering": clustering, "Prefect server": server, "watcher": watcher}
            stop = threading.Event()
            steps = [
                (0.2, Client(ports[0], seen).ask),
                (15.0, Sets(work / "served", seen).change),
                (4.0, Images(work).change),
                (0.75 * seconds / max(models, 1), Models(work / "models", seen, models).arrive),
            ]
            threads = [threading.Thread(target=repeat, args=(stop, seen, *step)) for step in steps]
            for thread in threads:
                thread.start()
            try:
                sample_until(end, work, roots, seen)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            count_events(api, seen, time.monotonic() + 120)
    seen.seconds += seconds
    seen.clusterings = (
        len((work / "clustered.txt").read_text().splitlines()) if (work / "clustered.txt").is_file() else 0
    )


def repeat(stop: threading.Event, seen: Seen, pause: float, step: Callable[[], None]) -> None:
    """Take a step after every pause, until it is stopped; an error of a step is one of the benchmark."""
    while not stop.wait(pause):
        try:
            step()
        except Exception as error:  # noqa: BLE001 - it is reported, and the others go on
            seen.errors.append(f"{step.__qualname__}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def running(command: list[str], more: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process while inside; what it prints is appended to its log."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=os.environ | more, stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url: str) -> None:
    """Until it answers 200; the benchmark ends if it does not."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    sys.exit(f"error: {url} does not answer.")


def prepare(work: Path) -> None:
    """The set that stays, another one to copy, faces, and an empty directory of models; what an earlier piece has left stays."""
    if not (work / "spare").is_dir():
        for root in ("served", "spare"):
            write_random_maps(generate(work / root, n=EXAMPLES))
    if not (work / "faces").is_dir():
        write_faces(work / "faces", FACES, seed=3)
    for name in ("images", "models"):
        (work / name).mkdir(exist_ok=True)
    faces = sorted((work / "faces").rglob("*.jpg"))
    for face in faces[: FACES // 2]:
        if not any((work / "images").iterdir()) or not (work / "images" / face.name).exists():
            shutil.copyfile(face, work / "images" / face.name)


class Client:
    """Asks the explorer for one address after the other; a set that has just vanished may be 404."""

    def __init__(self, port: int, seen: Seen) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self._seen, self._draw = seen, random.Random(0)
        self._addresses = addresses("CelebA") + addresses("Passing")

    def ask(self) -> None:
        values = {
            "id": self._draw.randrange(EXAMPLES),
            "row": 0,
            "cluster": 0,
            "path": 0,
            "text": "hair",
            "query": "prediction:1",
        }
        path = self._draw.choice(self._addresses).path
        try:
            answer = self._client.get(path.format_map(_Zero(values)))
        except httpx.HTTPError as error:
            self._seen.errors.append(f"{path}: {type(error).__name__}")
            return
        self._seen.requests += 1
        if answer.status_code >= 500:
            self._seen.errors.append(f"{path}: {answer.status_code}")


class _Zero(dict[str, Any]):
    def __missing__(self, key: str) -> int:
        return 0


class Sets:
    """A model's set appears beside the one that stays, is replaced by another, and vanishes."""

    def __init__(self, root: Path, seen: Seen) -> None:
        self._root, self._seen = root, seen

    def change(self) -> None:
        passing = self._root / "Passing"
        if passing.exists():
            gone = self._root / ".gone"
            passing.rename(gone)
            shutil.rmtree(gone)
        else:
            coming = self._root / ".coming"
            shutil.copytree(self._root.parent / "spare" / "CelebA", coming)
            coming.rename(passing)
            self._seen.sets_made += 1


class Images:
    """Every turn one image is added and one removed; of the sets made of them, the newest three stay."""

    def __init__(self, work: Path) -> None:
        self._work, self._draw = work, random.Random(1)

    def change(self) -> None:
        there = sorted((self._work / "images").iterdir())
        faces = sorted((self._work / "faces").rglob("*.jpg"))
        missing = sorted({face.name for face in faces} - {file.name for file in there})
        if missing:
            name = self._draw.choice(missing)
            shutil.copyfile(next(face for face in faces if face.name == name), self._work / "images" / name)
        self._draw.choice(there).unlink(missing_ok=True)
        sets = sorted((self._work / "living" / "Living").glob("set_*"), key=lambda folder: folder.stat().st_mtime)
        for old in sets[:-3]:
            shutil.rmtree(old, ignore_errors=True)


class Models:
    """Copies of the sample's model, each with a note of its own so that no two are the same; every eighth one is cut off."""

    def __init__(self, folder: Path, seen: Seen, most: int) -> None:
        self._folder, self._seen, self._most = folder, seen, most

    def arrive(self) -> None:
        if self._most <= 0:
            return
        self._most -= 1
        number = len(self._seen.models)
        model = onnx.load(str(SAMPLE_MODEL))
        model.doc_string = f"number {number}"
        content, sound = model.SerializeToString(), number % BROKEN != BROKEN - 1
        name = f"model_{number:03d}.onnx"
        (self._folder / name).write_bytes(content if sound else content[: len(content) // 2])
        self._seen.models[name] = sound


def sample_until(end: float, work: Path, roots: dict[str, subprocess.Popen[bytes]], seen: Seen) -> None:
    """A sample of every process, five seconds after the last one; the benchmark ends if one of them has ended."""
    piece = time.time()
    with (work / "samples.jsonl").open("a") as file:
        while time.monotonic() < end:
            for name, root in roots.items():
                if root.poll() is not None:
                    sys.exit(f"error: {name} ended with {root.returncode}; see its log in {work}.")
                family = [psutil.Process(root.pid)]
                with contextlib.suppress(psutil.NoSuchProcess):
                    handles, threads = family[0].num_fds(), family[0].num_threads()
                    now = {"memory": memory_of(family[0]), "handles": handles, "threads": threads}
                    if name == "Prefect server":
                        now["database"] = (
                            sum(one.stat().st_size for one in (work / "prefect").glob("prefect.db*")) / 1e6
                        )
                    file.write(json.dumps({"piece": piece, "at": time.time(), "process": name, **now}) + "\n")
            file.flush()
            (work / "seen.json").write_text(json.dumps(vars(seen), indent=1))
            time.sleep(EVERY)


def count_events(api: str, seen: Seen, deadline: float) -> None:
    """Wait until as many models were announced as arrived, or the deadline; `seen.announced` is what the server has."""
    sound = sum(seen.models.values())
    wanted = {"onnx-model.arrived": sound, "onnx-model.rejected": len(seen.models) - sound}
    while True:
        for event in wanted:
            seen.announced[event] = len(set(_resources(api, event)))
        if seen.announced == wanted or time.monotonic() > deadline:
            return
        time.sleep(2)


def _resources(api: str, event: str) -> Iterator[str]:
    answer = httpx.post(
        f"{api}/events/filter", json={"filter": {"event": {"name": [event]}}, "limit": 50}, timeout=60
    ).json()
    while True:
        yield from (one["payload"]["path"] for one in answer["events"])
        if not answer.get("next_page"):
            return
        answer = httpx.get(answer["next_page"], timeout=60).json()


if __name__ == "__main__":
    cyclopts.run(main)

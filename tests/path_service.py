"""What tests of the path service share: path models of the sample's set, the service in a process of its own, load, its log.

Belongs here: making, starting, asking and reading back. No expectation.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clusterpaths.config import RunConfig
from clusterpaths.export.path_model import export_path_model
from clusterpaths.sets.published import PublishedSet, open_set
from deployments.path_service.settings import ServiceConfig
from tests.evaluating import publish
from tests.runs import PROJECT

OPTIONS = re.compile(r"(<!-- options: [^>]*-->\n)(.*?)(<!-- /options -->)", re.DOTALL)


@dataclass(frozen=True)
class Exported:
    """A set, its path model, and its images in the order of its examples."""

    published: PublishedSet
    file: Path
    images: tuple[Path, ...]


def export(config: RunConfig, images: Path, file: Path) -> Exported:
    """Make a set, and export it."""
    set_dir, job = publish(config)
    published = open_set(set_dir)
    export_path_model(published, Path(job.model.path), file)
    return Exported(published, file, tuple(images / name for name in published.files.to_pylist()))


@dataclass
class Running:
    """A service in a process of its own."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str = ""
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def said(self) -> str:
        return self.output.read_text()

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(60)

    def post(self, image: Path | bytes, **headers: str) -> httpx.Response:
        content = image if isinstance(image, bytes) else image.read_bytes()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"{self.url}/predict", content=content, headers=named)

    def get(self, address: str) -> httpx.Response:
        return self.client.get(f"{self.url}{address}")


def launch(output: Path, *words: str | Path, cwd: Path = PROJECT, **environment: str) -> Running:
    """Start the service on a free port; it may still be starting."""
    command = [sys.executable, "-m", "deployments.path_service", *map(str, words), "--port", "0"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=os.environ | environment,
            start_new_session=True,
        )
    return Running(process, output)


@contextmanager
def running(output: Path, *words: str | Path, cwd: Path = PROJECT, **environment: str) -> Iterator[Running]:
    """A service that answers; it is killed at the end if it still runs."""
    found = launch(output, *words, cwd=cwd, **environment)
    try:
        deadline = time.monotonic() + 120
        while not (line := re.search(r"^Serving \S+ at (http://[\d.:]+);", found.said(), re.M)):
            assert found.process.poll() is None, found.said()
            assert time.monotonic() < deadline, found.said()
            time.sleep(0.02)
        found.url = line[1]
        while True:
            try:
                if found.get("/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < deadline, found.said()
                time.sleep(0.02)
        yield found
    finally:
        found.process.kill()
        found.process.wait(30)
        found.client.close()


@dataclass
class Load:
    """Clients in a closed loop. `acknowledged` are the ids that answers with `logged` gave; `failures` every other answer."""

    url: str
    images: Sequence[Path]
    clients: int = 8
    acknowledged: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> Load:
        self._threads = [threading.Thread(target=self._loop, args=(i,), daemon=True) for i in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def wait_for(self, rows: int) -> Load:
        deadline = time.monotonic() + 120
        while len(self.acknowledged) < rows:
            assert time.monotonic() < deadline, self.failures[:3]
            time.sleep(0.01)
        return self

    def join(self) -> Load:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        return self

    def _loop(self, number: int) -> None:
        contents = [image.read_bytes() for image in self.images]
        with httpx.Client(timeout=60) as client:
            turn = number
            while not self._stop.is_set():
                turn += 1
                try:
                    response = client.post(f"{self.url}/predict", content=contents[turn % len(contents)])
                except httpx.TransportError as error:
                    self.failures.append(type(error).__name__)
                    if isinstance(error, httpx.ConnectError):
                        return
                    continue
                if response.status_code == 200 and (answer := response.json())["logged"]:
                    self.acknowledged += [image["id"] for image in answer["images"]]
                else:
                    self.failures.append(f"{response.status_code} {response.text[:200]}")


def log_files(directory: Path) -> list[Path]:
    """The complete ones."""
    return sorted(directory.glob("*.parquet"))


def read_log(directory: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in log_files(directory)])


def logged_ids(directory: Path) -> list[str]:
    ids: list[str] = read_log(directory)["id"].to_pylist()
    return ids


def note_of(file: Path) -> Any:
    """The log's metadata in a parquet file."""
    return json.loads(pq.read_schema(file).metadata[b"clusterpaths.log"])


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    into = io.BytesIO()
    image.save(into, kind, **options)
    return into.getvalue()


def options_table() -> str:
    """The options in docs/path_service.md, as the code describes them."""
    lines = ["| option | default | |", "|---|---|---|"]
    for name, one in ServiceConfig.model_fields.items():
        default = (
            ""
            if one.default is None
            else f"`{one.default:g}`"
            if isinstance(one.default, float)
            else f"`{one.default}`"
        )
        choices = " or ".join(f"`{value}`" for value in get_args(one.annotation) if isinstance(value, str))
        text = f"{choices}: {one.description}" if choices else str(one.description)
        lines.append(f"| `--{name.replace('_', '-')}` | {default} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    page = PROJECT / "docs" / "path_service.md"
    page.write_text(OPTIONS.sub(lambda found: found[1] + options_table() + found[3], page.read_text()))

"""The server under load, at CelebA's full size: 202,599 examples, five layers, 20 clients in a closed loop.

Belongs here: a set of that size (numbers only, from the tests' generator), the server in one process, the clients in
another, and the table. Each endpoint is measured by itself, then all of them mixed; then the baseline's (load_baseline.py).

    python benchmarks/load.py                      results/load.json and load.md: five minutes
    python benchmarks/load.py --quick --out DIRECTORY      few examples, a moment per endpoint: a check that it works
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import psutil
from machine import PROJECT, RESULTS, describe_machine, memory_of

from clusterpaths.datasets.drawn_faces.draw import write_faces

sys.path.insert(0, str(PROJECT))  # the generator of large sets is the tests'

from tests.generated_set import generate, write_random_maps

EXAMPLES = 202_599
CLIENTS = 20
FACES = 500  # distinct images
TARGET_MS = 100.0
TARGET_MEMORY_MB = 500.0
TARGET_START_S = 3.0


@dataclass(frozen=True)
class Address:
    """One kind of request; placeholders such as `{id}` in its path are filled in for every request."""

    name: str
    path: str


def addresses(model: str) -> list[Address]:
    """The endpoints of dashboards, those of /api/v1, and the pages."""
    of_set, ours, page = (
        f"/models/{model}/sets/set_01",
        f"/api/v1/models/{model}/sets/set_01",
        f"/explore/{model}/set_01",
    )
    return [
        Address("health", "/health"),
        Address("models", "/models"),
        Address("sets", f"/models/{model}/sets"),
        Address("metadata", f"/models/{model}/metadata"),
        Address("centroids", f"{of_set}/centroids"),
        Address("paths, 50", f"{of_set}/paths?limit=50&offset={{row}}"),
        Address("paths, 10,000", f"{of_set}/paths?limit=10000&offset={{row}}"),
        Address("path of an example", f"{of_set}/paths/example_{{id:04d}}"),
        Address("image", "/images/example/{id}"),
        Address("images of a cluster", "/images/cluster/fc2/{cluster}?limit=20"),
        Address("attributes", f"/models/{model}/attributes"),
        Address("attribute filter", f"/models/{model}/attributes/filter?attr=Smiling&value=1"),
        Address("id-to-index", f"/models/{model}/id-to-index"),
        Address("v1 models", "/api/v1/models"),
        Address("v1 set", ours),
        Address("v1 routes", f"{ours}/routes"),
        Address("v1 transitions", f"{ours}/transitions"),
        Address("v1 choices", f"{ours}/choices"),
        Address("v1 clusters", f"{ours}/clusters"),
        Address("v1 cluster", f"{ours}/clusters/conv3/{{cluster}}"),
        Address("v1 exemplars", f"{ours}/clusters/fc1/{{cluster}}/exemplars?kind=farthest&limit=20"),
        Address("v1 paths", f"{ours}/paths?limit=20&offset={{small}}"),
        Address("v1 path", f"{ours}/paths/{{path}}"),
        Address("v1 example", f"{ours}/examples/{{id}}"),
        Address("v1 explanation", f"{ours}/examples/{{id}}/explanation"),
        Address("v1 alike", f"{ours}/examples/{{id}}/alike?depth=0.6"),
        Address("v1 thumbnail", f"{ours}/examples/{{id}}/image?size=160"),
        Address(
            "v1 search",
            f"{ours}/examples?attribute=Smiling&attribute=-Male&cluster=conv3:{{cluster}}&order=rare&limit=50",
        ),
        Address(
            "v1 search, strange", f"{ours}/examples?split=test&right=wrong&order=strange&limit=50&offset={{small}}"
        ),
        Address(
            "v1 search, region", f"{ours}/examples?within=conv3:-1,-1;1,-1;1,1;-1,1&ood=0.5..&order=unsure&limit=50"
        ),
        Address("v1 summary", f"{ours}/summary?right=wrong&cluster=conv3:{{cluster}}"),
        Address("v1 map", f"{ours}/map"),
        Address("v1 map, points", f"{ours}/map/points?layer=conv3"),
        Address("v1 map, column", f"{ours}/map/columns?name=ood"),
        Address("v1 find, label errors", f"{ours}/find/label-errors?limit=50&offset={{small}}"),
        Address("page: home", "/"),
        Address("page: overview", page),
        Address("page: cluster", f"{page}/clusters/conv2/{{cluster}}"),
        Address("page: paths", f"{page}/paths"),
        Address("page: path", f"{page}/paths/{{path}}"),
        Address("page: example", f"{page}/examples/{{id}}"),
        Address("page: map", f"{page}/map?prediction=Gray"),
        Address("page: find", f"{page}/find/label-errors"),
        Address("page: ask", f"{page}/ask?attribute=Blond_Hair&order=rare&page={{few}}"),
    ]


@contextlib.contextmanager
def served(command: Sequence[str], port: int, errors: Path) -> Iterator[tuple[psutil.Process, float]]:
    """A server in a separate process, and the seconds from its start to its first response."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with errors.open("wb") as log:
        start = time.monotonic()
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log, env=environment)
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as first:
                    first.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                    if b" 200 " in first.recv(4096):
                        break
                if process.poll() is not None or time.monotonic() - start > 60:
                    raise RuntimeError(f"The server does not answer: {errors.read_text()[-2000:]}")
                time.sleep(0.02)
            yield psutil.Process(process.pid), time.monotonic() - start
        finally:
            process.terminate()
            process.wait(20)


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


class Connection(asyncio.BufferedProtocol):
    """One persistent connection. Bodies are counted and dropped: the clients must not be slower than the server."""

    def __init__(self) -> None:
        self.room = bytearray(1 << 20)
        self.head = b""
        self.left = self.size = -1  # bytes of the body; -1: the header is not complete yet
        self.answered: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("closed by the server"))

    async def ask(self, request: bytes) -> tuple[int, int]:
        """Status and size of the response."""
        self.head, self.left = b"", -1
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answered

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        if self.left < 0:
            self.head += self.room[:nbytes]
            head, end, body = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            lines = head.decode("latin-1").lower().split("\r\n")
            self.status = int(lines[0].split(" ", 2)[1])
            self.size = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
            self.left, nbytes = self.size, len(body)
        self.left -= nbytes
        if self.left == 0:
            self.answered.set_result((self.status, self.size))


class Client:
    """Asks one address after another; its times are from the first byte sent to the last one read."""

    def __init__(self, port: int, values: dict[str, Any], seed: int) -> None:
        self.port, self.values, self.random = port, values, random.Random(seed)

    async def run(self, chosen: Sequence[Address], until: float, found: dict[str, list[tuple[float, int]]]) -> None:
        """Until then, and once at least; every time and size goes into `found`."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.port)
        while True:
            address = self.random.choice(chosen)
            request = self.request(address)
            start = time.monotonic()
            status, size = await connection.ask(request)
            if status != 200:
                raise RuntimeError(f"{address.name} ({request.decode()}) was answered with {status}")
            found.setdefault(address.name, []).append((time.monotonic() - start, size))
            if time.monotonic() >= until:
                break
        connection.transport.close()

    def request(self, address: Address) -> bytes:
        """One request of this kind, for another example, path or page every time."""
        pick = self.random.choice
        values = {
            "id": pick(self.values["ids"]),
            "row": self.random.randrange(max(len(self.values["ids"]) - 10_000, 1)),
            "small": self.random.randrange(100),
            "few": 2 + self.random.randrange(20),
            "cluster": self.random.randrange(self.values["k"]),
            "path": pick(self.values["paths"]),
        }
        return f"GET {address.path.format(**values)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


async def press(port: int, values: dict[str, Any], chosen: Sequence[Address], seconds: float) -> dict[str, Any]:
    """All clients at once for some seconds; percentiles of each address in milliseconds."""
    found: dict[str, list[tuple[float, int]]] = {}
    until = time.monotonic() + seconds
    await asyncio.gather(*(Client(port, values, seed).run(chosen, until, found) for seed in range(CLIENTS)))
    return {name: summary(times) for name, times in found.items()}


def ask_all(port: int, values: dict[str, Any], only: Sequence[str], seconds: float) -> dict[str, Any]:
    """Each endpoint whose name begins with one of `only` by itself, then all of them mixed for five times as long."""
    chosen = [one for one in addresses(values["model"]) if one.name.startswith(tuple(only))]
    alone: dict[str, Any] = {}
    for address in chosen:
        alone |= asyncio.run(press(port, values, [address], seconds))
        print(f"{address.name:24} p95 {alone[address.name]['p95']:8.1f} ms", file=sys.stderr, flush=True)
    return {"alone": alone, "mixed": asyncio.run(press(port, values, chosen, 5 * seconds))}


def summary(times: list[tuple[float, int]]) -> dict[str, float]:
    """Requests, percentiles in ms, mean size in bytes."""
    milliseconds = np.array([1000 * seconds for seconds, _ in times])
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99]).round(1).tolist()
    return {
        "requests": len(times),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "most": round(float(milliseconds.max()), 1),
        "bytes": round(statistics.mean(size for _, size in times)),
    }


def clients(port: int, values: Path, only: Sequence[str], seconds: float) -> dict[str, Any]:
    """The clients in a process of their own: they must not take the server's interpreter."""
    command = [sys.executable, __file__, "--clients", str(port), "--values", str(values), "--only", ",".join(only)]
    done = subprocess.run([*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def pictures(root: Path, count: int) -> Path:
    """`count` images under CelebA's names: 500 drawn faces, again and again as hard links."""
    images = write_faces(root / "drawn", FACES) / "img_align_celeba"
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"{number:06d}.jpg").hardlink_to(images / f"{1 + (number - 1) % FACES:06d}.jpg")
    return root


def values_of(folder: Path) -> dict[str, Any]:
    """What requests are made of: ids, paths and k of the set, from its own documents."""
    paths = json.loads((folder / "set_01" / "paths.json").read_text())
    distinct = sorted({"-".join(map(str, path)) for path in paths.values()})
    k = 1 + max(max(path) for path in paths.values())
    return {"model": folder.name, "ids": [int(key[8:]) for key in paths], "paths": distinct, "k": k}


def measure(root: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Serve `root`, ask all of it, and look at the process."""
    folder = next(path for path in sorted(root.iterdir()) if path.is_dir())
    values = work / "values.json"
    values.write_text(json.dumps(values_of(folder)))
    result: dict[str, Any] = {}
    plain = PROJECT / "benchmarks" / "load_baseline.py"
    for name, command, only in (
        ("server", ["-m", "clusterpaths.commands.serve", "--cache-root", str(root)], [""]),
        ("baseline", [str(plain), str(root)], ["paths", "path of"]),
    ):
        port = free_port()
        print(name, file=sys.stderr)
        with served([sys.executable, *command], port, work / f"{name}.log") as (process, started):
            asked = clients(port, values, only, seconds)
            result[name] = {"start_s": round(started, 2), "memory_mb": round(memory_of(process)), **asked}
    return result


def page(result: dict[str, Any]) -> str:
    """results/load.md."""
    server, baseline = result["server"], result["baseline"]
    lines = [
        "# The server under load",
        f"{result['examples']:,} examples, five layers, {result['clients']} clients in a closed loop, each endpoint by itself "
        f"for {result['seconds']:g} s and all mixed for five times as long. {result['machine']}, Python {result['python']}; the "
        "clients are a process on the same cores. The baseline reads paths.json at every request.",
        "",
        f"Start to first response {server['start_s']} s (target {TARGET_START_S:g}; baseline {baseline['start_s']}). Memory at "
        f"the end {server['memory_mb']} MB (target {TARGET_MEMORY_MB:g}).",
        "",
        "| endpoint | response, bytes | by itself: p50 ms | p95 | p99 | requests/s | mixed: p95 ms "
        "| baseline, by itself: p95 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in server["alone"].items():
        mixed, slow = server["mixed"].get(name), baseline["alone"].get(name)
        missed = "" if one["p95"] <= TARGET_MS else " (missed)"
        lines.append(
            f"| {name} | {one['bytes']:,} | {one['p50']} | {one['p95']}{missed} | {one['p99']} | "
            f"{one['requests'] / result['seconds']:,.0f} | {mixed['p95'] if mixed else '–'} | {slow['p95'] if slow else '–'} |"
        )
    return "\n".join(lines) + "\n"


def main(
    *,
    quick: bool = False,
    out: Path = RESULTS,
    clients_port: Annotated[int | None, cyclopts.Parameter(name="--clients", show=False)] = None,
    values: Annotated[Path | None, cyclopts.Parameter(show=False)] = None,
    only: Annotated[str, cyclopts.Parameter(show=False)] = "",
    seconds: float = 4.0,
) -> None:
    """Measure, and write load.json and load.md.

    Parameters
    ----------
    quick
        2,000 examples and a tenth of a second an address: a check that it works
    out
        directory of the results
    seconds
        how long each endpoint is measured by itself
    """
    if clients_port is not None and values is not None:
        print(json.dumps(ask_all(clients_port, json.loads(values.read_text()), only.split(","), seconds)))
        return
    seconds, examples = (0.1, 2000) if quick else (seconds, EXAMPLES)
    result = {**describe_machine(), "examples": examples, "clients": CLIENTS, "seconds": seconds}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_random_maps(generate(work / "activation_cache", n=examples, data_root=pictures(work / "data", examples)))
        result |= measure(work / "activation_cache", work, seconds)
    out.mkdir(parents=True, exist_ok=True)
    (out / "load.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "load.md").write_text(page(result))


if __name__ == "__main__":
    cyclopts.run(main)

"""Throughput of the path service beside the same service with the bare classifier, in turns, on the same images.

Each model has two servers, in processes of their own: the path model's, and bare_service.py, which differs in the graph that is
run and in what follows from it (a longer answer, longer rows of the log). Clients in another process post real JPEG files in a
closed loop. A round is a turn of each; reported are medians over rounds: throughput, and the server's CPU time per image.

    python benchmarks/path_service.py            results/path_service.json; needs CLUSTERPATHS_SHARED (celeba/ and models/), torch
    python benchmarks/path_service.py --quick    a check that it works: few images, short turns; nothing is written
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import psutil
from load import Connection
from machine import PROJECT, RESULTS, describe_machine, memory_of
from models import export, prepare_images, resnet18

from clusterpaths.config import RunConfig
from clusterpaths.export.path_model import export_path_model, load_whole
from clusterpaths.models.check import check_model
from clusterpaths.pipeline import run

HERE = Path(__file__).resolve().parent
TARGET = 0.85  # of the bare model's throughput
POSTED = 500  # distinct images
LAYERS = {"conv1 to fc2": ("conv1", "conv2", "conv3", "fc1", "fc2"), "conv3 to fc2": ("conv3", "fc1", "fc2")}


@dataclass(frozen=True)
class Case:
    """A path model and its classifier."""

    name: str
    classifier: Path
    paths: Path


def main(
    rounds: int = 12,
    seconds: float = 4,
    clients: tuple[int, ...] = (1, 32),
    quick: bool = False,
    only: str = "",
    threads: int = 0,
    as_client: Annotated[int, cyclopts.Parameter(show=False)] = 0,
    images: Annotated[Path | None, cyclopts.Parameter(show=False)] = None,
) -> None:
    """Measure, print a Markdown table, and write benchmarks/results/path_service.json.

    Parameters
    ----------
    rounds
        turns of each server
    seconds
        of a turn
    clients
        connections in a closed loop; each number is measured
    quick
        40 images, two short turns; nothing is written
    only
        models whose names contain this; nothing is written
    threads
        of the model; 0: all cores
    as_client
        port: post to it and print what was measured
    images
        directory of the images to post
    """
    if as_client:
        assert images is not None
        print(json.dumps(asyncio.run(press(as_client, images, clients[0], seconds))))
        return
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a folder that holds celeba/ and models/.")
    if quick:
        rounds, seconds = 2, 0.5
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        work = Path(folder)
        (work / "posted").mkdir()
        (work / "set").mkdir()
        posted = prepare_images(Path(shared), work / "posted", 40 if quick else POSTED)
        cases = prepare(Path(shared), work, 40 if quick else 1000, only)
        result = describe_machine() | {
            "rounds": rounds,
            "seconds": seconds,
            "target": TARGET,
            "images": len(list(posted.iterdir())),
            "cases": [
                measure(case, posted, number, rounds, seconds, work, threads) for case in cases for number in clients
            ],
        }
    print(table(result))
    if not quick and not only:
        (RESULTS / "path_service.json").write_text(json.dumps(result, indent=2) + "\n")


def prepare(shared: Path, work: Path, subset: int, only: str) -> list[Case]:
    """CelebA's CNN with all layers and with the last three, and ResNet-18; those whose names contain `only`."""
    found, cnn, resnet = [], shared / "models" / "CelebA_CNN.onnx", "ResNet-18, 6 layers"
    common: dict[str, Any] = {
        "cache_root": work / "cache", "preprocessing": "imagenet", "evaluate": False, "check_preprocessing": False
    }  # fmt: skip
    bare = work / "cnn.onnx"  # with its weights, as the path model has them
    bare.write_bytes(load_whole(check_model(cnn)).SerializeToString())
    for layers in LAYERS:
        name = f"CelebA CNN, {layers}"
        if only in name:
            config = RunConfig(
                model=cnn, data_root=shared, name="CelebA", layers=LAYERS[layers], subset=subset, **common
            )
            found.append(Case(name, bare, path_model(config, cnn, work / f"{len(found)}.onnx")))
    if only in resnet:
        network = export(resnet18(), work / "resnet18.onnx")
        photos = prepare_images(shared, work / "set", min(subset, 200))
        config = RunConfig(model=network, data_root=photos, name="ResNet", **common)
        found.append(Case(resnet, network, path_model(config, network, work / "resnet_paths.onnx")))
    return found


def path_model(config: RunConfig, classifier: Path, output: Path) -> Path:
    """Of a set that is made for it."""
    published = run(config).published
    assert published
    export_path_model(published, classifier, output)
    return output


def measure(
    case: Case, images: Path, clients: int, rounds: int, seconds: float, work: Path, threads: int
) -> dict[str, Any]:
    """Both servers under load, in turns."""
    commands = {
        "bare": [str(HERE / "bare_service.py"), str(case.classifier), str(case.paths)],
        "paths": ["-m", "deployments.path_service", str(case.paths)],
    }
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(served([*command, "--threads", str(threads)], work / f"log-{name}"))
            for name, command in commands.items()
        }
        for port, _ in servers.values():
            turn(port, images, clients, min(seconds, 1))
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for index in range(rounds):
            for name in list(servers) if index % 2 else reversed(servers):  # what else runs falls on both alike
                port, process = servers[name]
                before = sum(process.cpu_times()[:2])
                found = turn(port, images, clients, seconds)
                found["cpu_ms"] = 1000 * (sum(process.cpu_times()[:2]) - before) / found["requests"]
                turns[name].append(found)
        memory = {name: memory_of(process) for name, (_, process) in servers.items()}
    middle = {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]} | {"memory_mb": memory[name]}
        for name, found in turns.items()
    }
    pairs = list(zip(turns["bare"], turns["paths"], strict=True))
    shares = [paths["per_second"] / bare["per_second"] for bare, paths in pairs]
    return {
        "case": case.name,
        "clients": clients,
        **middle,
        "throughput_share": statistics.median(shares),
        "throughput_quartiles": np.percentile(shares, [25, 75]).tolist(),
        "cpu_share": statistics.median(bare["cpu_ms"] / paths["cpu_ms"] for bare, paths in pairs),
    }


@contextlib.contextmanager
def served(words: list[str], log: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A server's port and process."""
    output = log.with_suffix(".out")
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *words, "--log-dir", str(log), "--port", "0"],
            stdout=file,
            stderr=file,
            env=environment,
            cwd=PROJECT,
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"^Serving \S+ at http://[\d.]+:(\d+);", output.read_text(), re.M)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The service does not start: {output.read_text()[-2000:]}")
            time.sleep(0.02)
        time.sleep(0.5)
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def turn(port: int, images: Path, clients: int, seconds: float) -> dict[str, float]:
    """Clients in a process of their own."""
    command = [sys.executable, __file__, "--as-client", str(port), "--images", str(images)]
    command += ["--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


async def press(port: int, images: Path, clients: int, seconds: float) -> dict[str, float]:
    """All clients at once for some seconds: images per second, percentiles in ms."""
    requests = []
    for path in sorted(images.iterdir()):
        content = path.read_bytes()
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
        requests.append(head.encode() + content)
    times: list[float] = []
    started = time.monotonic()

    async def post(number: int) -> None:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
        while (began := time.monotonic()) < started + seconds:
            status, _ = await connection.ask(requests[number % len(requests)])
            if status != 200:
                raise RuntimeError(f"answered with {status}")
            times.append(time.monotonic() - began)
            number += clients
        connection.transport.close()

    await asyncio.gather(*(post(number) for number in range(clients)))
    passed = time.monotonic() - started
    p50, p95, p99 = (1000 * np.percentile(times, [50, 95, 99])).tolist()
    return {"requests": len(times), "per_second": len(times) / passed, "p50": p50, "p95": p95, "p99": p99}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"{result['machine']}; load before the start {result['load_average']:.1f}; "
        f"{result['rounds']} rounds of {result['seconds']} s",
        "",
        "| | clients | bare, images/s | paths, images/s | share (quartiles) | CPU ms per image | p50, p95 ms | memory MB |",
        "|---" * 8 + "|",
    ]
    for one in result["cases"]:
        bare, paths = one["bare"], one["paths"]
        low, high = one["throughput_quartiles"]
        lines.append(
            f"| {one['case']} | {one['clients']} | {bare['per_second']:.0f} | {paths['per_second']:.0f} | "
            f"{one['throughput_share']:.2f} ({low:.2f} to {high:.2f}) | {bare['cpu_ms']:.2f} → {paths['cpu_ms']:.2f} | "
            f"{bare['p50']:.1f}, {bare['p95']:.1f} → {paths['p50']:.1f}, {paths['p95']:.1f} | "
            f"{bare['memory_mb']:.0f} → {paths['memory_mb']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cyclopts.run(main)

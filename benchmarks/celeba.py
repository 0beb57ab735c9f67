"""Time and memory an image: our flow beside a plain one-image-at-a-time baseline, in one paired run.

Both run as processes of their own, in turns, on the same files; the cost of an image is the slope between two sizes,
so that start-up does not hide it. Needs CLUSTERPATHS_SHARED (a folder with celeba/ and models/).

    python benchmarks/celeba.py                 500 and 2,000 images three times; memory also at 10,000
    python benchmarks/celeba.py --quick         a check that it works: 40 and 80 images, once
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import cyclopts

HERE = Path(__file__).resolve().parent
FLOW = HERE.parent / "flows" / "celeba.py"


def main(sizes: tuple[int, int] = (500, 2000), repeats: int = 3, memory_at: int = 10_000, quick: bool = False) -> None:
    """Measure, print a Markdown table, and write benchmarks/results/celeba.json.

    Parameters
    ----------
    sizes
        the two numbers of images whose difference gives the cost of an image
    repeats
        runs of each; medians are reported
    memory_at
        number of images at which our peak memory is measured once more
    quick
        40 and 80 images, once; nothing is written
    """
    if quick:
        sizes, repeats, memory_at = (40, 80), 1, 120
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a folder that holds celeba/ and models/.")
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        result = measure(Path(shared), Path(folder), sizes, repeats, memory_at)
    print(table(result))
    if not quick:
        target = HERE / "results" / "celeba.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=2) + "\n")


def measure(shared: Path, work: Path, sizes: tuple[int, int], repeats: int, memory_at: int) -> dict[str, object]:
    """Seconds and peak memory of each way at each size."""
    model = shared / "models" / "CelebA_CNN_instrumented.onnx"
    data = {count: repeat_images(shared / "celeba" / "img_align_celeba", work, count) for count in (*sizes, memory_at)}
    ways = {"baseline": baseline, "npy": flow_npy, "zarr": flow_zarr}
    seconds: dict[str, dict[int, list[float]]] = {way: {count: [] for count in sizes} for way in ways}
    memory: dict[str, dict[int, float]] = {way: {} for way in ways}
    for _ in range(repeats):
        for count in sizes:
            for way, command in ways.items():  # in turns: what else the machine does falls on all alike
                took, peak = run(command(model, data[count], work / "out"), work)
                seconds[way][count].append(took)
                memory[way][count] = max(peak, memory[way].get(count, 0))
    for way in ("npy", "zarr"):
        _, memory[way][memory_at] = run(ways[way](model, data[memory_at], work / "out"), work)
    few, many = sizes
    per_image = {
        way: 1000 * (statistics.median(times[many]) - statistics.median(times[few])) / (many - few)
        for way, times in seconds.items()
    }
    return {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
        "versions": {
            name: version(name) for name in ("prefect", "onnxruntime", "numpy", "scikit-learn", "zarr", "pillow")
        },
        "python": platform.python_version(),
        "seconds": seconds,
        "ms_per_image": per_image,
        "peak_mb": memory,
    }


def repeat_images(images: Path, work: Path, count: int) -> Path:
    """A CelebA folder of `count` distinct files, the given images repeated."""
    root = work / f"data-{count}"
    target = root / "celeba" / "img_align_celeba"
    target.mkdir(parents=True)
    files = sorted(images.glob("*.jpg"))
    for index in range(count):
        shutil.copyfile(files[index % len(files)], target / f"{index + 1:06d}.jpg")
    return root


def baseline(model: Path, data: Path, out: Path) -> list[str]:
    """The command of the plain way."""
    return [sys.executable, str(HERE / "baseline.py"), str(model), str(data / "celeba" / "img_align_celeba"), str(out)]


def flow_npy(model: Path, data: Path, out: Path) -> list[str]:
    """The command of our flow, one .npy an image."""
    options = {"--model": model, "--data-root": data, "--cache-root": out, "--cache-format": "npy"}
    return [sys.executable, str(FLOW), *(str(word) for pair in options.items() for word in pair)]


def flow_zarr(model: Path, data: Path, out: Path) -> list[str]:
    """The command of our flow, zarr."""
    return [*flow_npy(model, data, out)[:-1], "zarr"]


def run(command: list[str], work: Path) -> tuple[float, float]:
    """Seconds and peak memory (MB, of the process itself) of one command; its output folder is removed after."""
    environment = {**os.environ, "PREFECT_HOME": str(work / "prefect"), "PREFECT_LOGGING_LEVEL": "WARNING"}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    took = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}:\n{errors.decode()}")
    shutil.rmtree(work / "out")
    return took, usage.ru_maxrss / 1000  # Linux counts kilobytes


def cpu_name() -> str:
    """As Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def table(result: dict[str, object]) -> str:
    """The result as Markdown."""
    per_image, seconds, memory = result["ms_per_image"], result["seconds"], result["peak_mb"]
    lines = [
        f"{result['machine']}; Python {result['python']}",
        "",
        "| | ms an image | of the baseline | seconds | peak MB |",
    ]
    lines.append("|---|---|---|---|---|")
    for way in per_image:
        times = ", ".join(f"{count:,}: {statistics.median(values):.1f}" for count, values in seconds[way].items())
        peaks = ", ".join(f"{count:,}: {value:.0f}" for count, value in memory[way].items())
        share = per_image[way] / per_image["baseline"]
        lines.append(f"| {way} | {per_image[way]:.2f} | {share:.2f} | {times} | {peaks} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cyclopts.run(main)

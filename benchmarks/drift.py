"""How reliable the drift detector is: false alarms and power on real images, beside detectors that look at no path.

2,000 CelebA images and CelebA's CNN (needs CLUSTERPATHS_SHARED, a directory with celeba/ and models/). Each split takes 1,000
images at random as the reference: the pipeline publishes a set of them, k=5 in five layers. Windows are of the other images.

False alarms: the windows of a split are disjoint. Power: a part of a window is replaced by foreign images, all its images are
changed, or no image of one predicted class is in it; searched is the smallest amount that is found in 80% of the windows.

    python benchmarks/drift.py                      writes benchmarks/results/drift.json (about 25 minutes on 2 cores)
    python benchmarks/drift.py --alibi PYTHON       with alibi-detect too, by the Python of an environment that has it
    python benchmarks/drift.py --quick              a check that it works: one split, few windows, nothing is written

alibi-detect is under the Business Source License, so it is no dependency; it is asked by `drift_alibi.py`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import onnxruntime
from drift_methods import Seen, detectors
from drift_shifts import Shift, shifts, smallest
from evaluation import cpu_name
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import t as student

from clusterpaths.config import RunConfig
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.export.path_model import export_path_model
from clusterpaths.monitoring.reference import reference_routes
from clusterpaths.monitoring.verdict import Routes
from clusterpaths.pipeline import run
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import Preprocessing
from clusterpaths.sets.published import PublishedSet

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "drift.json"
SPLITS, POWER_SPLITS = 60, 6
REFERENCE = 1000
SIZES = (50, 100, 200)
ALPHA = 0.05
SERIES = (200, ALPHA / 100)  # size and level of a window of a series of 100
TRIALS = 20  # windows of a split for each amount
ALIBI_TRIALS = 7
PACKAGES = ("numpy", "scipy", "scikit-learn", "onnxruntime", "pillow")
LAST = "relu_4"  # the output with the last hidden layer
BATCH = 64


@dataclass(frozen=True)
class Split:
    """A reference, what is seen of the images held out from it, and detectors."""

    layers: tuple[str, ...]
    reference: Seen
    held_out: NDArray[np.int64]
    see: Callable[[NDArray[np.uint8]], Seen]


def main(alibi: Path | None = None, quick: bool = False) -> None:
    """Measure, print Markdown tables, and write the numbers.

    Parameters
    ----------
    alibi
        the Python of an environment with alibi-detect and torch, to compare with its KSDrift and MMDDrift
    quick
        a check that it works: one split and few windows; nothing is written
    """
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a directory that holds celeba/ and models/.")
    started = time.perf_counter()
    source = Source(Path(shared))
    alarms: dict[str, list[list[float]]] = {}
    power: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as work:
        splits = []
        for seed in range(1, 2 if quick else SPLITS + 1):  # 0 was looked at when HIGH_SHARE was chosen
            split = source.split(Path(work), seed)
            for name, shares in false_alarms(split, source.pixels).items():
                alarms.setdefault(name, []).append(shares)
            if seed <= POWER_SPLITS:
                splits.append(split)
            print(f"split {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        power = measure_power(splits, source.pixels, 2 if quick else TRIALS, SIZES[1:2] if quick else SIZES)
        others = ask_alibi(alibi, splits, source.pixels, Path(work)) if alibi else None
    result = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "seconds": round(time.perf_counter() - started, 1),
        "images": len(source.pixels),
        "reference": REFERENCE,
        "alpha": ALPHA,
        "series": {"window": SERIES[0], "alpha": SERIES[1]},
        "windows of a split": {str(size): (len(source.pixels) - REFERENCE) // size for size in SIZES},
        "trials": TRIALS * len(splits),
        "false alarms": {
            name: {str(size): spread(column) for size, column in zip(SIZES, zip(*rows, strict=True), strict=True)}
            for name, rows in alarms.items()
        },
        "power": power,
        "alibi-detect": others,
    }
    print(tables(result))
    if not quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


class Source:
    """The images, as the model takes them, and the models that see them."""

    def __init__(self, shared: Path) -> None:
        self._model, self._images = shared / "models" / "CelebA_CNN_instrumented.onnx", shared / "celeba"
        dataset = open_celeba(shared)
        self._files = list(dataset.examples().files)
        self._dataset, self.pixels = dataset, np.empty((0, 0, 0, 3), np.uint8)
        self._plain = open_session(self._model)

    def split(self, work: Path, seed: int) -> Split:
        """Publish the set of a random reference, and see all other images with its path model."""
        order = np.random.default_rng(seed).permutation(len(self._files))
        chosen, held_out = np.sort(order[:REFERENCE]), order[REFERENCE:]
        root = work / f"split-{seed}"
        (root / "data").mkdir(parents=True)
        for at in chosen:
            shutil.copy(self._images / "img_align_celeba" / Path(self._files[at]).name, root / "data")
        config = RunConfig(
            model=self._model,
            dataset="folder",
            data_root=root / "data",
            cache_root=str(root / "cache"),
            name="reference",
            preprocessing="imagenet",
            check_preprocessing=False,
            evaluate=False,
            compare=False,
            seed=seed,
        )
        published = run(config).published
        assert published
        preprocessing = published.record.preprocessing
        if not len(self.pixels):
            self.pixels = np.stack([fit(self._dataset.read_image(file), preprocessing) for file in self._files])
        export_path_model(published, self._model, root / "path_model.onnx")
        see = partial(self._see, open_session(root / "path_model.onnx"), preprocessing)
        reference = self._reference(published, see(self.pixels[chosen]))
        shutil.rmtree(root)
        return Split(published.layers, reference, held_out, see)

    def _reference(self, published: PublishedSet, seen: Seen) -> Seen:
        """With the set's own routes: the order of examples is of no importance to any detector."""
        return Seen(reference_routes(published), seen.confidence, seen.predictions, seen.features, seen.pixels)

    def _see(
        self, session: onnxruntime.InferenceSession, preprocessing: Preprocessing, images: NDArray[np.uint8]
    ) -> Seen:
        parts = []
        for start in range(0, len(images), BATCH):
            given = {session.get_inputs()[0].name: normalise(images[start : start + BATCH], preprocessing)}
            plain = dict(zip([one.name for one in self._plain.get_inputs()], given.values(), strict=True))
            parts.append([*session.run(["logits", "path", "ood_score"], given), *self._plain.run([LAST], plain)])
        logits, clusters, scores, features = (np.concatenate(part) for part in zip(*parts, strict=True))
        predictions = logits.argmax(axis=1)
        routes = Routes(clusters.astype(np.int16), scores.astype(np.float64), predictions.astype(np.int32))
        confidence, pixels = softmax(logits, axis=1).max(axis=1), images.reshape(len(images), -1)
        return Seen(routes, confidence, predictions, features.reshape(len(images), -1), pixels)


def open_session(model: Path) -> onnxruntime.InferenceSession:
    """Of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def false_alarms(split: Split, pixels: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Detector -> share of the disjoint windows of each size that it calls drifted."""
    seen = split.see(pixels[split.held_out])
    return {
        name: [
            float(np.mean([detect(seen.take(np.arange(size) + at), ALPHA, at) for at in starts(len(seen), size)]))
            for size in SIZES
        ]
        for name, detect in detectors(split.reference, split.layers).items()
    }


def starts(n: int, size: int) -> Iterable[int]:
    """Of disjoint windows."""
    return range(0, n - size + 1, size)


def measure_power(
    splits: list[Split], pixels: NDArray[np.uint8], trials: int, sizes: tuple[int, ...]
) -> list[dict[str, Any]]:
    """For each shift, detector and window size the smallest amount found, and the shares of windows that were measured."""
    by_split = [detectors(split.reference, split.layers) for split in splits]
    settings = [(name, size, ALPHA) for name in by_split[0] for size in sizes]
    settings += [("cluster paths", *SERIES)] if len(sizes) > 1 else []
    rows = []
    for shift in shifts([pixels[split.held_out] for split in splits], [split.see for split in splits]):
        for name, size, alpha in settings:

            def power(
                amount: float, shift: Shift = shift, setting: tuple[str, int, float] = (name, size, alpha)
            ) -> float:
                name, size, alpha = setting
                return float(
                    np.mean(
                        [
                            by_split[at][name](shift.window(at, amount, size, trial), alpha, trial)
                            for at in range(len(splits))
                            for trial in range(trials)
                        ]
                    )
                )

            least, measured = smallest(shift.amounts, power)
            rows.append(
                {
                    "shift": shift.name,
                    "detector": name,
                    "window": size,
                    "alpha": alpha,
                    "smallest": least,
                    "found": {f"{amount:g}": round(share, 3) for amount, share in measured.items()},
                }
            )
        print(f"{shift.name}: done", file=sys.stderr, flush=True)
    return rows


def ask_alibi(python: Path, splits: list[Split], pixels: NDArray[np.uint8], work: Path) -> dict[str, Any]:
    """The smallest amounts of alibi-detect's KSDrift and MMDDrift on the last layer, for windows of one size."""
    size, folder = SIZES[1], work / "alibi"
    folder.mkdir()
    arrays = {f"reference {at}": split.reference.features for at, split in enumerate(splits)}
    order: dict[str, list[float]] = {}
    for at, split in enumerate(splits):
        held_out = split.see(pixels[split.held_out])
        arrays[f"quiet {at}"] = np.stack([held_out.features[at : at + size] for at in starts(len(held_out), size)])
    for shift in shifts([pixels[split.held_out] for split in splits], [split.see for split in splits]):
        order[shift.name] = list(shift.amounts)
        for amount in shift.amounts:
            for at in range(len(splits)):
                windows = [shift.window(at, amount, size, trial).features for trial in range(ALIBI_TRIALS)]
                arrays[f"{shift.name} {amount} {at}"] = np.stack(windows)
    np.savez(folder / "windows.npz", **arrays)
    given = {"shifts": order, "splits": len(splits), "alpha": ALPHA}
    (folder / "given.json").write_text(json.dumps(given))
    command = [str(python), str(HERE / "drift_alibi.py"), str(folder)]
    subprocess.run(command, check=True, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found | {"window": size, "trials": ALIBI_TRIALS * len(splits)}


def spread(values: tuple[float, ...]) -> dict[str, float]:
    """Mean over splits, with Student's 95% interval: windows of one split share a reference."""
    mean = float(np.mean(values))
    half = 0.0
    if len(values) > 1:
        half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": round(mean, 4), "low": round(max(mean - half, 0), 4), "high": round(mean + half, 4)}


def tables(result: dict[str, Any]) -> str:
    """Two Markdown tables: false alarms, and the smallest shifts that are found."""
    sizes = list(map(str, SIZES))
    alibi = result["alibi-detect"] or {"false alarms": {}, "power": []}
    lines = [
        f"False alarms at {result['alpha']:.0%} asked for; in brackets 95% intervals over {SPLITS} references.",
        "",
        "| detector | " + " | ".join(f"windows of {size}" for size in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for name, of_size in (result["false alarms"] | alibi["false alarms"]).items():
        cells = [rate(of_size[size]) if size in of_size else "" for size in sizes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    rows = result["power"] + alibi["power"]
    names = list(dict.fromkeys(row["shift"] for row in rows))
    lines += [
        "",
        f"| smallest shift found in 80% of the windows | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    settings = dict.fromkeys((row["detector"], row["window"], row["alpha"]) for row in rows)
    for setting in settings:
        found = {
            row["shift"]: row["smallest"] for row in rows if (row["detector"], row["window"], row["alpha"]) == setting
        }
        cells = [amount(found.get(name)) for name in names]
        lines.append(f"| {setting[0]}, windows of {setting[1]}, level {setting[2]:.4g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rate(one: dict[str, float]) -> str:
    """As 4.1% (2.9 to 5.2)."""
    return f"{one['mean']:.1%} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def amount(value: float | None) -> str:
    """As a share or as a number; a dash: even the strongest is not found."""
    if value is None:
        return "—"
    return f"{value:.3g}" if value > 1 else f"{100 * value:.3g}%"


if __name__ == "__main__":
    cyclopts.run(main)

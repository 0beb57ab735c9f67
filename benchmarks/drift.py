"""How reliable the drift detector is: false alarms and power on real images, beside detectors that look at no path.

2,000 CelebA images and CelebA's CNN (needs CLUSTERPATHS_SHARED, a directory with celeba/ and models/). Each split takes 1,000
images at random as the reference: the pipeline publishes a set of them, k=5 in five layers. Windows are of the other images.

False alarms: the windows of a split are disjoint. Power: a part of a window is replaced by foreign images, all its images are
changed, or no image of one predicted class is in it; searched is the smallest amount that is found in 80% of the windows.

    python benchmarks/drift.py                      writes benchmarks/results/drift.json (about 25 minutes on 2 cores)
    python benchmarks/drift.py --alibi PYTHON       with alibi-detect too, by the Python of an environment that has it
    python benchmarks/drift.py --parts alarms,power some of alarms, power, series, alibi
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import onnxruntime
from drift_methods import METHODS, Detector, Seen, detectors
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
SPLITS, POWER_SPLITS, ALIBI_SPLITS = 30, 5, 2
REFERENCE = 1000
SIZES = (50, 100, 200)
ALPHA = 0.05
PARTS = ("alarms", "power", "series", "alibi")
# Sizes and levels of windows: by hand, and of a series of 100
SETTINGS = {"power": [(size, ALPHA) for size in SIZES[1:]], "series": [(200, ALPHA / 100)]}
TRIALS = {"power": 6, "series": 2, "alibi": 6}  # windows of a split for each amount
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


def main(parts: tuple[str, ...] = PARTS, alibi: Path | None = None, quick: bool = False) -> None:
    """Measure, print Markdown tables, and write the numbers; those of other parts stay as they are.

    Parameters
    ----------
    parts
        what to measure
    alibi
        the Python of an environment with alibi-detect and torch, to compare with its KSDrift and MMDDrift
    quick
        a check that it works: one split and few windows; nothing is written
    """
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a directory that holds celeba/ and models/.")
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"error: --parts names {', '.join(sorted(unknown))}. It should name some of {', '.join(PARTS)}.")
    source, result = Source(Path(shared)), json.loads(RESULT.read_text()) if RESULT.is_file() and not quick else {}
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as work:

        def splits(count: int) -> Iterator[Split]:
            for seed in range(
                1, count + 1
            ):  # 0 was looked at when the test of high OOD scores was chosen; all splits are of the same images
                yield source.split(Path(work), seed)

        for part in parts:
            started = time.perf_counter()
            if part == "alarms":
                found: Any = measure_alarms(splits(1 if quick else SPLITS), source)
            elif part == "alibi":
                if not alibi:
                    continue
                found = ask_alibi(alibi, list(splits(1 if quick else ALIBI_SPLITS)), source.pixels, Path(work))
            else:
                settings = SETTINGS[part][1:2] if quick else SETTINGS[part]
                names = METHODS if part == "power" else METHODS[:1]
                trials = 2 if quick else TRIALS[part]
                ours = list(splits(1 if quick else POWER_SPLITS))
                kinds = (
                    None if part == "power" else 3
                )  # those with foreign images: a drifted window of a series takes seconds
                found = measure_power(ours, source.pixels, names, settings, trials, kinds)
            result[part] = {
                "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
                "python": platform.python_version(),
                "versions": {name: version(name) for name in PACKAGES},
                "seconds": round(time.perf_counter() - started, 1),
                "images": len(source.pixels),
                "reference": REFERENCE,
            } | found
            if not quick:
                stored = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
                RESULT.write_text(json.dumps(stored | {part: result[part]}, indent=1) + "\n")
    print(tables(result))


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


def measure_alarms(splits: Iterable[Split], source: Source) -> dict[str, Any]:
    """For each detector and window size the share of disjoint windows that it calls drifted, over splits."""
    shares: dict[str, dict[str, list[float]]] = {name: {str(size): [] for size in SIZES} for name in METHODS}
    count = 0
    for count, split in enumerate(splits, start=1):
        seen, found = split.see(source.pixels[split.held_out]), detectors(split.reference, split.layers)
        for size in SIZES:
            windows = [seen.take(np.arange(size) + at) for at in starts(len(seen), size)]
            for name, detect in found.items():
                shares[name][str(size)].append(
                    float(np.mean([detect(one, ALPHA, at) for at, one in enumerate(windows)]))
                )
        print(f"reference {count} of {SPLITS}", file=sys.stderr, flush=True)
    return {
        "alpha": ALPHA,
        "references": count,
        "windows of each": {size: len(starts(len(source.pixels) - REFERENCE, int(size))) for size in map(str, SIZES)},
        "detectors": {name: {size: spread(values) for size, values in each.items()} for name, each in shares.items()},
    }


def starts(n: int, size: int) -> range:
    """Of disjoint windows."""
    return range(0, n - size + 1, size)


def measure_power(
    splits: list[Split],
    pixels: NDArray[np.uint8],
    names: Sequence[str],
    settings: Sequence[tuple[int, float]],
    trials: int,
    kinds: int | None = None,
) -> dict[str, Any]:
    """For each of the first `kinds` shifts, detector and setting the smallest amount found, and the shares measured."""
    by_split = [detectors(split.reference, split.layers) for split in splits]
    rows = []
    every = shifts([pixels[split.held_out] for split in splits], [split.see for split in splits])
    for shift in islice(every, kinds):
        for name, (size, alpha) in product(names, settings):
            least, measured = smallest(shift.amounts, partial(found_share, by_split, shift, name, size, alpha, trials))
            row = {"shift": shift.name, "detector": name, "window": size, "alpha": alpha, "smallest": least}
            rows.append(row | {"found": {f"{amount:g}": round(share, 3) for amount, share in measured.items()}})
        print(f"{shift.name}: done", file=sys.stderr, flush=True)
    return {"windows": trials * len(splits), "rows": rows}


def found_share(
    by_split: list[Mapping[str, Detector]], shift: Shift, name: str, size: int, alpha: float, trials: int, amount: float
) -> float:
    """Share of the windows with this amount of a shift that a detector calls drifted."""
    drifted = [
        by_split[at][name](shift.window(at, amount, size, trial), alpha, trial)
        for at in range(len(by_split))
        for trial in range(trials)
    ]
    return float(np.mean(drifted))


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
                windows = [shift.window(at, amount, size, trial).features for trial in range(TRIALS["alibi"])]
                arrays[f"{shift.name} {amount} {at}"] = np.stack(windows)
    np.savez(folder / "windows.npz", **arrays)
    given = {"shifts": order, "splits": len(splits), "alpha": ALPHA}
    (folder / "given.json").write_text(json.dumps(given))
    command = [str(python), str(HERE / "drift_alibi.py"), str(folder)]
    subprocess.run(command, check=True, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found | {"windows": TRIALS["alibi"] * len(splits)}


def spread(values: tuple[float, ...]) -> dict[str, float]:
    """Mean over splits, with Student's 95% interval: windows of one split share a reference."""
    mean = float(np.mean(values))
    half = 0.0
    if len(values) > 1:
        half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": round(mean, 4), "low": round(max(mean - half, 0), 4), "high": round(mean + half, 4)}


def tables(result: dict[str, Any]) -> str:
    """Two Markdown tables of the parts that were measured: false alarms, and the smallest shifts that are found."""
    lines = []
    alarms = result.get("alarms", {}).get("detectors", {}) | result.get("alibi", {}).get("detectors", {})
    if alarms:
        sizes = list(map(str, SIZES))
        lines += ["| false alarms | " + " | ".join(f"windows of {size}" for size in sizes) + " |"]
        lines += ["|---" * (len(sizes) + 1) + "|"]
        for name, of_size in alarms.items():
            cells = [rate(of_size[size]) if size in of_size else "" for size in sizes]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    rows = [row for part in ("power", "alibi", "series") for row in result.get(part, {}).get("rows", [])]
    if rows:
        names = list(dict.fromkeys(row["shift"] for row in rows))
        lines += ["", f"| detector | images | level | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
        for setting in dict.fromkeys((row["detector"], row["window"], row["alpha"]) for row in rows):
            of = [row for row in rows if (row["detector"], row["window"], row["alpha"]) == setting]
            found = {row["shift"]: shown(row["smallest"]) for row in of}
            lines.append(
                f"| {setting[0]} | {setting[1]} | {setting[2]:g} | {' | '.join(found.get(name, '') for name in names)} |"
            )
    return "\n".join(lines)


def rate(one: dict[str, float]) -> str:
    """As 4.1% (2.9 to 5.2)."""
    return f"{one['mean']:.1%} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def shown(value: float | None) -> str:
    """As a share or as a number; a dash: even the strongest is not found."""
    if value is None:
        return "—"
    return f"{value:.3g}" if value > 1 else f"{100 * value:.3g}%"


if __name__ == "__main__":
    cyclopts.run(main)

"""Decision alignment, path agreement and OOD detection of paths of real images, for each seed.

The stage evaluate on published sets of 2,000 real images: two sets of layers, two distances, k=5, three seeds (ten for
the alignment of fc1+fc2). A seed is of the clustering, the split, the noise and the OOD images. Needs
CLUSTERPATHS_SHARED (a directory with celeba/ and models/). If scikit-image is installed, crops of its photographs are
another kind of OOD images.

    python benchmarks/evaluation.py               writes benchmarks/results/evaluation.json
    python benchmarks/evaluation.py --limit 300   a check that it works: few images, one seed, nothing is written
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from PIL import Image

from clusterpaths.config import RunConfig
from clusterpaths.evaluation.evaluate import evaluate_set
from clusterpaths.evaluation.perturb import OODImages, crops
from clusterpaths.evaluation.probe import MAX_OOD
from clusterpaths.pipeline import run

HERE = Path(__file__).resolve().parent
LAYERS = {"fc1+fc2": ("fc1", "fc2"), "all five": ("conv1", "conv2", "conv3", "fc1", "fc2")}
DISTANCES = ("cosine", "euclidean")
SEEDS = (0, 1, 2)
REPEATED = ("fc1+fc2", "cosine")  # over ten seeds: how much of its alignment is luck with the split
TEN = tuple(range(10))
K = 5
IMAGES = 500  # perturbed at most: more than by default, for narrower intervals
# Without people: the astronaut's portrait is a face, so not of another kind than CelebA's.
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
PACKAGES = ("clusterpaths", "numpy", "scipy", "scikit-learn", "scikit-image", "onnxruntime", "pillow")


def main(limit: int | None = None) -> None:
    """Measure, print Markdown tables, and write the numbers.

    Parameters
    ----------
    limit
        only the first images and one seed; nothing is written
    """
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a folder that holds celeba/ and models/.")
    started = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        for (name, layers), distance in product(LAYERS.items(), DISTANCES):
            seeds = TEN if (name, distance) == REPEATED else SEEDS
            for seed in seeds[: 1 if limit else None]:
                # One cache for each choice of layers: seeds and distances are questions to it.
                config = RunConfig(
                    evaluate=False,
                    model=Path(shared) / "models" / "CelebA_CNN_instrumented.onnx",
                    data_root=Path(shared),
                    cache_root=Path(folder) / name,
                    layers=layers,
                    preprocessing="imagenet",
                    distance=distance,
                    k=K,
                    seed=seed,
                    subset=limit,
                    workers=1,
                )
                outcome = run(config)
                published, job = outcome.published, outcome.job
                assert published
                begun = time.perf_counter()
                more = scikit_image_crops(job.preprocessing.size, seed)
                found = evaluate_set(published, job, more=more, images=IMAGES)
                row = {"layers": name, "distance": distance, "seed": seed}
                row |= {"seconds": round(time.perf_counter() - begun, 1)}
                rows.append(row | found.model_dump(mode="json", exclude={"fingerprint", "set", "version"}))
                print(f"{name}, {distance}, seed {seed}: {row['seconds']} s", file=sys.stderr)
    result = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := version_of(name))},
        "seconds": round(time.perf_counter() - started, 1),
        "k": K,
        "rows": rows,
    }
    print(tables(result))
    if limit is None:
        target = HERE / "results" / "evaluation.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(compact(result))


def compact(result: dict[str, Any]) -> str:
    """JSON with one line a row."""
    head = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1)
    rows = ",\n  ".join(json.dumps(row) for row in result["rows"])
    return f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'


def scikit_image_crops(size: tuple[int, int], seed: int) -> dict[str, OODImages]:
    """Crops of the photographs in scikit-image's wheel, a cat, a cup, a rocket, a motorcycle; none without it."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        return {}
    folder = Path(package.origin).parent / "data"
    photographs = [np.asarray(Image.open(folder / name).convert("RGB")) for name in PHOTOGRAPHS]
    rng = np.random.default_rng([seed, 6])
    return {"crops of scikit-image's photographs": crops(photographs, MAX_OOD, size, rng)}


def version_of(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name, as Linux reports it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def tables(result: dict[str, Any]) -> str:
    """Three Markdown tables: alignment, agreement, OOD detection."""
    settings = [(name, distance) for name in LAYERS for distance in DISTANCES]
    of = {
        key: [r for r in result["rows"] if (r["layers"], r["distance"]) == key and r["seed"] in SEEDS]
        for key in settings
    }
    heads = [f"{name}, {distance}" for name, distance in settings]
    first = result["rows"][0]
    lines = [
        f"{first['num_fit']:,} images to fit, {first['num_eval']:,} held out, k={result['k']}. Each number is the mean "
        f"over {len(of[settings[0]])} seeds; in brackets the mean ends of a seed's 95% interval.",
        "",
        "| layers, distance | DAF | each seed | on a seen path | paths | back-off | graded | deep k-NN | majority |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for head, found in zip(heads, of.values(), strict=True):
        each = [row["alignment"] for row in found]
        cells = [measure([one["daf"] for one in each]), ", ".join(f"{one['daf']['value']:.3f}" for one in each)]
        cells += [measure([one["coverage"] for one in each]), " / ".join(str(one["paths"]) for one in each)]
        cells += [measure([one[other] for one in each]) for other in ("back_off", "graded", "deep_knn", "majority")]
        lines.append(f"| {head} | {' | '.join(cells)} |")
    daf = [r["alignment"]["daf"]["value"] for r in result["rows"] if (r["layers"], r["distance"]) == REPEATED]
    lines += [
        "",
        f"{', '.join(REPEATED)}, {len(daf)} seeds: DAF {statistics.fmean(daf):.3f}, {min(daf):.3f} to {max(daf):.3f}",
    ]
    lines += ["", f"| change | same decision | {' | '.join(heads)} |", "|---|---" + "|---" * len(heads) + "|"]
    for at, change in enumerate(first["perturbations"]):
        same = [measure([row["perturbations"][at]["paths"] for row in found]) for found in of.values()]
        decided = measure([row["perturbations"][at]["predictions"] for row in of[settings[0]]])
        lines.append(f"| {change['name']} | {decided} | {' | '.join(same)} |")
    lines += ["", *ood_detection(of, first, "auroc", "AUROC"), "", *ood_detection(of, first, "fpr95", "FPR95")]
    lines += ["", f"{result['machine']}; {result['seconds']:.0f} s in all."]
    return "\n".join(lines)


def ood_detection(
    of: dict[tuple[str, str], list[dict[str, Any]]], first: dict[str, Any], key: str, label: str
) -> list[str]:
    """One row for each kind of OOD images: the paths of each setting, then the scores that need no paths."""
    others = ("max softmax", "max logit", "energy", "deep k-NN", "Mahalanobis", "ViM")
    heads = [f"paths: {name}, {distance}" for name, distance in of] + list(others)
    lines = [f"| {label} | {' | '.join(heads)} |", "|---" + "|---" * len(heads) + "|"]
    for at, images in enumerate(first["strangers"]):

        def scored(found: list[dict[str, Any]], score: str, at: int = at) -> str:
            return measure([next(s for s in r["strangers"][at]["scores"] if s["score"] == score)[key] for r in found])

        cells = [scored(found, "paths") for found in of.values()]
        cells += [scored(next(iter(of.values())), score) for score in others]
        lines.append(f"| {images['name']} | {' | '.join(cells)} |")
    return lines


def measure(each: list[dict[str, Any]]) -> str:
    """As .926 (.900 to .950): means over seeds."""
    middle, low, high = (statistics.fmean(one[key] for one in each) for key in ("value", "low", "high"))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    cyclopts.run(main)

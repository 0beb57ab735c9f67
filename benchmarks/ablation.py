"""Evaluation of the defaults: distance, scaling, k, layers and seeds, on real images.

Every setting is fitted on 80% of the images and evaluated on the held-out 20%: decision alignment (DAF), occupied paths,
path agreement under Gaussian noise, and how well the OOD score separates upside-down images and uniform noise from real
ones. Clusters are fitted on random projections of each layer's scaled activations to 256 dimensions, the best of
ten k-means++ runs. Needs CLUSTERPATHS_SHARED (a directory with celeba/ and models/).

    python benchmarks/ablation.py               writes docs/ablation.md, docs/ablation.svg, benchmarks/results/ablation.json
    python benchmarks/ablation.py --limit 100   a check that it works: few images, nothing is written
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from ablation_page import DISTANCES, KS, LAYERS, SCALINGS, SIGMA, default_of, document, plot, table
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from clusterpaths.clustering.seeding import SKETCH_WIDTH
from clusterpaths.common.threads import one_thread
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.metrics.alignment import decision_alignment, split_fit_eval
from clusterpaths.metrics.detection import auroc
from clusterpaths.metrics.ood import scale_distances
from clusterpaths.metrics.paths import count_paths
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession
from clusterpaths.preprocessing.prepare import normalise, resize, resolve_preprocessing

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
SEEDS = (0, 1, 2)
BATCH = 50
RESAMPLES = 500

Sketches = dict[tuple[str, str], dict[str, NDArray[np.float32]]]  # (layer, scaling) -> kind of images -> (n, 256)


def main(limit: int | None = None) -> None:
    """Measure, print a Markdown table, and write it.

    Parameters
    ----------
    limit
        only the first images; nothing is written
    """
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a folder that holds celeba/ and models/.")
    started = time.perf_counter()
    with one_thread():
        sketches, predictions, fit, held_out = project(Path(shared), limit)
        projected = time.perf_counter()
        rows = sweep(sketches, predictions, fit, held_out)
    result = {
        "images": len(predictions),
        "fit": len(fit),
        "eval": len(held_out),
        "seconds": {"project": round(projected - started, 1), "sweep": round(time.perf_counter() - projected, 1)},
        "seeds": list(SEEDS),
        "rows": rows,
    }
    print(table(result))
    if limit is None:
        (DOCS / "ablation.md").write_text(document(result))
        (DOCS / "ablation.svg").write_text(plot(rows))
        target = HERE / "results" / "ablation.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n")


def project(
    shared: Path, limit: int | None
) -> tuple[Sketches, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sketches of each layer and scaling, predictions (n,), and the positions to fit and to judge."""
    model = check_model(shared / "models" / "CelebA_CNN_instrumented.onnx", None)
    preprocessing, _ = resolve_preprocessing(model, "imagenet", None, None, None)
    model = instrument_model(model, preprocessing.size)
    session = TapSession(model)
    dataset = open_celeba(shared)
    files = dataset.examples().files[:limit]
    pixels = np.stack([resize(dataset.read_image(file), preprocessing.size) for file in files])  # (n, h, w, 3) uint8
    fit, held_out = split_fit_eval(len(files))
    rng = np.random.default_rng(0)
    noisy = pixels[held_out] + rng.normal(0, 255 * SIGMA, pixels[held_out].shape)
    kinds = {
        "clean": pixels,
        "noisy": noisy.clip(0, 255).round().astype(np.uint8),
        "upside-down": pixels[held_out][:, ::-1],
        "uniform noise": rng.integers(0, 256, pixels[held_out].shape, dtype=np.uint8),
    }

    def run(images: NDArray[np.uint8]) -> Iterator[tuple[slice, Any]]:
        for start in range(0, len(images), BATCH):
            where = slice(start, min(start + BATCH, len(images)))
            yield where, session.run(normalise(images[where], preprocessing))

    shapes = {tap.layer: int(np.prod(tap.shape)) for tap in model.taps}
    sums = {layer: np.zeros((2, width)) for layer, width in shapes.items()}
    for _, out in run(pixels[fit]):
        for layer, values in out.layers.items():
            flat = values.reshape(len(values), -1)
            sums[layer][0] += flat.sum(axis=0)
            sums[layer][1] += np.einsum("ij,ij->j", flat, flat)
    moments = {}
    for layer, (total, squares) in sums.items():
        mean = total / len(fit)
        std = np.sqrt(np.maximum(squares / len(fit) - mean**2, 0))
        moments[layer] = mean.astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)
    projections = {
        layer: rng.standard_normal((width, SKETCH_WIDTH), np.float32) / np.float32(np.sqrt(SKETCH_WIDTH))
        if width > SKETCH_WIDTH
        else np.eye(width, dtype=np.float32)
        for layer, width in shapes.items()
    }
    sketches: Sketches = {pair: {} for pair in product(shapes, SCALINGS)}
    predictions = np.empty(len(pixels), np.int64)
    for kind, images in kinds.items():
        for layer, scaling in sketches:
            sketches[layer, scaling][kind] = np.empty((len(images), projections[layer].shape[1]), np.float32)
        for where, out in run(images):
            if kind == "clean":
                predictions[where] = out.logits.argmax(axis=1)
            for layer, values in out.layers.items():
                flat = values.reshape(len(values), -1)
                mean, std = moments[layer]
                scaled = {
                    "none": flat,
                    "standard": (flat - mean) / std,
                    "square root": np.sqrt(np.abs(flat)) * np.sign(flat),
                }
                for scaling in SCALINGS:
                    sketches[layer, scaling][kind][where] = scaled[scaling] @ projections[layer]
    return sketches, predictions, fit, held_out


def sweep(
    sketches: Sketches, predictions: NDArray[np.int64], fit: NDArray[np.int64], held_out: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """A row for each setting: means over seeds, with intervals over images."""
    rows = []
    for distance, scaling, k in product(DISTANCES, SCALINGS, KS):
        found = {
            (layer, seed): cluster(sketches[layer, scaling], fit, held_out, distance, k, seed)
            for layer, seed in product(LAYERS[-1], SEEDS)
        }
        for layers in LAYERS:
            right, same, paths = [], [], []
            scores: dict[str, list[NDArray[np.float64]]] = {"clean": [], "upside-down": [], "uniform noise": []}
            for seed in SEEDS:
                each = [found[layer, seed] for layer in layers]
                clean, noisy = (np.stack([one["labels"][kind] for one in each], axis=1) for kind in ("clean", "noisy"))
                alignment = decision_alignment(clean[fit], predictions[fit], clean[held_out], predictions[held_out])
                right.append(alignment.predicted == predictions[held_out])
                same.append((clean[held_out] == noisy).all(axis=1))
                paths.append(len(count_paths(clean).counts))
                for kind in scores:
                    scores[kind].append(np.mean([one["standardised"][kind] for one in each], axis=0))
            rows.append(
                {
                    "distance": distance,
                    "scaling": scaling,
                    "k": k,
                    "layers": list(layers),
                    "daf": share(np.mean(right, axis=0)),
                    "right": np.mean(right, axis=0),
                    "same": np.mean(same, axis=0),
                    "daf_of_seeds": [round(float(one.mean()), 4) for one in right],
                    "paths": round(float(np.mean(paths)), 1),
                    "agreement": share(np.mean(same, axis=0)),
                    "upside_down": area(scores["clean"], scores["upside-down"]),
                    "uniform_noise": area(scores["clean"], scores["uniform noise"]),
                }
            )
    return [compared(row, default_of(rows, tuple(row["layers"]))) for row in rows]


def compared(row: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """The row with its gains over the default image by image, which are known better than either figure is."""
    gains = {"daf_gain": share(row["right"] - default["right"]), "agreement_gain": share(row["same"] - default["same"])}
    return {name: value for name, value in row.items() if name not in ("right", "same")} | gains


def cluster(
    kinds: dict[str, NDArray[np.float32]],
    fit: NDArray[np.int64],
    held_out: NDArray[np.int64],
    distance: str,
    k: int,
    seed: int,
) -> dict[str, dict[str, NDArray[Any]]]:
    """One layer: labels of each kind of images, and distances to the own centroid, standardised within the cluster."""

    def scaled(x: NDArray[np.float32]) -> NDArray[np.float32]:
        if distance == "euclidean":
            return x
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        return (x / np.where(norms > 0, norms, 1)).astype(np.float32)

    clean = scaled(kinds["clean"])
    centroids = KMeans(k, n_init=10, random_state=seed).fit(clean[fit]).cluster_centers_
    centroids = scaled(centroids)

    def assign(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        squared = (x * x).sum(axis=1)[:, None] - 2 * x @ centroids.T + (centroids * centroids).sum(axis=1)
        gaps = np.maximum(squared.min(axis=1), 0).astype(np.float64)
        return squared.argmin(axis=1), gaps / 2 if distance == "cosine" else np.sqrt(gaps)

    labels, far = assign(clean)
    noisy, _ = assign(scaled(kinds["noisy"]))
    scale = scale_distances(labels[fit, None], far[fit, None], [k])
    found = {"clean": (labels[held_out], far[held_out])}
    found |= {kind: assign(scaled(kinds[kind])) for kind in ("upside-down", "uniform noise")}
    standardised = {kind: scale.score(at[:, None], gaps[:, None]) for kind, (at, gaps) in found.items()}
    return {"labels": {"clean": labels, "noisy": noisy}, "standardised": standardised}


def share(values: NDArray[np.float64]) -> list[float]:
    """Mean over images (each already a mean over seeds), and its 95% bootstrap interval."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return [round(float(number), 4) for number in (values.mean(), low, high)]


def area(own: list[NDArray[np.float64]], others: list[NDArray[np.float64]]) -> list[float]:
    """AUROC: mean over seeds, and its 95% bootstrap interval over images."""
    rng = np.random.default_rng(0)
    values = [mean_auroc(own, others)]
    for _ in range(RESAMPLES // 5):
        a = rng.integers(len(own[0]), size=len(own[0]))
        b = rng.integers(len(others[0]), size=len(others[0]))
        values.append(mean_auroc([one[a] for one in own], [one[b] for one in others]))
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return [round(float(number), 4) for number in (values[0], low, high)]


def mean_auroc(own: list[NDArray[np.float64]], others: list[NDArray[np.float64]]) -> float:
    """Over seeds."""
    return float(np.mean([auroc(*pair) for pair in zip(own, others, strict=True)]))


if __name__ == "__main__":
    cyclopts.run(main)

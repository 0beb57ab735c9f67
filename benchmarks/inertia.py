"""Inertia of all images' activations around our centroids, relative to scikit-learn's KMeans(n_init=10) on all of them.

Ours are fitted on the sample that a run fits on: max(4,096, 800 k) rows by hash of their number. Up to 2,000 images are those
of the data set; beyond, each is also mirrored, cropped and shifted, so that all differ. Activations are float16, as in a
cache, in a file on disk.

KMeans runs on the COMPONENTS leading principal components, from the exact Gram matrix of all rows, then Lloyd's algorithm
runs to its end on complete rows, by the Gram matrix again: with the labels that KMeans found it hardly moves (at most five
iterations, 2e-5 of the inertia).

    python benchmarks/inertia.py --images 2000,12000 --ks 5,15,30        needs 5 GB of memory for 12,000 images
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from machine import Material, prepare
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.cluster import KMeans

from clusterpaths.cache.fit_sample import draw_ids, fit_size
from clusterpaths.cache.rows import BLOCK_BYTES, MAX_BLOCK_ROWS, to_float32
from clusterpaths.clustering import kmeans
from clusterpaths.clustering.reading import Where
from clusterpaths.common.threads import one_thread
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.models.check import check_model
from clusterpaths.models.session import TapSession
from clusterpaths.preprocessing.prepare import fit as fit_image
from clusterpaths.preprocessing.prepare import normalise, preset_preprocessing
from clusterpaths.records import Distance

KS = (5, 15, 30)
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")
VARIANTS = 6  # of each image, at most
COMPONENTS = 1024
_BATCH = 60


@dataclass
class HeldRows:
    """Some rows of a layer's (n, width) float16 values (`reading.Rows`), in blocks as from a cache."""

    values: NDArray[np.float16]
    chosen: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.width = self.values.shape[1]
        self.block_rows = int(np.clip(BLOCK_BYTES // (self.width * 4), 1, MAX_BLOCK_ROWS))

    def __len__(self) -> int:
        return len(self.chosen)

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
        count = len(self) if positions is None else len(positions)
        for start in range(0, count, self.block_rows):
            stop = min(start + self.block_rows, count)
            where: Where = slice(start, stop) if positions is None else positions[start:stop]
            yield where, to_float32(np.ascontiguousarray(self.values[self.chosen[where]]))


def measure(
    material: Material,
    counts: Sequence[int],
    ks: Sequence[int] = KS,
    starts: int = 10,
    layers: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """For each number of images, layer, distance and k: our inertia, KMeans's, their ratio, and seconds of both fits."""
    entries = []
    for images in counts:
        for layer, values in activations(material, images).items():
            if layers is not None and layer not in layers:
                continue
            gram = gram_matrix(values)
            for distance in DISTANCES:
                products = unit_products(gram) if distance == "cosine" else gram
                points = principal_components(products, min(COMPONENTS, values.shape[1]))
                for k in ks:
                    started = time.perf_counter()
                    ours = fitted_inertia(values, k, distance)
                    took = time.perf_counter() - started
                    started = time.perf_counter()
                    labels = KMeans(k, n_init=starts, random_state=0).fit_predict(points)
                    theirs = lloyd(products, labels, k, unit_centroids=distance == "cosine")
                    entry = {"images": images, "layer": layer, "distance": distance, "k": k, "ours": ours}
                    entry |= {"kmeans": theirs, "ratio": ours / theirs, "seconds": took}
                    entries.append({**entry, "kmeans_seconds": time.perf_counter() - started})
    return entries


def fitted_inertia(values: NDArray[np.float16], k: int, distance: Distance) -> float:
    """Inertia of all rows (n, width) around centroids that were fitted on the sample of them."""
    n = len(values)
    sample = draw_ids(np.arange(1, n + 1), fit_size(k)) - 1
    found = kmeans.fit(HeldRows(values, sample), k, distance, 0)
    labels, distances = np.empty(n, np.int16), np.empty(n, np.float32)
    with one_thread():
        return kmeans.assign(HeldRows(values, np.arange(n)), found.centroids, distance, labels, distances)[0]


def activations(material: Material, images: int) -> dict[str, NDArray[np.float16]]:
    """Layer -> (images, width) float16, in files of `material.work`; images are VARIANTS of the originals."""
    model = check_model(material.model)
    preprocessing = preset_preprocessing("imagenet", model.size)
    session = TapSession(model, {tap.layer: "float16" for tap in model.taps})
    held: dict[str, NDArray[np.float16]] = {}

    def prepared(index: int) -> NDArray[np.uint8]:
        variant, original = divmod(index, len(material.originals))
        return fit_image(varied(open_rgb(material.originals[original]), variant, original), preprocessing)

    if images > VARIANTS * len(material.originals):
        raise ValueError(f"{images} images are more than {VARIANTS} variants of {len(material.originals)} originals.")
    with ThreadPoolExecutor() as pool:
        for start in range(0, images, _BATCH):
            stop = min(start + _BATCH, images)
            pixels = np.stack(list(pool.map(prepared, range(start, stop))))
            for layer, found in session.run(normalise(pixels, preprocessing)).layers.items():
                if layer not in held:
                    shape, file = (images, found[0].size), material.work / f"{layer}-{images}.npy"
                    held[layer] = np.lib.format.open_memmap(file, "w+", np.float16, shape)
                held[layer][start:stop] = found.reshape(stop - start, -1)
    return held


def varied(image: Image.Image, variant: int, seed: int) -> Image.Image:
    """Variant 0 is the image, 1 its mirror image, 2 and 3 are cropped, 4 and 5 shifted, odd ones mirrored."""
    if variant % 2:
        image = ImageOps.mirror(image)
    if variant < 2:
        return image
    draws = np.random.default_rng([seed, variant])
    share = draws.uniform(0.75, 0.95) if variant < 4 else 0.9
    width, height = int(share * image.width), int(share * image.height)
    across, down = image.width - width, image.height - height
    left, top = (
        (across // 2, down // 2) if variant < 4 else (int(draws.integers(across + 1)), int(draws.integers(down + 1)))
    )
    return image.crop((left, top, left + width, top + height))


def gram_matrix(values: NDArray[np.float16]) -> NDArray[np.float32]:
    """Products (n, n) of the rows (n, width): all that k-means depends on."""
    gram = np.zeros((len(values), len(values)), np.float32)
    for start in range(0, values.shape[1], 4096):
        piece = values[:, start : start + 4096].astype(np.float32)
        gram += piece @ piece.T  # numpy computes one half of it
    return gram


def unit_products(gram: NDArray[np.float32]) -> NDArray[np.float32]:
    """Products of the rows at unit length; rows of zeros stay."""
    lengths = np.sqrt(np.diag(gram))
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = gram / lengths[:, None]
    unit /= lengths
    return unit


def principal_components(gram: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Coordinates (n, at most `most`) of rows with these products: subspace iteration (Halko and others 2011)."""
    basis = np.random.default_rng(0).standard_normal((len(gram), min(most, len(gram))), np.float32)
    for _ in range(3):
        basis = np.linalg.qr(gram @ basis)[0]
    squares, directions = np.linalg.eigh((basis.T @ (gram @ basis)).astype(np.float64))
    found: NDArray[np.float32] = (basis @ directions.astype(np.float32)) * np.sqrt(np.maximum(squares, 0)).astype(
        np.float32
    )
    return found


def lloyd(gram: NDArray[np.float32], labels: NDArray[Any], k: int, *, unit_centroids: bool) -> float:
    """Inertia where Lloyd's algorithm ends from these labels (n,); around unit centroids where asked."""
    lengths = np.diag(gram).astype(np.float64)
    for _ in range(100):
        member = np.equal.outer(labels, np.arange(k)).astype(np.float32)  # (n, k)
        sums = (gram @ member).astype(np.float64)  # product of each row with each cluster's sum
        squares = np.einsum("nk,nk->k", member, sums)  # of the sums
        sizes = np.maximum(member.sum(axis=0), 1).astype(np.float64)
        moved = (squares / sizes**2 - 2 * sums / sizes).argmin(axis=1)
        if np.array_equal(moved, labels):
            break
        labels = moved
    if unit_centroids:
        return float(2 * (lengths > 0).sum() - 2 * np.sqrt(np.maximum(squares, 0)).sum())
    return float(lengths.sum() - (squares / sizes).sum())


def table(result: list[dict[str, Any]]) -> str:
    """The result as Markdown."""
    layers = list(dict.fromkeys(entry["layer"] for entry in result))
    lines = [f"| our inertia / KMeans(n_init=10)'s | k | {' | '.join(layers)} |", "|---" * (len(layers) + 2) + "|"]
    for images, distance, k in dict.fromkeys((e["images"], e["distance"], e["k"]) for e in result):
        own = {e["layer"]: e["ratio"] for e in result if (e["images"], e["distance"], e["k"]) == (images, distance, k)}
        lines.append(f"| {images:,} images, {distance} | {k} | {' | '.join(f'{own[layer]:.4f}' for layer in layers)} |")
    return "\n".join(lines)


def main(images: str = "2000,12000", ks: str = "5,15,30", layers: str = "") -> None:
    """Print the table.

    Parameters
    ----------
    images
        numbers of images, separated by commas
    ks
        numbers of clusters
    layers
        some of the layers; all if left out
    """
    counts = [int(number) for number in images.split(",")]
    with tempfile.TemporaryDirectory(prefix="clusterpaths-inertia-") as temporary:
        material = prepare(Path(temporary), max(counts))
        numbers = [int(k) for k in ks.split(",")]
        print(table(measure(material, counts, numbers, layers=layers.split(",") if layers else None)))


if __name__ == "__main__":
    cyclopts.run(main)

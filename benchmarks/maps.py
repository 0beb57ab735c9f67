"""What the maps of a set cost, and how many of the nearest neighbours they find.

    python benchmarks/maps.py cost --other DIRECTORY     DIRECTORY: a checkout of a commit from before there were maps
    python benchmarks/maps.py neighbours
    python benchmarks/maps.py umap

Belongs here: complete runs of both commits in turns, without evaluation; the ten nearest neighbours by complete activations
beside those by components; and what points by UMAP cost. Results are printed as JSON lines.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from machine import PROJECT, Material, describe_machine, prepare, watch
from numpy.typing import NDArray

from clusterpaths.cache.rows import LayerRows
from clusterpaths.config import RunConfig
from clusterpaths.pipeline import run
from clusterpaths.sets.maps import MAPS
from clusterpaths.sets.published import PublishedSet, open_set

NEIGHBOURS, AMONG = 10, (10, 50, 100)
app = cyclopts.App(help=__doc__)


@app.command
def cost(
    other: Path, sizes: Sequence[int] = (6000,), formats: Sequence[str] = ("zarr", "none"), repeats: int = 3,
    work: Path | None = None,
) -> None:  # fmt: skip
    """Seconds, peak memory and the stages of runs of the other commit and of this one, in turns.

    Parameters
    ----------
    other
        checkout of the other commit
    sizes
        numbers of images
    formats
        of the cache
    repeats
        turns
    work
        a directory for images and results; a temporary one if left out
    """
    with tempfile.TemporaryDirectory(dir=work) as directory:
        material = prepare(Path(directory), max(sizes))
        print(json.dumps(describe_machine()))
        for count in sizes:
            root = material.images(count)
            for turn in range(repeats):
                for cache_format in formats:
                    for way, checkout in (("without", other.absolute()), ("with", PROJECT)):
                        found = one_run(material, root, checkout, cache_format)
                        print(json.dumps({"images": count, "turn": turn, "format": cache_format, "maps": way} | found))


def one_run(material: Material, root: Path, checkout: Path, cache_format: str) -> dict[str, Any]:
    """One run by the code of a checkout; its results are removed."""
    out, errors = material.work / "out", material.work / "errors.txt"
    images = root / "celeba" / "img_align_celeba"
    given = {
        "model": str(material.model), "dataset": "folder", "data_root": str(images), "cache_root": str(out), "name": "R",
        "cache_format": cache_format, "evaluate": False, "check_preprocessing": False,
    }  # fmt: skip
    program = (
        f"from clusterpaths.config import RunConfig; from clusterpaths.pipeline import run; run(RunConfig(**{given!r}))"
    )
    found: dict[str, Any] = watch(
        [sys.executable, "-P", "-c", program], os.environ | {"PYTHONPATH": str(checkout)}, errors
    )
    published = open_set(out / "R" / "set_01")
    found["stages"] = {stage.stage: round(stage.seconds, 2) for stage in published.record.stages}
    found["bytes"] = {file.name: file.stat().st_size for file in published.path.iterdir() if file.suffix != ".html"}
    shutil.rmtree(out)
    return found


@app.command
def neighbours(work: Path | None = None) -> None:
    """Share of the ten nearest neighbours by complete activations among the nearest by components, in each layer."""
    with tempfile.TemporaryDirectory(dir=work) as directory:
        material = prepare(Path(directory), 2000)
        images = material.images(2000) / "celeba" / "img_align_celeba"
        for distance in ("cosine", "euclidean"):
            config = RunConfig(
                model=material.model, dataset="folder", data_root=images, cache_root=directory, name=distance,
                distance=distance, evaluate=False, check_preprocessing=False,
            )  # fmt: skip
            published = run(config).published
            assert published
            for layer in published.layers:
                print(json.dumps({"distance": distance, "layer": layer} | recall(published, layer)))


@app.command
def umap(sizes: Sequence[int] = (20_000, 202_599), work: Path | None = None) -> None:
    """Seconds and peak memory of five layers' points by UMAP, of generated sets.

    Parameters
    ----------
    sizes
        numbers of examples
    work
        a directory for the sets; a temporary one if left out
    """
    sys.path.insert(0, str(PROJECT))  # the generator of large sets is the tests'
    from tests.generated_set import generate, write_random_maps

    print(json.dumps(describe_machine()))
    with tempfile.TemporaryDirectory(dir=work) as directory:
        for count in sizes:
            folder = generate(Path(directory) / str(count), n=count)
            write_random_maps(folder)
            for method in ("nothing", "umap"):  # the first: imports and reading the set
                call = "points.show_points(published, 'umap')" if method == "umap" else "published.ids"
                opened = (
                    f"from clusterpaths.sets import points, published; published = published.open_set({str(folder)!r})"
                )
                found = watch(
                    [sys.executable, "-c", f"{opened}; {call}"],
                    os.environ | {"PYTHONPATH": str(PROJECT)},
                    folder / "errors.txt",
                )
                print(json.dumps({"examples": count, "points": method} | found))


def recall(published: PublishedSet, layer: str) -> dict[str, Any]:
    """By exact principal components of several numbers, with and without residuals; then by the set's map."""
    rows = LayerRows(published.cache, layer, published.ids)
    values = np.concatenate([block for _, block in rows.blocks()])
    if published.record.distance == "cosine":
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    values -= values.mean(axis=0)
    gram = (values @ values.T).astype(np.float64)
    squares = np.diag(gram).copy()
    true = nearest(squares[:, None] + squares - 2 * gram)[:, :NEIGHBOURS]
    variances, left = np.linalg.eigh(gram)
    found = {}
    for d in (8, 16, 32):
        exact = left[:, -d:] * np.sqrt(np.maximum(variances[-d:], 0))
        found |= {f"{d} components": hits(true, exact, np.zeros(len(exact)))}
        found |= {f"{d} and residuals": hits(true, exact, squares - np.square(exact).sum(axis=1))}
    maps = published.maps
    assert maps
    one = maps.layer(layer)
    assert one.residuals is not None
    explained = sum(one.record.explained), float(variances[-16:].sum() / variances.sum())
    return found | {
        f"{MAPS} components": hits(true, one.components.astype(np.float64), np.zeros(len(gram))),
        MAPS: hits(true, one.components.astype(np.float64), np.square(one.residuals.astype(np.float64))),
        "explained, and by exact components": [round(share, 4) for share in explained],
    }


def hits(true: NDArray[np.int64], points: NDArray[np.float64], rest: NDArray[np.float64]) -> list[float]:
    """Share of the true neighbours (n, 10) among the 10, 50 and 100 nearest by points and squared residuals."""
    squares = np.square(points).sum(axis=1)
    order = nearest(squares[:, None] + squares - 2 * points @ points.T + rest)
    shares = [
        np.mean([np.isin(own, row[:most]).mean() for own, row in zip(true, order, strict=True)]) for most in AMONG
    ]
    return [round(float(share), 3) for share in shares]


def nearest(gaps: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n, 100) by distances (n, n), without the row itself."""
    np.fill_diagonal(gaps, np.inf)
    return np.argsort(gaps, axis=1)[:, : AMONG[-1]]


if __name__ == "__main__":
    app()

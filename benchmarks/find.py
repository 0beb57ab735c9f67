"""`clusterpaths find` beside what is true, and at CelebA's size.

duplicates   1,500 real photographs (needs CLUSTERPATHS_SHARED, with celeba/ and models/), of 150 of which there are four changed
             copies: JPEG at quality 60, 5% brighter, cut by two pixels at two sides, half the size; and a mirrored one, which is
             another picture to a CNN. Recall: copies in the group of their original. Precision: groups of one picture alone.
thinned      2,000 drawn faces, from which nine in ten of one hair colour are taken out; for each colour, the rank of the first
             region in which it is clearly more frequent, and the share of its examples that are in listed regions
scale        seconds and memory of each list at 202,599 examples, of a generated set with random coordinates in 25 blobs

    python benchmarks/find.py                   writes benchmarks/results/find.json (five minutes on 2 cores)
    python benchmarks/find.py --parts scale     some of duplicates, thinned, scale; the others stay as they are
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from evaluation import cpu_name
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.explore.library import Library
from clusterpaths.find.coordinates import coordinates
from clusterpaths.find.find import find, prepare
from clusterpaths.find.near_duplicates import EARLY, NEAR, near_pairs
from clusterpaths.find.record import KINDS
from clusterpaths.find.under_covered import find_under_covered
from clusterpaths.pipeline import run
from clusterpaths.sets.maps import MAPS, LayerMap, MapRecord, write_maps
from clusterpaths.sets.published import PublishedSet

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "find.json"
sys.path.insert(0, str(HERE.parent))
PHOTOGRAPHS, COPIED = 1_500, 150
COMPONENTS = 16  # of the generated set
FACES, THINNED = 2_000, 0.9
SAMPLE_MODEL = HERE.parent / "ONNX_models" / "SampleFaces_CNN.onnx"
LIMITS = (0.1, 0.2, NEAR, 0.4, 0.5)
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "q60": lambda image: image,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    "cut": lambda image: image.crop((2, 2, image.width, image.height)).resize(image.size),
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def main(parts: tuple[str, ...] = ("duplicates", "thinned", "scale")) -> None:
    """Measure, print, and write the numbers.

    Parameters
    ----------
    parts
        what to measure
    """
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as work:
        for part in parts:
            found[part] = {"machine": cpu_name()} | {"duplicates": duplicates, "thinned": thinned, "scale": scale}[
                part
            ](Path(work))
    print(json.dumps({part: found[part] for part in parts}, indent=1))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def duplicates(work: Path) -> dict[str, Any]:
    """Recall of each change and precision, at several limits."""
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a directory that holds celeba/ and models/.")
    images = work / "images"
    write_copies(sorted((Path(shared) / "celeba" / "img_align_celeba").glob("*.jpg"))[:PHOTOGRAPHS], images)
    outcome = run(
        RunConfig(
            model=Path(shared) / "models" / "CelebA_CNN_instrumented.onnx", data_root=images, dataset="folder", name="copies",
            cache_root=str(work / "cache"), evaluate=False, check_preprocessing=False,
        )
    )  # fmt: skip
    if outcome.published is None:
        raise RuntimeError("no set was published")
    files = outcome.published.files.to_pylist()
    maps = outcome.published.maps
    if maps is None:
        raise RuntimeError("the set has no maps")
    layers = [coordinates(maps, layer) for layer in maps.layers[:EARLY]]
    return {
        "photographs": PHOTOGRAPHS,
        "copied": COPIED,
        "limits": {f"{near:g}": judge(files, near_pairs(layers, near)[0]) for near in LIMITS},
    }


def write_copies(originals: list[Path], target: Path) -> None:
    """The originals, and changed copies of some of them."""
    target.mkdir()
    for file in originals:
        shutil.copyfile(file, target / file.name)
    for i in np.random.default_rng(0).permutation(len(originals))[:COPIED].tolist():
        with Image.open(originals[i]) as opened:
            image = opened.convert("RGB")
        for name, change in CHANGES.items():
            change(image).save(target / f"{originals[i].stem}_{name}.jpg", quality=60 if name == "q60" else 95)


def judge(files: list[str], pairs: NDArray[np.int64]) -> dict[str, Any]:
    """Of pairs (p, 2): the share of each kind of copy that is joined to its picture, and of pairs of one picture."""
    of = [Path(file).stem.partition("_")[0] for file in files]
    same = [(a, b) for a, b in pairs.tolist() if of[a] == of[b]]
    joined = {i for pair in same for i in pair}
    recall = {
        name: round(sum(i in joined for i, file in enumerate(files) if f"_{name}." in file) / COPIED, 3)
        for name in CHANGES
    }
    return {"pairs": len(pairs), "of one picture": round(len(same) / max(len(pairs), 1), 4), "recall": recall}


def thinned(work: Path) -> dict[str, Any]:
    """Whether a kind of which there are few is listed as under-covered."""
    write_faces(work / "faces", FACES, seed=21)
    found = {}
    outcome = faces_run(work, "all", None)
    labels = outcome.index.labels
    names = [outcome.label_name(i) for i in range(int(labels.max()) + 1)]
    for kind, name in enumerate(names):
        rows = np.flatnonzero(labels == kind)
        gone = set(np.random.default_rng(kind).permutation(rows)[: round(THINNED * len(rows))].tolist())
        files = [file for i, file in enumerate(outcome.files.to_pylist()) if i not in gone]
        index = faces_run(work, name, files).index
        regions = find(index, "under-covered", limit=1000).entries
        own = np.flatnonzero(index.labels == kind)
        inside = {int(row) for region in find_under_covered(index) for row in region.rows}
        ranks = [
            rank
            for rank, region in enumerate(regions, 1)
            for one in region.lifts
            if (one.kind, one.name) == ("label", name)
        ]
        found[name] = {
            "left": len(own), "regions": len(regions), "first": ranks[0] if ranks else None,
            "share_in_regions": round(sum(int(row) in inside for row in own) / len(own), 3),
            "share_of_others": round(len(inside - set(own.tolist())) / (len(index) - len(own)), 3),
        }  # fmt: skip
    return {"faces": FACES, "taken_out": THINNED, "kinds": found}


def faces_run(work: Path, name: str, files: list[str] | None) -> PublishedSet:
    """A set of these of the drawn faces; None: all."""
    folder = work / "faces"
    if files is not None:
        folder = work / name
        shutil.copytree(
            work / "faces", folder, ignore=lambda _, names: [n for n in names if n.endswith(".jpg") and n not in files]
        )
    outcome = run(
        RunConfig(
            model=SAMPLE_MODEL, data_root=folder, cache_root=str(work / "cache"), name=f"faces-{name}", evaluate=False,
            check_preprocessing=False,
        )
    )  # fmt: skip
    if outcome.published is None:
        raise RuntimeError("no set was published")
    return outcome.published


def scale(work: Path) -> dict[str, Any]:
    """Seconds of each list, of a page of it again, and the peak memory of this process."""
    from tests.generated_set import CELEBA, SHAPES, generate

    folder = generate(work / "cache", n=CELEBA)
    draw = np.random.default_rng(0)
    maps = {}
    for layer in SHAPES:
        blobs = draw.normal(0, 2, (25, COMPONENTS)) / np.sqrt(np.arange(1, COMPONENTS + 1))
        points = blobs[draw.integers(0, 25, CELEBA)] + draw.normal(size=(CELEBA, COMPONENTS)) / np.sqrt(
            np.arange(1, COMPONENTS + 1)
        )
        points[1000:2000] = points[:1000] + draw.normal(0, 0.002, (1000, COMPONENTS))  # a thousand near copies
        maps[layer] = LayerMap(MapRecord(), points[:, :2].astype(np.float32), points.astype(np.float32))
    write_maps(folder / MAPS, maps)
    del maps
    index = Library(work / "cache").set("CelebA", "set_01")
    result: dict[str, Any] = {"examples": CELEBA, "before_mb": peak_mb()}
    for kind in KINDS:
        start, cpu = time.perf_counter(), time.process_time()
        prepare(index, kind)
        cpu = time.process_time() - cpu
        listed = time.perf_counter()
        page = find(index, kind)
        result[kind] = {
            "seconds": round(listed - start, 2), "cpu_seconds": round(cpu, 2),
            "page_ms": round(1000 * (time.perf_counter() - listed), 1),
            "entries": page.total, "peak_mb": peak_mb(),
        }  # fmt: skip
    return result


def peak_mb() -> int:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    cyclopts.run(main)

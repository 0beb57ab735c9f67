"""Does the path carry the decision? Steering and necessity of every layer, for several models, distances and seeds.

The stage evaluate on published sets: CelebA's CNN on 2,000 real images (needs CLUSTERPATHS_SHARED, a directory with celeba/ and
models/), and on 2,000 drawn faces the sample's model and two of torchvision's architectures, ResNet-18 and a small ViT, which are
trained here for some epochs. k=5; a seed is of the clustering, the split and the random directions.

    python benchmarks/interventions.py           writes benchmarks/results/interventions.json (about 15 minutes on 2 cores)
    python benchmarks/interventions.py --quick   a check that it works: few images, one seed, nothing is written
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from evaluation import compact, cpu_name, measure

from clusterpaths.config import SAMPLE_MODEL, RunConfig
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.models.find import default_model
from clusterpaths.pipeline import run
from clusterpaths.preprocessing.prepare import normalise, resize
from clusterpaths.training.export_network import export_network
from clusterpaths.training.train import PREPROCESSING, SIZE

HERE = Path(__file__).resolve().parent
DISTANCES = ("cosine", "euclidean")
SEEDS = (0, 1, 2)
K, CLASSES = 5, 5
TRAINED_ON, EPOCHS, BATCH = 3000, 6, 64
STEERED = ("steered", "random", "patched", "before", "changed")
KEPT = ("cluster", "onwards", "mean")


@dataclass(frozen=True)
class Subject:
    """A model and the images that it is asked about."""

    name: str
    model: Path
    images: Path


def main(quick: bool = False) -> None:
    """Measure, print a Markdown table for each model, and write the numbers.

    Parameters
    ----------
    quick
        a check that it works: few images and one seed; nothing is written
    """
    started, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        for subject in subjects(Path(folder), quick):
            for distance, seed in product(DISTANCES, SEEDS[: 1 if quick else None]):
                config = RunConfig(
                    model=subject.model,
                    data_root=subject.images,
                    cache_root=Path(folder) / "cache",
                    name=subject.name.replace(" ", "-"),
                    distance=distance,
                    seed=seed,
                    k=K,
                    subset=200 if quick else None,
                )
                begun = time.perf_counter()
                published = run(config).published
                assert published
                found = read_evaluation(published)
                assert found
                seconds = round(time.perf_counter() - begun, 1)
                row = {"model": subject.name, "distance": distance, "seed": seed, "seconds": seconds}
                measures = {"steering": found.steering, "necessity": found.necessity}
                rows.append(
                    row | {name: [one.model_dump(mode="json") for one in many] for name, many in measures.items()}
                )
                print(f"{subject.name}, {distance}, seed {seed}: {seconds} s", file=sys.stderr)
    result = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "onnxruntime", "numpy", "scikit-learn")},
        "seconds": round(time.perf_counter() - started, 1),
        "k": K,
        "rows": rows,
    }
    print(tables(result))
    if not quick:
        (HERE / "results" / "interventions.json").write_text(compact(result))


def subjects(work: Path, quick: bool) -> Iterator[Subject]:
    """Each model when it is made."""
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if shared:
        yield Subject("CelebA's CNN", Path(shared) / "models" / "CelebA_CNN_instrumented.onnx", Path(shared))
    faces = work / "faces"
    write_faces(faces, 200 if quick else 2000, seed=1000)  # that no model was trained on
    yield Subject("sample's CNN", default_model(SAMPLE_MODEL), faces)
    for name, make in NETWORKS.items():
        yield Subject(name, train(make, work / f"{name}.onnx", work / "training", 300 if quick else TRAINED_ON), faces)


def resnet18() -> Any:
    """Of torchvision, for images of 64x64."""
    import torchvision

    return torchvision.models.resnet18(num_classes=CLASSES)


def vit() -> Any:
    """Six blocks of width 96 over 65 tokens."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=SIZE[0], patch_size=8, num_layers=6, num_heads=4, hidden_dim=96, mlp_dim=192, num_classes=CLASSES
    )


NETWORKS: dict[str, Callable[[], Any]] = {"ResNet-18": resnet18, "ViT": vit}


def train(make: Callable[[], Any], path: Path, images: Path, count: int) -> Path:
    """The network as ONNX, trained on drawn faces."""
    import torch

    torch.manual_seed(0)
    write_faces(images, count, seed=0)
    dataset = open_celeba(images)
    table = dataset.examples()
    pixels = np.stack([resize(dataset.read_image(file), SIZE) for file in table.files])
    x, y = torch.from_numpy(normalise(pixels, PREPROCESSING)), torch.from_numpy(table.labels.astype(np.int64))
    network = make()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    for epoch in range(EPOCHS):
        order, right = torch.randperm(len(x)), 0
        for some in order.split(BATCH):
            scores = network(x[some])
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(scores, y[some]).backward()
            optimiser.step()
            right += int((scores.argmax(1) == y[some]).sum())
        print(f"{path.stem}, epoch {epoch + 1}: {right / len(x):.1%} of the training images", file=sys.stderr)
    path.write_bytes(export_network(network.eval(), SIZE, {}))
    return path


def tables(result: dict[str, Any]) -> str:
    """One table for each model and distance: a row per layer."""
    lines = []
    for key in dict.fromkeys((row["model"], row["distance"]) for row in result["rows"]):
        found = [row for row in result["rows"] if (row["model"], row["distance"]) == key]
        lines += [
            "",
            f"{', '.join(key)}, k={result['k']}: means over {len(found)} seeds, in brackets those of the 95% intervals' ends",
        ]
        lines += ["", f"| layer | {' | '.join(STEERED)} | kept by {' | kept by '.join(KEPT)} |", "|---" * 9 + "|"]
        for at, layer in enumerate(found[0]["steering"]):
            cells = [measure([row["steering"][at][name] for row in found]) for name in STEERED]
            cells += [measure([row["necessity"][at][name] for row in found]) for name in KEPT]
            lines.append(f"| {layer['layer']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{result['machine']}; {result['seconds']:.0f} s in all."])


if __name__ == "__main__":
    cyclopts.run(main)

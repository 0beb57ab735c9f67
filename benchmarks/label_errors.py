"""How many of the labels that `clusterpaths find label-errors` puts first are wrong: planted errors, beside cleanlab.

5% of the labels are changed to another class at random. Each case has as many draws as seeds; the clusterings and the model's
probabilities are the same for every method.

faces     6,000 drawn faces and the included model, which was trained on other faces with right labels
digits    scikit-learn's 1,797 digits and a perceptron with three hidden layers, fitted on the labels with the errors: 60 epochs,
          before it learns them by heart; and 400, after
held out  the same digits: the perceptron is fitted on a half with right labels, errors are in the other half
hair      real CelebA photographs with hair colours, and CelebA's CNN (needs CLUSTERPATHS_SHARED, with celeba/ and models/)

    python benchmarks/label_errors.py                       writes benchmarks/results/label_errors.json (ten minutes on 2 cores)
    python benchmarks/label_errors.py --cleanlab PYTHON     with cleanlab, by the Python of an environment that has it
    python benchmarks/label_errors.py --quick               a check that it works: one seed, few faces, nothing is written

cleanlab is under the AGPL, so it is no dependency; it is asked by `label_errors_cleanlab.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from evaluation import cpu_name
from numpy.typing import NDArray
from scipy.stats import t as student

from clusterpaths import ClusterPaths
from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.find.label_errors import likely_errors
from clusterpaths.find.label_shares import LabelShares
from clusterpaths.pipeline import run

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "label_errors.json"
SAMPLE_MODEL = HERE.parent / "ONNX_models" / "SampleFaces_CNN.onnx"
ERRORS = 0.05
TOP = 100  # or as many as were planted, where those are fewer
SEEDS = 10
HIDDEN = (64, 32, 32)
PACKAGES = ("numpy", "scipy", "scikit-learn", "onnxruntime")
Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """One set with planted errors."""

    case: str
    seed: int
    paths: Ints  # (n, L)
    labels: Ints  # (n,) with the errors
    wrong: NDArray[np.bool_]  # (n,)
    probabilities: Floats  # (n, C) of the model


def main(cleanlab: Path | None = None, quick: bool = False) -> None:
    """Measure, print a Markdown table, and write the numbers.

    Parameters
    ----------
    cleanlab
        the Python of an environment with cleanlab
    quick
        a check that it works: one seed, few faces; nothing is written
    """
    seeds = range(1 if quick else SEEDS)
    scores: dict[tuple[str, str], list[float]] = {}
    listed: dict[str, list[tuple[int, float, float]]] = {}
    sizes: dict[str, dict[str, int]] = {}
    versions: dict[str, str] = {package: version(package) for package in PACKAGES}
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as work:
        for draw in draws(Path(work), seeds, faces=400 if quick else 6_000):
            top = min(TOP, int(draw.wrong.sum()))
            sizes[draw.case] = {"examples": len(draw.labels), "planted": int(draw.wrong.sum()), "top": top}
            found = rankings(draw)
            if cleanlab:
                more, versions["cleanlab"] = ask_cleanlab(cleanlab, draw, Path(work))
                found |= more
            for method, ranked in found.items():
                scores.setdefault((draw.case, method), []).append(precision(draw, ranked, top))
            for method in ("clusterpaths", *(["cleanlab, its list"] if cleanlab else [])):
                ranked = found[f"{method}"]
                hits = draw.wrong[ranked].sum() if len(ranked) else 0
                counts = len(ranked), float(hits / max(len(ranked), 1)), float(hits / draw.wrong.sum())
                listed.setdefault(f"{draw.case}: {method}", []).append(counts)
    result = {
        "machine": cpu_name(),
        "versions": versions,
        "errors": ERRORS,
        "seeds": len(seeds),
        "cases": sizes,
        "precision": [
            {"case": case, "method": method, **interval(values)} for (case, method), values in scores.items()
        ],
        "lists": {
            name: dict(
                zip(("entries", "precision", "recall"), np.round(np.mean(rows, axis=0), 3).tolist(), strict=True)
            )
            for name, rows in listed.items()
        },
    }
    print(table(result))
    if not quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


def draws(work: Path, seeds: range, faces: int) -> Iterator[Draw]:
    """The sets of all cases."""
    yield from of_faces(work, seeds, faces)
    for epochs in (60, 400):
        yield from of_digits(seeds, epochs)
    yield from held_out_digits(seeds)
    if shared := os.environ.get("CLUSTERPATHS_SHARED"):
        yield from of_hair(work, Path(shared), seeds)


def plant(labels: Ints, classes: int, seed: int) -> tuple[Ints, NDArray[np.bool_]]:
    """The labels with `ERRORS` of them changed to another class, and which."""
    draw = np.random.default_rng([seed, 20])
    wrong = np.zeros(len(labels), np.bool_)
    wrong[draw.permutation(len(labels))[: round(ERRORS * len(labels))]] = True
    changed = labels.astype(np.int64)
    changed[wrong] = (changed[wrong] + draw.integers(1, classes, int(wrong.sum()))) % classes
    return changed, wrong


def of_faces(work: Path, seeds: range, count: int) -> Iterator[Draw]:
    """Drawn faces."""
    write_faces(work / "faces", count, seed=20)
    yield from _of_run("faces", SAMPLE_MODEL, work / "faces", work, seeds)


def of_hair(work: Path, shared: Path, seeds: range) -> Iterator[Draw]:
    """Photographs of CelebA with a hair colour."""
    yield from _of_run("hair", shared / "models" / "CelebA_CNN_instrumented.onnx", shared, work, seeds)


def _of_run(case: str, model: Path, data: Path, work: Path, seeds: range) -> Iterator[Draw]:
    outcome = run(
        RunConfig(
            model=model, data_root=data, dataset="celeba", cache_root=str(work / "cache"), name=case, evaluate=False,
            check_preprocessing=False,
        )
    )  # fmt: skip
    if outcome.published is None:
        raise RuntimeError(f"{case}: no set was published")
    index = outcome.published.index
    classes, shares = index.all_top_scores()
    rows = np.flatnonzero(index.labels >= 0)
    probabilities = np.zeros((len(rows), int(classes.max()) + 1))
    np.put_along_axis(
        probabilities, classes[rows, : probabilities.shape[1]], shares[rows, : probabilities.shape[1]], axis=1
    )
    for seed in seeds:
        labels, wrong = plant(index.labels[rows], probabilities.shape[1], seed)
        yield Draw(case, seed, index.clusters[rows], labels, wrong, probabilities)


def of_digits(seeds: range, epochs: int) -> Iterator[Draw]:
    """Digits, and a model that saw the errors."""
    images, right = digits()
    for seed in seeds:
        labels, wrong = plant(right, 10, seed)
        paths, probabilities = perceptron(images, labels, images, epochs, seed)
        yield Draw(f"digits, {epochs} epochs", seed, paths, labels, wrong, probabilities)


def held_out_digits(seeds: range) -> Iterator[Draw]:
    """Digits, and a model that saw others."""
    images, right = digits()
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(right))
        fit, held = order[: len(order) // 2], order[len(order) // 2 :]
        labels, wrong = plant(right[held], 10, seed)
        paths, probabilities = perceptron(images[fit], right[fit], images[held], 60, seed)
        yield Draw("digits, held out", seed, paths, labels, wrong, probabilities)


def digits() -> tuple[Floats, Ints]:
    """scikit-learn's, (1797, 64) in 0..1."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images / 16.0, labels


def perceptron(fit: Floats, labels: Ints, images: Floats, epochs: int, seed: int) -> tuple[Ints, Floats]:
    """Paths of `images` through the hidden layers of a fitted perceptron, and its probabilities."""
    import warnings

    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is stopped on purpose
        model = MLPClassifier(HIDDEN, max_iter=epochs, random_state=seed, tol=0, n_iter_no_change=epochs).fit(
            fit, labels
        )
    layers, values = {}, images
    for number, (weights, bias) in enumerate(zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True)):
        values = np.maximum(values @ weights + bias, 0)
        layers[f"hidden{number + 1}"] = values.astype(np.float32)
    return ClusterPaths(n_clusters=10, random_state=0).fit_predict(layers), model.predict_proba(images)


def rankings(draw: Draw) -> dict[str, Ints]:
    """Method -> examples, most suspicious first; ours ends where its list does."""
    n, classes = draw.probabilities.shape
    paths = LabelShares(draw.paths, draw.labels, classes).of(np.arange(n))
    at = np.arange(n)
    of_path, of_model = paths[at, draw.labels], draw.probabilities[at, draw.labels]
    return {
        "clusterpaths": likely_errors(draw.paths, draw.labels, classes, lambda rows: draw.probabilities[rows]).rows,
        "clusterpaths, all ranked": np.argsort(of_path + of_model, kind="stable"),
        "paths only": np.argsort(of_path, kind="stable"),
        "model only": np.argsort(of_model, kind="stable"),
    }


def ask_cleanlab(python: Path, draw: Draw, work: Path) -> tuple[dict[str, Ints], str]:
    """cleanlab's rankings by the same probabilities, and its version."""
    np.savez(work / "given.npz", labels=draw.labels, probabilities=draw.probabilities)
    subprocess.run([str(python), str(HERE / "label_errors_cleanlab.py"), str(work)], check=True)
    found = json.loads((work / "found.json").read_text())
    return {name: np.array(rows, np.int64) for name, rows in found["rankings"].items()}, found["version"]


def precision(draw: Draw, ranked: Ints, top: int) -> float:
    """Share of wrong labels among the first `top`; a shorter list has the others right."""
    return float(draw.wrong[ranked[:top]].sum() / top)


def interval(values: list[float]) -> dict[str, float]:
    """Mean over the seeds and its 95% interval by Student's t."""
    mean = float(np.mean(values))
    half = (
        float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
        if len(values) > 1
        else 0.0
    )
    return {"precision": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def table(result: dict[str, Any]) -> str:
    """Precision at the top, a row per case and method."""
    lines = ["| case | examples | planted | method | precision at the top |", "|---|---|---|---|---|"]
    for row in result["precision"]:
        case = result["cases"][row["case"]]
        shown = f"{row['precision']:.3f} ({row['low']:.3f} to {row['high']:.3f}) at {case['top']}"
        lines.append(f"| {row['case']} | {case['examples']:,} | {case['planted']} | {row['method']} | {shown} |")
    return "\n".join([*lines, "", json.dumps(result["lists"], indent=1)])


if __name__ == "__main__":
    cyclopts.run(main)

"""The OOD score that is shipped is the one that is measured: explorer, explanation, path model, evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from clusterpaths.config import RunConfig
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.evaluation import evaluate, probe, split
from clusterpaths.evaluation.refit import refit_clustering
from clusterpaths.explanation.explain import load_model, read_upright
from clusterpaths.explore.library import Library
from clusterpaths.export.path_model import export_path_model
from clusterpaths.metrics.detection import auroc
from clusterpaths.preprocessing.prepare import fit, normalise
from tests.clusterpaths.conftest import run_stages, write_celeba, write_cnn


def test_one_score_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one set with clusters of one to four examples, where two definitions would differ most."""
    done = run_stages(
        RunConfig(
            model=write_cnn(tmp_path / "model.onnx"),
            data_root=write_celeba(tmp_path / "faces", range(1, 161)),
            cache_root=tmp_path / "cache",
            cache_dtype="float32",
            name="T",
            k=24,
            preprocessing="unit",
            layers=("conv2", "fc1"),
        )
    )
    published, record, model = done.published, done.published.record, Path(done.model.path)
    sizes = np.concatenate([np.bincount(column, minlength=24) for column in published.clusters.T])
    assert ((sizes > 0) & (sizes < 5)).any(), "the set has no small clusters, so it tests nothing"

    index = Library(tmp_path / "cache").default()
    explored = index.ood
    assert explored is not None
    assert explored.std() > 0.1

    folder = Path(record.data_root) / "celeba" / "img_align_celeba"
    files = [folder / file for file in published.files.to_pylist()]
    loaded = load_model(index, model)
    explained = [loaded.explain(read_upright(file), file.name).ood_score for file in files[:40:4]]
    np.testing.assert_allclose(explained, explored[:40:4], rtol=1e-3, atol=1e-3)

    export_path_model(published, model, tmp_path / "paths.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "paths.onnx", providers=["CPUExecutionProvider"])
    pixels = np.stack([fit(open_rgb(file), record.preprocessing) for file in files])
    (exported,) = session.run(["ood_score"], {"input": normalise(pixels, record.preprocessing)})
    np.testing.assert_allclose(exported, explored, rtol=1e-3, atol=1e-3)

    held_out: list[NDArray[np.int64]] = []
    measured: list[NDArray[np.float64]] = []

    def as_published(*arguments: Any) -> Any:
        """The clustering of the published set instead of one on 80%, so that the statistics are the same."""
        again = refit_clustering(*arguments)
        return replace(
            again,
            clusters=published.clusters,
            distances=published.distances,
            centroids=published.read_centroids(),
        )

    def on_all(*arguments: Any) -> Any:
        """With the statistics of all examples, as they are shipped."""
        found = split.split_set(*arguments)
        held_out.append(found.held_out.positions)
        every = split.Members(np.arange(len(published.ids)), published.clusters, published.distances)
        return replace(found, fit=every)

    def spy(own: NDArray[np.float64], others: NDArray[np.float64]) -> float:
        measured.append(own)
        return auroc(own, others)

    monkeypatch.setattr(split, "refit_clustering", as_published)
    monkeypatch.setattr(evaluate, "split_set", on_all)
    monkeypatch.setattr(probe, "auroc", spy)
    found = evaluate.evaluate_set(published, done.job)
    assert found.strangers[0].scores[0].score == "paths"
    np.testing.assert_allclose(measured[0], explored[held_out[0]], rtol=1e-3, atol=1e-3)

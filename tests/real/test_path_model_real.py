"""The path model of the real model on 2,000 real images, where CLUSTERPATHS_SHARED points to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from clusterpaths.config import RunConfig
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.export.path_model import export_path_model
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.sets.published import open_set
from tests.runs import run_pipeline

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
pytestmark = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("model", "subset"), [("CelebA_CNN", None), ("catdog_instrumented", 200)])
def test_path_equals_our_own_tracing_for_every_image(
    model: str, subset: int | None, distance: str, cache_root: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"data_root": SHARED, "cache_root": cache_root, "name": model, "subset": subset}
    file = SHARED / "models" / f"{model}.onnx"
    options |= {"evaluate": False, "check_preprocessing": False}
    run = run_pipeline(RunConfig(model=file, distance=distance, **options))
    assert run.path is not None
    exported = export_path_model(open_set(run.path), file, tmp_path / "paths.onnx")

    session = onnxruntime.InferenceSession(tmp_path / "paths.onnx")
    images = read_images(run.path)
    rows = open_set(run.path)
    for batch in (exported.batch,) if exported.batch else (1, 32):  # the products are computed differently for few
        pieces = [session.run(None, {"input": images[a : a + batch]}) for a in range(0, len(images), batch)]
        _, path, distances, score = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        assert len(path) == (subset or 2000)
        np.testing.assert_array_equal(path, rows.clusters)
        # A row at its centroid is the difference of two large numbers: see docs/reproducibility.md.
        noise = 1e-3 * rows.distances.max() if distance == "euclidean" else 1e-4
        np.testing.assert_allclose(distances, rows.distances, rtol=1e-3, atol=noise)
        assert np.isfinite(score).all()


def read_images(set_dir: Path) -> NDArray[np.float32]:
    record = open_set(set_dir).record
    dataset = open_celeba(SHARED)
    files = open_set(set_dir).files.to_pylist()
    pixels = np.stack([fit(dataset.read_image(file), record.preprocessing) for file in files])
    return normalise(pixels, record.preprocessing)

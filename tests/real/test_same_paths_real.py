"""float16 caches beside float32 on real images and the real model, and --cache-format none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.cache import fit_sample
from clusterpaths.config import RunConfig
from clusterpaths.pipeline import run
from tests.runs import assert_same_documents, paths_of

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
pytestmark = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


def chosen(root: Path, **more: Any) -> dict[str, Any]:
    model = SHARED / "models" / "CelebA_CNN_instrumented.onnx"
    return {"model": model, "data_root": SHARED, "cache_root": root, "preprocessing": "imagenet"} | more


def in_process(root: Path, **more: Any) -> Path:
    """The set's folder, made without Prefect, and without evaluation."""
    published = run(RunConfig(**chosen(root, **more), evaluate=False, check_preprocessing=False)).published
    assert published
    return published.path


def test_float16_agrees_with_float32_on_nearly_all_paths(tmp_path: Path) -> None:
    """All 2,000 images: of a few hundred, seeds 0 to 2 gave 98.3% to 100%. As zarr: the same bytes (test_reference.py)."""
    exact = paths_of(in_process(tmp_path / "float32", cache_dtype="float32"))
    rounded = paths_of(in_process(tmp_path / "float16", cache_dtype="float16"))
    assert exact.keys() == rounded.keys()
    assert len(exact) == 2000
    agreeing = sum(exact[example] == rounded[example] for example in exact) / len(exact)
    print(f"{agreeing:.2%} of paths agree")
    assert agreeing >= 0.995


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_format_gives_the_same_bytes_fused_and_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, distance: str
) -> None:
    """100 of 300 images are fitted on. More ways, on small models: tests/clusterpaths/test_same_paths.py."""
    monkeypatch.setattr(fit_sample, "FIT_ROWS", 100)
    monkeypatch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 10)
    few: dict[str, Any] = {"subset": 300, "shard_size": 64, "cache_dtype": dtype, "distance": distance}
    first = in_process(tmp_path / "npy", cache_format="npy", workers=1, **few)
    for cache_format in ("zarr", "none"):
        root = tmp_path / cache_format
        assert_same_documents(first, in_process(root, cache_format=cache_format, workers=2, **few))
        in_process(root, k=4, cache_format=cache_format, **few)
        shutil.rmtree(root / "CelebA" / "set_01")
        again = in_process(root, cache_format=cache_format, **few | {"batch_size": 32, "shard_size": 50})
        assert again.name == "set_03"
        assert_same_documents(first, again)

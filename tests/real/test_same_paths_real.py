"""float16 caches beside float32 on real images and the real model, and --cache-format none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

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


def test_a_run_without_activations_gives_the_documents_of_a_float32_cache(tmp_path: Path) -> None:
    """On Dask workers: tests/flows/test_dask.py."""
    few = {"subset": 300, "shard_size": 64}
    kept = in_process(tmp_path / "float32", cache_format="npy", cache_dtype="float32", **few)
    assert_same_documents(kept, in_process(tmp_path / "none", cache_format="none", workers=2, **few))

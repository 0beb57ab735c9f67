"""A plain model whose batch is fixed at 1, and a folder of photographs: from the file to the report in one call."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusterpaths.config import RunConfig
from clusterpaths.sets.published import open_set
from tests.runs import run_pipeline

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
pytestmark = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


def test_a_folder_of_photographs_through_a_plain_model(tmp_path: Path) -> None:
    photos = SHARED / "celeba" / "img_align_celeba"
    model = SHARED / "models" / "catdog.onnx"
    path = run_pipeline(
        RunConfig(dataset="folder", model=model, data_root=photos, cache_root=tmp_path, subset=150)
    ).folder
    record = open_set(path).record
    assert path.parent.name == "catdog-img_align_celeba"
    assert record.layers == ("conv1", "conv2", "conv3", "fc1", "fc2")
    assert (record.num_examples, record.num_failed, record.logits) == (150, 0, "output")
    assert {"report.html", "metrics.json", "preprocessing_check.json", "paths.json"} <= {f.name for f in path.iterdir()}

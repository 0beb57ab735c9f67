"""A plain model whose batch is fixed at 1, and a folder of photographs: from the file to the report in one command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusterpaths.sets.published import open_set
from flows.images import ImagesConfig, images

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
pytestmark = [
    pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set"),
    pytest.mark.usefixtures("prefect_server"),
]


def test_a_folder_of_photographs_through_a_plain_model(tmp_path: Path) -> None:
    photos = SHARED / "celeba" / "img_align_celeba"
    config = ImagesConfig(model=SHARED / "models" / "catdog.onnx", data_root=photos, cache_root=tmp_path, subset=150)
    path = images(config)
    assert path is not None
    record = open_set(path).record
    assert path.parent.name == "catdog-img_align_celeba"
    assert record.layers == ("conv1", "conv2", "conv3", "fc1", "fc2")
    assert (record.num_examples, record.num_failed, record.logits) == (150, 0, "output")
    assert {"report.html", "metrics.json", "preprocessing_check.json", "paths.json"} <= {f.name for f in path.iterdir()}

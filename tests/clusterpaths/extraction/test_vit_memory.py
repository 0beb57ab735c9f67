"""Memory of a whole run on a small ViT, in a process of its own. benchmarks/vit_memory.py measures a ViT-B/16."""

from __future__ import annotations

import os
import subprocess
import time
import warnings
from pathlib import Path

import psutil
import pytest

from clusterpaths.cache.manifest import require_manifest
from clusterpaths.config import RunConfig
from clusterpaths.storage import open_storage
from tests.runs import start_pipeline

LIMIT = 0.8e9  # bytes; measured: 0.38e9, and above 1e9 when each worker had a session of its own
IMAGES = 96  # three batches a worker: more images hold no more at a time


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViT-Ti/16 at 224 x 224 with seeded random weights: 12 blocks, 197 tokens of 192 values each."""
    import torch
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=10
    ).eval()
    path = tmp_path_factory.mktemp("vit") / "vit.onnx"
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            network,
            (torch.randn(2, 3, 224, 224),),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes=axes,
        )
    return path


def peak_of_tree(process: subprocess.Popen[bytes]) -> float:
    """Bytes that a process and its children held at most, shared pages counted once; waits for its end."""
    root, peak = psutil.Process(process.pid), 0.0
    while process.poll() is None:
        peak = max(peak, sum(_held(each) for each in (root, *root.children(recursive=True))))
        time.sleep(0.1)
    return peak


def _held(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0.0  # it has just ended


def test_vit_ti_of_12_blocks_stays_under_800_megabytes(vit: Path, photos: Path, tmp_path: Path) -> None:
    config = RunConfig(
        dataset="folder", model=vit, data_root=photos, cache_root=tmp_path / "cache", name="ViT", k=3, subset=IMAGES,
        shard_size=IMAGES // 2, workers=2, evaluate=False, check_preprocessing=False,
    )  # fmt: skip
    output = tmp_path / "output.txt"
    process = start_pipeline(config, output=output, environment=dict(os.environ))
    peak = peak_of_tree(process)
    assert process.returncode == 0, output.read_text()
    print(f"{peak / 1e6:.0f} MB")
    manifest = require_manifest(open_storage(tmp_path / "cache" / "ViT"))
    shapes = [layer.shape for layer in manifest.layers.values()]
    assert shapes == [(197, 192)] * 5 + [(192,)]  # far below 262,144 values: auto keeps every token
    assert sum(shard.rows or 0 for shard in manifest.shards) == IMAGES
    assert 100e6 < peak < LIMIT

"""Peak memory and CPU time of a run with a ViT-B/16 at 224 x 224, in a process of its own.

Random weights: neither memory nor time depends on them. Needs CLUSTERPATHS_SHARED (a directory with celeba/) and torchvision.

    python benchmarks/vit_memory.py                 500 images, two workers
    python benchmarks/vit_memory.py --images 96     a check that it works
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import cyclopts
from machine import PROJECT, watch

CODE = """
import sys
from clusterpaths.config import RunConfig
from clusterpaths.pipeline import run

run(RunConfig.model_validate_json(sys.argv[1]))
"""


def main(images: int = 500, workers: int = 2, cache_format: str = "npy", model: Path | None = None) -> None:
    """Run once, and print what was measured as JSON.

    Parameters
    ----------
    images
        of CelebA
    workers
        concurrent shards
    cache_format
        npy, zarr or none
    model
        another file [one that is exported for this run]
    """
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a directory that holds celeba/.")
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as directory:
        path = model or export(Path(directory) / "vit.onnx")
        config = {
            "dataset": "celeba", "data_root": shared, "model": str(path), "cache_root": f"{directory}/cache", "name": "ViT",
            "k": 5, "subset": images, "workers": workers, "cache_format": cache_format, "evaluate": False,
            "check_preprocessing": False, "preprocessing": "imagenet",
        }  # fmt: skip
        command = [sys.executable, "-c", CODE, json.dumps(config)]
        measured = watch(command, os.environ | {"PYTHONPATH": str(PROJECT)}, Path(directory) / "log.txt")
        print(json.dumps({name: round(value, 1) for name, value in measured.items()}))


def export(path: Path) -> Path:
    """ViT-B/16 with seeded random weights."""
    import torch
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=1000
    ).eval()
    torch.nn.init.normal_(network.heads.head.weight, std=0.02)  # it is 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            network, (torch.randn(2, 3, 224, 224),), str(path), dynamo=False, input_names=["image"],
            output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )  # fmt: skip
    return path


if __name__ == "__main__":
    cyclopts.run(main)

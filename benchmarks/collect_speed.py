"""cp.collect on ResNet-50 at 224x224, in images per second: the model alone, collect, and the ONNX route on the CPU.

Random weights, images of random bytes as a data set of tensors in memory, layers layer1 … layer4 averaged over space, and
avgpool. "The model alone" is the forward pass in torch, batch by batch, on the same device. The ONNX route is the exported file
in `clusterpaths.pipeline.run` on the same images as a .npy file. Collect and the ONNX route are timed from the first batch to
the end of extraction: clustering is the same for both. On CUDA or MPS k-means is timed, too: it runs on the CPU.

    python benchmarks/collect_speed.py                               the device that torch has: cuda, mps, else cpu
    python benchmarks/collect_speed.py --device cpu --images 256
    python benchmarks/collect_speed.py --quick --out DIRECTORY       a check that it works
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from machine import RESULTS, describe_machine

import clusterpaths as cp

LAYERS = ["layer1", "layer2", "layer3", "layer4", "avgpool"]
REDUCE = "layer1=gap,layer2=gap,layer3=gap,layer4=gap,avgpool=none"
BATCHES = {"cpu": 32, "cuda": 256, "mps": 64}
SIZE = 224


def main(
    device: str = "auto",
    images: int = 512,
    batch: int | None = None,
    autocast: str | None = None,
    *,
    onnx: bool = True,
    quick: bool = False,
    out: Path = RESULTS,
) -> None:
    """Measure and write collect_speed.json.

    Parameters
    ----------
    device
        cpu, cuda, mps, or auto
    images
        how many
    batch
        images of a batch
    autocast
        bfloat16 or float16
    onnx
        measure the ONNX route, too
    quick
        64 pixels, few images
    out
        directory of the result
    """
    import torch

    logging.getLogger("clusterpaths").setLevel(logging.ERROR)
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    size, images = (64, 40) if quick else (SIZE, images)
    batch = batch or BATCHES[device]
    machine = describe_machine()  # before the load that this makes
    torch.manual_seed(0)
    model = _model().to(device)
    pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        work = Path(folder)
        loader = torch.utils.data.DataLoader(_Pixels(pixels), batch_size=batch, pin_memory=device == "cuda")
        measured = {
            "alone": _alone(model, loader, device, autocast),
            **_collect(model, loader, work, autocast),
            **(_onnx(model, pixels, work, batch) if onnx else {}),
        }
    result = {
        **machine,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "images": images,
        "size": size,
        "batch": batch,
        "autocast": autocast,
        **measured,
    }
    for name in ("alone", "collect", "onnx"):
        if name in result:
            print(f"{name}: {images / result[name]:.1f} images/s ({result[name]:.1f} s)")
    print(f"clustering of {images:,} images, k = 5: {result['clustering']:.1f} s")
    out.mkdir(parents=True, exist_ok=True)
    name = "collect_speed.json" if device == "cpu" else f"collect_speed_{device}.json"
    (out / name).write_text(json.dumps(result, indent=1) + "\n")


def _model() -> Any:
    import torchvision

    return torchvision.models.resnet50(weights=None).eval()


class _Pixels:
    """Tensors of bytes / 255, and labels."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        import torch

        return torch.from_numpy(self.pixels[at]).permute(2, 0, 1).float() / 255, at % 10


def _alone(model: Any, loader: Any, device: str, autocast: str | None) -> float:
    """Seconds of the forward passes, data included; the first batch warms up."""
    import contextlib

    import torch

    def passes() -> None:
        precision = torch.autocast(device, getattr(torch, autocast)) if autocast else contextlib.nullcontext()
        with torch.inference_mode(), precision:
            for x, _ in loader:
                model(x.to(device, non_blocking=True))
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        model(next(iter(loader))[0].to(device))
    started = time.perf_counter()
    passes()
    return time.perf_counter() - started


def _collect(model: Any, loader: Any, work: Path, autocast: str | None) -> dict[str, float]:
    options = {"layers": LAYERS, "reduce": REDUCE, "evaluate": False, "images": False, "autocast": autocast}
    paths = cp.collect(model, loader, out=work / "collected", **options)
    stages = {stage.stage: stage.seconds for stage in paths.record.stages}
    clustering = sum(seconds for name, seconds in stages.items() if name not in ("check", "extract"))
    return {"collect": stages["extract"], "collect_check": stages["check"], "clustering": clustering}


def _onnx(model: Any, pixels: Any, work: Path, batch: int) -> dict[str, float]:
    """Extraction of the same images by the exported file, in as many workers as there are cores."""
    import torch

    x = torch.zeros(2, 3, *pixels.shape[1:3], device=next(model.parameters()).device)
    exported = cp.export_onnx(model, x, work / "model.onnx", layers=LAYERS, preprocessing="unit")
    np.save(work / "images.npy", pixels)
    options: dict[str, Any] = {"reduce": REDUCE, "evaluate": False, "check_preprocessing": False, "providers": "cpu"}
    options |= {"dataset": "arrays", "data": work / "images.npy", "cache_root": work / "onnx", "batch_size": batch}
    paths = cp.run(model=exported, **options)
    stages = {stage.stage: stage.seconds for stage in paths.record.stages}
    return {"onnx": stages["extract"]}


if __name__ == "__main__":
    print(" ".join(sys.argv), file=sys.stderr)
    cyclopts.run(main)

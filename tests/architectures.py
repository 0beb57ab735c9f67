"""torchvision's architectures with seeded random weights, as ONNX files of both PyTorch exporters.

Nothing is downloaded. Where an architecture allows it, it is narrower and its images are smaller than usual: the
graphs are the same, the exports quicker. Each one is made once a session, in a folder that goes with it.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

CLASSES = 10
EXPORTERS = ("torchscript", "dynamo")
SIZES = {
    "alexnet": 224,  # its pooling to 6x6 is exported by the older exporter only from a multiple of it
    "resnet18": 64,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 64,
    "vit": 64,
    "convnext": 64,
}
ARCHITECTURES = tuple(SIZES)


@dataclass(frozen=True)
class Exported:
    """An architecture as a file, and the network that it was made of."""

    name: str
    exporter: str
    path: Path
    network: Any

    @property
    def images(self) -> NDArray[np.float32]:
        """Three images, (3, 3, size, size), drawn from a seed."""
        size = SIZES[self.name]
        return np.random.default_rng(1).standard_normal((3, 3, size, size)).astype(np.float32)


@functools.cache
def exported(name: str, exporter: str) -> Exported:
    """The architecture as this exporter writes it, any batch; skips the test where the exporter is not installed."""
    if exporter == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("torch's dynamo exporter needs onnxscript, which is not installed")
    network = build(name)
    path = _folder() / f"{name}_{exporter}.onnx"
    _export(network, path, SIZES[name], exporter)
    return Exported(name, exporter, path, network)


@functools.cache
def build(name: str) -> Any:
    """The network in evaluation mode; its batch norms have seen noise and soft shapes: no activation vanishes or explodes."""
    import torch

    torch.manual_seed(0)
    network = _BUILDERS[name]()
    for key, parameter in network.named_parameters():
        if key.endswith("layer_scale"):  # ConvNeXt's start at 1e-6: its blocks would do nothing
            torch.nn.init.constant_(parameter, 0.5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches: MobileNet's 0.01 would take hundreds of them
            module.eps = 0.01  # less would blow up channels that hardly vary, and on photos their rounding errors
    network.train()
    with torch.no_grad():
        for _ in range(3):
            noise = torch.randn(8, 3, SIZES[name], SIZES[name])
            shapes = torch.nn.functional.interpolate(torch.randn(8, 3, 6, 6), SIZES[name], mode="bilinear")
            network(torch.cat([noise, shapes]))
    return network.eval()


def _alexnet() -> Any:
    import torchvision

    network = torchvision.models.AlexNet(num_classes=CLASSES)
    network.classifier[1] = _linear(256 * 6 * 6, 64)  # 4,096 wide they are 220 MB
    network.classifier[4] = _linear(64, 32)
    network.classifier[6] = _linear(32, CLASSES)
    return network


def _linear(inputs: int, outputs: int) -> Any:
    import torch

    return torch.nn.Linear(inputs, outputs)


def _vit() -> Any:
    import torch
    from torchvision.models import VisionTransformer

    network = VisionTransformer(
        image_size=SIZES["vit"],
        patch_size=16,
        num_layers=12,
        num_heads=4,
        hidden_dim=48,
        mlp_dim=96,
        num_classes=CLASSES,
    )
    torch.nn.init.normal_(network.heads.head.weight)  # it starts at 0: all logits would be 0
    return network


def _convnext() -> Any:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [(16, 32, 2), (32, 64, 2), (64, 128, 3), (128, None, 2)]
    return ConvNeXt([CNBlockConfig(*stage) for stage in widths], num_classes=CLASSES)


def _torchvision(name: str) -> Callable[[], Any]:
    def make() -> Any:
        import torchvision

        return getattr(torchvision.models, name)(weights=None, num_classes=CLASSES)

    return make


_BUILDERS: Mapping[str, Callable[[], Any]] = {
    "alexnet": _alexnet,
    "resnet18": _torchvision("resnet18"),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "efficientnet_b0": _torchvision("efficientnet_b0"),
    "vit": _vit,
    "convnext": _convnext,
}


def _export(network: Any, path: Path, size: int, exporter: str) -> None:
    import torch

    example = (torch.randn(2, 3, size, size),)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters about themselves
        if exporter == "dynamo":
            batch = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                network,
                example,
                str(path),
                dynamo=True,
                dynamic_shapes=batch,
                external_data=False,
                verbose=False,
                **names,
            )
        else:
            axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
            torch.onnx.export(network, example, str(path), dynamo=False, dynamic_axes=axes, **names)


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="clusterpaths-architectures-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def hooked(network: Any, images: NDArray[np.float32], modules: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
    """What PyTorch itself computes: layer -> output of its module, or of "input of MODULE" what goes in."""
    import torch

    seen: dict[str, NDArray[np.float32]] = {}
    handles = []
    for layer, module in modules.items():

        def keep(_module: Any, inputs: Any, output: Any = None, layer: str = layer) -> None:
            value = inputs[0] if output is None else output
            seen[layer] = value.detach().clone().numpy()  # a later in-place activation must not change it

        if module.startswith("input of "):
            handles.append(network.get_submodule(module.removeprefix("input of ")).register_forward_pre_hook(keep))
        else:
            handles.append(network.get_submodule(module).register_forward_hook(keep))
    try:
        with torch.no_grad():
            network(torch.from_numpy(images))
    finally:
        for handle in handles:
            handle.remove()
    return seen

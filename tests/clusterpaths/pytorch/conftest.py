"""Small models, and loaders of tensors and of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clusterpaths.pytorch.collect import collect
from clusterpaths.sets.published import PublishedSet

torch = pytest.importorskip("torch")
COUNT, CLASSES, SIZE = 90, 4, 16


class Small(torch.nn.Module):  # type: ignore[misc]
    """Two blocks with residual sums, pooling, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = torch.nn.Sequential(Block(), Block())
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.head = torch.nn.Linear(8, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


class Block(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.relu = torch.nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        return self.relu(x + self.conv2(self.relu(self.norm(self.conv1(x)))))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(seed: int = 0) -> Any:
    """In evaluation mode, with random weights; it predicts several classes on `make_images`."""
    torch.manual_seed(seed)
    model = Small().eval()
    with torch.no_grad():
        features = model.pool(model.blocks(model.stem(make_images()))).flatten(1)
        model.head.weight.normal_(std=30)
        model.head.bias.copy_(-(model.head.weight @ features.mean(0)))
    return model


@pytest.fixture
def model() -> Any:
    return make_model()


def make_images(count: int = COUNT, size: int = SIZE, seed: int = 0) -> Any:
    """(count, 3, size, size) float32 of 8-bit values / 255: classes differ by their colour."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (CLASSES, 3, 2, 2))[np.arange(count) % CLASSES]
    pixels = np.repeat(np.repeat(base, size // 2, 2), size // 2, 3) + rng.integers(-25, 26, (count, 3, size, size))
    return torch.from_numpy((pixels.clip(0, 255) / 255).astype(np.float32))


@pytest.fixture
def images() -> Any:
    return make_images()


def loader_of(*tensors: Any, batch_size: int = 20, **options: Any) -> Any:
    data = torch.utils.data.TensorDataset(*tensors)
    return torch.utils.data.DataLoader(data, batch_size=batch_size, **options)


@pytest.fixture
def loader(images: Any) -> Any:
    """Five batches of at most 20; the labels are the classes."""
    return loader_of(images, torch.arange(COUNT) % CLASSES)


Collect = Callable[..., PublishedSet]


@pytest.fixture
def run(tmp_path: Path) -> Collect:
    """`collect` of two layers into tmp_path/cache/mine, not evaluated unless asked."""

    def call(model: Any, loader: Any, **options: Any) -> PublishedSet:
        given = {"layers": ["blocks.*", "pool"], "out": tmp_path / "cache" / "mine", "k": 3, "evaluate": False}
        return collect(model, loader, **given | options)

    return call


def write_folder(root: Path, count: int = 40, size: tuple[int, int] = (24, 20)) -> Path:
    """root/CLASS/NUMBER.png of two classes, in colours that differ."""
    rng = np.random.default_rng(3)
    for number in range(count):
        kind = ("bright", "dark")[number % 2]
        (root / kind).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (*size, 3)) + (150 if kind == "bright" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(root / kind / f"{number:03d}.png")
    return root

"""CIFAR10 in its own binary format, made of noise: what tests need of it on disk."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(
    root: Path, monkeypatch: pytest.MonkeyPatch, batch: int = 6
) -> dict[str, tuple[np.ndarray, list[int]]]:
    """CIFAR10 in its own binary format, five batches for training and one for testing.

    torchvision then expects the checksums of these files. Returns split -> (pixels (n, 32, 32, 3) uint8, labels).
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    given: dict[str, tuple[np.ndarray, list[int]]] = {}
    md5: dict[str, str] = {}

    def write(name: str, content: object) -> None:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        md5[name] = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    for split, batches in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        pixels, labels = [], []
        for name in batches:
            planes = random.integers(0, 256, (batch, 3, 32, 32)).astype(np.uint8)  # a red, a green and a blue plane
            given_labels = random.integers(0, 10, batch).tolist()
            write(name, {"batch_label": name, "labels": given_labels, "data": planes.reshape(batch, 3072)})
            pixels.append(planes.transpose(0, 2, 3, 1))
            labels += given_labels
        given[split] = np.concatenate(pixels), labels
    write("batches.meta", {"label_names": CLASSES, "num_cases_per_batch": batch, "num_vis": 3072})
    for attribute in ("train_list", "test_list"):
        listed = [[name, md5[name]] for name, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, listed)
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5["batches.meta"]})
    return given

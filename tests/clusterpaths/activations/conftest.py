"""Activations of three classes in two layers, written in every layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.activations.config import ActivationsConfig
from clusterpaths.activations.run import run_activations
from clusterpaths.running.report import Outcome

COUNT = 160
SHAPES = {"conv1": (4, 3, 3), "fc2": (7,)}
Arrays = dict[str, NDArray[Any]]
Write = Callable[[Path, Arrays], None]


@pytest.fixture(scope="session")
def classes() -> NDArray[np.int64]:
    """(160,) of 0, 1 and 2."""
    return np.random.default_rng(1).integers(0, 3, COUNT)


@pytest.fixture(scope="session")
def arrays(classes: NDArray[np.int64]) -> Arrays:
    """conv1 (160, 4, 3, 3) and fc2 (160, 7), float32; not to be changed."""
    rng = np.random.default_rng(2)
    return {
        name: (rng.normal(size=(COUNT, *shape)) + 4 * rng.normal(size=(3, *shape))[classes]).astype(np.float32)
        for name, shape in SHAPES.items()
    }


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs the command's function; results in tmp_path/cache, not evaluated unless asked."""

    def run(source: Any, predictions: Any = None, labels: Any = None, **options: Any) -> Outcome:
        given = {"cache_root": str(tmp_path / "cache"), "name": "mine", "k": 3, "evaluate": False, "workers": 2}
        config = ActivationsConfig(**given | options)
        return run_activations(source, config, predictions=predictions, labels=labels)

    return run


def write_npy(root: Path, arrays: Arrays) -> None:
    for name, values in arrays.items():
        np.save(root / f"{name}.npy", values)


def write_examples(root: Path, arrays: Arrays) -> None:
    """The reference layout: conv1/0.npy …"""
    for name, values in arrays.items():
        (root / name).mkdir()
        for at, value in enumerate(values):
            np.save(root / name / f"{at}.npy", value)


def write_thingsvision(root: Path, arrays: Arrays) -> None:
    """conv1/features_0-50.npy …, whose names sort otherwise than their numbers."""
    for name, values in arrays.items():
        (root / name).mkdir()
        for first, last in ((0, 5), (5, 10), (10, 100), (100, COUNT)):
            np.save(root / name / f"features_{first}-{last}.npy", values[first:last])


def write_numbered_chunks(root: Path, arrays: Arrays) -> None:
    for name, values in arrays.items():
        (root / name).mkdir()
        for at in range(4):
            np.save(root / name / f"{at}.npy", values[40 * at : 40 * at + 40])


def write_npz(root: Path, arrays: Arrays) -> None:
    np.savez(root / "all.npz", **arrays)  # type: ignore[arg-type]


def write_compressed(root: Path, arrays: Arrays) -> None:
    np.savez_compressed(root / "all.npz", **arrays)  # type: ignore[arg-type]


def write_batches(root: Path, arrays: Arrays) -> None:
    """All layers of some rows in each file."""
    for at in range(16):
        np.savez(root / f"batch_{at}.npz", **{n: v[10 * at : 10 * at + 10] for n, v in arrays.items()})  # type: ignore[arg-type]


def write_safetensors(root: Path, arrays: Arrays) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(arrays, root / "all.safetensors", metadata={"by": "a test"})


def write_hdf5(root: Path, arrays: Arrays) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(root / "all.h5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=True, compression="gzip")


def write_zarr(root: Path, arrays: Arrays) -> None:
    import zarr

    for name, values in arrays.items():
        zarr.save_array(root / f"{name}.zarr", values)


def write_zarr_group(root: Path, arrays: Arrays) -> None:
    import zarr

    group = zarr.open_group(root, mode="a")
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=(64, *values.shape[1:]))


LAYOUTS: dict[str, Write] = {
    "npy": write_npy, "examples": write_examples, "thingsvision": write_thingsvision, "npz": write_npz,
    "compressed": write_compressed, "batches": write_batches, "safetensors": write_safetensors, "hdf5": write_hdf5,
    "zarr": write_zarr, "zarr group": write_zarr_group,
}  # fmt: skip

"""NumPy files of images: which layouts are understood, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from clusterpaths.datasets.arrays import Arrays, open_arrays
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3)).astype(np.uint8)  # N, height, width, RGB
LABELS = np.array([2, 0, 1, 1, 0, 2])


def opened(path: Path, labels: str = "") -> Arrays:
    return open_arrays(DatasetSpec(name="arrays", root=str(path), labels=labels))


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_npz_gives_pixels_and_labels_by_row(tmp_path: Path) -> None:
    data = opened(saved(tmp_path / "a.npz", images=PIXELS, labels=LABELS, class_names=np.array(["a", "b", "c"])))
    table = data.examples()
    assert table.files == tuple(f"0000000{n}" for n in range(6))
    assert table.ids.tolist() == list(range(6))
    assert table.labels.tolist() == LABELS.tolist()
    assert table.labels.dtype == np.int32
    assert table.class_names == ("a", "b", "c")
    assert table.sizes.tolist() == [60] * 6
    assert table.mtimes.tolist() == [(tmp_path / "a.npz").stat().st_mtime_ns] * 6
    for number, file in enumerate(table.files):
        assert np.array_equal(np.asarray(data.read_image(file)), PIXELS[number])
        assert data.digest(file) == xxhash.xxh3_64_intdigest(PIXELS[number].tobytes())


def test_npy_is_memory_mapped_and_labels_lie_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    data = opened(tmp_path / "a.npy")
    assert isinstance(data.blocks[0], np.memmap)
    assert data.examples().labels.tolist() == [-1] * 6
    assert data.notes == ("There are no labels for 6 images of a.npy.",)
    np.save(tmp_path / "labels.npy", LABELS)
    assert opened(tmp_path / "a.npy").examples().labels.tolist() == LABELS.tolist()
    np.save(tmp_path / "a_labels.npy", LABELS[::-1])
    assert opened(tmp_path).examples().labels.tolist() == LABELS[::-1].tolist()  # the folder's only file of images
    np.save(tmp_path / "more.npy", LABELS * 0)
    named = opened(tmp_path / "a.npy", str(tmp_path / "more.npy")).examples()
    assert (named.labels.tolist(), named.class_names) == ([0] * 6, ("0",))


@pytest.mark.parametrize("pattern", ["x_{}", "X_{}", "{}_images"])
def test_splits_run_through_in_the_order_train_valid_test(tmp_path: Path, pattern: str) -> None:
    labels = "{}_labels" if pattern.endswith("images") else "y_{}"
    arrays = {}
    for split, rows in (("test", slice(5, 6)), ("train", slice(0, 3)), ("val", slice(3, 5))):
        arrays[pattern.format(split)] = PIXELS[rows]
        arrays[labels.format(split)] = LABELS[rows].reshape(-1, 1)  # as Keras's CIFAR10 and MedMNIST have them
    data = opened(saved(tmp_path / "a.npz", **arrays))
    table = data.examples()
    assert table.splits == ("train", "train", "train", "valid", "valid", "test")
    assert table.labels.tolist() == LABELS.tolist()
    assert np.array_equal(np.stack([np.asarray(data.read_image(file)) for file in table.files]), PIXELS)


@pytest.mark.parametrize("grey", [PIXELS[..., 0], PIXELS[..., :1]])
def test_grey_becomes_rgb(tmp_path: Path, grey: Any) -> None:
    data = opened(saved(tmp_path / "a.npz", x=grey))
    image = data.read_image("00000002")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.repeat(PIXELS[2, :, :, :1], 3, axis=2))


@pytest.mark.parametrize("file", ["00000006", "-1", "x", "", "../a", "²"])
def test_what_is_no_rows_number_is_refused(tmp_path: Path, file: str) -> None:
    data = opened(saved(tmp_path / "a.npz", x=PIXELS))
    for read in (data.read_image, data.digest):
        with pytest.raises(OSError, match="not the number of an image"):
            read(file)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (
            {"x": PIXELS / 255},
            "is float64 of shape (6, 5, 4, 3). Expected uint8, pixels from 0 to 255: save (array * 255)",
        ),
        ({"x": PIXELS.astype(np.int32)}, "is int32 of shape (6, 5, 4, 3). Expected uint8"),
        (
            {"x": PIXELS.transpose(0, 3, 1, 2)},
            "channels first. Expected (N, height, width, 3): save array.transpose(0, 2, 3, 1)",
        ),
        ({"x": PIXELS.reshape(6, 60)}, "of shape (6, 60). Expected (N, height, width, 3)"),
        ({"x": np.zeros((6, 5, 4, 4), np.uint8)}, "of shape (6, 5, 4, 4). Expected (N, height, width, 3)"),
        ({"x": PIXELS[:0]}, "and none of them 0"),
        ({"x": PIXELS, "y": LABELS[:5]}, "of shape (5,), and there are 6 images. Expected one label per image"),
        ({"x": PIXELS, "y": LABELS - 1}, "from -1 to 1. Expected class numbers from 0"),
        ({"x": PIXELS, "y": LABELS + 1_000_000}, "from 1000000 to 1000002. Expected class numbers from 0 to 999999"),
        ({"x": PIXELS, "y": LABELS.astype(float)}, "are float64 of shape (6,). Expected one integer per image"),
        ({"x": PIXELS, "y": np.eye(6, dtype=np.int64)}, "Of one-hot rows save array.argmax(axis=1)"),
        ({"x": PIXELS, "y": LABELS, "class_names": np.array(["a"])}, "Expected a string for each of 3 classes"),
        ({"pictures": PIXELS}, "holds the arrays pictures. Expected images (or x), or x_train"),
    ],
)
def test_bad_arrays_are_refused_in_words(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    path = saved(tmp_path / "a.npz", **arrays)
    with pytest.raises(DatasetError) as caught:
        opened(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(saved(tmp_path / "whole.npz", x=PIXELS).read_bytes()[:200])
    (tmp_path / "a.txt").write_text("hello")
    for name in ("objects.npy", "text.npy", "cut.npz"):
        with pytest.raises(DatasetError, match=rf"{name} cannot be read as a NumPy file .* Save it again"):
            opened(tmp_path / name)
    with pytest.raises(DatasetError, match=r"is neither \.npy nor \.npz"):
        opened(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match="does not exist"):
        opened(tmp_path / "nowhere.npz")
    with pytest.raises(
        DatasetError, match=r"holds 4 NumPy files of images \(cut.npz, objects.npy, text.npy, whole.npz\)"
    ):
        opened(tmp_path)

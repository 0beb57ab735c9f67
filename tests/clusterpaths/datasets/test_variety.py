"""Sets whose images tell nothing are warned about, others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clusterpaths.datasets.folder import open_folder
from clusterpaths.datasets.variety import check_variety
from clusterpaths.records import DatasetSpec


def warnings(root: Path) -> tuple[str, ...]:
    folder = open_folder(DatasetSpec(name="folder", root=str(root)))
    return check_variety(folder, folder.examples())


def save(root: Path, count: int, kinds: int, dtype: type = np.uint8, most: int = 255) -> Path:
    """`count` images in `kinds` pictures; 0 kinds: constant ones, each of another grey."""
    rng = np.random.default_rng(kinds)
    pictures = [rng.integers(0, most, (6, 8), endpoint=True).astype(dtype) for _ in range(kinds)]
    for number in range(count):
        picture = pictures[number % kinds] if kinds else np.full((6, 8), number, dtype)
        Image.fromarray(picture).save(root / f"{kinds}_{most}_{number}.png")
    return root


def test_different_pictures_raise_no_warning(tmp_path: Path) -> None:
    assert warnings(save(tmp_path, 40, 40)) == ()


def test_most_images_of_one_colour_are_warned_about(tmp_path: Path) -> None:
    save(tmp_path, 21, 0)
    (found,) = warnings(save(tmp_path, 19, 19))
    assert found.startswith("21 of 40 images examined have one colour only, such as 0_255_")


@pytest.mark.parametrize(("own", "warned"), [(19, True), (21, False)])
def test_most_images_with_the_same_pixels_are_warned_about(tmp_path: Path, own: int, warned: bool) -> None:
    save(tmp_path, 20, 1)  # 20 copies
    found = warnings(save(tmp_path, own, own))
    assert bool(found) == warned
    if warned:
        assert "20 of 39 images examined have the same pixels as another one: 20 different images" in found[0]


def test_a_set_read_with_two_ranges_is_warned_about(tmp_path: Path) -> None:
    save(tmp_path, 10, 10, np.uint16, 4095)
    assert warnings(tmp_path) == ()
    (found,) = warnings(save(tmp_path, 3, 3, np.uint16, 65535))
    assert "different ranges of values: 0..4095 (10), 0..65535 (3)" in found


def test_unreadable_and_few_images_raise_no_warning(tmp_path: Path) -> None:
    save(tmp_path, 2, 0)
    (tmp_path / "broken.png").write_bytes(b"x")
    assert warnings(tmp_path) == ()

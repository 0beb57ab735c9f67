"""When a data set's fingerprint changes, when it does not, and how much of the images it reads."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clusterpaths.datasets import Dataset
from clusterpaths.datasets.base import ExampleTable, file_digest
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.datasets.fingerprint import SAMPLE, fingerprint, sample_positions
from clusterpaths.datasets.folder import open_folder
from clusterpaths.records import DatasetSpec


class Files:
    """Files of a folder by number, counting how many are read; content is any bytes."""

    name = "files"
    notes = ()

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: list[str] = []

    def examples(self) -> ExampleTable:
        files = sorted(path.name for path in self.root.iterdir())
        states = [(self.root / file).stat() for file in files]
        return ExampleTable(
            ids=np.arange(len(files)),
            files=tuple(files),
            sizes=np.array([state.st_size for state in states], np.int64),
            splits=("",) * len(files),
            labels=np.full(len(files), -1, np.int16),
            mtimes=np.array([state.st_mtime_ns for state in states], np.int64),
        )

    def read_image(self, file: str) -> Image.Image:
        raise AssertionError(f"a fingerprint decodes no image, and {file} was")

    def digest(self, file: str) -> int:
        self.read.append(file)
        return file_digest(self.root / file)


def make(root: Path, count: int) -> Files:
    root.mkdir()
    for number in range(count):
        (root / f"{number:05d}").write_bytes(f"content {number:05d}".encode())
    return Files(root)


def of(data: Dataset, full: bool = False) -> str:
    return fingerprint(data, data.examples(), full)


def overwrite(path: Path, content: bytes, *, keep_time: bool) -> None:
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    step = 0 if keep_time else 1_000_000
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + step))


def test_quick_reads_64_files_and_full_reads_all(tmp_path: Path) -> None:
    data = make(tmp_path / "d", 1000)
    assert len(of(data)) == 64
    assert len(data.read) == len(set(data.read)) == SAMPLE == 64
    data.read.clear()
    of(data, full=True)
    assert data.read == list(data.examples().files)


def test_same_folder_gives_the_same_text_and_the_sample_depends_on_the_number_only(tmp_path: Path) -> None:
    assert of(make(tmp_path / "d", 100)) == of(Files(tmp_path / "d"))
    assert sample_positions(5) == [0, 1, 2, 3, 4]
    chosen = sample_positions(200_000)
    assert chosen == sorted(set(chosen)) == sample_positions(200_000)
    assert all(part * 3125 <= position < (part + 1) * 3125 for part, position in enumerate(chosen))
    assert len({position % 3125 for position in chosen}) > 50  # by chance, not every 3125th


def test_other_content_of_the_same_size_changes_it_by_time(tmp_path: Path) -> None:
    data = make(tmp_path / "d", 500)
    outside = next(n for n in range(500) if n not in sample_positions(500))
    before = of(data)
    overwrite(data.root / f"{outside:05d}", b"CONTENT 00000", keep_time=False)
    assert of(data) != before


def test_other_content_of_the_same_size_and_time_changes_it_in_the_sample_and_in_full(tmp_path: Path) -> None:
    data = make(tmp_path / "d", 500)
    chosen = sample_positions(500)
    outside = next(n for n in range(500) if n not in chosen)
    quick, full = of(data), of(data, full=True)
    overwrite(data.root / f"{outside:05d}", b"CONTENT 00000", keep_time=True)
    assert of(data) == quick  # the price of not reading all
    assert of(data, full=True) != full
    overwrite(data.root / f"{chosen[7]:05d}", b"CONTENT 00000", keep_time=True)
    assert of(data) != quick


def test_full_stays_the_same_in_a_copy_and_quick_sees_other_times(tmp_path: Path) -> None:
    data = make(tmp_path / "d", 20)
    shutil.copytree(data.root, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, ns=(0, 12345))
    copy = Files(tmp_path / "copy")
    assert of(copy, full=True) == of(data, full=True)
    assert of(copy) != of(data)


@pytest.mark.parametrize("full", [False, True])
def test_order_names_labels_and_the_data_sets_name_are_part_of_it(tmp_path: Path, full: bool) -> None:
    data = make(tmp_path / "d", 10)
    table = data.examples()
    seen = {fingerprint(data, table, full)}
    others = [
        table.take(np.arange(10)[::-1]),
        replace(table, files=(*table.files[1:], table.files[0])),
        replace(table, ids=table.ids + 1),
        replace(table, sizes=table.sizes + 1),
        replace(table, labels=table.labels + np.int16(1), class_names=("a",)),
        replace(table, labels=table.labels + np.int16(1), class_names=("b",)),
        table.take(np.arange(9)),
    ]
    seen |= {fingerprint(data, other, full) for other in others}
    data.name = "other"
    seen.add(fingerprint(data, table, full))
    assert len(seen) == 9


def test_a_file_that_cannot_be_read_is_another_fingerprint_not_an_end(tmp_path: Path) -> None:
    data = make(tmp_path / "d", 10)
    table = data.examples()
    before = fingerprint(data, table)
    (data.root / "00003").unlink()
    gone = fingerprint(data, table)
    (data.root / "00003").write_bytes(b"content 00003")
    assert gone != before == fingerprint(data, table)


def test_celeba_and_folder_give_times_and_digests_of_their_files(tmp_path: Path) -> None:
    images = tmp_path / "img_align_celeba"
    images.mkdir()
    Image.new("RGB", (8, 8), "red").save(images / "000001.png")
    Image.new("RGB", (8, 8), "blue").save(images / "000002.png")
    celeba, folder = open_celeba(tmp_path), open_folder(DatasetSpec(name="folder", root=str(images)))
    for data in (celeba, folder):
        assert data.examples().mtimes.tolist() == [path.stat().st_mtime_ns for path in sorted(images.iterdir())]
        assert data.digest("000002.png") == file_digest(images / "000002.png") != data.digest("000001.png")
        with pytest.raises(OSError, match="not the name of a file in"):
            data.digest("../x.png")
    assert of(celeba) != of(folder)  # the same files, but other data sets

"""Pictures of a set's examples: the data set of its record, chosen sizes, and what is there when files are gone."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clusterpaths.datasets.celeba import CelebA, open_celeba
from clusterpaths.errors import NotFoundError
from clusterpaths.explanation import uploaded as dropped
from clusterpaths.explanation.explain import read_upright
from clusterpaths.explanation.uploaded import open_picture
from clusterpaths.explore.images import Images, encode
from clusterpaths.explore.library import Library
from tests.server.made import draw_faces, make_set, write_foreign


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 12 faces in FOLDER/results, its images beside it in FOLDER/images."""
    home = tmp_path_factory.mktemp("images")
    make_set(home / "results", data_root=draw_faces(home / "images", 12), name="Faces", k=2, layers=("fc2",))
    write_foreign(home / "results")
    return home / "results"


@pytest.fixture
def own(results: Path, tmp_path: Path) -> Path:
    """The same, of one test's own: the set's record names the images in here."""
    shutil.copytree(results.parent, tmp_path / "site")
    record = tmp_path / "site" / "results" / "Faces" / "set_01" / "set.json"
    record.write_text(record.read_text().replace(str(results.parent), str(tmp_path / "site")))
    return tmp_path / "site" / "results"


@pytest.fixture
def older(own: Path) -> Path:
    """The same, as sets were before they recorded the contents of files: they show what lies under an image's name."""
    paths = own / "Faces" / "set_01" / "paths.parquet"
    pq.write_table(pq.read_table(paths).drop_columns(["digest"]), paths)
    return own


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


@pytest.mark.parametrize(
    ("size", "shape"),
    [(0, (178, 218)), (160, (131, 160)), (64, (52, 64)), (1, (1, 1)), (218, (178, 218)), (9999, (178, 218))],
)
def test_the_longest_side_is_what_was_asked_for_and_nothing_is_enlarged(
    results: Path, size: int, shape: tuple[int, int]
) -> None:
    library = Library(results)
    index = library.set("Faces", "set_01")
    assert opened(Images(library).jpeg(index, 3, size)).size == shape


def test_a_picture_is_its_own_example_s(results: Path) -> None:
    library = Library(results)
    index = library.set("Faces", "set_01")
    images, data = Images(library), open_celeba(results.parent / "images")
    for row in range(len(index.ids)):
        shown = np.asarray(opened(images.jpeg(index, row)), int)
        stored = [np.asarray(data.read_image(file), int) for file in data.table.files]
        differences = [np.abs(shown - other).mean() for other in stored]
        assert int(np.argmin(differences)) == row
        assert differences[row] < 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (17, 15)])
def test_pictures_of_any_shape_are_encoded(shape: tuple[int, int]) -> None:
    image = Image.new("RGB", shape, (200, 30, 60))
    assert opened(encode(image, 0)).size == shape
    small = opened(encode(image, 16))
    assert max(small.size) == min(16, max(shape))
    assert min(small.size) >= 1
    assert np.abs(np.asarray(small, int) - (200, 30, 60)).max() < 8


def test_what_a_camera_wrote_beside_the_pixels_stays_here(older: Path) -> None:
    file = older.parent / "images" / "celeba" / "img_align_celeba" / "000004.jpg"
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    with Image.open(file) as image:
        image.save(file, exif=exif)
    library = Library(older)
    content = Images(library).jpeg(library.set("Faces", "set_01"), 3)
    assert b"taken at home" in file.read_bytes()
    assert b"taken at home" not in content
    assert not opened(content).getexif()


def test_a_picture_is_decoded_once_as_long_as_it_is_kept(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = CelebA.read_image
    monkeypatch.setattr(CelebA, "read_image", lambda self, file: read.append(file) or original(self, file))
    library = Library(results)
    index = library.set("Faces", "set_01")
    images = Images(library)
    assert images.jpeg(index, 3, 64) == images.jpeg(index, 3, 64)
    assert len(read) == 1
    one = len(images.jpeg(index, 0))
    small = Images(library, budget=int(2.5 * one))  # two of them
    read.clear()
    for row in (0, 1, 2, 2, 0):
        small.jpeg(index, row)
    assert [int(Path(file).stem) - 1 for file in read] == [0, 1, 2, 0]
    assert small._jpegs.size <= 2.5 * one


def test_many_threads_get_the_same_pictures(results: Path) -> None:
    library = Library(results)
    index = library.set("Faces", "set_01")
    images = Images(library, budget=20_000)
    expected = [images.jpeg(index, row, 100) for row in range(12)]
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for row in np.random.default_rng(seed).integers(0, 12, 60).tolist():
            if images.jpeg(index, row, 100) != expected[row]:
                wrong.append(row)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert images._jpegs.size <= 20_000


# what is not there


def test_another_program_s_set_has_no_pictures(results: Path) -> None:
    library = Library(results)
    with pytest.raises(NotFoundError, match=r"Old/set_01"):
        Images(library).jpeg(library.set("Old", "set_01"), 0)


def test_a_folder_of_images_that_is_gone_is_told_without_its_path_and_found_when_it_is_back(own: Path) -> None:
    images_folder = own.parent / "images"
    images_folder.rename(own.parent / "away")
    library = Library(own)
    index = library.set("Faces", "set_01")
    images = Images(library)
    with pytest.raises(NotFoundError, match="have been moved") as caught:
        images.jpeg(index, 0)
    assert str(own.parent) not in str(caught.value)
    (own.parent / "away").rename(images_folder)
    assert opened(images.jpeg(index, 0)).size == (178, 218)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no longer exists"),
        (b"", "cannot be read"),
        (b"<html>not an image</html>", "cannot be read"),
        (b"\xff\xd8\xff\xe0 and then nothing of the kind", "cannot be read"),
    ],
)
def test_a_file_that_is_gone_or_none_is_told_without_its_path(older: Path, content: bytes | None, reason: str) -> None:
    file = older.parent / "images" / "celeba" / "img_align_celeba" / "000004.jpg"
    file.unlink() if content is None else file.write_bytes(content)
    library = Library(older)
    index = library.set("Faces", "set_01")
    with pytest.raises(NotFoundError, match=reason) as caught:
        Images(library).jpeg(index, 3)
    assert "000004.jpg" in str(caught.value)
    assert str(older.parent) not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"<html>not an image</html>", "another"])
def test_an_image_that_was_replaced_is_not_shown_as_the_example_s(own: Path, content: bytes | str) -> None:
    folder = own.parent / "images" / "celeba" / "img_align_celeba"
    other = (folder / "000005.jpg").read_bytes() if isinstance(content, str) else content
    (folder / "000004.jpg").write_bytes(other)
    library = Library(own)
    with pytest.raises(NotFoundError, match=r"000004\.jpg of Faces/set_01 was replaced since") as caught:
        Images(library).jpeg(library.set("Faces", "set_01"), 3)
    assert str(own.parent) not in str(caught.value)


def test_an_image_of_two_hundred_million_pixels_is_refused_before_it_is_decoded(older: Path) -> None:
    file = older.parent / "images" / "celeba" / "img_align_celeba" / "000004.jpg"
    Image.new("1", (14_000, 14_000)).save(file, "PNG")
    library = Library(older)
    with pytest.raises(NotFoundError, match="cannot be read"):
        Images(library).jpeg(library.set("Faces", "set_01"), 3)


# pictures that somebody brings


@pytest.mark.parametrize("turn", [None, 1, 2, 3, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16")]
)
def test_a_picture_is_as_explain_reads_it_from_a_file(tmp_path: Path, kind: str, mode: str, turn: int | None) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (41, 66, 3), np.uint8)
    image = Image.fromarray(noise)
    image = Image.fromarray(noise[..., 0].astype(np.uint16) * 250) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    if turn is not None:
        exif[0x0112] = turn
    image.save(tmp_path / "image", kind, exif=exif)
    brought, expected = open_picture((tmp_path / "image").read_bytes()), read_upright(tmp_path / "image")
    assert (brought.mode, brought.size) == ("RGB", expected.size)
    assert np.array_equal(brought, expected)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGBA"), ("PNG", "I;16"), ("GIF", "P")])
def test_a_very_large_picture_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 1101).astype(np.uint8), (701, 1))
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    image.save(tmp_path / "image", kind, **({} if kind == "GIF" else {"exif": exif}))
    whole = open_picture((tmp_path / "image").read_bytes())
    monkeypatch.setattr(dropped, "EXACT_PIXELS", 200_000)
    monkeypatch.setattr(dropped, "BAND", 64)
    halved = open_picture((tmp_path / "image").read_bytes())
    assert halved.size == tuple((side + 1) // 2 for side in whole.size)
    difference = np.abs(np.asarray(halved, int) - np.asarray(whole.resize(halved.size), int))
    assert difference.max() <= 3


_GROWTH = """
import io, sys
from PIL import Image
from clusterpaths.explanation.uploaded import open_picture
def peak(): return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
small = io.BytesIO()
Image.new("RGB", (50, 50)).save(small, "PNG")
open_picture(small.getvalue())
before = peak()
assert max(open_picture(open(sys.argv[1], "rb").read()).size) == 3150
print((peak() - before) // 1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is told by Linux")
def test_forty_megapixels_take_less_than_300_megabytes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGBA", (6300, 6300), (200, 120, 60, 90))
    image.save(tmp_path / "a.png", exif=exif, compress_level=1)
    image.convert("RGB").save(tmp_path / "b.jpg", exif=exif)
    for file in ("a.png", "b.jpg"):
        done = subprocess.run(
            [sys.executable, "-c", _GROWTH, str(tmp_path / file)], capture_output=True, text=True, check=True
        )
        assert 10 < int(done.stdout) < 300, file


def test_a_disk_that_fails_while_a_model_is_loaded_in_advance_is_no_traceback(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported with the first image."""
    raised: list[threading.ExceptHookArgs] = []
    tried = threading.Event()

    def fails(_: object) -> None:
        tried.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(threading, "excepthook", raised.append)
    monkeypatch.setattr(dropped, "_open", fails)
    before = set(threading.enumerate())
    dropped.Explainer().prepare(Library(results).set("Faces", "set_01"))
    assert tried.wait(20)
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
    assert raised == []

"""CelebA folders of every shape: what is understood, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clusterpaths.datasets.celeba import HAIR, celeba_present, open_celeba
from clusterpaths.datasets.registry import fetch, open_source
from clusterpaths.errors import DatasetError, QuotaError
from clusterpaths.records import DatasetSpec

NAMES = "Bald Black_Hair Blond_Hair Brown_Hair Gray_Hair Smiling"
QUOTA_PAGE = "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
OTHER_PAGE = "<html><head><title>Sign in to the network</title></head></html>"


def picture(colour: tuple[int, int, int] = (200, 10, 10), kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 20), colour).save(buffer, kind)
    return buffer.getvalue()


def images(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(picture())
    return folder


def attributes(*rows: str) -> str:
    return "\n".join([str(len(rows)), NAMES, *rows, ""])


@pytest.mark.parametrize("below", ["celeba/img_align_celeba", "img_align_celeba", "img_align_celeba/img_align_celeba"])
def test_root_may_be_torchvisions_or_the_celeba_folder_or_kaggles(tmp_path: Path, below: str) -> None:
    images(tmp_path / below, "000002.jpg", "000001.jpg")
    data = open_celeba(tmp_path)
    assert data.images == tmp_path / below
    assert data.examples().files == ("000001.jpg", "000002.jpg")
    assert (data.name, data.root) == ("celeba", tmp_path)


ANNOTATIONS = {
    "list_attr_celeba.txt": attributes("000001.jpg -1 -1 1 -1 -1 1"),
    "list_eval_partition.txt": "000001.jpg 2\n",
}

ROOTS = [  # images, annotations, named
    ("img_align_celeba", ".", "img_align_celeba"),  # the directory of the .jpg itself
    ("celeba/img_align_celeba", "celeba", "celeba/img_align_celeba"),
    ("a/img_align_celeba/img_align_celeba", "a", "a/img_align_celeba/img_align_celeba"),  # Kaggle's
    ("a/img_align_celeba/img_align_celeba", "a", "a/img_align_celeba"),
    ("a/img_align_celeba/img_align_celeba", "a", "a"),
    ("a/img_align_celeba/img_align_celeba", "a", "."),  # Kaggle's parent
    ("a/Img/img_align_celeba", "a/Anno", "a/Img/img_align_celeba"),  # the CelebA page's
    ("photos", "photos", "photos"),
]


@pytest.mark.parametrize(("place", "annotations", "named"), ROOTS)
def test_any_directory_that_means_it_is_understood_and_never_answered_by_a_download(
    tmp_path: Path, place: str, annotations: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "clusterpaths.datasets.download.download_celeba", lambda root: pytest.fail(f"fetched to {root}")
    )
    images(tmp_path / place, "000001.jpg", "000002.jpg")
    (tmp_path / annotations).mkdir(exist_ok=True)
    for file, content in ANNOTATIONS.items():
        (tmp_path / annotations / file).write_text(content)
    spec = DatasetSpec(name="celeba", root=str(tmp_path / named))
    said: list[str] = []
    fetch(spec, said.append)
    assert said[0].startswith("Using the images that are in")
    data = open_source(spec)
    table = data.examples()
    assert table.files == ("000001.jpg", "000002.jpg")
    assert [table.class_names[label] for label in table.labels if label >= 0] == ["Blond"]
    assert table.splits == ("test", "")
    assert data.read_image("000001.jpg").size == (16, 20)


def test_two_directories_with_celeba_are_not_chosen_between(tmp_path: Path) -> None:
    for name in ("one", "two"):
        images(tmp_path / name / "img_align_celeba", "000001.jpg")
    with pytest.raises(DatasetError, match=r"several directories with images of CelebA \(one, two\)\. Name one"):
        fetch(DatasetSpec(name="celeba", root=str(tmp_path)))


@pytest.mark.parametrize("place", [".", "cats"])
def test_celeba_is_not_downloaded_among_other_images(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "clusterpaths.datasets.download.download_celeba", lambda root: pytest.fail(f"fetched to {root}")
    )
    images(tmp_path / place, "1.jpg", "holiday.jpg")
    with pytest.raises(DatasetError, match=r"holds images \(.*jpg\), but none of CelebA.*clusterpaths images"):
        fetch(DatasetSpec(name="celeba", root=str(tmp_path)))


def test_drawn_faces_and_other_data_in_the_default_directory_leave_the_download_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Path] = []
    monkeypatch.setattr("clusterpaths.datasets.download.download_celeba", fetched.append)
    monkeypatch.setenv("CLUSTERPATHS_HOME", str(tmp_path))
    images(tmp_path / "data" / "SampleFaces-9" / "celeba" / "img_align_celeba", "000001.jpg")
    (tmp_path / "data" / "SampleFaces-9" / "celeba" / "faces.json").write_text("{}")
    images(tmp_path / "data" / "flowers", "a.jpg")
    fetch(DatasetSpec(name="celeba", root=str(tmp_path / "data")))
    assert fetched == [tmp_path / "data"]


def test_id_is_number_minus_one_and_gaps_stay(tmp_path: Path) -> None:
    folder = images(tmp_path / "img_align_celeba", "000064.jpg", "12.jpg", "000005.JPG")
    table = open_celeba(tmp_path).examples()
    assert table.ids.tolist() == [4, 11, 63]
    assert table.files == ("000005.JPG", "12.jpg", "000064.jpg")
    assert table.sizes.tolist() == [(folder / name).stat().st_size for name in table.files]
    assert table.splits == ("", "", "")
    assert table.labels.tolist() == [-1, -1, -1]


def test_hair_colour_is_the_label_only_where_exactly_one_is_marked(tmp_path: Path) -> None:
    images(tmp_path / "img_align_celeba", *(f"{n:06d}.jpg" for n in range(1, 6)))
    (tmp_path / "list_attr_celeba.txt").write_text(
        attributes(
            "000001.jpg -1 1 -1 -1 -1 1",  # black
            "000002.jpg -1 1 -1 1 -1 1",  # black and brown
            "000003.jpg -1 -1 -1 -1 -1 -1",  # none
            "000004.jpg -1  0 -1 -1  1 -1",  # gray, black unknown; 000005 has no row
        )
    )
    table = open_celeba(tmp_path).examples()
    assert table.class_names == ("Bald", "Black", "Blond", "Brown", "Gray") == tuple(HAIR)
    assert table.labels.tolist() == [1, -1, -1, 4, -1]
    assert table.labels.dtype == np.int32
    assert table.attributes["Smiling"].tolist() == [1, 1, -1, -1, 0]
    assert table.attributes["Black_Hair"].tolist() == [1, 1, -1, 0, 0]
    assert table.attributes["Smiling"].dtype == np.int8


def test_attributes_coded_1_and_0_are_yes_and_no(tmp_path: Path) -> None:
    images(tmp_path / "img_align_celeba", *(f"{n:06d}.jpg" for n in range(1, 4)))
    (tmp_path / "list_attr_celeba.txt").write_text(attributes("000001.jpg 0 1 0 0 0 1", "000002.jpg 0 0 0 0 0 0"))
    table = open_celeba(tmp_path).examples()
    assert table.attributes["Smiling"].tolist() == [1, -1, 0]  # 000003 has no row
    assert table.labels.tolist() == [1, -1, -1]


def test_kaggles_csv_and_torchvisions_txt_give_the_same_table(tmp_path: Path) -> None:
    for layout in ("kaggle/img_align_celeba/img_align_celeba", "torchvision/celeba/img_align_celeba"):
        images(tmp_path / layout, "000001.jpg", "000002.jpg", "000003.jpg")
    kaggle, torchvision = tmp_path / "kaggle", tmp_path / "torchvision" / "celeba"
    names = ",".join(NAMES.split())
    (kaggle / "list_attr_celeba.csv").write_text(
        f"image_id,{names}\n000001.jpg,-1,-1,1,-1,-1,1\n000003.jpg,1,-1,-1,-1,-1,-1\n"
    )
    (kaggle / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2\n")
    (torchvision / "list_attr_celeba.txt").write_bytes(  # BOM, CRLF, a blank line, runs of blanks
        b"\xef\xbb\xbf"
        + attributes("000001.jpg -1 -1  1 -1 -1  1", "", "000003.jpg  1 -1 -1 -1 -1 -1")
        .replace("3\n", "2\n", 1)
        .replace("\n", "\r\n")
        .encode()
    )
    (torchvision / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    one, other = open_celeba(kaggle), open_celeba(tmp_path / "torchvision")
    a, b = one.examples(), other.examples()
    assert a.labels.tolist() == b.labels.tolist() == [2, -1, 0]
    assert a.splits == b.splits == ("train", "valid", "test")
    assert {k: v.tolist() for k, v in a.attributes.items()} == {k: v.tolist() for k, v in b.attributes.items()}
    assert one.notes == ("list_attr_celeba.csv has no row for 1 of 3 images.",)
    assert other.notes == ("list_attr_celeba.txt has no row for 1 of 3 images.",)


def test_notes_tell_what_was_left_out(tmp_path: Path) -> None:
    folder = images(tmp_path / "img_align_celeba", "000002.jpg", "foo.jpg", ".DS_Store")
    (folder / "subfolder").mkdir()
    (folder / "000009.jpg").mkdir()
    (tmp_path / "list_attr_celeba.txt").write_text("99\n" + attributes("000001.jpg 1 1 1 1 1 1")[2:])
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{n:06d}.jpg 0\n" for n in range(1, 10)))
    data = open_celeba(tmp_path)
    assert data.examples().files == ("000002.jpg",)
    notes = "\n".join(data.notes)
    assert f".DS_Store, 000009.jpg, foo.jpg, subfolder in {folder} are not named by a number and ignored." in notes
    assert "list_attr_celeba.txt announces 99 rows and has 1; the rows are used." in notes
    assert "list_attr_celeba.txt names 000001.jpg that is not in the directory and so no example." in notes
    assert "list_attr_celeba.txt has no row for 1 of 1 images." in notes
    assert "list_eval_partition.txt names 8 images that are not in the directory and so no example." in notes


def test_missing_annotations_are_noted_not_fatal(tmp_path: Path) -> None:
    images(tmp_path / "img_align_celeba", "000001.jpg")
    data = open_celeba(tmp_path)
    assert any("no list_attr_celeba.txt or .csv" in note for note in data.notes)
    assert any("no list_eval_partition.txt or .csv" in note for note in data.notes)
    (tmp_path / "list_attr_celeba.txt").write_text("1\nSmiling Bald\n000001.jpg 1 1\n")
    data = open_celeba(tmp_path)
    assert any("lack Black_Hair, Blond_Hair, Brown_Hair, Gray_Hair" in note for note in data.notes)
    assert data.examples().labels.tolist() == [-1]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("list_attr_celeba.txt", "", "list_attr_celeba.txt is empty; expected one line per image"),
        ("list_attr_celeba.txt", " \n\r\n", "list_attr_celeba.txt is empty"),
        ("list_attr_celeba.txt", "1\n000001.jpg 1 1\n", "expected a line with each attribute's name once"),
        ("list_attr_celeba.txt", "1\nBald Bald\n000001.jpg 1 1\n", "got a name twice"),
        ("list_attr_celeba.txt", attributes("000001.jpg 1 1"), "line 3, has 2 values; expected 6, one per column"),
        ("list_attr_celeba.txt", attributes("000001.jpg 1 1 1 1 1 2"), "line 3, holds '2'; expected one of 1, -1, 0"),
        (
            "list_attr_celeba.txt",
            attributes("", "face 1 1 1 1 1 1"),
            "line 4, starts with 'face'; expected a file name",
        ),
        (
            "list_attr_celeba.txt",
            attributes("000001.jpg 1 1 1 1 1 1", "1.jpg 1 1 1 1 1 1"),
            "line 4, names 1.jpg again; expected it once (line 3)",
        ),
        ("list_attr_celeba.csv", "image_id,Bald\n000001.jpg,x\n", "line 2, holds 'x'; expected one of 1, -1, 0"),
        ("list_eval_partition.txt", "000001.jpg 3\n", "line 1, holds '3'; expected one of 0, 1, 2"),
        ("list_eval_partition.txt", "000001.jpg\n", "line 1, has 0 values; expected 1, one per column"),
        ("list_eval_partition.csv", "image_id,fold\n000001.jpg,1\n", "has the columns fold; expected partition"),
        ("list_attr_celeba.txt", OTHER_PAGE, 'is a web page called "Sign in to the network" rather than the file'),
    ],
)
def test_malformed_annotations_are_refused_by_file_and_line(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    images(tmp_path / "img_align_celeba", "000001.jpg")
    (tmp_path / file).write_text(content)
    with pytest.raises(DatasetError) as caught:
        open_celeba(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path / file) in str(caught.value)
    assert not isinstance(caught.value, QuotaError)


def test_binary_annotations_are_refused(tmp_path: Path) -> None:
    images(tmp_path / "img_align_celeba", "000001.jpg")
    (tmp_path / "list_attr_celeba.txt").write_bytes(picture())
    with pytest.raises(DatasetError, match="is not text: byte 0 is not UTF-8"):
        open_celeba(tmp_path)


@pytest.mark.parametrize("file", ["list_attr_celeba.txt", "list_eval_partition.csv", "img_align_celeba.zip"])
def test_a_saved_quota_page_is_named_with_the_way_out(tmp_path: Path, file: str) -> None:
    if not file.endswith("zip"):
        images(tmp_path / "img_align_celeba", "000001.jpg")
    (tmp_path / file).write_text(QUOTA_PAGE)
    assert celeba_present(tmp_path) is (not file.endswith("zip"))
    with pytest.raises(QuotaError) as caught:
        open_celeba(tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path / file), "download quota", "used up", "Wait a day", "Kaggle", "--sample"):
        assert part in message
    assert (tmp_path / file).exists()


def test_a_folder_without_images_says_what_was_looked_for_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    images(tmp_path / "wrong" / "img_align_celeba", "face.jpg")
    for root, state in {
        "none": "does not exist",
        "file": "is a file, not",
        "empty": "is empty",
        "wrong": "no CelebA images",
    }.items():
        assert not celeba_present(tmp_path / root)
        with pytest.raises(DatasetError) as caught:
            open_celeba(tmp_path / root)
        message = str(caught.value)
        for part in (state, "img_align_celeba/000001.jpg", str(tmp_path / root / "celeba"), "--sample"):
            assert part in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("1.jpg", "000001.jpg"), "holds 000001.jpg and 1.jpg, both number 1; remove one"),
        (("000001.jpg", "000001.png"), "both number 1"),
        (("0.jpg", "1.jpg"), "has the number 0; CelebA's images are numbered from 1"),
    ],
)
def test_ambiguous_numbers_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    images(tmp_path / "img_align_celeba", *names)
    with pytest.raises(DatasetError) as caught:
        open_celeba(tmp_path)
    assert message in str(caught.value)


# ---- reading an image


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P"])
def test_any_mode_and_any_content_becomes_rgb(tmp_path: Path, mode: str) -> None:
    folder = images(tmp_path / "img_align_celeba", "000001.jpg")
    kind = "PNG" if mode == "P" else "JPEG"
    extra = {"transparency": b"\x00" * 4} if mode == "P" else {}
    Image.new("RGB", (16, 20), (90, 90, 90)).convert(mode).save(folder / "000001.jpg", kind, **extra)
    image = open_celeba(tmp_path).read_image("000001.jpg")
    assert (image.mode, image.size) == ("RGB", (16, 20))


def broken(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"no image at all", "not an image that can be read (15 bytes)"),
        (broken("JPEG")[:2000], "truncated"),
        (broken("PNG")[:2000], "truncated"),
        (
            broken("PNG")[:33] + (1000).to_bytes(4, "big") + broken("PNG")[37:],
            "corrupt image (SyntaxError: broken PNG file",
        ),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", "Truncated File Read"),
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "broken PNG", "PNG header only"],
)
def test_an_unreadable_image_is_an_oserror_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    folder = images(tmp_path / "img_align_celeba", "000001.jpg", "000002.jpg")
    (folder / "000001.jpg").write_bytes(content)
    data = open_celeba(tmp_path)
    with pytest.raises(OSError, match=re.escape(reason)):
        data.read_image("000001.jpg")
    assert data.read_image("000002.jpg").size == (16, 20)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata; only what it raises matters here
def test_corrupt_bytes_never_raise_anything_but_oserror(tmp_path: Path) -> None:
    folder = images(tmp_path / "img_align_celeba", "000001.jpg")
    data = open_celeba(tmp_path)
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        whole = np.frombuffer(broken(kind), dtype=np.uint8)
        for _ in range(40):
            bad = whole.copy()
            bad[rng.integers(0, min(len(bad), 400), 20)] = rng.integers(0, 256, 20)
            (folder / "000001.jpg").write_bytes(bad.tobytes()[: rng.integers(1, len(bad))])
            with contextlib.suppress(OSError):
                data.read_image("000001.jpg")


def test_an_image_of_insane_size_is_an_oserror(tmp_path: Path) -> None:
    folder = images(tmp_path / "img_align_celeba", "000001.jpg")
    header = bytearray(broken("BMP"))
    header[18:26] = (60_000).to_bytes(4, "little") * 2
    (folder / "000001.jpg").write_bytes(header)
    with pytest.raises(OSError, match="DecompressionBombError"):
        open_celeba(tmp_path).read_image("000001.jpg")


@pytest.mark.parametrize("name", ["000002.jpg", "../secret.jpg", "/etc/hostname", "..", "", "."])
def test_a_missing_file_or_one_outside_the_folder_is_an_oserror(tmp_path: Path, name: str) -> None:
    images(tmp_path, "secret.jpg")
    images(tmp_path / "img_align_celeba", "000001.jpg")
    with pytest.raises(OSError, match=r"No such file|not the name of a file|Is a directory"):
        open_celeba(tmp_path).read_image(name)


@pytest.mark.parametrize("module", ["base", "celeba", "download"])
def test_importing_a_data_set_does_not_import_torch(module: str) -> None:
    code = f"import sys, clusterpaths.datasets.{module}; print({{'torch', 'torchvision', 'gdown'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"

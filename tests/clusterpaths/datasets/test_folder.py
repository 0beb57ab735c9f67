"""Folders of images of every shape, with and without a CSV file: what is understood, and what is refused in which words."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clusterpaths.datasets.base import Caution
from clusterpaths.datasets.folder import Folder, image_suffixes, open_folder
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec


def images(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), "red").save(path)
    return root


def opened(root: Path, labels: str | Path = "") -> Folder:
    return open_folder(DatasetSpec(name="folder", root=str(root), labels=str(labels)))


def named(folder: Folder) -> dict[str, str]:
    """File -> class name, "" for none."""
    table = folder.examples()
    return {
        file: table.class_names[label] if label >= 0 else ""
        for file, label in zip(table.files, table.labels, strict=True)
    }


def refused(root: Path, labels: str | Path = "") -> str:
    with pytest.raises(DatasetError) as caught:
        opened(root, labels)
    return str(caught.value)


def csv(root: Path, text: str) -> Path:
    path = root / "given.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_flat_folder_has_no_labels_and_ids_in_the_order_of_names(tmp_path: Path) -> None:
    images(tmp_path, "b.png", "a.JPG", "c.webp")
    data = opened(tmp_path)
    table = data.examples()
    assert table.files == ("a.JPG", "b.png", "c.webp")
    assert table.ids.tolist() == [0, 1, 2]
    assert table.sizes.tolist() == [(tmp_path / name).stat().st_size for name in table.files]
    assert (table.labels.tolist(), table.class_names, table.splits) == ([-1] * 3, (), ("",) * 3)
    assert (data.name, data.root, data.notes) == ("folder", tmp_path, ())
    assert data.read_image("b.png").size == (6, 4)


def test_one_folder_a_class_as_torchvisions_image_folder_numbers_them(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    images(tmp_path, "zebra/2.png", "ant/deep/er/1.png", "Bee/3.png", "ant/4.png")
    table = opened(tmp_path).examples()
    theirs = ImageFolder(str(tmp_path))
    assert list(table.class_names) == theirs.classes == ["Bee", "ant", "zebra"]
    expected = {Path(path).relative_to(tmp_path).as_posix(): label for path, label in theirs.samples}
    assert dict(zip(table.files, table.labels.tolist(), strict=True)) == expected


def test_train_val_and_test_folders_are_splits_with_classes_in_them(tmp_path: Path) -> None:
    images(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "Test/4.png")
    data = opened(tmp_path)
    assert dict(zip(data.examples().files, data.examples().splits, strict=True)) == {
        "Test/4.png": "test",
        "train/cat/1.png": "train",
        "train/dog/2.png": "train",
        "val/dog/3.png": "valid",
    }
    assert named(data) == {"Test/4.png": "", "train/cat/1.png": "cat", "train/dog/2.png": "dog", "val/dog/3.png": "dog"}
    assert data.notes == ("The directories Test, train, val are used as splits.",)


def test_another_folder_beside_train_makes_all_of_them_classes(tmp_path: Path) -> None:
    assert set(named(opened(images(tmp_path, "train/1.png", "bus/2.png"))).values()) == {"train", "bus"}


def test_loose_images_or_a_lone_folder_make_no_classes_and_a_note_says_so(tmp_path: Path) -> None:
    mixed = opened(images(tmp_path / "mixed", "cat/1.png", "dog/2.png", "3.png"))
    assert set(named(mixed).values()) == {""}
    assert mixed.notes == ("1 images lie in no directory, so directories are not used as classes: no labels.",)
    lone = opened(images(tmp_path / "lone", "photos/1.png", "photos/2.png"))
    assert set(named(lone).values()) == {""}
    assert lone.notes == ("All images lie in photos; a single directory is not used as a class.",)


def test_hidden_files_and_others_are_left_out_with_their_number_and_three_names(tmp_path: Path) -> None:
    images(tmp_path, "a.png", ".hidden.png", ".cache/b.png")
    for name in ("notes.txt", "x.h5", "film.mpg"):
        (tmp_path / name).write_text("x")
    data = opened(tmp_path)
    assert data.examples().files == ("a.png",)
    assert data.notes == (
        f"In {tmp_path} 5 other entries (.cache, .hidden.png, film.mpg, …) left out: hidden, or no image.",
    )


def test_every_format_that_pillow_writes_and_reads_is_found(tmp_path: Path) -> None:
    written = (".bmp", ".gif", ".ico", ".ppm", ".tga", ".TIFF", ".jpeg")
    for end in written:
        Image.new("RGB", (16, 16), "red").save(tmp_path / f"image{end}")
    data = opened(tmp_path)
    assert len(data.examples()) == len(written)
    for file in data.examples().files:
        assert data.read_image(file).mode == "RGB"
    assert {".jpg", ".png", ".webp"} <= image_suffixes()
    assert not {".pdf", ".h5", ".mpg"} & image_suffixes()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    left_red = Image.new("RGB", (16, 8), "blue")
    left_red.paste("red", (0, 0, 8, 8))
    left_red.save(tmp_path / "a.jpg", exif=exif)
    image = opened(tmp_path).read_image("a.jpg")
    assert image.size == (8, 16)
    assert image.getpixel((4, 12))[0] > 200  # 8: turn counter-clockwise, left goes down


def test_links_to_folders_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    images(tmp_path / "elsewhere", "1.png")
    images(tmp_path / "data", "dog/2.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    data = opened(tmp_path / "data")
    assert named(data) == {"cat/1.png": "cat", "dog/2.png": "dog"}
    assert "(dog/again/, lost.png)" in data.notes[0]


@pytest.mark.parametrize("file", ["../secret.png", "/secret.png", "a/../../secret.png"])
def test_names_that_lead_out_are_refused(tmp_path: Path, file: str) -> None:
    images(tmp_path, "secret.png", "data/a.png")
    data = opened(tmp_path / "data")
    for read in (data.read_image, data.digest):
        with pytest.raises(OSError, match="not the name of a file in"):
            read(file)


def test_a_damaged_image_is_an_oserror_of_that_image(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    data = opened(tmp_path)
    with pytest.raises(OSError, match="the file is empty"):
        data.read_image("b.png")
    assert data.read_image("a.png").size == (6, 4)


def test_no_folder_no_image_and_a_file_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme.md").write_text("x")
    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "is a file, not a directory" in refused(tmp_path / "texts" / "readme.md")
    assert refused(tmp_path / "empty").startswith(f"There is no image in {tmp_path / 'empty'}: it is empty.")
    message = refused(tmp_path / "texts")
    assert "There is no image in" in message
    assert "1 other entry (readme.md)" in message
    assert "--images" in message


@pytest.mark.parametrize("names", [("a/Img.png", "a/img.PNG"), ("Cat/1.png", "cat/1.png")])
def test_two_names_that_differ_only_in_letter_case_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    images(tmp_path, *names)
    if len(list(tmp_path.rglob("*.[pP][nN][gG]"))) < 2:
        pytest.skip("this file system does not tell letter case apart")
    message = refused(tmp_path)
    assert f"{names[0]} and {names[1]}, names that differ only in letter case" in message
    assert "Rename one" in message


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    try:
        with open(os.fsencode(tmp_path) + b"/b\xff.png", "wb"):  # noqa: PTH123  Path takes no bytes
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    data = opened(tmp_path)
    assert data.examples().files == ("a.png",)
    assert r"b\udcff.png" in data.notes[0]
    data.notes[0].encode()


CSV_IMAGES = ("anna/1.png", "anna/2.png", "bob/3.png", "bob/4.png")


def test_csv_with_names_gives_labels_splits_and_attributes_in_place_of_folders(tmp_path: Path) -> None:
    images(tmp_path, *CSV_IMAGES)
    given = csv(
        tmp_path,
        "label,File,smiling,split,photographer\ndog,anna/2.png,1,val,X\ncat,anna/1.png,-1,train,Y\n,./bob/3.png,0,,X\n",
    )
    data = opened(tmp_path, given)
    table = data.examples()
    assert named(data) == {"anna/1.png": "cat", "anna/2.png": "dog", "bob/3.png": "", "bob/4.png": ""}
    assert table.class_names == ("cat", "dog")
    assert table.splits == ("train", "valid", "", "")
    assert {name: values.tolist() for name, values in table.attributes.items()} == {"smiling": [-1, 1, 0, 0]}
    assert table.attributes["smiling"].dtype == np.int8
    assert "given.csv has no row for 1 of 4 images; they have no label." in data.notes
    assert any("the column 'photographer' is not used; it holds 'X'" in note for note in data.notes)


def test_csv_without_names_in_the_folder_is_found_by_its_name(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    (tmp_path / "labels.csv").write_text("\ufeff1.png;cat\r\n2.png;dog\r\n", encoding="utf-8")
    data = opened(tmp_path)
    assert named(data) == {"1.png": "cat", "2.png": "dog"}
    assert data.notes == ()  # the file of labels is not called left out


def test_labels_that_are_numbers_stay_those_numbers(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png", "3.png")
    table = opened(tmp_path, csv(tmp_path, "file,label\n1.png,10\n2.png,2\n3.png,\n")).examples()
    assert table.labels.tolist() == [10, 2, -1]
    assert table.class_names == tuple(map(str, range(11)))


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (
            [f"{i}.0" for i in range(12)],
            list(range(12)),
            tuple(map(str, range(12))),
        ),  # as pandas writes them beside a gap
        (["1.0", "", "3"], [1, -1, 3], ("0", "1", "2", "3")),
        (["1", "nan", "0"], [1, -1, 0], ("0", "1")),
        (["10", "-1", "9.5"], [2, 0, 1], ("-1", "9.5", "10")),  # in order of their values
        (["10", "9", "x"], [0, 1, 2], ("10", "9", "x")),  # names
        (["nan", "x", "nan"], [0, 1, 0], ("nan", "x")),
    ],
)
def test_labels_of_every_kind_of_number(
    labels: list[str], expected: list[int], names: tuple[str, ...], tmp_path: Path
) -> None:
    files = [f"{number:02d}.png" for number in range(len(labels))]
    images(tmp_path, *files)
    rows = "".join(f"{file},{label}\n" for file, label in zip(files, labels, strict=True))
    table = opened(tmp_path, csv(tmp_path, "file,label\n" + rows)).examples()
    assert (table.labels.tolist(), table.class_names) == (expected, names)


def test_more_classes_than_int16_holds(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    table = opened(tmp_path, csv(tmp_path, "file,label\n1.png,0\n2.png,40000\n")).examples()
    assert table.labels.tolist() == [0, 40_000]
    assert table.class_names[-1] == "40000"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [(("1", "0", ""), [1, -1, 0]), (("True", "False", ""), [1, -1, 0]), (("yes", "no", ""), [1, -1, 0]),
     (("1", "-1", "0"), [1, -1, 0]), (("1.0", "0.0", ""), [1, -1, 0])],
)  # fmt: skip
def test_attributes_in_every_coding(cells: tuple[str, ...], expected: list[int], tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png", "3.png")
    rows = "".join(f"{at}.png,a,{cell}\n" for at, cell in enumerate(cells, 1))
    table = opened(tmp_path, csv(tmp_path, "file,label,round\n" + rows)).examples()
    assert {name: values.tolist() for name, values in table.attributes.items()} == {"round": expected}


def test_csv_may_be_named_from_the_image_folder(tmp_path: Path) -> None:
    images(tmp_path, "1.png")
    csv(tmp_path, "1.png,cat\n")
    assert named(opened(tmp_path, "given.csv")) == {"1.png": "cat"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "file,label\nanna/1.png,a\nanna/22.png,b\n",
            "line 3, names 'anna/22.png', which is not in the directory. Nearest: anna/",
        ),
        ("file,label\n3.png,a\n", "line 2, names '3.png', which is not in the directory. Nearest: bob/3.png. Correct"),
        ("anna/1.png,a\nanna/1.png,a\n", "line 2, names 'anna/1.png' again; expected it once (line 1)"),
        ("file,class\nanna/1.png,a\n", "has the columns file, class: label is missing. Expected file and label"),
        ("image,class\nanna/1.png,a\n", "has the columns image, class: file and label are missing"),
        ("anna/1.png,a,1\n", "has 3 columns and no line of names"),
        ("file,label,label\n", "has the columns file, label, label; expected each name once"),
        ("file,label\nanna/1.png\n", "line 2, has 1 values; expected 2, one per column"),
        ("file,label,split\nanna/1.png,a,dev\n", "line 2, has the split 'dev'; expected train, valid or test"),
        ("file,label\nanna/1.png,1234567\n", "line 2, has the label 1,234,567; expected class numbers below 1,000,000"),
        ('file,label\nanna/1.png,"a\n', "line 2, is no CSV: unexpected end of data"),
        ("", "is empty; expected the columns file and label"),
    ],
)
def test_bad_csv_is_refused_in_words(tmp_path: Path, text: str, expected: str) -> None:
    images(tmp_path, *CSV_IMAGES)
    given = csv(tmp_path, text)
    message = refused(tmp_path, given)
    assert expected in message
    assert str(given) in message


def test_rows_of_deleted_images_are_left_out_with_a_warning_and_classes_keep_their_numbers(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png", "3.png", "4.png")
    given = csv(
        tmp_path, "file,label,split,round\n1.png,ant,train,1\n2.png,bee,test,0\n3.png,cat,,1\n4.png,ant,test,1\n"
    )
    before = opened(tmp_path, given).examples()
    (tmp_path / "2.png").unlink()
    folder = opened(tmp_path, given)
    table = folder.examples()
    assert table.class_names == before.class_names == ("ant", "bee", "cat")
    assert table.labels.tolist() == [0, 2, 0]
    assert table.splits == ("train", "", "test")
    assert table.attributes["round"].tolist() == [1, 1, 1]
    [note] = [note for note in folder.notes if isinstance(note, Caution)]
    assert note.startswith("given.csv names 1 of 4 images that are not in the directory; their rows are left out.")
    assert "The first, in line 3: '2.png'." in note
    (tmp_path / "3.png").unlink()
    assert "line 3, names '2.png', which is not in the directory" in refused(
        tmp_path, given
    )  # of half, it is a mistake


def test_csv_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    images(tmp_path, "1.png")
    assert "cannot be read (No such file or directory). Name another with --labels" in refused(tmp_path, "nowhere.csv")
    (tmp_path / "bad.csv").write_bytes(b"file,label\n1.png,\xff\n")
    assert "is not text: byte 17 is not UTF-8" in refused(tmp_path, tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("first", "second"), [("straße.png", "strasse.png"), ("ﬁsch.png", "fisch.png"), ("ı.png", "i.png")]
)
def test_names_that_only_full_case_folding_makes_equal_are_two_names(tmp_path: Path, first: str, second: str) -> None:
    assert set(opened(images(tmp_path, first, second)).examples().files) == {first, second}


@pytest.mark.parametrize(("first", "second"), [("Äpfel.png", "äpfel.png"), ("STRAẞE.png", "straße.png")])
def test_letter_case_of_letters_beyond_ascii_is_folded(tmp_path: Path, first: str, second: str) -> None:
    images(tmp_path, first, second)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell letter case apart")
    assert "names that differ only in letter case" in refused(tmp_path)


def test_a_directory_of_celeba_is_pointed_to_the_data_set_that_reads_its_labels(tmp_path: Path) -> None:
    images(tmp_path, "img_align_celeba/000001.jpg")
    (tmp_path / "list_attr_celeba.txt").write_text("1\nSmiling\n000001.jpg 1\n")
    assert any(
        "--dataset celeba takes its labels" in note
        for note in open_folder(DatasetSpec(name="folder", root=str(tmp_path))).notes
    )


def test_a_link_to_an_image_elsewhere_is_that_image(tmp_path: Path) -> None:
    images(tmp_path, "elsewhere.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").symlink_to(tmp_path / "elsewhere.png")
    data = opened(tmp_path / "data")
    assert data.examples().files == ("a.png",)
    assert data.read_image("a.png").size == (6, 4)
    assert data.digest("a.png") == data.digest("a.png")


def test_a_link_to_what_is_no_image_shows_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the password")
    images(tmp_path / "data", "a.png")
    (tmp_path / "data" / "b.png").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(OSError, match="not an image") as refused:
        opened(tmp_path / "data").read_image("b.png")
    assert "password" not in str(refused.value)


def test_links_that_lead_to_themselves_and_pipes_are_left_out(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "device.png").symlink_to("/dev/zero")
    data = opened(tmp_path)
    assert data.examples().files == ("a.png",)
    assert "5 other entries" in data.notes[0]

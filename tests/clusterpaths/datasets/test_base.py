"""What an image of any mode becomes, and the small helpers that data sets share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from clusterpaths.common.text import did_you_mean
from clusterpaths.datasets.base import ExampleTable, file_digest, path_in
from clusterpaths.datasets.decode import open_rgb, open_upright

LEFT_RED = np.zeros((8, 16, 3), np.uint8)
LEFT_RED[:, :8, 0] = 255
LEFT_RED[:, 8:, 2] = 255

ORIENTATION = 0x0112


def with_orientation(path: Path, value: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    Image.fromarray(LEFT_RED).save(
        path, exif=exif, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {})
    )
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_exif_rotation_is_applied_whatever_the_format(tmp_path: Path, name: str) -> None:
    image = np.asarray(open_upright(with_orientation(tmp_path / name, 6)))  # 6: turn by 90 degrees clockwise
    assert image.shape == (16, 8, 3)
    assert (image[:6, :, 0] > 200).all()  # what was left is on top
    assert (image[10:, :, 2] > 200).all()


def test_mirrored_orientation_is_applied(tmp_path: Path) -> None:
    image = np.asarray(open_upright(with_orientation(tmp_path / "a.png", 2)))
    assert np.array_equal(image, LEFT_RED[:, ::-1])


def test_broken_exif_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(LEFT_RED).save(tmp_path / "a.png", exif=b"Exif\0\0no TIFF header at all")
    with Image.open(tmp_path / "a.png") as image, pytest.raises(SyntaxError):  # or the test would show nothing
        image.getexif()
    assert np.array_equal(np.asarray(open_upright(tmp_path / "a.png")), LEFT_RED)


def test_16_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        image = open_rgb(tmp_path / name)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image)[..., 1], np.arange(256).reshape(16, 16))


def test_alpha_is_dropped_and_the_colour_below_it_kept(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), (10, 200, 30, 0), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.asarray(open_rgb(tmp_path / "a.png"))[0, 0].tolist() == [10, 200, 30]


def test_palette_with_transparency_gives_the_palettes_colours(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 250, 120, 5])
    image.save(tmp_path / "a.png", transparency=1)
    assert np.asarray(open_rgb(tmp_path / "a.png"))[0, 0].tolist() == [250, 120, 5]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"), [("CMYK", (0, 255, 255, 0), (255, 0, 0)), ("L", 77, (77,) * 3)]
)
def test_cmyk_and_grey_become_rgb(
    tmp_path: Path, mode: str, colour: tuple[int, ...] | int, expected: tuple[int, int, int]
) -> None:
    Image.new(mode, (16, 16), colour).save(tmp_path / "a.jpg", quality=100)
    got = np.asarray(open_rgb(tmp_path / "a.jpg"))
    assert got.shape == (16, 16, 3)
    assert np.abs(got[8, 8].astype(int) - expected).max() <= 3  # JPEG rounds


def test_digest_is_that_of_the_bytes_also_beyond_one_block(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes((1 << 20) + 12345)
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == xxhash.xxh3_64_intdigest(content)


@pytest.mark.parametrize("file", ["../a.jpg", "b/../../a.jpg", "/etc/passwd", "", "..", "a\0.jpg"])
def test_names_that_lead_out_are_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(OSError, match="not the name of a file in"):
        path_in(tmp_path, file)


def test_nearest_names_are_found_in_other_letter_case() -> None:
    assert did_you_mean("cifar10", ["MNIST", "CIFAR10", "SVHN"]) == " Nearest: CIFAR10."
    assert did_you_mean("zzz", ["MNIST", "CIFAR10"]) == ""


def test_take_keeps_times_and_leaves_none_where_there_are_none() -> None:
    ids = np.arange(3)
    labels = np.zeros(3, np.int16)
    with_times = ExampleTable(ids, ("a", "b", "c"), ids, ("",) * 3, labels, mtimes=np.array([5, 6, 7]))
    assert with_times.take(np.array([2, 0])).mtimes.tolist() == [7, 5]
    assert ExampleTable(ids, ("a", "b", "c"), ids, ("",) * 3, labels).take(np.array([1])).mtimes is None


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (178, 218)])
def test_every_jpeg_has_the_pixels_that_pillow_gives_it(
    tmp_path: Path, options: dict[str, Any], mode: str, size: tuple[int, int]
) -> None:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).resize((width, height)).convert(mode).save(path, **options)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_rgb(path)), expected)


def test_plain_jpegs_are_not_decoded_by_pillow_and_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, turned, grey = tmp_path / "plain.jpg", tmp_path / "turned.jpg", tmp_path / "a.png"
    image = Image.fromarray(np.arange(24 * 16 * 3, dtype=np.uint8).reshape(24, 16, 3))
    image.save(plain)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image.save(turned, exif=exif)
    image.save(grey)
    opened: list[Path] = []
    original = Image.open

    def counted(path: Path) -> Image.Image:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(Image, "open", counted)
    assert [open_upright(path).size for path in (plain, turned, grey)] == [(16, 24), (24, 16), (16, 24)]
    assert opened == [turned, grey]


def test_an_orientation_in_xmp_or_behind_much_else_turns_a_jpeg_too(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((24, 16, 3), np.uint8))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image.save(tmp_path / "xmp.jpg", xmp=xmp)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "far.jpg", exif=exif, icc_profile=bytes(200_000))
    for name in ("xmp.jpg", "far.jpg"):
        assert open_upright(tmp_path / name).size == (24, 16)

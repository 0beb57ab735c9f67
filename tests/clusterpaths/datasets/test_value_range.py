"""Pixels of every file mode: what the model gets is what the range of the file's values means, or a refusal."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from clusterpaths.datasets.decode import as_rgb, open_rgb, open_upright
from clusterpaths.datasets.value_range import RANGE, RangeError
from clusterpaths.explanation.uploaded import open_picture

GREY = np.clip(np.random.default_rng(0).normal(120, 60, (20, 24)), 0, 255).astype(np.uint8)
GREY[0, :2] = 0, 255
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def png(path: Path, values: NDArray[Any], colour: int) -> Path:
    """A PNG of 16 bits per channel; Pillow writes none with colour. `colour` is PNG's type: 0, 2, 4 or 6."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    text = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + text)
    return path


def tiff(path: Path, values: NDArray[Any], photometric: int, bits: int = 16, order: str = "<") -> Path:
    """An uncompressed TIFF of integers in one strip, (height, width) or (height, width, channels)."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    data = values.astype(f"{order}u{bits // 8}").tobytes()
    fields = [
        (256, 4, [values.shape[1]]), (257, 4, [values.shape[0]]), (258, 3, [bits] * channels), (259, 3, [1]),
        (262, 3, [photometric]), (273, 4, [8]), (277, 3, [channels]), (278, 4, [values.shape[0]]), (279, 4, [len(data)]),
    ]  # fmt: skip
    start = 8 + len(data)
    extra_at, extra, entries = start + 2 + 12 * len(fields) + 4, b"", b""
    for number, kind, items in fields:
        packed = struct.pack(f"{order}{len(items)}{'I' if kind == 4 else 'H'}", *items)
        if len(packed) > 4:
            packed, extra = struct.pack(f"{order}I", extra_at + len(extra)), extra + packed
        entries += struct.pack(f"{order}HHI", number, kind, len(items)) + packed.ljust(4, b"\0")
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    path.write_bytes(
        header + data + struct.pack(f"{order}H", len(fields)) + entries + struct.pack(f"{order}I", 0) + extra
    )
    return path


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(open_upright(path))


GREY_VALUES = {
    "float of 0..1": (GREY / np.float32(255), "0..1"),
    "float of 0..255": (GREY.astype(np.float32), "0..255"),
    "float of 0..65535": (GREY.astype(np.float32) * 257, "0..65535"),
    "8 bits in 32": (GREY.astype(np.int32), "0..255"),
    "12 bits in 32": (GREY.astype(np.int32) * 16 + 15, "0..4095"),
    "16 bits in 32": (GREY.astype(np.int32) * 257, "0..65535"),
    "31 bits": (GREY.astype(np.int32) << 23, "0..2147483647"),
    "8 bits in 16": (GREY.astype(np.uint16), "0..255"),
    "12 bits in 16": (GREY.astype(np.uint16) * 16, "0..4095"),
    "16 bits": (GREY.astype(np.uint16) * 257, "0..65535"),
}


@pytest.mark.parametrize("case", GREY_VALUES)
@pytest.mark.parametrize("end", [".tif", ".png"])
def test_grey_of_any_depth_has_the_pixels_of_its_8_bit_file(tmp_path: Path, case: str, end: str) -> None:
    values, which = GREY_VALUES[case]
    if end == ".png" and values.dtype != np.uint16:
        pytest.skip("PNG holds 16 bits at most")
    Image.fromarray(values).save(tmp_path / f"a{end}")
    Image.fromarray(GREY).save(tmp_path / "eight.png")
    image = open_rgb(tmp_path / f"a{end}")
    assert (image.mode, image.info[RANGE]) == ("RGB", which)
    np.testing.assert_array_equal(np.asarray(image), pixels(tmp_path / "eight.png"))


def test_a_float_that_overshoots_a_little_is_still_of_0_to_1(tmp_path: Path) -> None:
    values = GREY / np.float32(255)
    values[0, 0], values[0, 1] = -0.02, 1.07  # bicubic
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[..., 0], GREY)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (GREY / np.float32(127.5) - 1, "its pixel values, -1 to 1 (Pillow's mode F), are of no known range: expected 0..1"),
        (GREY.astype(np.float32) * 1000, "0 to 255000 (Pillow's mode F), are of no known range"),
        (np.where(GREY > 0, GREY, np.nan).astype(np.float32), "NaN or infinity"),
        (GREY.astype(np.int32) * 30 - 1000, "-1000 to 6650 (Pillow's mode I), are of no known range"),
        (GREY.astype(np.int32) * 1000, "0 to 255000 (Pillow's mode I), are of no known range"),
    ],
)  # fmt: skip
def test_a_range_without_a_known_meaning_is_refused(tmp_path: Path, values: NDArray[Any], reason: str) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(RangeError) as raised:
        open_rgb(tmp_path / "a.tif")
    assert reason in str(raised.value)
    assert "Save it as 8-bit" in str(raised.value)


def test_all_32_bits_without_a_sign_are_not_read_as_negative(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        pixels(tiff(tmp_path / "a.tif", GREY.astype(np.uint32) << 24, 1, bits=32))[..., 0], GREY
    )


def test_tiffs_where_white_is_zero_are_not_negatives(tmp_path: Path) -> None:
    values = 65535 - GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(pixels(tiff(tmp_path / "a.tif", values, 0))[..., 0], GREY)


def test_a_file_that_states_its_range_is_taken_at_its_word(tmp_path: Path) -> None:
    dark = np.array([[0, 100, 4000]], np.uint16)  # of 65535, not of 4095
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + dark.astype(">u2").tobytes())
    assert pixels(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 0, 15]
    (tmp_path / "b.pgm").write_bytes(b"P5 3 1 4095\n" + dark.astype(">u2").tobytes())
    assert pixels(tmp_path / "b.pgm")[0, :, 0].tolist() == [0, 6, 250]


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("factor", [1, 16, 257])  # 8, 12 and 16 bits in 16
def test_16_bit_colour_keeps_its_shades(tmp_path: Path, factor: int, alpha: bool) -> None:
    values = COLOUR.astype(np.uint16) * factor
    if alpha:
        values = np.concatenate([values, np.full((*GREY.shape, 1), 30_000, np.uint16)], axis=-1)
    np.testing.assert_array_equal(pixels(png(tmp_path / "a.png", values, 6 if alpha else 2)), COLOUR)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("factor", [16, 257])
def test_16_bit_colour_of_either_byte_order_in_tiff(tmp_path: Path, factor: int, order: str) -> None:
    values = COLOUR.astype(np.uint16) * factor
    np.testing.assert_array_equal(pixels(tiff(tmp_path / "a.tif", values, 2, order=order)), COLOUR)


def test_16_bit_grey_with_alpha_is_right_or_refused(tmp_path: Path) -> None:
    values = np.stack([GREY.astype(np.uint16) * 257, np.full(GREY.shape, 65535, np.uint16)], axis=-1)
    np.testing.assert_array_equal(pixels(png(tmp_path / "a.png", values, 4))[..., 1], GREY)
    with pytest.raises(RangeError, match="16-bit colour whose values stay below 4096"):
        open_rgb(png(tmp_path / "b.png", values // 257 * 16, 4))


def test_modes_of_8_bits_or_fewer(tmp_path: Path) -> None:
    """Palette, grey with alpha, one bit and CMYK, against Pillow or by hand."""
    image = Image.fromarray(COLOUR)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    palette.save(tmp_path / "p.png", transparency=bytes([255] * 32 + [0] * 32))
    np.testing.assert_array_equal(pixels(tmp_path / "p.png"), np.asarray(palette.convert("RGB")))
    Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]).save(tmp_path / "la.png")
    np.testing.assert_array_equal(pixels(tmp_path / "la.png")[..., 0], GREY)
    Image.fromarray(GREY > 100).save(tmp_path / "one.png")
    np.testing.assert_array_equal(pixels(tmp_path / "one.png")[..., 2], (GREY > 100) * np.uint8(255))
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    cmyk.save(tmp_path / "c.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "c.tif"), COLOUR)
    wide = np.asarray(cmyk).astype(np.uint16) * 257
    np.testing.assert_array_equal(pixels(tiff(tmp_path / "c16.tif", wide, 5)), COLOUR)


def test_lab_is_converted_as_its_colour_management_does_it(tmp_path: Path) -> None:
    lab = Image.new("LAB", (8, 8), (120, 30, 20))
    lab.save(tmp_path / "a.tif")
    expected = ImageCms.profileToProfile(
        lab, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert expected is not None
    assert np.abs(pixels(tmp_path / "a.tif").astype(int) - np.asarray(expected)).max() <= 2


def test_a_colour_space_that_cannot_be_converted_is_refused_and_not_called_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.tif")

    def convert(image: Image.Image, mode: str) -> Image.Image:
        raise ValueError("conversion not supported")  # what Pillow before 12 says to Lab

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(OSError, match=r"^its colour space CMYK cannot be converted\. Save it as RGB$"):
        open_rgb(tmp_path / "a.tif")


def test_grey_in_memory_follows_the_same_rule() -> None:
    np.testing.assert_array_equal(np.asarray(as_rgb(Image.fromarray(GREY / np.float32(255))))[..., 0], GREY)


@pytest.mark.parametrize("halved", [False, True])
def test_an_uploaded_image_follows_the_same_rule_over_all_of_it(
    tmp_path: Path, halved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if halved:
        monkeypatch.setattr("clusterpaths.explanation.uploaded.EXACT_PIXELS", 100)
        monkeypatch.setattr("clusterpaths.explanation.uploaded.BAND", 2)  # a dark band must not have a range of its own
    for colour, values in ((0, GREY), (2, COLOUR)):
        rising = values // 32 * 32 * np.linspace(0, 1, 20).reshape(20, *[1] * (values.ndim - 1))
        content = png(tmp_path / "a.png", rising.astype(np.uint16) * 16, colour).read_bytes()
        Image.fromarray(rising.astype(np.uint8)).save(tmp_path / "b.png")
        np.testing.assert_array_equal(
            np.asarray(open_picture(content)), np.asarray(open_picture((tmp_path / "b.png").read_bytes()))
        )

"""Whatever a library raises for corrupted bytes becomes one kind of error, in one line; found by tests/fuzz."""

from __future__ import annotations

import errno
import io
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pydantic
import pytest

from clusterpaths.common.corrupted import parse_json, reading, what_does_not_fit
from clusterpaths.errors import CacheError
from clusterpaths.records import Record


@pytest.mark.parametrize(
    "error",
    [
        zlib.error("invalid distance"),
        zipfile.BadZipFile("no"),
        tokenize.TokenError("EOF in multi-line statement", (2, 0)),
        KeyError("a.npy"),
        NotImplementedError("zip file version 11.8"),
        OSError("Couldn't deserialize thrift\nDeserializing page header failed.\n"),
        OSError(errno.EINVAL, "Invalid argument"),
        ValueError("a\nb"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_libraries_raise_for_content_is_a_value_error_of_one_line(error: Exception) -> None:
    with pytest.raises(ValueError, match=r"\w") as raised, reading():
        raise error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), FileNotFoundError("no"), CacheError("ours")]
)
def test_errors_of_the_disk_and_our_own_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)), reading():
        raise error


def test_an_array_whose_header_promises_more_memory_than_there_is(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"allocate|EOF|too big|read"), reading():
        np.load(tmp_path / "a.npy")


def test_json_that_is_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_a_key_of_a_document_is_shown_in_one_short_line() -> None:
    class Small(Record):
        a: int

    with pytest.raises(pydantic.ValidationError) as raised:
        Small.model_validate({"a": 1, "\n" + "x" * 5_000: 2})
    assert "\n" not in what_does_not_fit(raised.value)
    assert len(what_does_not_fit(raised.value)) < 500


def test_memory_that_does_not_suffice_is_not_a_corrupted_file() -> None:
    """Else a sound file would be made again, or its user told to remove it."""
    with pytest.raises(MemoryError), reading():
        raise MemoryError
    with pytest.raises(MemoryError), reading():
        raise pa.ArrowMemoryError("malloc of size 268435456 failed")
    with pytest.raises(RuntimeError, match="new thread"), reading():
        raise RuntimeError("can't start new thread")
    with pytest.raises(ValueError, match="malloc of size"), reading():
        raise pa.ArrowMemoryError("malloc of size 39728447488 failed")
    with pytest.raises(ValueError, match="Unable to allocate"), reading():
        np.empty((1 << 30, 1 << 20), np.float64)  # as of a header

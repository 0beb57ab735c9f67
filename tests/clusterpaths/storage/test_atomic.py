"""What is written is on the disk before it has its name: a power cut leaves the old or the complete new, no empty file."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterpaths.errors import DiskError
from clusterpaths.storage import Storage, open_storage
from clusterpaths.storage.atomic import of_machine


def write_to(directory: Storage) -> Path:
    with directory.write("parts/a") as partial:
        partial.write_bytes(b"content")
    return directory.path / "parts/a"


def write_bytes(directory: Storage) -> Path:
    directory.write_bytes("a", b"content")
    return directory.path / "a"


def publish(directory: Storage) -> Path:
    directory.make()
    with directory.publish("set_01", last="set.json") as staged:
        (staged / "set.json").write_bytes(b"content")
    return directory.path / "set_01"


@pytest.mark.parametrize("write", [write_to, write_bytes, publish])
def test_what_is_written_is_flushed_before_it_has_its_name(
    write: Callable[[Storage], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()  # inodes
    at_rename: list[set[int]] = []
    flush, renames = os.fsync, {name: getattr(Path, name) for name in ("rename", "replace")}
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.add(os.fstat(file).st_ino), flush(file)))
    for name, rename in renames.items():

        def renamed(path: Path, target: Path, rename: Callable[[Path, Path], Path] = rename) -> Path:
            at_rename.append(flushed.copy())
            return rename(path, target)

        monkeypatch.setattr(Path, name, renamed)
    written = write(open_storage(tmp_path / "cache"))
    everything = {path.stat().st_ino for path in (written, *written.rglob("*"))}
    assert everything <= at_rename[-1]


@pytest.mark.parametrize("write", [write_to, write_bytes, publish])
def test_where_the_disk_fails_the_first_error_is_raised_not_that_of_tidying_up(
    write: Callable[[Storage], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for owner, name in ((Path, "unlink"), (os, "unlink"), (os, "rmdir")):
        monkeypatch.setattr(owner, name, fails)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="The disk is full"):
        write(open_storage(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EIO, "", "/disk/a"),
            r"^/disk/a cannot be read or written \(Input/output error\)\..*the same command",
        ),
        (OSError(errno.EIO, ""), r"^A file cannot be read or written"),
        (OSError(errno.ENOSPC, "", b"/disk/a"), r"^The disk is full: writing /disk/a failed"),
        (OSError(errno.EROFS, "", "/disk/a"), r"^/disk/a cannot be written \(Read-only file system\)"),
        (OSError(errno.EMFILE, "", "/disk/a"), r"ulimit -n"),
        (PermissionError(errno.EACCES, "", "/disk/a"), r"^/disk/a cannot be read or written \(Permission denied\)"),
        (OSError("Input/output error (os error 5)"), r"^A file cannot be read or written"),  # of obstore
        (RuntimeError("cannot write (os error 28)"), r"^The disk is full"),  # of zarrs
        (MemoryError(), r"^There is not enough memory"),
        (RuntimeError("can't start new thread"), r"^There is not enough memory"),
    ],
)
def test_an_error_of_the_machine_has_a_paragraph(error: Exception, said: str) -> None:
    found = of_machine(error)
    assert found is not None
    assert re.search(said, str(found))
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "", "a"),
        FileExistsError(errno.EEXIST, "", "a"),
        TimeoutError(errno.ETIMEDOUT, "of a connection"),
        OSError("no number"),
        RuntimeError("else"),
        KeyError(),
    ],
)
def test_another_error_is_a_bug(error: Exception) -> None:
    assert of_machine(error) is None

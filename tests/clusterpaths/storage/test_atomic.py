"""What is written is on the disk before it has its name: a power cut leaves the old or the complete new, no empty file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterpaths.storage import Storage, open_storage


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

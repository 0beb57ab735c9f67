"""Paths of this machine for what a `Storage` holds: for callers that have not been given one yet. To be removed."""

# ruff: noqa: D103

from __future__ import annotations

from pathlib import Path

from clusterpaths.storage import Storage, open_storage
from clusterpaths.storage.bucket import SCHEME, mirror_root


def storage_of(path: Path) -> Storage:
    """The directory that a path is, or mirrors."""
    root = f"{mirror_root()}/"
    return open_storage(f"{SCHEME}{str(path)[len(root) :]}" if str(path).startswith(root) else path)


def place_of(path: Path) -> bool:
    return storage_of(path).request_per_file


def address_of(path: Path) -> str:
    return storage_of(path).address


def local_folder(address: str) -> Path:
    return open_storage(address).path


def fetch(path: Path) -> Path:
    return storage_of(path.parent).local(path.name)


def fetch_folder(path: Path) -> Path:
    return storage_of(path).local_tree()


def exists(path: Path) -> bool:
    return storage_of(path.parent).exists(path.name)


def subfolders(path: Path) -> list[str]:
    return storage_of(path).subdirectories()


local_subfolders = subfolders


def require_storage(path: Path) -> None:
    storage_of(path).require()

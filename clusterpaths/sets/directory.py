"""A set's directory: its documents by name, of any program.

Belongs here: reading and writing bytes by name, not their meaning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clusterpaths.storage import Storage, StorageLike, open_storage

RECORD, PATHS, CENTROIDS = "set.json", "paths.parquet", "centroids.npz"


class SetDirectory:
    """A directory NAME/set_NN of the results."""

    def __init__(self, folder: StorageLike) -> None:
        self.folder = open_storage(folder)

    @property
    def path(self) -> Path:
        """Path of its documents on this machine."""
        return self.folder.path

    @property
    def cache(self) -> Storage:
        """The parent directory, with the activations and the other sets."""
        return self.folder.parent

    @property
    def name(self) -> str:
        """NAME/set_NN, the set's name in messages and documents; links are resolved."""
        resolved = self.folder.resolve()
        return f"{resolved.parent.name}/{resolved.name}"

    def file(self, name: str) -> Path:
        """Path of a document on this machine, up to date; it need not exist."""
        return self.folder.local(name)

    def document(self, name: str) -> bytes | None:
        """Current content of a document on this machine; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def documents(self, pattern: str) -> list[tuple[str, bytes]]:
        """Names and contents of all documents whose name matches, by name."""
        return [(path.name, path.read_bytes()) for path in sorted(self.path.glob(pattern))]

    def write(self, name: str, content: bytes) -> Path:
        """Write a document atomically; returns its path.

        Raises:
            DiskError: no room or no permission.
        """
        self.folder.write_bytes(name, content)
        return self.path / name

    def write_json(self, name: str, document: Any) -> Path:
        """As `write`, for JSON values."""
        self.folder.write_json(name, document)
        return self.path / name

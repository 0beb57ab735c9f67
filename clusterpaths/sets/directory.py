"""A set's directory: the documents in it by name, whichever program wrote them.

Belongs here: bytes by name, in and out. What they mean is for those who read them.
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
        """Where its documents lie on this machine."""
        return self.folder.path

    @property
    def cache(self) -> Storage:
        """The directory around it: with the activations, and with the other sets."""
        return self.folder.parent

    @property
    def name(self) -> str:
        """NAME/set_NN, as messages and documents call the set; links are resolved."""
        resolved = self.folder.resolve()
        return f"{resolved.parent.name}/{resolved.name}"

    def file(self, name: str) -> Path:
        """Where a document lies on this machine, up to date; it need not exist."""
        return self.folder.local(name)

    def document(self, name: str) -> bytes | None:
        """What is written there now, as far as it is on this machine; None where there is none of this name."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def documents(self, pattern: str) -> list[tuple[str, bytes]]:
        """Names and contents of all documents whose name matches, by name."""
        return [(path.name, path.read_bytes()) for path in sorted(self.path.glob(pattern))]

    def write(self, name: str, content: bytes) -> Path:
        """A document beside the others, complete or not at all; returns its path.

        Raises:
            DiskError: no room or no permission.
        """
        self.folder.write_bytes(name, content)
        return self.path / name

    def write_json(self, name: str, document: Any) -> Path:
        """As `write`, of what JSON can hold."""
        self.folder.write_json(name, document)
        return self.path / name

"""The drawn faces as a data set of their own name; how they are drawn is faces.py's, how they are read celeba.py's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from clusterpaths.datasets.celeba import CelebA, celeba_present, open_celeba
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec

COUNT = 2000
SEED = 0


def open_faces(spec: DatasetSpec) -> CelebA:
    """Faces that `fetch_faces` or `write_faces` put below the root.

    Raises:
        DatasetError: none are there, or the directory holds another data set.
    """
    root = Path(spec.root)
    if not any((folder / "faces.json").is_file() for folder in (root, root / "celeba")):
        raise DatasetError(
            f"{root} holds no drawn faces (no faces.json in it or in its directory celeba). Expected a directory that --sample "
            "wrote; for CelebA itself use --dataset celeba."
        )
    return dataclasses.replace(open_celeba(root), name="faces")


def fetch_faces(spec: DatasetSpec, log: Callable[[str], None]) -> None:
    """Draw 2,000 faces below the root, unless faces are there.

    Raises:
        DatasetError: something else is there.
        DiskError: no room or no permission.
    """
    root = Path(spec.root)
    if celeba_present(root):
        log(f"Using the faces that are in {root}")
    else:
        log(f"Drawing {COUNT:,} faces in {root}")
        write_faces(root, COUNT, SEED)

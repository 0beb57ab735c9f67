"""All models and sets of a results' folder, looked up by name, opened when first asked for."""

from __future__ import annotations

from pathlib import Path


class Library:
    """The sets below one results' folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

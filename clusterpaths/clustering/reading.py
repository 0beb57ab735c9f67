"""How a clustering reads rows: the protocol, and a part of other rows.

Belongs here: what k-means needs of rows, wherever they are stored. `cache/rows.py` has those of a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Where = slice | NDArray[np.int64]  # positions of a block's rows within all rows


class Rows(Protocol):
    """Rows of float32 on disk or in memory, which can be read several times.

    Attributes:
        width: values per row.
    """

    width: int

    def __len__(self) -> int: ...

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
        """Yield the rows at these ascending positions, or all of them, each once: their positions and (m, width) values.

        The caller may change the values, and deletes its block before it asks for the next one, which is being read meanwhile:
        so two are in memory, not three. Order and block size are up to the implementation, and the same every time.
        """


class Subset:
    """Some of the rows, read by going through all of them: shards are read completely, in order, and are verified.

    Args:
        rows: all of them.
        positions: (n,) of those that belong to the subset.
    """

    def __init__(self, rows: Rows, positions: NDArray[np.int64]) -> None:
        self.width = rows.width
        self._rows, self._positions = rows, positions

    def __len__(self) -> int:
        return len(self._positions)

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
        """As `Rows.blocks`; positions are those within the subset."""
        wanted = np.arange(len(self)) if positions is None else positions
        place = np.full(len(self._rows), -1, np.int64)  # of each row within the subset
        place[self._positions[wanted]] = wanted
        for where, block in self._rows.blocks():
            own = place[where] >= 0
            if own.any():
                yield place[where][own], block[own]

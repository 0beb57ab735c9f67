"""How a clustering reads rows: what it must know of them, the readings it asks for, and going through its steps.

Belongs here: the protocols and `run`. The steps themselves are `seeding.py` and `kmeans.py`; one reading for several
layers is `shared_reading.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.threads import one_thread

Result = TypeVar("Result")
Where = slice | NDArray[np.int64]  # positions of a block's rows within all rows


class Shape(Protocol):
    """What is known of rows before any is read.

    Attributes:
        width: values per row.
        fit: (m,) ascending positions of a uniform sample that is enough to fit few clusters; None: fit on all rows.
    """

    width: int
    fit: NDArray[np.int64] | None

    def __len__(self) -> int: ...


class Rows(Shape, Protocol):
    """Rows of float32 on disk or in memory."""

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
        """Yield the rows at these ascending positions, or all of them, each once: their positions and (m, width) values.

        The caller may change the values. Order and block size are up to the implementation, and the same every time.
        """


@dataclass(frozen=True)
class Pass:
    """A reading of rows that a clustering needs before it can continue.

    Attributes:
        positions: (m,) ascending, or None for all rows.
        add: takes each block as `Rows.blocks` yields it.
    """

    positions: NDArray[np.int64] | None
    add: Callable[[Where, NDArray[np.float32]], object]


# Steps yield what they need read, independent of where it is stored: so several layers can share one reading.
Steps = Generator[Pass, None, Result]


def run(steps: Steps[Result], rows: Rows) -> Result:
    """Run the steps, reading the rows that they request."""
    with one_thread():
        try:
            while True:
                asked = next(steps)
                for where, block in rows.blocks(asked.positions):
                    asked.add(where, block)
        except StopIteration as end:
            result: Result = end.value
            return result

"""Pages that were made already: a set does not change while it is open, so neither do its pages.

Belongs here: keeping and bounding. What else than the address a page depends on is said where it is made.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

LIMIT = 12_000_000  # bytes a set; a page takes 50 to 400 kB


class PageCache:
    """The pages asked for last, up to a number of bytes. Several threads may ask at once."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.size = limit, 0
        self._pages: OrderedDict[Hashable, bytes] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The page of this key, made where it is not there; what `make` raises is not kept."""
        with self._lock:
            if key in self._pages:
                self._pages.move_to_end(key)
                return self._pages[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:  # of many who ask at once, one makes it
            with self._lock:
                if key in self._pages:
                    return self._pages[key]
            try:
                return self._keep(key, make())
            finally:
                with self._lock:
                    self._making.pop(key, None)

    def _keep(self, key: Hashable, page: bytes) -> bytes:
        with self._lock:
            self.size += len(page) - len(self._pages.pop(key, b""))
            self._pages[key] = page
            while self.size > self.limit:
                self.size -= len(self._pages.popitem(last=False)[1])
        return page

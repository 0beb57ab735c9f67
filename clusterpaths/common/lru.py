"""What was worked out already: kept up to a limit, and worked out once, however many ask.

Belongs here: keeping and bounding. What a thing depends on is said where it is made.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The things asked for last, up to a limit of their sizes together. Several threads may ask at once."""

    def __init__(self, limit: int, size_of: Callable[[T], int] = lambda _: 1) -> None:
        self.limit, self.size, self._size_of = limit, 0, size_of
        self._things: OrderedDict[Hashable, T] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of this key, made where it is not there; what `make` raises is not kept."""
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
                return self._things[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:  # of many who ask for it at once, one makes it; who asks for another does not wait
            with self._lock:
                if key in self._things:
                    return self._things[key]
            try:
                return self._keep(key, make())
            finally:
                with self._lock:
                    self._making.pop(key, None)

    def _keep(self, key: Hashable, thing: T) -> T:
        with self._lock:
            if key in self._things:
                self.size -= self._size_of(self._things.pop(key))
            self._things[key] = thing
            self.size += self._size_of(thing)
            while self.size > self.limit:
                self.size -= self._size_of(self._things.popitem(last=False)[1])
        return thing

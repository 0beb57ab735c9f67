"""A least-recently-used cache for threads that request the same value at the same time.

Belongs here: storing and evicting. What a value depends on, and so its key, is defined where it is computed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Entry(NamedTuple, Generic[T]):
    value: T
    version: Hashable
    size: int
    computed: float  # time.monotonic()


class LRUCache(Generic[T]):
    """The values requested last, up to a limit of their total size. Thread-safe; each value is computed once.

    Args:
        limit: evict the least recently used values beyond this total.
        size_of: size of one value; by default 1, so that `limit` is a number of values.
        largest: a larger value is returned and not cached [the limit].
        minimum: values that stay, however large they are; they are cached although larger than `largest`.
        seconds: an older value is computed again.
    """

    def __init__(
        self,
        limit: float,
        size_of: Callable[[T], int] = lambda _: 1,
        *,
        largest: float | None = None,
        minimum: int = 0,
        seconds: float = float("inf"),
    ) -> None:
        self.limit, self.largest, self.minimum, self.seconds = limit, largest or limit, minimum, seconds
        self.size = 0
        self._size_of = size_of
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._computing: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._entries.clear()
            self.size = 0

    def get(self, key: Hashable, compute: Callable[[], T], version: Hashable = None) -> T:
        """The cached value of this key, else a newly computed one; an exception of `compute` is not cached.

        Of many threads that request a missing value one computes it; requests for other values do not wait.

        Args:
            version: a value cached under another version is replaced.
        """
        with self._lock:
            found = self._find(key, version)
            if found is not None:
                return found.value
            computing = self._computing.setdefault(key, threading.Lock())
        with computing:
            with self._lock:
                found = self._find(key, version)
            if found is not None:
                return found.value
            try:
                started = time.monotonic()
                value = compute()
                self._store(key, _Entry(value, version, self._size_of(value), started))
                return value
            finally:
                with self._lock:
                    self._computing.pop(key, None)

    def discard(self, key: Hashable) -> None:
        """Remove the value of this key, if there is one."""
        with self._lock:
            self._remove(key)

    def retain(self, keys: Container[Hashable]) -> None:
        """Remove the values of all other keys."""
        with self._lock:
            for key in [key for key in self._entries if key not in keys]:
                self._remove(key)

    def _find(self, key: Hashable, version: Hashable) -> _Entry[T] | None:
        found = self._entries.get(key)
        if found is None or found.version != version or time.monotonic() - found.computed > self.seconds:
            return None
        self._entries.move_to_end(key)
        return found

    def _store(self, key: Hashable, entry: _Entry[T]) -> None:
        with self._lock:
            self._remove(key)
            if entry.size > self.largest and not self.minimum:
                return
            self._entries[key] = entry
            self.size += entry.size
            while self.size > self.limit and len(self._entries) > self.minimum:
                self.size -= self._entries.popitem(last=False)[1].size

    def _remove(self, key: Hashable) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self.size -= found.size

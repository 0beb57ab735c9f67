"""What belongs to the process and several threads change: the number of BLAS's threads, and the filter of warnings."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_inside = 0
_blas_limit = contextlib.ExitStack()
# threadpoolctl >= 3.7 ignores, silently, every thread but the one that set BLAS's limit last: one thread does it all.
_keeper = ThreadPoolExecutor(1, thread_name_prefix="blas-limit")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS and OpenMP to one thread while inside.

    Sums in a fixed order are bitwise repeatable, and clusterings of several layers run side by side. OpenMP's
    limit belongs to a thread; BLAS's to the process, so it is lifted when the last of several threads leaves
    (threadpoolctl alone would lift it with the first).
    """
    global _inside, _blas_limit
    with _lock:
        if _inside == 0:
            _blas_limit = _keeper.submit(_limit_blas).result()
        _inside += 1
    try:
        with threadpool_limits(1, user_api="openmp"):
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _keeper.submit(_blas_limit.close).result()


def _limit_blas() -> contextlib.ExitStack:
    limit = contextlib.ExitStack()
    limit.enter_context(threadpool_limits(1, user_api="blas"))
    return limit


_warnings_lock = threading.Lock()
_ignoring = 0
_filters = contextlib.ExitStack()


@contextlib.contextmanager
def ignore_warnings(category: type[Warning]) -> Iterator[None]:
    """Ignore an expected warning while inside.

    `warnings.catch_warnings` alone would end it in all threads when the first of them leaves.
    """
    global _ignoring, _filters
    with _warnings_lock:
        if _ignoring == 0:
            _filters = contextlib.ExitStack()
            _filters.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", category)
        _ignoring += 1
    try:
        yield
    finally:
        with _warnings_lock:
            _ignoring -= 1
            if _ignoring == 0:
                _filters.close()

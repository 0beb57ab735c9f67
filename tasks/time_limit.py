"""Time limits that a task reaches also while a disk hangs.

Prefect ends a task by raising an exception in its thread. A thread that waits in the system, for a network disk that does not
answer, would not notice, and Python would wait for it at the end of the process. So the work is done in a thread of its own,
which is left behind.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from prefect.task_engine import TaskRunTimeoutError

from clusterpaths.errors import TimeLimitError

P = ParamSpec("P")
R = TypeVar("R")
_LOOKS = 0.5  # seconds between two looks at whether the time is over
_TO_END = 5.0  # seconds for work that is not blocked to end after it was interrupted
_TO_EXIT = 10.0  # seconds that a process in which some thread is blocked has to end


def in_own_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run in a thread of its own with this context: its caller can be interrupted whatever blocks that thread.

    An interrupted caller interrupts that thread too, and waits for it for a few seconds.
    """

    @functools.wraps(function)
    def run(*args: P.args, **named: P.kwargs) -> R:
        outcome: Future[R] = Future()
        ended, context = threading.Event(), contextvars.copy_context()

        def work() -> None:
            try:
                outcome.set_result(context.run(function, *args, **named))
            except BaseException as error:  # noqa: BLE001 - the caller raises it
                outcome.set_exception(error)
            finally:
                ended.set()

        thread = threading.Thread(target=work, name=function.__name__, daemon=True)
        thread.start()
        try:
            while not ended.wait(_LOOKS):
                pass
        except BaseException as error:
            _leave(thread, type(error))
            raise
        return outcome.result()

    return run


def _leave(thread: threading.Thread, reason: type[BaseException]) -> None:
    """Raise an exception in a thread, which it meets when it is not blocked any more; wait for it no longer than it may take."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(reason))
    thread.join(_TO_END)
    if thread.is_alive():
        threading.Thread(target=_exit_all_the_same, name="exit", daemon=True).start()


def _exit_all_the_same() -> None:
    """End the process once it is to end: Python would wait for pools whose threads are blocked."""
    with contextlib.suppress(RuntimeError):  # no pool takes work once the interpreter shuts down
        pool = ThreadPoolExecutor(1)
        while True:
            pool.submit(int)
            time.sleep(_LOOKS)
    time.sleep(_TO_EXIT)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


@contextlib.contextmanager
def in_one_paragraph() -> Iterator[None]:
    """Raises:
    TimeLimitError: in place of Prefect's error, with what to do.
    """
    try:
        yield
    except TaskRunTimeoutError as error:
        raise TimeLimitError(
            "A task did not end within its time limit (its name and the limit are in the log above). Most often a disk hangs: "
            "check that the directories of the images and of the results answer, as with `ls`. If the model is that slow, allow "
            "more with --time-limit, or make tasks smaller with --shard-size. What was recorded before is preserved: run the "
            "same command again; it continues where it stopped."
        ) from error

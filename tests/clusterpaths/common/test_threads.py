from __future__ import annotations

import threading
import warnings

import pytest

from clusterpaths.common.threads import ignore_warnings


def test_a_warning_is_ignored_until_the_last_of_several_threads_leaves() -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with ignore_warnings(UserWarning):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ignore_warnings(UserWarning):
            thread.start()
            entered.wait(10)
            warnings.warn("expected", UserWarning, stacklevel=1)
        warnings.warn("still expected", UserWarning, stacklevel=1)
        with pytest.raises(DeprecationWarning):
            warnings.warn("another one", DeprecationWarning, stacklevel=1)
        leave.set()
        thread.join()
        with pytest.raises(UserWarning, match="later"):
            warnings.warn("later", UserWarning, stacklevel=1)


def test_an_error_inside_ends_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="wrong"), ignore_warnings(UserWarning):
            raise ValueError("wrong")
        with pytest.raises(UserWarning):
            warnings.warn("later", UserWarning, stacklevel=1)

"""Stages that are retried after an error of the disk, as Prefect's tasks are: a retry does nothing twice."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.config import RunConfig
from clusterpaths.errors import ClusterPathsError
from clusterpaths.running.runner import InProcess
from clusterpaths.sets import publish
from clusterpaths.sets.find import list_sets
from clusterpaths.storage.directory import Directory
from tests.runs import run_pipeline


class Retrying(InProcess):
    """Repeats a stage after an error that is not expected, twice at most."""

    def run(self, stage: Callable[..., Any], *args: Any) -> Any:
        for left in (2, 1, 0):
            try:
                return super().run(stage, *args)
            except ClusterPathsError:
                raise
            except OSError:
                if not left:
                    raise
        return None


def failing_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> list[bool]:
    """The nth call of a function ends with an I/O error, after it has done its work or instead."""
    function, failed = getattr(owner, name), list[bool]()

    def fails(*args: Any, **named: Any) -> Any:
        result = function(*args, **named) if after or failed else None
        if not failed:
            failed.append(True)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return result

    monkeypatch.setattr(owner, name, fails)
    return failed


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize(
    ("owner", "function", "after"),
    [
        (publish, "describe_newest", False),
        (publish, "describe_newest", True),
        (Directory, "_publish", True),  # a rename over a network that was done, and reported as failed
        (Directory, "_publish", False),
    ],
)
def test_a_publish_that_is_retried_makes_no_second_set(
    configure: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, after: bool,
    refresh: bool, tmp_path: Path,
) -> None:  # fmt: skip
    config = configure(evaluate=False, check_preprocessing=False)
    if refresh:  # then the same result is published once more, and once only
        run_pipeline(config)
    failed = failing_once(monkeypatch, owner, function, after=after)
    run = run_pipeline(config.model_copy(update={"refresh": refresh}), Retrying(2))
    assert failed
    assert list_sets(run.cache) == ["set_01", "set_02"][: 1 + refresh]
    assert run.folder.name == f"set_0{1 + refresh}"
    assert f'"set": "{run.folder.name}"' in (run.cache / "metadata.json").read_text()
    assert not list(tmp_path.rglob("*.partial"))

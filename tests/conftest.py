"""Shared by all tests: a Prefect server of their own, so that no test writes into the user's."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"  # before anything imports Prefect


def pytest_configure(config: pytest.Config) -> None:
    # Prefect's clients leave sockets to the garbage collector, which finds them in whatever test runs by then
    left = r"Exception ignored in. <(socket\.socket|_SelectorSocketTransport)"
    config.addinivalue_line("filterwarnings", f"ignore:{left}:pytest.PytestUnraisableExceptionWarning")


GROUPS = {  # what the files of a group mention, and have in one process: each of these is started, or made, once
    "site": ("tests.deployments.site",),  # a server with a worker
    "prefect": ("prefect_server", "live_server"),
    "torch": ("tests.architectures",),  # exports
}


@functools.cache
def group_of(path: str) -> str:
    """Files of one group run in one process; most files are a group of their own."""
    text = Path(path).read_text(encoding="utf-8")
    return next((group for group, words in GROUPS.items() if any(word in text for word in words)), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups: they take longest."""
    order = list(GROUPS)
    groups = [group_of(str(item.path)) for item in items]
    ranks = [order.index(group) if group in order else len(order) for group in groups]
    items[:] = [item for _, item in sorted(zip(ranks, items, strict=True), key=lambda pair: pair[0])]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadgroup` by these groups (pytest-xdist 3.8 does not see its own marks with pytest 9.2)."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(str(config.rootpath / nodeid.partition("::")[0]))

    return Groups(config, log)


@pytest.fixture(scope="module", autouse=True)
def _give_back_memory() -> Iterator[None]:
    """After each module: idle model sessions, and what the C library has kept of freed memory."""
    yield
    if extract := sys.modules.get("clusterpaths.extraction.extract"):
        extract.release_sessions()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary Prefect server with its own PREFECT_HOME, for the whole session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL", "0.2")  # events are seen soon
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            yield

"""Shared by all tests: a Prefect server of their own, so that no test writes into the user's."""

from __future__ import annotations

import ctypes
import functools
import os
import re
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


ROOT = Path(__file__).resolve().parent.parent
FIRST = (
    "site",
    "prefect",
    "tests/torture/test_torture.py",
    "tests/test_benchmarks.py",
    "torch",
)  # they take longest, so they begin


@functools.cache
def group_of(file: str) -> str:
    """Which tests run in one process, by their file below the project's directory.

    One process has the site with a worker, one all flows that share a Prefect server, one all that exports with torch:
    each of these is started, or made, once. All other files are groups of their own.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.startswith("tests/deployments/") and re.search(r"\bsite\b", text):
        return "site"
    if file.startswith("tests/flows/") and "prefect_server" in text:
        return "prefect"
    return "torch" if "from tests.architectures import" in text else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand tests out by `group_of`: xdist's own groups by a mark are not heeded by this version of pytest."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that take longest."""

    def order(item: pytest.Item) -> int:
        group = group_of(item.nodeid.partition("::")[0])
        return FIRST.index(group) if group in FIRST else len(FIRST)

    items.sort(key=order)


@pytest.fixture(scope="module", autouse=True)
def _give_back_memory() -> Iterator[None]:
    """After each module: idle model sessions, and what the C library has kept of freed memory."""
    yield
    if sessions := sys.modules.get("clusterpaths.extraction.sessions"):
        sessions.release_sessions()
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

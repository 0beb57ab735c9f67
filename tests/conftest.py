"""Shared by all tests: a Prefect server of their own, so that no test writes into the user's."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator

import pytest

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"  # before anything imports Prefect


def pytest_configure(config: pytest.Config) -> None:
    # Prefect's clients leave sockets to the garbage collector, which finds them in whatever test runs by then
    left = r"Exception ignored in. <(socket\.socket|_SelectorSocketTransport)"
    config.addinivalue_line("filterwarnings", f"ignore:{left}:pytest.PytestUnraisableExceptionWarning")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests run in one process with `--dist loadgroup`, and begin with those that take longest.

    One process has the site with a worker, one all that share a Prefect server, one all that exports with torch: each of
    these is started, or made, once. Everything else is shared out a file at a time.
    """
    groups = {item.path: "" for item in items}
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if "exported" in vars(getattr(item, "module", None) or object):
            groups[item.path] = "torch"
        elif "site" in names and item.path.parent.name == "deployments":
            groups[item.path] = "site"
        elif "prefect_server" in names:
            groups[item.path] = "prefect"
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item.path] or str(item.path)))
    first = ["site", "prefect", "torch", ""]
    items.sort(key=lambda item: first.index(groups[item.path]))


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

"""Shared by all tests: a Prefect server of their own, so that no test writes into the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"  # before anything imports Prefect


def pytest_configure(config: pytest.Config) -> None:
    # Prefect's clients leave sockets to the garbage collector, which finds them in whatever test runs by then
    left = r"Exception ignored in. <(socket\.socket|_SelectorSocketTransport)"
    config.addinivalue_line("filterwarnings", f"ignore:{left}:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary Prefect server with its own PREFECT_HOME, for the whole session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL", "0.2")  # events are seen soon
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            yield

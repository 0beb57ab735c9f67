"""A Postgres of the test session's own, from Debian's package: what a server with workers and automations needs.

On SQLite, Prefect's events and automations lose messages to "database is locked" under the load of two runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def programs() -> Path | None:
    """The directory with initdb and postgres, the newest version's; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def running_postgres(port: int) -> Iterator[str]:
    """Prefect's connection URL of an empty database while inside."""
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip("needs Postgres: apt-get install postgresql")
    # Postgres refuses to run as root, and its own user may not enter pytest's folders.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="clusterpaths-postgres-"))
    data = folder / "data"
    try:
        if as_user:
            shutil.chown(folder, "postgres")
        initdb = [*as_user, str(bin_folder / "initdb"), "-D", str(data), "-A", "trust", "-U", "prefect", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
        options = {"fsync": "off", "unix_socket_directories": str(folder), "listen_addresses": "127.0.0.1"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [*as_user, str(bin_folder / "pg_ctl"), "-D", str(data), "-o", f"-p {port} {' '.join(settings)}"]
        log = ["-l", str(folder / "log"), "-w"]
        subprocess.run([*command, *log, "start"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        try:
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            stop = [*as_user, str(bin_folder / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"]
            subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

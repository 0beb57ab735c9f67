from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterpaths.errors import CacheError, DiskError
from clusterpaths.storage import open_storage

HOLD = """
import sys
from clusterpaths.storage import open_storage
with open_storage(sys.argv[1]).lock(0):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the cache until it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_second_run_fails_at_once_and_names_the_holder(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    with (
        pytest.raises(CacheError, match=rf"in use by process {holder.pid} on .* since .*--wait, or use another --name"),
        open_storage(tmp_path).lock(0),
    ):
        raise AssertionError("both are inside")
    assert time.monotonic() - started < 5


def test_second_run_waits_says_so_once_and_goes_on(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def finish_then_say(message: str) -> None:
        said.append(message)
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    with open_storage(tmp_path).lock(60, finish_then_say):
        assert holder.wait(10) == 0
        assert f"process {os.getpid()} " in (tmp_path / ".lock.holder").read_text()
    assert len(said) == 1
    assert f"in use by process {holder.pid}" in said[0]


def test_waiting_ends_after_its_time(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(CacheError, match=r"still is after 0 s"), open_storage(tmp_path).lock(0.3):
        raise AssertionError("both are inside")


def test_a_killed_holder_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait(10)
    with open_storage(tmp_path).lock(0):
        assert f"process {os.getpid()} " in (tmp_path / ".lock.holder").read_text()


def test_two_threads_are_never_inside_together(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        with open_storage(tmp_path).lock(30):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_error_inside_lets_go_and_leaves_no_holder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_storage(tmp_path / "new").lock(0):
        raise KeyboardInterrupt
    assert not (tmp_path / "new" / ".lock.holder").exists()
    with open_storage(tmp_path / "new").lock(0):
        pass


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DiskError, match="cannot be written"), open_storage(tmp_path / "new").lock(0):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_disk_that_is_full_is_one_paragraph_and_the_lock_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(DiskError, match="The disk is full"), open_storage(tmp_path).lock(0):
            raise AssertionError("inside")
    with open_storage(tmp_path).lock(0):
        pass

"""A disk that hangs: the task reaches its time limit, the run ends with one paragraph, and so does its process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterpaths.errors import ExtractionError
from clusterpaths.running import stages
from tasks.stages import TASKS
from tasks.time_limit import in_own_thread
from tests.flows.test_command_line import assert_one_paragraph
from tests.runs import SAMPLE_MODEL, shell_environment

LIMIT = 8  # seconds: more than any stage takes where nothing hangs

# The disk is a pipe that nobody reads or writes: opening it blocks in the system, as a network disk that does not answer.
HANGS = {
    "an image is read": "from clusterpaths.datasets.celeba import CelebA as owner; name = 'digest'",
    "activations are written": "from clusterpaths.cache.stores import NpyStore as owner; name = 'write'",
    "activations are read, in a pool": "from clusterpaths.cache.stores import NpyStore as owner; name = 'read'",
    "the plan is made, in the main thread": "from clusterpaths.extraction import plan as owner; name = 'plan_run'",
    "a set is published, and the lock let go": (
        "from clusterpaths.sets import publish as owner; name = 'publish_set'\n"
        "import pathlib\n"
        "unlink = pathlib.Path.unlink\n"
        "pathlib.Path.unlink = lambda path, **k: hang() if path.name == '.lock.holder' else unlink(path, **k)"
    ),
}
RUN = """
import sys
pipe, argv = sys.argv[1], sys.argv[2:]
def hang(*_args, **_named):
    open(pipe, 'rb')
{hangs}
setattr(owner, name, hang)
from flows.cli import main
main(argv)
"""


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("where", HANGS)
def test_a_run_whose_disk_hangs_ends_with_one_paragraph(where: str, faces: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    options = ["--model", SAMPLE_MODEL, "--data-root", faces.parent, "--cache-root", tmp_path / "cache", "--subset", 40]
    few = ["--layers", "fc1,fc2", "--no-evaluate", "--no-check-preprocessing", "--time-limit", LIMIT]
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", RUN.format(hangs=HANGS[where]), tmp_path / "pipe", "celeba", *map(str, [*options, *few])],
        env=shell_environment(), capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert time.monotonic() - started < LIMIT + 60
    assert_one_paragraph(ended.stdout + ended.stderr, "did not end within its time limit", "--time-limit")
    assert re.search(r"^warning: [\w /]+: .*exceeded timeout of", ended.stderr, re.MULTILINE), ended.stderr
    assert "Finished in state" not in ended.stderr
    assert "AwaitingRetry" not in ended.stdout + ended.stderr


def test_every_stage_has_a_time_limit() -> None:
    own = {
        function for name, function in vars(stages).items() if getattr(function, "__module__", "") == stages.__name__
    }
    assert {stage for stage in TASKS if TASKS[stage].timeout_seconds} == set(TASKS)
    assert set(TASKS) <= own


def test_work_in_its_own_thread_returns_and_raises_as_it_does() -> None:
    def work(fails: bool) -> str:
        if fails:
            raise ExtractionError("as it is")
        return threading.current_thread().name

    assert in_own_thread(work)(False) == "work"
    with pytest.raises(ExtractionError, match="as it is"):
        in_own_thread(work)(True)


def test_an_interrupted_caller_interrupts_its_work_and_waits_for_it() -> None:
    """So Ctrl-C leaves nothing half written."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background jobs
    try:
        _interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt() -> None:
    seen: list[str] = []

    def work() -> None:
        try:
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            time.sleep(0.3)
            seen.append("cleaned up")
            raise

    timer = threading.Timer(0.3, interrupt_main())
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        in_own_thread(work)()
    assert seen == ["cleaned up"]


def interrupt_main() -> Callable[[], None]:
    import _thread

    return _thread.interrupt_main

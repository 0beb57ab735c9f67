"""A real watcher, in a process of its own, announces to a real server."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.models.check import check_model
from clusterpaths.watching.announced import AnnouncedModels
from clusterpaths.watching.arrivals import Arrival
from tests.clusterpaths.conftest import write_cnn
from tests.deployments.conftest import (
    end_group,
    free_port,
    model_events,
    server_environment,
)
from tests.deployments.site import wait_until
from tests.runs import PROJECT, SAMPLE_MODEL

pytestmark = pytest.mark.server
_SEEDS = count(100)


@dataclass
class Watcher:
    """A watcher of one folder; what it announced is asked of the server."""

    folder: Path
    url: str
    home: Path
    options: tuple[str, ...] = ("--settle", "0.5", "--patience", "2.5", "--rescan", "5")
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    stopped: list[float] = field(default_factory=list)

    @property
    def output(self) -> str:
        return (self.home / "watcher.log").read_text()

    def start(self, *options: str) -> Watcher:
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(PROJECT / "deployments" / "watch_models.py"), "--folder", str(self.folder)]
        with (self.home / "watcher.log").open("ab") as file:
            self.process = subprocess.Popen(
                [*command, *self.options, *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=server_environment(self.url, self.home),
                cwd=self.home,  # not the project: it works from any folder
                start_new_session=True,
            )
        self.starts += 1
        wait_until(lambda: self.output.count("Watching") == self.starts, lambda: self.output)
        return self

    def stop(self) -> int:
        """Exit code after SIGTERM; how long that took is kept."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=15)
        finally:
            end_group(self.process, wait=0.1)
        self.stopped.append(time.monotonic() - began)
        return code

    def events(self, file: str) -> list[tuple[str, dict[str, Any]]]:
        return [(kind, told) for kind, told in model_events(self.url, self.folder) if Path(told["path"]).name == file]

    def kinds(self, file: str) -> list[str]:
        return [kind for kind, _ in self.events(file)]

    def wait_for(self, file: str, *kinds: str) -> dict[str, Any]:
        """The last event about the file, once these are there."""
        wait_until(lambda: len(self.kinds(file)) >= len(kinds), lambda: f"{self.kinds(file)}\n{self.output}")
        assert tuple(self.kinds(file)) == kinds, self.output
        return self.events(file)[-1][1]

    def let_pass(self) -> None:
        """Until a model that comes now was announced: what came before it would have been, too."""
        time.sleep(0.2)
        file = f"later_{next(_SEEDS)}.onnx"
        write_cnn(self.folder / file, seed=next(_SEEDS))
        self.wait_for(file, "arrived")


@pytest.fixture(scope="module")
def watcher(live_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watcher]:
    """One for all tests that only bring files of their own names."""
    home = tmp_path_factory.mktemp("watcher")
    watcher = Watcher(home / "models", live_server, home).start()
    yield watcher
    assert watcher.stop() == 0, watcher.output
    assert "Traceback" not in watcher.output


@pytest.fixture
def own_watcher(live_server: str, tmp_path: Path) -> Iterator[Watcher]:
    """One that may be started and stopped."""
    (tmp_path / "models").mkdir()
    watcher = Watcher(tmp_path / "models", live_server, tmp_path)
    yield watcher
    if watcher.process is not None:
        end_group(watcher.process, wait=5)


def copy_slowly(source: Path, target: Path, pieces: int = 3, pause: float = 0.8) -> None:
    """With a pause longer than the watcher's settling time between the pieces."""
    content = source.read_bytes()
    size = -(-len(content) // pieces)
    with target.open("wb") as file:
        for start in range(0, len(content), size):
            if start:
                time.sleep(pause)
            file.write(content[start : start + size])
            file.flush()


def test_a_model_copied_in_three_slow_writes_is_announced_once_with_path_and_sha256(watcher: Watcher) -> None:
    file = watcher.folder / "Slow_CNN_instrumented.onnx"
    copy_slowly(SAMPLE_MODEL, file)
    told = watcher.wait_for(file.name, "arrived")
    assert told == {"path": str(file), "name": "Slow_CNN", "sha256": check_model(file).sha256}
    watcher.let_pass()
    assert watcher.kinds(file.name) == ["arrived"]


def test_a_model_is_announced_once_its_weights_beside_it_are_whole(watcher: Watcher, tmp_path: Path) -> None:
    made = write_cnn(tmp_path / "big.onnx", external="big.onnx.data", seed=1)
    shutil.copy(made, watcher.folder)
    time.sleep(1)
    copy_slowly(tmp_path / "big.onnx.data", watcher.folder / "big.onnx.data")
    told = watcher.wait_for("big.onnx", "arrived")
    assert told["sha256"] == check_model(made).sha256
    watcher.let_pass()
    assert watcher.kinds("big.onnx") == ["arrived"]


def test_weights_may_come_first_and_a_model_may_be_renamed_into_place(watcher: Watcher, tmp_path: Path) -> None:
    made = write_cnn(tmp_path / "moved.onnx", external="moved.onnx.data", seed=2)
    shutil.copy(tmp_path / "moved.onnx.data", watcher.folder)
    shutil.copy(made, watcher.folder / "moved.onnx.tmp")
    watcher.let_pass()
    (watcher.folder / "moved.onnx.tmp").rename(watcher.folder / "moved.onnx")
    watcher.wait_for("moved.onnx", "arrived")
    assert watcher.kinds("moved.onnx.tmp") == []


def test_weights_that_never_come_are_a_reason_to_reject(watcher: Watcher, tmp_path: Path) -> None:
    made = write_cnn(tmp_path / "alone.onnx", external="alone.onnx.data", seed=3)
    shutil.copy(made, watcher.folder)
    told = watcher.wait_for("alone.onnx", "rejected")
    assert "alone.onnx.data" in told["reason"]
    shutil.copy(tmp_path / "alone.onnx.data", watcher.folder)  # late, but not too late
    watcher.wait_for("alone.onnx", "rejected", "arrived")


def test_a_text_file_is_rejected_once_with_the_reason(watcher: Watcher) -> None:
    file = watcher.folder / "notes.onnx"
    file.write_text("not a model at all\n")
    told = watcher.wait_for(file.name, "rejected")
    assert set(told) == {"path", "name", "sha256", "reason", "stage"}
    assert told["stage"] == "file"
    assert told["path"] == str(file)
    assert "is not an ONNX model" in told["reason"]
    assert "\n" not in told["reason"]
    file.touch()
    watcher.let_pass()
    assert watcher.kinds(file.name) == ["rejected"]


def test_the_same_model_touched_or_copied_again_is_not_announced_and_another_in_its_place_is(
    watcher: Watcher, tmp_path: Path
) -> None:
    file = write_cnn(watcher.folder / "again.onnx", seed=4)
    first = watcher.wait_for(file.name, "arrived")
    file.touch()
    watcher.let_pass()
    shutil.copy(write_cnn(tmp_path / "again.onnx", seed=4), file)
    shutil.copy(file, watcher.folder / "again_under_another_name.onnx")
    watcher.let_pass()
    assert watcher.kinds(file.name) == ["arrived"]
    assert watcher.kinds("again_under_another_name.onnx") == []
    shutil.copy(write_cnn(tmp_path / "other.onnx", seed=5), file)
    second = watcher.wait_for(file.name, "arrived", "arrived")
    assert second["sha256"] != first["sha256"]


def test_nothing_that_lies_in_the_folder_brings_it_down(watcher: Watcher, tmp_path: Path) -> None:
    (watcher.folder / "folder.onnx").mkdir()
    (watcher.folder / "empty.onnx").touch()
    (watcher.folder / "dangling.onnx").symlink_to(tmp_path / "nowhere.onnx")
    os.mkfifo(watcher.folder / "pipe.onnx")
    (watcher.folder / "noise.onnx").write_bytes(os.urandom(5000))
    gone = watcher.folder / "gone.onnx"
    gone.write_bytes(SAMPLE_MODEL.read_bytes()[:1_000_000])
    time.sleep(1)
    gone.unlink()
    watcher.wait_for("empty.onnx", "rejected")
    watcher.wait_for("noise.onnx", "rejected")
    watcher.let_pass()
    for file in ("folder.onnx", "dangling.onnx", "pipe.onnx", "gone.onnx"):
        assert watcher.kinds(file) == []


def test_what_came_while_no_watcher_ran_is_announced_when_one_starts_and_nothing_is_announced_again(
    own_watcher: Watcher, tmp_path: Path
) -> None:
    write_cnn(own_watcher.folder / "before.onnx", seed=6)  # before the very first start: known
    own_watcher.start()
    write_cnn(own_watcher.folder / "during.onnx", seed=7)
    (own_watcher.folder / "broken.onnx").write_text("broken")
    own_watcher.wait_for("during.onnx", "arrived")
    own_watcher.wait_for("broken.onnx", "rejected")
    assert own_watcher.stop() == 0
    write_cnn(own_watcher.folder / "between.onnx", seed=8)
    own_watcher.start()
    own_watcher.wait_for("between.onnx", "arrived")
    own_watcher.let_pass()
    assert own_watcher.kinds("before.onnx") == []
    assert own_watcher.kinds("during.onnx") == ["arrived"]
    assert own_watcher.kinds("broken.onnx") == ["rejected"]
    assert own_watcher.kinds("between.onnx") == ["arrived"]
    assert own_watcher.stop() == 0
    assert max(own_watcher.stopped) < 2


@contextlib.contextmanager
def relay(port: int, url: str) -> Iterator[None]:
    """The server answers on this port as well while inside; before and after, connections are refused."""
    listener = socket.create_server(("127.0.0.1", port))
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def connect(client: socket.socket) -> None:
        host, _, upstream_port = url.removeprefix("http://").removesuffix("/api").partition(":")
        with client, socket.create_connection((host, int(upstream_port))) as upstream:
            back = threading.Thread(target=pump, args=(upstream, client))
            back.start()
            pump(client, upstream)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=connect, args=(listener.accept()[0],)))
                threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(timeout=10)


def test_models_that_come_while_the_server_is_away_are_announced_once_it_is_back(
    live_server: str, tmp_path: Path
) -> None:
    port = free_port()
    folder = tmp_path / "models"
    folder.mkdir()
    write_cnn(folder / "first.onnx", seed=9)
    watcher = Watcher(folder, f"http://127.0.0.1:{port}/api", tmp_path / "home")
    try:
        watcher.start("--first-start", "announce")
        wait_until(lambda: "Retrying in" in watcher.output, lambda: watcher.output)
        write_cnn(folder / "second.onnx", seed=10)
        write_cnn(folder / "deleted.onnx", seed=11)
        wait_until(lambda: "3 waiting" in watcher.output, lambda: watcher.output)
        (folder / "deleted.onnx").unlink()
        with relay(port, live_server):
            watcher.wait_for("first.onnx", "arrived")
            watcher.wait_for("second.onnx", "arrived")
            watcher.let_pass()
            assert watcher.kinds("first.onnx") == watcher.kinds("second.onnx") == ["arrived"]
            assert watcher.kinds("deleted.onnx") == []
            assert watcher.stop() == 0
    finally:
        if watcher.process is not None:
            end_group(watcher.process, wait=5)
    assert "Traceback" not in watcher.output


def test_an_announcement_that_the_server_took_in_before_a_crash_is_not_sent_again(
    live_server: str, tmp_path: Path
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.announcing import announce

    one = Arrival(path=str(tmp_path / "crash.onnx"), name="crash", sha256="1" * 64)
    known = AnnouncedModels(tmp_path / ".announced.json")
    with temporary_settings({PREFECT_API_URL: live_server}):
        assert announce([one], known) == [one]
        known.write(known.read().model_copy(update={"models": {}}))  # as if it had died before it wrote this down
        announce([one], known)
    assert known.knows(Path(one.path), one.sha256)
    assert [kind for kind, _ in model_events(live_server, tmp_path)] == ["arrived"]


def run_announce(capsys: pytest.CaptureFixture[str], url: str | None, *argv: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of `clusterpaths announce`, in this process."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.cli import main

    capsys.readouterr()
    code: object = 0
    with temporary_settings({PREFECT_API_URL: url}):
        try:
            main(["announce", *map(str, argv)])
        except SystemExit as exit_:
            code = exit_.code or 0
    shown = capsys.readouterr()
    assert isinstance(code, int)
    return code, shown.out, shown.err


def test_announcing_by_hand_does_the_same_and_the_watcher_knows(
    watcher: Watcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_cnn(tmp_path / "hand.onnx", seed=12)
    file = watcher.folder / made.name
    shutil.copy(made, file)
    code, said, errors = run_announce(capsys, watcher.url, file)  # who of both is first does not matter
    assert code == 0, errors
    told = watcher.wait_for(file.name, "arrived")
    assert told["sha256"] in said
    watcher.let_pass()
    assert watcher.kinds(file.name) == ["arrived"]
    assert "announced before" in run_announce(capsys, watcher.url, file)[1]
    assert run_announce(capsys, watcher.url, file, "--again")[0] == 0
    watcher.wait_for(file.name, "arrived", "arrived")


@pytest.mark.parametrize(
    ("content", "server", "expected"),
    [
        ("model", None, "set PREFECT_API_URL"),
        ("model", "http://127.0.0.1:9/api", "does not accept events"),
        ("text", "http://127.0.0.1:9/api", "is not an ONNX model"),
        (None, "http://127.0.0.1:9/api", "There is no model at"),
    ],
)
def test_announcing_by_hand_says_what_is_wrong_in_one_paragraph(
    content: str | None, server: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.onnx"
    if content == "model":
        write_cnn(file)
    elif content == "text":
        file.write_text("hello")
    code, _, errors = run_announce(capsys, server, file)
    assert code == 2
    assert errors.startswith("\nerror: ")
    assert expected in errors
    assert "\n" not in errors.strip()

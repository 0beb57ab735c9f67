"""Shell completion, as typed: each shell reads the script, and completes a line. A shell that is not installed is skipped."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusterpaths.commands import main as library
from clusterpaths.commands.completion import Shell, script
from flows import cli
from tests.runs import PROJECT

COMMANDS = library.parsers(cli.COMMANDS, cli.MODULES, library.OPTIONS | cli.FLOWS)
PATIENCE = 20.0  # seconds


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a script for each shell, named as it looks for it."""
    folder = tmp_path_factory.mktemp("scripts")
    names: dict[Shell, str] = {"bash": "clusterpaths", "zsh": "_clusterpaths", "fish": "clusterpaths.fish"}
    for shell, name in names.items():
        (folder / name).write_text(script(shell, COMMANDS))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With photos/, images/ and two files."""
    for name in ("photos", "images"):
        (tmp_path / name).mkdir()
    for name in ("model.onnx", "the labels.csv"):
        (tmp_path / name).touch()
    return tmp_path


class Typing:
    """A shell with a terminal."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._terminal, end = pty.openpty()
        environment = os.environ | {"TERM": "dumb", "HOME": str(folder), "INPUTRC": "/dev/null", "HISTFILE": ""}
        self._shell = subprocess.Popen(
            command, cwd=folder, stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True
        )
        os.close(end)
        self._seen = ""

    def __enter__(self) -> Typing:
        return self

    def __exit__(self, *error: object) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)

    def send(self, text: str) -> None:
        self._seen = ""
        os.write(self._terminal, text.encode())

    def until(self, text: str) -> None:
        """Read until the text was shown."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._seen and time.monotonic() < deadline:
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._seen += os.read(self._terminal, 65536).decode(errors="replace")
        assert text in self._seen


LINES = {  # what is typed -> what the tab key adds
    "clusterpaths inspe": "ct ",
    "clusterpaths run model.onnx photos --pl": "an ",
    "clusterpaths run model.onnx images --pl": "an ",  # images is a command, too, but not here
    "clusterpaths activations photos --predic": "tions ",
    "clusterpaths recluster --dist": "ance ",
    "clusterpaths serve --prefect": "-api ",
    "clusterpaths run --distance eu": "clidean ",
    "clusterpaths run mod": "el.onnx ",
    "clusterpaths run model.onnx pho": "tos/",
    "clusterpaths run model.onnx --images pho": "tos/",
    "clusterpaths celeba --cache-root pho": "tos/",
    "clusterpaths inspect mod": "el.onnx ",
}


@pytest.mark.parametrize(
    ("command", "read"),
    [
        (["bash", "--norc", "--noprofile", "-i"], "source {}/clusterpaths"),
        (["zsh", "-f", "-i"], "unsetopt prompt_sp; fpath=({} $fpath); autoload -Uz compinit; compinit -D -u"),
    ],
    ids=["bash", "zsh"],
)
def test_lines_are_completed(command: list[str], read: str, scripts: Path, folder: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with Typing(command, folder) as typing:
        typing.send(f"PS1='> '; {read.format(scripts)}; echo rea''dy\n")
        typing.until("ready\r\n")
        for line, added in LINES.items():
            typing.send(f"{line}\t")
            typing.until(f"{line}{added}")
            typing.send("\x15")  # clears the line


def test_lines_are_completed_by_fish(scripts: Path, folder: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    run = [f"complete --do-complete '{line}'; echo" for line in LINES]
    done = subprocess.run(
        ["fish", "--no-config", "-c", "; ".join([f"source {scripts}/clusterpaths.fish", *run])],
        cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    found = [entry.partition("\t")[0] for entry in done.stdout.splitlines()]
    assert [entry for entry in found if entry] == [
        f"{line.rpartition(' ')[2]}{added}".rstrip() for line, added in LINES.items()
    ]


def test_every_command_has_its_options_in_every_script(scripts: Path) -> None:
    for path in scripts.iterdir():
        text = path.read_text()
        assert all(name in text for name in cli.COMMANDS)
        assert all(
            option in text for option in ("help-all", "evaluation-images", "chunks", "max-upload-mb", "again", "cue")
        )


def test_the_command_prints_the_script_without_prefect(scripts: Path, tmp_path: Path) -> None:
    call = "import sys; sys.modules['prefect.flows'] = None; from clusterpaths.commands.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", call, "completion", "bash"], capture_output=True, text=True, check=True,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.stdout == (scripts / "clusterpaths").read_text()

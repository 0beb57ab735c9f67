"""A run opens connections to this machine only: every process of it is watched by an audit hook of Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.runs import PROJECT, SAMPLE_MODEL, start_celeba

# PEP 578: raised by the interpreter itself. Each process that starts imports this module.
HOOK = """
import json, os, sys
def note(event, given):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        where = given[0] if event.startswith("socket.get") else given[1]
        with open(os.environ["AUDITED"], "a") as file:
            file.write(json.dumps([event, where if isinstance(where, (str, list, tuple)) else repr(where)]) + "\\n")
sys.addaudithook(note)
"""
HERE = ("127.0.0.1", "localhost", "::1")


def watched(folder: Path, **more: str) -> dict[str, str]:
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join([str(folder / "hook"), str(PROJECT)])
    return own | {"AUDITED": str(folder / "audited.jsonl"), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | more


def targets(folder: Path) -> set[str]:
    """Every host or socket file that was connected to or looked up."""
    lines = (folder / "audited.jsonl").read_text().splitlines() if (folder / "audited.jsonl").exists() else []
    return {where if isinstance(where, str) else str(where[0]) for _, where in map(json.loads, lines)}


def test_the_hook_sees_a_connection_of_a_child(tmp_path: Path) -> None:
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), timeout=0.01)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env=watched(tmp_path), check=True)
    assert "192.0.2.1" in targets(tmp_path)


def test_a_flow_with_its_temporary_server_connects_to_this_machine_only(faces: Path, tmp_path: Path) -> None:
    options = [
        "--model",
        str(SAMPLE_MODEL),
        "--data-root",
        str(faces.parent),
        "--subset",
        "60",
        "--layers",
        "conv3,fc2",
    ]
    run = start_celeba(
        *options, "--cache-root", str(tmp_path / "cache"), output=tmp_path / "output.txt",
        environment=watched(tmp_path, PREFECT_HOME=str(tmp_path / "home")),
    )  # fmt: skip
    assert run.wait(300) == 0, (tmp_path / "output.txt").read_text()
    found = targets(tmp_path)
    assert found & set(HERE)  # it does see the run's own connections
    assert {where for where in found if where not in HERE and not where.startswith(("/", "\0"))} == set()


def test_the_librarys_run_and_explanation_connect_to_nothing(faces: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clusterpaths.commands.main"]
    root = ["--cache-root", str(tmp_path / "cache")]
    run = [
        *command,
        "run",
        str(SAMPLE_MODEL),
        str(faces / "img_align_celeba"),
        *root,
        "--subset",
        "60",
        "--name",
        "Own",
    ]
    environment = watched(tmp_path)
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    explain = [*command, "explain", str(faces / "img_align_celeba" / "000001.jpg"), "--set", "Own/set_01", *root]
    done = subprocess.run(explain, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert targets(tmp_path) == set()

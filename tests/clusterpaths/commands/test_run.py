"""Runs without Prefect, in a shell: what they show, their help, and what they refuse."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusterpaths.commands.main import library
from clusterpaths.commands.run import main
from clusterpaths.commands.shell import run_command
from tests.runs import PROJECT, SAMPLE_MODEL

PLAIN = ("run", "sample", "activations")


def shown_by(command: str, *argv: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    capsys.readouterr()
    code: object = 0
    try:
        importlib.import_module(f"clusterpaths.commands.{command}").main([str(word) for word in argv])
    except SystemExit as end:
        code = end.code or 0
    shown = capsys.readouterr()
    assert isinstance(code, int)
    return code, shown.out, shown.err


@pytest.fixture
def photos(cnn: Path, faces: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    """MODEL IMAGES and where the results go."""
    images = next(faces.rglob("img_align_celeba"))
    return cnn, images, "--cache-root", tmp_path / "cache", "--k", "2", "--no-check-preprocessing"


def test_a_run_shows_what_it_will_do_its_stages_the_result_and_the_next_step(
    photos: tuple[str | Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = shown_by("run", *photos, "--no-evaluate", capsys=capsys)
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert lines[0] == f"Cluster paths of {photos[1]} through {photos[0]}"
    stages = [line[:20].strip() for line in lines[3:]]
    assert [stage for stage in stages[: stages.index("")] if not stage.startswith("warning:")] == [
        "check", "download", "instrument", "extract", "fit", "assign", "trace", "publish", "report",
    ]  # fmt: skip
    assert stages[stages.index("") + 1 :][:2] == ["set", "images"]
    assert lines[-1].endswith(f"clusterpaths serve --cache-root {tmp_path / 'cache'}")
    assert "INFO" not in err


def test_verbose_shows_the_log_instead(photos: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = shown_by("run", *photos, "--no-evaluate", "--verbose", capsys=capsys)
    assert (code, out) == (0, "")
    assert err.startswith("INFO | ")
    assert {line.partition(" | ")[0] for line in err.splitlines()} <= {"INFO", "WARNING"}
    assert "set_01: 40 examples on " in err.splitlines()[-1]


def test_a_dry_run_shows_what_is_missing_and_writes_nothing(
    photos: tuple[str | Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = shown_by("run", *photos, "--plan", capsys=capsys)
    assert code == 0
    assert "\nimages              40: 0 in the cache, 40 to extract in 1 shard\n" in err
    assert err.endswith("\nNext: the same command without --plan\n")
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("command", PLAIN)
def test_help_has_examples_first_then_panels_without_prefect(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, brief, _ = shown_by(command, "--help", capsys=capsys)
    assert code == 0
    assert brief.startswith(f"Usage: clusterpaths {command} ")
    order = [brief.index(text) for text in (f"  clusterpaths {command}", "─ Clustering ─", "─ Output ─", "─ Speed ─")]
    assert order == sorted(order)
    assert "Prefect ─" not in brief
    _, full, _ = shown_by(command, "--help-all", capsys=capsys)
    assert "--wait" in full
    if command != "activations":  # it has few options: all are shown at first
        assert f"clusterpaths {command} --help-all" in brief
        assert "--wait" not in brief
    assert not {"--engine", "--time-limit", "--dask-address", "--model-sha256"} & set(full.split())


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("run",), "MODEL and IMAGES are missing"),
        (("run", "a.onnx", "photos", "more"), "more is no option. Expected MODEL and IMAGES before the options"),
        (("run", "a.onnx", "photos", "--kk", "3"), "Unknown option: --kk. Did you mean --k?"),
        (("run", "a.onnx", "photos", "--k"), "--k needs a value: clusters per layer"),
        (
            ("run", "a.onnx", "photos", "--distance", "cos"),
            "--distance should be 'cosine', 'euclidean' or 'auto', got 'cos'",
        ),
        (("run", "a.onnx", "photos", "--size", "big"), "--size should be an integer, got 'big'"),
        (("run", ".", "photos"), "; on a command line the model comes first, then the images."),
        (("run", str(SAMPLE_MODEL)), "--images is missing: --dataset folder needs a directory of images"),
        (("inspect", "a.onnx", "b.onnx"), "b.onnx is no option. Try --help."),
        (("serve", "here"), "here is no option. Try --help."),
        (("run", "a.onnx", "photos"), "There is no model at a.onnx"),
        (("sample", "photos"), "photos is no option."),
        (("activations", "--name", "MINE"), "DIR is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_ends_with_one_paragraph_and_2(
    argv: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = shown_by(*argv, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("\nerror: ")
    assert len(err.strip().splitlines()) == 1
    assert expected in err


def test_an_unknown_command_ends_with_one_paragraph_and_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(library(), ["runn"])
    error = capsys.readouterr().err
    assert error.startswith('\nerror: Unknown command "runn". Did you mean "run"? Available commands: run, sample, ')
    assert len(error.strip().splitlines()) == 1


def test_ctrl_c_says_that_results_are_preserved(
    photos: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clusterpaths.pipeline.run", interrupted)
    with pytest.raises(SystemExit, match="130"):
        main([str(word) for word in photos])
    assert capsys.readouterr().err.endswith(
        "\nerror: Stopped. Recorded results are preserved: run the same command to resume.\n"
    )


def test_a_dry_run_waits_for_no_library_that_it_does_not_need(photos: tuple[str | Path, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "clusterpaths.commands.run", *map(str, photos), "--plan"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)}, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "onnxruntime" in imported
    assert {"sklearn", "scipy", "prefect", "torch"} & imported == set()


def test_a_reader_that_leaves_ends_a_command_quietly() -> None:
    """As `clusterpaths inspect MODEL | head -1` does."""
    command = [sys.executable, "-m", "clusterpaths.commands.main", "inspect", str(SAMPLE_MODEL)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141
    assert errors == b""


@pytest.mark.parametrize("error", [OSError(errno.EIO, "", "/disk/a"), MemoryError()])
def test_an_error_of_the_machine_is_one_paragraph(
    photos: tuple[str | Path, ...],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("clusterpaths.running.stages.fit_layer", fails)
    code, _, err = shown_by("run", *photos, "--no-evaluate", capsys=capsys)
    assert code == 2
    assert err.count("\nerror: ") == 1
    assert "What was recorded before is preserved." in err.splitlines()[-1]
    assert "Traceback" not in err

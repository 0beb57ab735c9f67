"""The program as a person meets it in a shell: help, exit codes, and one paragraph for each mistake."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from clusterpaths.config import RunConfig
from tests.runs import PROJECT, SAMPLE_MODEL, SHAPES, shell_environment

pytestmark = pytest.mark.usefixtures("prefect_server")
QUOTA_PAGE = "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Quota exceeded</body>"


def celeba_in_process(
    capsys: pytest.CaptureFixture[str], *argv: str | Path, data: Path | None, cache: Path
) -> tuple[int, str]:
    """Exit code and what a terminal would show of `python flows/celeba.py …`."""
    from flows.cli import main

    given = [] if "--model" in argv else ["--model", SAMPLE_MODEL]
    given += ["--data-root", data] if data else []
    capsys.readouterr()
    log_to_this_test()
    code: object = 0
    try:
        main([str(word) for word in ("celeba", *argv, *given, "--cache-root", cache)])
    except SystemExit as exit_:
        code = exit_.code or 0
    shown = capsys.readouterr()
    assert isinstance(code, int)
    return code, shown.out + shown.err


def log_to_this_test() -> None:
    """Prefect's console keeps the stderr that it found when logging was set up: that of an earlier test."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for handler in [reference() for reference in logging._handlerList]:
        if isinstance(handler, PrefectConsoleHandler):
            handler.console.file = sys.stderr


def assert_one_paragraph(shown: str, *expected: str) -> None:
    assert "Traceback" not in shown
    [paragraph] = re.findall(r"^error: (.*)\Z", shown, flags=re.MULTILINE | re.DOTALL)
    assert "\n" not in paragraph.strip()
    for words in expected:
        assert words in paragraph


# help


def test_help_shows_every_field_with_its_description() -> None:
    command = [sys.executable, str(PROJECT / "flows" / "celeba.py"), "--help-all"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "400"}, cwd="/", check=True
    )
    shown = " ".join(done.stdout.split())
    for name, field in RunConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert field.description
        assert " ".join(field.description.split()) in shown
    assert done.stderr == ""


# in a process of its own


@pytest.mark.parametrize(
    "command",
    [(str(PROJECT / "flows" / "celeba.py"),), ("-m", "flows.celeba")],
    ids=["as a file, from another directory, with a temporary server", "as a module, with a server of one's own"],
)
def test_the_sample_runs_in_a_shell_and_ends_quietly(command: tuple[str, ...], home: Path, tmp_path: Path) -> None:
    environment = shell_environment(PREFECT_HOME=str(tmp_path / "prefect"))
    if "-m" not in command:
        del environment["PREFECT_API_URL"]
    done = subprocess.run(
        [sys.executable, *command, "--sample", "--sample-size", "60", "--subset", "5", "--cache-root", "results"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert "Traceback" not in shown
    assert "ERROR" not in shown
    assert "error" not in shown.lower()
    cache = tmp_path / "results" / "SampleFaces"
    assert f"{cache / 'set_01' / 'report.html'}" in shown
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines[0].startswith("Cluster paths of the first 5 of 60 drawn faces through ")
    assert lines[-1].endswith(f"clusterpaths serve --cache-root {cache.parent}")
    assert len(lines) <= 30
    assert "Finished in state" not in shown
    stages = [line[:20].strip() for line in lines[3:]]
    assert stages[: stages.index("set")] == [
        "check", "download", "instrument", "check preprocessing", "extract", "fit", "assign", "trace", "publish",
        "evaluate", "report",
    ]  # fmt: skip
    for layer in SHAPES:
        assert {path.name for path in (cache / layer).iterdir()} == {f"{i}.npy" for i in range(5)}


def test_a_mistake_in_a_shell_ends_with_2_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "flows" / "celeba.py"), "--model", "nowhere.onnx", "--cache-root", "results"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=shell_environment(),
        check=False,
    )
    assert done.returncode == 2
    assert_one_paragraph(done.stderr, "There is no model at nowhere.onnx", "--model PATH", "clusterpaths sample")
    assert done.stderr.count("There is no model at") == 1


# mistakes


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--k", "0"], ["--k", "should be >= 1, got 0 instead"]),
        (["--k", "many"], ["--k", "should be a number such as 5, or conv3=15, got 'many'"]),
        (["--k", "301"], ["300 examples cannot make 301 clusters", "--k 300"]),
        (["--subset", "4"], ["4 examples cannot make 5 clusters", "--k 4"]),
        (["--k", "conv9=3"], ["--k names conv9, which is not clustered", "conv1, conv2, conv3, fc1, fc2"]),
        (["--layers", "conv9"], ["The model has no layer 'conv9'", "Did you mean conv"]),
        (["--subset", "0"], ["--subset", "greater than or equal to 1"]),
        (["--subset", "five"], ["--subset", "five"]),
        (["--split", "training"], ["--split", "training"]),
        (["--distance", "manhattan"], ["--distance", "manhattan"]),
        (["--no-such-option", "1"], ["--no-such-option", "Try --help."]),
        (["--mean", "0.5,0.5,0.5"], ["--mean and --std go together"]),
        (["--mean", "0,0,0", "--std", "1,0,1"], ["std above 0"]),
        (["--size", "48x48"], ["cannot be run on a batch of shape (1, 3, 48, 48)"]),
        (["--name", "../CelebA"], ["--name", "plain directory name"]),
        (["--sample"], ["--sample draws its own images"]),
        (["--max-failures", "1.5"], ["--max-failures", "less than or equal to 1"]),
        (["--workers", "0"], ["--workers", "greater than or equal to 1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and str(value[0]).startswith("--") else "",
)
def test_an_option_that_cannot_be_is_named_with_what_was_expected(
    argv: list[str], expected: list[str], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = celeba_in_process(capsys, *argv, data=faces, cache=tmp_path)
    assert code == 2
    assert_one_paragraph(shown, *expected)
    assert not list(tmp_path.rglob("*.npy"))


def text_model(folder: Path) -> Path:
    (folder / "model.onnx").write_text("this is a note about a model\n")
    return folder / "model.onnx"


def page_model(folder: Path) -> Path:
    (folder / "model.onnx").write_text(QUOTA_PAGE)
    return folder / "model.onnx"


def model_without_image_input(folder: Path) -> Path:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 10])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 10])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), folder / "model.onnx")
    return folder / "model.onnx"


def cut_model(folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(SAMPLE_MODEL.read_bytes()[:5000])
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda folder: folder / "nowhere.onnx",
            ["There is no model at", "--model PATH", "flows/train.py", "clusterpaths sample"],
        ),
        (lambda folder: folder, ["There is no model at"]),
        (text_model, ["is not an ONNX model", "It looks like text."]),
        (page_model, ["is not an ONNX model", "It looks like text."]),
        (cut_model, ["is not an ONNX model"]),
        (model_without_image_input, ["has no image input: its input is x float (n, 10)"]),
    ],
    ids=["missing", "folder", "text", "web page", "cut off", "no image input"],
)
def test_a_model_that_is_none_is_told_before_anything_slow(
    make: Callable[[Path], Path], expected: list[str], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = celeba_in_process(capsys, "--model", make(tmp_path), data=faces, cache=tmp_path / "cache")
    assert code == 2
    assert_one_paragraph(shown, *expected)
    assert not (tmp_path / "cache").exists()


def test_without_a_model_the_default_place_and_the_ways_out_are_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import main

    log_to_this_test()
    with pytest.raises(SystemExit, match="2"):
        main(["celeba", "--cache-root", str(tmp_path)])
    shown = capsys.readouterr().err
    place = str(home / "ONNX_models" / "CelebA_CNN_instrumented.onnx")
    assert_one_paragraph(shown, place, "python flows/train.py --dataset celeba", "clusterpaths sample")


def test_a_quota_page_saved_as_annotations_is_named_as_what_it_is(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(faces, tmp_path / "images"))
    (copy / "list_attr_celeba.txt").write_text(QUOTA_PAGE)
    code, shown = celeba_in_process(capsys, data=copy, cache=tmp_path / "cache")
    assert code == 2
    assert_one_paragraph(shown, "list_attr_celeba.txt is not the data but a web page", "quota")


def test_an_empty_folder_without_network_says_what_is_missing_and_where_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tasks import stages

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    monkeypatch.setattr(stages.download, "retries", 0)
    images = tmp_path / "data" / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    code, shown = celeba_in_process(capsys, data=tmp_path / "data", cache=tmp_path / "cache")
    assert code == 2
    assert_one_paragraph(shown, str(tmp_path / "data" / "celeba"), "failed", "--sample")
    assert list(images.iterdir()) == []


def test_a_cache_of_another_model_is_refused_with_both_models(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = onnx.load(SAMPLE_MODEL)
    other.graph.initializer[0].raw_data = other.graph.initializer[0].raw_data[::-1]
    onnx.save(other, tmp_path / "other.onnx")
    assert celeba_in_process(capsys, "--subset", "5", data=faces, cache=tmp_path)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, shown = celeba_in_process(
        capsys, "--subset", "5", "--model", tmp_path / "other.onnx", data=faces, cache=tmp_path
    )
    assert code == 2
    assert_one_paragraph(shown, "model: stored SampleFaces_CNN.onnx", "required other.onnx", "--name", "--refresh")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# disks


def mounted(folder: Path, options: str) -> Path:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2 MB."""
    yield mounted(tmp_path / "disk", "size=2m")
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield mounted(tmp_path / "disk", "size=2m,ro")
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def test_too_small_a_disk_is_told_before_anything_is_written(
    small_disk: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = celeba_in_process(capsys, "--subset", "50", data=faces, cache=small_disk)
    assert code == 2
    assert_one_paragraph(shown, "Not enough room: the activations will take 12.", "2.", "--cache-format zarr")
    assert [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_disk_that_fills_up_while_extracting_ends_with_one_paragraph_and_is_not_tried_again(
    small_disk: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That the run goes on with more room: tests/clusterpaths/test_pipeline_disk.py."""
    monkeypatch.setattr("clusterpaths.extraction.plan.check_room", lambda plan: None)  # another program filled it later
    argv = ("--subset", "64", "--shard-size", "8", "--workers", "1")
    code, shown = celeba_in_process(capsys, *argv, data=faces, cache=small_disk)
    assert code == 2
    assert_one_paragraph(shown, "The disk is full: writing", "run the same command again")
    assert "retry" not in shown.lower()
    assert not list(small_disk.rglob("set_*"))


def test_a_folder_that_may_not_be_written_is_named(
    read_only_disk: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = celeba_in_process(capsys, "--subset", "5", data=faces, cache=read_only_disk)
    assert code == 2
    assert_one_paragraph(shown, f"{read_only_disk / 'CelebA'} cannot be written", "--cache-root")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_results_folder_that_is_a_file_is_named(
    below: str, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("precious")
    code, shown = celeba_in_process(capsys, "--subset", "5", data=faces, cache=tmp_path / "file" / below)
    assert code == 2
    assert_one_paragraph(shown, str(tmp_path / "file"), "cannot be written", "--cache-root")
    assert (tmp_path / "file").read_text() == "precious"

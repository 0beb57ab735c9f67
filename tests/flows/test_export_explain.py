"""The commands export and explain on a set of drawn faces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from clusterpaths.commands.explain import main as explain
from clusterpaths.commands.export import main as export
from clusterpaths.explanation.explain import Explanation
from clusterpaths.sets.published import open_set
from flows.cli import main as clusterpaths
from tests.flows.test_command_line import assert_one_paragraph
from tests.runs import SAMPLE_MODEL, succeed

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def results(prefect_server: None, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CelebA/set_01 of 60 faces."""
    root = tmp_path_factory.mktemp("explained")
    succeed(model=SAMPLE_MODEL, data_root=faces, cache_root=root, subset=60)
    return root


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def face(results: Path) -> Path:
    set_dir = results / "CelebA" / "set_01"
    record = open_set(set_dir).record
    name = open_set(set_dir).files[7].as_py()
    return next(Path(record.data_root).rglob(name))


def finish(main: object, *argv: object) -> None:
    """Run a command that is expected to end with 0."""
    code: object = 0
    try:
        main([str(word) for word in argv])  # type: ignore[operator]
    except SystemExit as exit_:
        code = exit_.code or 0
    assert code == 0


def test_export_writes_one_file_that_onnx_runtime_runs(
    results: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(clusterpaths, "export", "CelebA", "--cache-root", results)
    target = here / "CelebA_set_01_paths.onnx"
    assert f"Wrote {target}" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    logits, path, distances, score = session.run(None, {"input": np.zeros((3, 3, 64, 64), np.float32)})
    assert (logits.shape, path.shape, distances.shape, score.shape) == ((3, 5), (3, 5), (3, 5), (3,))


def test_export_takes_the_model_and_the_file_that_are_named(results: Path, here: Path) -> None:
    shutil.copyfile(SAMPLE_MODEL, here / "moved.onnx")
    options = ["--cache-root", results, "--model", "moved.onnx", "--output", "deep/paths.onnx"]
    finish(export, "CelebA/set_01", *options)
    assert (here / "deep" / "paths.onnx").is_file()


def test_explain_prints_and_draws(results: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = face(results)
    finish(clusterpaths, "explain", image, "--set", "CelebA", "--cache-root", results)
    shown = capsys.readouterr().out
    for words in (
        f"{image.name} · Predicted: ",
        "Path ",
        "How common",
        "OOD score",
        "Otherwise",
        "nearest exemplars",
        "Page: ",
    ):
        assert words in shown
    html = (here / f"explanation_{image.stem}.html").read_text()
    assert html.count("data:image/jpeg") > 5
    assert "Layer by layer" in html


def test_explain_as_json_is_the_record_and_nothing_else(
    results: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(explain, face(results), "--set", "CelebA/set_01", "--cache-root", results, "--json")
    explanation = Explanation.model_validate_json(capsys.readouterr().out)
    assert explanation.set == "CelebA/set_01"
    assert explanation.count >= 1
    assert list(here.iterdir()) == []


def test_images_of_the_set_that_are_gone_leave_placeholders(
    results: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = face(results)
    moved = here / "results"
    shutil.copytree(results, moved)
    document = moved / "CelebA" / "set_01" / "set.json"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"data_root": str(here / "gone")}))
    finish(explain, image, "--set", "CelebA", "--cache-root", moved, "--output", "page.html")
    assert "image not available" in (here / "page.html").read_text()
    assert "--images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["export", "Nothing"], ["There are no sets called 'Nothing'", "CelebA"]),
        (["export", "CelebA/set_09"], ["has no set 'set_09'"]),
        (["export", "CelebA", "--model", "nowhere.onnx"], ["There is no model at"]),
        (["export"], ["NAME is missing"]),
        (["explain", "nowhere.jpg", "--set", "CelebA"], ["nowhere.jpg cannot be read", "No such file"]),
        (["explain", str(SAMPLE_MODEL), "--set", "CelebA"], ["cannot be read", "not an image"]),
        (["explain", "nowhere.jpg"], ["--set"]),
        (["explain", "nowhere.jpg", "--set", "CelebA", "--colour", "red"], ["--colour"]),
    ],
)
def test_a_mistake_ends_with_2_and_one_paragraph(
    argv: list[str], expected: list[str], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        clusterpaths([*argv, "--cache-root", str(results)])
    shown = capsys.readouterr()
    assert_one_paragraph(shown.out + shown.err, *expected)

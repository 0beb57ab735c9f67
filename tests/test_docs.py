"""docs/models.md says what the code does: its Python runs, and what it shows is what comes out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clusterpaths.models.inspect import inspect_model
from clusterpaths.models.reduce import LARGE, Asked, parse_reduce
from clusterpaths.models.sidecar import read_sidecar

DOCS = Path(__file__).resolve().parent.parent / "docs"
MODELS = (DOCS / "models.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced code blocks of this language in docs/models.md, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", MODELS, re.DOTALL | re.MULTILINE)


def run_code(code: str, folder: Path) -> str:
    """What the code prints, run as a program of its own in this folder."""
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the exports of the documentation were made."""
    folder = tmp_path_factory.mktemp("exports")
    run_code(blocks("python")[0], folder)
    return folder


def test_both_exporters_of_the_documentation_give_the_same_layers(exports: Path) -> None:
    newer, older = (inspect_model(exports / name) for name in ("resnet18.onnx", "resnet18_old.onnx"))
    assert [Path(file).name for file in newer.external] == ["resnet18.onnx.data"]
    assert newer.batch is None
    assert older.batch is None
    assert newer.proposed == older.proposed


def test_the_table_of_layers_is_what_inspect_prints(exports: Path) -> None:
    shown = blocks("text")[0]
    printed = inspect_model(exports / "resnet18.onnx").text()
    table = printed[printed.index("\nlayer ") :]
    assert table in shown
    lines = printed[: printed.index("\nlayer ")].splitlines()
    same = [line for line in lines if line.startswith(("inputs", "image", "outputs", "class scores", "preprocessing"))]
    assert len(same) == 5
    assert [line for line in same if line not in shown.splitlines()] == []


def test_every_choice_of_layers_in_the_documentation_can_be_made(exports: Path) -> None:
    rows = re.findall(r"^\| (`.*?) \|", MODELS.partition("## Which layers")[2].partition("## Large")[0], re.MULTILINE)
    asked = [choice for row in rows for choice in re.findall(r"`([^`]+)`", row) if choice != "--layers"]
    assert {"auto", "auto:3", "layer?.1", "conv*"} <= set(asked)
    for choice in [*asked, "auto:3,conv1"]:
        assert inspect_model(exports / "resnet18.onnx", tuple(choice.split(","))).proposed


def test_the_whole_example_prints_what_the_documentation_shows(tmp_path: Path) -> None:
    code, shown = blocks("python")[-1], blocks("text")[-1]
    assert run_code(code, tmp_path) == shown
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


def test_both_dialects_of_preprocessing_in_the_documentation_are_understood(tmp_path: Path) -> None:
    found = []
    for number, text in enumerate(blocks("json")):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        json.loads(text)
        found.append(read_sidecar(file, None))
    hugging_face, torchvision = found
    assert hugging_face is not None
    assert torchvision is not None
    assert (hugging_face.size, hugging_face.shorter, hugging_face.resize) == ((224, 224), 256, "bilinear")
    same = {"scale": torchvision.scale, "crop": "round"}  # the one writes 1/255 out, and cuts an odd margin otherwise
    assert hugging_face.model_copy(update=same) == torchvision
    assert hugging_face.scale == pytest.approx(1 / 255)


def test_every_way_to_reduce_is_in_the_documentation() -> None:
    table = MODELS.partition("## Large layers")[2].partition("## Preprocessing")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    named = [way for row in rows for way in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(Asked.__args__)
    assert [parse_reduce(way, ("conv1",)) for way in named] == [{"conv1": way} for way in named]
    assert f"{LARGE:,} values" in table

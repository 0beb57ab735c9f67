"""Reading a command line: words by position, names of options, help, version, and what is missing."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from flows.cli import main, read_options
from flows.options import ImagesConfig, ReclusterConfig


def read(*argv: str) -> ImagesConfig:
    found = read_options("images", ImagesConfig, list(argv))
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    "argv",
    [
        ("model.onnx", "photos"),
        ("--model", "model.onnx", "--images", "photos"),
        ("--model", "model.onnx", "--data-root", "photos"),
        ("model.onnx", "--images", "photos"),
    ],
)
def test_model_and_images_are_named_by_position_or_by_either_name(argv: tuple[str, ...]) -> None:
    config = read(*argv, "--k", "7")
    assert (config.model, config.data_root, config.k) == (Path("model.onnx"), Path("photos"), 7)


def test_verbose_is_read_beside_the_configuration() -> None:
    assert [
        read_options("images", ImagesConfig, ["m.onnx", "photos", *more]) == (read("m.onnx", "photos"), bool(more))
        for more in ([], ["--verbose"])
    ] == [True, True]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("images",), "MODEL and FOLDER are missing"),
        (("images", "a.onnx", "photos", "more"), "more is no option. Expected MODEL and FOLDER"),
        (
            ("images", "a.onnx", "--k", "7", "photos"),
            "photos is no option. Expected MODEL and FOLDER before the options",
        ),
        (("celeba", "photos"), "photos is no option."),
        (("compare",), "--first is missing; --second is missing"),
        (("explain",), "IMAGE is missing"),
        (("explain", "face.jpg"), "--set is missing"),
        (("export",), "NAME is missing"),
        (("inspect",), "MODEL is missing"),
        (("announce",), "is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_missing_is_named_and_the_exit_code_is_2(
    argv: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(list(argv))
    error = capsys.readouterr().err
    assert error.startswith("\nerror: ")
    assert expected in error


def test_help_has_examples_panels_and_the_way_to_all_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")

    def shown(flag: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            main(["images", flag])
        return capsys.readouterr().out

    brief, full = shown("--help"), shown("--help-all")
    assert brief.startswith("Usage: clusterpaths images [MODEL] [FOLDER] [OPTIONS]")
    assert brief.index("clusterpaths images resnet18.onnx photos/") < brief.index("Input")
    order = [brief.index(f"─ {panel} ─") for panel in ("Input", "Model", "Clustering", "Output", "Speed", "Prefect")]
    assert order == sorted(order)
    assert "--images --data-root" in brief
    assert "clusterpaths images --help-all" in brief
    assert "--crop-from" not in brief
    assert "--crop-from" in full
    assert "more options" not in full


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"clusterpaths {version('clusterpaths')}"


def test_the_recluster_flow_takes_every_option_of_its_command() -> None:
    from flows.recluster import recluster

    assert list(inspect.signature(recluster.fn).parameters) == list(ReclusterConfig.model_fields)

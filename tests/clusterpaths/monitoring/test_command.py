"""`clusterpaths monitor` from a shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clusterpaths.commands.test_run import shown_by
from tests.watched import Incoming


def test_one_window_by_hand_is_printed_as_text_or_json_and_nothing_is_written(
    cache: Path, incoming: Incoming, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--reference", "Faces/set_01", "--cache-root", cache, "--images", incoming(range(150), upside_down=True))
    before = sorted(cache.rglob("*"))
    code, out, err = shown_by("monitor", *options, capsys=capsys)
    assert (code, err) == (0, "")
    assert out.startswith("Drifted, from fc1 on: 150 images are not as in Faces/set_01 (p < 0.001).\n")
    assert "The first layer that differs is fc1." in out
    assert "clusters of fc1 *" in out
    code, out, err = shown_by("monitor", *options, "--json", "--exit-code", capsys=capsys)
    document = json.loads(out)
    assert (code, err, document["drifted"], next(iter(document))) == (1, "", True, "drifted")
    assert {test["kind"] for test in document["verdict"]["tests"]} >= {"clusters", "paths", "predictions", "OOD scores"}
    assert all(0 < test["p_value"] <= test["adjusted_p_value"] <= 1 for test in document["verdict"]["tests"])
    assert sorted(cache.rglob("*")) == before


def test_a_series_prints_a_line_for_each_new_window(
    cache: Path, incoming: Incoming, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--reference",
        "Faces",
        "--cache-root",
        cache,
        "--images",
        incoming(range(50)),
        "--series",
        "s",
        "--window",
        "20",
    )
    code, out, err = shown_by("monitor", *options, "--exit-code", capsys=capsys)
    assert (code, len(out.splitlines())) == (0, 3)
    assert out.splitlines()[-1] == "2 new windows in the series s."
    assert err == "10 of 20 images for the next window\n"
    assert shown_by("monitor", *options, capsys=capsys)[1] == "No new window in the series s.\n"
    more = incoming(range(50, 100), start=1000)
    code, out, _ = shown_by("monitor", *options[:-6], "--images", more, *options[-4:], "--json", capsys=capsys)
    assert [json.loads(line)["number"] for line in out.splitlines()] == [3, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--reference is missing"),
        (("--reference", "Faces"), "give either --images, a directory of new images, or --logs, a prediction log"),
        (("--reference", "Faces", "--images", "a", "--logs", "b"), "give either --images"),
        (("--reference", "Faces", "--images", "a", "--series", "s"), "--series needs the size of its windows"),
        (("--reference", "Faces", "--images", "a", "--window", "20"), "--window is of a series"),
        (
            ("--reference", "Faces", "--images", "a", "--series", "s", "--window", "1 week"),
            "--window should be a number of images such as 200, or a time such as 15m, 1h or 1d; got '1 week'",
        ),
        (("--reference", "Faces", "--images", "a", "--alpha", "2"), "--alpha should be less than 1, got"),
        (
            ("--reference", "Faces", "--images", "a", "--series", "s", "--window", "20", "--horizon", "1000000000"),
            "takes too many random draws; at least 1e-06 is expected",
        ),
        (("--reference", "Faces", "--images", "a", "--grace", "soon"), "--grace should be a number with s, m, h or d"),
    ],
)
def test_options_that_do_not_fit_are_one_paragraph(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = shown_by("monitor", *options, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("\nerror: ")
    assert message in err
    assert err.count("\n") == 2

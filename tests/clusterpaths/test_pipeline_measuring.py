"""What a run measures by itself: whether the input is right, and what the paths are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.config import RunConfig
from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.preprocessing.check import CHECK, parse_check
from clusterpaths.preprocessing.prepare import preset_preprocessing
from clusterpaths.sets.published import open_set
from tests.runs import SAMPLE_MODEL, Run, published, run_pipeline
from tests.wrapped_model import SIZE, wrap


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> dict[str, Any]:
    """200 faces with their hair colours."""
    return {
        "model": SAMPLE_MODEL, "data_root": photos.parent, "cache_root": tmp_path, "name": "faces", "layers": "fc1,fc2",
        "subset": 200,
    }  # fmt: skip


def run(**options: Any) -> Run:
    return run_pipeline(RunConfig(**{"evaluate": False, "check_preprocessing": False} | options))


def test_a_run_measures_its_paths_once(options: dict[str, Any]) -> None:
    made = run(**options, evaluate=True)
    evaluation = read_evaluation(open_set(made.folder))
    assert evaluation is not None
    assert evaluation.alignment is not None
    assert (evaluation.num_fit, evaluation.num_eval) == (160, 40)
    assert evaluation.alignment.daf.value > evaluation.alignment.majority.value
    assert any("Decision alignment" in line for line in made.log)
    assert 'id="worth"' in (made.folder / "report.html").read_text()
    again = run(**options, evaluate=True)
    assert (again.path, again.batches) == (made.path, 0)


def test_a_shard_that_is_found_damaged_while_measuring_is_made_again(options: dict[str, Any], tmp_path: Path) -> None:
    clean = run(**options, evaluate=True)
    expected = (clean.folder / "metrics.json").read_bytes()
    (clean.folder / "metrics.json").unlink()
    damaged = tmp_path / "faces" / "fc1" / "7.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 0x40
    damaged.write_bytes(content)
    made = run(**options, evaluate=True)
    assert made.path == clean.path
    assert (made.folder / "metrics.json").read_bytes() == expected
    assert any(line.startswith("WARNING") and "fc1" in line for line in made.log)


def test_a_wrong_preprocessing_is_warned_of_in_log_and_report(options: dict[str, Any], tmp_path: Path) -> None:
    options["model"] = wrap(tmp_path / "true_is_raw_bgr.onnx", preset_preprocessing("raw", SIZE, "BGR"))
    made = run(**options, check_preprocessing=True)
    warnings = [line for line in made.log if line.startswith("WARNING")]
    assert any("use --preprocessing raw --channels BGR, or --preprocessing auto" in line for line in warnings)
    assert published(made).preprocessing.name == "imagenet"  # warned of, not overruled
    check = parse_check((made.folder / CHECK).read_bytes())
    assert check is not None
    assert check.alarming
    assert "The preprocessing is most likely wrong" in (made.folder / "report.html").read_text()
    again = run(**options, check_preprocessing=True)
    assert again.batches == 0  # the verdict is kept with the cache
    assert [line for line in again.log if line.startswith("WARNING")] == warnings


def test_the_right_preprocessing_raises_no_alarm(options: dict[str, Any]) -> None:
    made = run(**options, check_preprocessing=True)
    assert [line for line in made.log if line.startswith("WARNING")] == []
    assert any("no known preset is clearly better" in line for line in made.log)
    assert "most likely wrong" not in (made.folder / "report.html").read_text()


def test_auto_takes_the_preprocessing_that_is_clearly_better(options: dict[str, Any], tmp_path: Path) -> None:
    true = preset_preprocessing("raw", SIZE, "BGR")
    model = wrap(tmp_path / "true_is_raw_bgr.onnx", true)
    auto = run(**options | {"model": model}, check_preprocessing=True, preprocessing="auto")
    assert published(auto).preprocessing == true
    assert "most likely wrong" not in (auto.folder / "report.html").read_text()
    by_name = run(
        **options | {"model": model, "name": "by_name"},
        check_preprocessing=True, preprocessing="raw", channels="BGR",
    )  # fmt: skip
    assert [line for line in by_name.log if line.startswith("WARNING")] == []
    for layer in ("fc1", "fc2"):
        one, other = (np.load(each.folder / "centroids.npz")[layer] for each in (auto, by_name))
        assert np.array_equal(one, other)


def test_five_examples_are_not_checked(options: dict[str, Any]) -> None:
    made = run(**options | {"subset": 5}, check_preprocessing=True)
    assert any("5 examples are too few" in line for line in made.log)
    assert not (made.folder / CHECK).exists()


def test_a_plan_with_auto_leaves_nothing_behind(options: dict[str, Any], tmp_path: Path) -> None:
    made = run(**options, check_preprocessing=True, preprocessing="auto", plan=True)
    assert made.path is None
    assert list((tmp_path / "faces").glob("*.json")) == []


def test_auto_without_the_check_is_refused() -> None:
    with pytest.raises(ValueError, match="--preprocessing auto uses the preprocessing check"):
        RunConfig(preprocessing="auto", check_preprocessing=False)

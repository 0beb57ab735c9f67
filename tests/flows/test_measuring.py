"""What a run measures by itself: whether the input is right, and what the paths are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.preprocessing.check import CHECK, parse_check
from clusterpaths.preprocessing.prepare import preset_preprocessing
from clusterpaths.sets.published import open_set
from tests.runs import SAMPLE_MODEL, Run, published, run_celeba, succeed
from tests.wrapped_model import SIZE, wrap

pytestmark = pytest.mark.usefixtures("prefect_server")


def artifacts_of(run: Run) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.flow_run_id]))
        )
    return {artifact.key: artifact for artifact in found if artifact.key}


def path_of(run: Run) -> Path:
    assert run.path is not None
    return run.path


@pytest.fixture
def options(faces: Path, tmp_path: Path) -> dict[str, Any]:
    return {"model": SAMPLE_MODEL, "data_root": faces, "cache_root": tmp_path, "name": "faces", "layers": "fc1,fc2"}


def test_a_run_measures_its_paths_once(options: dict[str, Any]) -> None:
    run = succeed(**options, evaluate=True)
    evaluation = read_evaluation(open_set(path_of(run)))
    assert evaluation is not None
    assert evaluation.alignment is not None
    assert (evaluation.num_fit, evaluation.num_eval) == (240, 60)
    assert evaluation.alignment.daf.value > evaluation.alignment.majority.value
    assert any("Decision alignment" in line for line in run.log)
    rows = json.loads(str(artifacts_of(run)["path-metrics"].data))
    assert {round(evaluation.alignment.daf.value, 4)} <= {row["value"] for row in rows}
    assert 'id="worth"' in (path_of(run) / "report.html").read_text()
    again = succeed(**options, evaluate=True)
    assert (again.path, again.batches) == (run.path, 0)


def test_a_shard_that_is_found_damaged_while_measuring_is_made_again(options: dict[str, Any], tmp_path: Path) -> None:
    clean = succeed(**options, evaluate=True)
    expected = (path_of(clean) / "metrics.json").read_bytes()
    (path_of(clean) / "metrics.json").unlink()
    damaged = tmp_path / "faces" / "fc1" / "7.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 0x40
    damaged.write_bytes(content)
    run = succeed(**options, evaluate=True)
    assert run.path == clean.path
    assert (path_of(run) / "metrics.json").read_bytes() == expected
    assert any(line.startswith("WARNING") and "fc1" in line for line in run.log)


def test_a_wrong_preprocessing_is_warned_of_in_log_artifact_and_report(options: dict[str, Any], tmp_path: Path) -> None:
    options["model"] = wrap(tmp_path / "true_is_raw_bgr.onnx", preset_preprocessing("raw", SIZE, "BGR"))
    run = succeed(**options, check_preprocessing=True)
    warnings = [line for line in run.log if line.startswith("WARNING")]
    assert any("use --preprocessing raw --channels BGR, or --preprocessing auto" in line for line in warnings)
    assert published(run).preprocessing.name == "imagenet"  # warned of, not overruled
    check = parse_check((path_of(run) / CHECK).read_bytes())
    assert check is not None
    assert check.alarming
    page = str(artifacts_of(run)["preprocessing"].data)
    assert page.startswith("# The preprocessing is most likely wrong")
    assert "| raw BGR | 9" in page
    assert "The preprocessing is most likely wrong" in (path_of(run) / "report.html").read_text()
    again = succeed(**options, check_preprocessing=True)
    assert again.batches == 0  # the verdict is kept with the cache
    assert [line for line in again.log if line.startswith("WARNING")] == warnings


def test_the_right_preprocessing_raises_no_alarm(options: dict[str, Any]) -> None:
    run = succeed(**options, check_preprocessing=True)
    assert [line for line in run.log if line.startswith("WARNING")] == []
    assert any("no known preset is clearly better" in line for line in run.log)
    assert "most likely wrong" not in (path_of(run) / "report.html").read_text()


def test_auto_takes_the_preprocessing_that_is_clearly_better(options: dict[str, Any], tmp_path: Path) -> None:
    true = preset_preprocessing("raw", SIZE, "BGR")
    model = wrap(tmp_path / "true_is_raw_bgr.onnx", true)
    auto = succeed(**options | {"model": model}, check_preprocessing=True, preprocessing="auto")
    assert published(auto).preprocessing == true
    assert "most likely wrong" not in (path_of(auto) / "report.html").read_text()
    by_name = succeed(
        **options | {"model": model, "name": "by_name"},
        check_preprocessing=True, preprocessing="raw", channels="BGR",
    )  # fmt: skip
    assert [line for line in by_name.log if line.startswith("WARNING")] == []
    for layer in ("fc1", "fc2"):
        one, other = (np.load(path_of(run) / "centroids.npz")[layer] for run in (auto, by_name))
        assert np.array_equal(one, other)


def test_five_examples_are_not_checked(options: dict[str, Any]) -> None:
    run = succeed(**options, check_preprocessing=True, subset=5)
    assert any("5 examples are too few" in line for line in run.log)
    assert not (path_of(run) / CHECK).exists()


def test_a_plan_with_auto_leaves_nothing_behind(options: dict[str, Any], tmp_path: Path) -> None:
    run = run_celeba(**options, check_preprocessing=True, preprocessing="auto", plan=True)
    assert run.state.is_completed()
    assert list((tmp_path / "faces").glob("*.json")) == []


def test_auto_without_the_check_is_refused() -> None:
    from clusterpaths.config import RunConfig

    with pytest.raises(ValueError, match="--preprocessing auto uses the preprocessing check"):
        RunConfig(preprocessing="auto", check_preprocessing=False)

"""What a run measures by itself, as Prefect shows it; the rest is tests/clusterpaths/test_pipeline_measuring.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.preprocessing.prepare import preset_preprocessing
from clusterpaths.sets.published import open_set
from tests.runs import Run, succeed
from tests.wrapped_model import SIZE, wrap

pytestmark = pytest.mark.usefixtures("prefect_server")


def artifacts_of(run: Run) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.flow_run_id]))
        )
    return {artifact.key: artifact for artifact in found if artifact.key}


def test_metrics_and_a_wrong_preprocessing_are_artifacts_and_in_the_run_s_log(faces: Path, tmp_path: Path) -> None:
    run = succeed(
        model=wrap(tmp_path / "true_is_raw_bgr.onnx", preset_preprocessing("raw", SIZE, "BGR")), data_root=faces,
        cache_root=tmp_path, layers="fc1,fc2", evaluate=True, check_preprocessing=True,
    )  # fmt: skip
    evaluation = read_evaluation(open_set(run.folder))
    assert evaluation is not None
    assert evaluation.alignment is not None
    artifacts = artifacts_of(run)
    rows = json.loads(str(artifacts["path-metrics"].data))
    assert {round(evaluation.alignment.daf.value, 4)} <= {row["value"] for row in rows}
    page = str(artifacts["preprocessing"].data)
    assert page.startswith("# The preprocessing is most likely wrong")
    assert "| raw BGR | 9" in page
    assert any("Decision alignment" in line for line in run.log)
    assert any(line.startswith("WARNING") and "use --preprocessing raw --channels BGR" in line for line in run.log)

"""What set_up.py says of deployments whose model, data or sets are not there yet."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.set_up import name_of, unready
from tests.runs import PROJECT, SAMPLE_MODEL

ENTRIES: dict[str, dict[str, Any]] = {
    name_of(entry): entry for entry in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Default directories with the sample model only."""
    (tmp_path / "ONNX_models").mkdir()
    shutil.copyfile(SAMPLE_MODEL, tmp_path / "ONNX_models" / SAMPLE_MODEL.name)
    monkeypatch.setenv("CLUSTERPATHS_HOME", str(tmp_path))
    return tmp_path


def test_in_an_empty_home_only_the_sample_is_ready(home: Path) -> None:
    reasons = {name: unready(entry) for name, entry in ENTRIES.items()}
    assert reasons["celeba/sample"] == ""
    assert reasons["celeba/full"].startswith(f"There is no model at {home}/ONNX_models/CelebA_CNN_instrumented.onnx")
    assert reasons["celeba/quick"] == reasons["celeba/full"]
    assert reasons["celeba/on-new-model"] == f"CelebA is not in {home}/data/celeba: a run downloads it."
    assert reasons["images/folder"].startswith("There is no model at ONNX_models/model.onnx")
    assert reasons["recluster/nightly"].startswith(f"There are no sets called 'CelebA' in {home}/activation_cache")
    assert all(len(reason) < 200 for reason in reasons.values())


def test_with_model_and_data_the_runs_of_celeba_are_ready(home: Path) -> None:
    shutil.copyfile(SAMPLE_MODEL, home / "ONNX_models" / "CelebA_CNN.onnx")
    assert unready(ENTRIES["celeba/full"]).startswith("CelebA is not in")
    (home / "data" / "celeba").mkdir(parents=True)
    assert unready(ENTRIES["celeba/full"]) == unready(ENTRIES["celeba/on-new-model"]) == ""

"""Drawn faces for tests of the flows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clusterpaths.datasets.drawn_faces.draw import write_faces
from tests.runs import SAMPLE_MODEL
from tests.watched import cache, config, incoming, made, published  # noqa: F401 - fixtures of the monitor


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """celeba/ with 300 drawn faces and their annotations; never to be written to."""
    return write_faces(tmp_path_factory.mktemp("faces"), 300, seed=11)


@pytest.fixture(scope="session")
def project_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the sample model and no data yet."""
    home = tmp_path_factory.mktemp("home")
    (home / "ONNX_models").mkdir()
    shutil.copyfile(SAMPLE_MODEL, home / "ONNX_models" / SAMPLE_MODEL.name)
    return home


@pytest.fixture
def home(project_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default roots of this test; drawn sample images stay from test to test."""
    monkeypatch.setenv("CLUSTERPATHS_HOME", str(project_home))
    return project_home

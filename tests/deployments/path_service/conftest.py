"""What tests of the path service share: a set of drawn faces, its path model, and a service with a log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from tests.path_service import Exported, Running, export, running
from tests.runs import SAMPLE_MODEL


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """203 drawn faces with their hair colours."""
    return write_faces(tmp_path_factory.mktemp("photos"), 203, seed=5) / "img_align_celeba"


@pytest.fixture(scope="session")
def exported(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A set of the sample's model, and its path model."""
    folder = tmp_path_factory.mktemp("exported")
    config = RunConfig(
        model=SAMPLE_MODEL, data_root=photos.parent, cache_root=folder, name="Faces", subset=200, evaluate=False
    )
    return export(config, photos, folder / "paths.onnx")


@pytest.fixture(scope="session")
def service(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With a log; not to be stopped."""
    folder = tmp_path_factory.mktemp("service")
    with running(
        folder / "out", exported.file, "--log-dir", folder / "log", "--log-seconds", "0.1", "--max-upload-mb", "1"
    ) as one:
        yield one

"""One run of `cp.run` that the tests of this directory look at."""

from __future__ import annotations

from pathlib import Path

import pytest

import clusterpaths as cp
from clusterpaths.sets.published import PublishedSet
from tests.clusterpaths.conftest import write_image


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of 24 images in two classes; not to be changed."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(24):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(exist_ok=True)
        write_image(folder / f"{number:02d}.jpg", number)
    return root


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results' directory of `ran`."""
    return tmp_path_factory.mktemp("results") / "activation_cache"


@pytest.fixture(scope="session")
def ran(cnn: Path, pictures: Path, results: Path) -> PublishedSet:
    """The published set of the tiny CNN and the 24 images."""
    return cp.run(model=cnn, data=pictures, k=3, cache_root=results, name="Pets", preprocessing="unit", layers="auto:2")

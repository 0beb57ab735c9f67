"""A set of drawn faces, and new ones to watch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.sets.published import PublishedSet, open_set
from tests.runs import SAMPLE_MODEL, run_pipeline

NEW = 160
Incoming = Callable[..., Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/Faces/set_01 of 300 drawn faces, and new/ with 160 others; never to be written to."""
    root = tmp_path_factory.mktemp("watched")
    write_faces(root / "reference", 300, seed=1)
    run_pipeline(
        RunConfig(
            model=SAMPLE_MODEL, data_root=root / "reference", cache_root=str(root / "cache"), name="Faces", layers=("fc1", "fc2"),
            evaluate=False, check_preprocessing=False,
        )
    )  # fmt: skip
    write_faces(root / "drawn", NEW, seed=2)
    (root / "new").mkdir()
    for file in (root / "drawn" / "celeba" / "img_align_celeba").iterdir():
        shutil.copyfile(file, root / "new" / file.name)
    return root


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    """A copy of the results, to be written to."""
    return Path(shutil.copytree(made / "cache", tmp_path / "cache"))


@pytest.fixture
def published(cache: Path) -> PublishedSet:
    """The set of the copy."""
    return open_set(cache / "Faces" / "set_01")


@pytest.fixture
def incoming(made: Path, tmp_path: Path) -> Incoming:
    """Puts the new faces with these numbers into a directory, with these times in seconds; upside down if asked for."""

    def put(
        numbers: Iterable[int], start: float = 0, step: float = 1, *, name: str = "in", upside_down: bool = False
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        files = sorted((made / "new").iterdir())
        for place, number in enumerate(numbers):
            target = folder / files[number].name
            if upside_down:
                with Image.open(files[number]) as image:
                    image.transpose(Image.Transpose.ROTATE_180).save(target, quality=95)
            else:
                shutil.copyfile(files[number], target)
            os.utime(target, (start + place * step,) * 2)
        return folder

    return put


@pytest.fixture
def config(cache: Path) -> Callable[..., MonitorConfig]:
    """A configuration against the copied set."""

    def make(**options: object) -> MonitorConfig:
        return MonitorConfig.model_validate({"reference": "Faces", "cache_root": str(cache), "workers": 2} | options)

    return make

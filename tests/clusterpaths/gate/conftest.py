"""Sets that a gate compares: the sample model, one that was trained a little further, and one that confuses two classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.gate.run import publish_candidate
from clusterpaths.pipeline import run
from clusterpaths.sets.published import PublishedSet, open_set
from tests.runs import SAMPLE_MODEL

FACES = 260


def write_variant(target: Path, *, noise: float = 0.0, exchange: tuple[int, int] | None = None, seed: int = 0) -> Path:
    """The sample model with noise on its weights, in standard deviations of each tensor, or with two classes exchanged."""
    model, rng = onnx.load(SAMPLE_MODEL), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.ndim >= 2:
            values += (noise * values.std() * rng.standard_normal(values.shape)).astype(values.dtype)
        if exchange and 5 in values.shape:
            axis = values.shape.index(5)
            order = list(range(5))
            order[exchange[0]], order[exchange[1]] = exchange[1], exchange[0]
            values = np.take(values, order, axis)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return target


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """better.onnx and worse.onnx."""
    folder = tmp_path_factory.mktemp("candidates")
    write_variant(folder / "better.onnx", noise=0.01)
    write_variant(folder / "worse.onnx", exchange=(1, 3))
    return folder


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """celeba/ with drawn faces; not to be changed."""
    return write_faces(tmp_path_factory.mktemp("people"), FACES, seed=21).parent


@pytest.fixture(scope="session")
def _first(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("first")
    run(RunConfig(model=SAMPLE_MODEL, data_root=people, cache_root=str(root), name="Hair", causal=False, k="4,fc2=5"))
    return root


@pytest.fixture
def results(_first: Path, tmp_path: Path) -> Path:
    """A results directory of this test's own, with the reference Hair/set_01."""
    return Path(shutil.copytree(_first, tmp_path / "results"))


@pytest.fixture(scope="session")
def _second(_first: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(_first, tmp_path_factory.mktemp("second") / "results"))
    publish_candidate(open_set(root / "Hair" / "set_01"), models / "better.onnx", name="Better")
    return root


@pytest.fixture
def better(_second: Path, results: Path) -> PublishedSet:
    """Better/set_01 in `results`: the set of better.onnx, with the settings of Hair/set_01."""
    return open_set(shutil.copytree(_second / "Better", results / "Better") / "set_01")

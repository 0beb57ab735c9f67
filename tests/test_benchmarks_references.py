"""The references that the flow is compared with do what they claim: same images, same preprocessing, same activations."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from clusterpaths.datasets.decode import open_rgb
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.preprocessing.prepare import fit, normalise, preset_preprocessing
from tests.runs import PROJECT, SAMPLE_MODEL, SHAPES

IMAGES = 70  # more than two batches of 32, and than one of 64


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), IMAGES) / "img_align_celeba"


@pytest.fixture(scope="module")
def inputs(images: Path) -> Any:
    """As the library prepares them, (n, 3, 64, 64)."""
    preprocessing = preset_preprocessing("imagenet", (64, 64))
    return normalise(np.stack([fit(open_rgb(file), preprocessing) for file in sorted(images.iterdir())]), preprocessing)


@pytest.fixture
def tapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    path: Path = importlib.import_module("machine").tap_activations(SAMPLE_MODEL, tmp_path / "tapped.onnx")
    return path


def test_the_bare_work_runs_all_images_and_its_checksum_is_that_of_their_logits(
    tapped: Path, images: Path, inputs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = importlib.import_module("bare")
    told = []
    for _ in range(2):
        bare.main(tapped, images)
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    count, checksum = told[0].split()
    assert int(count) == IMAGES
    logits = onnxruntime.InferenceSession(str(tapped)).run(["logits"], {"input": inputs})[0]
    assert abs(logits.sum()) > 1
    assert float(checksum) == pytest.approx(logits.sum(), rel=1e-4)


def test_the_bare_work_computes_every_tap(tapped: Path) -> None:
    session = importlib.import_module("bare").one_thread_session(tapped)
    assert [output.name for output in session.get_outputs()] == [
        "logits",
        "relu",
        "relu_1",
        "relu_2",
        "relu_3",
        "relu_4",
    ]


def test_the_torch_network_has_the_activations_of_the_onnx_file(tapped: Path, images: Path, inputs: Any) -> None:
    import torch

    dataloader = importlib.import_module("dataloader")
    network = dataloader.load_network(tapped)
    activations, data = dataloader.hook_layers(network), dataloader.Images(images)
    assert len(data) == IMAGES
    batch = torch.stack([data[index] for index in range(IMAGES)])
    assert np.abs(batch.numpy() - inputs).max() < 1e-4
    with torch.inference_mode():
        logits = network(batch)
    outputs = onnxruntime.InferenceSession(str(tapped)).run(None, {"input": inputs})
    assert np.abs(logits.numpy() - outputs[0]).max() < 1e-4
    assert {layer: values.shape[1:] for layer, values in activations.items()} == SHAPES
    for values, expected in zip(activations.values(), outputs[1:], strict=True):
        assert np.abs(values - expected).max() < 1e-4

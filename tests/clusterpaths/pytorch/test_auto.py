"""auto on a PyTorch model takes the layers that it takes on the model's ONNX file."""

from __future__ import annotations

from typing import Any

import pytest

from clusterpaths.errors import ModelError
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.pytorch import layers, outputs
from clusterpaths.pytorch.network import Network
from tests.architectures import ARCHITECTURES, SIZES, build, exported
from tests.clusterpaths.pytorch.conftest import make_model

torch = pytest.importorskip("torch")


def auto(model: Any, x: Any, asked: str = "auto") -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the layers."""
    network = Network(model)
    seen, output = network.look(x)
    found = outputs.find_outputs(output, len(x), None, None, ((), ""))
    chosen = layers.choose(network, seen, len(x), (asked,), outputs.shape_of(found, output))
    return [(tap.layer, tap.shape) for tap in layers.make_taps(chosen, seen, network, "none")]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_as_on_the_file(name: str) -> None:
    size = (SIZES[name], SIZES[name])
    record = instrument_model(check_model(exported(name, "dynamo").path, ("auto",), size), size, "none")
    ours = auto(build(name), torch.zeros(2, 3, *size))
    assert [shape for _, shape in ours] == [tap.shape for tap in record.taps]
    if name == "alexnet":  # a plain chain: the file has no names but conv1 …, these are the modules of the activations
        assert [layer for layer, _ in ours] == [
            "features.1", "features.4", "features.9", "features.11", "classifier.2", "classifier.5",
        ]  # fmt: skip
    else:
        assert all(layer.endswith(tap.layer) for (layer, _), tap in zip(ours, record.taps, strict=True))


def test_a_number_of_layers() -> None:
    x = torch.zeros(2, 3, 16, 16)
    assert [name for name, _ in auto(make_model(), x)] == ["blocks.0", "blocks.1", "pool"]
    assert [name for name, _ in auto(make_model(), x, "auto:2")] == ["blocks.1", "pool"]


def test_a_model_without_layers() -> None:
    with pytest.raises(ModelError, match="has no layer that auto could choose"):
        auto(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), torch.zeros(2, 3, 2, 2))


def test_the_input_of_a_module_is_a_layer() -> None:
    x = torch.zeros(2, 3, 16, 16)
    assert auto(make_model(), x, "head:input") == [("head_input", (8,))]

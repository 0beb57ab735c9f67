"""Weights are mapped where they lie, beside the model or in its own file: a model of gigabytes is not copied to be tapped."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.errors import ModelError
from clusterpaths.models.check import check_model
from clusterpaths.models.session import TapSession

NAME = "wide.data"
LAYERS = 7
WIDTH = 4096
SIDE = 8

# A process of its own, so that the peak is that of this work alone. The graphs that sessions are made of are measured.
LOOK = """
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime

graphs = []

class Session(onnxruntime.InferenceSession):
    def __init__(self, graph, *rest, **options):
        graphs.append(len(graph))
        super().__init__(graph, *rest, **options)

onnxruntime.InferenceSession = Session
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession

def peak():
    if sys.platform != "linux":
        return 0
    # ru_maxrss begins with that of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)

start = peak()
record = instrument_model(check_model(Path(sys.argv[1]), layers=("fc*",)), (8, 8))
instrumented = peak()
session = TapSession(record, dict.fromkeys(record.layers, "float16"))
outputs = session.run(np.ones((4, 3, 8, 8), np.float32))
first = {layer: rows[-1, :2].tolist() for layer, rows in outputs.layers.items()}
print(json.dumps({"start": start, "instrumented": instrumented, "run": peak(), "graphs": graphs, "first": first}))
"""


def write_wide(path: Path, *, lengths: bool = True, width: int = WIDTH) -> int:
    """fc1 … fc7 of `width` units, their weights in one file that is mostly a hole; returns its bytes (406 MB).

    Of a layer's weights only the first is not 0: it is N + 1 for fcN, whose unit 0 is then (N + 1)! for a white image.
    They differ, as ONNX Runtime keeps equal packed weights once.
    """
    shapes = [(3 * SIDE * SIDE, width), *[(width, width)] * (LAYERS - 1)]
    initializers, offset = [], 0
    with (path.parent / NAME).open("wb") as file:
        for number, shape in enumerate(shapes, 1):
            length = 4 * shape[0] * shape[1]
            tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": NAME, "offset": offset} | ({"length": length} if lengths else {})
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            initializers.append(tensor)
            file.seek(offset)
            file.write(np.float32(number + 1).tobytes())
            offset += length
        file.truncate(offset)
    initializers.append(numpy_helper.from_array(np.zeros((width, 5), np.float32), "last"))
    nodes, values = [helper.make_node("Flatten", ["image"], ["flat"])], "flat"
    for number in range(1, LAYERS + 1):
        nodes.append(helper.make_node("MatMul", [values, f"w{number}"], [f"product{number}"]))
        nodes.append(helper.make_node("Relu", [f"product{number}"], [f"relu{number}"]))
        values = f"relu{number}"
    nodes.append(helper.make_node("MatMul", [values, "last"], ["logits"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph(nodes, "wide", [image], [logits], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return offset


@pytest.fixture(scope="module", params=["beside", "inside"])
def looked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a look at the model printed, with the bytes of its weights and the files that lie there afterwards."""
    folder = tmp_path_factory.mktemp("wide")
    weights = write_wide(folder / "wide.onnx")
    if request.param == "inside":
        model = onnx.load(folder / "wide.onnx")
        (folder / "wide.onnx").write_bytes(model.SerializeToString())
        del model
        (folder / NAME).unlink()
    ended = subprocess.run(
        [sys.executable, "-c", LOOK, str(folder / "wide.onnx")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    return {**json.loads(ended.stdout), "weights": weights, "files": files}


def test_weights_are_read_from_the_file_that_is_referenced(looked: dict[str, Any]) -> None:
    assert looked["first"] == {f"fc{number}": [math.factorial(number + 1), 0.0] for number in range(1, LAYERS + 1)}
    assert set(looked["files"]) <= {"wide.onnx", NAME}
    assert looked["weights"] <= sum(looked["files"].values()) < looked["weights"] + 200_000


def test_the_tapped_graph_holds_no_weights(looked: dict[str, Any]) -> None:
    assert len(looked["graphs"]) >= 2  # for the shapes, and for the run
    assert max(looked["graphs"]) < 200_000  # the model's own last layer is 82 kB of it


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("step", ["instrumented", "run"])
def test_weights_are_not_in_memory_twice(looked: dict[str, Any], step: str) -> None:
    """ONNX Runtime packs a layer's weights anew for its matrix products and lets go of the file's pages."""
    held = (looked[step] - looked["start"]) / looked["weights"]
    print(f"{step}: peak {held:.2f} times the weights of {looked['weights'] / 1e6:.0f} MB above the start")
    assert held < 1.4


def test_a_weights_file_that_is_too_short_for_tensors_without_a_length_is_told(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    weights = write_wide(path, lengths=False, width=16)
    record = check_model(path, layers=("fc*",))
    assert TapSession(record).run_blank().logits is not None
    with (tmp_path / NAME).open("r+b") as file:
        file.truncate(weights - 4)
    with pytest.raises(ModelError, match=r"cannot load .*wide\.onnx|too short"):
        TapSession(check_model(path, layers=("fc*",)))


def test_a_pointer_in_place_of_the_weights_is_told_with_both_sizes(tmp_path: Path) -> None:
    """What a clone without Git LFS leaves there."""
    path = tmp_path / "wide.onnx"
    weights = write_wide(path, width=16)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {weights}\n"
    (tmp_path / NAME).write_text(pointer)
    with pytest.raises(ModelError, match=rf"too short: it has {len(pointer)} bytes, the model needs {weights:,}\."):
        check_model(path)

"""Files of a kilobyte that want gigabytes, or never end: refused from what they declare, or in a process with limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.errors import ModelError
from clusterpaths.models import shapes
from clusterpaths.models.check import check_model
from clusterpaths.watching.arrivals import Arrival, Rejected, examine_apart
from tests.clusterpaths.conftest import write_cnn

MANY = 1_000_000_000  # float32: 4 GB
LIMIT = 1 << 30
linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")


def constant(name: str, values: Any, dtype: Any = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def with_bomb(path: Path, nodes: list[onnx.NodeProto], initializers: list[TensorProto]) -> Path:
    """A small CNN that adds `bomb`, a scalar, to its logits."""
    model = onnx.load(str(write_cnn(path)))
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    model.graph.initializer.extend(initializers)
    model.graph.node.extend([*nodes, helper.make_node("Add", ["before", "bomb"], [output])])
    path.write_bytes(model.SerializeToString())
    assert path.stat().st_size < 25_000
    return path


def summed(large: str) -> onnx.NodeProto:
    return helper.make_node("ReduceSum", [large], ["bomb"], keepdims=0)


def filled(path: Path) -> Path:
    value = constant("v", [1], np.float32)
    return with_bomb(
        path, [helper.make_node("ConstantOfShape", ["n"], ["big"], value=value), summed("big")], [constant("n", [MANY])]
    )


def expanded(path: Path) -> Path:
    """From a value of the image: nothing folds it."""
    nodes = [
        helper.make_node("ReduceSum", ["before"], ["sum"], keepdims=0),
        helper.make_node("Expand", ["sum", "n"], ["big"]),
        summed("big"),
    ]
    return with_bomb(path, nodes, [constant("n", [MANY])])


def tiled(path: Path) -> Path:
    return with_bomb(
        path,
        [helper.make_node("Tile", ["one", "n"], ["big"]), summed("big")],
        [constant("one", [1], np.float32), constant("n", [MANY])],
    )


def doubled(path: Path) -> Path:
    """Each Concat has twice what the one before it has."""
    nodes = [helper.make_node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(30)]
    return with_bomb(path, [*nodes, summed("d30")], [constant("d0", [1], np.float32)])


def looped(path: Path) -> Path:
    """2^40 rounds that allocate nothing."""
    made = helper.make_tensor_value_info
    inputs = [
        made("i", TensorProto.INT64, []),
        made("on", TensorProto.BOOL, []),
        made("v", TensorProto.FLOAT, []),
    ]
    outputs = [made("still", TensorProto.BOOL, []), made("w", TensorProto.FLOAT, [])]
    nodes = [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["v", "v"], ["w"])]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    start = [constant("m", 1 << 40), constant("yes", True, np.bool_), constant("v0", 0, np.float32)]
    return with_bomb(path, [helper.make_node("Loop", ["m", "yes", "v0"], ["bomb"], body=body)], start)


def declared(path: Path) -> Path:
    """16 bytes of data, said to be 40 GB."""
    tensor = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[100_000, 100_000], raw_data=bytes(16))
    return with_bomb(path, [summed("big")], [tensor])


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@linux
@pytest.mark.parametrize("bomb", [filled, expanded, tiled, doubled, declared])
def test_a_small_file_that_wants_much_memory_is_rejected_and_gets_none(bomb: Any, tmp_path: Path) -> None:
    code = (
        "import resource; from pathlib import Path; from clusterpaths.watching.arrivals import examine_apart\n"
        f"found = examine_apart(Path({str(bomb(tmp_path / 'bomb.onnx'))!r}), patient=False, memory={LIMIT}, timeout=400)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, found.model_dump_json())"
    )  # in a process of its own, which has no other children
    peak, _, found = run_python(code).partition(" ")
    outcome = Rejected.model_validate_json(found)
    assert "\n" not in outcome.reason
    assert "Traceback" not in outcome.reason
    assert any(
        words in outcome.reason
        for words in (
            "It may take 1.1 GB while it is examined",
            "exceeds",
            "cannot be run",
            "cannot load",
            "cannot be loaded",
        )
    )
    assert int(peak) < 1.2 * LIMIT / 1024


def test_a_loop_without_end_is_given_up(tmp_path: Path) -> None:
    outcome = examine_apart(looped(tmp_path / "bomb.onnx"), patient=False, timeout=15)
    assert isinstance(outcome, Rejected)
    assert "did not run on one blank image within 15 s" in outcome.reason


@linux
def test_a_model_within_its_limits_arrives(tmp_path: Path) -> None:
    path = write_cnn(tmp_path / "net.onnx", external="net.data")
    assert isinstance(examine_apart(path, patient=False), Arrival)
    assert isinstance(examine_apart(path, patient=False, memory=LIMIT), Arrival)


def test_an_input_larger_than_the_memory_is_refused_before_an_image_is_made(tmp_path: Path) -> None:
    path = write_cnn(tmp_path / "net.onnx")
    model = onnx.load(str(path))
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (2_000_000, 2_000_000), strict=True):
        dim.Clear()
        dim.dim_value = size
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"its tensor .* has the shape \(\d, 3, 2000000, 2000000\) .* GB of memory"):
        check_model(path)


def test_a_tensor_larger_than_the_memory_is_refused_by_its_name_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = expanded(tmp_path / "bomb.onnx")
    monkeypatch.setattr(shapes, "physical_bytes", lambda: 3_000_000_000)
    with pytest.raises(
        ModelError, match=r"its tensor 'big' has the shape \(1000000000,\) .*, 4 GB; this machine has 3 GB"
    ):
        check_model(path)

"""The path model computes what our own tracing gave, in ONNX alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances

from clusterpaths.clustering.kmeans import nearest
from clusterpaths.config import RunConfig
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.errors import CacheError, ModelError
from clusterpaths.export.note import PATH_MODEL_KEY
from clusterpaths.export.path_graph import FEW, GraphBuilder, LayerCentroids, add_nearest
from clusterpaths.export.path_model import export_path_model
from clusterpaths.metrics.ood import scale_distances
from clusterpaths.models.check import check_model
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.sets.published import open_set
from tests.clusterpaths.conftest import Finished, run_stages, write_cnn

Configure = Callable[..., RunConfig]


def inputs_of(done: Finished, set_dir: Path) -> NDArray[np.float32]:
    record = open_set(set_dir).record
    folder = Path(record.data_root) / "celeba" / "img_align_celeba"
    files = open_set(set_dir).files.to_pylist()
    pixels = np.stack([fit(open_rgb(folder / file), record.preprocessing) for file in files])
    return normalise(pixels, record.preprocessing)


def run_file(path: Path, images: NDArray[np.float32], batch: int = 8) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    pieces = [session.run(None, {"input": images[a : a + batch]}) for a in range(0, len(images), batch)]
    return dict(zip(names, (np.concatenate(piece) for piece in zip(*pieces, strict=True)), strict=True))


def assert_equals_tracing(done: Finished, output: Path, batch: int = 8) -> None:
    set_dir = done.published.path
    record = export_path_model(open_set(set_dir), Path(done.model.path), output)
    onnx.checker.check_model(str(output))
    rows = open_set(set_dir)
    found = run_file(output, inputs_of(done, set_dir), batch)
    assert list(found) == ["logits", "path", "distances", "ood_score"] == list(record.note.outputs.values())
    assert (found["path"].dtype, found["distances"].dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(found["path"], rows.clusters)
    np.testing.assert_allclose(found["distances"], rows.distances, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found["logits"].argmax(axis=1), rows.predictions)
    k = [done.identity.k_per_layer[layer] for layer in done.identity.layers]
    scores = scale_distances(rows.clusters, rows.distances, k).score(rows.clusters, rows.distances)
    np.testing.assert_allclose(found["ood_score"], scores, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "options",
    [{}, {"distance": "euclidean"}, {"cache_dtype": "float32"}, {"k": "3,fc1=5"}, {"layers": ("conv2",)}, {"k": 1}],
    ids=["cosine", "euclidean", "float32", "k a layer", "one layer", "one cluster"],
)
def test_equals_our_own_tracing(options: dict[str, Any], configure: Configure, tmp_path: Path) -> None:
    assert_equals_tracing(run_stages(configure(**options)), tmp_path / "paths.onnx")


@pytest.mark.parametrize(
    "build",
    [{"batch": 1}, {"external": "weights.bin"}, {"instrumented": True}, {"dead": True}, {"factor": 1e6}],
    ids=["fixed batch", "external weights", "instrumented", "dead layer", "beyond float16"],
)
def test_equals_our_own_tracing_for_models_of_every_kind(
    build: dict[str, Any], configure: Configure, tmp_path: Path
) -> None:
    model = write_cnn(tmp_path / "model" / "cnn.onnx", **build)
    assert_equals_tracing(run_stages(configure(model=model)), tmp_path / "paths.onnx", build.get("batch", 8))


def test_says_what_it_is_made_of(configure: Configure, tmp_path: Path) -> None:
    done = run_stages(configure())
    record = export_path_model(done.published, Path(done.model.path), tmp_path / "paths.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "paths.onnx").metadata_props}
    note = json.loads(metadata[PATH_MODEL_KEY])
    assert note == record.note.model_dump(mode="json")
    assert (note["set"], note["fingerprint"]) == ("T/set_01", done.published.record.fingerprint)
    assert note["rounded"] == ["conv1", "conv2", "fc1"] == note["layers"]
    assert record.note.predictions is not None
    rows, most = done.published.clusters, done.published.paths
    own = most.paths[np.argmax(most.counts)]
    on_it = done.published.predictions[(rows == own).all(axis=1)]
    assert record.note.predictions.predict(own.tolist()) == np.bincount(on_it).argmax()
    assert record.note.meaning == done.published.record.outputs
    assert record.note.reference is not None
    assert record.note.reference.paths == {
        "-".join(map(str, path)): count for path, count in zip(most.paths.tolist(), most.counts.tolist(), strict=True)
    }
    scores = done.published.held_out_ood
    percentiles = [record.note.reference.ood_percentile(score) for score in (-99, *scores, 99)]
    np.testing.assert_allclose(
        percentiles[1:-1], 100 * np.arange(len(scores)) / len(scores), atol=100 / len(scores) + 0.1
    )
    assert (percentiles[0], percentiles[-1]) == (0, 100)
    assert json.loads(metadata[CLASSES_KEY]) == list(done.published.record.class_names)
    checked = check_model(tmp_path / "paths.onnx")
    assert checked.preprocessing == done.published.record.preprocessing
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".onnx"] == ["paths.onnx"]


def test_without_the_caches_manifest_nothing_is_rounded_and_it_says_so(configure: Configure, tmp_path: Path) -> None:
    done = run_stages(configure())
    (done.directory / "manifest.json").unlink()
    record = export_path_model(done.published, Path(done.model.path), tmp_path / "paths.onnx")
    assert record.note.rounded == ()
    assert any("no longer exists" in warning for warning in record.warnings)


def test_another_model_is_refused_with_both_hashes(configure: Configure, tmp_path: Path) -> None:
    done = run_stages(configure())
    other = write_cnn(tmp_path / "other.onnx", seed=1)
    with pytest.raises(ModelError, match="not the model of this set") as caught:
        export_path_model(done.published, other, tmp_path / "paths.onnx")
    assert done.model.sha256 in str(caught.value)
    assert check_model(other).sha256 in str(caught.value)
    assert not (tmp_path / "paths.onnx").exists()


def test_the_classifier_is_not_overwritten(configure: Configure, cnn: Path) -> None:
    done = run_stages(configure())
    with pytest.raises(ModelError, match="is the classifier itself"):
        export_path_model(done.published, cnn, cnn)


def test_centroids_that_are_not_the_sets_are_refused(configure: Configure, cnn: Path, tmp_path: Path) -> None:
    done = run_stages(configure())
    np.savez(done.published.path / "centroids.npz", conv1=np.zeros((2, 3)), conv2=np.zeros(1), fc1=np.zeros(1))
    with pytest.raises(CacheError, match="do not match"):
        export_path_model(done.published, cnn, tmp_path / "paths.onnx")


def build_layers(
    layers: list[LayerCentroids], distance: Any, shapes: list[list[Any]], opset: int = 17, batch: int | None = None
) -> onnxruntime.InferenceSession:
    """A graph of nothing but the taps x0, x1 … as inputs and the path behind them."""
    taps = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    proto = helper.make_model(
        helper.make_graph([], "g", taps, []), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    add_nearest(GraphBuilder(proto), layers, distance, "x0", batch, ("path", "distances"))
    for name, kind in (("path", TensorProto.INT64), ("distances", TensorProto.FLOAT)):
        proto.graph.output.append(helper.make_tensor_value_info(name, kind, ["n", len(layers)]))
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_layer_by_hand_in_every_opset(opset: int, distance: Any) -> None:
    """Unit centroids (1, 0), (0, 1) and the first again: equals go to the first, a row of zeros to 0 at 1 (cosine)."""
    rows = np.array([[2, 0], [0, 3], [3, 4], [1, 1], [0, 0]], np.float32)
    centroids = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    session = build_layers([LayerCentroids("x0", centroids, rounded=True)], distance, [["n", 2]], opset)
    labels, distances = session.run(None, {"x0": rows})
    assert labels.ravel().tolist() == [0, 1, 1, 0, 0]
    expected = (
        [0, 0, 1 - 0.8, 1 - np.sqrt(0.5), 1] if distance == "cosine" else [1, 2, np.sqrt(18), 1, 1]
    )  # (3, 4) to (0, 1)
    np.testing.assert_allclose(distances.ravel(), expected, atol=1e-6)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("width", [24, 2400])
def test_a_layer_with_a_large_constant_part_beside_an_ordinary_one(opset: int, distance: Any, width: int) -> None:
    """A bias of 3,000 and differences of about 1: as in float64."""
    rng = np.random.default_rng(0)
    offset, plain = (rng.standard_normal((20, size)).astype(np.float32) + add for size, add in ((width, 3000), (7, 0)))
    layers = [LayerCentroids("x0", offset[:4]), LayerCentroids("x1", plain[:5])]
    session = build_layers(layers, distance, [["n", width], ["n", 7]], opset)
    metric = cosine_distances if distance == "cosine" else euclidean_distances
    expected = metric(offset.astype(np.float64), offset[:4].astype(np.float64))
    for some in (slice(4, 7), slice(4, 20)):  # the first four are centroids themselves
        path, distances = session.run(None, {"x0": offset[some], "x1": plain[some]})
        assert distances.dtype == np.float32
        np.testing.assert_array_equal(path[:, 0], expected.argmin(axis=1)[some])
        np.testing.assert_allclose(distances[:, 0], expected.min(axis=1)[some], rtol=1e-3)
        own = nearest(plain[some], plain[:5], distance)
        np.testing.assert_array_equal(path[:, 1], own.labels)


@pytest.mark.parametrize("opset", [9, 13, 21])
@pytest.mark.parametrize("n", [1, FEW, FEW + 1, 20])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_wide_layers_and_different_k_give_what_our_own_assignment_gives(opset: int, n: int, distance: Any) -> None:
    """A wide convolution and a narrow layer, on both sides of the batch size where the products change their form."""
    rng = np.random.default_rng(n)
    images, rows = rng.standard_normal((n, 3, 20, 40)), rng.standard_normal((n, 7))
    images[0] = 0
    taps = {"x0": images.astype(np.float32), "x1": rows.astype(np.float32)}
    wide, narrow = rng.standard_normal((2, 2400)).astype(np.float32), rng.standard_normal((5, 7)).astype(np.float32)
    layers = [LayerCentroids("x0", wide, shape=(3, 20, 40)), LayerCentroids("x1", narrow)]
    shapes = [["n", 3, 20, 40], ["n", 7]]
    expected = [nearest(taps[layer.tensor].reshape(n, -1), layer.centroids, distance) for layer in layers]
    for batch in (None, n):
        path, distances = build_layers(layers, distance, shapes, opset, batch).run(None, taps)
        np.testing.assert_array_equal(path, np.stack([found.labels for found in expected], axis=1))
        squared = np.stack([found.squared for found in expected], axis=1)
        own = squared / 2 if distance == "cosine" else np.sqrt(squared)
        np.testing.assert_allclose(distances, own, rtol=1e-4, atol=1e-5)


def test_a_row_nearly_between_two_centroids_goes_where_its_rounded_values_go() -> None:
    """1.0004 rounds to 1 in float16, which is nearer to 0.9999 than to 1.0003: without rounding it is the other way."""
    centroids = np.array([[1.0003], [0.9999]], np.float32)
    found = {
        rounded: build_layers([LayerCentroids("x0", centroids, rounded)], "euclidean", [["n", 1]])
        .run(None, {"x0": np.array([[1.0004]], np.float32)})[0]
        .item()
        for rounded in (False, True)
    }
    assert found == {False: 0, True: 1}


def test_an_opset_before_9_is_refused() -> None:
    proto = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 8)])
    with pytest.raises(ModelError, match="opset 8"):
        GraphBuilder(proto)


def test_names_that_the_model_uses_already_are_not_taken() -> None:
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.zeros(1, np.float32), "path")])
    builder = GraphBuilder(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert [builder.free_name("path"), builder.free_name("path"), builder.free_name("other")] == [
        "path_",
        "path__",
        "other",
    ]

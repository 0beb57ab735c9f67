"""Whole runs of models of every kind that people export, against the plain model of the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.optimize import linear_sum_assignment

from clusterpaths.config import RunConfig
from clusterpaths.extraction.sessions import release_sessions
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.preprocessing.prepare import fit, normalise, preset_preprocessing
from tests.clusterpaths.conftest import LAYERS, Finished, run_stages, write_cnn
from tests.clusterpaths.models.test_kinds import SIZE, float16, nhwc, open_size, scaled, uint8, uint8_nhwc
from tests.runs import paths_of

SHAPES = {"conv1": (4, 16, 16), "conv2": (6, 8, 8), "fc1": (10,)}


@pytest.fixture(autouse=True)
def _no_idle_sessions() -> Iterator[None]:
    yield
    release_sessions()


def run_on(photos: Path, model: Path, **options: Any) -> Finished:
    """Bytes 0..255 into the model, at 16 x 16, 30 images, float32 in the cache."""
    defaults: dict[str, Any] = {
        "dataset": "folder",
        "model": model,
        "data_root": photos,
        "cache_root": model.parent / "cache",
        "name": model.stem,
        "subset": 30,
        "k": 3,
        "size": SIZE,
        "preprocessing": "raw",
        "cache_dtype": "float32",
        "shard_size": 20,
        "batch_size": 8,
    }
    return run_stages(RunConfig(**defaults | options))


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def plain(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("plain")
    return run_on(photos, save(scaled(folder / "base.onnx"), folder / "plain.onnx"))


def rows(done: Finished, layer: str) -> NDArray[np.float32]:
    return np.stack([np.load(done.directory / layer / f"{example}.npy") for example in done.ids.tolist()])


def check_rows(done: Finished, count: int = 30) -> None:
    assert done.ids.tolist() == list(range(count))
    for layer, shape in SHAPES.items():
        values = rows(done, layer)
        assert values.shape == (count, *shape)
        assert np.isfinite(values).all()
        assert values.std(axis=0).max() > 0


def table(done: Finished) -> NDArray[np.int64]:
    """(n, layers) cluster ids."""
    return np.array(list(paths_of(done.published.path).values()))


def agreement(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Share of examples in the same cluster, under the best naming of the clusters."""
    together = np.zeros((3, 3), int)
    np.add.at(together, (one, other), 1)
    return float(together[linear_sum_assignment(-together)].sum() / len(one))


@pytest.mark.parametrize("change", [nhwc, uint8, uint8_nhwc, open_size], ids=lambda change: change.__name__)
def test_another_door_leads_to_the_same_paths(
    change: Callable[[onnx.ModelProto], None], plain: Finished, photos: Path, tmp_path: Path
) -> None:
    model = scaled(tmp_path / "base.onnx")
    change(model)
    done = run_on(photos, save(model, tmp_path / f"{change.__name__}.onnx"))
    check_rows(done)
    for layer in LAYERS:
        np.testing.assert_allclose(rows(done, layer), rows(plain, layer), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(table(done), table(plain))


def quantized(folder: Path, images: NDArray[np.float32]) -> Path:
    """The plain model in 8 bits, as onnxruntime's own tool makes it from these images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.batches = iter([{"pixels": images}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    path = folder / "int8.onnx"
    source = save(scaled(folder / "base.onnx"), folder / "plain.onnx")
    quantize_static(str(source), str(path), Reader(), quant_format=QuantFormat.QDQ)
    return path


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_fewer_bits_lead_to_nearly_the_same_paths(kind: str, plain: Finished, photos: Path, tmp_path: Path) -> None:
    if kind == "float16":
        model = scaled(tmp_path / "base.onnx")
        float16(model)
        path = save(model, tmp_path / "float16.onnx")
    else:
        from clusterpaths.datasets.decode import open_rgb

        raw = preset_preprocessing("raw", SIZE)
        pixels = np.stack([fit(open_rgb(file), raw) for file in sorted(photos.glob("*.jpg"))[:30]])
        path = quantized(tmp_path, normalise(pixels, raw))
    done = run_on(photos, path)
    check_rows(done)
    shares = [agreement(*columns) for columns in zip(table(done).T, table(plain).T, strict=True)]
    print(f"{kind}: {shares}")
    assert np.mean(shares) >= 0.9
    assert (
        min(shares) >= 0.75
    )  # of 203 images: one of a layer's clusters may end elsewhere, with nearly the same inertia


def test_batch_fixed_at_8_pads_the_last_of_203_images(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"preprocessing": "unit", "subset": 203, "shard_size": 50, "batch_size": 25}
    any_batch = run_on(photos, write_cnn(tmp_path / "any.onnx"), **options)
    seen: list[int] = []
    original = TapSession._run

    def counted(session: TapSession, images: NDArray[np.float32]) -> Outputs:
        if not (images == 0.5).all():  # a blank one shows that the model runs
            seen.append(len(images))
        return original(session, images)

    monkeypatch.setattr(TapSession, "_run", counted)
    fixed = run_on(photos, write_cnn(tmp_path / "fixed.onnx", batch=8), **options)
    assert seen == [8] * (4 * 7 + 1)  # four shards of 50 and one of 3, whose last batches have 2 and 3 images
    check_rows(fixed, 203)
    for layer in LAYERS:
        np.testing.assert_allclose(rows(fixed, layer), rows(any_batch, layer), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(table(fixed), table(any_batch))


def test_open_height_and_width_take_the_size_that_is_asked_for(photos: Path, tmp_path: Path) -> None:
    """The CNN with its maps averaged instead of flattened: any size will do."""
    model = scaled(tmp_path / "base.onnx")
    open_size(model)
    at = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Flatten")
    model.graph.node[at].input[0] = "averaged"
    model.graph.node.insert(at, helper.make_node("GlobalAveragePool", ["relu_1"], ["averaged"]))
    dense = next(tensor for tensor in model.graph.initializer if tensor.name == "w3")
    dense.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(dense)[:6] * np.float32(30), "w3"))
    path = save(model, tmp_path / "open.onnx")
    for size in ((16, 16), (24, 20)):
        done = run_on(photos, path, size=size, name=f"{size[0]}x{size[1]}")
        shapes = {layer: rows(done, layer).shape[1:] for layer in LAYERS}
        assert shapes == {"conv1": (4, *size), "conv2": (6, size[0] // 2, size[1] // 2), "fc1": (10,)}
        assert all(np.isfinite(rows(done, layer)).all() for layer in LAYERS)
        assert table(done).shape == (30, 3)
    with_default = run_on(photos, path, size=None, subset=4, name="default")
    assert with_default.job.preprocessing.size == (224, 224)

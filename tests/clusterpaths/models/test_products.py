from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.products import Products, ProductSession
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.records import CacheDtype, ModelRecord
from tests.clusterpaths.conftest import CLASSES, LAYERS, SIZE, write_cnn

WIDTHS = (1, 2, 7, 16, 63, 64, 65, 257, 1000, 4099, 65536)
KS = (1, 2, 5, 17, 30)
DTYPES: tuple[CacheDtype, ...] = ("float16", "float32")


def some_rows(width: int, count: int, dtype: str) -> NDArray[Any]:
    """Positive, as behind a ReLU, of very different size, so that the order of a sum shows."""
    rng = np.random.default_rng([width, count])
    return (rng.gamma(0.3, 2.0, (count, width)) * 4.0 ** rng.integers(-4, 4, (count, width))).astype(dtype)


def some_centroids(width: int, k: int) -> NDArray[np.float32]:
    return np.random.default_rng([width, k]).standard_normal((k, width)).astype(np.float32)


def assert_same_bits(one: Products, other: Products) -> None:
    np.testing.assert_array_equal(one.squares.view(np.uint32), other.squares.view(np.uint32), strict=True)
    if one.with_centroids is None or other.with_centroids is None:
        assert one.with_centroids is other.with_centroids is None
    else:
        bits = [found.view(np.uint32) for found in (one.with_centroids, other.with_centroids)]
        np.testing.assert_array_equal(*bits, strict=True)


def taken(products: Products, which: Any) -> Products:
    assert products.with_centroids is not None
    return Products(products.squares[which], products.with_centroids[which])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_gives_the_same_bits_beside_any_others_and_in_any_place(width: int, k: int, dtype: CacheDtype) -> None:
    count = 67 if width < 5000 else 35
    rows, session = some_rows(width, count, dtype), ProductSession(width, dtype, some_centroids(width, k))
    whole = session.run(rows)
    for size in (1, 2, 3, 4, 5, 8, 13, 16, 32, 64):
        for start in (0, 1, 6, count - size):
            if 0 <= start <= count - size:
                part = session.run(np.ascontiguousarray(rows[start : start + size]))
                assert_same_bits(part, taken(whole, slice(start, start + size)))
    order = np.random.default_rng(0).permutation(count)
    assert_same_bits(session.run(rows[order]), taken(whole, order))
    assert_same_bits(session.run(np.repeat(rows[:1], 9, axis=0)), taken(whole, np.zeros(9, int)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_where_rows_lie_in_memory_does_not_matter(width: int, dtype: CacheDtype) -> None:
    """The sums of ONNX Runtime's reductions begin at an aligned address."""
    rows, session = some_rows(width, 11, dtype), ProductSession(width, dtype, some_centroids(width, 5))
    expected = session.run(rows)
    buffer = np.empty(rows.nbytes + 256, np.uint8)
    first = -buffer.ctypes.data % 64
    for offset in (0, 4, 8, 20, 32, 60):  # bytes
        there = buffer[first + offset : first + offset + rows.nbytes].view(rows.dtype).reshape(rows.shape)
        there[:] = rows
        assert_same_bits(session.run(there), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_products_and_squares_are_right(width: int, dtype: CacheDtype) -> None:
    rows, centroids = some_rows(width, 20, dtype), some_centroids(width, 5)
    found = ProductSession(width, dtype, centroids).run(rows)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(found.squares, (exact**2).sum(axis=1), rtol=1e-5)
    assert found.with_centroids is not None
    scale = np.abs(exact) @ np.abs(centroids.T.astype(np.float64))
    assert (np.abs(found.with_centroids - exact @ centroids.T.astype(np.float64)) <= 1e-6 * scale + 1e-12).all()
    assert (found.squares.dtype, found.with_centroids.dtype) == (np.float32, np.float32)
    alone = ProductSession(width, dtype, None).run(rows)
    assert_same_bits(alone, Products(found.squares, None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("width", WIDTHS)
def test_axes_beside_them_change_no_bit_of_the_products_with_centroids(width: int, k: int, dtype: CacheDtype) -> None:
    rows, centroids = some_rows(width, 33, dtype), some_centroids(width, k)
    plain = ProductSession(width, dtype, centroids).run(rows)
    for d in (1, 16, 17):
        axes = some_centroids(width, d).astype(np.float16)
        session = ProductSession(width, dtype, centroids, axes)
        found = session.run(rows)
        assert_same_bits(found, plain)
        assert found.with_axes is not None
        exact = rows.astype(np.float64) @ axes.T.astype(np.float64)
        scale = np.abs(rows.astype(np.float64)) @ np.abs(axes.T.astype(np.float64))
        assert (np.abs(found.with_axes - exact) <= 1e-6 * scale + 1e-12).all()
        order = np.random.default_rng(0).permutation(33)  # nor do they depend on the rows beside them
        for own in (slice(5, 6), slice(0, 2), slice(20, 33), order):
            part = session.run(np.ascontiguousarray(rows[own]))
            assert part.with_axes is not None
            np.testing.assert_array_equal(part.with_axes.view(np.uint32), found.with_axes[own].view(np.uint32))


def test_axes_need_centroids_and_are_as_exact_as_those() -> None:
    with pytest.raises(ValueError, match="axes with centroids, got axes only"):
        ProductSession(8, "float32", None, np.ones((2, 8), np.float16))
    double = ProductSession(8, "float32", np.ones((2, 8)), np.ones((3, 8), np.float16))
    found = double.run(np.full((4, 8), 1 + 2**-20, np.float32)).with_axes
    assert found is not None
    assert (found.dtype, found.tolist()) == (np.float64, [[8 * (1 + 2**-20)] * 3] * 4)


FINITE = [0.0, -0.0, 1.0, -1.0, 65504.0, -65504.0]
NOT_FINITE = [np.inf, -np.inf, np.nan, -np.nan]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [*FINITE, *NOT_FINITE])
@pytest.mark.parametrize("others", [0.0, -3.0, 5.0])
@pytest.mark.parametrize("width", [7, 16, 4099])
def test_non_finite_values_are_seen_in_the_squares_wherever_they_stand(
    dtype: CacheDtype, value: float, others: float, width: int
) -> None:
    session = ProductSession(width, dtype, None)
    for at in (0, 3, width - 1):
        rows = np.full((3, width), others, dtype)
        rows[1, at] = value
        assert np.isfinite(session.run(rows).squares).tolist() == [True, bool(np.isfinite(value)), True]


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes_of_float16_and_subnormals_are_finite_and_nan_with_a_sign_is_not(dtype: CacheDtype) -> None:
    info = np.finfo(dtype)
    session = ProductSession(1 << 16, dtype, None)
    every = np.full((1, 1 << 16), 65504, dtype)  # a layer of nothing but float16's largest
    assert np.isfinite(session.run(every).squares).all()
    session = ProductSession(2, dtype, None)
    tiny = np.array([[info.smallest_subnormal, -info.smallest_subnormal]], dtype)
    assert np.isfinite(session.run(tiny).squares).all()
    bits = np.uint16 if dtype == "float16" else np.uint32
    sign = 1 << (np.dtype(dtype).itemsize * 8 - 1)
    nan = int(np.array(np.nan, dtype).view(bits))
    for word in (nan | sign, nan & ~sign, nan | 1):
        assert not np.isfinite(session.run(np.array([[0, word]], bits).view(dtype)).squares).any()
    # float32 beyond 1.8e19 has no squared length: extraction refuses it with a message of its own
    if dtype == "float32":
        assert np.isfinite(session.run(np.array([[1e19, 1]], np.float32)).squares).all()
        assert not np.isfinite(session.run(np.array([[3e19, 1]], np.float32)).squares).any()


def record_of(path: Path) -> ModelRecord:
    return instrument_model(check_model(path), (SIZE, SIZE))


def images(count: int, seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


def centroids_of(record: ModelRecord, k: int = 5) -> dict[str, NDArray[np.float32]]:
    return {tap.layer: some_centroids(int(np.prod(tap.shape)), k) for tap in record.taps}


def assert_as_sessions_of_their_own(
    found: Outputs, layers: dict[str, NDArray[Any]], centroids: dict[str, NDArray[np.float32]]
) -> None:
    """Products inside the graph are, bit by bit, those of the activations that it outputs."""
    assert list(found.products) == list(layers)
    for layer, values in layers.items():
        rows, dtype = values.reshape(len(values), -1), values.dtype.name
        session = ProductSession(rows.shape[1], dtype, centroids.get(layer))
        assert_same_bits(found.products[layer], session.run(rows))


MIXED: dict[str, CacheDtype] = {"conv1": "float16", "conv2": "float32", "fc1": "float16"}


@pytest.mark.parametrize("dtypes", [dict.fromkeys(LAYERS, "float16"), dict.fromkeys(LAYERS, "float32"), MIXED])
@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_products_inside_the_graph_are_those_of_its_outputs(
    cnn: Path, dtypes: dict[str, CacheDtype], count: int
) -> None:
    record = record_of(cnn)
    centroids = centroids_of(record)
    kept = TapSession(record, dtypes, centroids).run(images(count))
    assert {layer: values.dtype.name for layer, values in kept.layers.items()} == dtypes
    assert_as_sessions_of_their_own(kept, dict(kept.layers), centroids)
    plain = TapSession(record, dtypes).run(images(count))
    for layer in LAYERS:  # nodes behind a tap leave what it outputs alone
        np.testing.assert_array_equal(kept.layers[layer], plain.layers[layer])
    assert plain.products == {}


@pytest.mark.parametrize("dtypes", [dict.fromkeys(LAYERS, "float16"), dict.fromkeys(LAYERS, "float32")])
def test_without_keeping_there_are_products_and_no_layers(cnn: Path, dtypes: dict[str, CacheDtype]) -> None:
    record = record_of(cnn)
    centroids = centroids_of(record)
    kept = TapSession(record, dtypes, centroids).run(images(9))
    found = TapSession(record, dtypes, centroids, keep=False).run(images(9))
    assert found.layers == {}
    assert_as_sessions_of_their_own(found, dict(kept.layers), centroids)
    assert found.logits is not None
    assert kept.logits is not None
    np.testing.assert_array_equal(found.logits, kept.logits)


def test_layers_without_centroids_have_squares_only(cnn: Path) -> None:
    record = record_of(cnn)
    one = {"conv2": centroids_of(record)["conv2"]}
    for keep in (True, False):
        found = TapSession(record, MIXED, one, keep).run(images(4))
        kept = TapSession(record, MIXED).run(images(4))
        assert_as_sessions_of_their_own(found, dict(kept.layers), one)
        assert found.products["conv1"].with_centroids is None
        assert_as_sessions_of_their_own(TapSession(record, MIXED, {}, keep).run(images(4)), dict(kept.layers), {})


@pytest.mark.parametrize("fixed", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_a_fixed_batch_has_products_of_the_images_alone(tmp_path: Path, fixed: int, count: int) -> None:
    """Not of the copies that fill the last run."""
    record = record_of(write_cnn(tmp_path / "m.onnx", batch=fixed))
    centroids = centroids_of(record)
    for keep in (True, False):
        session = TapSession(record, MIXED, centroids, keep)
        kept = TapSession(record, MIXED, centroids).run(images(count))
        found = session.run(images(count))
        assert_as_sessions_of_their_own(found, dict(kept.layers), centroids)
        assert [len(one.squares) for one in found.products.values()] == [count] * 3


def write_old(path: Path, opset: int) -> Path:
    """conv1, fc1 and logits, as exported for an old opset; widths 1,024 (a multiple of 16) and 10."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((4, 3, 3, 3)), "w2": rng.standard_normal((4 * SIZE * SIZE, 10)),
        "b2": rng.standard_normal(10), "w3": rng.standard_normal((10, CLASSES)), "b3": rng.standard_normal(CLASSES),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["relu"]),
        helper.make_node("Flatten", ["relu"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["f1"]),
        helper.make_node("Relu", ["f1"], ["relu_1"]),
        helper.make_node("Gemm", ["relu_1", "w3", "b3"], ["logits"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "old",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 17, 18, 21])
def test_models_of_old_and_new_opsets_give_the_same_products(tmp_path: Path, opset: int) -> None:
    record = record_of(write_old(tmp_path / f"{opset}.onnx", opset))
    centroids = centroids_of(record)
    for dtype in DTYPES:
        dtypes: dict[str, CacheDtype] = dict.fromkeys(record.layers, dtype)
        kept = TapSession(record, dtypes, centroids).run(images(5))
        assert_as_sessions_of_their_own(kept, dict(kept.layers), centroids)
        found = TapSession(record, dtypes, centroids, keep=False).run(images(5))
        assert_as_sessions_of_their_own(found, dict(kept.layers), centroids)


def test_another_device_has_its_products_computed_on_the_cpu(cnn: Path) -> None:
    """It would add up in another order."""
    record = record_of(cnn)
    centroids = centroids_of(record)
    elsewhere = record.model_copy(update={"providers": ("AzureExecutionProvider", "CPUExecutionProvider")})
    import onnxruntime

    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        elsewhere = record.model_copy(update={"providers": ("CPUExecutionProvider", "CPUExecutionProvider")})
    for keep in (True, False):
        found = TapSession(elsewhere, MIXED, centroids, keep).run(images(6))
        kept = TapSession(record, MIXED, centroids).run(images(6))
        assert set(found.layers) == (set(LAYERS) if keep else set())
        assert_as_sessions_of_their_own(found, dict(kept.layers), centroids)


def test_first_rows_of_products() -> None:
    whole = Products(np.arange(4, dtype=np.float32), np.arange(8, dtype=np.float32).reshape(4, 2))
    assert_same_bits(whole.first(3), Products(whole.squares[:3], np.arange(6, dtype=np.float32).reshape(3, 2)))
    assert_same_bits(Products(whole.squares, None).first(1), Products(whole.squares[:1], None))

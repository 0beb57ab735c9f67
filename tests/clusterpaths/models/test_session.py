from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession
from clusterpaths.records import ModelRecord
from tests.clusterpaths.conftest import LAYERS, write_cnn


def images(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


def record_of(path: Path) -> ModelRecord:
    return instrument_model(check_model(path), (16, 16))


@pytest.mark.parametrize("external", [None, "weights.data"])
def test_taps_of_a_plain_model_are_bit_identical_to_an_instrumented_ones_outputs(
    tmp_path: Path, external: str | None
) -> None:
    plain = TapSession(record_of(write_cnn(tmp_path / "a" / "m.onnx", external=external))).run(images(5))
    path = write_cnn(tmp_path / "b.onnx", instrumented=True)
    ours = TapSession(record_of(path)).run(images(5))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = session.run(["relu", "relu_1", "relu_2", "logits"], {"input": images(5)})
    for layer, values in zip(LAYERS, theirs[:3], strict=True):
        np.testing.assert_array_equal(plain.layers[layer], values)
        np.testing.assert_array_equal(ours.layers[layer], values)
    for outputs in (plain, ours):
        assert outputs.logits is not None
        np.testing.assert_array_equal(outputs.logits, theirs[3])


def test_matmul_and_add_give_what_gemm_gives(tmp_path: Path) -> None:
    gemm = TapSession(record_of(write_cnn(tmp_path / "a.onnx"))).run(images(4))
    matmul = TapSession(record_of(write_cnn(tmp_path / "b.onnx", matmul=True))).run(images(4))
    np.testing.assert_allclose(gemm.layers["fc1"], matmul.layers["fc1"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fixed", [1, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_fixed_batch_gives_each_image_the_rows_that_it_gets_alone(tmp_path: Path, fixed: int, count: int) -> None:
    session = TapSession(record_of(write_cnn(tmp_path / "m.onnx", batch=fixed)))
    together = session.run(images(count))
    assert together.logits is not None
    assert together.logits.shape == (count, 5)
    for at in range(count):
        alone = session.run(images(count)[at : at + 1])
        assert alone.logits is not None
        np.testing.assert_allclose(together.logits[at], alone.logits[0], rtol=1e-5, atol=1e-6)
        for layer in LAYERS:
            np.testing.assert_allclose(together.layers[layer][at], alone.layers[layer][0], rtol=1e-5, atol=1e-6)


def test_float16_of_the_cast_node_is_numpys_float16(cnn: Path) -> None:
    x = images(64) * np.float32(50)
    exact = TapSession(record_of(cnn)).run(x).layers
    cast = TapSession(record_of(cnn), {"conv1": "float16", "conv2": "float32", "fc1": "float16"}).run(x).layers
    assert [cast[layer].dtype for layer in LAYERS] == [np.float16, np.float32, np.float16]
    for layer in ("conv1", "fc1"):
        np.testing.assert_array_equal(cast[layer], exact[layer].astype(np.float16))
    np.testing.assert_array_equal(cast["conv2"], exact["conv2"])


def test_values_beyond_float16_become_inf_as_in_numpy(tmp_path: Path) -> None:
    record = record_of(write_cnn(tmp_path / "m.onnx", factor=1e6))
    exact = TapSession(record).run(images(2)).layers["conv2"]
    cast = TapSession(record, {"conv2": "float16"}).run(images(2)).layers["conv2"]
    assert np.isinf(cast).any()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(cast, exact.astype(np.float16))


def test_only_the_layers_asked_for_are_put_out_and_the_model_file_stays(cnn: Path) -> None:
    before = cnn.read_bytes()
    outputs = TapSession(check_model(cnn, ("conv2",))).run(images(2))
    assert list(outputs.layers) == ["conv2"]
    assert cnn.read_bytes() == before


@pytest.mark.parametrize("piece", [1, 12_000, 20_000])
def test_a_batch_in_pieces_gives_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Pieces of one image, and of a few."""
    from clusterpaths.models import session as module

    record, sizes = record_of(write_cnn(tmp_path / "m.onnx")), []
    whole = TapSession(record, centroids={}).run(images(13))
    monkeypatch.setattr(module, "PIECE", piece)
    one = TapSession(record, centroids={})
    run = one._run
    monkeypatch.setattr(one, "_run", lambda batch: (sizes.append(len(batch)), run(batch))[1])
    cut = one.run(images(13))
    assert sum(sizes) == 13
    assert len(sizes) > 1
    assert max(sizes) - min(sizes) <= len(sizes)
    np.testing.assert_array_equal(cut.logits, whole.logits)
    for layer, rows in whole.layers.items():
        np.testing.assert_array_equal(cut.layers[layer], rows)
        np.testing.assert_array_equal(cut.products[layer].squares, whole.products[layer].squares)


def test_a_model_that_computes_over_a_batch_gets_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clusterpaths.models import session as module

    record = record_of(write_cnn(tmp_path / "m.onnx")).model_copy(update={"joint": True})
    monkeypatch.setattr(module, "PIECE", 1)
    session, sizes = TapSession(record), []
    run = session._run
    monkeypatch.setattr(session, "_run", lambda batch: (sizes.append(len(batch)), run(batch))[1])
    session.run(images(13))
    assert sizes == [13]

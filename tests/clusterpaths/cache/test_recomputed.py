from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterpaths.cache.recomputed import run_edges
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.cache import rows as rows_module
from clusterpaths.cache.manifest import FailedExample, ShardRecord, require_manifest, write_manifest
from clusterpaths.cache.rows import LayerRows
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, CorruptedShardError, ModelError
from clusterpaths.models.session import Outputs, TapSession
from tests.clusterpaths.conftest import (
    LAYERS,
    SIZE,
    Extracted,
    image_of,
    run_extraction,
    save_model,
    write_celeba,
    write_cnn,
)
from tests.runs import SAMPLE_MODEL

Configure = Callable[..., RunConfig]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of every run of a model, as they come."""
    seen: list[int] = []
    run = TapSession.run

    def counted(session: TapSession, images: NDArray[np.float32]) -> Outputs:
        seen.append(len(images))
        return run(session, images)

    monkeypatch.setattr(TapSession, "run", counted)
    return seen


def both(configure: Configure, **options: Any) -> tuple[Extracted, Extracted]:
    """The same run with a float32 cache, and without any."""
    kept = run_extraction(configure(**options, name="kept", cache_format="npy", cache_dtype="float32"))
    return kept, run_extraction(configure(**options, name="none", cache_format="none"))


def every_row(extracted: Extracted, layer: str) -> NDArray[np.float32]:
    rows = LayerRows(extracted.storage, layer, extracted.ids)
    return np.concatenate([block for _, block in rows.blocks()])


def assert_same_bits(kept: Extracted, none: Extracted) -> None:
    assert kept.ids.tolist() == none.ids.tolist()
    for layer in kept.model.layers:
        one, other = every_row(kept, layer), every_row(none, layer)
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32), strict=True)
        assert len(np.unique(one, axis=0)) > 1


def write_crowd_model(path: Path) -> Path:
    """fc1 is what an image has more than the mean of all in its run, so that a row depends on its company."""
    weights = np.random.default_rng(0).standard_normal((3 * SIZE * SIZE, 6)).astype(np.float32)
    more = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["flat", "mean"], ["own"]),
        helper.make_node("Gemm", ["own", "w1"], ["f1"]),
        helper.make_node("Relu", ["f1"], ["relu"]),
        helper.make_node("Gemm", ["relu", "w2"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])]
    tensors = [numpy_helper.from_array(weights, "w1"), numpy_helper.from_array(more, "w2")]
    return save_model(path, helper.make_graph(nodes, "crowd", inputs, outputs, tensors))


@pytest.mark.parametrize("options", [{}, {"batch_size": 5, "shard_size": 7}, {"batch_size": 64}, {"batch_size": 1}])
def test_rows_are_those_of_a_float32_cache_to_the_bit(configure: Configure, options: dict[str, int]) -> None:
    assert_same_bits(*both(configure, **options))


def test_images_that_cannot_be_read_leave_the_runs_as_they_were(configure: Configure, own_faces: Path) -> None:
    for number in (1, 5, 26, *range(28, 38)):  # 28 … 37: the whole of one run among them
        if number % 3:
            image_of(own_faces, number).write_bytes(b"no image")
    kept, none = both(configure, data_root=own_faces, batch_size=3, max_failures=0.5)
    assert [shard.rows for shard in require_manifest(none.storage).shards] != [16, 16, 8]
    assert_same_bits(kept, none)


def test_a_model_of_a_fixed_batch_and_one_that_looks_at_its_whole_run(configure: Configure, tmp_path: Path) -> None:
    assert_same_bits(*both(configure, model=write_cnn(tmp_path / "fixed.onnx", batch=3)))
    crowd = write_crowd_model(tmp_path / "crowd.onnx")
    kept, none = both(configure, model=crowd, preprocessing="imagenet", refresh=True)
    assert_same_bits(kept, none)
    other = run_extraction(
        configure(model=crowd, preprocessing="imagenet", batch_size=7, name="other", cache_format="none")
    )
    (layer,) = other.model.layers
    assert not np.allclose(every_row(other, layer), every_row(none, layer))  # what the runs were does matter here


def test_the_sample_model_on_drawn_faces(configure: Configure, photos: Path) -> None:
    assert_same_bits(
        *both(configure, model=SAMPLE_MODEL, dataset="folder", data_root=photos, shard_size=100, batch_size=32)
    )


def test_single_rows_are_those_of_the_blocks(configure: Configure) -> None:
    done = run_extraction(configure(cache_format="none", shard_size=11))
    some = np.array([0, 7, 8, 9, 10, 11, 30, 39])
    for layer in LAYERS:
        rows = LayerRows(done.storage, layer, done.ids)
        np.testing.assert_array_equal(rows.take(some), every_row(done, layer)[some])
        np.testing.assert_array_equal(rows.take(np.array([3])), every_row(done, layer)[3:4])
        part = LayerRows(done.storage, layer, done.ids[5:23:3])
        np.testing.assert_array_equal(part.take(np.arange(6)), every_row(done, layer)[5:23:3])


def test_a_pass_runs_the_model_once_an_image_wherever_its_blocks_end(
    configure: Configure, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_extraction(configure(cache_format="none"))
    assert runs[-5:] == [8, 8, 8, 8, 8]  # after those that look at shapes
    runs.clear()
    monkeypatch.setattr(rows_module, "MAX_BLOCK_ROWS", 3)
    rows = LayerRows(done.storage, "conv1", done.ids)
    assert len(runs) == 0  # opening costs nothing
    assert [len(block) for _, block in rows.blocks()] == [3] * 13 + [1]
    assert runs == [8, 8, 8, 8, 8]
    runs.clear()
    rows.take(np.array([0, 7, 39]))
    assert runs == [8, 8]


def test_runs_are_counted_in_rows_that_could_be_read() -> None:
    failed = tuple(FailedExample(id=i, file="", reason="") for i in (2, 4, 5, 6, 7))
    shard = ShardRecord(index=0, ids="0-9", start=0, rows=5, failed=failed, batch=4)
    assert run_edges(shard).tolist() == [0, 3, 5]  # 0 1 3; none of 4 … 7; 8 9
    assert run_edges(ShardRecord(index=0, ids="0-8", start=64, rows=9, batch=4)).tolist() == [0, 4, 8, 9]
    with pytest.raises(CacheError, match="how its images were batched"):
        run_edges(ShardRecord(index=0, ids="0-8", start=64, rows=9))


def test_damage_between_two_passes_is_found_by_the_second(configure: Configure) -> None:
    done = run_extraction(configure(cache_format="none"))
    rows = LayerRows(done.storage, "fc1", done.ids)
    assert sum(len(block) for _, block in rows.blocks()) == 40
    path = done.directory / "pixels" / "00002.rgb"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptedShardError, match="checksum differs") as caught:
        list(rows.blocks())
    assert caught.value.shard == 2


def test_another_or_a_lost_model_is_told_before_it_runs(configure: Configure, tmp_path: Path) -> None:
    model = write_cnn(tmp_path / "model.onnx")
    done = run_extraction(configure(cache_format="none", model=model))
    write_cnn(model, seed=1)
    with pytest.raises(ModelError, match=r"another model now: its sha256 is .*, expected"):
        every_row(done, "fc1")
    model.unlink()
    with pytest.raises(ModelError, match=r"cannot be read \(No such file"):
        every_row(done, "fc1")


def test_a_manifest_that_does_not_say_how_the_model_runs_is_told(configure: Configure) -> None:
    done = run_extraction(configure(cache_format="none"))
    manifest = require_manifest(done.storage)
    write_manifest(done.storage, manifest.model_copy(update={"runner": None}))
    with pytest.raises(CacheError, match="does not record how the model is run"):
        LayerRows(done.storage, "fc1", done.ids)


def test_memory_does_not_grow_with_the_images(configure: Configure, tmp_path: Path) -> None:
    """numpy's, which is nearly all; ONNX Runtime's own is that of one run."""
    peaks = []
    for count in (100, 800):
        data = write_celeba(tmp_path / f"{count}", range(1, count + 1), colour=lambda number: (number % 256, 0, 0))
        done = run_extraction(configure(cache_format="none", data_root=data, name=str(count), shard_size=32))
        rows = LayerRows(done.storage, "conv1", done.ids)
        rows.block_rows = 20
        tracemalloc.start()
        assert sum(len(block) for _, block in rows.blocks()) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    everything = 800 * rows.width * 4
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < everything / 2

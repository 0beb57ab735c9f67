"""A shard that was extracted before: run again, or assigned, it gives what it gave at first, to the bit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.cache.manifest import FailedExample, ShardRecord, require_manifest
from clusterpaths.clustering.assign import FitRecord, Labels, labels_file, read_labels
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.extraction.again import assign_shard, run_again, run_edges
from clusterpaths.extraction.sample import plan_sample
from clusterpaths.models.session import Outputs, TapSession
from tests.clusterpaths.conftest import (
    LAYERS,
    SIZE,
    Extracted,
    cluster,
    image_of,
    read_rows,
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


def recorded(done: Extracted) -> list[ShardRecord]:
    return [shard for shard in require_manifest(done.storage).shards if shard.rows is not None]


def make_sample_again(done: Extracted) -> None:
    """Run the model on the images that lie there, all of which are of the sample."""
    (done.storage / "sample").remove_tree()
    parts = plan_sample(done.storage, done.plan.sample_ids())
    for shard in recorded(done):
        run_again(done.job, shard, (), parts[shard.index])


def both(configure: Configure, dtype: str = "float32", **options: Any) -> tuple[Extracted, Extracted]:
    """The same run with a cache of activations, and with one of images."""
    stored = run_extraction(configure(**options, name="stored", cache_format="npy", cache_dtype=dtype))
    return stored, run_extraction(configure(**options, name="none", cache_format="none", cache_dtype=dtype))


def assert_same_rows(stored: Extracted, none: Extracted) -> None:
    assert stored.ids.tolist() == none.ids.tolist()
    for layer in stored.model.layers:
        one, other = read_rows(stored, layer), read_rows(none, layer)
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32), strict=True)
        assert len(np.unique(one, axis=0)) > 1


def assert_same_again(stored: Extracted, none: Extracted) -> None:
    """The sample's activations, when they are extracted and when the model runs again, are those of a cache of them."""
    assert_same_rows(stored, none)
    own = require_manifest(none.storage / "sample")
    make_sample_again(none)
    assert_same_rows(stored, none)
    assert require_manifest(none.storage / "sample") == own  # with checksums and failures


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


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 5, "shard_size": 7}, {"batch_size": 64}, {"batch_size": 1}])
def test_activations_are_those_of_a_cache_of_them_to_the_bit(
    configure: Configure, options: dict[str, int], dtype: str
) -> None:
    assert_same_again(*both(configure, dtype, **options))


def test_images_that_cannot_be_read_leave_the_runs_as_they_were(configure: Configure, own_faces: Path) -> None:
    for number in (1, 5, 26, *range(28, 38)):  # 28 … 37: the whole of one run among them
        if number % 3:
            image_of(own_faces, number).write_bytes(b"no image")
    stored, none = both(configure, data_root=own_faces, batch_size=3, max_failures=0.5)
    assert [shard.rows for shard in recorded(none)] != [16, 16, 8]
    failed = {failure.id for shard in require_manifest(none.storage / "sample").shards for failure in shard.failed}
    assert failed == {example for example, _, _ in none.record.failed}
    assert_same_rows(stored, none)
    make_sample_again(none)
    assert_same_rows(stored, none)


def test_a_model_of_a_fixed_batch_and_one_that_looks_at_its_whole_run(configure: Configure, tmp_path: Path) -> None:
    assert_same_again(*both(configure, model=write_cnn(tmp_path / "fixed.onnx", batch=3)))
    crowd = write_crowd_model(tmp_path / "crowd.onnx")
    stored, none = both(configure, model=crowd, preprocessing="imagenet", refresh=True)
    assert_same_again(stored, none)
    other = run_extraction(
        configure(model=crowd, preprocessing="imagenet", batch_size=7, name="other", cache_format="none")
    )
    (layer,) = other.model.layers
    assert not np.allclose(read_rows(other, layer), read_rows(none, layer))  # what the runs were does matter here


def test_the_sample_model_on_drawn_faces(configure: Configure, photos: Path) -> None:
    assert_same_again(
        *both(configure, model=SAMPLE_MODEL, dataset="folder", data_root=photos, shard_size=100, batch_size=32)
    )


def labels_of(done: Extracted, fits: tuple[FitRecord, ...]) -> list[Labels]:
    """Of all shards and layers; their files are removed."""
    found = []
    for fit in fits:
        for shard in recorded(done):
            labels = read_labels(done.directory / fit.directory, fit, shard)
            assert labels is not None
            found.append(labels)
            (done.directory / fit.directory / labels_file(shard.index)).unlink()
    return found


def assert_same_labels(one: list[Labels], other: list[Labels]) -> None:
    for first, second in zip(one, other, strict=True):
        for values, expected in zip(vars(first).values(), vars(second).values(), strict=True):
            np.testing.assert_array_equal(values, expected, strict=True)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_shard_is_assigned_alike_from_its_activations_and_by_running_the_model(
    configure: Configure, distance: str, dtype: str, runs: list[int]
) -> None:
    stored, none = both(configure, dtype, distance=distance)
    _, fits, _ = cluster(stored)
    _, fits_of_none, _ = cluster(none)
    assert [fit.digest for fit in fits] == [fit.digest for fit in fits_of_none]
    expected = labels_of(stored, fits)
    assert_same_labels(labels_of(none, fits_of_none), expected)  # from the sample's activations
    (none.storage / "sample").remove_tree()
    runs.clear()
    for shard in recorded(none):
        assign_shard(none.job, shard, fits_of_none)
    assert runs == [8, 8, 8, 8, 8]  # every image once, for all layers
    assert_same_labels(labels_of(none, fits_of_none), expected)


def test_running_again_keeps_the_activations_of_some_and_runs_only_what_has_them(
    configure: Configure, runs: list[int]
) -> None:
    done = run_extraction(configure(cache_format="none"))
    whole = {layer: read_rows(done, layer) for layer in LAYERS}
    (done.storage / "sample").remove_tree()
    some = done.ids[[0, 7, 39]]
    parts = plan_sample(done.storage, some)
    assert sorted(parts) == [0, 2]
    runs.clear()
    seen: list[int] = []
    for shard in recorded(done):
        if shard.index in parts:
            run_again(done.job, shard, (), parts[shard.index], seen.append)
    assert runs == [8, 8]  # the first run of shard 0, the only one of shard 2
    assert seen == [8, 8, 8]  # progress counts every image of the shards
    for layer in LAYERS:
        np.testing.assert_array_equal(read_rows(done, layer, ids=some), whole[layer][[0, 7, 39]])


def test_runs_are_counted_in_rows_that_could_be_read() -> None:
    failed = tuple(FailedExample(id=i, file="", reason="") for i in (2, 4, 5, 6, 7))
    shard = ShardRecord(index=0, ids="0-9", start=0, rows=5, failed=failed, batch=4)
    assert run_edges(shard).tolist() == [0, 3, 5]  # 0 1 3; none of 4 … 7; 8 9
    assert run_edges(ShardRecord(index=0, ids="0-8", start=64, rows=9, batch=4)).tolist() == [0, 4, 8, 9]
    with pytest.raises(CacheError, match="how its images were batched"):
        run_edges(ShardRecord(index=0, ids="0-8", start=64, rows=9))


@pytest.mark.parametrize("harm", ["flipped", "short", "gone"])
def test_corrupted_images_are_found_before_the_model_runs(configure: Configure, harm: str, runs: list[int]) -> None:
    done = run_extraction(configure(cache_format="none"))
    _, fits, _ = cluster(done)
    path = done.directory / "pixels" / "00002.rgb"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flipped" else content[:-1])
    shard, runs[:] = recorded(done)[2], []
    labels = [(done.directory / fit.directory / labels_file(2)) for fit in fits]
    for file in labels:
        file.unlink()
    with pytest.raises(CorruptedShardError, match=r"The images of shard 2 .* The shard is extracted again") as caught:
        assign_shard(done.job, shard, fits)
    assert caught.value.shard == 2
    with pytest.raises(CorruptedShardError):
        run_again(done.job, shard, (), plan_sample(done.storage, done.ids)[2])
    assert runs == []
    assert not any(file.exists() for file in labels)
    for index in (0, 1):
        assign_shard(done.job, recorded(done)[index], fits)


def test_memory_does_not_grow_with_the_images(configure: Configure, tmp_path: Path) -> None:
    """numpy's, which is nearly all; ONNX Runtime's own is that of one run."""
    peaks = []
    for count in (100, 800):
        data = write_celeba(tmp_path / f"{count}", range(1, count + 1), colour=lambda number: (number % 256, 0, 0))
        done = run_extraction(configure(cache_format="none", data_root=data, name=str(count), shard_size=32))
        _, fits, _ = cluster(done)
        assign_shard(done.job, recorded(done)[0], fits)  # sessions and centroids
        tracemalloc.start()
        for shard in recorded(done):
            assign_shard(done.job, shard, fits)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 800 * 4 * SIZE * SIZE * 4 / 2  # half of conv1's activations

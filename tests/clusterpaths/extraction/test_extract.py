from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.registry import require_registry, write_registry
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.assign import labels_file, read_labels
from clusterpaths.config import RunConfig
from clusterpaths.datasets import open_dataset
from clusterpaths.errors import ExtractionError, Float16OverflowError
from clusterpaths.extraction import extract
from clusterpaths.extraction import plan as plan_module
from clusterpaths.extraction.begin import begin_extraction, widen_layers
from clusterpaths.extraction.extract import extract_shard
from clusterpaths.extraction.finish import finish_extraction
from clusterpaths.models.session import TapSession
from clusterpaths.preprocessing.prepare import normalise, resize
from tests.clusterpaths.conftest import (
    LAYERS,
    NUMBERS,
    SIZE,
    Extracted,
    cluster,
    extract_planned,
    image_of,
    make_plan,
    read_rows,
    run_extraction,
    run_stages,
    write_celeba,
    write_cnn,
)

Configure = Callable[..., RunConfig]
IDS = [number - 1 for number in NUMBERS]


def alone(done: Extracted, example: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Activations and logits of one image, by its file name, run on its own in float32."""
    image = open_dataset(done.job.dataset).read_image(f"{example + 1:06d}.jpg")
    pixels = resize(image, done.job.preprocessing.size)[None]
    outputs = TapSession(done.job.model).run(normalise(pixels, done.job.preprocessing))
    assert outputs.logits is not None
    return {layer: values[0].ravel() for layer, values in outputs.layers.items()}, outputs.logits[0]


def check_every_row(done: Extracted) -> None:
    examples = read_examples(done.storage)
    by_id = {row["id"]: row for row in examples.to_pylist()}
    described = {row["id"]: row for row in require_registry(done.storage).to_pylist()}
    rows = {layer: read_rows(done, layer) for layer in LAYERS}
    for at, example in enumerate(done.ids.tolist()):
        activations, logits = alone(done, example)
        for layer in LAYERS:
            np.testing.assert_allclose(rows[layer][at], activations[layer], rtol=2e-3, atol=1e-3, err_msg=str(example))
        row = by_id[example]
        assert row["file"] == f"{example + 1:06d}.jpg"
        np.testing.assert_allclose(row["logits"], logits, rtol=1e-4, atol=1e-5)
        assert row["prediction"] == int(logits.argmax())
        assert described[example]["file"] == row["file"]
        assert described[example]["digest"] == row["digest"]
        assert described[example]["label"] == (example + 1) % 5
        assert described[example]["split"] == ("train", "valid", "test")[(example + 1) % 3]
        assert row["size"] == done_size(done, example)


def done_size(done: Extracted, example: int) -> int:
    return image_of(Path(done.job.dataset.root), example + 1).stat().st_size


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_every_row_belongs_to_its_image(configure: Configure, cache_format: str) -> None:
    check_every_row(run_extraction(configure(cache_format=cache_format)))


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_corrupt_and_missing_images_in_the_middle_shift_nothing(
    configure: Configure, own_faces: Path, cache_format: str
) -> None:
    contents = {4: b"", 17: b"<html>not an image</html>", 26: image_of(own_faces, 26).read_bytes()[:200]}
    for number, content in contents.items():
        image_of(own_faces, number).write_bytes(content)
    config = configure(data_root=own_faces, cache_format=cache_format, max_failures=0.2, batch_size=3)
    model, plan, job = make_plan(config)
    begin_extraction(plan)
    for number in (5, 58):  # listed, and gone before they are read
        image_of(own_faces, number).unlink()
    done = extract_planned(config, model, plan, job)

    failed = {3: "empty", 16: "not an image", 25: "", 4: "missing", 57: "missing"}
    assert done.ids.tolist() == [i for i in IDS if i not in failed]
    assert {f[0]: f[1] for f in done.record.failed} == {i: f"{i + 1:06d}.jpg" for i in failed}
    assert all(failed[example] in reason for example, _, reason in done.record.failed)
    check_every_row(done)
    examples = {row["id"]: row for row in read_examples(done.storage).to_pylist()}
    assert sorted(examples) == IDS
    for example in failed:
        row = examples[example]
        assert (row["row"], row["logits"], row["prediction"]) == (None, None, -1)
        assert row["error"]
        assert not (done.directory / "conv1" / f"{example}.npy").exists()
    shards = require_manifest(done.storage).shards
    assert [f.id for shard in shards for f in shard.failed] == sorted(failed)
    assert [shard.rows for shard in shards] == [16 - 3, 16 - 1, 8 - 1]


def test_published_paths_of_the_remaining_images_belong_to_them(configure: Configure, own_faces: Path) -> None:
    for number in (4, 26):
        image_of(own_faces, number).write_bytes(b"no image")
    done = run_stages(configure(data_root=own_faces, max_failures=0.1))
    centroids = np.load(done.published.path / "centroids.npz")
    paths = json.loads((done.published.path / "paths.json").read_text())
    assert list(paths) == [f"example_{i:04d}" for i in IDS if i not in (3, 25)]
    assert done.published.record.num_failed == 2
    for example in done.ids.tolist():
        activations, _ = alone(done, example)
        path = [int(((centroids[layer] - activations[layer]) ** 2).sum(axis=1).argmin()) for layer in LAYERS]
        assert paths[f"example_{example:04d}"] == path


def test_a_shard_of_nothing_but_failures_is_whole(configure: Configure, own_faces: Path) -> None:
    for number in NUMBERS[16:32]:
        image_of(own_faces, number).write_bytes(b"no image")
    for cache_format in ("npy", "zarr", "none"):
        config = configure(data_root=own_faces, max_failures=0.5, cache_format=cache_format, name=cache_format)
        done = run_extraction(config)
        assert done.ids.tolist() == IDS[:16] + IDS[32:]
        assert make_plan(config)[1].pending == ()
        check_every_row(done)


def test_too_many_failures_stop_the_shard_and_name_the_files(configure: Configure, own_faces: Path) -> None:
    for number in NUMBERS[2:7]:
        image_of(own_faces, number).write_bytes(b"no image")
    config = configure(data_root=own_faces, max_failures=0.05, batch_size=1)
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    with pytest.raises(
        ExtractionError, match=r"3 images cannot be read, and at most 2 may fail: 000004.jpg \(not an .*--max-failures"
    ):
        extract_shard(job, plan.manifest.shards[0])
    assert require_manifest(config.cache_dir).shards[0].rows is None


def test_progress_adds_up_to_the_shard(configure: Configure) -> None:
    _, plan, job = make_plan(configure(batch_size=5))
    begin_extraction(plan)
    seen: list[int] = []
    extract_shard(job, plan.manifest.shards[0], progress=seen.append)
    assert seen == [5, 5, 5, 1]


def test_images_that_went_after_planning_are_told(configure: Configure, own_faces: Path) -> None:
    _, plan, job = make_plan(configure(data_root=own_faces))
    begin_extraction(plan)
    image_of(own_faces, NUMBERS[-1]).unlink()
    make_plan(configure(data_root=own_faces, name="other"))  # looks anew
    with pytest.raises(ExtractionError, match=r"1 images cannot be read, .*: 000059.jpg \(missing\)"):
        extract_shard(job, plan.manifest.shards[2])


def test_shards_of_other_images_than_the_cache_knows_are_refused(configure: Configure, own_faces: Path) -> None:
    _, plan, job = make_plan(configure(data_root=own_faces))
    begin_extraction(plan)
    registry = require_registry(job.storage)
    write_registry(job.storage, registry.slice(0, len(registry) - 1))
    with pytest.raises(
        ExtractionError, match=r"Shard 2 was planned for images that are no longer in .*Run the flow again"
    ):
        extract_shard(job, plan.manifest.shards[2])


@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
def test_layer_beyond_float16_is_kept_as_float32_and_the_manifest_says_so(
    configure: Configure, tmp_path: Path, cache_format: str
) -> None:
    config = configure(model=write_cnn(tmp_path / "large.onnx", factor=1e6), cache_format=cache_format)
    model, plan, job = make_plan(config)
    begin_extraction(plan)
    with pytest.raises(Float16OverflowError, match="conv2") as caught:
        extract_shard(job, plan.manifest.shards[0])
    assert set(caught.value.layers) == {"conv2", "fc1"}
    assert require_manifest(config.cache_dir).shards[0].rows is None
    widened = widen_layers(config.cache_dir, caught.value.layers)
    assert [(shard.index, shard.rows) for shard in widened.shards] == [(0, None), (1, None), (2, None)]
    wider = job.model_copy(update={"cache": widened.identity})
    for shard in widened.shards:
        extract_shard(wider, shard)
    done = Extracted(config, model, plan, wider, finish_extraction(config.cache_dir, plan.example_ids(), 0))
    manifest = require_manifest(done.storage)
    dtypes = {name: layer.dtype for name, layer in manifest.layers.items()}
    assert dtypes == {"conv1": "float16", "conv2": "float32", "fc1": "float32"}
    assert manifest.dtype == "float16"
    assert make_plan(config)[1].pending == ()
    assert read_rows(done, "conv2").max() > 65504
    np.testing.assert_allclose(read_rows(done, "conv2")[3], alone(done, IDS[3])[0]["conv2"], rtol=1e-5)


def test_layer_beyond_float16_of_a_cache_of_images_has_a_sample_of_float32(
    configure: Configure, tmp_path: Path
) -> None:
    model = write_cnn(tmp_path / "large.onnx", factor=1e6)
    done = run_extraction(configure(model=model, cache_format="none", cache_dtype="float16"))
    npy = run_extraction(configure(model=model, cache_format="npy", name="npy"))
    dtypes = {name: layer.dtype for name, layer in require_manifest(done.storage).layers.items()}
    assert dtypes == {"conv1": "float16", "conv2": "float32", "fc1": "float32"}
    assert require_manifest(done.storage / "sample").layers == require_manifest(done.storage).layers
    for layer in LAYERS:
        np.testing.assert_array_equal(read_rows(done, layer), read_rows(npy, layer))


@pytest.mark.parametrize(("cache_format", "batch_size"), [("npy", 32), ("npy", 1), ("zarr", 32), ("none", 32)])
@pytest.mark.parametrize(("factor", "offset"), [(1e-9, 0.0), (1.0, 3000.0)], ids=["tiny", "large offset"])
def test_layer_whose_differences_float16_would_lose_is_float32(
    configure: Configure, tmp_path: Path, factor: float, offset: float, cache_format: str, batch_size: int
) -> None:
    """Activations of about 1e-8 are 0 in float16; around 3,000 its steps are 2."""
    model = write_cnn(tmp_path / "changed.onnx", factor=factor, offset=offset)
    config = configure(model=model, cache_format=cache_format, cache_dtype="float16", batch_size=batch_size)
    done = run_extraction(config)
    assert {name: layer.dtype for name, layer in require_manifest(done.storage).layers.items()}["conv2"] == "float32"
    assert require_manifest(done.storage).layers["conv1"].dtype == "float16"
    rows = read_rows(done, "conv2")
    expected = np.stack([alone(done, example)[0]["conv2"] for example in done.ids.tolist()])
    differences = expected - expected.mean(axis=0)
    assert np.abs(rows - expected).max() < 0.01 * differences.std()


@pytest.mark.parametrize("batch_size", [1, 16])
def test_dead_layers_and_equal_images_stay_float16(configure: Configure, tmp_path: Path, batch_size: int) -> None:
    """Nothing is lost: every value is 0, or all images are the same."""
    for colour in (0, 7):
        data = write_celeba(tmp_path / f"faces {colour}", colour=lambda _, c=colour: (c,) * 3)
        done = run_extraction(configure(data_root=data, name=f"c{colour}", batch_size=batch_size))
        assert {layer.dtype for layer in require_manifest(done.storage).layers.values()} == {"float16"}


def test_overflow_in_a_late_shard_makes_all_shards_again(configure: Configure, tmp_path: Path) -> None:
    bright = NUMBERS[-1]
    data = write_celeba(tmp_path / "faces", colour=lambda number: (255,) * 3 if number == bright else (1, 1, 1))
    done = run_extraction(configure(data_root=data, model=write_cnn(tmp_path / "m.onnx", factor=1e5)))
    layers = require_manifest(done.storage).layers
    assert layers["conv2"].dtype == "float32"
    assert layers["conv1"].dtype == "float16"
    assert np.load(done.directory / "conv2" / "0.npy").dtype == np.float32
    assert len(read_rows(done, "conv2")) == 40


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_values_that_are_not_finite_are_told_with_layer_and_example(
    configure: Configure, tmp_path: Path, dtype: str
) -> None:
    data = write_celeba(tmp_path / "faces", colour=lambda number: (255,) * 3 if number == 8 else (0, 0, 0))
    config = configure(
        data_root=data, model=write_cnn(tmp_path / "m.onnx", factor=3e38), cache_dtype=dtype, batch_size=4
    )
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    with pytest.raises(ExtractionError, match=r"Layer conv2 .* not finite .* example 7 \(000008\.jpg\).*--layers"):
        extract_shard(job, plan.manifest.shards[0])
    assert require_manifest(config.cache_dir).shards[0].rows is None
    without = config.model_copy(update={"layers": ("conv1",), "name": "conv1"})
    with pytest.raises(
        ExtractionError, match=r"The output logits holds class scores that are not finite .* example 7 \(000008\.jpg\)"
    ):
        run_extraction(without)
    fine = run_extraction(without.model_copy(update={"logits": "none"}))
    assert len(fine.ids) == 40


def raw_bytes(done: Extracted) -> dict[str, bytes]:
    return {layer: b"".join((done.directory / layer / f"{i}.npy").read_bytes() for i in IDS) for layer in LAYERS}


def test_shard_size_does_not_change_a_bit_where_batches_stay_whole(configure: Configure) -> None:
    one = run_extraction(configure(shard_size=40, batch_size=8, name="one"))
    many = run_extraction(configure(shard_size=8, batch_size=8, name="many"))
    assert raw_bytes(one) == raw_bytes(many)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_no_more_than_rounding(configure: Configure, batch_size: int) -> None:
    """Not bit-equal in general: matrix products of other heights may be summed in another order."""
    one = run_extraction(configure(batch_size=8, cache_dtype="float32", name="one"))
    other = run_extraction(configure(batch_size=batch_size, shard_size=9, cache_dtype="float32", name="other"))
    for layer in LAYERS:
        np.testing.assert_allclose(read_rows(one, layer), read_rows(other, layer), rtol=1e-5, atol=1e-5)


def test_zarr_and_npy_hold_the_same_bytes_and_checksums(configure: Configure) -> None:
    npy, zarr = (run_extraction(configure(cache_format=f, name=f)) for f in ("npy", "zarr"))
    for layer in LAYERS:
        np.testing.assert_array_equal(read_rows(npy, layer), read_rows(zarr, layer))
    assert require_manifest(npy.storage).shards == require_manifest(zarr.storage).shards


@pytest.mark.parametrize("fixed", [1, 8])
def test_fixed_batch_models_fill_the_cache_like_any(configure: Configure, tmp_path: Path, fixed: int) -> None:
    any_batch = run_extraction(configure(name="any"))
    done = run_extraction(configure(model=write_cnn(tmp_path / "m.onnx", batch=fixed), name="fixed"))
    assert done.job.batch_size == fixed
    for layer in LAYERS:
        np.testing.assert_allclose(read_rows(done, layer), read_rows(any_batch, layer), rtol=2e-3, atol=1e-3)


def test_failed_images_fit_a_fixed_batch(configure: Configure, tmp_path: Path, own_faces: Path) -> None:
    image_of(own_faces, 5).write_bytes(b"no image")
    model = write_cnn(tmp_path / "m.onnx", batch=8)
    check_every_row(run_extraction(configure(model=model, data_root=own_faces, max_failures=0.1)))


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_fits_change_nothing_of_what_is_extracted_and_assign_as_the_cache_does(
    configure: Configure, cache_format: str
) -> None:
    """The labels of a shard, to the bit, whether it is assigned while it is extracted or afterwards."""
    afterwards = run_extraction(configure(cache_format=cache_format, name="afterwards"))
    _, fits, _ = cluster(afterwards)
    config = configure(cache_format=cache_format, name="fused")
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    shutil.copytree(afterwards.directory / "clusterings", config.cache_dir.path / "clusterings")
    for fit in fits:
        for shard in plan.manifest.shards:
            config.cache_dir.remove(f"{fit.directory}/{labels_file(shard.index)}")
    records = [extract_shard(job, shard, fits) for shard in plan.manifest.shards]
    assert tuple(records) == require_manifest(afterwards.storage).shards
    for fit in fits:
        for record in records:
            one, other = (
                read_labels(done.path / fit.directory, fit, record) for done in (config.cache_dir, afterwards.storage)
            )
            assert one is not None
            assert other is not None
            for values, expected in zip(vars(one).values(), vars(other).values(), strict=True):
                np.testing.assert_array_equal(values, expected, strict=True)
    if cache_format != "none":
        for layer in LAYERS:
            np.testing.assert_array_equal(
                read_rows(afterwards, layer),
                np.concatenate([block for _, block in LayerRows(config.cache_dir, layer, afterwards.ids).blocks()]),
            )


def test_labels_are_written_before_the_shard_counts(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed in between extracts the shard again; a shard that counts is assigned."""
    done = run_extraction(configure(name="other"))
    _, fits, _ = cluster(done)
    config = configure()
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    shutil.copytree(done.directory / "clusterings", config.cache_dir.path / "clusterings")
    monkeypatch.setattr(extract, "record_shard", Mock(side_effect=KeyboardInterrupt))
    files = [config.cache_dir.path / fit.directory / labels_file(0) for fit in fits]
    for file in files:
        file.unlink()
    with pytest.raises(KeyboardInterrupt):
        extract_shard(job, plan.manifest.shards[0], fits)
    assert all(file.is_file() for file in files)
    assert require_manifest(config.cache_dir).shards[0].rows is None


@pytest.mark.parametrize("keep_all", [True, False])
def test_activations_of_the_sample_are_kept_beside_images(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, keep_all: bool
) -> None:
    if not keep_all:
        monkeypatch.setattr(plan_module, "fit_size", lambda _k: 12)
    npy = run_extraction(configure(cache_format="npy", shard_size=7, name="npy"))
    none = run_extraction(configure(cache_format="none", shard_size=7, cache_dtype="float16", name="none"))
    ids = none.plan.sample_ids()
    assert len(ids) == (40 if keep_all else 12)
    for layer in LAYERS:
        np.testing.assert_array_equal(read_rows(none, layer, ids=ids), read_rows(npy, layer, ids=ids))
    own = require_manifest(none.storage / "sample")
    assert (own.format, own.dtype) == ("zarr", "float16")
    assert np.concatenate([shard.row_ids() for shard in own.shards]).tolist() == ids.tolist()


@pytest.mark.parametrize("cache_format", ["npy", "none"])
def test_a_square_beyond_float32_is_refused(configure: Configure, tmp_path: Path, cache_format: str) -> None:
    config = configure(
        model=write_cnn(tmp_path / "m.onnx", factor=1e22), cache_dtype="float32", cache_format=cache_format
    )
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    with pytest.raises(
        ExtractionError, match=r"Layer conv2 outputs values up to .*e\+2.*squared lengths exceed float32.*--layers"
    ):
        extract_shard(job, plan.manifest.shards[0])
    assert require_manifest(config.cache_dir).shards[0].rows is None


def test_size_of_the_input_is_the_preprocessings(configure: Configure) -> None:
    assert run_extraction(configure(subset=5)).job.preprocessing.size == (SIZE, SIZE)

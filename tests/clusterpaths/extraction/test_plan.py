from __future__ import annotations

import dataclasses
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import parse_ids, require_manifest
from clusterpaths.cache.registry import require_registry
from clusterpaths.cache.rows import LayerRows
from clusterpaths.cache.stores import size_on_disk
from clusterpaths.clustering.identity import require_enough
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, ConfigError, DiskError, ExtractionError
from clusterpaths.extraction.begin import begin_extraction, mark_missing
from clusterpaths.extraction.extract import extract_shard
from clusterpaths.extraction.finish import finish_extraction
from clusterpaths.extraction.plan import check_room, human_bytes
from clusterpaths.extraction.sample import plan_sample
from tests.clusterpaths.conftest import (
    LAYERS,
    NUMBERS,
    extract_planned,
    image_of,
    make_plan,
    run_extraction,
    run_stages,
    write_celeba,
    write_cnn,
    write_image,
)

Configure = Callable[..., RunConfig]
FORMATS = ("npy", "zarr", "none")
IDS = [number - 1 for number in NUMBERS]


def contents(directory: Path) -> dict[str, bytes]:
    """All of a cache that describes or is a result, but for times."""
    found = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and ".lock" not in path.name):
        if path.name == "report.html":
            continue  # it tells how long the stages took
        content = path.read_bytes()
        if path.name in ("set.json", "metadata.json"):
            content = json.dumps({**json.loads(content), "created": None, "config": None, "stages": None}).encode()
        found[str(path.relative_to(directory))] = content
    return found


def times(directory: Path) -> dict[str, int]:
    folders = [directory / name for name in (*LAYERS, "pixels", "examples")]
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json")
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_planning_takes_no_look_at_all_examples_for_each_shard(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a million shards that would take weeks."""
    isin, looks = np.isin, {}
    for size in (1, 16):
        calls: list[int] = []
        monkeypatch.setattr(np, "isin", lambda *given, seen=calls, **more: (seen.append(1), isin(*given, **more))[1])
        _, plan, _ = make_plan(configure(shard_size=size))
        plan.shards_of(plan.example_ids())
        looks[len(plan.manifest.shards)] = len(calls)
    assert sorted(looks) == [3, 40]
    assert looks[40] == looks[3]


def test_nothing_cached_plans_all_in_consecutive_shards(configure: Configure) -> None:
    config = configure()
    _, plan, job = make_plan(config)
    assert (plan.pending, plan.wanted, plan.cached, plan.values) == ((0, 1, 2), 40, 0, 4 * 256 + 6 * 64 + 10)
    shards = plan.manifest.shards
    assert [len(shard.planned_ids()) for shard in shards] == [16, 16, 8]
    assert np.concatenate([shard.planned_ids() for shard in shards]).tolist() == IDS
    assert [shard.start for shard in shards] == [0, 64, 128]  # whole chunks each
    assert job.batch_size == 8
    assert not config.cache_dir.path.exists()  # a plan only reads


def test_shards_larger_than_a_chunk_start_at_the_next_whole_one(configure: Configure, tmp_path: Path) -> None:
    data = write_celeba(tmp_path / "many", range(1, 151), colour=lambda number: (number, 0, 0))
    _, plan, _ = make_plan(configure(data_root=data, shard_size=65, workers=1))
    assert [shard.start for shard in plan.manifest.shards] == [0, 128, 256]


@pytest.mark.parametrize(
    ("workers", "most", "sizes"),
    [
        (1, 1024, [128, 22]),
        (2, 1024, [64, 64, 22]),
        (16, 1024, [64, 64, 22]),
        (2, 60, [60, 60, 30]),
        (2, 7, [7] * 21 + [3]),
    ],
)
def test_few_examples_are_in_smaller_shards_so_that_every_worker_has_some(
    configure: Configure, tmp_path: Path, workers: int, most: int, sizes: list[int]
) -> None:
    """Two shards a worker, of complete chunks."""
    data = write_celeba(tmp_path / "many", range(1, 151), colour=lambda number: (number, 0, 0))
    _, plan, _ = make_plan(configure(data_root=data, shard_size=most, workers=workers))
    assert [len(shard.planned_ids()) for shard in plan.manifest.shards] == sizes


@pytest.mark.parametrize("cache_format", FORMATS)
def test_all_cached_leaves_nothing_to_do_and_touches_no_file(configure: Configure, cache_format: str) -> None:
    config = configure(cache_format=cache_format)
    first = run_extraction(config)
    before = times(first.directory)
    again = run_extraction(config)
    # a cache of images has the sample's activations for a while, for another k
    more = size_on_disk("zarr", again.plan.manifest.layers, 40) if cache_format == "none" else (0, 0)
    assert (again.plan.pending, again.plan.cached, again.plan.files, again.plan.bytes) == ((), 40, *more)
    assert times(first.directory) == before
    assert again.record == first.record


@pytest.mark.parametrize("cache_format", FORMATS)
def test_dead_layer_is_cached_like_any_other(configure: Configure, tmp_path: Path, cache_format: str) -> None:
    config = configure(model=write_cnn(tmp_path / "dead.onnx", dead=True), cache_format=cache_format)
    run_extraction(config)
    assert make_plan(config)[1].pending == ()


@pytest.mark.parametrize("cache_format", FORMATS)
def test_subset_then_all_extracts_only_the_rest(configure: Configure, cache_format: str) -> None:
    first = run_extraction(configure(subset=5, cache_format=cache_format))
    assert first.ids.tolist() == IDS[:5]
    before = times(first.directory)
    whole = run_extraction(configure(cache_format=cache_format))
    assert (whole.plan.cached, whole.plan.wanted) == (5, 40)
    assert whole.ids.tolist() == IDS
    after = times(first.directory)
    assert {path: after[path] for path in before} == before
    some = run_extraction(configure(subset=7, cache_format=cache_format))
    assert (some.plan.pending, some.ids.tolist()) == ((), IDS[:7])


def test_split_takes_its_examples_and_another_split_adds_its_own(configure: Configure) -> None:
    train = run_extraction(configure(split="valid"))  # number % 3 == 1
    assert train.ids.tolist() == [number - 1 for number in NUMBERS if number % 3 == 1]
    both = run_extraction(configure())
    assert both.plan.cached == len(train.ids)


@pytest.mark.parametrize("cache_format", FORMATS)
def test_grown_data_folder_extracts_only_the_new_images(
    configure: Configure, own_faces: Path, cache_format: str
) -> None:
    config = configure(data_root=own_faces, cache_format=cache_format)
    before = times(run_extraction(config).directory)
    new = [3, 6, 30, 60]
    for number in new:
        write_image(image_of(own_faces, number), number)
    grown = run_extraction(config)
    assert grown.plan.cached == 40
    assert [parse_ids(s.ids).tolist() for s in grown.plan.manifest.shards if s.index in grown.plan.pending] == [
        [number - 1 for number in new]
    ]
    assert grown.ids.tolist() == sorted(IDS + [number - 1 for number in new])
    after = times(grown.directory)
    assert {path: after[path] for path in before} == before
    ids = read_examples(grown.storage, ["id", "file"])
    assert ids["id"].to_pylist() == grown.ids.tolist()
    assert ids["file"].to_pylist() == [f"{example + 1:06d}.jpg" for example in grown.ids]


def test_shrunk_data_folder_needs_no_extraction(configure: Configure, own_faces: Path) -> None:
    config = configure(data_root=own_faces)
    run_extraction(config)
    image_of(own_faces, 4).unlink()
    image_of(own_faces, 59).unlink()
    shrunk = run_extraction(config)
    assert shrunk.plan.pending == ()
    assert shrunk.ids.tolist() == [i for i in IDS if i not in (3, 58)]


@pytest.mark.parametrize("cache_format", FORMATS)
@pytest.mark.parametrize("harm", ["one layer's file", "all of one example", "part"])
def test_deleted_files_make_just_that_shard_again(configure: Configure, cache_format: str, harm: str) -> None:
    config = configure(cache_format=cache_format)
    done = run_extraction(config)
    before, whole = times(done.directory), contents(done.directory)
    example = IDS[20]  # in shard 1
    layers = LAYERS[:1] if harm == "one layer's file" else LAYERS
    if harm == "part":
        (done.directory / "examples" / "00001.parquet").unlink()
    elif cache_format == "npy":
        for layer in layers:
            (done.directory / layer / f"{example}.npy").unlink()
    elif cache_format == "none":
        pixels = done.directory / "pixels" / "00001.rgb"
        pixels.unlink() if layers == LAYERS else pixels.write_bytes(pixels.read_bytes()[:-1])
    else:
        for layer in layers:
            shutil.rmtree(done.directory / layer / "c" / "1")
    again = run_extraction(config)
    assert again.plan.pending == (1,)
    assert contents(done.directory) == whole
    in_shard = [f"{i}.npy" for i in again.plan.manifest.shards[1].row_ids()]
    for path, time in times(done.directory).items():
        of_shard = Path(path).name in [*in_shard, "00001.parquet", "00001.rgb"] or "/c/1/" in path
        assert (time != before[path]) == of_shard, path


@pytest.mark.parametrize("cache_format", FORMATS)
@pytest.mark.parametrize("made", [(), (1,), (0, 2)])
def test_resumed_run_leaves_the_bytes_of_an_uninterrupted_one(
    configure: Configure, tmp_path: Path, cache_format: str, made: tuple[int, ...]
) -> None:
    whole = run_stages(configure(cache_root=tmp_path / "a", cache_format=cache_format))
    # resumed with another shard size: what was planned stays planned
    config = configure(cache_root=tmp_path / "b", cache_format=cache_format)
    _, plan, job = make_plan(config)
    begin_extraction(plan)
    parts = plan_sample(config.cache_dir, plan.sample_ids()) if cache_format == "none" else {}
    for index in made:
        extract_shard(job, plan.manifest.shards[index], sample=parts.get(index))
    before = times(config.cache_dir.path)
    resumed = run_stages(configure(cache_root=tmp_path / "b", cache_format=cache_format, shard_size=5))
    assert resumed.plan.pending == tuple(index for index in range(3) if index not in made)
    after = times(config.cache_dir.path)
    assert {path: after[path] for path in before} == before
    assert contents(resumed.directory) == contents(whole.directory)


def test_killed_in_the_middle_of_a_shard_is_as_if_it_had_not_begun(configure: Configure, tmp_path: Path) -> None:
    whole = run_stages(configure(cache_root=tmp_path / "a"))
    config = configure(cache_root=tmp_path / "b")
    _, plan, _ = make_plan(config)
    begin_extraction(plan)
    directory = config.cache_dir.path
    (directory / "conv1" / "0.npy").write_bytes(b"half")
    (directory / "examples").mkdir()
    (directory / "examples" / ".00000.parquet.1a2b3c4d.partial").write_bytes(b"half")
    (directory / ".manifest.json.1a2b3c4d.partial").write_bytes(b"half")
    resumed = run_stages(config)
    assert contents(resumed.directory) == contents(whole.directory)


def test_resume_with_fewer_examples_drops_what_was_only_planned(configure: Configure) -> None:
    _, plan, job = make_plan(configure())
    begin_extraction(plan)
    extract_shard(job, plan.manifest.shards[0])
    some = run_extraction(configure(subset=20))
    assert (some.plan.cached, some.ids.tolist()) == (16, IDS[:20])
    assert [shard.rows for shard in require_manifest(some.storage).shards] == [16, 4]
    assert run_extraction(configure()).ids.tolist() == IDS


@pytest.mark.parametrize("cache_format", FORMATS)
def test_changed_images_are_new_examples_and_nothing_else_is_extracted(
    configure: Configure, own_faces: Path, cache_format: str
) -> None:
    config = configure(data_root=own_faces, cache_format=cache_format)
    done = run_extraction(config)
    before = times(done.directory)
    for number in (5, 7):
        write_image(image_of(own_faces, number), 99 + number, (80, 90))
    _, plan, _ = make_plan(config)
    assert (plan.cached, plan.missing) == (38, 2)
    changed = run_extraction(config)
    assert changed.ids.tolist() == [i for i in IDS if i not in (4, 6)] + [59, 60]
    assert {path: time for path, time in times(done.directory).items() if path in before} == before
    files = read_examples(changed.storage, ["id", "file"]).to_pylist()
    assert [row["file"] for row in files if row["id"] > 58] == ["000005.jpg", "000007.jpg"]
    assert make_plan(configure(data_root=own_faces, refresh=True))[1].pending == (0, 1, 2)


def test_failed_image_that_was_mended_is_extracted_and_the_others_are_not(
    configure: Configure, own_faces: Path
) -> None:
    broken = [image_of(own_faces, number) for number in (5, 44)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:100])
    config = configure(data_root=own_faces, max_failures=0.1)
    first = run_extraction(config)
    assert [failure[0] for failure in first.record.failed] == [4, 43]
    assert make_plan(config)[1].pending == ()  # as broken as before: not tried again
    write_image(broken[0], 5)
    second = run_extraction(config)
    assert [parse_ids(second.plan.manifest.shards[index].ids).tolist() for index in second.plan.pending] == [[4]]
    assert [failure[0] for failure in second.record.failed] == [43]
    assert second.ids.tolist() == [i for i in IDS if i != 43]
    fresh = run_extraction(configure(data_root=own_faces, max_failures=0.1, name="fresh"))
    for layer in LAYERS:
        rows = [next(LayerRows(x.storage, layer, x.ids).blocks())[1] for x in (second, fresh)]
        np.testing.assert_allclose(*rows, rtol=2e-3, atol=1e-3)
    assert make_plan(config)[1].pending == ()


@pytest.mark.parametrize("cache_format", FORMATS)
def test_mended_image_survives_the_loss_of_the_shard_in_which_it_failed(
    configure: Configure, own_faces: Path, cache_format: str
) -> None:
    image_of(own_faces, 5).write_bytes(b"broken")
    config = configure(data_root=own_faces, max_failures=0.1, cache_format=cache_format)
    run_extraction(config)
    write_image(image_of(own_faces, 5), 5)
    mended = run_extraction(config)
    mark_missing(mended.storage, 0)
    again = run_extraction(config)
    assert again.ids.tolist() == IDS
    examples = read_examples(again.storage, ["id", "error"])
    assert (examples["id"].to_pylist(), set(examples["error"].to_pylist())) == (IDS, {None})
    assert sum(len(block) for _, block in LayerRows(again.storage, "conv1", again.ids).blocks()) == 40


def test_image_that_was_missing_for_a_while_is_read_when_it_is_back(configure: Configure, own_faces: Path) -> None:
    config = configure(data_root=own_faces, max_failures=0.1)
    model, plan, job = make_plan(config)
    begin_extraction(plan)
    away = image_of(own_faces, 8).rename(own_faces / "away.jpg")
    first = extract_planned(config, model, plan, job)
    assert first.record.failed == ((7, "000008.jpg", "missing"),)
    away.rename(image_of(own_faces, 8))
    assert run_extraction(config).ids.tolist() == IDS


def test_other_model_and_preprocessing_are_refused_with_all_differences(configure: Configure, tmp_path: Path) -> None:
    done = run_extraction(configure())
    before = contents(done.directory)
    other = write_cnn(tmp_path / "other.onnx", seed=1)
    with pytest.raises(CacheError) as caught:
        make_plan(configure(model=other, preprocessing="imagenet", cache_format="zarr", cache_dtype="float32"))
    for part in ("model: stored tiny.onnx", "required other.onnx", "mean:", "std:", "format:", "dtype:"):
        assert part in str(caught.value)
    assert "size:" not in str(caught.value)
    assert contents(done.directory) == before


def test_existing_cache_decides_what_the_user_left_open(configure: Configure) -> None:
    run_extraction(configure(cache_format="zarr", cache_dtype="float32"))
    _, plan, _ = make_plan(configure())
    assert (plan.manifest.format, plan.manifest.dtype, plan.pending) == ("zarr", "float32", ())


@pytest.mark.parametrize(
    ("was", "becomes"), [("npy", "zarr"), ("zarr", "npy"), ("zarr", "zarr"), ("zarr", "none"), ("none", "npy")]
)
def test_refresh_throws_the_old_cache_away_and_keeps_the_sets(
    configure: Configure, tmp_path: Path, was: str, becomes: str
) -> None:
    old = run_stages(configure(cache_format=was, cache_dtype="float32"))
    kept = (old.published.path / "paths.json").read_bytes()
    other = configure(
        model=write_cnn(tmp_path / "other.onnx", seed=1), refresh=True, cache_format=becomes, preprocessing="imagenet"
    )
    new = run_stages(other)
    assert new.plan.pending == (0, 1, 2)
    assert new.published.record.set == "set_02"
    assert (old.published.path / "paths.json").read_bytes() == kept
    fresh = run_stages(other.model_copy(update={"name": "fresh"}))
    left, made = contents(new.directory), contents(fresh.directory)
    assert {name for name in left if not name.startswith("set_")} == {n for n in made if not n.startswith("set_")}
    assert left["set_02/paths.json"] == made["set_01/paths.json"]


def test_refresh_is_the_way_out_of_a_manifest_that_is_not_understood(configure: Configure) -> None:
    done = run_extraction(configure())
    (done.directory / "manifest.json").write_text('{"version": 99}')
    with pytest.raises(CacheError, match="--refresh"):
        make_plan(configure())
    assert run_extraction(configure(refresh=True)).ids.tolist() == IDS


def test_cache_of_more_layers_serves_a_run_that_wants_some(configure: Configure) -> None:
    whole = run_extraction(configure(subset=10))
    some = run_extraction(configure(layers=("fc1",)))
    assert some.plan.cached == 10
    assert some.model.layers == ("fc1",)
    assert set(some.job.model.layers) == set(LAYERS)  # the new examples get all layers
    assert sum(len(b) for _, b in LayerRows(some.storage, "conv1", some.ids).blocks()) == 40
    assert whole.directory == some.directory


def test_cache_of_fewer_layers_refuses_a_run_that_wants_more(configure: Configure) -> None:
    run_extraction(configure(layers=("fc1",)))
    with pytest.raises(CacheError, match="layers: stored fc1, required also conv1"):
        make_plan(configure())


def test_plan_says_examples_layers_files_and_room(configure: Configure) -> None:
    run_extraction(configure(subset=5))
    config = configure()
    plan = make_plan(config)[1].model_copy(update={"free": 12_345_678})
    assert plan.text() == (
        "40 examples (5 in the cache, 35 to extract in 3 shards); 3 layers (conv1 4x16x16, conv2 6x8x8, fc1 10), "
        f"1,418 values per example; 105 more files, 430.1 kB more as float16 npy in {config.cache_dir}; "
        "12.3 MB free on that disk."
    )


def test_too_little_room_is_told_with_the_smaller_format_before_anything_is_written(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 491_519))
    config = configure()
    plan = make_plan(config)[1]
    assert plan.bytes == 491_520  # 40 examples, 3 layers, a block of 4096 each
    with pytest.raises(DiskError, match=r"will take 491.5 kB .*491.5 kB are free.*zarr .*float16 takes about 51.0 kB"):
        check_room(plan)
    assert not config.cache_dir.path.exists()
    check_room(plan.model_copy(update={"free": 491_520}))


def test_fewer_examples_than_clusters_are_refused_before_extraction(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"5 examples cannot make 6 clusters \(layer conv2\).* --k 5\."):
        make_plan(configure(subset=5, k="5,conv2=6"))
    assert make_plan(configure(subset=5, k=5))[1].wanted == 5
    with pytest.raises(ConfigError, match=r"--k names conv9, which is not clustered.*some of conv1, conv2, fc1"):
        make_plan(configure(k="conv9=3"))


@pytest.mark.parametrize(("examples", "k", "fits"), [(5, 5, True), (4, 5, False), (0, 1, False)])
def test_as_many_examples_as_clusters_are_enough(examples: int, k: int, fits: bool) -> None:
    if fits:
        require_enough(examples, {"a": 1, "b": k})
    else:
        with pytest.raises(ConfigError, match=rf"{examples} examples cannot make {k} clusters"):
            require_enough(examples, {"a": 1, "b": k})


def test_failures_above_the_share_of_the_whole_run_are_refused_at_the_end(
    configure: Configure, own_faces: Path
) -> None:
    for number in (1, 28, 58):  # one a shard
        image_of(own_faces, number).write_bytes(b"no image")
    with pytest.raises(
        ExtractionError, match=r"3 images cannot be read, and at most 2 may fail: 000001.jpg \(.*--max-fail"
    ):
        run_extraction(configure(data_root=own_faces, max_failures=0.05))
    done = run_extraction(configure(data_root=own_faces, max_failures=0.075))  # 3 of 40 are not above 7.5%
    assert len(done.record.failed) == 3
    finish_extraction(done.storage, done.ids, 0)  # of those that have rows, none failed


@pytest.mark.parametrize(("share", "allowed"), [(0.0, 0), (0.01, 0), (0.025, 1), (0.075, 3), (0.575, 23), (1.0, 40)])
def test_allowed_failures_are_the_whole_number_below_the_share(
    configure: Configure, share: float, allowed: int
) -> None:
    assert make_plan(configure(max_failures=share))[2].max_failed == allowed


def test_forgotten_shard_is_planned_again(configure: Configure) -> None:
    done = run_extraction(configure())
    shards = done.plan.shards_of(done.ids[[0, 39]])
    assert [(shard.index, len(shard.planned_ids())) for shard in shards] == [(0, 16), (2, 8)]
    mark_missing(done.storage, 1)
    assert make_plan(configure())[1].pending == (1,)


def test_attributes_that_came_later_are_no_obstacle(configure: Configure, own_faces: Path) -> None:
    listed = own_faces / "celeba" / "list_attr_celeba.txt"
    text = listed.read_text()
    listed.unlink()
    config = configure(data_root=own_faces)
    run_extraction(configure(data_root=own_faces, subset=10))
    listed.write_text(text)
    whole = run_extraction(config)
    bald = require_registry(whole.storage, ["attr_Bald"])["attr_Bald"].to_pylist()
    assert bald == [1 if number % 5 == 0 else -1 for number in NUMBERS]  # also of those that were extracted before


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (75 * 10**9, "75.0 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_bytes_read_well(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_records_of_a_run_are_plain_values(configure: Configure) -> None:
    """They travel between processes as JSON."""
    done = run_extraction(configure(subset=5))
    for record in (done.plan, done.job, done.record):
        assert type(record).model_validate_json(record.model_dump_json()) == record
    assert dataclasses.is_dataclass(done)
    copy: Any = done.job.model_copy()
    assert copy == done.job

"""Images that are gone, corrupt, of another kind, or changed since: every path belongs to its image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.errors import ExtractionError
from clusterpaths.records import CacheFormat
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import LAYERS, NUMBERS, Recording, image_of
from tests.runs import Run, assert_same_documents, nearest, paths_of, published, rows_of, run_pipeline

MISSING, CORRUPT, EMPTY, TEXT = 5, 22, 40, 41  # numbers of images; an id is one less


@pytest.fixture
def run(configure: Callable[..., RunConfig], own_faces: Path) -> Callable[..., Run]:
    """A run over this test's own images; options by keyword."""

    def start(**options: Any) -> Run:
        given: dict[str, Any] = {"data_root": own_faces, "evaluate": False, "check_preprocessing": False}
        return run_pipeline(configure(**given | options))

    return start


@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
def test_every_path_belongs_to_its_image_where_files_in_the_middle_are_gone_or_corrupt(
    run: Callable[..., Run], faces: Path, own_faces: Path, cache_format: CacheFormat
) -> None:
    """Each remaining image's activation is the one that it has in an undisturbed run, and its path follows from it."""
    clean = run(name="clean", data_root=faces, cache_format=cache_format)
    corrupt = image_of(own_faces, CORRUPT)
    corrupt.write_bytes(corrupt.read_bytes()[: corrupt.stat().st_size * 2 // 3])
    image_of(own_faces, EMPTY).write_bytes(b"")
    image_of(own_faces, TEXT).write_text("not an image")
    image_of(own_faces, MISSING).unlink()
    broken = run(cache_format=cache_format, max_failures=0.1)
    record = published(broken)
    assert (record.num_examples, record.num_failed) == (36, 3)
    manifest = read_manifest(open_storage(broken.cache))
    assert manifest is not None
    failed = {failure.id: (failure.file, failure.reason) for shard in manifest.shards for failure in shard.failed}
    assert {i: file for i, (file, _) in failed.items()} == {
        number - 1: f"{number:06d}.jpg" for number in (CORRUPT, EMPTY, TEXT)
    }
    assert "truncated" in failed[CORRUPT - 1][1].lower()
    assert "empty" in failed[EMPTY - 1][1]
    assert all(any(file in line and reason in line for line in broken.log) for file, reason in failed.values())

    table = pq.read_table(broken.folder / "paths.parquet")
    left = [number - 1 for number in NUMBERS if number not in (MISSING, CORRUPT, EMPTY, TEXT)]
    assert table["id"].to_pylist() == left
    assert table["file"].to_pylist() == [f"{i + 1:06d}.jpg" for i in left]
    assert list(paths_of(broken.folder)) == [f"example_{i:04d}" for i in left]
    centroids = json.loads((broken.folder / "centroids.json").read_text())
    for layer in LAYERS:
        ids, undisturbed = rows_of(clean.cache, layer)
        found, rows = rows_of(broken.cache, layer)
        assert found.tolist() == left
        np.testing.assert_array_equal(rows, undisturbed[np.isin(ids, found)])
        assert nearest(undisturbed[np.isin(ids, found)], centroids[layer]).tolist() == table[layer].to_pylist()


def test_an_image_that_is_mended_later_gets_its_path(run: Callable[..., Run], faces: Path, own_faces: Path) -> None:
    clean = run(name="clean", data_root=faces)
    image_of(own_faces, CORRUPT).write_bytes(b"broken")
    assert published(run(max_failures=0.05)).num_failed == 1
    shutil.copyfile(image_of(faces, CORRUPT), image_of(own_faces, CORRUPT))
    mended = run(max_failures=0.05)
    assert published(mended).num_failed == 0
    assert_same_documents(clean.folder, mended.folder)


def test_too_many_unreadable_images_stop_the_run_and_are_named(
    run: Callable[..., Run], own_faces: Path, tmp_path: Path
) -> None:
    for number in (2, 28, 55):  # one a shard: 3 of 40 are more than 5%, 2 are not
        image_of(own_faces, number).write_bytes(b"broken")
    with pytest.raises(ExtractionError, match="3 images cannot be read, and at most 2 may fail") as refused:
        run(max_failures=0.05)
    assert "000002.jpg" in str(refused.value)
    assert "--max-failures" in str(refused.value)
    assert not list(tmp_path.rglob("set_*"))
    shutil.copyfile(image_of(own_faces, 56), image_of(own_faces, 55))
    assert published(run(max_failures=0.05, name="fewer")).num_failed == 2


@pytest.mark.parametrize("kind", ["PNG named .jpg", "grey JPEG", "CMYK JPEG"])
def test_images_of_another_kind_work(run: Callable[..., Run], own_faces: Path, kind: str) -> None:
    form, mode = {"PNG named .jpg": ("PNG", "RGB"), "grey JPEG": ("JPEG", "L"), "CMYK JPEG": ("JPEG", "CMYK")}[kind]
    with Image.open(image_of(own_faces, 2)) as opened:
        converted = opened.convert(mode)
    converted.save(image_of(own_faces, 2), form)
    five = run(subset=5, max_failures=0)
    assert published(five).num_failed == 0
    assert len(paths_of(five.folder)) == 5


def test_an_image_that_changed_since_is_a_new_example_of_the_same_subset(
    run: Callable[..., Run], own_faces: Path
) -> None:
    first = run(subset=10)
    shutil.copyfile(image_of(own_faces, 11), image_of(own_faces, 4))
    changed = run(subset=10)
    assert changed.batches == 1
    before, after = (open_set(one.folder) for one in (first, changed))
    assert sorted(after.files.to_pylist()) == before.files.to_pylist()
    assert after.ids.tolist() == [i for i in before.ids.tolist() if i != 3] + [59]
    assert after.files[9].as_py() == "000004.jpg"


def test_a_dead_layer_and_k_above_the_distinct_images_are_reported(run: Callable[..., Run], own_faces: Path) -> None:
    one, other, *rest = NUMBERS[:10]
    for at, number in enumerate(rest):
        shutil.copyfile(image_of(own_faces, (one, other)[at % 2]), image_of(own_faces, number))
    few = run(subset=10, k=4, batch_size=32)  # one batch: kernels for fewer images may round differently
    for summary in published(few).clusters.values():
        assert len(summary.empty) == 2
        assert "2 of 4 clusters are empty: only 2 distinct activations were found" in summary.note
    assert any(line.startswith("WARNING") and "clusters are empty" in line for line in few.log)
    assert "clusters are empty" in (few.cache / "metadata.json").read_text()


def test_a_set_of_one_colour_is_warned_about_and_one_of_pictures_is_not(
    run: Callable[..., Run], own_faces: Path
) -> None:
    sentence = "images examined have one colour only"
    assert not any(sentence in line for line in run().log)
    for number, path in enumerate(sorted((own_faces / "celeba" / "img_align_celeba").iterdir())):
        Image.new("RGB", (24, 28), (number, 0, 0)).save(path)
    assert any("WARNING" in line and sentence in line for line in run(name="constant").log)


def test_an_image_whose_range_of_values_is_unknown_is_left_out_with_the_reason(
    run: Callable[..., Run], own_faces: Path
) -> None:
    path = image_of(own_faces, TEXT)
    pixels = np.linspace(-1, 1, 48 * 56, dtype=np.float32).reshape(56, 48)
    Image.fromarray(pixels).save(path, "TIFF")
    found = run(max_failures=0.1)
    assert published(found).num_failed == 1
    assert any(path.name in line and "-1 to 1 (Pillow's mode F), are of no known range" in line for line in found.log)


@pytest.mark.parametrize("fit_rows", [4096, 8], ids=["in the sample", "in all others"])
def test_failures_are_counted_over_the_run_which_begins_no_shard_once_they_are_too_many(
    configure: Callable[..., RunConfig], own_faces: Path, monkeypatch: pytest.MonkeyPatch, fit_rows: int
) -> None:
    """One of four images of a shard cannot be read, and two of 40 may fail."""
    monkeypatch.setattr("clusterpaths.cache.fit_sample.FIT_ROWS", fit_rows)
    monkeypatch.setattr("clusterpaths.cache.fit_sample.FIT_ROWS_PER_CLUSTER", 1)
    for number in NUMBERS[::4]:
        image_of(own_faces, number).write_bytes(b"no image")
    config = configure(data_root=own_faces, max_failures=0.05, shard_size=4, evaluate=False, check_preprocessing=False)
    recording = Recording()
    with pytest.raises(ExtractionError, match=r"[345] images cannot be read, and at most 2 may.*--max-failures"):
        run_pipeline(config, recording)
    made = recording.submitted["extract_shard"]
    failed = [sum(int(example) + 1 in NUMBERS[::4] for example in args[1].planned_ids()) for args in made]
    assert (sum(failed[:-1]) <= 2, sum(failed) > 2) == (True, True)
    again = Recording()
    with pytest.raises(ExtractionError, match="images cannot be read, and at most 2 may fail"):
        run_pipeline(config, again)
    assert len(again.submitted.get("extract_shard", [])) <= 1
    for number in NUMBERS[::4]:  # repaired ones count no more, wherever they are in a run
        shutil.copyfile(image_of(own_faces, NUMBERS[1]), image_of(own_faces, number))
    assert published(run_pipeline(config)).num_failed == 0

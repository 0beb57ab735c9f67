"""Runs over data that lives: files come, go, change and move; labels are corrected. Sets made before stay right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clusterpaths.cache.examples import read_examples
from clusterpaths.config import RunConfig
from clusterpaths.datasets import open_dataset
from clusterpaths.errors import NotFoundError
from clusterpaths.explore.images import Images
from clusterpaths.explore.library import Library
from clusterpaths.records import DatasetSpec
from clusterpaths.running import stages
from clusterpaths.sets.images import image_reader
from clusterpaths.sets.join import join_examples
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import LAYERS, image_of, write_cnn, write_image
from tests.runs import Run, nearest, published, rows_of, run_pipeline

CLASSES = ("cat", "dog")
Start = Callable[..., Run]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images, cat/00.png … dog/19.png."""
    root = tmp_path / "photos"
    for number in range(20):
        draw(root / CLASSES[number % 2] / f"{number:02d}.png", number)
    return root


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, seed)


@pytest.fixture
def run(folder: Path, cnn: Path, tmp_path: Path) -> Start:
    """A run over this folder, an image at a time, so that batches are images; options by keyword."""

    def start(**options: Any) -> Run:
        given: dict[str, Any] = {
            "model": cnn, "dataset": "folder", "data_root": folder, "cache_root": tmp_path / "cache", "name": "T", "k": 3,
            "preprocessing": "unit", "batch_size": 1, "evaluate": False, "check_preprocessing": False,
        }  # fmt: skip
        return run_pipeline(RunConfig(**given | options))

    return start


def ids_of(done: Run) -> dict[str, int]:
    found = open_set(done.folder)
    return dict(zip(found.files.to_pylist(), found.ids.tolist(), strict=True))


def labels_of(done: Run) -> dict[str, str]:
    found = open_set(done.folder)
    names = (found.label_name(label) if label >= 0 else "" for label in found.labels.tolist())
    return dict(zip(found.files.to_pylist(), names, strict=True))


def insert(root: Path) -> None:
    draw(root / "cat" / "000.png", 100)


def delete(root: Path) -> None:
    (root / "cat" / "04.png").unlink()


def replace(root: Path) -> None:
    draw(root / "cat" / "04.png", 100)


def rename(root: Path) -> None:
    (root / "cat" / "04.png").rename(root / "dog" / "zz.png")


def swap(root: Path) -> None:
    one, other = root / "cat" / "04.png", root / "dog" / "05.png"
    one.rename(root / "x")
    other.rename(one)
    (root / "x").rename(other)


def everything(root: Path) -> None:
    insert(root)
    (root / "cat" / "06.png").unlink()
    (root / "dog" / "07.png").rename(root / "dog" / "08b.png")
    draw(root / "cat" / "10.png", 101)
    swap(root)


CHANGES = {  # name: what changes, how many images the model is run on, names -> ids that are new or moved
    "insert": (insert, 1, {"cat/000.png": 20}),
    "delete": (delete, 0, {}),
    "replace": (replace, 1, {"cat/04.png": 20}),
    "rename": (rename, 0, {"dog/zz.png": 2}),
    "swap": (swap, 0, {"cat/04.png": 12, "dog/05.png": 2}),
    "everything": (everything, 2, {"cat/000.png": 20, "cat/10.png": 21, "dog/08b.png": 13, "cat/04.png": 12, "dog/05.png": 2}),
}  # fmt: skip


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize("what", CHANGES)
def test_each_change_costs_what_it_changes_and_no_id_shifts(
    run: Start, folder: Path, tmp_path: Path, what: str, cache_format: str
) -> None:
    change, runs, expected = CHANGES[what]
    first = run(cache_format=cache_format)
    before, documents = ids_of(first), {path.name: path.read_bytes() for path in first.folder.iterdir()}
    assert list(before.values()) == list(range(20))
    change(folder)
    second = run(cache_format=cache_format)
    after = ids_of(second)
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert sorted(after) == there
    assert {file: i for file, i in after.items() if before.get(file) != i} == expected
    if cache_format != "none":  # that runs the model again, on the sample
        assert second.batches == runs
    assert second.folder != first.folder
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == documents
    assert run(cache_format=cache_format).folder == second.folder  # nothing changed since

    fresh = run(name="fresh", cache_format=cache_format)  # the activations are those of each file
    of_fresh = ids_of(fresh)
    files = {i: file for file, i in after.items()}
    table = pq.read_table(second.folder / "paths.parquet")
    centroids = np.load(second.folder / "centroids.npz")
    for layer in LAYERS:
        ids, rows = rows_of(second.cache, layer)
        fresh_ids, fresh_rows = rows_of(fresh.cache, layer)
        own = np.isin(ids, list(files))
        wanted = [of_fresh[files[i]] for i in ids[own].tolist()]
        np.testing.assert_allclose(rows[own], fresh_rows[np.searchsorted(fresh_ids, wanted)], rtol=2e-3, atol=1e-3)
        assert nearest(rows[own], centroids[layer]).tolist() == table[layer].to_pylist()
    # comparable by content, whatever the ids are
    a, b = open_set(second.folder), open_set(fresh.folder)
    at_a, at_b = join_examples(a, b)
    assert a.files.take(pa.array(at_a)).to_pylist() == b.files.take(pa.array(at_b)).to_pylist()
    assert len(at_a) == len(there)


@pytest.mark.parametrize("what", CHANGES)
def test_the_set_before_shows_its_own_images_or_none(run: Start, folder: Path, what: str) -> None:
    first = run()
    old = open_set(first.folder)
    pixels = {file: np.asarray(Image.open(folder / file).convert("RGB")) for file in old.files.to_pylist()}
    contents = [content.tobytes() for content in pixels.values()]
    CHANGES[what][0](folder)
    run()
    there = {np.asarray(Image.open(path).convert("RGB")).tobytes() for path in folder.rglob("*.png")}
    read = image_reader(old, open_dataset(DatasetSpec(name="folder", root=str(folder))))
    for file, own in pixels.items():
        if own.tobytes() in there:
            np.testing.assert_array_equal(np.asarray(read(file)), own)
        else:
            with pytest.raises(OSError, match=r"No such file|no longer the image that the set was made of"):
                read(file)
    assert len(set(contents)) == 20


@pytest.mark.parametrize("what", CHANGES)
def test_the_explorer_shows_no_other_image_under_the_set_before(
    run: Start, folder: Path, tmp_path: Path, what: str
) -> None:
    name = run().folder.name
    contents = [(folder / file).read_bytes() for file in open_set(tmp_path / "cache" / "T" / name).files.to_pylist()]

    def shown() -> list[bytes | None]:
        library = Library(tmp_path / "cache")
        images, index, found = Images(library), library.set("T", name), list[bytes | None]()
        for row in range(20):
            try:
                found.append(images.jpeg(index, row))
            except NotFoundError:
                found.append(None)
        return found

    before = shown()
    CHANGES[what][0](folder)
    run()
    there = {path.read_bytes() for path in folder.rglob("*.png")}
    assert shown() == [jpeg if own in there else None for jpeg, own in zip(before, contents, strict=True)]


def test_many_nights_end_as_one(run: Start, folder: Path) -> None:
    """Each night a file comes, another goes and a third is renamed; activations are never made twice."""
    total = run().batches
    for night in range(4):
        draw(folder / "cat" / f"0{night}new.png", 200 + night)
        (folder / "dog" / f"{2 * night + 1:02d}.png").unlink()
        (folder / "cat" / f"{2 * night:02d}.png").rename(folder / "dog" / f"{night}renamed.png")
        done = run()
        assert done.batches == 1
        total += done.batches
    assert total == 24
    examples = read_examples(open_storage(done.cache), ["id", "file"])
    assert examples["id"].to_pylist() == list(range(24))
    assert sorted(ids_of(done).values()) == [i for i in range(24) if i not in (10, 11, 12, 13)]


def test_an_interrupted_run_resumes_after_the_folder_changed(
    run: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids were given when it was planned: files that come before it resumes take none of them."""
    extract, calls = stages.extract_shard, iter(range(100))

    def stopping(*args: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return extract(*args)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "extract_shard", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(shard_size=8, workers=1)
    everything(folder)
    done = run(shard_size=8, workers=1)
    files = {i: file for file, i in ids_of(done).items()}
    fresh = run(name="fresh")
    of_fresh = ids_of(fresh)
    ids, rows = rows_of(done.cache, "fc1")
    fresh_ids, fresh_rows = rows_of(fresh.cache, "fc1")
    own = np.isin(ids, list(files))
    wanted = [of_fresh[files[i]] for i in ids[own].tolist()]
    np.testing.assert_allclose(rows[own], fresh_rows[np.searchsorted(fresh_ids, wanted)], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("same_times", [False, True])
def test_images_replaced_by_others_of_the_same_size_under_an_interrupted_refresh_are_no_old_set(
    run: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_times: bool
) -> None:
    folder = tmp_path / "bitmaps"
    folder.mkdir()

    def draw_all(seed: int) -> None:
        for number in range(20):
            pixels = np.random.default_rng(seed + number).integers(0, 256, (16, 16, 3), np.uint8)
            path = folder / f"{number:02d}.bmp"
            Image.fromarray(pixels).save(path)
            if same_times:
                os.utime(path, (1, 1))

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    draw_all(0)
    first = run(data_root=folder)
    draw_all(100)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "fit_layer", stop)
        with pytest.raises(KeyboardInterrupt):
            run(data_root=folder, refresh=True)
    second = run(data_root=folder)
    assert second.folder != first.folder
    assert list(ids_of(second).values()) == list(range(20, 40))  # other examples: ids of the first set stay its own
    fresh = run(data_root=folder, name="fresh")
    for layer in LAYERS:
        np.testing.assert_array_equal(rows_of(second.cache, layer)[1], rows_of(fresh.cache, layer)[1])


# labels


def test_a_new_class_makes_no_dog_a_cat(run: Start, folder: Path) -> None:
    first = run()
    for number in range(10):
        draw(folder / "bird" / f"{number:02d}.png", 300 + number)
    second = run()
    assert second.batches == 10
    for done in (first, second):
        assert all(file.startswith(f"{label}/") for file, label in labels_of(done).items())
    assert open_set(first.folder).record.class_names == ()  # the tiny model has five classes
    assert open_set(first.folder).record.label_names == CLASSES
    assert open_set(second.folder).record.label_names == ("bird", *CLASSES)


def test_a_corrected_file_of_labels_arrives_and_costs_no_model_run(run: Start, folder: Path) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))

    def write(label: Callable[[int], str], split: str, yes: str) -> None:
        rows = (f"{file},{label(at)},{split},{yes}" for at, file in enumerate(files))
        (folder / "labels.csv").write_text("\n".join(["file,label,split,round", *rows, ""]))

    write(lambda _: "b", "train", "no")
    first = run()
    write(lambda at: "ab"[at % 2], "test", "yes")
    second = run()
    assert (second.batches, second.folder.name) == (0, "set_02")
    assert (set(labels_of(first).values()), set(labels_of(second).values())) == ({"b"}, {"a", "b"})
    for done, split, value in ((first, "train", -1), (second, "test", 1)):
        found = open_set(done.folder)
        assert found.split_names == (split,)
        assert {name: set(values.tolist()) for name, values in found.read_attributes().items()} == {"round": {value}}
    write(lambda _: "b", "train", "no")
    assert run().folder == first.folder  # as it was: that set again


def test_celebas_annotations_that_come_later_arrive(run: Start, own_faces: Path) -> None:
    options = {"dataset": "celeba", "data_root": own_faces}
    listed = own_faces / "celeba" / "list_attr_celeba.txt"
    away = listed.rename(own_faces / "away.txt")
    first = run(**options)
    shutil.move(away, listed)
    second = run(**options)
    assert second.batches == 0
    assert set(labels_of(first).values()) == {""}
    assert open_set(first.folder).read_attributes() == {}
    names = {"Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"}
    found = open_set(second.folder)
    assert set(found.read_attributes()) == names
    expected = [1 if (i + 1) % 5 == 0 else -1 for i in found.ids.tolist()]
    assert found.read_attributes()["Bald"].tolist() == expected
    assert set(labels_of(second).values()) == {"Bald", "Black", "Blond", "Brown", "Gray"}


def test_attributes_that_are_gone_stay_those_of_the_set(run: Start, own_faces: Path) -> None:
    options = {"dataset": "celeba", "data_root": own_faces}
    first = run(**options)
    before = {name: values.tolist() for name, values in open_set(first.folder).read_attributes().items()}
    (own_faces / "celeba" / "list_attr_celeba.txt").unlink()
    assert run(**options).folder != first.folder
    run(**options, refresh=True)
    assert {name: values.tolist() for name, values in open_set(first.folder).read_attributes().items()} == before


def test_a_repaired_image_has_its_number_as_id(run: Start, own_faces: Path) -> None:
    image_of(own_faces, 5).write_bytes(b"broken")
    options = {"dataset": "celeba", "data_root": own_faces, "max_failures": 0.1}
    run(**options)
    write_image(image_of(own_faces, 5), 5)
    done = run(**options)
    assert done.batches == 1
    assert ids_of(done)["000005.jpg"] == 4


# after a refresh


@pytest.mark.parametrize("other", ["model", "preprocessing"])
def test_a_set_shows_its_own_models_probabilities_or_none(run: Start, tmp_path: Path, other: str) -> None:
    first = open_set(run().folder)
    own = first.read_top_scores(1)
    assert own is not None
    changed = {"model": write_cnn(tmp_path / "n.onnx", seed=3)} if other == "model" else {"preprocessing": "imagenet"}
    second = open_set(run(**changed, refresh=True).folder)
    assert open_set(first.folder).read_top_scores(1) is None
    new = second.read_top_scores(1)
    assert new is not None
    assert not np.array_equal(own[1], new[1])
    run(refresh=True)
    again = open_set(first.folder).read_top_scores(1)
    assert again is not None
    np.testing.assert_array_equal(again[1], own[1])


# caches from before there was a registry


def as_before(done: Run, attributes: dict[str, list[int]]) -> PublishedSet:
    """Make the cache and set of a run look as versions before 2026-11-29 left them."""
    (done.cache / "registry.parquet").unlink()
    (done.folder / "attributes.parquet").unlink(missing_ok=True)
    paths = done.folder / "paths.parquet"
    pq.write_table(pq.read_table(paths).drop_columns(["digest"]), paths)
    for part in [*(done.cache / "examples").glob("*.parquet"), done.cache / "examples.parquet"]:
        table = pq.read_table(part)
        for name, values in attributes.items():
            own = [values[i] for i in table["id"].to_pylist()]
            table = table.append_column(f"attr_{name}", pa.array(own, pa.int8()))
        table = table.append_column("label", pa.array([0] * len(table), pa.int16()))
        pq.write_table(table.append_column("split", pa.array([""] * len(table))), part)
    record = published(done).model_copy(update={"attributes": tuple(attributes)})
    (done.folder / "set.json").write_text(record.model_dump_json())
    return open_set(done.folder)


@pytest.mark.parametrize("what", CHANGES)
def test_a_cache_from_before_goes_on_and_its_set_stays_as_it_is(run: Start, folder: Path, what: str) -> None:
    change, runs, expected = CHANGES[what]
    values = [1, -1] * 10
    old = as_before(run(), {"Round": values})
    before = {"Round": values}
    assert {name: found.tolist() for name, found in old.read_attributes().items()} == before
    change(folder)
    done = run()
    assert done.batches == runs
    ids = ids_of(done)
    kept = dict(zip(old.files.to_pylist(), old.ids.tolist(), strict=True))
    assert {file: i for file, i in ids.items() if kept.get(file) != i} == expected
    assert all(file.startswith(f"{label}/") for file, label in labels_of(done).items())
    assert {name: found.tolist() for name, found in open_set(old.folder).read_attributes().items()} == before
    assert open_set(done.folder).read_attributes() == {}

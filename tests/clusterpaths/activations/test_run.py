"""Cluster paths of activations that are there: the same in every layout, and those of the pipeline on the same rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.activations.config import ActivationsConfig
from clusterpaths.activations.run import from_activations
from clusterpaths.cache import fit_sample
from clusterpaths.comparison.compare import compare_sets
from clusterpaths.config import RunConfig
from clusterpaths.datasets import clear_caches, open_dataset, read_table
from clusterpaths.errors import CacheError, ConfigError, DatasetError
from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.records import DatasetSpec
from clusterpaths.running.report import Outcome
from clusterpaths.sets.find import set_config
from clusterpaths.sets.images import image_reader
from clusterpaths.sets.maps import AXES, MAPS
from clusterpaths.sets.places import data_of, find_model
from tests.clusterpaths.activations.conftest import COUNT, LAYOUTS, Arrays, write_npy, write_numbered_chunks
from tests.clusterpaths.conftest import run_stages

Cluster = Callable[..., Outcome]


def clusters_of(outcome: Outcome) -> NDArray[np.int16]:
    assert outcome.published
    return outcome.published.clusters


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_paths_of_the_same_arrays_in_memory(
    layout: str, arrays: Arrays, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "given").mkdir()
    LAYOUTS[layout](tmp_path / "given", arrays)

    here = cluster(tmp_path / "given")

    assert here.published
    assert here.published.layers == ("conv1", "fc2")
    assert here.published.ids.tolist() == list(range(COUNT))
    np.testing.assert_array_equal(clusters_of(here), clusters_of(cluster(arrays, name="memory")))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "compressed"])
def test_rows_that_can_be_read_in_place_are_not_copied(
    layout: str, arrays: Arrays, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "given").mkdir()
    LAYOUTS[layout](tmp_path / "given", arrays)

    cluster(tmp_path / "given")

    smallest = min(values.nbytes for values in arrays.values())
    written = [p for p in (tmp_path / "cache").rglob("*.np*") if p.parent.name != "set_01"]
    assert [p for p in written if p.stat().st_size >= smallest] == []


def test_numbered_files_are_chunks_where_that_is_said(arrays: Arrays, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    write_numbered_chunks(tmp_path / "given", arrays)

    np.testing.assert_array_equal(
        clusters_of(cluster(tmp_path / "given", chunks=True)), clusters_of(cluster(arrays, name="memory"))
    )


def test_the_cache_of_a_run_without_its_manifest_gives_the_paths_of_that_run(
    configure: Callable[..., RunConfig], cluster: Cluster, tmp_path: Path
) -> None:
    """The reference layout: layer/id.npy with gaps in the ids, float16 as the run has stored it."""
    done = run_stages(configure(cache_format="npy"))
    for other in done.directory.iterdir():
        if other.is_file():
            other.unlink()

    found = cluster(done.directory, layers=done.published.layers)

    assert found.published
    assert found.published.ids.tolist() == done.published.ids.tolist() != list(range(40))
    np.testing.assert_array_equal(found.published.clusters, done.published.clusters)
    np.testing.assert_array_equal(found.published.distances, done.published.distances)


def test_rows_in_another_order_are_tied_by_their_ids(
    arrays: Arrays, classes: NDArray[np.int64], cluster: Cluster, tmp_path: Path
) -> None:
    order = np.random.default_rng(5).permutation(COUNT)
    (tmp_path / "given").mkdir()
    write_npy(tmp_path / "given", {name: values[order] for name, values in arrays.items()})
    np.save(tmp_path / "given" / "ids.npy", order)
    np.save(tmp_path / "given" / "labels.npy", classes[order])

    shuffled, plain = cluster(tmp_path / "given"), cluster(arrays, name="memory", labels=classes)

    assert shuffled.published
    assert plain.published
    np.testing.assert_array_equal(shuffled.published.clusters, plain.published.clusters)
    np.testing.assert_array_equal(shuffled.published.labels, classes)


def test_a_table_is_tied_by_the_column_id_and_describes_the_examples(
    arrays: Arrays, classes: NDArray[np.int64], cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "given").mkdir()
    write_npy(tmp_path / "given", arrays)
    lines = [f'{i},"Sentence {i}","{"abc"[c]}",{i % 2},{20 + i}' for i, c in enumerate(classes.tolist())]
    (tmp_path / "given" / "examples.csv").write_text("\n".join(["id,text,label,smiling,age", *lines[::-1]]))

    published = cluster(tmp_path / "given", predictions=classes).published

    assert published
    assert published.record.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(published.labels, classes)
    np.testing.assert_array_equal(published.predictions, classes)
    np.testing.assert_array_equal(published.read_attributes()["smiling"], np.tile([-1, 1], COUNT // 2))
    assert published.record.purity_predictions == 1.0
    dataset = open_dataset(data_of(published.folder, published.record))
    card = image_reader(published, dataset)(published.files[7].as_py())
    assert np.asarray(card).min() < 128 < np.asarray(card).max()  # black text on white
    assert dataset._texts["00000007"] == "Sentence 7\nage: 27"  # type: ignore[attr-defined]


def test_images_are_tied_by_order_and_shown(arrays: Arrays, cluster: Cluster, tmp_path: Path) -> None:
    for at in range(COUNT):
        folder = tmp_path / "images" / ("left" if at < 50 else "right")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (at, 0, 0)).save(folder / f"{at:03d}.png")

    published = cluster(arrays, images=tmp_path / "images").published

    assert published
    clear_caches()
    read = image_reader(published, open_dataset(data_of(published.folder, published.record)))
    assert read(published.files[70].as_py()).getpixel((0, 0)) == (70, 0, 0)
    assert published.record.class_names == ("left", "right")
    assert np.bincount(published.labels).tolist() == [50, COUNT - 50]


def test_what_can_be_evaluated_without_the_model_is(
    arrays: Arrays, classes: NDArray[np.int64], cluster: Cluster
) -> None:
    scores = np.eye(3, dtype=np.float32)[classes] * 5

    outcome = cluster(arrays, predictions=scores, evaluate=True, k=6)

    assert outcome.published
    found = read_evaluation(outcome.published)
    assert found
    assert found.alignment
    assert found.alignment.daf.value > 0.9
    assert found.alignment.deep_knn
    assert found.perturbations == ()
    assert any("There is no model here" in note for note in found.notes)
    assert outcome.report
    assert outcome.report.stat().st_size > 10_000


def test_held_out_rows_of_a_large_set_are_compared_with_their_neighbours(
    arrays: Arrays, classes: NDArray[np.int64], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted on a sample, the others are held out: their rows are read from the arrays, not made by a model."""
    monkeypatch.setattr(fit_sample, "FIT_ROWS", 60)
    monkeypatch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 5)

    outcome = cluster(arrays, predictions=classes, evaluate=True)

    assert outcome.published
    found = read_evaluation(outcome.published)
    assert found
    assert (found.num_fit, found.num_eval, found.refitted) == (60, COUNT - 60, False)
    assert found.alignment
    assert found.alignment.deep_knn
    assert found.alignment.graded
    assert found.alignment.deep_knn.n == COUNT - 60
    assert found.alignment.deep_knn.value > 0.9


def test_the_same_again_is_found_and_others_of_the_name_are_refused(arrays: Arrays, cluster: Cluster) -> None:
    first, again = cluster(arrays), cluster(arrays)
    assert first.new
    assert not again.new

    other = arrays | {"fc2": arrays["fc2"] + 1}
    with pytest.raises(CacheError, match="not those of this run"):
        cluster(other)
    assert not cluster(arrays).new  # nothing was changed by the refused run

    assert cluster(other, refresh=True).new


def test_moved_files_are_found_by_the_same_command_with_their_new_place(
    arrays: Arrays, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "given").mkdir()
    write_npy(tmp_path / "given", arrays)
    first = cluster(tmp_path / "given")
    (tmp_path / "given").rename(tmp_path / "moved")

    again, other = cluster(tmp_path / "moved"), cluster(tmp_path / "moved", seed=3)

    assert first.published
    assert again.published
    assert again.published.path == first.published.path
    assert other.new


def test_predictions_are_part_of_what_a_set_is(arrays: Arrays, classes: NDArray[np.int64], cluster: Cluster) -> None:
    cluster(arrays, predictions=classes)

    with pytest.raises(CacheError, match="not those of this run"):
        cluster(arrays, predictions=(classes + 1) % 3)


def test_sets_of_one_cache_are_compared(arrays: Arrays, cluster: Cluster) -> None:
    first, second = cluster(arrays).published, cluster(arrays, seed=4).published
    assert first
    assert second

    assert compare_sets(first, second).num_examples == COUNT


def test_files_that_change_during_a_run_end_it(
    arrays: Arrays, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").mkdir()
    write_npy(tmp_path / "given", arrays)
    from clusterpaths.activations import run

    def then_change(*given: Any) -> Any:
        found = take(*given)
        np.save(tmp_path / "given" / "fc2.npy", arrays["fc2"][::-1])
        return found

    take = run.take_activations
    monkeypatch.setattr(run, "take_activations", then_change)

    with pytest.raises(CacheError, match="not those that were checked"):
        cluster(tmp_path / "given")


def test_what_needs_the_model_says_that_there_is_none(arrays: Arrays, cluster: Cluster) -> None:
    published = cluster(arrays).published
    assert published

    with pytest.raises(ConfigError, match=r"set_01 was made of activations \(arrays in memory\), without the model"):
        find_model(published, None)
    with pytest.raises(CacheError, match=r"there is no run to repeat\. Run `clusterpaths activations` again"):
        set_config(published)
    assert "Preprocessing" not in (published.path / "report.html").read_text()


def test_a_run_does_not_take_activations_for_images(arrays: Arrays, cluster: Cluster, tmp_path: Path) -> None:
    cluster(arrays)
    with pytest.raises(DatasetError, match="Expected `clusterpaths activations DIR --name mine`"):
        read_table(DatasetSpec(name="activations", root=str(tmp_path / "cache" / "mine")))


def test_extracted_activations_of_the_name_stay(
    configure: Callable[..., RunConfig], cluster: Cluster, arrays: Arrays
) -> None:
    done = run_stages(configure(name="mine"))
    before = (done.directory / "manifest.json").read_bytes()

    with pytest.raises(CacheError, match=r"that a run extracted, of the model tiny\.onnx"):
        cluster(arrays, refresh=True)

    assert (done.directory / "manifest.json").read_bytes() == before
    assert (done.directory / "conv1" / "0.npy").exists()


def test_from_activations_returns_the_set(arrays: Arrays, tmp_path: Path) -> None:
    published = from_activations(arrays, name="M", cache_root=str(tmp_path), k="auto", layers=["fc*"], evaluate=False)

    assert published.layers == ("fc2",)
    assert json.loads((published.path / "set.json").read_text())["model"]["file"] == "arrays in memory"
    assert os.fspath(published.path) == str(tmp_path / "M" / "set_01")


def test_options_are_those_of_a_run() -> None:
    """An option that a run does not know would be lost on the way."""
    own = {"examples", "predictions", "labels", "ids", "images", "chunks", "layers"}
    assert set(ActivationsConfig.model_fields) - own <= set(RunConfig.model_fields)


@pytest.mark.parametrize("layout", ["npy", "memory"])
def test_a_set_of_activations_has_maps_and_gets_them_where_they_are_missing(
    layout: str, arrays: Arrays, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "given").mkdir()
    write_npy(tmp_path / "given", arrays)
    source = arrays if layout == "memory" else tmp_path / "given"
    published = cluster(source).published
    assert published
    assert published.maps
    assert published.maps.points("fc2").shape == (COUNT, 2)
    before = {name: published.file(name).read_bytes() for name in (MAPS, AXES, "paths.parquet", "set.json")}
    published.file(MAPS).unlink()
    again = cluster(source)
    assert (again.new, again.published) == (False, published)
    assert {name: published.file(name).read_bytes() for name in before} == before

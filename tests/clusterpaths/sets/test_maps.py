"""maps.parquet: written and read back, made by a run, added to an earlier set, and placing other examples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from clusterpaths.clustering.principal import DIMENSIONS
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError
from clusterpaths.sets import place
from clusterpaths.sets.maps import AXES, MAPS, LayerMap, MapRecord, Maps, squared_distances, write_maps
from clusterpaths.sets.place import Placer
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.conftest import LAYERS, Finished, read_rows, run_stages
from tests.runs import run_pipeline

Configure = Callable[..., RunConfig]


def some_map(n: int, factor: float = 1.0) -> LayerMap:
    values = (factor * np.random.default_rng(n).standard_normal((n, 5))).astype(np.float32)
    return LayerMap(MapRecord(explained=(0.5, 0.25)), values[:, :2], values[:, :4], np.abs(values[:, 4]))


@pytest.mark.parametrize(
    ("factor", "stored"), [(1.0, "halffloat"), (1e4, "halffloat"), (1e5, "float"), (1e-5, "float"), (0.0, "halffloat")]
)
def test_components_come_back_to_a_thousandth_of_any_size(tmp_path: Path, factor: float, stored: str) -> None:
    given = some_map(30, factor)
    write_maps(tmp_path / MAPS, {"fc1": given})
    assert str(pq.read_schema(tmp_path / MAPS).field("fc1.components").type.value_type) == stored
    found = Maps(tmp_path / MAPS, ["fc1"], 30).layer("fc1")
    assert found.record == given.record
    np.testing.assert_array_equal(found.points, given.points, strict=True)
    largest = float(np.abs(given.components).max())
    np.testing.assert_allclose(found.components, given.components, atol=1e-3 * largest)
    assert found.components.dtype == np.float32
    assert given.residuals is not None
    np.testing.assert_array_equal(found.residuals, given.residuals)


def test_a_map_of_components_alone_has_residuals_of_0(tmp_path: Path) -> None:
    given = some_map(3)
    write_maps(tmp_path / MAPS, {"a": LayerMap(given.record, given.points, given.components)})
    assert Maps(tmp_path / MAPS, ["a"], 3).residuals("a").tolist() == [0, 0, 0]


def test_unreadable_or_inconsistent_maps_are_reported(tmp_path: Path) -> None:
    path = tmp_path / MAPS
    write_maps(path, {"a": some_map(3)})
    with pytest.raises(CacheError, match=r"has 3 rows .* the set has 4 examples"):
        Maps(path, ["a"], 4).points("a")
    with pytest.raises(CacheError, match="cannot be read"):
        _ = Maps(path, ["a", "b"], 3).records
    path.write_bytes(path.read_bytes()[:-9])
    for read in (lambda maps: maps.records, lambda maps: maps.components("a")):
        with pytest.raises(CacheError, match="cannot be read"):
            read(Maps(path, ["a"], 3))


@pytest.mark.parametrize("then", ["replaced", "removed"])
def test_maps_never_return_what_replaced_their_file(tmp_path: Path, then: str) -> None:
    path = tmp_path / MAPS
    write_maps(path, {"a": some_map(3)})
    maps = Maps(path, ["a"], 3)
    maps.points("a")
    if then == "removed":
        path.unlink()
    else:
        write_maps(tmp_path / "new", {"a": some_map(3, 2.0)})
        (tmp_path / "new").replace(path)
    for read in (maps.points, maps.components, lambda _: maps.records, lambda layer: maps.rounded(layer, np.ones(4))):
        with pytest.raises(CacheError, match=r"maps\.parquet was replaced or removed after the set was opened"):
            read("a")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / MAPS
    write_maps(path, {"a": some_map(2000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    with pytest.raises(CacheError, match="cannot be read"):
        Maps(path, ["a"], 2000).check()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_set_has_the_maps_of_its_activations_and_places_them_again(configure: Configure, distance: str) -> None:
    done = run_stages(configure(distance=distance, cache_format="npy", layers=None))
    maps, placer = done.published.maps, Placer(done.published)
    assert maps is not None
    assert maps.layers == LAYERS
    dtypes, _ = done.published.stored_dtypes()
    for layer in LAYERS:
        found, rows = maps.layer(layer), read_rows(done, layer)
        assert found.components.shape == (40, DIMENSIONS)
        assert 0.3 < sum(found.record.explained) <= 1 + 1e-6
        again = placer.place(rows.astype(dtypes[layer]), layer)
        np.testing.assert_array_equal(again.points, found.points)
        np.testing.assert_array_equal(again.residuals, found.residuals)
        np.testing.assert_array_equal(again.components.astype(np.float16), found.components)
        part = placer.place(rows[7:8].astype(dtypes[layer]), layer)  # whatever else is placed with it
        np.testing.assert_array_equal(part.components, again.components[7:8])
        assert_neighbours(rows, distance, found)


def assert_neighbours(rows: NDArray[np.float32], distance: str, found: LayerMap) -> None:
    exact = rows.astype(np.float64)
    if distance == "cosine":
        exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-30)
    gaps = np.square(exact[:, None] - exact[None]).sum(axis=2)
    assert found.residuals is not None
    for i in range(len(rows)):
        own = squared_distances(found.components[i], float(found.residuals[i]), found.components, found.residuals)
        others = np.arange(len(rows)) != i
        assert np.corrcoef(own[others], gaps[i, others])[0, 1] > 0.9


def test_maps_are_written_by_blocks_to_the_same_values(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run_stages(configure(shard_size=7, batch_size=1)).published
    monkeypatch.setattr(place, "BLOCK_ROWS", 11)
    other = run_stages(configure(shard_size=13, batch_size=1, name="other")).published
    assert pq.read_metadata(other.file(MAPS)).num_row_groups == 4
    assert pq.read_table(one.file(MAPS)).equals(pq.read_table(other.file(MAPS)))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.html"}


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize("harm", ["none yet", "no axes", "corrupted", "a bit", "half of the axes", "too few rows"])
def test_a_set_from_before_there_were_maps_gets_them_from_the_next_run_and_nothing_else(
    configure: Configure, caplog: pytest.LogCaptureFixture, cache_format: str, harm: str
) -> None:
    config = configure(cache_format=cache_format, shard_size=13, evaluate=False, check_preprocessing=False)
    folder = run_pipeline(config).folder
    before = bytes_of(folder)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    if harm == "corrupted":
        (folder / MAPS).write_bytes(before[MAPS][:100])
    elif harm == "a bit":
        changed = bytearray(before[MAPS])
        changed[len(changed) // 4] ^= 1
        (folder / MAPS).write_bytes(changed)
    elif harm == "half of the axes":
        (folder / AXES).write_bytes(before[AXES][: len(before[AXES]) // 2])
        with pytest.raises(CacheError, match=r"axes\.npz cannot be read"):
            Placer(open_set(folder))
    elif harm == "too few rows":
        pq.write_table(pq.read_table(folder / MAPS).slice(1), folder / MAPS)
    else:
        (folder / AXES).unlink()
    if harm == "none yet":
        (folder / MAPS).unlink()
        old = open_set(folder)
        assert (old.maps, old.has_maps) == (None, False)
        with pytest.raises(CacheError, match=r"published before there were maps\. Run again"):
            Placer(old)
    with caplog.at_level(logging.INFO):
        again = run_pipeline(config)
    assert again.folder == folder
    assert bytes_of(folder) == before
    assert "Added the maps of" in caplog.text
    assert again.batches == (0 if cache_format != "none" else again.batches)
    assert {path.name for path in folder.parent.iterdir() if path.name in ("clusterings", "sample")} == set()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in kept if kept[name] != written[name]} <= {MAPS, AXES, "report.html"}
    caplog.clear()
    with caplog.at_level(logging.INFO):
        third = run_pipeline(config)
    assert "Added the maps" not in caplog.text
    assert third.batches == 0


def test_axes_of_another_set_are_refused(configure: Configure) -> None:
    done: Finished = run_stages(configure())
    published = PublishedSet(done.published.folder, done.published.record)
    with np.load(published.file(AXES)) as file:
        cut = {name: file[name][:-1] for name in file.files}
    with published.file(AXES).open("wb") as opened:
        np.savez(opened, **cut)
    with pytest.raises(CacheError, match="They do not match; remove both and run again"):
        Placer(published)
    published.file(AXES).write_bytes(b"no archive")
    with pytest.raises(CacheError, match=r"axes\.npz cannot be read"):
        Placer(published)

"""Maps by UMAP: they come, go and are repaired without another set, place other examples, and never cost what was there."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clusterpaths.activations.run import from_activations
from clusterpaths.clustering import layout
from clusterpaths.common import extras
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, ConfigError, NotFoundError
from clusterpaths.explore.ask import select
from clusterpaths.explore.maps import map_info, map_points
from clusterpaths.explore.records import Question
from clusterpaths.running.inputs import require_inputs
from clusterpaths.sets import points
from clusterpaths.sets.maps import MAPS, POINTS
from clusterpaths.sets.place import Placer
from clusterpaths.sets.points import pending_method, shown_method
from clusterpaths.sets.published import open_set
from flows.options import ReclusterConfig
from tests.clusterpaths.conftest import LAYERS, read_rows, run_stages
from tests.clusterpaths.sets.test_maps import bytes_of
from tests.runs import run_pipeline

Configure = Callable[..., RunConfig]
needs_umap = pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="needs the extra umap")


@pytest.fixture
def plain(configure: Configure) -> Callable[..., RunConfig]:
    """A configuration of 40 images without the stages that run the model on its own."""
    return lambda **options: configure(evaluate=False, check_preprocessing=False, **options)


@needs_umap
def test_the_same_set_gets_the_map_by_umap_and_that_of_before(
    plain: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_pipeline(plain()).folder
    before, by_pca = bytes_of(folder), {layer: open_set(folder).require_maps().points(layer) for layer in LAYERS}

    run = run_pipeline(plain(map="umap"))
    assert (run.folder, run.batches) == (folder, 0)
    assert bytes_of(folder).keys() - before.keys() == {POINTS}
    assert {name: bytes_of(folder)[name] for name in before} == before
    maps = open_set(folder).require_maps()
    for layer in LAYERS:
        found, record = maps.layer(layer), maps.records[layer]
        assert record.method == "umap"
        assert record.umap
        assert (record.umap.seed, record.umap.neighbours, record.umap.sample) == (0, 15, 20_000)
        assert found.points.dtype == np.float32
        assert np.isfinite(found.points).all()
        assert np.abs(found.points - by_pca[layer]).max() > 0.1
        np.testing.assert_allclose(found.components[:, :2], by_pca[layer], atol=1e-3)

    by_umap, written = bytes_of(folder), (folder / POINTS).stat().st_mtime_ns
    assert run_pipeline(plain()).folder == folder, "without the option"
    assert ((folder / POINTS).stat().st_mtime_ns, bytes_of(folder)) == (written, by_umap)
    assert run_pipeline(plain(map="umap")).folder == folder
    assert (folder / POINTS).stat().st_mtime_ns == written

    with caplog.at_level(logging.INFO):
        assert run_pipeline(plain(map="pca")).folder == folder
    assert "show points by PCA" in caplog.text
    assert bytes_of(folder) == before
    run_pipeline(plain(map="umap"))
    assert bytes_of(folder) == by_umap, "repeatable to the bit"


@needs_umap
@pytest.mark.parametrize("cache_format", ["npy", "none"])
def test_a_new_set_by_umap_differs_by_one_document_and_places_its_own_examples(
    configure: Configure, cache_format: str
) -> None:
    options: dict[str, Any] = {"evaluate": False, "check_preprocessing": False, "cache_format": cache_format}
    folder = run_pipeline(configure(map="umap", **options)).folder
    assert "map" not in open_set(folder).record.config
    other = run_pipeline(configure(name="other", **options)).folder
    assert {path.name for path in folder.iterdir()} - {path.name for path in other.iterdir()} == {POINTS}
    assert (folder / MAPS).read_bytes() == (other / MAPS).read_bytes()


@needs_umap
def test_examples_of_the_set_are_placed_where_they_are_whether_fitted_or_not(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "SAMPLE", 25)
    done = run_stages(configure(layers=None))
    points.show_points(done.published, "umap")
    placer, maps = Placer(done.published), done.published.require_maps()
    dtypes, _ = done.published.stored_dtypes()
    for layer in LAYERS:
        rows = read_rows(done, layer).astype(dtypes[layer])
        np.testing.assert_array_equal(placer.place(rows, layer).points, maps.points(layer))
        np.testing.assert_array_equal(placer.place(rows[7:8], layer).points, maps.points(layer)[7:8])
        far = placer.place(rows * (1 if dtypes[layer] == "float16" else 1e20), layer).points
        assert np.isfinite(far).all()


@needs_umap
@pytest.mark.parametrize("harm", ["cut", "of other maps", "too few rows"])
def test_points_that_do_not_fit_are_made_again_without_an_option(plain: Configure, harm: str) -> None:
    folder = run_pipeline(plain(map="umap")).folder
    before = bytes_of(folder)
    if harm == "cut":
        (folder / POINTS).write_bytes(before[POINTS][:-20])
        with pytest.raises(CacheError, match=r"umap\.parquet cannot be read"):
            open_set(folder).require_maps().points("fc1")
        with pytest.raises(CacheError, match=r"umap\.parquet cannot be read"):
            Placer(open_set(folder))
    else:
        table = pq.read_table(folder / POINTS)
        named = {**table.schema.metadata, b"clusterpaths.maps.of": b"0"} if harm == "of other maps" else None
        pq.write_table(table.replace_schema_metadata(named) if named else table.slice(1), folder / POINTS)
    assert open_set(folder).has_maps, "the maps themselves are not harmed"
    assert pending_method(open_set(folder), None) == "umap"
    assert run_pipeline(plain()).batches == 0
    assert bytes_of(folder) == before


@needs_umap
def test_points_of_other_maps_are_not_shown_until_they_are_made_again(plain: Configure) -> None:
    folder = run_pipeline(plain()).folder
    by_pca = open_set(folder).require_maps().points("fc1")
    run_pipeline(plain(map="umap"))
    table = pq.read_table(folder / POINTS)
    of_others = {**table.schema.metadata, b"clusterpaths.maps.of": b"0"}  # as `add_maps` leaves it
    pq.write_table(table.replace_schema_metadata(of_others), folder / POINTS)
    maps = open_set(folder).require_maps()
    assert maps.records["fc1"].method == "pca"
    np.testing.assert_array_equal(maps.points("fc1"), by_pca)
    assert {layer.method for layer in map_info(open_set(folder).index).layers} == {"pca"}


@needs_umap
@pytest.mark.parametrize("harm", ["cut", "of other maps"])
def test_without_the_extra_a_run_without_the_option_ends_with_the_map_by_pca(
    plain: Configure, harm: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_pipeline(plain()).folder
    before = bytes_of(folder)
    run_pipeline(plain(map="umap"))
    if harm == "cut":
        (folder / POINTS).write_bytes((folder / POINTS).read_bytes()[:-20])
    else:
        table = pq.read_table(folder / POINTS)
        of_others = {**table.schema.metadata, b"clusterpaths.maps.of": b"0"}
        pq.write_table(table.replace_schema_metadata(of_others), folder / POINTS)
    found = importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "umap" else found(name))
    with caplog.at_level(logging.WARNING):
        assert run_pipeline(plain()).folder == folder
    assert "umap-learn, which would make it again, is not installed: the map is by PCA again" in caplog.text
    assert bytes_of(folder) == before


@needs_umap
def test_stopped_while_points_are_made_the_set_has_those_of_before_and_the_next_run_goes_on(
    plain: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(points, "write_points", stop)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(plain(map="umap"))
    folder = run_pipeline(plain()).folder
    assert folder.name == "set_01"
    assert shown_method(open_set(folder)) == "pca"
    assert [path.name for path in folder.iterdir() if "partial" in path.name] == []
    again = run_pipeline(plain(map="umap"))
    assert (again.folder, again.batches) == (folder, 0)
    assert shown_method(open_set(folder)) == "umap"


def test_without_the_extra_nothing_is_begun_and_the_message_has_the_command(
    plain: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "umap" else found(name))
    config = plain(map="umap")
    message = r"--map umap needs umap-learn, which is not installed\. Install the extra with .*\[umap\].*; or take --map pca\."
    with pytest.raises(ConfigError, match=message):
        require_inputs(config)
    with pytest.raises(ConfigError, match=message):
        run_pipeline(config)
    assert not list(config.cache_dir.path.glob("set_*"))
    folder = run_pipeline(plain(map="pca")).folder
    with pytest.raises(ConfigError, match=r"The UMAP map of .*/set_01 needs umap-learn"):
        points.show_points(open_set(folder), "umap")


@needs_umap
def test_a_layer_in_which_too_little_differs_stays_pca(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    layers = {"dead": np.zeros((40, 6), np.float32), "live": drawn.standard_normal((40, 6)).astype(np.float32)}
    published = from_activations(layers, cache_root=str(tmp_path), map="umap", k=2, evaluate=False)
    maps = published.require_maps()
    assert {layer: one.method for layer, one in maps.records.items()} == {"dead": "pca", "live": "umap"}
    assert maps.points("dead").tolist() == [[0, 0]] * 40
    np.testing.assert_array_equal(Placer(published).place(layers["dead"], "dead").points, maps.points("dead"))
    info = {layer.name: layer for layer in map_info(published.index).layers}
    assert info["live"].explained == ()
    assert info["live"].method == "umap"


@needs_umap
def test_a_region_counts_on_the_map_that_it_was_drawn_on_only(plain: Configure) -> None:
    folder = run_pipeline(plain(map="umap")).folder
    index = open_set(folder).index
    low, high = map_points(index, "fc1").min(axis=0) - 1, map_points(index, "fc1").max(axis=0) + 1
    corners = f"{low[0]},{low[1]};{high[0]},{low[1]};{high[0]},{high[1]};{low[0]},{high[1]}"
    assert len(select(index, Question(within=(f"fc1:umap;{corners}",)))) == 40
    with pytest.raises(NotFoundError, match=r"drawn on a map by PCA; the map of .* is by UMAP.*--map pca"):
        select(index, Question(within=(f"fc1:{corners}",)))
    run_pipeline(plain(map="pca"))
    index = open_set(folder).index
    with pytest.raises(NotFoundError, match=r"drawn on a map by UMAP; the map of .* is by PCA"):
        select(index, Question(within=(f"fc1:umap;{corners}",)))


@needs_umap
def test_recluster_takes_the_map_that_the_last_set_has_now(plain: Configure) -> None:
    config = plain(map="umap")
    run_pipeline(config)
    given = ReclusterConfig(name=config.result_name, cache_root=config.cache_root)
    assert given.run_config().map == "umap"
    assert given.model_copy(update={"map": "pca"}).run_config().map == "pca"
    run_pipeline(plain(map="pca"))
    assert given.run_config().map == "pca"


def test_a_map_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'pca' or 'umap'"):
        RunConfig(map="tsne")  # type: ignore[arg-type]

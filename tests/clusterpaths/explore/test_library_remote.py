"""Sets in object storage: found, opened and forgotten as the store has them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("obstore", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs moto's server")

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.explore import library as module
from clusterpaths.explore.ask import ask
from clusterpaths.explore.library import Library
from clusterpaths.explore.maps import map_info
from clusterpaths.explore.records import Question
from clusterpaths.sets.maps import MAPS, POINTS, MapRecord, Maps, digest_of, write_points
from clusterpaths.sets.published import open_set
from clusterpaths.storage import objects, open_storage
from tests.clusterpaths.explore.small import write_small
from tests.generated_set import generate, write_random_maps
from tests.storage import BUCKET, Storage, running_storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with running_storage(tmp_path, tmp_path / "mirror") as started:
        yield started


def _upload(storage: Storage, made: Path, *, but: str = "") -> None:
    for path in made.rglob("*"):
        if path.is_file() and path.name != but:
            storage.client().upload_file(str(path), BUCKET, f"results/{path.relative_to(made).as_posix()}")


def test_sets_are_those_of_the_store(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FRESH_REMOTE", 0.0)
    write_small(tmp_path / "made")
    _upload(storage, tmp_path / "made", but="set.json")
    library = Library(open_storage(f"s3://{BUCKET}/results"))
    (found,) = library.models()
    assert (found.name, found.sets, found.problems) == ("Small", (), ())  # set.json comes last: none is there yet
    _upload(storage, tmp_path / "made")
    assert [summary.set for summary in library.model("Small").sets] == ["set_01"]
    index = library.default()
    assert ask(index, Question(attribute=("Smiling",))).total == 4  # of the cache's table
    assert library.set("Small", "set_01") is index
    for key in storage.objects("results/"):
        storage.client().delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(NotFoundError, match="no model"):
        library.set("Small", "set_01")
    assert library.models() == ()


def test_maps_that_a_run_adds_are_seen_by_a_running_server(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FRESH_REMOTE", 1.0)
    layers = {"a": (2,), "b": (3,)}
    folder = generate(tmp_path / "made", n=60, layers=layers, k=3, attributes=1)
    _upload(storage, tmp_path / "made")
    library = Library(open_storage(f"s3://{BUCKET}/results"))
    before = library.set("CelebA", "set_01")
    assert before.maps is None
    write_random_maps(folder, layers, d=4)
    _upload(storage, tmp_path / "made")
    deadline = time.monotonic() + 30
    while (after := library.set("CelebA", "set_01")) is before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert after.maps is not None
    assert after.map_points(0).shape == (60, 2)
    assert after.summary.version != before.summary.version, "so pages and pictures are made anew"


TWO = {"a": (2,), "b": (3,)}


def _mapped(tmp_path: Path) -> Path:
    """A set of 60 examples in two layers, with maps."""
    folder = generate(tmp_path / "made", n=60, layers=TWO, k=3, attributes=1)
    write_random_maps(folder, TWO, d=4)
    return folder


def _umap(storage: Storage, folder: Path) -> None:
    """umap.parquet of the set, in the store: other points than those by PCA."""
    maps = Maps(folder / MAPS, list(TWO), 60)
    record = MapRecord(method="umap")
    write_points(
        folder / POINTS, {one: (record, maps.points(one) + np.float32(100)) for one in TWO}, digest_of(folder / MAPS)
    )
    storage.client().upload_file(str(folder / POINTS), BUCKET, f"results/CelebA/set_01/{POINTS}")


def test_a_map_that_changes_to_umap_and_back_is_seen_by_a_running_server(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _mapped(tmp_path)
    _upload(storage, tmp_path / "made")
    monkeypatch.setattr(module, "_FRESH_REMOTE", 0.0)
    library = Library(open_storage(f"s3://{BUCKET}/results"))
    by_pca = library.set("CelebA", "set_01")
    before = by_pca.map_points(0)
    assert map_info(by_pca).layers[0].method == "pca"

    _umap(storage, folder)
    by_umap = library.set("CelebA", "set_01")
    assert by_umap.summary.version != by_pca.summary.version
    assert [layer.method for layer in map_info(by_umap).layers] == ["umap", "umap"]
    np.testing.assert_allclose(by_umap.map_points(0), before + 100, rtol=1e-6)

    storage.client().delete_object(Bucket=BUCKET, Key=f"results/CelebA/set_01/{POINTS}")
    again = library.set("CelebA", "set_01")
    assert again.summary.version == by_pca.summary.version, "the same files"
    np.testing.assert_array_equal(again.map_points(0), before)


def test_an_opened_set_never_mixes_layers_of_two_maps(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _mapped(tmp_path)
    _umap(storage, folder)
    _upload(storage, tmp_path / "made")
    monkeypatch.setattr(module, "_FRESH_REMOTE", 3600.0)
    library = Library(open_storage(f"s3://{BUCKET}/results"))
    index = library.set("CelebA", "set_01")
    index.map_points(0)
    write_random_maps(folder, TWO, d=4, seed=1)
    _upload(storage, folder.parent.parent)
    _umap(storage, folder)
    assert open_set(index.folder).require_maps().records["a"].method == "umap"  # another one fetches the new files
    with pytest.raises(CacheError, match=r"umap\.parquet was replaced or removed after the set was opened"):
        index.map_points(1)


def test_files_that_are_newer_than_the_listing_are_not_served_under_the_version_of_the_listing(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _mapped(tmp_path)
    _upload(storage, tmp_path / "made")
    monkeypatch.setattr(module, "_FRESH_REMOTE", 3600.0)
    library = Library(open_storage(f"s3://{BUCKET}/results"))
    (before,) = library.model("CelebA").sets
    _umap(storage, folder)
    index = library.set("CelebA", "set_01")
    assert map_info(index).layers[0].method == "umap"
    assert index.summary.version != before.version
    assert library.set("CelebA", "set_01") is index


def test_a_listing_is_one_request_per_set_and_none_of_its_files(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of every page lists all sets, also those that nobody opened."""
    layers = {"a": (2,)}
    for name in ("One", "Two"):
        folder = generate(tmp_path / name, n=60, layers=layers, k=3, attributes=1)
        write_random_maps(folder, layers, d=4)
        (tmp_path / "made").mkdir(exist_ok=True)
        folder.parent.rename(tmp_path / "made" / name)
    _upload(storage, tmp_path / "made")
    monkeypatch.setattr(module, "_FRESH_REMOTE", 0.0)
    library = Library(open_storage(f"s3://{BUCKET}/results"))
    assert [len(model.sets) for model in library.models()] == [1, 1]  # their records are read

    asked = []
    for name in ("exists", "download", "read", "list_objects", "list_prefixes"):
        real = getattr(objects, name)

        def counted(bucket: str, key: str | None, *more: Any, name: str = name, real: Any = real) -> Any:
            asked.append((name, (key or "").rstrip("/")))
            return real(bucket, key, *more)

        monkeypatch.setattr(objects, name, counted)
    library.models()
    sets = [("list_objects", f"results/{name}/set_01") for name in ("One", "Two")]
    assert sorted(asked) == [*sets, *(("list_prefixes", f"results{model}") for model in ("", "/One", "/Two"))]


def test_a_page_asks_the_store_for_nothing_until_the_next_listing(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FRESH_REMOTE", 3600.0)
    generate(tmp_path / "made", n=60, layers={"a": (2,)}, k=3, attributes=1)
    _upload(storage, tmp_path / "made")
    library = Library(open_storage(f"s3://{BUCKET}/results"))
    index = library.set("CelebA", "set_01")
    storage.proxy.cut()
    for _ in range(3):
        assert library.set("CelebA", "set_01") is index

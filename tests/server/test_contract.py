"""Every row of the contract, asked over HTTP of real sets: what is answered is what lies in the files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.explore.documents import _columns
from tests import patient
from tests.runs import paths_of
from tests.server.contract_client import Dashboard, walk_through
from tests.server.made import (
    COUNT,
    FOREIGN_CENTROIDS,
    FOREIGN_METADATA,
    FOREIGN_PATHS,
    LAYERS,
    draw_faces,
    make_set,
    write_foreign,
)
from tests.serving import serving

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
HUGE = 10**30
real_data = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


@dataclass(frozen=True)
class Site:
    root: Path  # of the results
    images: Path
    address: str

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.address + path, headers=headers, timeout=30)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.address + path, json=body, timeout=30)

    def document(self, name: str) -> Any:
        return json.loads((self.root / name).read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """CelebA with two sets of faces, Photos with a plain folder's, Old of another program, Empty without a set."""
    home = tmp_path_factory.mktemp("site")
    root, images = home / "results", draw_faces(home / "images")
    make_set(root, data_root=images, name="CelebA", k=3)
    make_set(root, data_root=images, name="CelebA", k=4)
    photos = images / "celeba" / "img_align_celeba"
    make_set(root, dataset="folder", data_root=photos, name="Photos", k=2, subset=10, layers=("conv2", "fc1"))
    write_foreign(root)
    (root / "Empty").mkdir()
    (root / ".hidden" / "set_01").mkdir(parents=True)
    with serving(root) as address:
        yield Site(root, images, address)


@pytest.fixture
def dashboard(site: Site) -> Iterator[Dashboard]:
    with Dashboard(site.address) as client:
        yield client


# one test a row


def test_health_says_ok(dashboard: Dashboard) -> None:
    assert dashboard.health() == "ok"


def test_models_are_the_visible_folders(dashboard: Dashboard) -> None:
    assert dashboard.models() == ["CelebA", "Empty", "Old", "Photos"]


def test_sets_are_those_of_the_model(dashboard: Dashboard) -> None:
    assert dashboard.sets("CelebA") == ["set_01", "set_02"]
    assert dashboard.sets("Old") == ["set_01"]
    assert dashboard.sets("Empty") == []


@pytest.mark.parametrize("model", ["CelebA", "Photos", "Old"])
def test_metadata_is_the_file(site: Site, dashboard: Dashboard, model: str) -> None:
    assert dashboard.metadata(model) == site.document(f"{model}/metadata.json")


@pytest.mark.parametrize("name", ["CelebA/set_01", "CelebA/set_02", "Photos/set_01", "Old/set_01"])
def test_centroids_are_the_file(site: Site, dashboard: Dashboard, name: str) -> None:
    assert dashboard.centroids(*name.split("/")) == site.document(f"{name}/centroids.json")


@pytest.mark.parametrize("size", [1, 7, 50, 60, 10_000])
@pytest.mark.parametrize("name", ["CelebA/set_01", "Photos/set_01", "Old/set_01"])
def test_pages_of_any_size_put_together_are_the_file_in_its_order(
    site: Site, dashboard: Dashboard, name: str, size: int
) -> None:
    expected = site.document(f"{name}/paths.json")
    assert list(dashboard.paths(*name.split("/"), size)) == list(expected.items())


def test_fifty_paths_from_the_first_on_unless_asked_otherwise(site: Site) -> None:
    page = site.get("/models/CelebA/sets/set_01/paths").json()
    assert (page["limit"], page["offset"], page["total"], len(page["paths"])) == (50, 0, COUNT, 50)


@pytest.mark.parametrize(
    ("limit", "offset", "said", "shown"),
    [
        (0, 0, (1, 0), 1),
        (-5, 0, (1, 0), 1),
        (10_001, 0, (10_000, 0), COUNT),
        (HUGE, 0, (10_000, 0), COUNT),
        (-HUGE, -HUGE, (1, 0), 1),
        (5, -1, (5, 0), 5),
        (5, COUNT - 2, (5, COUNT - 2), 2),
        (5, COUNT, (5, COUNT), 0),
        (5, HUGE, (5, HUGE), 0),
    ],
)
def test_limit_and_offset_are_brought_into_their_range_and_never_refused(
    site: Site, limit: int, offset: int, said: tuple[int, int], shown: int
) -> None:
    answer = site.get(f"/models/CelebA/sets/set_01/paths?limit={limit}&offset={offset}")
    assert answer.status_code == 200
    page = answer.json()
    assert ((page["limit"], page["offset"]), len(page["paths"]), page["total"]) == (said, shown, COUNT)


@pytest.mark.parametrize("name", ["CelebA/set_02", "Old/set_01"])
def test_the_path_of_one_example_by_its_key(site: Site, dashboard: Dashboard, name: str) -> None:
    for key, path in list(site.document(f"{name}/paths.json").items())[-3:]:
        assert dashboard.path(*name.split("/"), key) == path


def test_the_image_of_an_example_is_its_file_as_jpeg(site: Site, dashboard: Dashboard) -> None:
    data = open_celeba(site.images)
    for number in (0, 41, COUNT - 1):
        stored = data.read_image(data.table.files[number])
        shown = dashboard.example_image(number)
        assert shown.size == stored.size
        difference = np.abs(np.asarray(shown, int) - np.asarray(stored, int)).mean()
        assert difference < 4, "another picture, or a bad copy"  # of 255; two faces differ by 30 and more
    other = np.abs(np.asarray(dashboard.example_image(3), int) - np.asarray(dashboard.example_image(4), int)).mean()
    assert other > 8


def test_images_of_a_named_model_come_from_its_own_data_set(site: Site, dashboard: Dashboard) -> None:
    one = dashboard.example_image(5, model="Photos")
    assert np.array_equal(one, dashboard.example_image(5, model="CelebA", set="set_01"))  # the same files
    assert len(dashboard.cluster_images("conv2", 0, model="Photos")) + len(
        dashboard.cluster_images("conv2", 1, model="Photos")
    ) == len(site.document("Photos/set_01/paths.json"))


def test_images_of_a_cluster_are_those_nearest_to_its_centroid(site: Site, dashboard: Dashboard) -> None:
    sizes = [len(dashboard.cluster_images("fc2", cluster, limit=100)) for cluster in range(4)]
    assert sizes == list(site.document("CelebA/set_02/set.json")["clusters"]["fc2"]["sizes"])
    few, all_ = dashboard.cluster_images("fc2", 0, limit=2), dashboard.cluster_images("fc2", 0, limit=100)
    assert [np.asarray(image).tobytes() for image in few] == [np.asarray(image).tobytes() for image in all_[:2]]


def test_images_of_a_path_are_its_examples(site: Site, dashboard: Dashboard) -> None:
    paths = site.document("CelebA/set_02/paths.json")
    for path in list(paths.values())[:5]:
        on_it = [key for key, other in paths.items() if other == path]
        assert len(dashboard.path_images(path, limit=100)) == len(on_it)
    assert dashboard.path_images([3, 3, 3, 3, -1]) == []
    assert dashboard.path_images([HUGE, 0, 0, 0, -HUGE]) == []


@pytest.mark.parametrize(
    ("limit", "said"), [(0, 1), (-1, 1), (HUGE, 100), (101, 100), (100, 100), (1, 1), (None, 20), ("3", 3)]
)
def test_limits_of_images_are_brought_into_their_range(site: Site, limit: Any, said: int) -> None:
    path = next(iter(site.document("CelebA/set_02/paths.json").values()))
    answer = site.post("/images/path", {"path": path, "limit": limit})
    assert (answer.status_code, answer.json()["limit"]) == (200, said)
    query = "" if limit is None else f"?limit={limit}"
    answer = site.get(f"/images/cluster/conv1/0{query}")
    assert (answer.status_code, answer.json()["limit"]) == (200, said)
    assert 1 <= len(answer.json()["images"]) <= said


def test_attributes_are_those_of_the_annotations(site: Site, dashboard: Dashboard) -> None:
    assert dashboard.attributes("CelebA") == list(open_celeba(site.images).table.attributes)
    assert dashboard.attributes("Old") == []


@pytest.mark.parametrize("value", [1, -1])
def test_the_filter_gives_the_ids_that_have_the_value(site: Site, dashboard: Dashboard, value: int) -> None:
    table = open_celeba(site.images).table
    for name in ("Smiling", "Bald", "Male"):
        assert dashboard.having("CelebA", name, value) == table.ids[table.attributes[name] == value].tolist()


def test_id_to_index_maps_each_id_of_the_filter_to_the_number_in_the_keys_of_paths(dashboard: Dashboard) -> None:
    assert dashboard.id_to_index("Old") == {"3": 3, "7": 7, "12000": 12000}
    mapping = dashboard.id_to_index("CelebA")
    keys = dashboard.page("CelebA", "set_02", 10_000, 0)["paths"]
    assert set(mapping.values()) == {int(key.removeprefix("example_")) for key in keys}
    for value in (1, -1):
        shown = [
            key
            for key in keys
            if int(key.removeprefix("example_"))
            in {mapping[str(i)] for i in dashboard.having("CelebA", "Smiling", value)}
        ]  # as the dashboard does it
        assert shown == [f"example_{i:04d}" for i in dashboard.having("CelebA", "Smiling", value)]


def test_run_without_a_server_says_so(dashboard: Dashboard) -> None:
    answer = dashboard.run("CelebA", "CelebA")
    assert answer.status_code == 503
    assert "no Prefect server is configured" in answer.json()["detail"]


@pytest.mark.parametrize("ids", [[], [0], [7, 8], [0, 9, 10, 99, 100], [5, 202_598, 10**12]])
def test_rows_of_ids_put_together_are_the_json_of_any_choice_of_them(ids: list[int]) -> None:
    columns = _columns(np.array(ids, np.int64))
    for chosen in (slice(None), slice(0, 1), slice(1, None, 2)):
        text = columns[chosen].tobytes().decode()
        assert json.loads(f"[{text.removesuffix(',')}]") == ids[chosen]


# what is refused


@pytest.mark.parametrize(
    "path",
    [
        "/models/Nobody/sets",
        "/models/Nobody/metadata",
        "/models/Nobody/attributes",
        "/models/Nobody/attributes/filter?attr=Smiling&value=1",
        "/models/Nobody/id-to-index",
        "/models/Nobody/sets/set_01/centroids",
        "/models/Nobody/sets/set_01/paths",
        "/models/.hidden/sets",
        "/models/.hidden/sets/set_01/paths",
        "/models/Empty/metadata",
        "/models/Empty/attributes",
        "/models/%2E%2E/sets",
        "/models/%2E%2E%2Fimages/metadata",
        "/models/CelebA%00/metadata",
        "/models/CelebA/sets/set_99/paths",
        "/models/CelebA/sets/set_1/paths",
        "/models/CelebA/sets/%2E%2E/paths",
        "/models/CelebA/sets/..%2F..%2FOld%2Fset_01/centroids",
        "/models/CelebA/sets/conv1/paths",
        "/models/CelebA/sets/set_01/paths/example_0060",
        "/models/CelebA/sets/set_01/paths/example_1",
        "/models/CelebA/sets/set_01/paths/example_00001",
        "/models/CelebA/sets/set_01/paths/0001",
        f"/models/CelebA/sets/set_01/paths/example_{HUGE}",
        "/models/CelebA/sets/set_01/paths/example_\u0661\u0661\u0661\u0661",
        "/models/CelebA/attributes/filter?attr=Nothing&value=1",
        "/models/Old/attributes/filter?attr=Smiling&value=1",
        "/images/example/60",
        "/images/example/-1",
        f"/images/example/{HUGE}",
        "/images/example/0?model=Nobody",
        "/images/example/0?set=set_99",
        "/images/example/3?model=Old",
        "/images/cluster/conv9/0",
        "/images/cluster/conv1/4",
        "/images/cluster/conv1/-1",
        f"/images/cluster/conv1/{HUGE}",
        "/images/cluster/..%2Fconv1/0",
        "/images/cluster/early/1?model=Old",
    ],
)
def test_unknown_names_are_404_with_a_reason_and_no_path_of_this_machine(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status_code == 404, answer.text
    reason = answer.json()["detail"]
    assert len(reason) > 20
    assert str(site.root.parent) not in reason


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("2,0,4", "not a list"),
        (None, "not a list"),
        ({"0": 1}, "not a list"),
        (3, "not a list"),
        (["2", "0", "4", "0", "0"], "integers"),
        ([0.5, 0, 0, 0, 0], "integers"),
        ([True, 0, 0, 0, 0], "integers"),
        ([[0], 0, 0, 0, 0], "integers"),
        ([], "0 cluster ids"),
        ([1, 2], "2 cluster ids"),
        ([0] * 1000, "1000 cluster ids"),
    ],
)
def test_a_path_that_is_none_is_400_and_says_what_was_expected(site: Site, path: Any, reason: str) -> None:
    answer = site.post("/images/path", {"path": path, "limit": 20})
    assert answer.status_code == 400
    assert reason in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/models/CelebA/attributes/filter?attr=Smiling&value=0",
        "/models/CelebA/attributes/filter?attr=Smiling&value=2",
        "/models/CelebA/attributes/filter?attr=Smiling&value=yes",
        f"/models/CelebA/attributes/filter?attr=Smiling&value={HUGE}",
        "/models/CelebA/attributes/filter?attr=Smiling",
        "/models/CelebA/attributes/filter?value=1",
        "/models/CelebA/sets/set_01/paths?limit=many",
        "/images/example/first",
    ],
)
def test_what_is_no_number_or_no_value_of_an_attribute_is_422(site: Site, path: str) -> None:
    assert site.get(path).status_code == 422


# what changes on disk


@pytest.mark.parametrize(
    "path",
    [
        "/models/CelebA/metadata",
        "/models/CelebA/sets/set_01/centroids",
        "/models/CelebA/sets/set_01/paths",
        "/models/CelebA/sets/set_01/paths/example_0003",
        "/images/example/3",
        "/images/cluster/conv1/0",
        "/models/CelebA/attributes",
        "/models/CelebA/attributes/filter?attr=Smiling&value=1",
        "/models/CelebA/id-to-index",
    ],
)
def test_an_answer_that_is_known_already_is_not_sent_again(site: Site, path: str) -> None:
    first = site.get(path)
    assert first.headers["cache-control"] == "private, no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = site.get(path, **{"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert site.get(path, **{"if-none-match": '"other"'}).content == first.content


def test_a_tag_is_of_one_address(site: Site) -> None:
    tag = site.get("/models/CelebA/attributes/filter?attr=Smiling&value=1").headers["etag"]
    for path in (
        "/models/CelebA/attributes/filter?attr=Smiling&value=-1",
        "/models/CelebA/attributes",
        "/images/example/3",
    ):
        assert site.get(path, **{"if-none-match": tag}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/models/CelebA/attributes/filter?attr=Nothing&value=1", "/models/Empty/metadata", "/images/example/3?model=Old"],
)
def test_whoever_has_anything_is_told_that_there_is_nothing(site: Site, path: str) -> None:
    assert site.get(path, **{"if-none-match": "*"}).status_code == 404


def test_an_answer_that_lacks_images_is_not_kept(site: Site) -> None:
    images = shutil.copytree(site.images, site.root.parent / "some of the images")
    folder = site.root / "Partial" / "set_01"
    shutil.copytree(site.root / "CelebA" / "set_01", folder)
    record = site.document("Partial/set_01/set.json")
    (folder / "set.json").write_text(json.dumps(record | {"data_root": str(images)}))
    clusters = [path[0] for path in site.document("Partial/set_01/paths.json").values()]
    gone = images / "celeba" / "img_align_celeba" / "000001.jpg"
    content = gone.read_bytes()
    gone.unlink()
    path = f"/images/cluster/conv1/{clusters[0]}?limit=100&model=Partial"
    few = site.get(path)
    assert (few.status_code, len(few.json()["images"])) == (200, clusters.count(clusters[0]) - 1)
    assert "etag" not in few.headers
    assert few.headers["cache-control"] == "private, no-store"
    gone.write_bytes(content)
    whole = site.get(path)
    assert len(whole.json()["images"]) == clusters.count(clusters[0])
    assert site.get(path, **{"if-none-match": whole.headers["etag"]}).status_code == 304
    shutil.rmtree(folder.parent)


def test_sets_come_change_and_go_without_a_restart(site: Site, dashboard: Dashboard) -> None:
    folder = write_foreign(site.root, "Guest")
    assert "Guest" in dashboard.models()
    assert dict(dashboard.paths("Guest", "set_01")) == FOREIGN_PATHS
    before = site.get("/models/Guest/sets/set_01/paths").headers["etag"]
    replacement = write_foreign(site.root, ".making")
    (replacement / "paths.json").write_text(json.dumps({"example_0001": [0, 2]}))
    shutil.rmtree(folder)
    replacement.rename(folder)
    assert dict(dashboard.paths("Guest", "set_01")) == {"example_0001": [0, 2]}
    assert site.get("/models/Guest/sets/set_01/paths").headers["etag"] != before
    half = site.root / "Guest" / ".set_02.partial"
    shutil.copytree(folder, half)
    assert dashboard.sets("Guest") == ["set_01"]
    half.rename(site.root / "Guest" / "set_02")
    assert dashboard.sets("Guest") == ["set_01", "set_02"]
    shutil.rmtree(site.root / "Guest")
    shutil.rmtree(site.root / ".making")
    assert site.get("/models/Guest/sets/set_01/paths").status_code == 404
    assert site.get("/models/Guest/sets/set_01/centroids").status_code == 404
    assert "Guest" not in dashboard.models()


def test_documents_that_are_no_json_are_not_passed_on(site: Site) -> None:
    folder = write_foreign(site.root, "Cut")
    (folder / "centroids.json").write_text('{"early": [[0.5, ')
    assert site.get("/models/Cut/sets/set_01/centroids").status_code == 503
    for text in ('{"k": NaN}', "[" * 100_000 + "]" * 100_000):
        (folder.parent / "metadata.json").write_text(text)
        assert site.get("/models/Cut/metadata").status_code == 404
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("harm", ["cut", "a byte"])
def test_centroids_that_were_corrupted_since_are_not_passed_on(site: Site, dashboard: Dashboard, harm: str) -> None:
    path = site.root / "CelebA" / "set_01" / "centroids.json"
    content = path.read_bytes()
    assert dashboard.centroids("CelebA", "set_01")
    at = content.index(b",", len(content) // 2)
    path.write_bytes(content[:at] + (b"" if harm == "cut" else b"\0" + content[at + 1 :]))
    try:
        assert site.get("/models/CelebA/sets/set_01/centroids").status_code == 503
    finally:
        path.write_bytes(content)
    assert dashboard.centroids("CelebA", "set_01") == json.loads(content)


def test_documents_with_a_byte_order_mark_are_passed_on_without_it(site: Site, dashboard: Dashboard) -> None:
    folder = write_foreign(site.root, "Marked")
    for path in (*folder.iterdir(), folder.parent / "metadata.json"):
        path.write_text(path.read_text(), "utf-8-sig")
    assert dashboard.metadata("Marked") == FOREIGN_METADATA
    assert dashboard.centroids("Marked", "set_01") == FOREIGN_CENTROIDS
    assert dict(dashboard.paths("Marked", "set_01")) == FOREIGN_PATHS
    shutil.rmtree(folder.parent)


# whole dashboards


def test_a_dashboard_that_knows_the_table_alone_works(site: Site, dashboard: Dashboard) -> None:
    seen = walk_through(dashboard)
    assert sorted(seen) == ["CelebA/set_01", "CelebA/set_02", "Old/set_01", "Photos/set_01"]
    assert {len(path) for path in seen["CelebA/set_01"].values()} == {len(LAYERS)}
    assert seen["Old/set_01"] == FOREIGN_PATHS
    assert dashboard.metadata("Old") == FOREIGN_METADATA
    assert dashboard.centroids("Old", "set_01") == FOREIGN_CENTROIDS


@real_data
def test_a_dashboard_works_on_real_images_and_on_the_reference(tmp_path: Path) -> None:
    root = tmp_path / "results"
    model = SHARED / "models" / "CelebA_CNN_instrumented.onnx"
    folder = make_set(root, model=model, data_root=SHARED, name="CelebA", subset=300)
    shutil.copytree(SHARED / "reference" / "CelebA", root / "Reference")
    with serving(root) as address, Dashboard(address) as dashboard:
        seen = walk_through(dashboard)
        assert seen == {
            "CelebA/set_01": paths_of(folder),
            "Reference/set_01": paths_of(SHARED / "reference" / "CelebA" / "set_01"),
        }
        reference = SHARED / "reference" / "CelebA"
        assert dashboard.metadata("Reference") == json.loads((reference / "metadata.json").read_text())
        centroids = json.loads((reference / "set_01" / "centroids.json").read_text())
        assert dashboard.centroids("Reference", "set_01") == centroids
        whole = patient.get(f"{address}/models/Reference/sets/set_01/centroids").content
        assert (reference / "set_01" / "centroids.json").read_bytes() in whole
        table = open_celeba(SHARED).table.take(np.arange(300))
        assert dashboard.having("CelebA", "Smiling", 1) == table.ids[table.attributes["Smiling"] == 1].tolist()
        stored = open_celeba(SHARED).read_image(table.files[17])
        shown = dashboard.example_image(int(table.ids[17]))
        assert shown.size == stored.size == (178, 218)
        assert np.abs(np.asarray(shown, int) - np.asarray(stored, int)).mean() < 4

"""/api/v1/…/map: what there is, points and columns as the set's own arrays; and the page without a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.maps import map_column, map_info
from clusterpaths.sets.maps import MAPS
from clusterpaths.sets.published import open_set
from tests import patient
from tests.generated_set import generate, write_random_maps
from tests.server.conftest import Site
from tests.server.made import write_foreign
from tests.serving import serving

LAYERS: dict[str, tuple[int, ...]] = {"early": (8,), "late:1": (4,)}


def api(site: Site) -> str:
    return f"{site.url}/api/v1/models/{site.model}/sets/{site.set}/map"


def array(site: Site, rest: str, dtype: str) -> Any:
    answer = patient.get(f"{api(site)}/{rest}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    return np.frombuffer(answer.content, np.dtype(dtype).newbyteorder("<"))


@pytest.fixture(scope="module")
def index(site: Site) -> SetIndex:
    return SetIndex(open_set(site.root / site.model / site.set))


def test_the_description_lists_layers_classes_and_columns(site: Site, index: SetIndex) -> None:
    info = patient.get(api(site)).json()
    assert info["num_examples"] == site.n
    assert [(one["name"], one["k"], one["method"]) for one in info["layers"]] == [
        (one, 5, "pca") for one in site.layers
    ]
    assert all(0 < sum(one["explained"]) <= 1 and len(one["explained"]) == 2 for one in info["layers"])
    assert info["has_maps"]
    names = [one["name"] for one in info["columns"]]
    assert names[:2] == ["id", "cluster:conv1"]
    assert {"path", "prediction", "label", "right", "split", "ood", "confidence", "distance:fc2"} <= set(names)
    counts = np.bincount(index.predictions)
    frequent = [index.class_name(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    assert info["classes"] == frequent, "the order of the colours"
    assert info["num_paths"] == len(index.paths.counts)


def test_points_are_those_of_the_set(site: Site, index: SetIndex) -> None:
    for layer in site.layers:
        points = array(site, f"points?layer={layer}", "float32").reshape(-1, 2)
        assert index.maps is not None
        np.testing.assert_array_equal(points, index.maps.points(layer))


def test_columns_are_those_of_the_set(site: Site, index: SetIndex) -> None:
    expected = {
        "id": index.ids,
        "path": index.paths.of_example,
        "prediction": index.predictions,
        "label": index.labels,
        "right": index.right,
        "split": index.splits,
        "ood": index.ood,
        "confidence": index.confidence,
        **{f"cluster:{layer}": index.clusters[:, at] for at, layer in enumerate(index.layers)},
        **{f"distance:{layer}": index.distances[:, at] for at, layer in enumerate(index.layers)},
        **{f"attribute:{name}": values for name, values in index.attributes.items()},
    }
    dtypes = {one["name"]: one["dtype"] for one in patient.get(api(site)).json()["columns"]}
    assert set(dtypes) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(array(site, f"columns?name={name}", dtypes[name]), values, err_msg=name)


def test_arrays_are_cached_by_browsers_while_the_set_is_the_same(site: Site) -> None:
    version = patient.get(api(site)).json()["version"]
    place = f"{api(site)}/points?layer=conv1"
    first = patient.get(place)
    assert first.headers["cache-control"] == "private, no-cache"
    assert patient.get(f"{place}&v={version}").headers["cache-control"] == "private, max-age=3600"
    replaced = patient.get(f"{place}&v=another", headers={"If-None-Match": first.headers["etag"]})
    assert replaced.status_code == 409, "its rows are other examples"
    assert replaced.json()["detail"].startswith("The set was replaced")
    again = patient.get(place, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("rest", "status", "words"),
    [
        ("points?layer=conv9", 404, "has no layer 'conv9'. It has conv1, conv2"),
        ("columns?name=nothing", 404, "has no column 'nothing'. It has id, cluster:conv1"),
        ("points", 422, "layer"),
        ("points?layer=conv1&size=3", 422, "size"),
        ("columns?name=id&name=ood", 422, "name is given 2 times"),
    ],
)
def test_unknown_names_are_refused(site: Site, rest: str, status: int, words: str) -> None:
    answer = patient.get(f"{api(site)}/{rest}")
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_a_set_without_maps_says_how_to_get_them(tmp_path: Path) -> None:
    generate(tmp_path, n=40, layers=LAYERS, model="Old")
    write_foreign(tmp_path, "Foreign")
    with serving(tmp_path) as address:
        for model, has, way in (("Old", True, "run the flow again"), ("Foreign", False, "run this program")):
            place = f"{address}/api/v1/models/{model}/sets/set_01/map"
            info = patient.get(place).json()
            assert not info["has_maps"]
            assert ("ood" in [one["name"] for one in info["columns"]]) is has
            answer = patient.get(f"{place}/points?layer={info['layers'][0]['name']}")
            assert answer.status_code == 404
            assert "has no maps" in answer.json()["detail"]
            page = patient.get(f"{address}/explore/{model}/set_01/map")
            assert page.status_code == 200
            assert way in page.text
            assert "map.js" not in page.text


def test_a_layer_with_a_colon_large_ids_and_no_labels(tmp_path: Path) -> None:
    folder = generate(tmp_path, n=30, layers=LAYERS, labelled=0.0, attributes=0)
    write_random_maps(folder, LAYERS)
    index = SetIndex(open_set(folder))
    info = map_info(index)
    names = [one.name for one in info.columns]
    assert "label" not in names
    assert "right" not in names
    assert not info.attributes
    np.testing.assert_array_equal(map_column(index, "distance:late:1"), index.distances[:, 1])
    with serving(tmp_path) as address:
        place = f"{address}/api/v1/models/CelebA/sets/set_01/map/points?layer=late%3A1"
        assert len(patient.get(place).content) == 30 * 8
        (folder / MAPS).write_bytes(b"no table")
    with serving(tmp_path) as address:
        answer = patient.get(f"{address}/api/v1/models/CelebA/sets/set_01/map/points?layer=early")
        assert answer.status_code == 503


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?nothing=1", 422, "Unknown parameter"),
        ("?prediction=Green", 404, "has no prediction"),
        ("?layer=conv9", 404, "has no layer"),
        ("?colour=size", 422, "There is no colour"),
        ("?ood=3..1", 422, "the lower end 3 is larger"),
        ("?within=conv1:1,2;3,4", 422, "corners"),
        ("?right=right&right=wrong", 422, "right is given 2 times"),
    ],
)
def test_the_page_refuses_an_address_that_asks_for_what_is_not_there(
    site: Site, query: str, status: int, words: str
) -> None:
    answer = patient.get(f"{site.url}{site.overview}/map{query}")
    assert answer.status_code == status
    assert words in answer.text
    assert "The map without a selection" in answer.text


def test_the_page_is_linked_and_starts_with_the_colours_of_the_set(site: Site) -> None:
    assert f'href="{site.overview}/map"' in patient.get(f"{site.url}{site.overview}").text
    text = patient.get(f"{site.url}{site.overview}/map").text
    start = json.loads(text.partition('id="map-start">')[2].partition("</script>")[0])
    assert start["layers"] == list(site.layers)
    offered = [one["value"] for one in start["colourings"]]
    assert offered == list(dict.fromkeys(offered))
    assert {"prediction", "ood", "split", f"cluster:{site.layers[0]}"} <= set(offered)
    for value in (offered[0], offered[-1]):
        address = f"{site.url}{site.overview}/map?{urlencode({'colour': value})}"
        assert patient.get(address).status_code == 200, "all that is offered can be asked for"
    assert [len(one) for one in start["clusters"]] == [site.k] * 5

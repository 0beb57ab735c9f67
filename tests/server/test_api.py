"""/api/v1 beside its schema: HEAD, names with slashes, pictures whose files change."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests import patient
from tests.server.conftest import Site
from tests.server.made import draw_faces, make_set
from tests.serving import serving

FACES = "/api/v1/models/Faces/sets/set_01"


# HEAD


def test_head_is_get_without_its_body(site: Site) -> None:
    api = f"/api/v1/models/{site.model}/sets/{site.set}"
    places = [
        *("/health", "/models", "/api/v1/models", "/api/v1/openapi.json", "/", "/login", "/compare", site.overview),
        *("/static/explorer.css", "/static/report.css", "/nothing", "/explore/no/set", f"{site.overview}/ask?page=0"),
        *(f"{api}/routes", f"{api}/examples.csv", f"{api}/examples/0/image?size=96", f"/models/{site.model}/sets"),
    ]
    with patient.client(base_url=site.url) as client:
        for place in places:
            got, head = client.get(place), client.head(place)
            assert (head.status_code, head.content) == (got.status_code, b""), place
            headers = [
                {k: v for k, v in one.headers.items() if k not in ("date", "transfer-encoding")} for one in (got, head)
            ]
            assert headers[0] == headers[1], place
        tag = client.head(f"{api}/routes").headers["etag"]
        assert client.head(f"{api}/routes", headers={"If-None-Match": tag}).status_code == 304
        assert client.head("/run").status_code == 405


def test_an_answer_that_is_there_is_not_taken_for_known_by_a_star(site: Site) -> None:
    place = f"{site.url}/api/v1/models/{site.model}/sets/{site.set}/routes"
    assert patient.get(place, headers={"If-None-Match": "*"}).status_code == 200


# layers whose names are paths


def test_a_layer_whose_name_has_slashes_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "Other" / "set_01"
    folder.mkdir(parents=True)
    layers = ("/features/relu", "fc/0/exemplars")
    (folder / "paths.json").write_text(json.dumps({f"example_{i:04d}": [i % 3, i % 2] for i in range(9)}))
    (folder / "centroids.json").write_text(json.dumps({layer: [[0.0], [1.0], [2.0]] for layer in layers}))
    (folder.parent / "metadata.json").write_text(json.dumps({"layers": layers}))
    with serving(tmp_path) as address, patient.client(base_url=f"{address}/api/v1/models/Other/sets/set_01") as client:
        for layer in ("%2Ffeatures%2Frelu", "fc%2F0%2Fexemplars"):
            one = client.get(f"clusters/{layer}/1")
            assert one.status_code == 200, one.text
            assert one.json()["info"]["cluster"] == 1
            some = client.get(f"clusters/{layer}/1/exemplars?kind=random&limit=2")
            assert some.status_code == 200, some.text
            assert len(some.json()["examples"]) == 2


# pictures whose files change


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """Twelve faces, served: a client, and the file of example 3."""
    make_set(tmp_path / "results", data_root=draw_faces(tmp_path / "images", 12), name="Faces", k=2, layers=("fc2",))
    with serving(tmp_path / "results") as address, patient.client(base_url=address) as client:
        yield client, tmp_path / "images" / "celeba" / "img_align_celeba" / "000004.jpg"


def test_a_picture_is_shown_as_long_as_its_file_is_the_one_of_the_set(own: tuple[httpx.Client, Path]) -> None:
    client, file = own
    place = f"{FACES}/examples/3/image?size=96"
    first = client.get(place)
    assert client.get(place, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    away = file.with_name("away")
    shutil.move(file, away)
    for headers in ({}, {"If-None-Match": first.headers["etag"]}):
        gone = client.get(place, headers=headers)
        assert gone.status_code == 404
        assert re.search(r"000004\.jpg .* no longer exists", gone.json()["detail"])
    Image.new("RGB", (178, 218), "red").save(file)
    red = client.get(place, headers={"If-None-Match": first.headers["etag"]})
    assert red.status_code == 404
    assert re.search(r"000004\.jpg .* was replaced since the set was made", red.json()["detail"])
    shutil.move(away, file)  # with its own time
    back = client.get(place)
    assert (back.content, back.headers["etag"]) == (first.content, first.headers["etag"])
    os.utime(file, ns=(0, 0))
    assert client.get(place).headers["etag"] != first.headers["etag"]

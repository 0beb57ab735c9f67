"""Overview, paths, cluster, path and example: what their HTML says, over HTTP and without a script."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from markupsafe import Markup, escape
from PIL import Image

from clusterpaths.explore.library import Library
from clusterpaths.records import data_set_title
from clusterpaths.server.pages.rendering import environment, escaped
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.pages.words import signed
from clusterpaths.server.static_files import static_url
from tests import patient
from tests.generated_set import generate
from tests.server.conftest import Site
from tests.serving import serving

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Reader(HTMLParser):
    """Links, images, headings and what a page must not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.forbidden: list[str] = []
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.unclosed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(named["href"] or "")
        if tag == "img":
            self.images.append(named)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.loaded += [value or "" for name, value in attrs if name == "src" or (tag == "link" and name == "href")]
        self.forbidden += [f"{tag} {name}" for name in named if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in named and named.get("type") != "application/json"):
            self.forbidden.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def words(html: str) -> str:
    """What a reader sees, in one line."""
    body = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body))


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        yield client


@pytest.fixture
def top(client: httpx.Client, site: Site) -> Any:
    """The most frequent path of the measured set, as the interface tells it."""
    return client.get(f"/api/v1/models/{site.model}/sets/{site.set}/paths?limit=1").json()["paths"][0]


def addresses(site: Site, top: Any) -> list[str]:
    """One of each page, of a whole set and of another program's."""
    path = "-".join(map(str, top["path"]))
    return [
        *(site.overview + rest for rest in ("", "/paths", "/clusters/conv1/0", f"/paths/{path}", "/examples/3")),
        *(f"/explore/{site.foreign}{rest}" for rest in ("", "/paths?order=rare", "/clusters/b/1", "/examples/0")),
    ]


def test_pages_are_whole_ask_no_other_host_and_need_no_inline_code(client: httpx.Client, site: Site, top: Any) -> None:
    for address in addresses(site, top):
        answer = client.get(address)
        assert answer.status_code == 200, address
        page = read(answer.text)
        assert (page.unclosed, page.open, page.forbidden) == ([], [], []), address
        assert page.headings[0] == 1, address
        steps = zip(page.headings, page.headings[1:], strict=False)
        assert [step for step in steps if step[1] > step[0] + 1] == [], address
        assert [one for one in page.loaded if not one.startswith(("/", "data:image/png;base64,"))] == [], address
        assert [image for image in page.images if not image["alt"]] == [], address


def test_every_link_of_every_page_leads_somewhere(client: httpx.Client, site: Site, top: Any) -> None:
    links = {
        link.partition("#")[0] for address in addresses(site, top) for link in read(client.get(address).text).links
    }
    looked = sorted(link for link in links if link and "/examples/" not in link)[:400:3]
    assert len(looked) > 40
    wrong = {link: code for link in looked if (code := client.get(link, follow_redirects=True).status_code) != 200}
    assert wrong == {}


def test_the_overview_names_what_the_set_is_and_links_every_cluster(client: httpx.Client, site: Site) -> None:
    html = client.get(site.overview).text
    said = words(html)
    assert "How SampleFaces_CNN.onnx sees 200 examples" in said
    assert "Purity" in said
    assert "Not measured" not in said
    routes = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/routes").json()
    links = read(html).links
    for one in routes["clusters"]:
        assert f"{site.overview}/clusters/{one['layer']}/{one['cluster']}" in links
    assert html.count('class="ribbon') > 20, "the figure is there without a script"


def test_a_set_that_was_not_measured_says_how_to(client: httpx.Client, site: Site) -> None:
    assert "--evaluate" in words(client.get(f"/explore/{site.model}/{site.other}").text)


def test_a_foreign_set_says_what_it_lacks(client: httpx.Client, site: Site) -> None:
    said = words(client.get(f"/explore/{site.foreign}").text)
    assert "What this set does not have" in said
    assert "another program" in said
    example = words(client.get(f"/explore/{site.foreign}/examples/0").text)
    assert "cannot be shown" in example
    assert "no distances" in example


def test_a_cluster_counts_as_the_interface_does(client: httpx.Client, site: Site) -> None:
    detail = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/clusters/fc1/1").json()
    html = client.get(f"{site.overview}/clusters/fc1/1").text
    assert f"{detail['info']['count']} of 200 examples" in words(html)
    shown = read(html).images
    assert len(shown) >= 3 * min(12, detail["info"]["count"])
    for one in (*detail["nearest"], *detail["farthest"]):
        assert any(f"/examples/{one['id']}/image" in str(image["src"]) for image in shown)
    asked = [link for link in read(html).links if link.startswith(f"{site.overview}/ask?cluster=conv3:")]
    assert len(asked) == len(detail["arrivals"])


def test_the_list_of_paths_has_them_all_once_in_both_orders(client: httpx.Client, site: Site) -> None:
    total = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/paths?limit=1").json()["total"]
    found: dict[str, list[str]] = {}
    for order in ("common", "rare"):
        for page in range(1, -(-total // 25) + 1):
            links = read(client.get(f"{site.overview}/paths", params={"order": order, "page": page}).text).links
            found.setdefault(order, []).extend(x for x in links if re.search(r"/paths/[\d-]+$", x))
    assert len(set(found["common"])) == len(found["common"]) == total
    assert set(found["rare"]) == set(found["common"])
    beyond = client.get(f"{site.overview}/paths?page=4000")
    assert (beyond.status_code, beyond.headers["location"].partition("?page=")[2]) == (303, str(-(-total // 25)))


def test_a_path_shows_its_examples_nearest_first(client: httpx.Client, site: Site, top: Any) -> None:
    path = "-".join(map(str, top["path"]))
    html = client.get(f"{site.overview}/paths/{path}").text
    api = f"/api/v1/models/{site.model}/sets/{site.set}/examples?path={path}&order=near&limit=60"
    expected = [one["id"] for one in client.get(api).json()["examples"]]
    wall = html.partition('class="thumbs wall"')[2].partition("</ul>")[0]
    assert [int(x) for x in re.findall(r'href="[^"]*/examples/(\d+)[?"]', wall)] == expected
    assert f"examples.csv?path={path}" in html
    assert "95% interval" in words(html)


def test_an_example_says_how_unusual_it_is(client: httpx.Client, site: Site) -> None:
    api = f"/api/v1/models/{site.model}/sets/{site.set}/examples"
    odd = client.get(f"{api}?order=strange&limit=1").json()["examples"][0]["id"]
    said = words(client.get(f"{site.overview}/examples/{odd}").text)
    assert "Very unusual for this set" in said
    detail = client.get(f"{api}/{odd}").json()
    assert f"Predicted: {detail['example']['prediction']}" in said
    assert all(layer["layer"] in said for layer in detail["layers"])


def test_unusual_is_said_in_whole_sentences(client: httpx.Client, site: Site) -> None:
    words_of = environment().get_template("macros.html").module
    assert [str(words_of.percentile(x)) for x in (0.2, 45.4, 99.7)] == ["&lt;1%", "45%", "&gt;99%"]
    assert signed(-1.4) == "−1.40"
    example = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/examples/3").json()["example"]
    way = "above" if example["ood_score"] >= 0 else "below"
    said = words(client.get(f"{site.overview}/examples/3").text)
    assert f"is {abs(example['ood_score']):.2f} standard deviations {way} the mean" in said
    assert "FPR95: lower is better" in words(client.get(site.overview).text)


def test_what_frames_a_wrong_decision_is_said_where_there_is_one(client: httpx.Client, site: Site) -> None:
    api = f"/api/v1/models/{site.model}/sets/{site.set}/examples"
    assert client.get(f"{api}?right=wrong&limit=1").json()["total"] > 0
    html = client.get(f"{site.overview}/ask?right=wrong").text
    assert "orange frame: the prediction differs from the label" in words(html)
    assert all(str(image["alt"]).endswith(", incorrect") for image in read(html).images)
    assert "orange frame" not in words(client.get(f"{site.overview}/ask?right=right").text)


def test_colour_means_the_same_class_on_a_comparison_as_on_a_clusters_page(client: httpx.Client, site: Site) -> None:
    html = client.get(f"/compare?first={site.model}/{site.set}&second={site.model}/{site.other}").text
    chips = dict(re.findall(r'<a href="([^"]*/clusters/[^"]*)" aria-label="[^"]*"><span class="chip (f\d)', html))
    assert {address.split("/")[3] for address in chips} == {site.set, site.other}
    of_pages = {link: re.findall(r'<h1><span class="chip (f\d)', client.get(link).text)[0] for link in chips}
    assert chips == of_pages
    assert "colour is the most frequent" in words(html)


def test_the_last_layers_blocks_say_their_class_in_words(client: httpx.Client, site: Site) -> None:
    routes = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/routes").json()
    last = [one for one in routes["clusters"] if one["layer"] == site.layers[-1] and one["majority"]]
    html = client.get(site.overview).text
    said = re.findall(r'<text class="beside"[^>]*>(?:\d+ )?(\D+)</text>', html)
    assert said == [one["majority"]["name"] for one in last]


def test_words_beside_blocks_do_not_touch_and_stay_inside() -> None:
    from clusterpaths.report.overview import HEIGHT
    from clusterpaths.server.pages.sankey import LINE, spread

    assert spread([50.0, 100.0]) == [50.0, 100.0]
    crowded = spread([2.0, 3.0, 150.0, 297.0, 298.0, 299.0])
    assert min(b - a for a, b in itertools.pairwise(crowded)) >= LINE
    assert (crowded[0], crowded[-1]) == (LINE / 2, HEIGHT - LINE / 2)


def test_a_foreign_set_says_why_it_cannot_look_at_images(client: httpx.Client, site: Site) -> None:
    Image.new("RGB", (64, 80)).save(content := io.BytesIO(), "JPEG")
    picture = {"image": ("a.jpg", content.getvalue(), "image/jpeg")}
    answer = client.post(f"/explore/{site.foreign}/image", files=picture)
    assert answer.status_code == 409
    assert "This set cannot explain images" in words(answer.text)
    assert "another program" in words(answer.text).lower()


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("/clusters/conv9/0", 404),
        ("/clusters/conv1/99", 404),
        ("/clusters/conv1/x", 404),
        ("/clusters/..%2F..%2Fetc/0", 404),
        ("/paths/9-9-9-9-9", 404),
        ("/paths/0-0", 404),
        ("/paths/a-b", 404),
        ("/paths?order=x", 422),
        ("/paths?page=0", 422),
        ("/examples/999999", 404),
        ("/examples/" + "9" * 40, 404),
    ],
)
def test_what_there_is_not_is_said_on_a_page(client: httpx.Client, site: Site, rest: str, status: int) -> None:
    answer = client.get(site.overview + rest)
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"].startswith("text/html")
    assert "Traceback" not in answer.text
    assert read(answer.text).headings[0] == 1


API = "/api/v1/models/CelebA/sets/set_01"
HOSTILE = """"'><img src=x onerror=alert(1)>&amp;"""  # a kind's name follows
SHOWN = {  # page -> kinds of names that are on it
    "": ("class", "layer", "file"),
    "/paths": ("class", "layer", "file"),
    "/paths/{path}": ("class", "layer", "file", "attribute", "split"),
    "/clusters/{layer}/0": ("class", "layer", "file", "attribute", "split"),
    "/examples/{id}": ("class", "layer", "file", "attribute", "split"),
    "/ask": ("class", "layer", "file", "attribute", "split"),
    "/ask?label={class_}&attribute={attribute}": ("class", "layer", "attribute", "split"),
}


def test_names_with_strange_letters_are_text_and_not_markup(tmp_path: Path) -> None:
    """A class, an attribute, a layer, a split and files that are called like a piece of a page."""
    layers = {f"{HOSTILE}layer": (4,), "b": (4,)}
    folder = generate(tmp_path / "cache", n=300, layers=layers, attributes=2, data_root=tmp_path)
    attribute = json.loads((folder / "set.json").read_text())["attributes"][0]
    text = (folder / "set.json").read_text()
    for name, kind in (("Brown", "class"), (attribute, "attribute")):
        text = text.replace(json.dumps(name), json.dumps(f"{HOSTILE}{kind}"))
    (folder / "set.json").write_text(text)
    rows = pq.read_table(folder / "paths.parquet")
    for column in ("file", "split"):
        named = pc.binary_join_element_wise(rows[column].cast(pa.string()), f"{HOSTILE}{column}", "")
        rows = rows.set_column(rows.schema.get_field_index(column), column, named)
    pq.write_table(rows, folder / "paths.parquet")
    more = pq.read_table(folder.parent / "examples.parquet")
    names = [f"attr_{HOSTILE}attribute" if name == f"attr_{attribute}" else name for name in more.column_names]
    pq.write_table(more.rename_columns(names), folder.parent / "examples.parquet")

    with serving(tmp_path / "cache") as url, patient.client(base_url=url) as client:
        question = {"attribute": f"{HOSTILE}attribute", "prediction": f"{HOSTILE}class", "limit": 1}
        example = client.get(f"{API}/examples", params=question).json()["examples"][0]
        quoted = {kind: quote(f"{HOSTILE}{kind}", safe="") for kind in ("layer", "class", "attribute")}
        asked = {
            "path": "-".join(map(str, example["path"])),
            "id": example["id"],
            "class_": quoted.pop("class"),
        } | quoted
        for place, kinds in SHOWN.items():
            page = client.get(f"/explore/CelebA/set_01{place.format(**asked)}")
            assert page.status_code == 200, (place, page.text[:500])
            assert "<img src=x" not in page.text, place
            assert HOSTILE not in page.text, place
            for kind in kinds:
                assert f"onerror=alert(1)&gt;&amp;amp;{kind}" in page.text, (place, kind)  # it is there, escaped once
    index = Library(tmp_path / "cache").newest("CelebA")
    undecided = index.examples(np.array([3]))[0].model_copy(update={"right": None, "label": HOSTILE, "file": "3.jpg"})
    pieces: Any = environment().get_template("examples.html").module
    item = str(pieces.found_items(set_view(index), [undecided], labelled=True))
    assert "<img src=x" not in item
    assert "label &#34;&#39;&gt;&lt;img src=x" in item


@pytest.mark.parametrize("value", [HOSTILE, "a & b", Markup("<b>"), 7, -0.5, None, True, ["<"], np.str_("<")])
def test_templates_escape_every_expression_as_markupsafe_does(value: Any) -> None:
    assert escaped(value) == escape(value)
    assert environment().from_string("{{ value }}|{{ value ~ '<' }}").render(value=value) == (
        f"{escape(value)}|{escape(value) + '<'}"
    )
    assert "environment.escaped(" in environment().compile("{{ value }}", raw=True)  # or pages take a third longer


def test_plotly_is_compressed_and_kept_by_browsers(client: httpx.Client) -> None:
    first = client.get(static_url("plotly.min.js"))
    assert first.headers["content-encoding"] == "gzip"
    assert int(first.headers["content-length"]) < 2_000_000 < len(first.content)
    assert "immutable" in first.headers["cache-control"]
    again = client.get("/static/plotly.min.js?v=1", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = client.get("/static/plotly.min.js", headers={"Accept-Encoding": "identity"})
    assert plain.content == first.content


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("address", ["/foo", "/docs", "/redoc"])
def test_an_unknown_address_is_a_page_in_a_browser_and_json_elsewhere(client: httpx.Client, address: str) -> None:
    page = client.get(address, headers=BROWSER)
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (404, "text/html")
    assert 'href="/api/v1/openapi.json"' in page.text
    program = client.get(address)
    assert (program.status_code, program.headers["content-type"]) == (404, "application/json")
    assert "no such address" in program.json()["detail"]


@pytest.mark.parametrize("address", ["/api/v1/foo", "/api/v1/models/None", "/static/foo.js"])
def test_the_api_answers_json_in_a_browser_too(client: httpx.Client, address: str) -> None:
    response = client.get(address, headers=BROWSER)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/json")


def test_a_way_of_reading_images_is_no_data_set(client: httpx.Client) -> None:
    assert [data_set_title(name) for name in ("folder", "arrays", "celeba", "torchvision:CIFAR10")] == [
        "", "", "CelebA", "CIFAR10"
    ]  # fmt: skip
    home = words(client.get("/").text)
    assert "examples of drawn faces" in home
    assert "of celeba" not in home

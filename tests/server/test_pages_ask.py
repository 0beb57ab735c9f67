"""Home, ask, compare, one image, errors: what their HTML says, over HTTP and without a script."""

from __future__ import annotations

import io
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from clusterpaths.common import roots
from clusterpaths.common.lru import LRUCache
from clusterpaths.comparison import cached as comparing
from clusterpaths.comparison.cached import compare_cached
from clusterpaths.comparison.record import Comparison
from clusterpaths.config import RunConfig
from clusterpaths.errors import ConfigError
from clusterpaths.explore.library import Library
from tests import patient
from tests.evaluating import publish
from tests.server.conftest import EXAMPLES, Site
from tests.serving import serving


class _Reader(HTMLParser):
    """Text by tag, links, and what must not be there."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "a" and named.get("href"):
            self.links.append(str(named["href"]))
        if tag == "style" or (tag == "script" and "src" not in named):
            self.inline.append(tag)
        self.inline += [name for name in named if name == "style" or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    return reader


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", " ".join(read(html).words))


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        yield client


def ask(site: Site, query: str = "") -> str:
    return f"/explore/{site.model}/{site.set}/ask{query}"


def api(site: Site, rest: str) -> str:
    return f"/api/v1/models/{site.model}/sets/{site.set}/{rest}"


def jpeg(size: tuple[int, int] = (64, 80), colour: str = "#a06040") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def test_the_address_of_a_form_with_empty_fields_becomes_the_one_without(client: httpx.Client, site: Site) -> None:
    layers = "&".join("step=" for _ in site.layers)
    answer = client.get(ask(site, f"?prediction=&right=&{layers}&id=&order=id&page=1&attribute=&attribute="))
    assert answer.status_code == 303
    assert answer.headers["location"] == ask(site)


def test_clusters_chosen_in_the_form_become_a_path_and_the_rest_clusters(client: httpx.Client, site: Site) -> None:
    answer = client.get(ask(site, "?step=1&step=&step=2&id=3,%204"))
    assert answer.status_code == 303
    assert answer.headers["location"] == ask(site, f"?path=1&cluster={site.layers[2]}:2&id=3&id=4")
    listed = [f"cluster={site.layers[1]}:2", f"cluster={site.layers[1]}:0", f"cluster={site.layers[2]}:1"]
    page = client.get(ask(site, "?path=1&" + "&".join(listed)))
    assert '<option value="2,0" selected>2 or 0</option>' in page.text
    again = client.get(ask(site, "?step=1&step=2,0&step=1"))
    assert again.headers["location"] == ask(site, "?path=1&" + "&".join(listed)), "two of one layer stay two"
    both = client.get(ask(site, "?step=1&step=0&step=&path=2&cluster=x:1"))
    assert both.headers["location"] == ask(site, "?path=1-0"), "the form says it all: older fields are gone"


def test_totals_agree_with_the_api_for_every_kind_of_filter(client: httpx.Client, site: Site) -> None:
    choices = client.get(api(site, "choices")).json()
    layer = site.layers[-1]
    queries = [
        f"prediction={quote(choices['predictions'][0])}",
        "path=1",
        f"cluster={layer}:1",
        f"cluster={layer}:1&cluster={layer}:0&cluster={site.layers[0]}:1",
        "id=1&id=3",
        "order=rare",
    ]
    queries += [f"split={split}" for split in choices["splits"][:1]]
    queries += ["right=wrong"] if choices["can_be_right"] else []
    queries += [f"attribute={name}" for name in choices["attributes"][:1]]
    queries += [f"attribute=-{name}&label={quote(choices['labels'][0])}" for name in choices["attributes"][1:2]]
    assert len(queries) == 10
    for query in queries:
        total = client.get(api(site, f"examples?{query}&limit=1")).json()["total"]
        page = client.get(ask(site, f"?{query}"))
        assert page.status_code == 200, page.headers.get("location", page.text)
        heading = re.search(r"<h1>(.*?)</h1>", page.text)
        assert heading
        assert heading[1].startswith(f"{total:,} example" if total else "No example"), query


def test_both_ends_of_a_range_in_the_form_become_one_filter(client: httpx.Client, site: Site) -> None:
    layer = site.layers[0]
    fields = f"ood.low=0.5&ood.high=&confidence.low=&confidence.high=0.9&distance.layer={layer}&distance.low=&distance.high=0.3"
    answer = client.get(ask(site, f"?{fields}"))
    assert answer.status_code == 303
    query = f"?ood=0.5..&confidence=..0.9&distance={layer}:..0.3"
    assert answer.headers["location"] == ask(site, query)
    page = client.get(ask(site, query))
    total = client.get(api(site, f"examples{query}&limit=1")).json()["total"]
    assert page.status_code == 200
    assert f"{total:,} example" in page.text or not total
    assert "0.5 or more" in text_of(page.text)
    assert f"{layer}: 0.3 or less" in text_of(page.text)
    assert f'value="{layer}:..0.3" checked' in page.text, "the form keeps it"
    narrower = client.get(ask(site, f"{query}&distance.layer={layer}&distance.low=0.1"))
    assert narrower.headers["location"] == ask(site, f"{query}&distance={layer}:0.1..")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ood=2..1", "larger than the upper end"),
        ("confidence=high", "Expected a range LOW..HIGH"),
        ("distance=0..1", "Expected LAYER:LOW..HIGH"),
        ("within=conv1:0,0;1,1", "3 to 64 of them; here are 2"),
        ("ood=nan..1", "none that is finite"),
    ],
)
def test_a_range_that_is_none_is_refused_in_a_sentence(
    client: httpx.Client, site: Site, query: str, words: str
) -> None:
    page = client.get(ask(site, f"?{query}"))
    assert page.status_code == 422
    assert words in text_of(page.text)
    answer = client.get(api(site, f"examples?{query}"))
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_a_region_of_64_corners_fits_an_address(client: httpx.Client, site: Site) -> None:
    corner = "-12.345678901234567,-12.345678901234567"
    answer = client.get(api(site, f"examples?within=conv1:{';'.join([corner] * 64)}"))
    assert answer.status_code in (200, 404), answer.text  # 404: the set has no maps
    assert (
        "Expected at most 4,000 characters" in client.get(api(site, f"examples?within={'1' * 4001}")).json()["detail"]
    )


def test_a_selection_says_what_is_unusual_in_it(client: httpx.Client, site: Site) -> None:
    found = client.get(api(site, "summary?path=1")).json()
    page = client.get(ask(site, "?path=1")).text
    clear = [lift for lift in (*found["lifts"], *found["clusters"]) if lift["clear"]]
    assert clear
    card = page[page.index("What is unusual here") :]
    card = card[: card.index("Median OOD score")]
    assert card.count("only these") == min(len(clear), 6)
    for link in re.findall(r'href="([^"]*/ask[^"]*)"', card):
        narrower = client.get(link.replace("&amp;", "&"))
        assert narrower.status_code == 200, "addresses of links are canonical"
        assert "path=1" in link
    assert f"All {len(found['lifts'])} as a table" in page
    assert f"All {len(found['clusters'])} as a table" in page
    assert "What is unusual here" not in client.get(ask(site)).text, "of all examples nothing is"


def test_the_numbers_of_the_confusion_matrix_are_links_to_so_many_examples(client: httpx.Client, site: Site) -> None:
    page = client.get(ask(site, "?split=train&right=wrong")).text
    table = page[page.index('class="confusion"') :]
    cells = re.findall(r'<a href="([^"]+)"[^>]*>([\d,]+)</a>', table[: table.index("</table>")])
    total = client.get(api(site, "examples?split=train&right=wrong&limit=1")).json()["total"]
    assert sum(int(count.replace(",", "")) for _, count in cells) == total > 0
    for link, count in cells:
        assert "split=train" in link
        assert "right=wrong" in link
        inside = client.get(link.replace("&amp;", "&"))
        assert inside.status_code == 200
        assert f"<h1>{count} example" in inside.text


def test_of_many_classes_the_most_confused_pairs_are_listed() -> None:
    """More classes than a table can show."""
    from clusterpaths.explore.records import ClassPair, SelectionSummary
    from clusterpaths.server.pages.selection import confused, matrix

    pairs = [ClassPair(label=f"c{i}", prediction=f"c{i + 1}", count=30 - i, right=False) for i in range(30)]
    pairs.append(ClassPair(label="c0", prediction="c0", count=99, right=True))
    found = SelectionSummary.model_construct(pairs=tuple(pairs))
    assert matrix([], found, [f"c{i}" for i in range(31)], lambda _: "") is None
    listed = confused([("split", "test")], found, lambda given: str(list(given)))
    assert [pair.count for pair, _ in listed] == list(range(30, 10, -1))
    assert listed[0][1] == "[('prediction', 'c1'), ('label', 'c0'), ('split', 'test')]"


def test_an_example_and_a_dropped_image_have_the_same_sections(client: httpx.Client, site: Site) -> None:
    """Layers with exemplars, the nearest other decision, how unusual, and neighbours are on both pages."""
    example = client.get(f"{site.overview}/examples/5").text
    image = Image.open(io.BytesIO(client.get(api(site, "examples/5/image?size=0")).content))
    sent = io.BytesIO()
    image.save(sent, "PNG")
    dropped = client.post(f"{site.overview}/image", files={"image": ("one.png", sent.getvalue(), "image/png")}).text
    for page in (example, dropped):
        for section in ("odd-title", "common-title", "verdict-title", "path-title", "paths-title", "neighbours-title"):
            assert f'id="{section}"' in page
        assert page.count('class="thumbs eight"') == len(site.layers)
        assert "Nearest other decision" in page
    explained = client.get(api(site, "examples/5/explanation")).json()
    other = "-".join(map(str, explained["other"]["path"]))
    assert f"/paths/{other}" in example
    assert f"Nearest other decision: {other}" in text_of(example)


def test_the_model_can_be_run_on_an_example(client: httpx.Client, site: Site) -> None:
    """What the model gives is what is stored; and what would change the prediction is added."""
    example = client.get(f"{site.overview}/examples/5").text
    assert 'name="example" value="5"' in example
    explained = client.post(f"{site.overview}/image", files={"example": (None, "5")})
    assert explained.status_code == 200
    stored = client.get(api(site, "examples/5")).json()
    text = text_of(explained.text)
    assert f"Predicted: {stored['example']['prediction']}" in text
    assert "What would change the prediction" in text
    assert f'href="{site.overview}/examples/5"' in explained.text
    for layer in stored["layers"]:
        assert f"/clusters/{layer['layer']}/{layer['cluster']}" in explained.text
    assert f"{stored['ood_score']:.2f}".replace("-", "−") in text
    unknown = client.post(f"{site.overview}/image", files={"example": (None, "99999")})
    assert unknown.status_code == 404
    assert "has no example 99999" in text_of(unknown.text)


def test_an_example_without_known_attributes_says_so_and_not_that_the_data_set_has_none(tmp_path: Path) -> None:
    from tests.clusterpaths.explore.small import write_small

    write_small(tmp_path)
    with serving(tmp_path) as address, httpx.Client(base_url=address, timeout=30) as client:
        page = text_of(client.get("/explore/Small/set_01/examples/15").text)
    assert "It is not known which of the data set’s 1 attributes this example has" in page
    assert "The data set has no attributes" not in page


def test_each_filter_can_be_taken_out_alone(client: httpx.Client, site: Site) -> None:
    page = client.get(ask(site, "?split=train&path=1&order=rare")).text
    assert ask(site, "?path=1&amp;order=rare") in page
    assert ask(site, "?split=train&amp;order=rare") in page


def test_the_export_is_the_selection(client: httpx.Client, site: Site) -> None:
    page = client.get(ask(site, "?path=1"))
    link = re.search(r'href="(/api/v1/[^"]*examples\.csv[^"]*)"', page.text)
    assert link
    lines = client.get(link[1].replace("&amp;", "&")).text.strip().splitlines()
    assert len(lines) == client.get(api(site, "examples?path=1&limit=1")).json()["total"] + 1


def test_pages_follow_each_other_and_the_list_ends(client: httpx.Client, site: Site) -> None:
    first = client.get(ask(site)).text
    assert 'rel="next"' in first
    assert 'rel="prev"' not in first
    second = client.get(ask(site, "?page=2")).text
    shown = [set(re.findall(r"/examples/(\d+)[?]in=ask", page)) for page in (first, second)]
    assert all(shown)
    assert not shown[0] & shown[1]
    beyond = client.get(ask(site, "?page=999"))
    assert beyond.status_code == 200
    assert "The list ends before page 999" in beyond.text


def test_nothing_found_says_which_filter_to_take_out(client: httpx.Client, site: Site) -> None:
    row = client.get(api(site, "examples?limit=1")).json()["examples"][0]
    elsewhere = (row["path"][0] + 1) % site.k
    page = client.get(ask(site, f"?path={elsewhere}&id={row['id']}"))
    assert page.status_code == 200
    said = text_of(page.text)
    assert "No matching examples" in said
    assert f"without “path {elsewhere}” : 1 example" in said


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("?prediction=Purple", 404, "Purple"),
        ("?attribute=Winged", 404, "Winged"),
        ("?split=holdout", 404, "holdout"),
        ("?cluster=conv9:1", 404, "conv9"),
        ("?path=1-2-3-4-5-6-7-8-9", 404, "path"),
        ("?right=perhaps", 422, "Expected right or wrong"),
        ("?order=upside-down", 422, "Expected id, rare"),
        ("?id=one", 422, "Expected integers"),
        ("?page=zero", 422, "Expected a number from 1 on"),
        ("?page=0", 422, "Expected a number from 1 on"),
        ("?predicton=Blond", 422, "Expected one of prediction, label"),
        ("?path=" + "9" * 1900, 404, "path"),
        ("?path=" + "9" * 5000, 422, "path is too long"),
        ("?page=" + "0" * 5000 + "1", 422, "page is too long"),
        ("?page=" + "1" * 1900, 422, "Expected a number from 1 on"),
        ("?id=" + "9" * 5000, 422, "id is too long"),
        ("?right=right&right=wrong", 422, "Expected it once"),
        ("?path=0&path=1", 422, "Expected it once"),
        ("?page=1&page=2&page=3", 422, "Expected it once"),
        ("?" + "&".join(f"label={i:04d}" for i in range(2000)), 422, "There are 2,000 filters"),
        ("?id=" + ",".join(map(str, range(5000))), 422, "There are 5,000 ids"),
        ("?id=" + "9" * 400, 200, "No matching examples"),
        ("?label=%3Cscript%3Ealert(1)%3C/script%3E", 404, "&lt;script&gt;"),
    ],
)
def test_what_cannot_be_asked_is_told_with_the_form_still_there(
    client: httpx.Client, site: Site, query: str, status: int, says: str
) -> None:
    page = client.get(ask(site, query))
    assert page.status_code == status, page.text
    assert says in page.text
    assert "<script>alert" not in page.text
    assert 'id="filters"' in page.text
    assert ('class="filters"' in page.text) == (status == 200)
    assert len(page.content) < 100_000


def test_the_longest_question_makes_a_page_of_bounded_size(client: httpx.Client, site: Site) -> None:
    clusters = [f"cluster={layer}:{cluster}" for layer in site.layers for cluster in range(site.k)]
    attributes = [
        f"attribute={sign}{name}"
        for name in client.get(api(site, "choices")).json()["attributes"]
        for sign in ("", "-")
    ]
    filters = [*clusters, *attributes][:50]
    assert len(filters) == 50
    many = "&".join([*filters, *(f"id={i}" for i in range(100_000, 101_000))])
    page = client.get(ask(site, f"?{many}"))
    assert page.status_code == 200, text_of(page.text)[:300]
    assert page.text.count("remove this filter") == 51
    assert len(page.content) < 2_500_000


def test_home_lists_every_set_with_its_facts_and_says_what_is_broken(client: httpx.Client, site: Site) -> None:
    page = client.get("/")
    assert page.status_code == 200
    listed = client.get("/api/v1/models").json()
    models = listed["models"] if isinstance(listed, dict) else listed
    for model in models:
        for one in model["sets"]:
            assert f'href="/explore/{model["name"]}/{one["set"]}"' in page.text
            assert f"{one['num_examples']:,} example" in page.text
        for problem in model["problems"]:
            assert problem[:30] in page.text


def test_an_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        page = patient.get(url)
    assert page.status_code == 200
    assert "clusterpaths sample" in page.text
    assert "clusterpaths celeba" in page.text


def test_comparing_shows_agreement_and_links_into_both_sets(client: httpx.Client, site: Site) -> None:
    page = client.get(f"/compare?first={site.model}/{site.set}&second={site.model}/{site.other}")
    assert page.status_code == 200, text_of(page.text)
    numbers = client.get(
        "/api/v1/comparisons", params={"first": f"{site.model}/{site.set}", "second": f"{site.model}/{site.other}"}
    ).json()
    assert f"{numbers['paths_kept']:,} of {numbers['num_examples']:,} examples" in page.text
    for layer in numbers["layers"]:
        assert f"adjusted Rand index {layer['adjusted_rand']:.3f}" in page.text
    links = read(page.text).links
    assert any(link.startswith(f"/explore/{site.model}/{site.set}/clusters/") for link in links)
    assert any(link.startswith(f"/explore/{site.model}/{site.other}/clusters/") for link in links)
    for link in dict.fromkeys(link for link in links if link.startswith("/explore/")):
        assert client.get(link).status_code == 200, link


def test_sets_that_do_not_go_together_are_told_apart(client: httpx.Client, site: Site) -> None:
    one = f"{site.model}/{site.set}"
    same = client.get("/compare", params={"first": one, "second": one})
    assert same.status_code == 422
    assert "was given twice" in same.text
    for gone in ("Nobody/set_01", f"{site.model}/set_99", "../etc", "x"):
        missing = client.get("/compare", params={"first": one, "second": gone}, follow_redirects=True)
        assert missing.status_code == 404, gone
        assert "These two cannot be compared" in missing.text


def test_an_image_is_explained_without_a_script(client: httpx.Client, site: Site) -> None:
    page = client.post(f"/explore/{site.model}/{site.set}/image", files={"image": ("mine.jpg", jpeg(), "image/jpeg")})
    assert page.status_code == 200, text_of(page.text)
    numbers = client.post(api(site, "explain"), files={"image": ("mine.jpg", jpeg(), "image/jpeg")}).json()
    assert f"mine.jpg · Predicted: {numbers['prediction']['name']}" in page.text
    for layer in numbers["layers"]:
        assert f"/clusters/{layer['layer']}/{layer['cluster']}" in page.text
    assert f"{numbers['ood_score']:.2f}" in page.text
    assert "data:image/jpeg;base64," in page.text


@pytest.mark.parametrize(
    ("name", "content", "status", "says"),
    [
        ("notes.txt", b"not an image at all", 415, "This is not an image"),
        ("empty.jpg", b"", 422, "This image cannot be decoded"),
        ("cut.jpg", jpeg((300, 300))[:500], 422, "This image cannot be decoded"),
    ],
)
def test_what_is_no_image_brings_the_form_back_with_a_reason(
    client: httpx.Client, site: Site, name: str, content: bytes, status: int, says: str
) -> None:
    page = client.post(f"/explore/{site.model}/{site.set}/image", files={"image": (name, content)})
    assert page.status_code == status
    assert says in page.text
    assert 'enctype="multipart/form-data"' in page.text


def test_a_form_without_a_file_is_told(client: httpx.Client, site: Site) -> None:
    page = client.post(f"/explore/{site.model}/{site.set}/image", files={"other": ("a.jpg", jpeg())})
    assert page.status_code == 422
    assert "No file came with the request" in page.text


def test_an_unknown_place_says_where_to_go(client: httpx.Client, site: Site) -> None:
    for path in ("/explore/Nobody/set_01", f"/explore/{site.model}/set_99/ask", f"/explore/{site.model}/set_99/image"):
        page = client.get(path)
        assert page.status_code == 404
        assert "All models and sets" in page.text
        assert f">{site.model}</a>" in page.text


def test_who_has_no_token_is_not_told_what_is_here(site: Site) -> None:
    with serving(site.root, token="a-token-of-a-test") as url, patient.client(base_url=url) as client:
        page = client.get(f"/explore/{site.model}/{site.set}/ask", follow_redirects=True)
        assert 'type="password"' in page.text
        target = ask(site)
        form = read(page.text)
        assert not any(link.startswith("/explore") for link in form.links), "the list of sets needs the token"
        wrong = client.post("/login", data={"token": "something else", "next": target})
        assert wrong.status_code == 401
        assert "Invalid token" in wrong.text
        right = client.post("/login", data={"token": "a-token-of-a-test", "next": target})
        assert right.headers["location"] == target
        assert client.get(target).status_code == 200
        stranger = patient.get(f"{url}/", headers={"Host": "evil.example"})
        assert stranger.status_code == 400
        assert site.model not in stranger.text


def test_a_deleted_set_is_not_found_any_more(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.root, tmp_path / "cache")
    with serving(tmp_path / "cache") as url, patient.client(base_url=url) as client:
        assert client.get(ask(site)).status_code == 200
        shutil.rmtree(tmp_path / "cache" / site.model / site.set)
        assert client.get(ask(site)).status_code == 404
        assert client.get("/").status_code == 200


def test_no_page_has_inline_style_or_script(client: httpx.Client, site: Site) -> None:
    pair = f"/compare?first={site.model}/{site.set}&second={site.model}/{site.other}"
    base = f"/explore/{site.model}/{site.set}"
    for path in ("/", ask(site), ask(site, "?path=1"), "/compare", pair, f"{base}/image", "/explore/x/y"):
        assert read(client.get(path).text).inline == [], path


def test_sets_of_different_k_show_no_share_of_kept_paths(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.root, tmp_path / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roots, "data_root", lambda: tmp_path / "data")
        publish(RunConfig(sample=True, sample_size=EXAMPLES, cache_root=tmp_path / "cache", k=3))
    with serving(tmp_path / "cache") as url, patient.client(base_url=url) as client:
        page = client.get(f"/compare?first={site.model}/{site.set}&second={site.model}/set_03")
    assert page.status_code == 200, text_of(page.text)
    assert "Paths are not compared" in page.text
    assert "by chance" in page.text
    assert "Easier to read" in page.text
    assert "keep their path" not in page.text


def test_a_comparison_is_made_once_while_both_sets_are_as_they_were(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.root, tmp_path / "cache")
    library = Library(tmp_path / "cache")
    first, second = (library.set(site.model, name) for name in (site.set, site.other))
    made = compare_cached(first, second)
    assert compare_cached(library.set(site.model, site.set), second) is made
    assert compare_cached(second, first) is not made
    record = tmp_path / "cache" / site.model / site.other / "set.json"
    replaced = record.with_suffix(".new")  # as publishing does it: another file under the same name
    replaced.write_text(record.read_text().replace('"seed": 1', '"seed": 7'))
    replaced.rename(record)
    again = compare_cached(first, library.set(site.model, site.other))
    assert again is not made
    assert again.second.seed == 7


def test_who_asks_for_a_kept_comparison_does_not_wait_for_another(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(site.root)
    first, second = (library.set(site.model, name) for name in (site.set, site.other))
    monkeypatch.setattr(comparing, "_comparisons", LRUCache(99))
    kept = compare_cached(first, second)
    began, go_on = threading.Event(), threading.Event()

    def slow(*_: Path) -> Comparison:
        began.set()
        assert go_on.wait(20)
        return kept

    monkeypatch.setattr("clusterpaths.comparison.compare.compare_sets", slow)
    other = threading.Thread(target=compare_cached, args=(second, first))
    other.start()
    assert began.wait(20)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(compare_cached, first, second).result(10) is kept
    finally:
        go_on.set()
        other.join()


def test_what_another_program_made_is_not_compared(site: Site) -> None:
    library = Library(site.root)
    foreign = library.set(*site.foreign.split("/"))
    with pytest.raises(ConfigError, match="another program made it"):
        compare_cached(library.set(site.model, site.set), foreign)

"""The map page in unusual cases: 300 classes, 60 clusters, 35 filters, outliers, a touch screen, a set that is replaced."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import SelectionSummary
from clusterpaths.server.pages.plots import apart
from clusterpaths.sets.maps import MAPS, LayerMap, MapRecord, write_maps
from clusterpaths.sets.published import open_set
from tests.generated_set import generate
from tests.serving import serving

N, K, CLASSES = 1200, 60, 300
LAYERS: dict[str, tuple[int, ...]] = {"early": (8,), "late": (4,)}
MANY_FILTERS = 35


@dataclass(frozen=True)
class Many:
    """A generated set, served."""

    address: str
    folder: Path
    index: SetIndex

    def has(self, name: str) -> NDArray[np.bool_]:
        return np.asarray(self.index.attributes[name] == 1)


def write(root: Path, model: str, **more: Any) -> Path:
    """With maps, on which one example of `late` is far from all others."""
    folder = generate(root, n=N, layers=LAYERS, model=model, **more)
    draw = np.random.default_rng(0)
    maps = {}
    for layer in LAYERS:
        points = draw.normal(0, 1, (N, 2)).astype(np.float32)
        if layer == "late":
            points[0] = 12, -9
        maps[layer] = LayerMap(MapRecord(explained=(0.3, 0.1)), points, points)
    write_maps(folder / MAPS, maps)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    root = tmp_path_factory.mktemp("many")
    folder = write(root, "Many", k=K, classes=[f"class {i}" for i in range(CLASSES)], labelled=1.0)
    with serving(root) as address:
        yield Many(address, folder, SetIndex(open_set(folder)))


@pytest.fixture
def open_map(chromium: Any, many: Many) -> Iterator[Callable[..., Any]]:
    contexts = []
    problems: list[str] = []

    def start(query: str = "", address: str = many.address, **more: Any) -> Any:
        context = chromium.new_context(base_url=address, reduced_motion="reduce", **more)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"/explore/Many/set_01/map{query}")
        page.locator("#map[data-state=ready]").wait_for(timeout=30_000)
        return page

    yield start
    for context in contexts:
        context.close()
    assert problems == []


def count(page: Any) -> int:
    return int(page.locator("#map-count").inner_text().replace(",", ""))


def asked(page: Any) -> list[tuple[str, str]]:
    page.wait_for_timeout(400)
    return parse_qsl(page.url.partition("?")[2])


def legend(page: Any, title: str) -> Any:
    return page.locator("#map-side fieldset").filter(has=page.locator("legend", has_text=title)).first


def place(page: Any, points: NDArray[np.floating], row: int) -> tuple[float, float]:
    """Where an example is on the screen, when all are shown."""
    page.locator("#map-canvas").scroll_into_view_if_needed()
    box = page.locator("#map-canvas").bounding_box()
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 0.9 * min(box["width"] / (high - low)[0], box["height"] / (high - low)[1])
    x, y = (points[row] - (low + high) / 2) * scale
    return box["x"] + box["width"] / 2 + float(x), box["y"] + box["height"] / 2 - float(y)


def test_of_300_classes_each_is_counted_alone(open_map: Callable[..., Any]) -> None:
    page = open_map()
    found = legend(page, "Prediction")
    assert found.locator(".map-entry .num").all_inner_texts() == [str(N // CLASSES)] * 14
    assert found.locator(".more").inner_text() == f"and {CLASSES - 14} more"
    found.locator(".map-entry").first.click()
    assert count(page) == N // CLASSES


def test_of_60_clusters_the_largest_are_listed(open_map: Callable[..., Any], many: Many) -> None:
    page = open_map("?colour=cluster")
    sizes = np.bincount(many.index.clusters[:, 1], minlength=K)
    largest = np.argsort(-sizes, kind="stable")[:14]
    found = legend(page, "Clusters of late")
    assert found.locator(".map-entry .num").all_inner_texts() == [f"{sizes[c]:,}" for c in largest]
    found.locator(".map-entry").first.click()
    assert asked(page)[0] == ("cluster", f"late:{largest[0]}")


def test_the_legend_of_an_attribute_counts_what_passes_those_of_others(
    open_map: Callable[..., Any], many: Many
) -> None:
    page = open_map("?attribute=Male&colour=attribute%3ASmiling")
    male, smiling = many.has("Male"), many.has("Smiling")
    found = legend(page, "Smiling")
    assert found.locator(".num").all_inner_texts() == [f"{(male & ~smiling).sum():,}", f"{(male & smiling).sum():,}"]
    for word, expected in (
        ("without", male & ~smiling),
        ("with", male & smiling),
    ):  # the second takes the first's place
        found.get_by_role("button", name=re.compile(rf"^{word}\b")).click()
        assert count(page) == expected.sum()
    assert [value for name, value in asked(page) if name == "attribute"] == ["Male", "Smiling"]
    page.get_by_role("button", name="without the filter with Male").click()
    assert count(page) == smiling.sum()


def test_more_filters_than_bits(open_map: Callable[..., Any], many: Many) -> None:
    names = many.index.attribute_names[:MANY_FILTERS]
    row = 5
    passes = np.array([many.has(name) == many.has(name)[row] for name in names])  # (filters, n)
    values = [name if many.has(name)[row] else f"-{name}" for name in names]
    last = names[-1]
    query = urlencode([*(("attribute", one) for one in values), ("colour", f"attribute:{last}")])
    page = open_map(f"?{query}")
    assert count(page) == passes.all(axis=0).sum() > 0
    others = passes[:-1].all(axis=0)
    numbers = [int(one) for one in legend(page, last.replace("_", " ")).locator(".num").all_inner_texts()]
    assert sum(numbers) == others.sum(), "all filters but its own"
    for gone in (0, MANY_FILTERS - 2, 1):
        passes[gone] = True
        name = names[gone].replace("_", " ")
        page.get_by_role("button", name=re.compile(f"^without the filter with(out)? {name}$")).click()
        assert count(page) == passes.all(axis=0).sum()
    page.get_by_role("button", name="Clear selection").click()
    assert count(page) == N


def test_all_blocks_of_60_clusters_are_in_the_picture(open_map: Callable[..., Any], many: Many) -> None:
    page = open_map()
    page.locator("#map-flow").scroll_into_view_if_needed()
    page.locator('[data-cluster="late:0"]').wait_for()
    inside = page.evaluate(
        """() => {
          const all = document.querySelector(".map-routes").getBoundingClientRect();
          return [...document.querySelectorAll(".map-routes .block .edge")].map((one) => one.getBoundingClientRect())
            .filter((one) => one.height > 0.5 && one.top >= all.top && one.bottom <= all.bottom).length;
        }"""
    )
    assert inside == sum(int((sizes > 0).sum()) for sizes in map(np.asarray, many.index.sizes))


def test_clusters_have_the_colours_of_the_other_pages(open_map: Callable[..., Any]) -> None:
    page = open_map("?colour=cluster")
    colour = "(name) => { const one = document.createElement('i'); one.style.background = `var(--${name})`;" + (
        "document.body.append(one); const found = getComputedStyle(one).backgroundColor; one.remove(); return found; }"
    )
    for entry in legend(page, "Clusters of late").locator(".map-entry").all():
        number = int(entry.locator(".clamp").inner_text().removeprefix("cluster ").split()[0])
        dot = entry.locator(".dot").evaluate("(one) => getComputedStyle(one).backgroundColor")
        assert dot == page.evaluate(colour, f"f{number % 8}"), number
    page.locator("#map-paths").scroll_into_view_if_needed()
    page.locator("#map-paths .chip").first.wait_for()
    chips = page.locator("#map-paths .chip").all()
    page.evaluate("document.querySelector('#by-cluster').click()")
    for chip in chips:
        number = int(chip.inner_text())
        assert f"p{number % 5}" in chip.get_attribute("class").split()
        shown = chip.evaluate("(one) => getComputedStyle(one).backgroundColor")
        assert shown == page.evaluate(colour, f"f{number % 8}"), number
    assert len(chips) > 6
    for block in page.locator(".map-routes .block").all()[:12]:
        number = int(block.get_attribute("data-cluster").rpartition(":")[2])
        assert block.locator(f"rect.part.g{number % 8}").count() == 1


def test_two_clusters_of_one_colour_have_badges_and_blocks_of_their_own(open_map: Callable[..., Any]) -> None:
    page = open_map()
    page.locator("#map-flow").scroll_into_view_if_needed()
    page.locator('[data-cluster="late:0"]').wait_for()
    page.evaluate("document.querySelector('#by-cluster').click()")
    for number in (1, 9, 17):  # one colour
        block = page.locator(f'[data-cluster="early:{number}"]')
        assert block.locator("rect.part.g1").count() == 1
        pattern = block.locator("rect.pattern")
        assert pattern.get_attribute("fill") == f"url(#pattern{number % 5})"
        assert pattern.evaluate("(one) => getComputedStyle(one).display") == "inline"
    found = page.evaluate(
        """async () => {
          const { badge, places } = await import("/static/map_badges.js");
          const pictures = [0, 1, 2, 3, 4].map((pattern) => {
            const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
            badge(context, { number: 8, colour: [86, 180, 233], pattern }, 40, 40, 2, { card: "#fff", font: "sans-serif" });
            return canvas.toDataURL();
          });
          // cluster 0: a ring and, within it, cluster 1; the mean of the ring is in cluster 1
          const ring = Array.from({ length: 8 }, (_, i) => [Math.cos((i * Math.PI) / 4), Math.sin((i * Math.PI) / 4)]);
          const points = Float32Array.from([...ring, [0.99, 0.01], [0.05, 0.05], [0.05, 0.05]].flat());
          const clusters = Int16Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
          return { pictures, places: places(points, clusters, 3, { x: 0, y: 0, width: 2, height: 2 }) };
        }"""
    )
    assert len(set(found["pictures"])) == 5
    assert [one["number"] for one in found["places"]] == [0, 1], "an empty cluster is nowhere"
    assert found["places"][0]["x"] == pytest.approx(0.995, abs=1e-3)
    assert found["places"][1]["x"] == pytest.approx(0.05)


def test_a_tap_shows_the_card_until_another_one(open_map: Callable[..., Any], many: Many) -> None:
    page = open_map(has_touch=True, viewport={"width": 390, "height": 800})
    assert many.index.maps is not None
    points = many.index.maps.points("late")
    page.touchscreen.tap(*place(page, points, 0))
    page.locator("#map-tip:not([hidden])").wait_for()
    page.wait_for_timeout(300)
    link = page.locator("#map-tip:not([hidden]) a")
    assert link.inner_text() == f"Example {many.index.ids[0]}"
    assert link.get_attribute("href").endswith(f"/examples/{many.index.ids[0]}?in=ask")
    box = page.locator("#map-canvas").bounding_box()
    page.touchscreen.tap(box["x"] + 5, box["y"] + 5)
    page.locator("#map-tip").wait_for(state="hidden")
    assert count(page) == N


def test_a_shaky_click_with_shift_is_no_lasso(open_map: Callable[..., Any]) -> None:
    page = open_map()
    page.locator("#map-canvas").scroll_into_view_if_needed()
    box = page.locator("#map-canvas").bounding_box()
    x, y = box["x"] + 6, box["y"] + 6
    page.keyboard.down("Shift")
    page.mouse.move(x, y)
    page.mouse.down()
    for dx, dy in ((1, 0), (1, 1), (2, 1), (1, 2), (0, 1)):
        page.mouse.move(x + dx, y + dy)
    page.mouse.up()
    page.keyboard.up("Shift")
    assert asked(page) == []
    assert count(page) == N


def test_all_is_shown_with_outliers(open_map: Callable[..., Any]) -> None:
    page = open_map()
    page.get_by_role("button", name="Select what is shown").click()
    assert [name for name, _ in asked(page)] == ["within"]
    assert count(page) == N


def test_ends_are_as_typed_and_ids_are_numbers(open_map: Callable[..., Any]) -> None:
    page = open_map("?id=007&id=%2B8&id=9")
    assert count(page) == 3
    field = page.get_by_role("textbox", name="Confidence from")
    field.fill("0.123456789")
    field.press("Enter")
    assert ("confidence", "0.123456789..") in asked(page)


def test_what_differs_most_is_listed_first(open_map: Callable[..., Any], many: Many) -> None:
    cluster = int(np.bincount(many.index.clusters[:, 1]).argmax())
    page = open_map(f"?cluster=late%3A{cluster}")
    page.locator("#common-title").scroll_into_view_if_needed()
    rows = page.locator("#map-common:not([aria-busy]) tbody th")
    rows.first.wait_for()
    api = f"{many.address}/api/v1/models/Many/sets/set_01/summary?cluster=late%3A{cluster}"
    with urllib.request.urlopen(api) as answer:
        found = SelectionSummary.model_validate(json.load(answer))
    clear = sorted((one for one in (*found.lifts, *found.clusters) if one.clear), key=lambda one: -apart(one))
    expected = [f"{one.kind} {one.name.replace('_', ' ')}" for one in clear[:10]]
    assert rows.all_inner_texts() == expected
    shares = "async (all) => { const { percent } = await import('/static/map_panel.js'); return all.map(percent); }"
    assert page.evaluate(shares, [0, 0.0002, 0.07, 0.5, 202500 / 202599, 1]) == [
        "0%",
        "<0.1%",
        "7.0%",
        "50%",
        ">99%",
        "100%",
    ]


def test_a_set_that_is_replaced_is_told_from_the_one_on_the_page(open_map: Callable[..., Any], tmp_path: Path) -> None:
    folder = write(tmp_path, "Many")
    with serving(tmp_path) as address:
        page = open_map(address=address)
        record = folder / "set.json"
        other = record.with_suffix(".new")  # as publishing does it: another file under the same name
        other.write_text(record.read_text().replace('"seed": 0', '"seed": 7'))
        other.rename(record)
        page.locator("#map-colour").select_option("attribute:Male")
        page.locator("#map-problem:not([hidden])").wait_for()
        assert page.locator("#map-problem").inner_text() == "The set was replaced. Reload the page."
        assert page.locator("#map-colour").input_value() == "prediction", "what is shown"
        page.reload()
        page.locator("#map[data-state=ready]").wait_for()
        page.locator("#map-colour").select_option("attribute:Male")
        legend(page, "Male").wait_for()


def test_a_layer_that_is_chosen_while_others_load_is_shown(chromium: Any, many: Many) -> None:
    context = chromium.new_context(base_url=many.address, reduced_motion="reduce")
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    scores: list[Any] = []
    points: list[Any] = []
    page.route("**/map/columns?name=ood*", lambda route: scores.append(route))
    page.route("**/map/points?layer=early*", lambda route: points.append(route))
    page.goto("/explore/Many/set_01/map")
    page.locator("#map[data-state=drawn]").wait_for()
    page.locator("#map-layer").select_option("early")
    page.wait_for_timeout(200)
    scores[0].continue_()
    page.wait_for_timeout(600)  # all but the points of this layer is here
    points[0].continue_()
    page.locator("#map[data-state=ready]").wait_for(timeout=30_000)
    page.locator("#map-caption", has_text="early").wait_for()
    assert ("layer", "early") in asked(page)
    assert page.locator("#map-problem").is_hidden()
    context.close()
    assert problems == []


def test_the_last_of_several_colours_is_shown(open_map: Callable[..., Any]) -> None:
    page = open_map()
    held: list[Any] = []
    page.route("**/map/columns?name=attribute%3AMale*", lambda route: held.append(route))
    page.locator("#map-colour").select_option("attribute:Male")
    page.locator("#map-colour").select_option("cluster")
    legend(page, "Clusters of late").wait_for()
    held[0].continue_()
    page.wait_for_timeout(400)
    assert legend(page, "Male").count() == 0
    assert ("colour", "cluster") in asked(page)


def test_what_fails_is_said_and_what_is_shown_stays_chosen(open_map: Callable[..., Any]) -> None:
    page = open_map("?layer=early")
    answers = iter([lambda route: route.fulfill(status=401), lambda route: route.abort()])
    page.route("**/map/columns?name=attribute*", lambda route: next(answers)(route))
    for words in ("The session has ended. Reload the page to log in.", "The server does not respond."):
        page.locator("#map-colour").select_option("attribute:Male")
        page.locator("#map-problem", has_text=words).wait_for()
        assert page.locator("#map-colour").input_value() == "prediction"

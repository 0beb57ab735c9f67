"""The map page in a real Chromium: what a visitor does with the mouse, with the keyboard and with its address."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.explore.index import SetIndex
from clusterpaths.sets.maps import MAPS, LayerMap, MapRecord, write_maps
from clusterpaths.sets.published import open_set
from tests.generated_set import generate, write_random_maps
from tests.server.conftest import Site, misfits, violations
from tests.server.map_page import asked, count, total
from tests.serving import serving

Open = Callable[..., Any]
LAYER = "fc2"  # the last one is shown first


@pytest.fixture(scope="module")
def index(site: Site) -> SetIndex:
    return SetIndex(open_set(site.root / site.model / site.set))


@pytest.fixture
def open_map(open_page: Open, site: Site) -> Open:
    def start(query: str = "", **more: Any) -> Any:
        page = open_page(f"{site.overview}/map{query}", **more)
        page.locator("#map[data-state=ready]").wait_for()
        return page

    return start


def middle(page: Any) -> tuple[float, float]:
    page.locator("#map-canvas").scroll_into_view_if_needed()
    box = page.locator("#map-canvas").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Any, places: list[tuple[float, float]]) -> None:
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def inside(points: NDArray[np.floating], corners: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether the outline winds around each point: the sum of the angles at which its edges are seen is a full turn."""
    to = corners[None] - points[:, None].astype(np.float64)  # (n, m, 2)
    after = np.roll(to, -1, axis=1)
    angles = np.arctan2(to[..., 0] * after[..., 1] - to[..., 1] * after[..., 0], (to * after).sum(axis=-1))
    found: NDArray[np.bool_] = np.abs(angles.sum(axis=1)) > np.pi
    return found


def region(value: str) -> tuple[str, NDArray[np.float64]]:
    layer, _, corners = value.rpartition(":")
    return layer, np.array([[float(v) for v in corner.split(",")] for corner in corners.split(";")])


def test_a_lasso_selects_exactly_the_points_inside_and_every_view_follows(
    open_map: Open, index: SetIndex, site: Site
) -> None:
    page = open_map()
    assert count(page) == site.n
    x, y = middle(page)
    page.get_by_role("button", name="Lasso").click()
    around = [
        (x - 200, y - 30),
        (x - 60, y - 190),
        (x + 90, y - 60),
        (x + 20, y + 40),
        (x + 30, y + 200),
        (x - 120, y + 90),
    ]
    drag(page, around)
    pairs = asked(page)
    assert [name for name, _ in pairs] == ["within"]
    layer, corners = region(pairs[0][1])
    assert layer == LAYER
    assert index.maps is not None
    expected = inside(index.maps.points(LAYER), corners)
    assert 0 < expected.sum() < site.n
    assert count(page) == expected.sum() == total(site, pairs)

    drawn = page.locator("#map-over polygon").get_attribute("points")
    box = page.locator("#map-canvas").bounding_box()
    corner = np.array([box["x"], box["y"]])
    outline = corner + [[float(v) for v in one.split(",")] for one in drawn.split()]
    for place in around:
        assert np.abs(outline - place).sum(axis=1).min() < 8, "the polygon is where the mouse was"

    paths = index.paths.of_example[expected]
    first = np.bincount(paths).max()
    page.locator("#map-paths").scroll_into_view_if_needed()  # what is not on the screen is not loaded
    assert page.locator("#map-paths .num").first.inner_text().split()[0] == f"{first:,}"
    page.locator("#map-flow").scroll_into_view_if_needed()
    for at, name in enumerate(site.layers):
        for cluster in range(site.k):
            own = int((index.clusters[expected, at] == cluster).sum())
            words = page.locator(f'[data-cluster="{name}:{cluster}"]').get_attribute("aria-label")
            assert re.search(rf": {own:,} of {index.sizes[at][cluster]:,} examples", words), words
    predictions = np.bincount(index.predictions[expected], minlength=5)
    for name, number in ((index.class_name(i), int(v)) for i, v in enumerate(predictions) if v):
        entry = page.locator("fieldset", has_text="Prediction").first.get_by_role("button", name=name)
        assert entry.locator(".num").inner_text() == f"{number:,}"
    assert page.locator("#map-ask").inner_text() == f"See these {expected.sum():,} examples"
    page.locator("#common-title").scroll_into_view_if_needed()
    page.locator("#map-common p").first.wait_for()
    page.get_by_role("button", name="without the filter region of").click()
    assert count(page) == site.n


def test_the_selection_is_seen_in_the_pictures_of_all_layers(open_map: Open, index: SetIndex) -> None:
    page = open_map()
    pictures = "() => [...document.querySelectorAll('#map-layers canvas')].map((one) => one.toDataURL())"
    page.locator("#map-flow").scroll_into_view_if_needed()
    page.locator(f'[data-cluster="{LAYER}:0"][aria-label]').wait_for()
    page.locator("#map-layers").scroll_into_view_if_needed()
    page.wait_for_timeout(500)  # all are drawn
    before = page.evaluate(pictures)
    page.locator(f'[data-cluster="{LAYER}:0"]').click()
    assert count(page) == int(index.sizes[-1][0])
    page.locator("#map-layers").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert all(a != b for a, b in zip(before, page.evaluate(pictures), strict=True))
    page.locator(f'[data-cluster="{LAYER}:0"]').click()
    page.locator("#map-layers").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert page.evaluate(pictures) == before


def test_a_brush_and_its_fields_filter_by_number(open_map: Open, index: SetIndex, site: Site) -> None:
    page = open_map()
    chart = page.get_by_role("group", name="OOD score").locator("svg")
    chart.scroll_into_view_if_needed()
    chart.locator("path.all[d]").wait_for(state="attached")  # loaded once it is on the screen
    box = chart.bounding_box()
    y = box["y"] + 20
    drag(page, [(box["x"] + 0.3 * box["width"], y), (box["x"] + 0.5 * box["width"], y)])
    pairs = asked(page)
    low, high = (float(end) for end in pairs[0][1].split(".."))
    assert index.ood is not None
    assert count(page) == ((index.ood >= low) & (index.ood <= high)).sum() == total(site, pairs)
    ends = index.ood.min() + np.array([0.3, 0.5]) * np.ptp(index.ood)
    np.testing.assert_allclose([low, high], ends, atol=0.02 * np.ptp(index.ood))
    page.get_by_role("textbox", name="OOD score from").fill("")
    page.get_by_role("textbox", name="OOD score from").press("Tab")
    page.get_by_role("textbox", name="Distance in conv2 to").fill("0.3")
    page.get_by_role("textbox", name="Distance in conv2 to").press("Enter")
    assert index.distances is not None
    near = index.distances[:, 1] <= np.float32(0.3)
    assert count(page) == ((index.ood <= high) & near).sum() == total(site, asked(page))
    assert dict(asked(page)) == {"ood": f"..{high:g}", "distance": "conv2:..0.3"}
    field = page.get_by_role("textbox", name="OOD score from")
    field.fill("99")
    field.press("Enter")
    assert field.get_attribute("aria-invalid") == "true", "larger than the upper end"
    assert dict(asked(page))["ood"] == f"..{high:g}"


def test_an_address_restores_everything_and_is_the_question_of_all_links(
    open_map: Open, index: SetIndex, site: Site
) -> None:
    name = index.class_name(int(index.predictions[0]))
    attribute = index.attribute_names[0]
    query = urlencode(
        [
            ("prediction", name),
            ("attribute", f"-{attribute}"),
            ("split", "train"),
            ("confidence", "..0.9999"),
            ("distance", "conv1:0.1.."),
            ("within", "conv3:-2,-2;2,-2;2,2;-2,2"),
            ("layer", "conv3"),
            ("colour", "cluster"),
        ]
    )
    page = open_map(f"?{query}")
    pairs = parse_qsl(query)
    assert 0 < count(page) == total(site, pairs)
    assert sorted(asked(page)) == sorted(pairs)
    assert page.locator("#map-layer").input_value() == "conv3"
    assert page.locator("#map-colour").input_value() == "cluster"
    assert page.locator("#map-chips li").count() == 6
    assert (
        page.locator("fieldset", has_text="Prediction")
        .first.get_by_role("button", name=name)
        .get_attribute("aria-pressed")
        == "true"
    )
    own = sorted(pair for pair in pairs if pair[0] not in ("layer", "colour"))
    for link in ("#map-ask", "#map-csv"):
        assert sorted(parse_qsl(page.locator(link).get_attribute("href").partition("?")[2])) == own
    with page.expect_download() as started:
        page.locator("#map-csv").click()
    assert len(Path(started.value.path()).read_text().strip().splitlines()) == count(page) + 1
    found = count(page)
    page.locator("#map-ask").click()
    page.wait_for_url(re.compile("/ask"))
    assert page.locator("h1").inner_text().startswith(f"{found} example")
    page.get_by_role("link", name="Show on the map").click()
    page.locator("#map[data-state=ready]").wait_for()
    assert sorted(asked(page)) == own
    page.go_back()
    page.wait_for_url(re.compile("/ask"))
    page.go_back()
    page.locator("#map[data-state=ready]").wait_for()
    assert count(page) == found
    page.get_by_role("button", name="Clear selection").click()
    assert count(page) == site.n
    assert asked(page) == [("layer", "conv3"), ("colour", "cluster")]


def test_all_filters_of_a_question_are_those_of_the_server(open_map: Open, index: SetIndex, site: Site) -> None:
    ids = index.ids[:7].tolist()
    path = "-".join(map(str, index.paths.paths[0].tolist()))
    for pairs in (
        [("path", path)],
        [("path", f"*-{index.clusters[0, 1]}")],
        [("cluster", f"conv1:{index.clusters[0, 0]}"), ("cluster", f"fc1:{index.clusters[0, 3]}")],
        [("cluster", "conv1:0"), ("cluster", "conv1:1")],
        [("id", str(one)) for one in ids],
        [("right", "wrong")],
        [("label", index.label_name(0)), ("label", index.label_name(1))],
        [("attribute", index.attribute_names[0]), ("attribute", f"-{index.attribute_names[1]}")],
    ):
        page = open_map(f"?{urlencode(pairs)}")
        assert count(page) == total(site, pairs), pairs
        assert sorted(asked(page)) == sorted(pairs)
        page.close()


def test_the_keyboard_does_what_the_mouse_does(open_map: Open, index: SetIndex, site: Site) -> None:
    page = open_map()
    page.locator("#map-canvas").focus()
    for key in ("+", "+", "+", "ArrowLeft", "v"):
        page.keyboard.press(key)
    pairs = asked(page)
    layer, corners = region(pairs[0][1])
    assert (layer, len(corners)) == (LAYER, 4)
    assert index.maps is not None
    assert count(page) == inside(index.maps.points(LAYER), corners).sum() == total(site, pairs)
    assert count(page) < site.n
    page.locator("#map-tip:not([hidden])").wait_for()
    words = page.locator("#map-tip").inner_text()
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/examples/\d+\?in=ask&within="))
    assert page.get_by_role("navigation", name="Neighbours in the list").count()
    assert re.search(r"Example \d+", words)


def test_hover_shows_the_example_and_a_click_opens_it(open_map: Open, index: SetIndex, site: Site) -> None:
    page = open_map()
    page.wait_for_load_state("networkidle")  # the small maps have their points
    x, y = middle(page)
    box = page.locator("#map-canvas").bounding_box()
    assert index.maps is not None
    points = index.maps.points(LAYER).astype(np.float64)
    low, high = np.sort(points, axis=0)[[0, -1]]
    scale = 0.9 * min(box["width"] / (high - low)[0], box["height"] / (high - low)[1])
    at = np.array([x, y]) + (points - (low + high) / 2) * scale * (1, -1)
    apart = np.linalg.norm(at[:, None] - at[None], axis=-1) + np.eye(len(at)) * 1e9
    row = int(apart.min(axis=1).argmax())  # the one that is farthest from its nearest
    page.mouse.move(*at[row])
    page.locator("#map-tip:not([hidden])").wait_for()
    words = page.locator("#map-tip").inner_text()
    assert f"Example {index.ids[row]}" in words
    assert f"prediction {index.class_name(int(index.predictions[row]))}" in words
    assert (
        page.locator("#map-tip img")
        .get_attribute("src")
        .startswith(f"/api/v1/models/{site.model}/sets/{site.set}/examples/{index.ids[row]}/image")
    )
    assert page.locator(".map-here:not([hidden])").count() == 5, "and where it lies in each layer"
    page.mouse.click(*at[row])
    page.wait_for_url(re.compile(rf"/examples/{index.ids[row]}\?in=ask$"))


def test_move_and_wheel_change_the_picture_only(open_map: Open, site: Site) -> None:
    page = open_map()
    picture = "() => document.querySelector('#map-canvas').toDataURL()"
    first = page.evaluate(picture)
    x, y = middle(page)
    drag(page, [(x, y), (x + 80, y + 40)])
    page.wait_for_timeout(300)
    moved = page.evaluate(picture)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(300)
    assert len({first, moved, page.evaluate(picture)}) == 3
    page.get_by_role("button", name="Show all").click()
    assert page.evaluate(picture) == first
    assert count(page) == site.n
    assert asked(page) == []


def test_every_colouring_draws_another_picture_and_has_a_legend(open_map: Open, index: SetIndex) -> None:
    page = open_map()
    seen = set()
    wanted = [
        "prediction",
        "label",
        "right",
        "cluster",
        "cluster:conv1",
        "path",
        "ood",
        "confidence",
        "distance",
        "split",
    ]
    for value in [*wanted, f"attribute:{index.attribute_names[0]}"]:
        page.locator("#map-colour").select_option(value)
        page.wait_for_timeout(250)
        seen.add(page.evaluate("() => document.querySelector('#map-canvas').toDataURL()"))
        legend = page.locator("#map-side fieldset").first
        assert legend.locator(".map-entry, .map-scale").count()
        assert ("colour", value) in asked(page) or value == wanted[0]
    assert len(seen) >= len(wanted), "label and prediction may look alike"


@pytest.mark.parametrize("width", [390, 1280, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_axe_finds_nothing(open_map: Open, width: int, scheme: str) -> None:
    page = open_map("?right=wrong&colour=cluster", width=width, scheme=scheme)
    page.locator("#some-title").scroll_into_view_if_needed()
    page.locator("#map-some li").first.wait_for()
    assert misfits(page) == []
    assert violations(page) == []


def test_one_example_constant_layers_and_no_classes_are_drawn(chromium: Any, tmp_path: Path) -> None:
    layers: dict[str, tuple[int, ...]] = {"only": (4,)}
    one = generate(tmp_path, n=1, layers=layers, model="One", attributes=0, labelled=0.0)
    write_random_maps(one, layers)
    flat = generate(tmp_path, n=50, layers=layers, model="Flat", attributes=0)
    zeros = np.zeros((50, 2), np.float32)
    write_maps(flat / MAPS, {"only": LayerMap(MapRecord(), zeros, zeros)})
    with serving(tmp_path) as address:
        context = chromium.new_context(base_url=address, reduced_motion="reduce")
        problems: list[str] = []
        for model, n in (("One", 1), ("Flat", 50)):
            page = context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(f"/explore/{model}/set_01/map")
            page.locator("#map[data-state=ready]").wait_for(timeout=30_000)
            assert count(page) == n
            page.get_by_role("button", name="Select what is shown").click()
            assert count(page) == n, model
            pixels = "document.querySelector('#map-canvas').getContext('2d').getImageData(0, 0, 4000, 4000).data"
            dots = f"() => {pixels}.some(Boolean)"
            deadline = time.monotonic() + 5
            while not page.evaluate(dots) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert page.evaluate(dots), model
        context.close()
    assert problems == []

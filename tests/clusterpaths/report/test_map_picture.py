"""The maps of a set in its report: small pictures in the colours of classes, of a bounded size."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from clusterpaths.report.colours import PALETTE
from clusterpaths.report.map_picture import TOTAL, draw_maps, draw_points
from clusterpaths.report.page import write_report
from clusterpaths.sets.maps import MAPS, POINTS, LayerMap, MapRecord, UmapRecord, write_maps, write_points
from clusterpaths.sets.published import open_set
from tests.clusterpaths.report.test_report import Page, draw, make_set
from tests.generated_set import CELEBA, generate


def add_maps(folder: Path, seed: int = 0) -> None:
    published = open_set(folder)
    drawn = np.random.default_rng(seed)
    maps = {}
    for layer in published.layers:
        components = drawn.normal(size=(published.num_examples, 3)).astype(np.float32)
        maps[layer] = LayerMap(MapRecord(explained=(0.4, 0.2, 0.1)), components[:, :2], components)
    write_maps(folder / MAPS, maps)


def colours_of(image: Image.Image) -> set[str]:
    """Of all pixels that are not transparent."""
    pixels = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    return {f"#{bytes(one[:3]).hex()}" for one in pixels[pixels[:, 3] > 0]}


def test_a_point_is_where_its_coordinates_say_upwards_and_in_its_colour() -> None:
    corners = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    pixels = np.asarray(draw_points(corners, np.array([0, 1, 2]), 60).convert("RGBA"))
    found = {}
    for number in range(3):
        rows, columns = np.nonzero((pixels[..., :3] == list(bytes.fromhex(PALETTE[number][1:]))).all(axis=-1))
        found[number] = (rows.mean() < 30, columns.mean() < 30)  # above the middle, left of it
    assert found == {0: (False, True), 1: (False, False), 2: (True, True)}
    assert pixels[30, 30, 3] == 0, "the ground is transparent: it is the page's"


def test_where_points_overlap_the_colour_is_that_of_most_and_stronger() -> None:
    points = np.array([[0, 0]] * 5 + [[1, 1]], np.float32)
    image = draw_points(points, np.array([3, 3, 3, 4, 4, 3]), 60)
    assert colours_of(image) == {PALETTE[3]}
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert alpha[30:, :30].max() > alpha[:30, 30:].max() > 0


def test_points_that_are_somewhat_farther_out_are_in_the_picture_where_they_are() -> None:
    points = np.random.default_rng(0).uniform(0, 1, (2000, 2)).astype(np.float32)
    points[0] = 1.8, 0.5
    at_edge = np.asarray(draw_points(points, np.zeros(2000, np.int64), 60).convert("RGBA"))[:, -8:, 3]
    assert 0 < np.count_nonzero(at_edge) < 30, "the one example, and no wall of others"


def test_points_that_are_much_farther_out_are_drawn_at_the_edge_and_counted(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set_01", {"conv": [0, 1] * 1500}, predictions=[0, 1] * 1500)
    points = np.random.default_rng(0).uniform(0, 1, (3000, 2)).astype(np.float32)
    points[:2] = 500
    write_maps(folder / MAPS, {"conv": LayerMap(MapRecord(explained=(0.4, 0.2)), points, points)})
    assert [one.outside for one in draw_maps(open_set(folder).index)] == [8]  # 2, and 6 of 0.1% at each end
    text = " ".join(Page(write_report(open_set(folder), draw)).text.split())
    assert "8 farther out, drawn at the edge" in text


def test_maps_by_umap_say_what_they_do_not_show(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set_01", {"conv": [0, 0, 1, 1], "fc": [0, 1, 0, 1]}, predictions=[0, 0, 0, 1])
    add_maps(folder)
    published = open_set(folder)
    assert published.maps
    made = UmapRecord(sample=20_000, neighbours=15, min_dist=0.1, seed=0, version="0.5.12")
    umap = MapRecord(method="umap", explained=(0.4, 0.2), umap=made)
    both = {
        "conv": (MapRecord(explained=(0.4, 0.2)), published.maps.points("conv")),
        "fc": (umap, np.eye(4, 2, dtype=np.float32)),
    }
    write_points(folder / POINTS, both, "")
    page = Page(write_report(open_set(folder), draw))
    text = " ".join(page.text.split())
    assert "first two principal components" in text
    assert (
        "Without a percentage, UMAP placed the examples: neighbours lie together, but distances between groups" in text
    )
    assert text.count("60%") == 1
    write_points(folder / POINTS, {**both, "conv": (umap, np.eye(4, 2, dtype=np.float32))}, "")
    text = " ".join(Page(write_report(open_set(folder), draw)).text.split())
    assert "Here, UMAP placed the examples" in text
    assert "principal components" not in text


def test_points_that_are_all_the_same_are_drawn() -> None:
    assert colours_of(draw_points(np.ones((4, 2), np.float32), np.zeros(4, np.int64), 60)) == {PALETTE[0]}


def test_the_report_shows_the_maps_in_both_colourings(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set_01", {"conv": [0, 0, 1, 1], "fc": [0, 1, 0, 1]}, predictions=[0, 0, 0, 1])
    assert "map" not in Page(write_report(open_set(folder), draw)).ids, "a set from before there were maps"
    add_maps(folder)
    page = Page(write_report(open_set(folder), draw))
    assert "map" in page.ids
    images = page.having("img", src="data:image/png")
    assert [one["alt"] for one in images] == [
        f"Map of {layer}, coloured by {what}" for layer in ("conv", "fc") for what in ("class", "cluster")
    ]
    shown = [Image.open(io.BytesIO(base64.b64decode(str(one["src"]).partition(",")[2]))) for one in images]
    assert [colours_of(one) for one in shown] == [{PALETTE[0], PALETTE[1]}] * 4
    assert "60%" in page.text


def test_maps_of_200_000_examples_stay_small(tmp_path: Path) -> None:
    folder = generate(tmp_path, n=CELEBA)
    add_maps(folder)
    pictures = draw_maps(open_set(folder).index)
    assert [one.layer for one in pictures] == list(open_set(folder).layers)
    assert sum(len(one.by_class) + len(one.by_cluster) for one in pictures) <= TOTAL


def test_of_a_hundred_layers_those_that_fit_are_shown(tmp_path: Path) -> None:
    layers = {f"layer{at:03d}": (np.arange(3000) * (at + 1) % 2).tolist() for at in range(100)}
    folder = make_set(tmp_path / "set_01", layers, predictions=[0, 1] * 1500)
    add_maps(folder)
    pictures = draw_maps(open_set(folder).index)
    assert 0 < len(pictures) < 100
    assert pictures[-1].layer == "layer099", "those near the decision"
    page = Page(write_report(open_set(folder), draw, exemplars=0, top_paths=0))
    assert f"Of 100 layers the last {len(pictures)} are shown." in " ".join(page.text.split())

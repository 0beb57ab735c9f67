"""A map by UMAP in a real Chromium: its caption, its regions, and that a running server sees it come and go."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pytest

from clusterpaths.sets.maps import POINTS, MapRecord, UmapRecord, write_points
from tests.generated_set import generate, write_random_maps
from tests.server.conftest import misfits, violations
from tests.serving import serving

N, LAYERS = 300, {"early": (8,), "late": (8,)}


def write_umap(folder: Path) -> None:
    """Of `late` only: `early` has too few examples that differ, say."""
    draw = np.random.default_rng(4)
    made = UmapRecord(sample=20_000, neighbours=15, min_dist=0.1, seed=0, version="0.5.12")
    records = {
        "early": MapRecord(explained=(0.3, 0.1)),
        "late": MapRecord(method="umap", explained=(0.3, 0.1), umap=made),
    }
    write_points(
        folder / POINTS,
        {layer: (one, draw.normal(0, 3, (N, 2)).astype(np.float32)) for layer, one in records.items()},
        "",
    )


def ask(address: str, rest: str) -> Any:
    with urllib.request.urlopen(f"{address}/api/v1/models/CelebA/sets/set_01{rest}") as answer:
        return json.load(answer)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_map_by_umap_says_what_it_shows_and_its_regions_are_its_own(
    chromium: Any, tmp_path: Path, scheme: str
) -> None:
    folder = generate(tmp_path, n=N, layers=LAYERS)
    write_random_maps(folder, LAYERS)
    with serving(tmp_path) as address:
        assert [one["method"] for one in ask(address, "/map")["layers"]] == ["pca", "pca"]
        write_umap(folder)
        layers = ask(address, "/map")["layers"]
        assert [(one["method"], one["explained"]) for one in layers] == [("pca", [0.3, 0.1]), ("umap", [])]

        context = chromium.new_context(base_url=address, color_scheme=scheme, viewport={"width": 390, "height": 844})
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto("/explore/CelebA/set_01/map")
        page.locator("#map[data-state=ready]").wait_for(timeout=60_000)
        caption = page.locator("#map-caption").inner_text()
        assert "UMAP coordinates. Neighbours lie together; distances between groups" in caption
        assert "variance" not in caption
        assert (misfits(page), violations(page)) == ([], [])

        page.get_by_role("button", name="Lasso").click()
        page.locator("#map-canvas").scroll_into_view_if_needed()
        box = page.locator("#map-canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x - 70, y - 60)
        page.mouse.down()
        for place in ((x + 60, y - 50), (x + 40, y + 60), (x - 60, y + 40)):
            page.mouse.move(*place, steps=3)
        page.mouse.up()
        page.wait_for_timeout(500)
        pairs = parse_qsl(page.url.partition("?")[2])
        assert [name for name, _ in pairs] == ["within"]
        assert pairs[0][1].startswith("late:umap;")
        shown = int(page.locator("#map-count").inner_text().replace(",", ""))
        assert 0 < shown < N
        assert ask(address, f"/examples?limit=1&{urlencode(pairs)}")["total"] == shown
        page.reload()
        page.locator("#map[data-state=ready]").wait_for(timeout=60_000)
        assert int(page.locator("#map-count").inner_text().replace(",", "")) == shown
        assert page.locator("#map-over polygon").count() == 1

        (folder / POINTS).unlink()
        assert [one["method"] for one in ask(address, "/map")["layers"]] == ["pca", "pca"]
        page.reload()
        assert "drawn on a map by UMAP; the map of CelebA/set_01 is by PCA" in page.locator("main").inner_text()
        assert problems == []
        context.close()

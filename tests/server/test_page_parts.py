"""What pages are made of: places of marks, room for cached pages, the bands that are drawn."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path

import httpx
import numpy as np
import pytest

import clusterpaths
from clusterpaths.explore.records import ExampleLayer, Lift, Transition
from clusterpaths.server import answers
from clusterpaths.server.app import create_app
from clusterpaths.server.pages.hints import HINTS
from clusterpaths.server.pages.plots import SHOWN, lift_plot, spread_plot, times
from clusterpaths.server.pages.sankey import MOST_LINKS, _largest
from clusterpaths.server.settings import ServeConfig
from tests.clusterpaths.explore.small import small


def lift(value: float | None, interval: tuple[float, float | None], clear: bool = True) -> Lift:
    return Lift(
        kind="attribute",
        name="Smiling",
        count=3,
        known=9,
        share=1 / 3,
        share_outside=0.1,
        lift=value,
        interval=interval,
        clear=clear,
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "only here"),
        (0.0, "×0"),
        (1, "×1"),
        (2.04, "×2"),
        (3.14, "×3.1"),
        (31.4, "×31"),
        (0.5, "×1/2"),
        (1 / 29, "×1/29"),
        (0.99, "×1"),
        (1234, "×1,234"),
        (1 / 1234, "×1/1,234"),
    ],
)
def test_a_lift_in_words(value: float | None, text: str) -> None:
    assert times(value) == text


def test_the_axis_of_lifts_is_logarithmic_and_holds_every_whisker() -> None:
    plot = lift_plot([lift(2, (1.5, 3)), lift(0.5, (0.25, 0.8)), lift(9, (0.9, 90), clear=False)])
    assert plot is not None
    twice, half = plot.marks
    (one,) = [tick.at for tick in plot.ticks if tick.plain]
    assert twice.at - one == pytest.approx(one - half.at)
    assert all(0 < place < 100 for mark in plot.marks for place in (mark.low, mark.at, mark.high))
    assert lift_plot([lift(9, (0.9, 90), clear=False)]) is None


def test_what_only_one_side_has_is_drawn_at_the_edge_with_its_whisker() -> None:
    plot = lift_plot(
        [lift(None, (4, None)), lift(2, (1.5, 3)), lift(0, (0, 0.3)), lift(None, (0.1, None), clear=False)]
    )
    assert plot is not None
    only_here, twice, none_here = plot.marks
    assert (only_here.text, only_here.more, none_here.text, none_here.more) == ("only here", True, "×0", False)
    assert (
        none_here.low
        == 0
        < none_here.at
        < none_here.high
        < twice.at
        < only_here.low
        < only_here.at
        < only_here.high
        == 100
    )
    lone = lift_plot([lift(None, (4, None))])
    assert lone is not None
    assert lone.marks[0].low < lone.marks[0].at


def test_of_many_lifts_the_clearest_are_drawn_in_their_order() -> None:
    weak, strong = [lift(1.2, (1.1, 1.3))] * SHOWN, [lift(3, (2, 5)), lift(0, (0, 0.02))]
    plot = lift_plot([strong[0], *weak, strong[1]])
    assert plot is not None
    assert not plot.all
    assert [mark.lift for mark in plot.marks] == [strong[0], *weak[2:], strong[1]]


def test_a_very_strange_example_is_still_within_the_plot() -> None:
    def layer(spreads: float | None) -> ExampleLayer:
        return ExampleLayer(layer="a", cluster=0, cluster_count=9, distance=1.0, standardised=spreads, percentile=None)

    plot = spread_plot([layer(0), layer(41.5), layer(None)])
    assert plot is not None
    assert plot.marks[2] is None
    assert 0 < (plot.marks[0] or 0) < (plot.marks[1] or 0) < 100
    assert len(plot.ticks) <= 8
    assert spread_plot([layer(None)]) is None


def test_pages_and_answers_share_one_bounded_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path)
    monkeypatch.setattr(answers, "BUDGET", 50_000)
    app = create_app(ServeConfig(cache_root=tmp_path))
    cache = app.state.answers

    def get(path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                return await client.get(path)

        return asyncio.run(ask())

    assert get("/api/v1/models/Small/sets/set_01/routes").status_code == 200
    assert len(cache) == 1
    page = get("/explore/Small/set_01")
    assert (len(cache), cache.size > len(page.content)) == (2, True)
    assert get("/explore/Small/set_01").content == page.content
    assert len(cache) == 2
    for number in range(9):
        get(f"/explore/Small/set_01?{number}")
    assert len(page.content) < cache.size <= 50_000


def test_every_cluster_keeps_a_band_where_there_are_too_many_to_draw() -> None:
    counts = np.random.default_rng(0).integers(1, 1000, (60, 60))
    counts[7], counts[:, 9] = 1, 1  # a cluster with small bands only, on each side
    bands = [
        Transition(layer="a", cluster=i, next_layer="b", next_cluster=j, count=int(counts[i, j]), majority=None)
        for i in range(60)
        for j in range(60)
    ]
    drawn = _largest(bands)
    assert MOST_LINKS < len(drawn) <= MOST_LINKS + 120
    assert {one.cluster for one in drawn} == {one.next_cluster for one in drawn} == set(range(60))
    assert _largest(bands[:5]) == sorted(bands[:5], key=lambda one: -one.count)


def test_each_view_has_a_hint_of_one_sentence() -> None:
    folder = Path(clusterpaths.__file__).parent / "server" / "templates"
    pages = {file.name for file in folder.glob("*.html") if 'extends "base.html"' in file.read_text(encoding="utf-8")}
    assert pages - set(HINTS) == {"error.html", "login.html", "rename.html"}
    assert all(sentence.endswith(".") and len(sentence) < 120 for sentence in HINTS.values())


def test_sentences_of_templates_are_not_joined() -> None:
    """Jinja takes the end of a line after a tag: "could be read.None has a label." Lines end with +%} where text goes on."""
    joined = []
    for file in sorted(Path(clusterpaths.__file__).parent.rglob("*.html")):
        for line, after in itertools.pairwise(file.read_text(encoding="utf-8").split("\n")):
            if re.search(r"[.?!](</(span|strong|a|small|code)>)*({% end\w+ %})+$", line) and re.match(
                r"\w|{% if|{{", after
            ):
                joined.append(f"{file.name}: {line[-60:]} | {after[:60]}")
    assert joined == []

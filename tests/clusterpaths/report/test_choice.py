"""The part of a report on how k and the distance were chosen, made from a small sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterpaths.clustering.choice import Choice, LayerSet, SweepPoint
from clusterpaths.records import Distance
from clusterpaths.report.choice import HEIGHT, WIDTH, read_choice
from clusterpaths.report.page import write_report
from clusterpaths.sets.directory import SetDirectory
from clusterpaths.sets.published import open_set
from tests.clusterpaths.report.test_report import Page, draw, make_set

HOSTILE = "<script>alert('conv')</script>&\""


def point(layer: str, distance: Distance, k: int, daf: float | None, *, chosen: bool = False) -> SweepPoint:
    return SweepPoint(
        layer=layer,
        distance=distance,
        k=k,
        daf=daf,
        interval=None if daf is None else (daf - 0.05, daf + 0.04),
        occupied=k,
        stability=0.5 + k / 100,
        silhouette=0.25,
        chosen=chosen,
    )


def layer_set(layers: tuple[str, ...], daf: float | None, *, advised: bool = False) -> LayerSet:
    interval = None if daf is None else (daf - 0.05, daf + 0.04)
    return LayerSet(
        layers=layers, distance="cosine", daf=daf, interval=interval, paths=1234, stability=0.5, advised=advised
    )


def make_choice(layer: str = "conv", *, decisions: bool = True) -> Choice:
    """Two layers, cosine and Euclidean, k of 2, 10 and 20; cosine with k=10 is chosen in `layer`, 2 in fc."""
    score = 0.75 if decisions else None
    ks = (2, 10, 20)
    return Choice(
        sentence=f"Chosen: cosine distance and k {layer}=10, fc=2, for a reason.",
        advice="Fewer layers would suffice: fc.",
        scored_by="decisions" if decisions else "stability",
        distance="cosine",
        k_per_layer={layer: 10, "fc": 2},
        seed=0,
        sampled=100,
        judged=60 if decisions else 0,
        baseline=0.4 if decisions else None,
        baseline_interval=(0.3, 0.5) if decisions else None,
        carries_nothing=(),
        cut=(),
        points=(
            *(point(layer, "cosine", k, score, chosen=k == 10) for k in ks),
            *(point(layer, "euclidean", k, None if score is None else 0.5) for k in ks),
            *(point("fc", "cosine", k, score, chosen=k == 2) for k in ks),
            *(point("fc", "euclidean", k, score) for k in ks),
        ),
        layer_sets=(layer_set(("fc",), score, advised=decisions), layer_set((layer, "fc"), score)),
    )


class Cells(Page):
    """A page whose text has a space between any two pieces, such as cells of a table."""

    def handle_data(self, data: str) -> None:
        super().handle_data(data + " ")


def page_of(folder: Path, choice: Choice | None) -> Page:
    make_set(folder, {"conv": [0, 1, 0, 1], "fc": [1, 1, 0, 0]})
    if choice:
        (folder / "choice.json").write_text(choice.model_dump_json())
    return Cells(write_report(open_set(folder), draw))


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_the_sentence_the_advice_and_every_set_of_layers_are_told(tmp_path: Path) -> None:
    page = page_of(tmp_path / "set_01", make_choice())
    assert "chosen" in page.ids
    told = words(page)
    assert "Chosen: cosine distance and k conv=10, fc=2, for a reason. Fewer layers would suffice: fc." in told
    assert "conv, fc cosine 75.0% 70.0% to 79.0% 1,234 0.50" in told
    assert (
        "k from 0 to 20; y axis: decision alignment from 0% to 100%; dotted: base rate of the most frequent class"
        in told
    )
    assert [line["d"] for line in page.having("path", **{"class": "baseline"})] == ["M0 78.0h220"] * 2  # at 40% of 130


def test_the_table_has_the_whole_sweep_and_marks_what_was_chosen(tmp_path: Path) -> None:
    told = words(page_of(tmp_path / "set_01", make_choice()))
    assert "The full sweep: 12 clusterings" in told
    assert told.count("70.0% to 79.0%") == 2 + 9 + 9  # sets of layers, points of the table, and of the plot
    assert "conv cosine 2 75.0% 70.0% to 79.0% 2 0.52 0.25 conv cosine 10 75.0%" in told
    assert "conv cosine 10 75.0% 70.0% to 79.0% 10 0.60 0.25 chosen" in told
    assert "fc cosine 2 75.0% 70.0% to 79.0% 2 0.52 0.25 chosen" in told
    assert told.count("0.25 chosen") == 2


def test_each_layer_has_a_panel_with_one_ring_around_the_chosen_point(tmp_path: Path) -> None:
    (tmp_path / "choice.json").write_text(make_choice().model_dump_json())
    shown = read_choice(SetDirectory(tmp_path))
    assert shown is not None
    assert [panel.layer for panel in shown.panels] == ["conv", "fc"]
    cosine, euclidean = shown.panels[0].lines
    assert cosine.dots == (
        (WIDTH * 0.1, HEIGHT * 0.25, False, "cosine, k=2: 75.0% (70.0% to 79.0%), stability 0.52"),
        (WIDTH * 0.5, HEIGHT * 0.25, True, "cosine, k=10: 75.0% (70.0% to 79.0%), stability 0.60"),
        (WIDTH, HEIGHT * 0.25, False, "cosine, k=20: 75.0% (70.0% to 79.0%), stability 0.70"),
    )
    assert cosine.d == "M22.0 32.5L110.0 32.5L220.0 32.5"
    assert [dot[2] for dot in euclidean.dots] == [False] * 3
    page = page_of(tmp_path / "set_01", make_choice())
    rings = page.having("circle", r="6", fill="none")
    assert [(ring["cx"], ring["cy"]) for ring in rings] == [("110.0", "32.5"), ("22.0", "32.5")]
    assert len(page.having("circle", r="3")) == 10


def test_without_decisions_stability_is_drawn_and_no_alignment_is_made_up(tmp_path: Path) -> None:
    page = page_of(tmp_path / "set_01", make_choice(decisions=False))
    told = words(page)
    assert "y axis: stability from 0% to 100%" in told
    assert "base rate" not in told
    assert not page.having("path", **{"class": "baseline"})
    assert "conv, fc cosine – – 1,234 0.50" in told
    assert page.having("circle", r="6", cy="52.0")  # 1 - .6 of the height


def test_a_layer_s_name_stays_text(tmp_path: Path) -> None:
    page = page_of(tmp_path / "set_01", make_choice(HOSTILE))
    assert not page.having("script")
    assert page.having("article", **{"aria-label": HOSTILE})
    assert f"{HOSTILE}, fc" in words(page)


@pytest.mark.parametrize("content", [None, "{", "{}", '"version": 2'])
def test_a_set_without_a_choice_that_is_understood_has_no_such_part(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "set_01"
    folder.mkdir()
    if content is not None:
        whole = make_choice().model_dump_json().replace('"version":1', content)
        (folder / "choice.json").write_text(whole if "version" in content else content)
    assert "chosen" not in page_of(folder, None).ids

"""The page on two sets, made from small sets of drawn images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sklearn.metrics import adjusted_mutual_info_score

from clusterpaths.comparison.compare import compare_sets
from clusterpaths.comparison.record import Comparison
from clusterpaths.evaluation.record import Measure
from clusterpaths.records import ModelIdentity
from clusterpaths.report.comparison import comparison_section, headline, write_comparison
from clusterpaths.report.page import write_report
from clusterpaths.report.side_by_side import better, metric_rows, missing
from clusterpaths.sets.published import open_set
from tests.clusterpaths.report.test_report import HOSTILE, Page, draw, make_set

NEW_MODEL = ModelIdentity(file="new.onnx", sha256="f" * 64)


def two_sets(root: Path, **more: Any) -> tuple[Path, Path]:
    """Old/set_01 and New/set_01: five of six examples keep their path, two decisions change."""
    for name in ("Old", "New"):
        (root / name).mkdir()
    first = make_set(
        root / "Old" / "set_01",
        {"conv": [0, 0, 0, 1, 1, 1], "fc": [0, 0, 1, 1, 0, 1]},
        k=3,
        predictions=[0, 0, 0, 1, 1, 1],
        labels=[0, 0, 0, 1, 1, 1],
        **more,
    )
    second = make_set(
        root / "New" / "set_01",
        {"conv": [1, 1, 2, 0, 0, 0], "fc": [1, 1, 0, 0, 1, 0]},
        k=3,
        predictions=[0, 0, 1, 1, 1, 0],
        labels=[0, 0, 0, 1, 1, 1],
        **({"model": NEW_MODEL} | more),
    )
    return first, second


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    return two_sets(tmp_path)


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_the_page_says_what_changed(sets: tuple[Path, Path]) -> None:
    comparison = compare_sets(*map(open_set, sets))
    document, path = write_comparison(comparison, open_set(sets[1]), draw)
    assert (document, path) == tuple(sets[1] / f"comparison_with_Old_set_01.{kind}" for kind in ("json", "html"))
    assert Comparison.model_validate_json(document.read_text()) == comparison
    page = Page(path)
    assert {"changed", "layers", "decisions", "moved", "migration", "made", "words"} <= page.ids
    told = words(page)
    for expected in (
        "What changed from Old/set_01 to New/set_01: 83% of 6 examples keep their path",
        "Two models on the same images, model.onnx before and new.onnx after",
        "5 of 6 examples have the same cluster in all 2 layers (95% interval",
        "33.3% of 6 examples with a prediction on both sides",
        "Accuracy on the 6 labelled: 100.0% before, 66.7% after.",
        "2 of 6 examples have another predicted class",
        "Cat → became Dog",
        "Dog → became Cat",
        "1 of 2 layers",
        "2.jpg",
    ):
        assert expected in told
    assert [len(page.having("article", **{"aria-label": layer})) for layer in ("conv", "fc")] == [1, 1]


def test_both_paths_of_a_moved_example_are_in_the_first_set_s_names(sets: tuple[Path, Path]) -> None:
    page = Page(write_comparison(compare_sets(*map(open_set, sets)), open_set(sets[1]), draw)[1])
    stops = page.having("span", **{"class": "stop"})
    assert len(stops) == 2 * 2  # one example, before and after, two layers
    assert [("unchanged" in (s["class"] or "")) for s in stops] == [False, True, False, True]
    dashed = page.having("span", **{"class": "unmatched"})
    assert any("without a counterpart" in (chip["title"] or "") for chip in dashed)
    assert page.having("span", title="fc, cluster 0 of the second set, shown as 1")


def test_sets_of_different_k_are_compared_in_what_can_be_compared(tmp_path: Path) -> None:
    for name in ("Old", "New"):
        (tmp_path / name).mkdir()
    conv, fc = [0, 0, 0, 1, 1, 1, 0, 1], [0, 0, 1, 1, 0, 1, 1, 0]
    known = {"labels": [0, 0, 0, 1, 1, 1, 0, 1]}
    first = open_set(make_set(tmp_path / "Old" / "set_01", {"conv": conv, "fc": fc}, **known))
    finer = [2 * a + b for a, b in zip(conv, fc, strict=True)]
    second = open_set(make_set(tmp_path / "New" / "set_01", {"conv": finer, "fc": fc}, k=4, **known))
    comparison = compare_sets(first, second)
    assert not comparison.same_k
    assert [layer.shared_information for layer in comparison.layers] == [
        pytest.approx(adjusted_mutual_info_score(conv, finer)), pytest.approx(1)
    ]  # fmt: skip
    assert "%" not in headline(comparison)
    page = Page(write_comparison(comparison, second, draw)[1])
    told = words(page)
    paths, singletons, *_ = metric_rows(comparison)
    assert (paths.name, paths.first, paths.second, paths.better) == ("Occupied paths", "4", "4", None)
    assert (singletons.first, singletons.second) == ("0 (0.0%)", "0 (0.0%)")
    for expected in (
        "with different numbers of clusters",
        "Paths are not compared",
        "Adjusted mutual information",
        "Occupied paths",
        "1.000, by chance",
    ):
        assert expected in told
    assert "keep their path" not in told
    assert "moved" not in page.ids


def test_a_metric_is_marked_where_the_interval_of_the_difference_excludes_0(sets: tuple[Path, Path]) -> None:
    comparison = compare_sets(*map(open_set, sets))

    def side(paths: int, low: float, value: float, high: float, n: int = 100) -> dict[str, object]:
        return {"paths": paths, "alignment": Measure(value=value, low=low, high=high, n=n)}

    def compared(first: dict[str, object], second: dict[str, object]) -> Comparison:
        sides = {
            "first": comparison.first.model_copy(update={"accuracy": None} | first),
            "second": comparison.second.model_copy(update={"accuracy": None} | second),
        }
        return comparison.model_copy(update=sides)

    clear = compared(side(40, 0.7, 0.75, 0.8), side(300, 0.9, 0.92, 0.94))
    assert better(clear) == (
        "Easier to read: Old/set_01, with 40 paths; New/set_01 has 300.",
        "Better: New/set_01 in decision alignment.",
    )
    assert metric_rows(clear)[0].better == 1
    # each value is outside the other's interval, but 0.1 < hypot(0.08, 0.08): a difference of 0 is within its interval
    close = compared(side(40, 0.72, 0.8, 0.88), side(40, 0.82, 0.9, 0.98))
    assert better(close) == ("Within the 95% intervals neither set is better.",)
    assert metric_rows(close)[0].better == "unclear"
    alone = compared({"alignment": None, "paths": None}, side(4, 0.1, 0.2, 0.3))
    assert better(alone) == ()
    row = metric_rows(alone)[0]
    assert (row.first, row.second, row.better) == ("–", "0.200 (0.100 to 0.300)", None)


def test_what_differs_by_the_settings_or_the_examples_alone_is_not_called_better(sets: tuple[Path, Path]) -> None:
    comparison = compare_sets(*map(open_set, sets))

    def side(name: str, value: float) -> Any:
        measure = Measure(value=value, low=value - 0.01, high=value + 0.01, n=1000)
        return getattr(comparison, name).model_copy(
            update={"alignment": None, "path_agreement": {"noise": measure}, "accuracy": measure}
        )

    def marks(**changed: Any) -> dict[str, Any]:
        sides = {"first": side("first", 0.5), "second": side("second", 0.9)}
        rows = metric_rows(comparison.model_copy(update=sides | changed))
        return {row.name.partition(":")[0]: row.better for row in rows}

    one = side("second", 0.9).model_copy(update={"model": comparison.first.model})
    assert (marks()["Path agreement"], marks()["Accuracy"]) == (1, 1)
    fewer = side("second", 0.9).model_copy(update={"k_per_layer": dict.fromkeys(comparison.second.k_per_layer, 1)})
    assert marks(second=fewer)["Path agreement"] is None, "fewer clusters alone give a higher one"
    assert marks(second=one)["Accuracy"] is None, "one model: only the examples differ"


def test_purity_is_compared_by_how_far_it_is_above_chance(sets: tuple[Path, Path]) -> None:
    comparison = compare_sets(*map(open_set, sets))

    def side(value: float, chance: float) -> Any:
        known = {
            "purity_labels": value,
            "chance_labels": chance,
            "purity_labels_interval": (value - 0.02, value + 0.02),
        }
        return comparison.first.model_copy(update=known)

    sides = {"first": side(0.9, 0.5), "second": side(0.98, 0.9)}
    by_name = {row.name: row for row in metric_rows(comparison.model_copy(update=sides))}
    row = by_name["Path purity with labels"]
    assert row.better == 0, "the second is purer by having more paths of one example"
    assert row.second == "0.980 (0.960 to 1.000), by chance 0.900"


def test_what_was_not_measured_is_said_with_how_to_get_it(sets: tuple[Path, Path]) -> None:
    comparison = compare_sets(*map(open_set, sets))
    told = missing(comparison.first, comparison.second)
    assert [text.split(" was")[0] for text in told] == ["Old/set_01", "New/set_01"]
    assert all("--evaluate" in text for text in told)
    page = Page(write_comparison(comparison, open_set(sets[1]), draw)[1])
    assert "was not evaluated" in words(page)
    order = [a["id"] for _, a in page.tags if a.get("id") in ("metrics", "layers", "moved")]
    assert order == ["metrics", "layers", "moved"], "which is better, then matched clusters, then what moved"


def test_what_is_of_one_model_has_no_changed_decision(sets: tuple[Path, Path]) -> None:
    comparison = compare_sets(open_set(sets[0]), open_set(sets[0]))
    told = words(Page(write_comparison(comparison, open_set(sets[0]), draw)[1]))
    assert headline(comparison) == "What changed from Old/set_01 to set_01: 100% of 6 examples keep their path"
    assert "only the clusters differ" in told
    assert "None: all paths are unchanged." in told
    assert "None: both sets use the same model." in told


def test_without_predictions_there_is_no_section_on_decisions(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set_01", {"fc": [0]})
    comparison = compare_sets(open_set(folder), open_set(folder))
    page = Page(write_comparison(comparison, open_set(folder), draw)[1])
    assert "decisions" not in page.ids
    assert "At least one side has no predictions." in page.text
    assert headline(comparison).endswith("100% of 1 example keeps its path")


def test_the_page_is_whole_by_itself_and_each_image_is_in_it_once(sets: tuple[Path, Path]) -> None:
    page = Page(write_comparison(compare_sets(*map(open_set, sets)), open_set(sets[1]), draw)[1])
    assert len(page.having("image", href="data:image/jpeg;base64,")) == 2  # 2.jpg and 5.jpg
    targets = [a[key] or "" for _, a in page.tags for key in ("src", "href", "action", "srcset") if key in a]
    assert all(t.startswith("data:image/jpeg;") or (t[0] == "#" and t[1:] in page.ids) for t in targets)
    assert "url(" not in page.css
    assert not page.having("script")
    assert page.having("meta", content="default-src 'none'")


def test_names_from_elsewhere_are_escaped(tmp_path: Path) -> None:
    files = [HOSTILE.replace("<", f"{i}<") for i in range(6)]
    first, second = two_sets(tmp_path, files=files, class_names=("<img src=x onerror=alert(1)>", "</style>"))
    page = Page(write_comparison(compare_sets(open_set(first), open_set(second)), open_set(second), draw)[1])
    assert not any(page.having(tag) for tag in ("script", "img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<img src=x onerror=alert(1)>" in page.text
    assert files[2] in page.text


def test_images_that_are_gone_have_a_placeholder(sets: tuple[Path, Path]) -> None:
    def gone(file: str) -> Image.Image:
        raise FileNotFoundError(file)

    page = Page(write_comparison(compare_sets(*map(open_set, sets)), open_set(sets[1]), gone)[1])
    assert page.having("span", **{"class": "gone", "aria-label": "example 102: image not available"})
    assert "2 of the 2 images shown here were not available" in words(page)


def test_many_classes_have_no_table_but_their_changes(tmp_path: Path) -> None:
    n = 20
    sides = []
    for name, predictions in (("A", list(range(n))), ("B", [1, 0, *range(2, n)])):
        (tmp_path / name).mkdir()
        sides.append(make_set(tmp_path / name / "set_01", {"fc": [0, 1] * 10}, predictions=predictions, class_names=()))
    told = words(Page(write_comparison(compare_sets(*map(open_set, sides)), open_set(sides[1]), draw)[1]))
    assert "class 0 → became class 1" in told
    assert "Rows of the table are" not in told


def test_the_section_stands_alone_and_has_no_pictures(sets: tuple[Path, Path], tmp_path: Path) -> None:
    section = comparison_section(compare_sets(*map(open_set, sets)))
    (tmp_path / "section.html").write_text(section)
    page = Page(tmp_path / "section.html")
    assert {"changed", "layers"} <= page.ids
    assert not page.having("image")
    assert "not available" not in page.text


def test_readers_of_the_set_find_what_they_found_before(sets: tuple[Path, Path]) -> None:
    before = {path.name: path.read_bytes() for path in sets[1].iterdir()}
    write_comparison(compare_sets(*map(open_set, sets)), open_set(sets[1]), draw)
    after = {path.name: path.read_bytes() for path in sets[1].iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {f"comparison_with_Old_set_01.{kind}" for kind in ("json", "html")}
    assert json.loads(after["comparison_with_Old_set_01.json"])["version"] == 1


def test_the_set_s_own_page_has_the_section_and_leads_to_the_whole(sets: tuple[Path, Path]) -> None:
    comparison = compare_sets(*map(open_set, sets))
    _, whole = write_comparison(comparison, open_set(sets[1]), draw)
    (sets[1] / "comparison_with_Broken_set_01.json").write_text("{}")  # of another version: passed over
    page = Page(write_report(open_set(sets[1]), draw))
    assert headline(comparison) in page.text
    assert {"compared", "changed", "layers"} <= page.ids
    assert page.having("a", href=whole.name)

"""What a set answers in a notebook: the table, exemplars, figures, explanation, report, and the cell itself."""

from __future__ import annotations

import importlib.util
import pickle
import re
import shutil
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clusterpaths as cp
from clusterpaths.errors import ConfigError, DatasetError, ModelError, NotFoundError
from clusterpaths.explanation.explain import explain_image
from clusterpaths.explore.clusters import exemplars
from clusterpaths.explore.index import SetIndex
from clusterpaths.notebook import optional
from clusterpaths.notebook.frame import to_table
from clusterpaths.report.colours import PALETTE as COLOURS
from clusterpaths.sets.conveniences import _ANSWERS
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.explore.small import write_small

PALETTE = re.compile(r"--f(\d): (#[0-9a-f]{6})")


@pytest.fixture
def small(tmp_path: Path) -> PublishedSet:
    """Eight examples in two layers, without images: see `small.py`."""
    return cp.load(write_small(tmp_path))


@pytest.mark.parametrize("what", _ANSWERS)
def test_every_answer_has_its_function(what: str) -> None:
    module, _, function = _ANSWERS[what].partition(":")
    assert callable(getattr(import_module(f"clusterpaths.{module}"), function))


def test_a_table_has_what_is_known_of_every_example(small: PublishedSet) -> None:
    rows = small.to_frame("pyarrow").to_pylist()
    assert list(rows[0]) == [
        "id", "file", "split", "label", "prediction", "right", "path", "path_count", "ood_score", "confidence",
        "a", "b", "distance.a", "distance.b", "attribute.Smiling",
    ]  # fmt: skip
    first, last = rows[0], rows[-1]
    confidence = 1 / (1 + np.exp(-2))  # of logits 2 and 0
    assert first | {"ood_score": 0, "confidence": 0, "distance.a": 0, "distance.b": 0} == {
        "id": 10, "file": "10.jpg", "split": "train", "label": "cat", "prediction": "cat", "right": True, "path": "0-0",
        "path_count": 3, "ood_score": 0, "confidence": 0, "a": 0, "b": 0, "distance.a": 0, "distance.b": 0,
        "attribute.Smiling": True,
    }  # fmt: skip
    assert first["distance.a"] == pytest.approx(0.3)
    assert first["confidence"] == pytest.approx(confidence)
    np.testing.assert_allclose([row["ood_score"] for row in rows], small.scores.ood)
    assert (last["prediction"], last["right"], last["split"], last["confidence"]) == (None, None, None, None)
    assert (rows[1]["label"], rows[1]["right"]) == ("dog", False)
    assert [row["attribute.Smiling"] for row in rows] == [True, True, False, False, False, None, True, True]


def test_a_layer_keeps_its_name_beside_the_other_columns(ran: PublishedSet) -> None:
    table = to_table(ran)
    np.testing.assert_array_equal(np.stack([table[layer] for layer in ran.layers], axis=1), ran.clusters)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_the_same_table_in_another_package(ran: PublishedSet, kind: str) -> None:
    pytest.importorskip(kind)
    frame, table = ran.to_frame(kind), ran.to_frame("pyarrow")
    assert type(frame).__module__.partition(".")[0] == kind
    assert list(frame.columns) == table.column_names
    assert list(frame["path"]) == table["path"].to_pylist()


def test_a_table_is_of_the_first_package_that_is_there(ran: PublishedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional.importlib.util, "find_spec", lambda name: name == "pyarrow" or None)
    assert type(ran.to_frame()).__module__ == "pyarrow.lib"
    with pytest.raises(ConfigError, match=r"needs polars, which is not installed\. Install it: pip install polars"):
        ran.to_frame("polars")
    with pytest.raises(ConfigError, match="pip install plotly"):
        ran.sankey("plotly")
    assert str(ran.sankey()).startswith("<svg")


def test_metrics_are_those_of_the_run_or_none(ran: PublishedSet, small: PublishedSet) -> None:
    assert ran.metrics.num_eval > 0
    assert ran.metrics.fingerprint == ran.record.fingerprint
    assert small.metrics is None


def test_exemplars_are_those_of_the_explorer_and_show_their_images(ran: PublishedSet) -> None:
    found = ran.exemplars("conv2", 1, 4)
    assert tuple(found) == exemplars(SetIndex(ran), "conv2", 1, "nearest", 4).examples
    assert len(found.images()) == len(found)
    html = found._repr_html_()
    assert html.count("data:image/jpeg;base64,") == len(found) > 0
    assert f"{ran.name} · conv2 cluster 1" in html


def test_exemplars_without_their_images_are_placeholders(small: PublishedSet) -> None:
    html = small.exemplars("a", 0)._repr_html_()
    assert html.count("image not available") == 4
    assert "data:" not in html


def test_a_layer_that_is_not_there_is_reported_with_the_nearest(ran: PublishedSet) -> None:
    with pytest.raises(NotFoundError, match=r"no layer 'conw2'\. Nearest: conv2\b.* It has"):
        ran.exemplars("conw2", 0)
    with pytest.raises(NotFoundError, match=r"no cluster 3 in layer conv2\. It has 0 to 2"):
        ran.exemplars("conv2", 3)
    with pytest.raises(ConfigError, match="got -1 and 'nearest'"):
        ran.exemplars("conv2", 0, -1)
    with pytest.raises(DatasetError):
        ran.exemplars("conv2", 0, data_root=ran.path / "nowhere")


def test_the_plotly_figure_has_every_example_in_every_step(small: PublishedSet) -> None:
    figure = small.sankey("plotly")
    drawn = figure.data[0]
    assert sum(drawn.link.value) == small.num_examples
    assert len(drawn.node.label) == 5  # one cluster is empty
    assert all(0 < at < 1 for at in (*drawn.node.x, *drawn.node.y))
    assert drawn.node.customdata[0].startswith("a cluster 0: 4 examples, most often cat")


def test_the_svg_has_a_block_for_every_occupied_cluster(small: PublishedSet, tmp_path: Path) -> None:
    document = ElementTree.fromstring(str(small.sankey("svg")))
    space = "{http://www.w3.org/2000/svg}"
    assert len(document.findall(f".//{space}rect")) == 5
    assert {one.text for one in document.findall(f".//{space}path/{space}title")} == {
        "a 0 → b 0: 3 (37.5%)", "a 0 → b 1: 1 (12.5%)", "a 1 → b 1: 3 (37.5%)", "a 1 → b 2: 1 (12.5%)",
    }  # fmt: skip


def test_matplotlib_draws_the_same_blocks_and_ribbons(small: PublishedSet) -> None:
    pytest.importorskip("matplotlib")
    figure = small.sankey("matplotlib")
    kinds = [type(patch).__name__ for patch in figure.axes[0].patches]
    assert (kinds.count("PathPatch"), kinds.count("Rectangle")) == (4, 5)


def test_another_kind_of_figure_or_table_is_refused(small: PublishedSet) -> None:
    with pytest.raises(ConfigError, match="one of plotly, matplotlib, svg, got 'bokeh'"):
        small.sankey("bokeh")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one of pandas, polars, pyarrow, got 'dask'"):
        small.to_frame("dask")  # type: ignore[arg-type]


def test_colours_are_those_of_the_report() -> None:
    css = (Path(cp.__file__).parent / "report" / "report.css").read_text()
    assert {int(at): value for at, value in PALETTE.findall(css)} == dict(enumerate(COLOURS[:8]))


def test_an_image_is_explained_from_a_file_or_from_memory(ran: PublishedSet, cnn: Path, pictures: Path) -> None:
    file = pictures / "cat" / "00.jpg"
    found = ran.explain(file)
    assert dict(found) == dict(explain_image(file, ran, cnn))
    assert ran.explain(Image.open(file)).path == found.path == tuple(ran.clusters[0].tolist())


def test_an_explanation_shows_its_page_in_a_frame(ran: PublishedSet, pictures: Path) -> None:
    html = ran.explain(pictures / "dog" / "01.jpg")._repr_html_()
    assert html.count("<iframe") == 1
    assert "&lt;!doctype html&gt;" in html
    assert "01.jpg" in html


def test_what_cannot_be_explained_is_refused(ran: PublishedSet, small: PublishedSet, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        ran.explain(tmp_path / "none.jpg")
    with pytest.raises(ModelError, match="explain\\(image, model=…\\)"):
        small.explain(tmp_path / "none.jpg")
    with pytest.raises(ModelError, match="no model at"):
        ran.explain(tmp_path / "none.jpg", model=tmp_path / "none.onnx")


def test_the_report_is_written_where_the_set_is(ran: PublishedSet) -> None:
    before = (ran.path / "report.html").read_bytes()
    assert ran.report() == ran.path / "report.html"
    assert (ran.path / "report.html").read_bytes() == before


def test_a_set_shows_itself(ran: PublishedSet) -> None:
    html = ran._repr_html_()
    assert html.count("<svg") == 1
    assert html.count("data:image/jpeg;base64,") > 5
    assert f"{ran.num_examples} examples" in html
    for count in ran.index.sizes[0].tolist():
        assert f"</b> {count}</span>" in html
    assert "<style" not in html  # it would act on the whole notebook
    assert "<script" not in html


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    published = cp.load(write_small(tmp_path, class_names=("<b>cat", "dog"), layers=("a", "b")))
    assert "<b>cat" not in published._repr_html_()
    assert "&lt;b&gt;cat" in published._repr_html_()


def test_a_broken_set_says_so_in_the_cell(small: PublishedSet) -> None:
    (small.path / "paths.parquet").unlink()
    html = open_set(small.path)._repr_html_()
    assert "cannot be read" in html
    assert "<svg" not in html


def test_a_set_that_was_asked_is_pickled_without_its_arrays(ran: PublishedSet) -> None:
    ran.to_frame("pyarrow")
    assert len(pickle.dumps(ran)) < 20_000
    assert pickle.loads(pickle.dumps(ran)) == ran


def test_asking_needs_no_images_where_none_are_shown(ran: PublishedSet, tmp_path: Path) -> None:
    shutil.copytree(ran.cache.path, tmp_path / "Moved")
    moved = cp.load(tmp_path / "Moved")
    assert moved.to_frame("pyarrow").num_rows == 24
    assert importlib.util.find_spec("clusterpaths.sets.conveniences")

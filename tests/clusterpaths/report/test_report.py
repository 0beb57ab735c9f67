"""The page, made from small sets of drawn images."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clusterpaths.errors import CacheError, ConfigError
from clusterpaths.records import ClusterSummary, ModelIdentity, Preprocessing, SetRecord, StageTime
from clusterpaths.report.page import write_report
from clusterpaths.sets.published import open_set

HOSTILE = "<script>alert(1)</script>\"'&.jpg"


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not nest."""

    VOID = frozenset({"meta", "img", "input"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.css = "", ""
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.css += data
        else:
            self.text += data

    @property
    def ids(self) -> set[str | None]:
        return {attrs["id"] for _, attrs in self.tags if "id" in attrs}

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(v in (a.get(k) or "") for k, v in wanted.items())]


def draw(file: str) -> Image.Image:
    return Image.new("RGB", (89, 109), (sum(file.encode()) % 256, 90, 160))


def make_set(
    folder: Path,
    assigned: dict[str, list[int]],
    k: int = 2,
    *,
    labels: list[int] | None = None,
    predictions: list[int] | None = None,
    files: list[str] | None = None,
    class_names: tuple[str, ...] = ("Cat", "Dog"),
    **record: object,
) -> Path:
    layers = tuple(assigned)
    n = len(assigned[layers[0]])
    columns: dict[str, object] = {
        "id": np.arange(n) + 100,
        "file": files or [f"{i}.jpg" for i in range(n)],
        "split": [""] * n,
        "label": np.array(labels or [-1] * n, dtype=np.int16),
        "prediction": np.array(predictions or [-1] * n, dtype=np.int16),
    }
    for layer, own in assigned.items():
        columns[layer] = np.array(own, dtype=np.int16)
        columns[f"distance.{layer}"] = np.linspace(0, 1, n, dtype=np.float32)
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "paths.parquet")
    summaries = {
        layer: ClusterSummary(sizes=tuple(np.bincount(own, minlength=k).tolist()), empty=(), inertia=1.5, iterations=2)
        for layer, own in assigned.items()
    }
    content = SetRecord(
        set="set_01",
        fingerprint="ab" * 32,
        model=ModelIdentity(file="model.onnx", sha256="0123456789abcdef" * 4),
        dataset="drawn",
        data_root="data/drawn",
        preprocessing=Preprocessing(name="plain", size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1)),
        layers=layers,
        k_per_layer=dict.fromkeys(layers, k),
        distance="cosine",
        seed=7,
        num_examples=n,
        num_failed=3,
        class_names=class_names,
        clusters=summaries,
        stages=(StageTime(stage="extract", seconds=75.0, detail="2 ms an image"),),
        created="2026-01-02T03:04:05Z",
    ).model_copy(update=record)
    (folder / "set.json").write_text(content.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture
def two_layers(tmp_path: Path) -> Path:
    return make_set(
        tmp_path / "set_01",
        {"conv1": [0, 0, 1, 1, 0, 0], "fc1": [1, 1, 0, 0, 1, 0]},
        labels=[0, 0, 1, -1, 1, 1],
        predictions=[0, 0, 1, 1, 0, 1],
    )


def test_every_cluster_path_and_word_is_there(two_layers: Path):
    path = write_report(open_set(two_layers), draw)
    assert path == two_layers / "report.html"
    page = Page(path)
    assert {"l0c0", "l0c1", "l1c0", "l1c1", "overview", "paths", "made", "words"} <= page.ids
    assert len(page.having("a", **{"class": "stop"})) == 3 * 2  # three occupied paths of two layers
    for words in ("0123456789ab", "seed 7", "cosine distance", "3 more could not be read", "1 min 15 s", "k = 2"):
        assert words in page.text
    assert "5 examples with a label, 80.0% have" in " ".join(page.text.split())  # (2 + 1 + 1) of 5 by hand
    assert "“Dog” is correct for 60.0%" in " ".join(page.text.split())


def test_an_image_is_read_and_embedded_once(two_layers: Path):
    read: list[str] = []
    page = Page(write_report(open_set(two_layers), lambda file: read.append(file) or draw(file)))
    assert sorted(read) == [f"{i}.jpg" for i in range(6)]
    assert len(page.having("image", href="data:image/jpeg;base64,")) == 6
    assert {a["href"] for a in page.having("use")} == {f"#{a['id']}" for a in page.having("image")}


def test_nothing_points_outside(two_layers: Path):
    page = Page(write_report(open_set(two_layers), draw))
    targets = [
        a.get(key) for _, a in page.tags for key in ("src", "href", "xlink:href", "action", "srcset") if key in a
    ]
    assert targets
    for target in targets:
        assert target is not None
        assert target.startswith("data:image/jpeg;") or (target[0] == "#" and target[1:] in page.ids)
    assert "url(" not in page.css
    assert "@import" not in page.css
    assert not page.having("script")
    assert page.having("meta", content="default-src 'none'")


def test_names_from_elsewhere_are_escaped(tmp_path: Path):
    folder = make_set(
        tmp_path / "set_01",
        {"<b>conv</b>": [0, 1]},
        files=[HOSTILE, "odd ' name.jpg"],
        labels=[0, 1],
        predictions=[0, 1],
        class_names=("<img src=x onerror=alert(1)>", "</style>"),
        dataset="<i>data</i>",
    )
    page = Page(write_report(open_set(folder), draw))
    assert not any(page.having(tag) for tag in ("script", "img"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "<b>conv</b>" in page.text
    assert HOSTILE in page.text  # in a thumbnail's title


def test_images_that_are_gone_have_a_placeholder(two_layers: Path):
    def read(file: str) -> Image.Image:
        if file != "0.jpg":
            return draw(file)
        raise OSError("gone")

    page = Page(write_report(open_set(two_layers), read))
    assert page.having("span", **{"class": "gone", "aria-label": "example 100: image not available"})
    assert "1 of the 6 images shown here was not available" in " ".join(page.text.split())

    def read_none(file: str) -> Image.Image:
        raise FileNotFoundError(file)

    assert not Page(write_report(open_set(two_layers), read_none)).having("image")


def test_without_labels_and_predictions_the_page_says_so(tmp_path: Path):
    page = Page(write_report(open_set(make_set(tmp_path / "s", {"fc": [0, 1, 1]}, class_names=())), draw))
    assert "neither labels nor predictions" in page.text
    assert "None has a label." in page.text
    assert not page.having("table", **{"class": "classes"})


def test_predictions_without_names_are_numbered(tmp_path: Path):
    page = Page(
        write_report(open_set(make_set(tmp_path / "s", {"fc": [0, 1]}, predictions=[0, 11], class_names=())), draw)
    )
    assert "class 11" in page.text


def test_empty_clusters_and_notes_are_shown(tmp_path: Path):
    note = ClusterSummary(sizes=(2, 0, 0), empty=(1, 2), inertia=0.0, iterations=1, note="Every row is the same.")
    page = Page(write_report(open_set(make_set(tmp_path / "s", {"fc": [0, 0]}, k=3, clusters={"fc": note})), draw))
    assert "Clusters 1, 2 have no example." in page.text
    assert "Every row is the same." in page.text
    assert page.text.count("No example is nearest to this centroid.") == 2


def test_one_cluster_one_layer_one_example(tmp_path: Path):
    page = Page(write_report(open_set(make_set(tmp_path / "s", {"fc": [0]}, k=1, labels=[1], predictions=[1])), draw))
    assert "1 example went through 1 layer and took 1 different path" in " ".join(page.text.split())
    assert "100.0%" in page.text


def test_no_examples_at_all_still_give_a_page(tmp_path: Path):
    assert "l0c1" in Page(write_report(open_set(make_set(tmp_path / "s", {"fc": []})), draw)).ids


def test_neither_pictures_nor_paths_when_none_are_asked_for(two_layers: Path):
    page = Page(write_report(open_set(two_layers), draw, exemplars=0, top_paths=0))
    assert not page.having("image")
    assert "paths" not in page.ids


def test_the_old_page_stays_when_making_a_new_one_fails(two_layers: Path):
    before = write_report(open_set(two_layers), draw).read_bytes()

    def interrupt(file: str) -> Image.Image:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(open_set(two_layers), interrupt)
    assert (two_layers / "report.html").read_bytes() == before
    assert {p.name for p in two_layers.iterdir()} == {"paths.parquet", "report.html", "set.json"}


def test_the_same_set_gives_the_same_page(two_layers: Path):
    assert (
        write_report(open_set(two_layers), draw).read_bytes() == write_report(open_set(two_layers), draw).read_bytes()
    )


def test_what_is_not_a_set_is_refused(tmp_path: Path, two_layers: Path):
    with pytest.raises(CacheError, match=r"set\.json does not exist"):
        write_report(open_set(tmp_path), draw)
    with pytest.raises(ConfigError, match="should be >= 0, got -1"):
        write_report(open_set(two_layers), draw, exemplars=-1)
    table = pq.read_table(two_layers / "paths.parquet")
    pq.write_table(table.drop_columns(["distance.fc1"]), two_layers / "paths.parquet")
    with pytest.raises(CacheError, match=r"lacks the columns distance\.fc1"):
        write_report(open_set(two_layers), draw)
    (two_layers / "paths.parquet").write_bytes(b"no parquet")
    with pytest.raises(CacheError, match="cannot be read"):
        write_report(open_set(two_layers), draw)
    (two_layers / "paths.parquet").unlink()
    with pytest.raises(CacheError, match="cannot be read"):
        write_report(open_set(two_layers), draw)
    (two_layers / "set.json").write_text("{}")
    with pytest.raises(CacheError, match="not the record of a set"):
        write_report(open_set(two_layers), draw)


def test_cluster_ids_beyond_k_are_refused(tmp_path: Path):
    with pytest.raises(CacheError, match=r"cluster ids 0 to 2 in layer fc; set\.json says k=2"):
        write_report(open_set(make_set(tmp_path / "s", {"fc": [0, 2]})), draw)

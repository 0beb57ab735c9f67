"""Answers of generated sets: the same as counted one example after the other, and quick at CelebA's size."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clusterpaths.explore.ask import ask, ask_csv, prepare
from clusterpaths.explore.cluster_detail import cluster_detail
from clusterpaths.explore.clusters import cluster_infos
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.explore.paths import path_detail, path_page
from clusterpaths.explore.ranges import within
from clusterpaths.explore.records import Question
from clusterpaths.explore.routes import routes
from clusterpaths.explore.summary import summarise_selection
from clusterpaths.metrics.ood import overall_distance, scale_distances
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.explore.small import ids_of
from tests.generated_set import CELEBA, CLASSES, generate, write_random_maps

LAYERS = {"conv1": (2, 3, 3), "conv2": (4,), "fc1": (3,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = generate(tmp_path_factory.mktemp("some"), n=2_000, layers=LAYERS, k=6, attributes=7, seed=1)
    write_random_maps(folder, LAYERS)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> SetIndex:
    return Library(folder.parent.parent).default()


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    """Each example as a dict, by id, with what a reader works out of paths.parquet one by one."""
    found: list[dict[str, Any]] = pq.read_table(folder / "paths.parquet").to_pylist()
    attributes = pq.read_table(folder.parent / "examples.parquet").to_pylist()
    files = open_set(folder)
    scale = scale_distances(files.clusters, files.distances, [6, 6, 6])
    standardised = scale.standardise(files.clusters, files.distances)
    overall = overall_distance(files.distances)
    counts = Counter(tuple(row[layer] for layer in LAYERS) for row in found)
    maps = {layer: files.maps.points(layer) for layer in LAYERS} if files.maps else {}
    for i, (row, more) in enumerate(zip(found, attributes, strict=True)):
        powers = np.exp(np.array(more["logits"], np.float64))
        row["confidence"] = powers[row["prediction"]] / powers.sum()
        row |= {f"map.{layer}": points[i].tolist() for layer, points in maps.items()}
        row |= {name: value for name, value in more.items() if name.startswith("attr_")}
        row["path"] = tuple(row[layer] for layer in LAYERS)
        row |= {"count": counts[row["path"]], "ood": standardised[i].mean(), "overall": overall[i]}
        row["standardised"] = standardised[i]
    return found


def test_a_generated_set_is_what_publish_writes(folder: Path) -> None:
    paths = json.loads((folder / "paths.json").read_text())
    centroids = json.loads((folder / "centroids.json").read_text())
    assert {layer: np.shape(values) for layer, values in centroids.items()} == {
        layer: (6, math.prod(shape)) for layer, shape in LAYERS.items()
    }
    clusters = open_set(folder).clusters
    assert paths == {f"example_{i:04d}": path for i, path in enumerate(clusters.tolist())}
    with np.load(folder / "centroids.npz") as file:
        assert all(np.array_equal(np.float32(centroids[layer]), file[layer]) for layer in LAYERS)


SQUARE, STAR = "conv2:-1,-1;1,-1;1,1;-1,1", "fc1:0,2;1.2,-1.6;-1.9,0.6;1.9,0.6;-1.2,-1.6"


def in_square(row: dict[str, Any]) -> bool:
    return all(abs(value) < 1 for value in row["map.conv2"])


def in_star(row: dict[str, Any]) -> bool:
    """Five corners joined crosswise: the middle is crossed twice, so it is outside by the even-odd rule."""
    corners = [tuple(map(float, corner.split(","))) for corner in STAR.removeprefix("fc1:").split(";")]
    x, y = row["map.fc1"]
    crossed = 0
    for (x1, y1), (x2, y2) in itertools.pairwise([*corners, corners[0]]):
        if (y1 > y) != (y2 > y):
            crossed += x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return crossed % 2 == 1


QUESTIONS: list[tuple[dict[str, Any], Any, Any]] = [
    ({"prediction": ("Black", "Blond")}, lambda r: r["prediction"] in (1, 2), None),
    ({"label": ("none", "Gray")}, lambda r: r["label"] in (-1, 4), None),
    ({"right": "wrong"}, lambda r: r["label"] >= 0 and r["label"] != r["prediction"], None),
    ({"attribute": ("Bald", "-Bangs")}, lambda r: r["attr_Bald"] == 1 and r["attr_Bangs"] == -1, None),
    ({"split": ("valid", "test")}, lambda r: r["split"] in ("valid", "test"), None),
    ({"path": "*-2"}, lambda r: r["conv2"] == 2, None),
    ({"path": "1-2"}, lambda r: r["path"][:2] == (1, 2), None),
    ({"cluster": ("conv1:0", "fc1:3")}, lambda r: r["conv1"] == 0 and r["fc1"] == 3, None),
    ({"cluster": ("conv1:0", "fc1:3", "conv1:2")}, lambda r: r["conv1"] in (0, 2) and r["fc1"] == 3, None),
    ({"cluster": ("fc1:3", "fc1:1"), "order": "near"}, lambda r: r["fc1"] in (1, 3), lambda r: (r["overall"], r["id"])),
    ({"order": "rare", "split": ("test",)}, lambda r: r["split"] == "test", lambda r: (r["count"], r["id"])),
    ({"order": "common", "path": "0"}, lambda r: r["conv1"] == 0, lambda r: (-r["count"], r["id"])),
    ({"order": "near"}, lambda r: True, lambda r: (r["overall"], r["id"])),
    ({"order": "far", "right": "wrong"}, lambda r: -1 < r["label"] != r["prediction"], lambda r: (-r["overall"], -r["id"])),
    ({"order": "strange"}, lambda r: True, lambda r: (-r["ood"], r["id"])),
    ({"ood": "0.5.."}, lambda r: r["ood"] >= 0.5, None),
    ({"ood": "-.2..2e-1", "order": "strange"}, lambda r: -0.2 <= r["ood"] <= 0.2, lambda r: (-r["ood"], r["id"])),
    ({"confidence": "..0.7"}, lambda r: r["confidence"] <= 0.7, None),
    ({"confidence": "0.4..0.6", "order": "unsure"}, lambda r: 0.4 <= r["confidence"] <= 0.6, lambda r: r["confidence"]),
    ({"distance": ("conv1:0.1..0.15", "fc1:..0.2")},
     lambda r: 0.1 <= r["distance.conv1"] <= 0.15 and r["distance.fc1"] <= 0.2, None),
    ({"within": (SQUARE,)}, in_square, None),
    ({"within": (STAR,)}, in_star, None),
    ({"within": (SQUARE, STAR), "order": "rare"}, lambda r: in_square(r) and in_star(r), lambda r: (r["count"], r["id"])),
    ({"order": "near", "cluster": ("fc1:1",)}, lambda r: r["fc1"] == 1, lambda r: (r["distance.fc1"], r["id"])),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "holds", "key"), QUESTIONS, ids=[str(fields) for fields, _, _ in QUESTIONS])
def test_questions_select_what_a_loop_would(
    index: SetIndex, rows: list[dict[str, Any]], fields: dict[str, Any], holds: Any, key: Any
) -> None:
    expected = [row["id"] for row in sorted(filter(holds, rows), key=key or (lambda row: row["id"]))]
    question = Question(**fields)
    page = ask(index, question, limit=10_000)
    assert len(expected) > 3
    assert ids_of(page.examples) == expected
    assert ids_of(ask(index, question, limit=7, offset=5).examples) == expected[5:12]
    lines = list(csv.DictReader(io.StringIO("".join(ask_csv(index, question)))))
    assert [int(line["id"]) for line in lines] == expected
    for line, example in zip(lines, page.examples, strict=True):
        assert float(line["confidence"]) == pytest.approx(rows[example.id]["confidence"], rel=1e-4)
        assert (line["label"], line["prediction"]) == (example.label or "", example.prediction or "")
        assert tuple(int(line[layer]) for layer in LAYERS) == example.path
        assert int(line["path_count"]) == example.path_count


def test_regions_are_looked_up_once_and_before_the_selection(index: SetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` runs outside the lock that selections hold; at 200,000 examples a region takes up to 0.2 s."""
    square, star = f"{SQUARE};-1.5,0", f"{STAR};0,1.9"  # of no other test
    looked_up = []

    def observed(points: Any, corners: Any) -> Any:
        looked_up.append(len(corners))
        return within(points, corners)

    monkeypatch.setattr("clusterpaths.explore.ask.within", observed)
    question = Question(within=(square, star))
    prepare(index, question)
    assert looked_up == [5, 6]
    for asked in (question, Question(within=(star,)), Question(within=(square,), right="wrong")):
        assert ask(index, asked).total == summarise_selection(index, asked).total > 0
    assert looked_up == [5, 6]


def test_examples_say_what_the_files_say(index: SetIndex, rows: list[dict[str, Any]]) -> None:
    for example, row in zip(ask(index, Question(), limit=2_000).examples, rows, strict=True):
        assert (example.id, example.file, example.split, example.path) == (
            row["id"],
            row["file"],
            row["split"],
            row["path"],
        )
        assert example.label == (CLASSES[row["label"]] if row["label"] >= 0 else None)
        assert example.prediction == CLASSES[row["prediction"]]
        assert example.right == (row["label"] == row["prediction"] if row["label"] >= 0 else None)
        assert example.path_count == row["count"]
        assert example.ood_score == pytest.approx(row["ood"])


def test_routes_and_paths_count_what_a_loop_would(index: SetIndex, rows: list[dict[str, Any]]) -> None:
    found = routes(index)
    names = list(LAYERS)
    for left, right in itertools.pairwise(names):
        expected = Counter((row[left], row[right]) for row in rows)
        assert {(t.cluster, t.next_cluster): t.count for t in found.transitions if t.layer == left} == expected
    for info in cluster_infos(index):
        classes = Counter(row["prediction"] for row in rows if row[info.layer] == info.cluster)
        assert info.count == classes.total()
        assert info.majority is not None
        assert info.majority.count == max(classes.values())
    counts = Counter(row["path"] for row in rows)
    pages = [path_page(index, limit=50, offset=offset, exemplars=2) for offset in range(0, len(counts), 50)]
    listed = [summary for page in pages for summary in page.paths]
    assert [(s.path, s.count) for s in listed] == sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for summary in listed:
        on_it = sorted((row for row in rows if row["path"] == summary.path), key=lambda r: (r["overall"], r["id"]))
        assert ids_of(summary.exemplars) == [row["id"] for row in on_it[:2]]


def test_lifts_are_ratios_of_shares(index: SetIndex, rows: list[dict[str, Any]]) -> None:
    found = {(lift.kind, lift.name): lift for lift in cluster_detail(index, "fc1", 2).lifts}
    inside, outside = [r for r in rows if r["fc1"] == 2], [r for r in rows if r["fc1"] != 2]
    for name in index.attribute_names:
        shares = [np.mean([r[f"attr_{name}"] == 1 for r in group]) for group in (inside, outside)]
        assert found["attribute", name].lift == pytest.approx(shares[0] / shares[1])
    labelled = [[r["label"] for r in group if r["label"] >= 0] for group in (inside, outside)]
    shares = [np.mean(np.equal(group, 1)) for group in labelled]
    assert found["label", "Black"].lift == pytest.approx(shares[0] / shares[1])
    assert found["label", "Black"].known == len(labelled[0])
    order = [
        (not lift.clear, -(math.inf if lift.lift is None else lift.lift))
        for lift in cluster_detail(index, "fc1", 2).lifts
    ]
    assert order == sorted(order)
    assert any(lift.clear for lift in found.values())


def test_hardly_any_lift_of_a_group_drawn_by_lot_is_clear(index: SetIndex) -> None:
    from clusterpaths.explore.lift import lifts

    draw = np.random.default_rng(0)
    tables_with_one = sum(
        any(lift.clear for lift in lifts(index, np.sort(draw.choice(2_000, 300, replace=False)))) for _ in range(100)
    )
    assert tables_with_one <= 11  # five expected; more than eleven in one of two hundred such experiments


@pytest.mark.parametrize("example", [0, 17, 1_999])
def test_neighbours_are_those_of_an_exhaustive_search(
    index: SetIndex, rows: list[dict[str, Any]], example: int
) -> None:
    own = rows[example]

    def key(row: dict[str, Any]) -> tuple[int, float, int]:
        shared = sum(a == b for a, b in zip(row["path"], own["path"], strict=True))
        apart = np.linalg.norm(np.float32(row["standardised"]) - np.float32(own["standardised"]))
        return -shared, float(apart), row["id"]

    for count in (1, 12, 300):
        found = example_detail(index, example, neighbours=count).neighbours
        expected = sorted((row for row in rows if row["id"] != example), key=key)[:count]
        assert [n.example.id for n in found] == [row["id"] for row in expected]
        assert [n.layers_shared for n in found] == [-key(row)[0] for row in expected]
        assert [n.difference for n in found] == pytest.approx([key(row)[1] for row in expected], rel=1e-5)


def test_percentiles_count_who_is_nearer(index: SetIndex, rows: list[dict[str, Any]]) -> None:
    found, own = example_detail(index, 42), rows[42]
    source = index.source
    assert isinstance(source, PublishedSet)
    lower = (source.held_out_ood < own["ood"]).sum()  # each example held out: test_ood.py
    assert found.ood_percentile == pytest.approx(100 * lower / 2_000, abs=0.1)
    assert found.ood_percentile < 100 * sum(row["ood"] < own["ood"] for row in rows) / 2_000
    for layer in found.layers:
        cluster = [row[f"distance.{layer.layer}"] for row in rows if row[layer.layer] == layer.cluster]
        assert layer.percentile == pytest.approx(100 * np.mean(np.less(cluster, own[f"distance.{layer.layer}"])))


def test_the_most_probable_class_is_the_prediction(index: SetIndex, folder: Path) -> None:
    logits = pq.read_table(folder.parent / "examples.parquet", columns=["logits"])["logits"].to_pylist()
    for example in (0, 1, 1_999):
        found = example_detail(index, example)
        assert found.probabilities[0].name == found.example.prediction
        powers = np.exp(np.array(logits[example]))
        assert [p.share for p in found.probabilities] == pytest.approx(
            sorted(powers / powers.sum(), reverse=True), rel=1e-5
        )


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("full"))


def test_at_celebas_size_files_are_read_once_for_all_questions(full: Path) -> None:
    library = Library(full.parent.parent)
    index = library.default()
    assert len(index) == CELEBA
    path = path_page(index).paths[0].path
    for _ in range(3):
        assert library.set("CelebA", "set_01") is index
        assert sum(info.count for info in cluster_infos(index)) == 5 * CELEBA
        assert routes(index).num_examples == CELEBA
        assert cluster_detail(index, "conv1", 0).nearest
        assert path_detail(index, path).summary.rank == 1
        assert example_detail(index, 100_000).example.id == 100_000
        assert ask(index, Question(attribute=("Smiling", "-Male"), split=("train",), path="*-1")).total > 0
        assert ask(index, Question(right="wrong", order="strange"), offset=1_000).examples
    assert library.opened == 1


ANSWER_ALL = """
import re, sys
from pathlib import Path
from clusterpaths.explore.library import Library
from clusterpaths.explore import ask, cluster_detail, examples, paths, routes
from clusterpaths.explore.records import Question

def resident(): return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

library, before = Library(Path(sys.argv[1])), resident()
index = library.default()
for layer in index.layers:
    for cluster in range(5):
        cluster_detail.cluster_detail(index, layer, cluster)
for summary in paths.path_page(index, limit=200).paths:
    paths.path_detail(index, summary.path)
for order in ("id", "rare", "common", "near", "far", "strange", "unsure"):
    ask.ask(index, Question(order=order, attribute=("Smiling",)), limit=1000)
for piece in ask.ask_csv(index, Question()): pass
for example in range(0, 200_000, 1_000):
    examples.example_detail(index, example)
routes.routes(index)
heavy = {"sklearn", "scipy", "onnx", "onnxruntime", "torch", "fastapi"} & set(sys.modules)
assert not heavy, heavy
print(resident() - before)
"""


def test_at_celebas_size_a_set_takes_some_hundred_megabytes(full: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANSWER_ALL, full.parent.parent], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    print(f"grew by {float(done.stdout):.0f} MB")
    assert float(done.stdout) < 300


READ_SCORES = """
import re, sys
from pathlib import Path
import numpy as np
from clusterpaths.sets.cached_examples import read_top_scores
from clusterpaths.storage import open_storage

def most(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before = most()
best, shares = read_top_scores(open_storage(sys.argv[1]), np.array([0, 5, 17, 59_999, 60_000]), 10)
print(best.tolist(), shares.tolist(), most() - before, sep=";")
"""


def test_class_scores_are_read_in_pieces(tmp_path: Path) -> None:
    """A cache's class scores may be larger than memory; here they take 240 MB."""
    import pyarrow as pa

    n, classes = 60_000, 1_000
    scores = np.random.default_rng(0).random((n, classes), np.float32)
    scores[5] = np.nan
    lists = pa.ListArray.from_arrays(np.arange(0, n * classes + 1, classes, dtype=np.int32), scores.ravel())
    columns = pa.table({"id": np.arange(n), "logits": lists})
    pq.write_table(columns, tmp_path / "examples.parquet", compression="none", use_dictionary=False)
    command = [sys.executable, "-c", READ_SCORES, tmp_path]
    best, shares, grown = map(
        json.loads, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(";")
    )
    print(f"grew by {grown:.0f} MB")
    assert grown < 180
    for row, example in ((0, 0), (2, 17), (3, 59_999)):
        expected = np.argsort(-scores[example], kind="stable")[:10]
        powers = np.exp(scores[example].astype(np.float64))
        assert best[row] == expected.tolist()
        assert shares[row] == pytest.approx(powers[expected] / powers.sum(), rel=1e-4)
    assert best[1] == best[4] == [-1] * 10  # no numbers, and no such example

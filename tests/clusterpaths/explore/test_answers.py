"""What a set of eight examples answers, counted by hand."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.ask import ask, ask_csv, choices
from clusterpaths.explore.cluster_detail import cluster_detail
from clusterpaths.explore.clusters import cluster_infos, exemplars
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.explore.lift import lifts
from clusterpaths.explore.paths import parse_path, path_detail, path_examples, path_page
from clusterpaths.explore.records import Question
from clusterpaths.explore.routes import routes
from clusterpaths.metrics.intervals import ratio_interval
from clusterpaths.metrics.paths import majority_classes
from tests.clusterpaths.explore.small import DISTANCES, ids_of, small, write_small
from tests.generated_set import generate


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SetIndex:
    return small(tmp_path_factory.mktemp("small"))


def test_routes_are_counted(index: SetIndex) -> None:
    found = routes(index)
    assert (found.source, found.num_examples, found.layers) == ("predictions", 8, ("a", "b"))
    moves = [
        (t.cluster, t.next_cluster, t.count, t.majority.name, t.majority.share) for t in found.transitions if t.majority
    ]
    assert moves == [(0, 0, 3, "cat", 1.0), (0, 1, 1, "dog", 1.0), (1, 1, 3, "dog", 1.0), (1, 2, 1, "cat", 1.0)]
    assert [(c.name, c.count, c.share) for c in found.classes] == [("cat", 4, 4 / 7), ("dog", 3, 3 / 7)]
    clusters = [(c.layer, c.cluster, c.count, c.share, c.majority and c.majority.share) for c in found.clusters]
    assert clusters == [
        ("a", 0, 4, 0.5, 0.75),
        ("a", 1, 4, 0.5, 2 / 3),
        ("b", 0, 3, 0.375, 1.0),
        ("b", 1, 4, 0.5, 1.0),
        ("b", 2, 1, 0.125, 1.0),
        ("b", 3, 0, 0.0, None),
    ]
    assert found.clusters == cluster_infos(index)


def test_a_cluster_shows_its_classes_and_who_comes_and_goes(index: SetIndex) -> None:
    found = cluster_detail(index, "b", 1)
    assert found.mean_distance == pytest.approx(0.25)
    assert [(c.name, c.count, c.share) for c in found.predictions] == [("dog", 3, 1.0)]
    assert [(c.name, c.count) for c in found.labels] == [("dog", 2), ("cat", 1)]
    assert found.right is not None
    assert (found.right.count, found.right.share) == (2, 1.0)
    assert ids_of(found.nearest) == [12, 14, 17, 13]  # 12 and 14 are as near: by id
    assert ids_of(found.farthest) == [13, 17, 14, 12]
    assert sorted(ids_of(found.random)) == [12, 13, 14, 17]
    assert [e.distance for e in found.nearest] == pytest.approx([0.1, 0.1, 0.3, 0.5])
    assert [(t.cluster, t.count) for t in found.arrivals] == [(1, 3), (0, 1)]
    assert found.departures == ()
    assert [p.path for p in found.paths] == [(1, 1), (0, 1)]


def test_an_empty_cluster_is_shown_as_one(index: SetIndex) -> None:
    found = cluster_detail(index, "b", 3)
    assert (found.info.count, found.info.majority, found.mean_distance, found.right) == (0, None, None, None)
    assert (found.predictions, found.lifts, found.nearest, found.random, found.paths) == ((), (), (), (), ())


def test_exemplars_come_in_pieces(index: SetIndex) -> None:
    for kind in ("nearest", "farthest", "random"):
        whole = exemplars(index, "a", 0, kind, 20, 0)
        pieces = [exemplars(index, "a", 0, kind, 3, offset) for offset in (0, 3, 6)]
        assert [len(piece.examples) for piece in pieces] == [3, 1, 0]
        assert [e for piece in pieces for e in piece.examples] == list(whole.examples)
        assert {piece.total for piece in pieces} == {4}


def test_lifts_compare_with_those_outside(index: SetIndex) -> None:
    found = {(lift.kind, lift.name): lift for lift in lifts(index, index.members(0, 0))}
    smiling = found["attribute", "Smiling"]
    assert (smiling.count, smiling.known, smiling.share, smiling.share_outside) == (3, 4, 0.75, 1 / 3)
    assert smiling.lift == pytest.approx(2.25)
    assert smiling.interval[0] < 1 < (smiling.interval[1] or 0)
    assert not smiling.clear
    test = found["split", "test"]
    assert (test.count, test.lift, test.interval[1], test.clear) == (1, None, None, False)
    assert 0 < test.interval[0] < 1
    train = found["split", "train"]  # 17 is of no known split, so is not counted
    assert (train.known, train.share_outside) == (4, 1.0)
    assert ("prediction", "cat") in found
    assert lifts(index, np.arange(8)) == ()  # nobody is outside


def test_intervals_are_those_of_scipy() -> None:
    from scipy.stats.contingency import relative_risk

    for counts in ((3, 4, 1, 3), (50, 60, 10, 200), (1, 1000, 999, 1000), (4, 4, 2, 5)):
        for level in (0.95, 0.999):
            expected = relative_risk(*counts).confidence_interval(level)
            assert ratio_interval(*counts, level) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_intervals_of_what_only_one_side_has_are_those_of_scipy() -> None:
    from scipy.stats import binomtest

    for one, known, known_outside in ((1, 10, 1000), (5, 50, 1950), (521, 1931, 69), (3, 3, 4)):
        for level in (0.95, 0.999):
            share = binomtest(one, one).proportion_ci(level).low  # Clopper and Pearson's
            expected = share / (1 - share) * known_outside / known
            assert ratio_interval(one, known, 0, known_outside, level) == (pytest.approx(expected), None)
            assert ratio_interval(0, known_outside, one, known, level) == (0, pytest.approx(1 / expected))


@pytest.mark.parametrize(
    ("known", "known_outside", "having"), [(69, 1931, 540), (3, 500, 9), (40, 40, 12), (10, 99, 1)]
)
def test_what_only_one_side_has_is_no_oftener_clear_by_lot_than_promised(
    known: int, known_outside: int, having: int
) -> None:
    """Of groups drawn by lot, all are counted: how often does nobody in it have the thing, and is that clear?"""
    from scipy.stats import hypergeom

    for level in (0.5, 0.95, 0.999):
        _, high = ratio_interval(0, known, having, known_outside, level)
        low, _ = ratio_interval(having, known, 0, known_outside, level)
        drawn = hypergeom(known + known_outside, having, known)
        wrong = (high is not None and high < 1) * drawn.pmf(0) + (low > 1) * drawn.pmf(having)
        assert wrong <= 1 - level


def test_what_only_one_side_has_is_clear_where_it_is_frequent(tmp_path: Path) -> None:
    folder = generate(tmp_path, n=2_000, layers={"x": (2,)}, attributes=1)
    one = Library(tmp_path).default().clusters[:, 0] == 0
    table = pq.read_table(folder.parent / "examples.parquet").drop_columns(["attr_5_o_Clock_Shadow"])
    first = np.where(np.arange(2_000) == one.argmax(), 1, -1)
    for name, values in (("Here", np.where(one, 1, -1)), ("There", np.where(one, -1, 1)), ("Once", first)):
        table = table.append_column(f"attr_{name}", pa.array(values.astype(np.int8)))
    pq.write_table(table, folder.parent / "examples.parquet")
    index = Library(tmp_path).default()
    found = [lift for lift in cluster_detail(index, "x", 0).lifts if lift.kind == "attribute"]
    assert [(x.name, x.lift, x.clear) for x in found] == [
        ("Here", None, True),
        ("There", 0, True),
        ("Once", None, False),
    ]
    here, there, _ = found
    assert here.interval[0] > 2
    assert there.interval[0] == 0 < (there.interval[1] or 0) < 0.5


def test_paths_are_listed_in_both_orders(index: SetIndex) -> None:
    common = path_page(index)
    assert [(p.path, p.count, p.rank) for p in common.paths] == [
        ((0, 0), 3, 1),
        ((1, 1), 3, 1),
        ((0, 1), 1, 3),
        ((1, 2), 1, 3),
    ]
    assert [p.path for p in path_page(index, order="rare").paths] == [(0, 1), (1, 2), (0, 0), (1, 1)]
    assert [p.path for p in path_page(index, limit=2, offset=1).paths] == [(1, 1), (0, 1)]
    assert (path_page(index, offset=9).total, path_page(index, offset=9).paths) == (4, ())
    first = common.paths[0]
    assert first.prediction is not None
    assert first.label is not None
    assert (first.prediction.name, first.prediction.share, first.label.name, first.label.share) == (
        "cat",
        1,
        "cat",
        2 / 3,
    )
    scale = {layer: sum(values) / 8 for layer, values in DISTANCES.items()}
    overall = {i: sum(DISTANCES[layer][i] / scale[layer] for layer in scale) / 2 for i in (0, 1, 6)}
    assert ids_of(first.exemplars) == [10 + i for i in sorted(overall, key=overall.__getitem__)]
    assert [e.distance for e in first.exemplars] == pytest.approx(sorted(overall.values()), rel=1e-6)
    with pytest.raises(NotFoundError, match="common and rare"):
        path_page(index, order="other")  # type: ignore[arg-type]


def test_a_path_shows_what_is_like_it(index: SetIndex) -> None:
    found = path_detail(index, parse_path(index, "1-1"))
    assert [p.path for p in found.similar] == [(0, 1), (1, 2)]
    assert [(c.layer, c.cluster, c.count) for c in found.clusters] == [("a", 1, 4), ("b", 1, 4)]
    assert found.agreement_interval == pytest.approx((0.3424, 1.0), abs=1e-4)  # two of two
    assert (found.summary.share, found.right and found.right.share) == (3 / 8, 1.0)


@pytest.mark.parametrize("distances", [True, False])
def test_the_examples_of_a_path_are_those_that_the_question_finds(tmp_path: Path, distances: bool) -> None:
    folder = generate(tmp_path, n=500, k=2)
    if not distances:  # as of another program, which keeps none
        for name in ("set.json", "paths.parquet", "centroids.npz"):
            (folder / name).unlink()
    index = Library(tmp_path).newest("CelebA")
    assert (index.distances is not None) == distances
    for path in map(tuple, index.paths.paths[:5].tolist()):
        question = Question(path="-".join(map(str, path)), order="near" if distances else "id")
        for limit, offset in ((50, 0), (3, 2), (5, 10_000), (-1, -1)):
            assert path_examples(index, path, limit=limit, offset=offset) == ask(
                index, question, limit=limit, offset=offset
            )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no path of Small/set_01"),
        ("0", "Expected 2 clusters"),
        ("0-0-0", "Expected 2 clusters"),
        ("0-x", "no cluster of layer b"),
        ("0-4", "It has 0 to 3"),
        ("-1-0", "Expected 2 clusters"),
        ("0-٣", "no cluster of layer b"),
        ("0-" + "9" * 5000, "no cluster of layer b"),
        ("0-*", "no cluster of layer b"),
    ],
)
def test_a_path_that_cannot_be_is_refused(index: SetIndex, text: str, message: str) -> None:
    with pytest.raises(NotFoundError, match=message):
        parse_path(index, text)


def test_a_path_that_nobody_took_is_not_found(index: SetIndex) -> None:
    with pytest.raises(NotFoundError, match="took the path 1-3"):
        path_detail(index, parse_path(index, "1-3"))


def test_an_example_shows_where_it_went_and_whom_it_is_like(index: SetIndex) -> None:
    found = example_detail(index, 10)
    assert (found.example.file, found.example.path, found.example.path_count, found.example.right) == (
        "10.jpg",
        (0, 0),
        3,
        True,
    )
    assert [(layer.cluster, layer.cluster_count, layer.percentile) for layer in found.layers] == [(0, 4, 75), (0, 3, 0)]
    # cluster 0 of layer a: 0.1 0.2 0.2 0.3, mean 0.2, spread sqrt(0.02 / 4)
    assert found.layers[0].standardised == pytest.approx(0.1 / np.sqrt(0.005), rel=1e-5)
    assert found.ood_score == pytest.approx(np.mean([layer.standardised for layer in found.layers]), rel=1e-6)
    assert found.attributes == {"Smiling": True}
    assert [(p.name, p.share) for p in found.probabilities] == [
        ("cat", pytest.approx(1 / (1 + np.exp(-2)))),
        ("dog", pytest.approx(1 / (1 + np.exp(2)))),
    ]
    assert [n.layers_shared for n in found.neighbours] == [2, 2, 1, 0, 0, 0, 0]
    assert sorted(n.example.id for n in found.neighbours) == [11, 12, 13, 14, 15, 16, 17]
    assert example_detail(index, 15).attributes == {}
    assert example_detail(index, 17).probabilities == ()
    for unknown in (9, 18, -1, 10**30):
        with pytest.raises(NotFoundError, match="from 10 to 17"):
            example_detail(index, unknown)


QUESTIONS: list[tuple[dict[str, object], list[int]]] = [
    ({}, [10, 11, 12, 13, 14, 15, 16, 17]),
    ({"prediction": ("cat",)}, [10, 11, 15, 16]),
    ({"prediction": ("cat", "none")}, [10, 11, 15, 16, 17]),
    ({"label": ("none",)}, [14, 15]),
    ({"label": ("dog",), "prediction": ("cat",)}, [11]),
    ({"right": "right"}, [10, 12, 13, 16]),
    ({"right": "wrong"}, [11]),
    ({"attribute": ("Smiling",)}, [10, 11, 16, 17]),
    ({"attribute": ("-Smiling",)}, [12, 13, 14]),
    ({"attribute": ("Smiling", "-Smiling")}, []),
    ({"split": ("test",)}, [16]),
    ({"split": ("test", "train")}, [10, 11, 12, 13, 14, 15, 16]),
    ({"path": "0"}, [10, 11, 12, 16]),
    ({"path": "0-1"}, [12]),
    ({"path": "*-1"}, [12, 13, 14, 17]),
    ({"path": "*-*"}, [10, 11, 12, 13, 14, 15, 16, 17]),
    ({"cluster": ("b:1",)}, [12, 13, 14, 17]),
    ({"cluster": ("b:1", "a:0")}, [12]),
    ({"cluster": ("b:3",)}, []),
    ({"id": (17, 10, 99, 10**40)}, [10, 17]),
    ({"order": "rare"}, [12, 15, 10, 11, 13, 14, 16, 17]),
    ({"order": "common"}, [10, 11, 13, 14, 16, 17, 12, 15]),
    ({"order": "near", "cluster": ("b:1",)}, [12, 14, 17, 13]),
    ({"order": "far", "cluster": ("b:1",)}, [13, 17, 14, 12]),
    ({"order": "near", "cluster": ("b:1",), "attribute": ("-Smiling",)}, [12, 14, 13]),
]


@pytest.mark.parametrize(("fields", "expected"), QUESTIONS, ids=[str(fields) for fields, _ in QUESTIONS])
def test_questions(index: SetIndex, fields: dict[str, object], expected: list[int]) -> None:
    question = Question.model_validate(fields)
    page = ask(index, question)
    assert ids_of(page.examples) == expected
    assert page.total == len(expected)
    pieces = [ask(index, question, limit=3, offset=offset) for offset in (0, 3, 6)]
    assert [e for piece in pieces for e in piece.examples] == list(page.examples)
    assert [int(line.split(",")[0]) for line in "".join(ask_csv(index, question)).splitlines()[1:]] == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": ("bird",)}, "no prediction 'bird'. It has cat, dog"),
        ({"label": ("bird",)}, "no label 'bird'"),
        ({"attribute": ("Bald",)}, "no attribute 'Bald'. It has Smiling"),
        ({"attribute": ("--Smiling",)}, "no attribute"),
        ({"split": ("valid",)}, "no split 'valid'. It has test, train"),
        ({"split": ("",)}, "no split"),
        ({"path": "0-0-0"}, "longer than a path"),
        ({"path": "2"}, "It has 0 to 1"),
        ({"path": "0-"}, "no cluster of layer b"),
        ({"cluster": ("b",)}, "Expected LAYER:CLUSTER"),
        ({"cluster": ("c:1",)}, "no layer 'c'. It has a, b"),
        ({"cluster": ("b:9",)}, "It has 0 to 3"),
        ({"cluster": ("b:-1",)}, "no cluster of layer b"),
        ({"distance": ("c:0..1",)}, "no layer 'c'. It has a, b"),
        ({"within": ("a:0,0;1,0;0,1",)}, "no maps of its layers"),
    ],
)
def test_a_name_that_is_not_there_is_told(index: SetIndex, fields: dict[str, object], message: str) -> None:
    for answer in (ask, ask_csv):
        with pytest.raises(NotFoundError, match=message):
            answer(index, Question.model_validate(fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ood": "1"}, "Expected a range LOW..HIGH"),
        ({"ood": ".."}, "Expected a range LOW..HIGH"),
        ({"ood": "2..1"}, "the lower end 2 is larger than the upper end 1"),
        ({"confidence": "nan..1"}, "'nan' is none that is finite"),
        ({"confidence": "0..inf"}, "'inf' is none"),
        ({"ood": "1e999.."}, "'1e999' is none"),
        ({"distance": ("0..1",)}, "Expected LAYER:LOW..HIGH"),
        ({"distance": ("a:0..1", "a:x..1")}, "'x' is none"),
        ({"within": ("0,0;1,0;0,1",)}, "Expected LAYER:x,y"),
        ({"within": ("a:0,0;1,0",)}, "3 to 64 of them; here are 2"),
        ({"within": ("a:",)}, "here are 0"),
        ({"within": ("a:" + ";".join(["0,0"] * 65),)}, "here are 65"),
        ({"within": ("a:0,0;1,0;0,1",) * 9}, "at most 8 regions, here are 9"),
        ({"within": ("a:0,0;1,0;1",)}, "two numbers each; '1' is not"),
        ({"within": ("a:0,0;1,0;1,nan",)}, "'nan' is none that is finite"),
    ],
)
def test_a_range_that_is_none_is_no_question(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Question.model_validate(fields)


def test_examples_whose_value_is_not_known_are_in_no_range(index: SetIndex) -> None:
    """17 has no prediction."""
    assert ids_of(ask(index, Question(confidence="0..1")).examples) == [10, 11, 12, 13, 14, 15, 16]
    assert ids_of(ask(index, Question(order="unsure")).examples)[-1] == 17
    assert choices(index).confidence


def test_the_distance_shown_is_the_one_asked_for(index: SetIndex) -> None:
    of_cluster = ask(index, Question(cluster=("b:2",))).examples[0]
    assert of_cluster.distance == pytest.approx(0.3)
    assert ask(index, Question(id=(15,))).examples[0].distance is None
    assert ask(index, Question(path="1-2")).examples[0].distance == pytest.approx(index.overall[5])  # type: ignore[index]


def test_choices_are_what_occurs(index: SetIndex) -> None:
    found = choices(index)
    assert (found.predictions, found.labels, found.attributes) == (("cat", "dog"), ("cat", "dog"), ("Smiling",))
    assert (found.splits, found.layers, found.can_be_right) == (("test", "train"), {"a": 2, "b": 4}, True)


def test_labels_of_other_classes_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    index = small(tmp_path, label_names=("young", "old"))
    assert not choices(index).can_be_right
    assert ask(index, Question(label=("old",))).total == 3
    assert ask(index, Question()).examples[0].right is None
    assert cluster_detail(index, "a", 0).right is None
    with pytest.raises(NotFoundError, match="of different classes"):
        ask(index, Question(right="right"))


def test_two_classes_of_one_name_are_both_meant(tmp_path: Path) -> None:
    index = small(tmp_path, class_names=("crane", "crane"))
    assert choices(index).predictions == ("crane",)
    assert ask(index, Question(prediction=("crane",))).total == 7


def test_csv_has_all_columns_and_no_formulas(tmp_path: Path) -> None:
    index = small(tmp_path, class_names=("=1+1", 'a "dog", old'))
    rows = list(csv.reader(io.StringIO("".join(ask_csv(index, Question())))))
    assert rows[0] == [
        "id", "file", "split", "label", "prediction", "right", "a", "b", "path_count", "ood_score", "confidence",
        "probability_=1+1", 'probability_a "dog", old', "attr_Smiling",
    ]  # fmt: skip
    assert rows[1][:9] == ["10", "10.jpg", "train", "'=1+1", "'=1+1", "1", "0", "0", "3"]
    assert rows[2][3:6] == ['a "dog", old', "'=1+1", "0"]
    assert rows[8][2:6] == ["", "'=1+1", "", ""]
    assert float(rows[1][9]) == pytest.approx(index.ood[0], rel=1e-5)  # type: ignore[index]


def test_csv_has_confidence_probabilities_and_attributes(index: SetIndex) -> None:
    rows = list(csv.DictReader(io.StringIO("".join(ask_csv(index, Question())))))
    more = [[row[name] for name in ("confidence", "probability_cat", "probability_dog")] for row in rows]
    high, low = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))  # of logits 2 and 0
    assert [float(value) for value in more[0]] == pytest.approx([high, high, low], rel=1e-5)
    assert [float(value) for value in more[2]] == pytest.approx([high, low, high], rel=1e-5)
    assert more[7] == ["", "", ""]  # without scores
    assert [row["attr_Smiling"] for row in rows] == ["1", "1", "0", "0", "0", "", "1", "1"]


def test_csv_of_many_classes_has_the_most_probable_ones(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(12))
    folder = write_small(tmp_path, class_names=names)
    table = pq.read_table(folder.parent / "examples.parquet")
    scores = pa.array([[*range(12)]] * len(table), pa.list_(pa.float32()))
    pq.write_table(
        table.set_column(table.schema.get_field_index("logits"), "logits", scores), folder.parent / "examples.parquet"
    )
    rows = list(csv.DictReader(io.StringIO("".join(ask_csv(Library(tmp_path).default(), Question())))))
    shares = np.exp(np.arange(12.0)) / np.exp(np.arange(12.0)).sum()
    assert rows[0]["probabilities"].split("; ")[:2] == [f"class 11={shares[11]:.4g}", f"class 10={shares[10]:.4g}"]
    assert len(rows[0]["probabilities"].split("; ")) == 10
    assert rows[0]["confidence"] == ""  # class 0 was predicted, which is not among the ten
    assert not [name for name in rows[0] if name.startswith("probability_")]


def test_the_most_frequent_class_is_the_same_counted_densely_and_sparsely() -> None:
    draw = np.random.default_rng(0)
    groups, classes = draw.integers(0, 7, 500), draw.integers(-1, 6, 500)
    dense, sparse = majority_classes(groups, classes, 7), majority_classes(groups, classes, 1 << 20)
    for group in range(7):
        known = classes[(groups == group) & (classes >= 0)]
        expected = np.bincount(known).argmax(), np.bincount(known).max(), len(known)
        assert tuple(int(column[group]) for column in dense) == expected
        assert tuple(int(column[group]) for column in sparse) == expected

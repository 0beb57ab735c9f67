"""Sets whose labels are other classes than the model's predictions: who is called what, and what is not claimed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.comparison.compare import compare_sets
from clusterpaths.config import RunConfig
from clusterpaths.explanation.look_up import look_up
from clusterpaths.explore.index import SetIndex
from clusterpaths.extraction.begin import begin_extraction
from clusterpaths.extraction.plan import plan_run
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.models.outputs import decide
from clusterpaths.preprocessing.prepare import preset_preprocessing
from clusterpaths.records import DatasetSpec, ModelIdentity, ModelOutputs
from clusterpaths.report import view
from clusterpaths.report.comparison import write_comparison
from clusterpaths.report.examples import example_title
from clusterpaths.report.explanation import common
from clusterpaths.report.page import write_report
from clusterpaths.sets import publish
from clusterpaths.sets.class_names import about_classes, is_misnamed, name_classes
from clusterpaths.sets.publish import publish_set
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.conftest import SIZE, cluster, extract_planned, write_cnn, write_image
from tests.clusterpaths.report.test_report import Page, draw, make_set

HAIR = ("Bald", "Black", "Blond", "Brown", "Gray")
PLACES = ("harbour", "meadow", "station")
NEW_MODEL = ModelIdentity(file="new.onnx", sha256="f" * 64)


# which names a set gets


def published(tmp_path: Path, metadata: dict[str, str] | None) -> PublishedSet:
    """A folder of three classes, eight images each, through the tiny CNN of five outputs."""
    for at in range(24):
        folder = tmp_path / "photos" / PLACES[at % 3]
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{at}.jpg", at)
    config = RunConfig(
        model=write_cnn(tmp_path / "cnn.onnx", metadata=metadata), data_root=tmp_path / "photos",
        dataset="folder", cache_root=tmp_path / "cache", name="T", k=2, preprocessing="unit",
    )  # fmt: skip
    assert config.model is not None
    model = instrument_model(check_model(config.model, config.layers), (SIZE, SIZE))
    preprocessing = preset_preprocessing("unit", (SIZE, SIZE))
    plan, job = plan_run(config, model, DatasetSpec(name="folder", root=str(tmp_path / "photos")), preprocessing)
    begin_extraction(plan)
    done = extract_planned(config, model, plan, job)
    return publish_set(config, job, done.record, *cluster(done))


@pytest.mark.parametrize("names", [HAIR, ()], ids=["the model names its classes", "it does not"])
def test_three_folders_through_a_model_of_five_outputs(names: tuple[str, ...], tmp_path: Path) -> None:
    found = published(tmp_path, {CLASSES_KEY: json.dumps(names)} if names else None)
    assert (found.record.class_names, found.record.label_names) == (names, PLACES)
    assert open_set(found.path).record == found.record
    metadata = json.loads((found.path.parent / "metadata.json").read_text())
    assert (metadata["class_names"], metadata["label_names"]) == (list(names), list(PLACES))
    rows = open_set(found.path)
    told = {found.record.label_name(label) for label in rows.labels.tolist()}
    assert told == set(PLACES)
    assert found.record.class_name(1) == ("Black" if names else "class 1")
    page = Page(write_report(found, draw))
    titles = [line for line in page.text.splitlines() if "prediction" in line and ".jpg" in line]
    assert titles
    for title in titles:
        assert f"label {title.split(' · ')[1].split('/')[0]} " in title  # the name of the folder


@pytest.mark.parametrize(
    ("names", "outputs", "labels", "expected", "misnamed"),
    [
        (HAIR, 5, (), "", False),
        (HAIR, 5, (*HAIR[:4], "Grey"), r"^1 of the data set's 5 classes is not among the model's: Grey\.", True),
        (HAIR, 5, PLACES, r"^3 of the data set's 3 classes are not among the model's: harbour, meadow, station\. ", False),
        (HAIR, 5, HAIR[::-1], r"in another order, so no prediction counts as correct or incorrect\.$", False),
        ((), 2, PLACES, r"^The data set has 3 classes \(harbour, meadow, station\) and the model 2, so no prediction ", False),
    ],
)  # fmt: skip
def test_labels_of_other_classes_are_mentioned(
    names: tuple[str, ...], outputs: int, labels: tuple[str, ...], expected: str, misnamed: bool, tmp_path: Path
) -> None:
    meaning = ModelOutputs(name="logits", kind="logits", classes=outputs, class_names=names)
    record = open_set(make_set(tmp_path / "set_01", {"fc": [0, 1]})).record
    record = record.model_copy(update={"outputs": meaning, "class_names": names, "label_names": labels})
    assert bool(about_classes(record)) == bool(expected)
    assert re.search(expected, " ".join(about_classes(record)))
    assert is_misnamed(record) == misnamed


@pytest.mark.parametrize(
    ("model", "outputs", "given", "expected"),
    [
        ((), 3, PLACES, (PLACES, ())),
        (PLACES, 3, PLACES, (PLACES, ())),
        (("Harbour", "MEADOW", "sta_tion"), 3, PLACES, (PLACES, ())),  # the same names
        (("cat", "dog", "frog"), 3, PLACES, (("cat", "dog", "frog"), PLACES)),
        (("meadow", "harbour", "station"), 3, PLACES, (("meadow", "harbour", "station"), PLACES)),  # another order
        (("+", "-"), 2, ("-", "+"), (("+", "-"), ("-", "+"))),
        (HAIR, 5, PLACES, (HAIR, PLACES)),
        ((), 1000, PLACES, ((), PLACES)),
        (("cat", "dog"), 2, ("0", "1"), (("cat", "dog"), ())),  # numbers are no names
        ((), 2, ("0", "1"), (("0", "1"), ())),
        ((), 3, ("10", "20", "30"), ((), ("10", "20", "30"))),  # in which order the model has them is not known
        ((), 3, ("0.0", "1.0", "10.0"), ((), ("0.0", "1.0", "10.0"))),
        (("10", "20", "30"), 3, ("10", "20", "30"), (("10", "20", "30"), ())),
        (HAIR, 5, ("0", "1"), (HAIR, ("0", "1"))),
        (HAIR, 5, (), (HAIR, ())),  # no labels
        ((), 0, PLACES, (PLACES, ())),  # no predictions
    ],
)
def test_names_of_predictions_and_of_labels(
    model: tuple[str, ...], outputs: int, given: tuple[str, ...], expected: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    meaning = ModelOutputs(name="y", kind="logits", classes=outputs, class_names=model) if outputs else ModelOutputs()
    assert name_classes(meaning, given, None)[:2] == expected


def test_a_set_of_the_same_classes_says_nothing_of_label_names(tmp_path: Path) -> None:
    same = open_set(make_set(tmp_path / "set_01", {"fc": [0, 1]})).record
    assert same.same_classes
    assert "label_names" not in publish.metadata(same)
    assert (same.label_name(1), same.class_name(1), same.label_name(2)) == ("Dog", "Dog", "class 2")


# the page


def places(folder: Path, **more: Any) -> Path:
    """Six examples: predictions Bald Bald Blond | Gray Gray Gray, labels harbour meadow meadow | station station none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "predictions": [0, 0, 2, 4, 4, 4],
        "labels": [0, 1, 1, 2, 2, -1],
        "class_names": HAIR,
        "label_names": PLACES,
        "set": folder.name,
    }
    return make_set(folder, {"fc": [0, 0, 0, 1, 1, 1]}, **(options | more))


def built(folder: Path) -> view.Page:
    index = SetIndex(open_set(folder))
    return view.build(index, index.source.record, view.choose_exemplars(index, 3, 2), {})


def test_predictions_and_labels_have_rows_of_their_own_by_hand(tmp_path: Path) -> None:
    page = built(places(tmp_path / "set_01"))
    card, other = page.layers[0].cards
    assert [(row.name, row.prediction, row.all_predictions) for row in card.classes] == [
        ("Bald", 2 / 3, 2 / 6), ("Black", 0, 0), ("Blond", 1 / 3, 1 / 6), ("Brown", 0, 0), ("Gray", 0, 3 / 6)
    ]  # fmt: skip
    assert [(row.name, row.label, row.all_labels) for row in card.label_classes] == [
        ("harbour", 1 / 3, 1 / 5), ("meadow", 2 / 3, 2 / 5), ("station", 0, 2 / 5)
    ]  # fmt: skip
    for rows in (card, other, page):
        assert all(row.label is None for row in rows.classes)
        assert all(row.prediction is None for row in rows.label_classes)
    assert [row.label for row in other.label_classes] == [0, 0, 1]
    assert [row.label for row in page.label_classes] == [1 / 5, 2 / 5, 2 / 5]
    assert [(source, m.name, m.known) for path in page.paths for source, m in path.majorities] == [
        ("predictions", "Bald", 3), ("labels", "meadow", 3), ("predictions", "Gray", 3), ("labels", "station", 2)
    ]  # fmt: skip
    assert [(p.source, p.base.name, p.base.share) for p in page.purities] == [
        ("predictions", "Gray", 3 / 6), ("labels", "meadow", 2 / 5)
    ]  # fmt: skip
    assert page.paths[0].examples[1].title == "example 101 · 1.jpg · label meadow · prediction Bald"


def test_of_many_outputs_the_most_frequent_and_all_labels(tmp_path: Path) -> None:
    folder = places(tmp_path / "set_01", class_names=(), predictions=[900, 900, 7, 1, 2, 3], labels=[0, 1, 1, 2, 2, 2])
    first, _ = built(folder).layers[0].cards
    assert [(row.name, row.prediction) for row in first.classes] == [("class 900", 2 / 3), ("class 7", 1 / 3)]
    assert [row.name for row in first.label_classes] == list(PLACES)
    assert (first.other_classes, first.other_label_classes) == (0, 0)


def test_where_there_are_more_classes_than_rows_each_kind_is_counted(tmp_path: Path) -> None:
    n = 8
    folder = make_set(
        tmp_path / "set_01", {"fc": [0] * n}, k=1, predictions=[10 + i for i in range(n)], labels=[0] * 2 + [*range(1, 7)],
        class_names=(), label_names=tuple("abcdefg"),
    )  # fmt: skip
    told = " ".join(Page(write_report(open_set(folder), draw)).text.split())
    assert "and 3 more predicted classes. and 2 more classes of labels." in told


def test_the_page_has_a_table_for_each_and_says_why(tmp_path: Path) -> None:
    page = Page(write_report(open_set(places(tmp_path / "other")), draw))
    told = " ".join(page.text.split())
    assert told.count("Labels, classes of the data set:") == 3  # all examples and two clusters
    assert "predictions cannot be checked against labels" in told
    assert len(page.having("table", **{"class": "classes"})) == 6
    same = Page(write_report(open_set(places(tmp_path / "same", label_names=())), draw))
    assert len(same.having("table", **{"class": "classes"})) == 3
    assert "classes of the data set" not in same.text


def test_labels_alone_have_one_table_a_card(tmp_path: Path) -> None:
    folder = places(tmp_path / "set_01", predictions=[-1] * 6)
    page = Page(write_report(open_set(folder), draw))
    assert "Predictions, classes of the model" not in page.text
    assert len(page.having("table", **{"class": "classes"})) == 3


# comparisons


def test_nothing_is_right_where_labels_are_other_classes(tmp_path: Path) -> None:
    first = places(tmp_path / "Old" / "set_01")
    second = places(tmp_path / "New" / "set_01", predictions=[0, 1, 2, 4, 4, 4], model=NEW_MODEL)
    c = compare_sets(open_set(first), open_set(second))
    assert (c.class_names, c.label_names) == (HAIR, PLACES)
    assert c.decisions is not None
    assert (c.decisions.changed, c.decisions.num_labelled) == (1, 0)
    assert (c.decisions.right_first, c.decisions.right_second) == (0, 0)
    told = Page(write_comparison(c, open_set(second), draw)[1]).text
    assert "label meadow" in told
    assert "label Black" not in told
    assert "accuracy is not defined" in told
    assert "Right on" not in told


@pytest.mark.parametrize(
    ("names", "predictions", "expected"),
    [
        (HAIR, [0, 0, 2, 4, 4, 4], HAIR),
        ((), [0, 0, 2, 4, 4, 4], tuple(f"class {i}" for i in range(5))),
        ((), [0, 1, 1, 2, 2, 2], tuple(f"class {i}" for i in range(3))),
    ],
    ids=["named", "unnamed", "unnamed, the same indices"],
)
def test_from_a_model_of_other_classes_to_one_of_the_labels(
    names: tuple[str, ...], predictions: list[int], expected: tuple[str, ...], tmp_path: Path
) -> None:
    """Nothing is the same by index: neither the models' classes nor the first's and the labels."""
    first = places(tmp_path / "Old" / "set_01", class_names=names, predictions=predictions)
    second = places(
        tmp_path / "New" / "set_01", predictions=[0, 1, 1, 2, 2, 2], class_names=PLACES, label_names=(), model=NEW_MODEL
    )
    c, back = compare_sets(open_set(first), open_set(second)), compare_sets(open_set(second), open_set(first))
    assert (c.class_names, c.label_names) == (expected + PLACES, PLACES)
    assert (back.class_names, back.label_names) == (PLACES + expected, PLACES)
    for one in (c, back):
        assert one.decisions is not None
        assert (one.decisions.changed, one.decisions.num_labelled) == (6, 0)


def test_where_labels_are_the_models_classes_right_is_counted_as_before(tmp_path: Path) -> None:
    first = places(tmp_path / "Old" / "set_01", predictions=[0, 1, 1, 2, 2, 2], class_names=PLACES, label_names=())
    c = compare_sets(open_set(first), open_set(first))
    assert c.label_names == ()
    assert c.decisions is not None
    assert (c.decisions.num_labelled, c.decisions.right_first) == (5, 5)


def test_classes_of_one_name_on_a_side_stay_two(tmp_path: Path) -> None:
    cranes = ("crane", "crane", "Bald", "a", "b")
    first = places(tmp_path / "Old" / "set_01", class_names=cranes, predictions=[0, 1, 2, 2, 2, 2])
    second = places(tmp_path / "New" / "set_01", predictions=[0] * 6, model=NEW_MODEL)
    c = compare_sets(open_set(first), open_set(second))
    assert c.class_names == ("crane (0)", "crane (1)", "Bald", "a", "b", "Black", "Blond", "Brown", "Gray")
    assert c.decisions is not None
    assert [(d.first, d.second, d.count) for d in c.decisions.counts] == [(0, 2, 1), (1, 2, 1), (2, 2, 4)]


# one image


def test_an_explanation_names_each_by_its_own(tmp_path: Path) -> None:
    folder = places(tmp_path / "set_01")
    scores = decide(ModelOutputs(name="y", kind="logits", classes=5), np.array([[0, 1, 0, 0, 0]]))
    e = look_up(
        SetIndex(open_set(folder)), np.array([[0]]), np.array([[0.1]], np.float32), scores, image="x.jpg"
    )  # fmt: skip
    assert [score.name for score in e.classes] == ["Black", "Bald", "Blond", "Brown", "Gray"]
    assert "Bald among predictions (2 of 3) and meadow among labels (2 of 3)" in common(e)
    assert e.own is not None
    assert example_title(e.own.exemplars[1]) == "example 101 · 1.jpg · label meadow · prediction Bald"

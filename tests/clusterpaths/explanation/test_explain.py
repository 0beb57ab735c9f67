"""What a set says of one image: by hand on eight examples, and on the tiny CNN."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.config import RunConfig
from clusterpaths.errors import DatasetError, ModelError
from clusterpaths.explanation.explain import Explanation, explain_image, read_upright
from clusterpaths.explanation.look_up import look_up
from clusterpaths.explanation.record import ExampleNote
from clusterpaths.explore.index import SetIndex
from clusterpaths.metrics import alignment
from clusterpaths.models.outputs import decide
from clusterpaths.records import ClusterSummary, ModelIdentity, Preprocessing, SetRecord
from clusterpaths.report.explanation import common, ood_sentence, other, print_explanation, write_explanation
from clusterpaths.report.numbers import verdict
from clusterpaths.sets.columns import Columns
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.conftest import image_of, run_stages, write_cnn

CLUSTERS = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [0, 1], [1, 1], [1, 1], [1, 1]], np.int16)
PREDICTIONS = np.array([0, 0, 1, 1, 1, 1, 1, 0], np.int16)
DISTANCES = np.array([[1, 1], [3, 3], [2, 2], [1, 1], [3, 3], [1, 2], [3, 2], [2, 2]], np.float32)


def record(names: tuple[str, ...] = ("cat", "dog")) -> SetRecord:
    return SetRecord(
        set="set_01",
        fingerprint="f",
        model=ModelIdentity(file="m.onnx", sha256="0" * 64),
        dataset="celeba",
        data_root="/nowhere",
        preprocessing=Preprocessing(name="unit", size=(4, 4), mean=(0, 0, 0), std=(1, 1, 1)),
        layers=("a", "b"),
        k_per_layer={"a": 2, "b": 3},
        distance="euclidean",
        seed=0,
        num_examples=8,
        num_failed=0,
        class_names=names,
        clusters={"a": ClusterSummary(sizes=(5, 3), empty=(), inertia=0, iterations=1)},
        created="2026-01-01T00:00:00Z",
    )


def explained(
    path: tuple[int, int],
    distances: tuple[float, float] = (2, 2),
    logits: tuple[float, ...] | None = (0.0, 0.0),
    predictions: NDArray[np.int16] = PREDICTIONS,
    times: int = 1,
) -> Explanation:
    """`times`: how often the set has each of the eight examples."""
    n = 8 * times
    columns = Columns(
        ids=np.arange(10, 10 + n),
        labels=np.repeat(np.array([1, -1, -1, -1, -1, -1, -1, -1], np.int16), times),
        predictions=np.repeat(predictions, times),
        clusters=np.repeat(CLUSTERS, times, axis=0),
        distances=np.repeat(DISTANCES, times, axis=0),
        splits=np.full(n, -1, np.int16),
        split_names=(),
        files=pa.array([f"{i}.jpg" for i in range(10, 10 + n)]),
    )
    scores = None if logits is None else decide(record().meaning, np.array([logits], np.float32))
    at = np.array([path], np.int64), np.array([distances], np.float32)
    index = SetIndex(PublishedSet(Path("T/set_01"), record().model_copy(update={"num_examples": n}), columns))
    return look_up(index, *at, scores, image="x.jpg", exemplars=2)


def test_the_prediction_is_the_softmax_of_the_class_scores() -> None:
    e = explained((0, 0), logits=(0.0, float(np.log(3))))
    assert e.prediction is not None
    assert (e.prediction.name, e.prediction.index) == ("dog", 1)
    assert [score.probability for score in e.classes] == pytest.approx([0.75, 0.25])


def test_how_common_a_path_is_and_what_is_most_frequent_there() -> None:
    e = explained((0, 1))
    assert (e.count, e.share, e.rank, e.occupied) == (2, 0.25, 3, 3)
    assert explained((0, 0)).rank == explained((1, 1)).rank == 1  # equally frequent ones share a rank
    own = explained((0, 0)).own
    assert own is not None
    assert own.majority_predictions is not None
    assert own.majority_labels is not None
    assert (own.majority_predictions.name, own.majority_predictions.of) == ("cat", 3)
    assert own.majority_predictions.share == pytest.approx(2 / 3)
    assert (own.majority_labels.name, own.majority_labels.of) == ("dog", 1)


def test_exemplars_are_the_nearest_to_the_centroid_of_the_images_cluster() -> None:
    layer = explained((0, 1)).layers[0]
    assert (layer.layer, layer.cluster, layer.cluster_count) == ("a", 0, 5)
    assert [example.id for example in layer.exemplars] == [10, 13]
    assert [example.file for example in layer.exemplars] == ["10.jpg", "13.jpg"]


def test_the_ood_score_and_its_percentile() -> None:
    at_the_mean = explained((0, 0))
    assert at_the_mean.ood_score == pytest.approx(0)
    assert at_the_mean.ood_percentile == pytest.approx(37.5)  # 10, 13 and 15 lie nearer
    assert explained((0, 0), distances=(9, 9)).ood_percentile == 100
    assert explained((0, 0), distances=(0, 0)).ood_percentile == 0


def test_the_other_path_differs_in_the_fewest_layers_and_decides_otherwise() -> None:
    e = explained((0, 0), logits=(1.0, 0.0), times=3)  # a cat; (0, 1) and (1, 1) are dogs
    assert e.other is not None
    assert (e.other.path, e.other.hamming, e.other.count) == ((0, 1), 1, 6)
    assert "b 0 → 1" in other(e)
    against_its_path = explained(
        (0, 0), logits=(0.0, 1.0), times=3
    )  # a dog on a path of cats: its own path is the nearest
    assert against_its_path.other is not None
    assert against_its_path.other.hamming == 0
    assert "own 9 examples have another prediction" in other(against_its_path)


def test_of_equally_similar_paths_the_most_frequent() -> None:
    e = explained((1, 0), logits=(0.0, 1.0), times=3)  # (0, 0) is cats; (1, 1) dogs, as the image
    assert e.other is not None
    assert e.other.path == (0, 0)
    assert e.similar is not None
    assert (e.similar.path, e.similar.hamming) == ((0, 0), 1)


def test_a_path_that_nobody_took_and_a_cluster_that_nobody_is_in() -> None:
    e = explained((0, 2))
    assert (e.count, e.rank, e.own) == (0, None, None)
    assert e.layers[1].exemplars == ()
    assert "None of the 8 examples took this path" in common(e)
    assert "0-0" in common(e)


def test_a_path_that_nobody_took_is_decided_by_its_end_where_that_is_the_better_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Layer a was in cluster 1, and then b in 2: of (1, 0), nobody; of b in 0, three, two of them cats."""
    assert explained((1, 0)).suffix is None  # eight examples show no rule to be better
    monkeypatch.setattr(PublishedSet, "unseen_rule", "back-off")
    assert explained((1, 0)).suffix is None  # three examples are too few
    monkeypatch.setattr(alignment.back_off, "__defaults__", (3,))
    e = explained((1, 0))
    assert e.suffix is not None
    assert (e.suffix.path, e.suffix.majority_predictions.name, e.suffix.majority_predictions.of) == ((0,), "cat", 3)
    assert "Its end, 0 in b, predicts the decision: cat among predictions (2 of 3) there." in common(e)
    assert explained((0, 0)).suffix is None


def test_without_class_scores_the_paths_own_labels_decide() -> None:
    e = explained((0, 0), logits=None, predictions=np.full(8, -1, np.int16))
    assert (e.prediction, e.classes, e.other) == (None, (), None)
    assert "has another majority prediction" in other(e)


def test_a_path_of_a_few_examples_is_no_finding() -> None:
    e = explained((0, 0), logits=(1.0, 0.0), times=2)  # (0, 1) has four dogs, (1, 1) six: two of them cats
    assert e.other is not None
    assert e.other.path == (1, 1)
    few = explained((0, 0), logits=(1.0, 0.0))
    assert few.other is None
    assert "No path that at least 5 examples took" in other(few)
    assert "cat among predictions (2 of 3)" in common(few)  # no percentage of three


def test_one_verdict_for_one_percentile() -> None:
    assert [verdict(p) for p in (0, 86, 94.9, 95, 98.9, 99, 100)] == [
        *["typical"] * 3, *["unusual"] * 2, *["very unusual"] * 2
    ]  # fmt: skip
    for distances in ((2, 2), (9, 9)):
        e = explained((0, 0), distances=distances)
        assert ood_sentence(e).endswith(f"; {verdict(e.ood_percentile)} for this set.")


def test_one_decision_only_has_no_other_path() -> None:
    assert explained((0, 0), predictions=np.zeros(8, np.int16)).other is None


def test_the_text_and_the_page_say_it_and_escape_what_comes_from_elsewhere(tmp_path: Path) -> None:
    e = explained((0, 0), logits=(1.0, 0.0)).model_copy(update={"image": "<b>[red].jpg"})
    text = io.StringIO()
    print_explanation(e, text)
    for words in ("<b>[red].jpg · Predicted: cat", "0-0", common(e), ood_sentence(e), other(e), "10.jpg, 13.jpg"):
        assert words in text.getvalue()

    def gone(file: str) -> Image.Image:
        raise FileNotFoundError(file)

    html = write_explanation(e, Image.new("RGB", (30, 40)), tmp_path / "page.html", gone).read_text()
    assert "<b>[red]" not in html
    assert "&lt;b&gt;[red]" in html
    assert "image not available" in html
    assert html.count("data:image/jpeg") == 1


def test_examples_that_look_alike_and_that_are_decided_alike_are_shown(tmp_path: Path) -> None:
    e = explained((0, 0), logits=(1.0, 0.0))
    notes = [ExampleNote(id=i, file=f"{i}.png", label=None, prediction=None) for i in range(900, 906)]
    both = e.model_copy(update={"looks_alike": tuple(notes[:4]), "decided_alike": tuple(notes[4:])})

    def drawn(file: str) -> Image.Image:
        if not file.endswith("png"):
            raise FileNotFoundError(file)
        return Image.new("RGB", (30, 40), (int(file[2]) * 40, 0, 0))

    for shown, there in ((both, True), (e, False)):  # a set without maps has none
        text = io.StringIO()
        print_explanation(shown, text)
        html = write_explanation(shown, Image.new("RGB", (30, 40)), tmp_path / "page.html", drawn).read_text()
        assert ("Looks alike  900.png, 901.png, 902.png, by a\n" in text.getvalue()) is there
        assert ("Decided alike 904.png, 905.png, by b\n" in text.getvalue()) is there
        for words in ("Most similar examples", "Looks alike", "Decided alike", "example 905"):
            assert (words in html) is there
        assert html.count("data:image/jpeg") == (7 if there else 1), "the image, and each example once"


def test_an_example_of_the_set_is_explained_as_it_was_traced(
    configure: Callable[..., RunConfig], cnn: Path, faces: Path, tmp_path: Path
) -> None:
    for distance in ("cosine", "euclidean"):
        set_dir = run_stages(configure(distance=distance)).published.path
        rows = open_set(set_dir)
        for row in (0, 17, 39):
            e = explain_image(image_of(faces, int(rows.ids[row]) + 1), open_set(set_dir), cnn)
            assert e.path == tuple(rows.clusters[row].tolist())
            assert e.count == int((rows.clusters == rows.clusters[row]).all(axis=1).sum())
            np.testing.assert_allclose([layer.distance for layer in e.layers], rows.distances[row], rtol=1e-3)
            assert e.prediction is not None
            assert e.prediction.index == rows.predictions[row]
    with pytest.raises(ModelError, match="not the model of this set"):
        explain_image(image_of(faces, 1), open_set(set_dir), write_cnn(tmp_path / "other.onnx", seed=1))


def test_an_image_is_turned_as_its_exif_entry_says(tmp_path: Path) -> None:
    pixels = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    pixels.save(tmp_path / "turned.jpg", exif=exif)
    assert read_upright(tmp_path / "turned.jpg").size == (10, 20)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_any_mode_is_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    Image.new(mode, (5, 4)).save(path)
    assert (read_upright(path).mode, read_upright(path).size) == ("RGB", (5, 4))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"", "empty"), (b"text", "not an image"), (b"\x89PNG\r\n\x1a\n\0\0", "image")],
    ids=["missing", "empty", "text", "cut off"],
)
def test_a_bad_image_is_one_paragraph(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=reason) as caught:
        read_upright(path)
    assert "\n" not in str(caught.value)

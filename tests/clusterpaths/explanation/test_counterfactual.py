"""What would change the prediction, in a model of two linear layers: every amount is what numpy finds along the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clusterpaths.common import roots
from clusterpaths.datasets import open_dataset
from clusterpaths.evaluation.evaluate import evaluate_set
from clusterpaths.evaluation.means import MEANS, read_means
from clusterpaths.explanation.counterfactual import STEPS
from clusterpaths.explanation.explain import SetWithModel, load_model
from clusterpaths.explanation.record import DecisionChange, Explanation
from clusterpaths.explore.index import SetIndex
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.report.explanation import change, counterfactual, explanation_page, unchanged
from tests.clusterpaths.evaluation.test_causal import LAYER, K, Measured, configure, measure, weight, write_linear
from tests.clusterpaths.evaluation.test_held_out import limit_fit


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("counterfactual")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roots, "data_root", lambda: root / "data")
        limit_fit(patch, 100)
        yield root


@pytest.fixture(scope="module", params=["euclidean", "cosine"])
def linear(root: Path, request: pytest.FixtureRequest) -> Measured:
    return measure(configure(root, write_linear(root / f"{request.param}.onnx"), distance=request.param))


@pytest.fixture(scope="module")
def opened(linear: Measured) -> SetWithModel:
    return load_model(SetIndex(linear.published), Path(linear.job.model.path))


def picture(linear: Measured, at: int) -> Image.Image:
    return open_dataset(linear.job.dataset).read_image(linear.published.files[at].as_py())


def test_means_are_those_of_the_published_clusters_in_raw_space(linear: Measured) -> None:
    means = read_means(linear.published)[LAYER]
    assert means.low is None
    assert means.means.shape == (K, linear.rows.shape[1])
    own = linear.published.clusters[:, 0]
    for cluster in range(K):  # of the fit examples, 100 of 160
        everyone = linear.rows[own == cluster].mean(axis=0)
        assert np.linalg.norm(means.means[cluster] - everyone) < 0.3 * np.linalg.norm(everyone)


def test_every_change_is_what_numpy_finds_along_the_way(linear: Measured, opened: SetWithModel) -> None:
    means, w1, w2 = (
        read_means(linear.published)[LAYER].means,
        *(weight(Path(linear.job.model.path), n) for n in ("w1", "w2")),
    )
    changes = 0
    for at in range(0, 160, 9):
        pixels = fit(picture(linear, at), linear.job.preprocessing)
        value = normalise(pixels[None], linear.job.preprocessing).reshape(1, -1) @ w1
        found = opened.explain(picture(linear, at), "face.png")
        own = found.path[0]
        assert own == linear.published.clusters[at, 0]
        nearest: dict[int, float] = {}
        for target in set(range(K)) - {own}:
            way = value + np.linspace(0, 1, 2**STEPS + 1)[:, None] * (means[target] - means[own])
            decided = (way @ w2).argmax(axis=1)
            if decided[-1] != decided[0]:
                # along a line a linear model leaves a class once
                nearest[target] = np.flatnonzero(decided != decided[0])[0] / 2**STEPS
        assert found.counterfactual is not None
        assert found.counterfactual.asked == (LAYER,)
        one = found.counterfactual.nearest
        assert (one is not None) == bool(nearest)
        if one is None:
            assert found.counterfactual.changes == ()
            continue
        changes += 1
        assert found.counterfactual.changes == (one,)
        assert one.source == own
        assert one.amount == pytest.approx(min(nearest.values()), abs=1.01 / 2**STEPS)
        assert nearest[one.target] == pytest.approx(one.amount, abs=1.01 / 2**STEPS)
        assert one.path == (one.target,)
        assert found.prediction is not None
        assert one.prediction != found.prediction.name
        assert len(one.exemplars) > 0
        ids = linear.published.ids[linear.published.clusters[:, 0] == one.target].tolist()
        assert {example.id for example in one.exemplars} <= set(ids)
    assert changes >= 5


def test_the_page_draws_both_routes_and_every_change(linear: Measured, opened: SetWithModel) -> None:
    pictures = (picture(linear, at) for at in range(160))
    found, shown = next((e, p) for p in pictures if (e := opened.explain(p, "face.png")).counterfactual.nearest)  # type: ignore[union-attr]
    assert found.counterfactual is not None
    assert found.counterfactual.nearest is not None
    page = explanation_page(found, shown, lambda _: shown, opened.index)
    assert page.count('stroke-dasharray="10 8"') == 1
    assert f"{change(found.counterfactual.nearest)}." in page
    assert f"Dashed: all of the way to cluster {found.counterfactual.nearest.target} of {LAYER}." in page
    assert 'stroke-dasharray="10 8"' not in explanation_page(found, shown, lambda _: shown)


def test_without_means_an_explanation_has_no_counterfactual(linear: Measured, tmp_path: Path) -> None:
    file = linear.published.path / MEANS
    content = file.read_bytes()
    file.unlink()
    try:
        opened = load_model(SetIndex(linear.published), Path(linear.job.model.path))
        found = opened.explain(picture(linear, 0), "face.png")
        assert found.counterfactual is None
        assert counterfactual(found) == unchanged(found) == ""
    finally:
        file.write_bytes(content)


def test_means_of_another_set_are_not_taken(linear: Measured) -> None:
    file = linear.published.path / MEANS
    content = file.read_bytes()
    with np.load(file) as arrays:
        changed: dict[str, Any] = dict(arrays) | {" fingerprint": np.array("of another")}
    try:
        np.savez(file, **changed)
        assert read_means(linear.published) == {}
    finally:
        file.write_bytes(content)


def test_damaged_means_count_as_none_and_are_measured_again(linear: Measured) -> None:
    file = linear.published.path / MEANS
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"no archive"):
        file.write_bytes(damaged)
        assert read_means(linear.published) == {}
    assert evaluate_set(linear.published, linear.job) == linear.evaluation
    assert list(read_means(linear.published)) == [LAYER]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "In fc1, 38% of the way from cluster 2 to cluster 4 makes it Blond"),
        (
            {"at_target": "Gray"},
            "In fc1, 38% of the way from cluster 2 to cluster 4 makes it Blond, all of the way Gray",
        ),
    ],
)
def test_in_words(changes: dict[str, str], sentence: str) -> None:
    values: dict[str, Any] = {"layer": "fc1", "source": 2, "target": 4, "amount": 0.3828, "prediction": "Blond"}
    one = DecisionChange(**values | {"at_target": "Blond", "path": (4,), "exemplars": ()} | changes)
    assert change(one) == sentence


def test_nothing_changes_it_in_words(linear: Measured, opened: SetWithModel) -> None:
    found = opened.explain(picture(linear, 0), "face.png")
    assert found.counterfactual is not None
    none = found.counterfactual.model_copy(update={"nearest": None, "changes": (), "asked": ("conv1", "fc1", "fc2")})
    said: Explanation = found.model_copy(update={"counterfactual": none})
    assert counterfactual(said) == "Moved to any other cluster in conv1, fc1 and fc2, the image keeps its prediction."
    assert unchanged(said) == ""

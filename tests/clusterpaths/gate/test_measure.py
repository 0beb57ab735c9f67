"""What is measured of two sets, against plain counting."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clusterpaths.gate.measure import Evidence
from clusterpaths.gate.policy import ClassesRule, ShortcutRule
from clusterpaths.gate.record import Measured
from clusterpaths.sets.published import PublishedSet, open_set
from tests.generated_set import generate

ATTRIBUTE = "5_o_Clock_Shadow"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    root = tmp_path_factory.mktemp("measured")
    return Evidence(*(open_set(generate(root, n=400, model=f"M{seed}", seed=seed, attributes=3)) for seed in (1, 2)))


def rule(**limits: object) -> ShortcutRule:
    return ShortcutRule.model_validate({"attribute": ATTRIBUTE, "purity": 1, **limits})


def purity(published: PublishedSet, layer: str, has: np.ndarray) -> float:
    clusters = published.clusters[:, published.layers.index(layer)]
    return sum(Counter(has[clusters == c].tolist()).most_common(1)[0][1] for c in np.unique(clusters)) / len(has)


def test_decisions_and_accuracy_are_shares_of_the_examples(evidence: Evidence) -> None:
    first, second, labels = evidence.reference.predictions, evidence.candidate.predictions, evidence.candidate.labels
    kept = evidence.decisions_kept()
    assert isinstance(kept, Measured)
    assert kept.value == pytest.approx((first == second).mean())
    change = evidence.accuracy_change()
    assert isinstance(change, Measured)
    known = labels >= 0
    assert change.n == known.sum()
    assert change.value == pytest.approx((second == labels)[known].mean() - (first == labels)[known].mean())


def test_each_class_has_its_change_of_recall_and_small_ones_are_left_out(evidence: Evidence) -> None:
    found = evidence.class_changes(ClassesRule(drop=0.1, min_examples=30))
    assert isinstance(found, dict)
    labels, first, second = evidence.candidate.labels, evidence.reference.predictions, evidence.candidate.predictions
    sizes = {evidence.candidate.class_name(c): int((labels == c).sum()) for c in range(5)}
    assert set(found) == {name for name, size in sizes.items() if size >= 30} < set(sizes)
    brown = labels == 3
    assert found["Brown"].value == pytest.approx((second == 3)[brown].mean() - (first == 3)[brown].mean())


def test_purity_and_its_rise_are_of_the_attribute_in_each_layer(evidence: Evidence) -> None:
    pure, rise = evidence.purities(rule()), evidence.purity_rises(rule(layers=["fc1", "conv1"]))
    assert isinstance(pure, dict)
    assert isinstance(rise, dict)
    assert list(pure) == list(evidence.candidate.layers)
    assert list(rise) == ["fc1", "conv1"]
    has = evidence.candidate.read_attributes()[ATTRIBUTE]
    assert not (has == 0).any()
    for layer in ("fc1", "conv1"):
        before, after = (purity(side, layer, has) for side in (evidence.reference, evidence.candidate))
        assert pure[layer].value == pytest.approx(after)
        assert rise[layer].value == pytest.approx(after - before)


def test_lifts_are_shares_inside_over_shares_outside(evidence: Evidence) -> None:
    found = evidence.lifts(rule(layers=["fc2"]))
    assert isinstance(found, dict)
    has, clusters = evidence.candidate.read_attributes()[ATTRIBUTE] == 1, evidence.candidate.clusters[:, -1]
    for cluster in np.unique(clusters).tolist():
        inside = clusters == cluster
        if inside.sum() >= 5 and has[~inside].any():
            assert found[f"fc2/{cluster}"].value == pytest.approx(has[inside].mean() / has[~inside].mean())


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (
            {"attribute": "Hat"},
            "the data set has no attribute Hat; it has 5_o_Clock_Shadow, Arched_Eyebrows, Attractive",
        ),
        ({"layers": ["fc9"]}, "fc9 is not clustered; layers are conv1, conv2, conv3, fc1, fc2"),
    ],
)
def test_what_is_not_there_is_said(evidence: Evidence, limits: dict[str, object], expected: str) -> None:
    for found in (evidence.purities, evidence.purity_rises, evidence.lifts):
        assert found(rule(**limits)) == expected
    assert evidence.ood(1) == (
        f"{evidence.candidate.name} has no metrics.json: it was not evaluated. Run its model again, with the same settings"
    )


def test_an_attribute_that_no_common_image_has_is_said(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {name: np.zeros_like(one) for name, one in evidence.candidate.read_attributes().items()}
    name = next(iter(values))
    values[name][10:12] = 1, -1
    monkeypatch.setitem(evidence.__dict__, "_rows", (np.arange(10), np.arange(10)))
    monkeypatch.setitem(evidence.__dict__, "_attributes", (values, values))
    assert evidence.purity_rises(rule(attribute=name)) == f"{name} is not known for any image that both sets have"


def test_ood_that_was_not_measured_for_the_candidate_is_said(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Measured(value=0.9, low=0.8, high=0.95, n=100)
    found = ({"noise": one, "crops": one}, {"noise": one})
    monkeypatch.setattr(Evidence, "ood", lambda self, side: found[side])
    assert evidence.ood_changes() == "it was not measured on crops for the candidate, as it was for the reference"


def test_sets_with_another_k_have_information_and_no_path_agreement(evidence: Evidence, tmp_path: Path) -> None:
    coarse = open_set(generate(tmp_path, n=400, model="Coarse", seed=3, k=3, attributes=3))
    other = Evidence(evidence.reference, coarse)
    assert other.path_agreement() == "the sets have different numbers of clusters, so that their paths differ anyway"
    assert other.layer_agreement("fc2") == "the sets have different numbers of clusters in fc2"
    assert isinstance(other.shared_information(), dict)
    assert isinstance(evidence.path_agreement(), Measured)
    assert str(evidence.layer_agreement("fc9")).startswith("fc9 is not a layer of both; those are conv1,")

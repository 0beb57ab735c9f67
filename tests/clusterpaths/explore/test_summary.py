"""What a selection has in common: the same as counted one example after the other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.ask import ask
from clusterpaths.explore.cluster_detail import cluster_detail
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.explore.records import Question
from clusterpaths.explore.summary import summarise_selection
from clusterpaths.metrics.intervals import median_interval
from tests.clusterpaths.explore.small import small
from tests.generated_set import generate

LAYERS = {"conv1": (2,), "fc1": (3,)}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SetIndex:
    root = tmp_path_factory.mktemp("summaries")
    generate(root, n=2_000, layers=LAYERS, k=4, attributes=7, seed=3)
    return Library(root).default()


@pytest.mark.parametrize(
    "fields",
    [
        {"right": "wrong"},
        {"attribute": ("Bald", "-Bangs"), "order": "rare"},
        {"prediction": ("Black",), "split": ("test",)},
        {"ood": "0.5..", "path": "1"},
        {"label": ("none",)},
        {"label": ("Gray",)},
        {},
    ],
    ids=str,
)
def test_a_summary_is_what_a_loop_counts(index: SetIndex, fields: dict[str, Any]) -> None:
    question = Question(**fields)
    found = summarise_selection(index, question)
    inside = ask(index, question, limit=10_000).examples
    others = [e for e in ask(index, Question(), limit=10_000).examples if e.id not in {e.id for e in inside}]
    outside = (
        [e for e in others if e.label] if fields.keys() & {"right"} or fields.get("label") == ("Gray",) else others
    )
    assert len(outside) == found.compared
    assert (found.total, found.share) == (len(inside), len(inside) / 2_000)
    assert {c.name: c.count for c in found.predictions} == Counter(e.prediction for e in inside)
    assert {c.name: c.count for c in found.labels} == Counter(e.label for e in inside if e.label)
    pairs = Counter((e.label, e.prediction) for e in inside if e.label and e.prediction)
    assert {(p.label, p.prediction): p.count for p in found.pairs} == pairs
    assert all(p.right == (p.label == p.prediction) for p in found.pairs)
    assert [(p.right, -p.count) for p in found.pairs] == sorted((p.right, -p.count) for p in found.pairs)
    paths = Counter(e.path for e in inside)
    assert {p.path: p.count for p in found.paths}.items() <= paths.items()
    assert [p.count for p in found.paths] == sorted(paths.values(), reverse=True)[:10]
    right = [e.right for e in inside if e.right is not None]
    assert (found.right.count if found.right else None) == (sum(right) if right else None)
    assert (found.ood is None) == ("ood" in fields)
    if found.ood:
        assert found.ood.value == pytest.approx(np.median([e.ood_score for e in inside]))
        assert (found.ood_outside is None) == (not outside)
    if found.ood_outside:
        assert found.ood_outside.value == pytest.approx(np.median([e.ood_score for e in outside]))
    for lift in found.clusters:
        layer, cluster = lift.name.split(":")
        at = index.layers.index(layer)
        shares = [np.mean([e.path[at] == int(cluster) for e in group]) for group in (inside, outside)]
        assert (lift.share, lift.share_outside) == pytest.approx(tuple(shares))
    layers = {lift.name.split(":")[0] for lift in found.clusters}
    assert layers == ((set(LAYERS) - ({"conv1"} if "path" in fields else set())) if outside else set())


def test_what_was_selected_by_is_left_out(index: SetIndex) -> None:
    kinds = {lift.kind for lift in summarise_selection(index, Question(prediction=("Black",), split=("test",))).lifts}
    assert kinds == {"label", "attribute"}
    names = {lift.name for lift in summarise_selection(index, Question(attribute=("Bald", "-Bangs"))).lifts}
    assert names & {"Bald", "Bangs"} == {"Bald"}, "the label Bald, and not the attribute"
    assert "attribute" in {lift.kind for lift in summarise_selection(index, Question(attribute=("Bald",))).lifts}


def test_a_median_of_what_was_selected_by_says_nothing_and_one_of_few_has_no_interval(index: SetIndex) -> None:
    found = summarise_selection(index, Question(ood="0.."))
    assert (found.ood, found.ood_outside) == (None, None)
    few = summarise_selection(index, Question(id=tuple(index.ids[:5].tolist()))).ood
    enough = summarise_selection(index, Question(id=tuple(index.ids[:6].tolist()))).ood
    assert few is not None
    assert enough is not None
    assert (few.interval, enough.interval is not None) == (None, True)


def test_a_layer_that_was_selected_by_distance_has_no_lifts(index: SetIndex) -> None:
    layer = index.layers[-1]
    found = summarise_selection(index, Question(distance=(f"{layer}:..{float(np.median(index.distances[:, -1]))!r}",)))
    assert found.total
    assert {lift.name.rpartition(":")[0] for lift in found.clusters} == set(index.layers[:-1])


def test_a_cluster_has_the_lifts_of_its_page(index: SetIndex) -> None:
    assert summarise_selection(index, Question(cluster=("fc1:2",))).lifts == cluster_detail(index, "fc1", 2).lifts


def test_nothing_selected_has_nothing_in_common(index: SetIndex) -> None:
    found = summarise_selection(index, Question(path="*-1", cluster=("fc1:2",)))
    assert (found.total, found.lifts, found.clusters, found.pairs, found.paths, found.ood) == (0, (), (), (), (), None)
    with pytest.raises(NotFoundError, match="no layer"):
        summarise_selection(index, Question(cluster=("x:2",)))


def test_labels_of_other_classes_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    found = summarise_selection(small(tmp_path, label_names=("young", "old")), Question())
    assert {(p.label, p.prediction, p.count, p.right) for p in found.pairs} == {
        ("young", "cat", 2, None), ("old", "cat", 1, None), ("old", "dog", 2, None)
    }  # fmt: skip


@pytest.mark.parametrize("n", [1, 5, 6, 40, 199, 200, 1_001])
def test_the_interval_of_a_median_is_between_order_statistics(n: int) -> None:
    """Ranks and coverage by the binomial distribution of scipy."""
    from scipy.stats import binom

    values = np.random.default_rng(n).permutation(n).astype(np.float64)  # each value is its rank
    low, median, high = median_interval(values)
    assert median == (n - 1) / 2
    assert low + high == n - 1
    if n < 6:
        assert low == 0
    else:  # low: so many values at most are below the true median, in 2.5% of samples
        assert 2 * binom.cdf(low, n, 0.5) <= (0.05 if n < 200 else 0.051)
        assert 2 * binom.cdf(low + 1, n, 0.5) > 0.049, "no wider than needed"

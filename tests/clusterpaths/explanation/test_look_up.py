"""The explanation of an example by what is stored of it: the same as counted one path after the other."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from clusterpaths.errors import CacheError
from clusterpaths.explanation.look_up import explain_example
from clusterpaths.explore.ask import ask
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.explore.records import Question
from clusterpaths.metrics.paths import FEW_EXAMPLES
from tests.generated_set import generate
from tests.server.conftest import write_foreign


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SetIndex:
    root = tmp_path_factory.mktemp("explained")
    generate(root, n=1_500, layers={"a": (2,), "b": (2,), "c": (3,)}, k=5, attributes=3, seed=5)
    return Library(root).default()


@pytest.mark.parametrize("row", [0, 7, 311, 1_499])
def test_the_nearest_other_decision_is_that_of_a_search_of_all_paths(index: SetIndex, row: int) -> None:
    found, detail = explain_example(index, row), example_detail(index, row)
    on_path: dict[tuple[int, ...], Counter[str]] = defaultdict(Counter)
    for one in ask(index, Question(), limit=2_000).examples:
        on_path[one.path][one.prediction or ""] += 1
    own = detail.example

    def differs(path: tuple[int, ...]) -> int:
        return sum(a != b for a, b in zip(path, own.path, strict=True))

    others = [
        (differs(path), -classes.total(), path)
        for path, classes in on_path.items()
        if classes.total() >= FEW_EXAMPLES and own.prediction not in [
            name for name, count in classes.items() if count == max(classes.values())
        ]
    ]  # fmt: skip
    assert found.other
    assert (found.other.hamming, -found.other.count) == min(others)[:2]
    assert found.prediction
    assert (found.path, found.prediction.name) == (own.path, own.prediction)
    assert found.count == on_path[own.path].total() == own.path_count
    assert found.ood_score == pytest.approx(detail.ood_score)
    assert found.ood_percentile == pytest.approx(detail.ood_percentile)
    assert [one.standardised for one in found.layers] == pytest.approx([one.standardised for one in detail.layers])
    assert [one.probability for one in found.classes] == [one.share for one in detail.probabilities]
    assert found.counterfactual is None, "that needs the model"


def test_of_another_program_s_set_it_is_not_known(tmp_path: Path) -> None:
    write_foreign(tmp_path / "Foreign")
    with pytest.raises(CacheError, match="another program"):
        explain_example(Library(tmp_path).set("Foreign", "set_01"), 3)

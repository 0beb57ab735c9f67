"""What a run says at its end: its last line and its advice, of sets by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clusterpaths.evaluation.fewer_layers import has_many_singletons, shorter_paths
from clusterpaths.evaluation.record import METRICS
from clusterpaths.report.markdown import advice, in_one_sentence, published_set
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.report.test_evaluation import WHOLE
from tests.clusterpaths.report.test_report import make_set


def hundred_photos(folder: Path, *, with_predictions: bool = True) -> PublishedSet:
    """100 examples: early layers at random, so that most are alone on their path; the last one decides."""
    draw = np.random.default_rng(0)
    decisions = np.arange(100) % 2
    assigned = {name: draw.integers(0, 8, 100).tolist() for name in ("conv1", "conv2", "conv3")}
    assigned["fc"] = (decisions * 3).tolist()
    predictions = decisions.tolist() if with_predictions else None
    return open_set(make_set(folder / "set_01", assigned, k=8, labels=decisions.tolist(), predictions=predictions))


def test_the_last_line_has_chance_beside_purity(tmp_path: Path) -> None:
    photos = hundred_photos(tmp_path)
    purity = photos.purities["labels"]
    assert f"path purity with labels {purity.value:.2f} (by chance {purity.chance:.2f})." in in_one_sentence(photos)
    assert purity.chance > 0.9
    assert f"by chance {purity.chance:.3f}" in published_set(photos, tmp_path / "report.html")


def test_the_last_line_has_the_held_out_alignment_where_it_was_measured(tmp_path: Path) -> None:
    photos = hundred_photos(tmp_path)
    photos.write(METRICS, WHOLE.model_dump_json().encode())
    said = in_one_sentence(photos)
    assert "they give 90% of the model's decisions on 1,400 held-out examples" in said
    assert "(the most frequent decision alone: 30%)" in said
    assert "purity" not in said


def test_a_set_whose_paths_are_mostly_one_example_is_told_what_does_better(tmp_path: Path) -> None:
    photos = hundred_photos(tmp_path)
    alone, n_paths = int((photos.paths.counts == 1).sum()), len(photos.paths.counts)
    found = shorter_paths(photos)
    assert [one.layers for one in found] == [
        ("conv1", "conv2", "conv3", "fc"), ("conv2", "conv3", "fc"), ("conv3", "fc"), ("fc",)
    ]  # fmt: skip
    assert (found[0].paths, found[0].singletons) == (n_paths, alone)
    assert (found[-1].paths, found[-1].singletons, found[-1].alignment) == (2, 0, 1.0)
    said = advice(photos)
    assert said.startswith(f"{alone} of the {n_paths} paths have one example only")
    assert "fc only: 2 paths, 100%" in said or "conv3, fc only: 16 paths, 100%" in said
    assert "--layers" in said
    assert "--k auto" in said
    assert said in published_set(photos, tmp_path / "report.html", said)


def test_without_predictions_only_the_number_of_paths_is_told(tmp_path: Path) -> None:
    said = advice(hundred_photos(tmp_path, with_predictions=False))
    assert "decisions" not in said
    assert "--layers" in said


def test_a_quick_check_is_left_alone(tmp_path: Path) -> None:
    assert advice(open_set(make_set(tmp_path / "set_01", {"a": [0, 1, 2, 3, 4], "b": [4, 3, 2, 1, 0]}, k=5))) == ""


def test_a_set_whose_paths_have_examples_is_left_alone(tmp_path: Path) -> None:
    clusters = [i // 20 for i in range(100)]
    fine = open_set(make_set(tmp_path / "set_01", {"a": clusters, "b": clusters}, k=5))
    assert not has_many_singletons(fine)
    assert advice(fine) == ""


def test_purities_of_a_set_from_before_chance_was_recorded_are_worked_out(tmp_path: Path) -> None:
    photos = hundred_photos(tmp_path)
    assert photos.record.chance_labels is None
    recorded = PublishedSet(
        photos.folder, photos.record.model_copy(update={"purity_labels": 0.5, "chance_labels": 0.25}), photos.columns
    )
    assert tuple(recorded.purities["labels"]) == (0.5, 0.25)
    assert photos.purities["labels"].chance == pytest.approx(photos.purities["predictions"].chance)

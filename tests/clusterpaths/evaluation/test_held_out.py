"""Evaluation of a set with more examples than its layers are fitted on: by the published clustering, on all others."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.cache import fit_sample, rows, stores
from clusterpaths.cache.fit_sample import draw_ids
from clusterpaths.cache.rows import LayerRows
from clusterpaths.common import roots
from clusterpaths.config import SAMPLE_MODEL, RunConfig
from clusterpaths.evaluation import split
from clusterpaths.evaluation.evaluate import evaluate_set, stored_evaluation
from clusterpaths.evaluation.probe import Probe, Seen, Work
from clusterpaths.evaluation.record import METRICS, read_evaluation
from clusterpaths.evaluation.split import choose_positions, sample_rows, split_set
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models import session
from clusterpaths.models.find import default_model
from clusterpaths.pipeline import run
from clusterpaths.sets.published import PublishedSet, open_set
from tests.evaluating import publish

FITTED = 40  # of 200
LAYERS = ("conv3", "fc1", "fc2")


@pytest.fixture(autouse=True)
def _fitted_on_few(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_fit(monkeypatch)


def limit_fit(patch: pytest.MonkeyPatch, rows: int = FITTED) -> None:
    patch.setattr(fit_sample, "FIT_ROWS", rows)
    patch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("held_out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roots, "data_root", lambda: root / "data")
        yield root


def options(root: Path, **more: Any) -> RunConfig:
    return RunConfig(
        **{"sample": True, "sample_size": 200, "layers": LAYERS, "k": 3, "cache_root": root, "cache_format": "zarr"}
        | more
    )


@pytest.fixture(scope="module")
def done(data: Path) -> tuple[PublishedSet, ExtractionJob]:
    with pytest.MonkeyPatch.context() as patch:
        limit_fit(patch)
        set_dir, job = publish(options(data / "zarr"))
    return open_set(set_dir), job


def split_ids(published: PublishedSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    fit = draw_ids(published.ids, FITTED)
    return fit, np.setdiff1d(published.ids, fit)


def stored(job: ExtractionJob, layer: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.concatenate([block for _, block in LayerRows(job.storage, layer, ids).blocks()])


def nearest_path_class(path: tuple[int, ...], classes: dict[tuple[int, ...], Counter[int]]) -> int:
    """Majority class of the path, or of a vote of the most similar ones; ties go to the lowest."""
    distance = {other: sum(a != b for a, b in zip(path, other, strict=True)) for other in classes}
    votes: Counter[int] = Counter()
    for other, count in classes.items():
        if distance[other] == min(distance.values()):
            best = min(count, key=lambda one: (-count[one], one))
            votes[best] += count.total() if distance[other] else 1
    return min(votes, key=lambda one: (-votes[one], one))


def test_alignment_is_that_of_the_published_paths(done: tuple[PublishedSet, ExtractionJob]) -> None:
    published, job = done
    found = evaluate_set(published, job, seed=3, images=50)
    fit, held_out = split_ids(published)
    assert (found.refitted, found.num_fit, found.num_eval, found.num_images) == (False, 40, 160, 50)
    alignment = found.alignment
    assert alignment is not None
    assert alignment.deep_knn is not None

    of = {
        int(i): (tuple(p.tolist()), int(c))
        for i, p, c in zip(published.ids, published.clusters, published.predictions, strict=True)
    }
    classes: dict[tuple[int, ...], Counter[int]] = {}
    for one in fit.tolist():
        path, decision = of[one]
        classes.setdefault(path, Counter())[decision] += 1
    own = [of[one] for one in held_out.tolist()]
    correct = [nearest_path_class(path, classes) == decision for path, decision in own]
    seen = [path in classes for path, _ in own]
    assert 0 < sum(seen) < len(seen), "all paths are seen, or none is: the test shows less than it should"
    everything = sum(classes.values(), Counter())
    largest = min(everything, key=lambda one: (-everything[one], one))
    assert alignment.daf.value == pytest.approx(np.mean(correct))
    assert alignment.daf.n == 160
    assert alignment.coverage.value == pytest.approx(np.mean(seen))
    assert alignment.daf_seen is not None
    assert alignment.daf_seen.value == pytest.approx(np.mean(np.array(correct)[seen]))
    assert alignment.daf_seen.n == sum(seen)
    assert alignment.majority.value == pytest.approx(np.mean([decision == largest for _, decision in own]))
    assert alignment.paths == len(classes)

    images = draw_ids(held_out, 50)  # the only held-out examples whose activations are known
    near = unit(stored(job, "fc2", images)) @ unit(stored(job, "fc2", fit)).T
    votes = [Counter(of[int(fit[at])][1] for at in np.argsort(-row)[:10]) for row in near]
    agree = [min(v, key=lambda one: (-v[one], one)) == of[int(i)][1] for v, i in zip(votes, images, strict=True)]
    assert alignment.deep_knn.value == pytest.approx(np.mean(agree))
    assert alignment.deep_knn.n == 50


def unit(values: NDArray[np.float32]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = values / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    return result


def test_only_the_sample_s_last_two_layers_are_read_and_once(
    done: tuple[PublishedSet, ExtractionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    published, job = done
    read: list[tuple[str, int]] = []

    def watched(*args: Any) -> Any:
        store = stores.open_store(*args)
        original = store.read

        def record(layer: str, ids: NDArray[np.int64], *more: Any) -> Any:
            read.extend((layer, one) for one in ids.tolist())
            return original(layer, ids, *more)

        monkeypatch.setattr(store, "read", record)
        return store

    monkeypatch.setattr(rows, "open_store", watched)
    fit, _ = split_ids(published)
    evaluate_set(published, job, seed=4, images=40, causal=False)
    assert sorted(read) == [(layer, one) for layer in ("fc1", "fc2") for one in fit.tolist()]
    read.clear()
    evaluate_set(published, job, seed=4, images=40)  # and every layer once for the clusters' means
    every = [(layer, one) for layer in ("conv3", "fc1", "fc1", "fc2", "fc2") for one in fit.tolist()]
    assert sorted(read) == sorted(every)


def test_unchanged_images_have_the_paths_and_distances_of_the_set(done: tuple[PublishedSet, ExtractionJob]) -> None:
    published, job = done
    seen, positions = clean_run(published, job)
    assert len(positions) == 160
    for found in (seen.published, seen.clusters):
        np.testing.assert_array_equal(found, published.clusters[positions])
    np.testing.assert_array_equal(seen.distances, published.distances[positions])
    np.testing.assert_array_equal(seen.features, stored(job, "fc2", published.ids[positions]))
    np.testing.assert_array_equal(seen.decisions.predictions, published.predictions[positions])


def test_another_device_has_products_of_the_activations_that_it_outputs(
    done: tuple[PublishedSet, ExtractionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    published, job = done
    inside, _ = clean_run(published, job)
    monkeypatch.setattr(session, "CPU", "AnotherExecutionProvider")
    outside, _ = clean_run(published, job)
    np.testing.assert_array_equal(outside.clusters, inside.clusters)
    np.testing.assert_array_equal(outside.distances, inside.distances)
    np.testing.assert_array_equal(outside.features, inside.features)


def clean_run(published: PublishedSet, job: ExtractionJob) -> tuple[Seen, NDArray[np.int64]]:
    chosen = choose_positions(published, job.storage, 0)
    with Probe(published, job, split_set(published, job.storage, chosen, 0), 0, job.model.outputs, 2) as probe:
        positions, images = probe.read(published, chosen.held_out, [])
        return probe.run([Work(images)])[0], positions


@pytest.mark.parametrize("fitted", [FITTED, 4096])
def test_threads_do_not_change_a_byte(
    fitted: int, done: tuple[PublishedSet, ExtractionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_fit(monkeypatch, fitted)
    published, job = done
    written = []
    for workers in (1, 3):
        (published.path / METRICS).unlink(missing_ok=True)
        evaluate_set(published, job, images=40, workers=workers)
        written.append((published.path / METRICS).read_bytes())
    assert written[0] == written[1]


def test_a_budget_of_images_is_noted_and_another_is_measured_again(done: tuple[PublishedSet, ExtractionJob]) -> None:
    published, job = done
    few = evaluate_set(published, job, images=12)
    assert few.num_images == 12
    assert any(note.startswith("12 of 160 held-out images are perturbed") for note in few.notes)
    assert {one.paths.n for one in few.perturbations} == {12}
    assert {score.auroc.n for one in few.strangers for score in one.scores} == {24}
    assert stored_evaluation(published, images=12) == few
    assert stored_evaluation(published, images=13) is None
    every = evaluate_set(published, job, images=1000)
    assert every.num_images == 160
    assert not any("perturbed" in note for note in every.notes)


def test_a_cache_of_images_gives_the_same_evaluation(data: Path) -> None:
    """Its activations are those of the sample, and only while the set is evaluated."""
    found = []
    for cache_format in ("none", "zarr"):
        config = options(
            data / f"same-{cache_format}", cache_format=cache_format, cache_dtype="float32", evaluation_images=40
        )
        published = run(config.model_copy(update={"model": default_model(SAMPLE_MODEL)})).published
        assert published
        found.append((published.path / METRICS).read_bytes())
    assert found[0] == found[1]


def test_a_cache_of_images_is_evaluated_where_images_of_its_sample_failed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other examples count for these; their activations were not stored."""
    limit_fit(monkeypatch, 170)  # of 203: too few are left, so the sample is split
    faces = tmp_path / "faces"
    shutil.copytree(photos, faces)
    for number in (20, 40, 60, 80, 100):
        (faces / f"{number:06d}.jpg").write_bytes(b"no image")
    published = run(
        RunConfig(
            model=default_model(SAMPLE_MODEL), dataset="folder", data_root=faces, cache_root=tmp_path, name="none",
            cache_format="none", layers=LAYERS, k=3, max_failures=0.1, check_preprocessing=False,
        )
    ).published  # fmt: skip
    assert published
    found = read_evaluation(published)
    assert found is not None
    assert found.refitted
    assert 165 <= found.num_fit + found.num_eval < 170
    assert found.alignment is not None


def test_activations_beyond_float16_are_measured_in_float32(done: tuple[PublishedSet, ExtractionJob]) -> None:
    published, job = done
    assert set(job.dtypes.values()) == {"float16"}
    preprocessing = job.preprocessing
    bright = preprocessing.model_copy(update={"scale": preprocessing.scale * 1e6})
    seen, _ = clean_run(published, job.model_copy(update={"preprocessing": bright}))
    assert np.isfinite(seen.distances).all()
    assert np.isfinite(seen.features).all()
    assert seen.features.max() > np.finfo(np.float16).max


def test_a_fifth_of_the_sample_is_held_out_where_it_leaves_out_few(
    done: tuple[PublishedSet, ExtractionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    published, job = done
    limit_fit(monkeypatch, 160)
    assert choose_positions(published, job.storage, 0).published
    limit_fit(monkeypatch, 170)  # of 200: 30 are left
    chosen = choose_positions(published, job.storage, 0)
    assert (chosen.published, len(chosen.fit), len(chosen.held_out)) == (False, 136, 34)
    np.testing.assert_array_equal(published.ids[chosen.sample], draw_ids(published.ids, 170))


def test_fitted_on_all_a_part_is_refitted(
    done: tuple[PublishedSet, ExtractionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    published, job = done
    record = published.record
    on_all = PublishedSet(published.path, record.model_copy(update={"config": record.config | {"fit": "all"}}))
    limit_fit(monkeypatch, 110)
    chosen = choose_positions(on_all, job.storage, 0)
    assert not chosen.published
    assert len(chosen.sample) in (128, 72)  # two runs, of 110 / 0.8 = 138; the last one has 8 examples
    limit_fit(monkeypatch, 4096)
    assert len(choose_positions(on_all, job.storage, 0).sample) == 200


def test_held_out_examples_are_bounded(
    done: tuple[PublishedSet, ExtractionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    published, job = done
    monkeypatch.setattr(split, "MAX_EXAMPLES", 70)
    _, held_out = split_ids(published)
    chosen = choose_positions(published, job.storage, 0)
    np.testing.assert_array_equal(published.ids[chosen.held_out], draw_ids(held_out, 70))


def test_large_sets_are_sampled_in_runs() -> None:
    assert sample_rows(10, 20, 0).tolist() == list(range(10))
    rows = sample_rows(1000, 200, 0)
    assert len(rows) <= 200
    assert (np.diff(rows) > 0).all()

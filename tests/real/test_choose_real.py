"""--k auto and --distance auto on 2,000 real images, where CLUSTERPATHS_SHARED points to them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.kmeans import assign
from clusterpaths.config import RunConfig
from clusterpaths.metrics.alignment import decision_alignment, split_fit_eval
from clusterpaths.metrics.intervals import wilson
from clusterpaths.metrics.paths import count_paths
from clusterpaths.records import Distance
from clusterpaths.running.stages import choose_settings
from tests.clusterpaths.clustering.fitting import cluster_rows
from tests.clusterpaths.conftest import Extracted, run_extraction

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
pytestmark = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    model = SHARED / "models" / "CelebA_CNN_instrumented.onnx"
    cache = tmp_path_factory.mktemp("cache")
    return run_extraction(
        RunConfig(model=model, data_root=SHARED, cache_root=cache, name="R", k="auto", distance="auto")
    )


def daf(done: Extracted, k: dict[str, int], distance: Distance) -> tuple[float, int]:
    """Fitted by the real clustering on 80%, judged on the other 20%; and the number of occupied paths."""
    predictions = read_examples(done.storage, ["prediction"])["prediction"].to_numpy()
    fit, kept = split_fit_eval(len(done.ids))
    fit_paths, eval_paths = [], []
    for layer, number in k.items():
        found = cluster_rows(LayerRows(done.storage, layer, done.ids[fit]), number, distance, 0)
        labels, far = np.empty(len(kept), np.int16), np.empty(len(kept), np.float32)
        assign(LayerRows(done.storage, layer, done.ids[kept]), found.centroids, distance, labels, far)
        fit_paths.append(found.labels)
        eval_paths.append(labels)
    fits, evals = np.stack(fit_paths, axis=1), np.stack(eval_paths, axis=1)
    told = decision_alignment(fits, predictions[fit], evals, predictions[kept])
    assert told.daf is not None
    paths = len(count_paths(np.concatenate([fits, evals])).counts)
    low, high = wilson(round(told.daf * len(kept)), len(kept))
    print(f"{distance} {k}: DAF {told.daf:.3f} ({low:.3f} to {high:.3f}), {paths} paths")
    return told.daf, paths


def test_auto_is_faithful_and_takes_cosine(done: Extracted) -> None:
    started = time.process_time()
    settings, choice = choose_settings(done.config, done.model, done.record)
    assert choice is not None
    print(f"{time.process_time() - started:.1f} s of a core. {choice.sentence} {choice.advice}")
    assert (settings.distance, settings.chooses) == ("cosine", False)
    auto, _ = daf(done, choice.k_per_layer, choice.distance)
    same_k, _ = daf(done, choice.k_per_layer, "euclidean")
    only_euclidean = done.config.model_copy(update={"distance": "euclidean"})
    _, own = choose_settings(only_euclidean, done.model, done.record)
    assert own is not None
    own_k, _ = daf(done, own.k_per_layer, "euclidean")
    assert auto >= 0.92
    assert auto > max(same_k, own_k)


def test_five_clusters_on_the_last_two_layers_are_faithful(done: Extracted) -> None:
    k: dict[str, Any] = {"fc1": 5, "fc2": 5}
    cosine, paths = daf(done, k, "cosine")
    euclidean, _ = daf(done, k, "euclidean")
    assert cosine >= 0.92
    assert paths <= 25
    assert cosine > euclidean

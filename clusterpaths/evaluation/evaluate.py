"""Stage evaluate: quality measures of a set's paths, from its directory, its cache and its images to metrics.json.

Belongs here: which examples each number is measured on. The measures are in `metrics/`, the images in `perturb.py`, the
record in `record.py`.

The set's own clustering was fitted on every example. Alignment and OOD detection are evaluated on a held-out 20%: each layer is
clustered again on the other 80% with the set's k, distance and seed. That measures how such a clustering generalises, and
differs from the published one by a fifth of its data. Path agreement is of the published centroids.

OOD detection measures the OOD score that is shipped (`metrics/ood.py`), with the statistics of those 80%.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.cache.examples import EXAMPLES
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.kmeans import first_alike, nearest
from clusterpaths.common.threads import one_thread
from clusterpaths.datasets import open_dataset
from clusterpaths.evaluation import perturb
from clusterpaths.evaluation.record import (
    METRICS,
    VERSION,
    Alignment,
    Complexity,
    Detection,
    Evaluation,
    Measure,
    OODDetection,
    Perturbed,
    read_evaluation,
)
from clusterpaths.evaluation.refit import Refit, refit_clustering
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.metrics.agreement import path_agreement
from clusterpaths.metrics.alignment import decision_alignment, majority_baseline, split_fit_eval
from clusterpaths.metrics.detection import auroc, bootstrap_detection, fpr95
from clusterpaths.metrics.intervals import bootstrap_mean
from clusterpaths.metrics.neighbours import nearest_neighbours, neighbours_vote
from clusterpaths.metrics.ood import confidence_scores, has_class_scores, path_rarity, scale_distances
from clusterpaths.metrics.paths import in_majority, path_complexity
from clusterpaths.models.session import TapSession
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import SetRecord
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage

MIN_EVAL = 30  # held-out examples; fewer are not informative
MAX_EXAMPLES = 20_000
MAX_BYTES = 4 << 30  # of float32 activations of all layers, that clustering again may read
MIN_CAPPED = 2000  # examples even of a model with huge layers
RUN = 64  # consecutive examples that are sampled together: a chunk of the cache
MAX_IMAGES = 500  # examples to perturb
MAX_OOD = 300  # OOD images of each kind
BATCH = 32


def evaluate_set(
    published: PublishedSet,
    job: ExtractionJob,
    seed: int | None = None,
    more: Mapping[str, perturb.Images] | None = None,
) -> Evaluation:
    """Measure a published set and write metrics.json into its directory; a stored one that is valid is returned instead.

    What cannot be measured is left out, with a note: too few examples, no class scores, no labels. The OOD
    images are crops of scikit-learn's two photographs, the set's own upside down, noise, and the sample's faces.

    Args:
        published: the set, in the cache that `job` filled.
        seed: of the split, the samples, the noise and the intervals; the set's own if left out.
        more: further OOD images, by name, at the model's size. With them nothing stored is returned and nothing is
            stored: metrics.json is about the same images for every set.

    Raises:
        CacheError, CorruptedShardError: the cache does not hold the set's activations.
        DiskError: no room or no permission.
    """
    record = published.record
    seed = record.seed if seed is None else seed
    if not more and (found := stored_evaluation(published, seed)):
        return found
    with one_thread():
        evaluation = _evaluate(published, job, seed, more or {})
    if not more:
        published.write_json(METRICS, evaluation.model_dump(mode="json"))
    return evaluation


def stored_evaluation(published: PublishedSet, seed: int | None = None) -> Evaluation | None:
    """The set's metrics, if they were measured with this seed [the set's own] and by this version."""
    record, found = published.record, read_evaluation(published)
    wanted = (record.fingerprint, record.seed if seed is None else seed, VERSION)
    return found if found and (found.fingerprint, found.seed, found.version) == wanted else None


def _evaluate(published: PublishedSet, job: ExtractionJob, seed: int, more: Mapping[str, perturb.Images]) -> Evaluation:
    record, notes = published.record, list[str]()
    path_of = published.paths.of_example
    complexity = path_complexity(published.clusters)
    directory = job.storage
    decides = job.model.logits is not None and _decides(directory)
    predictions = published.predictions if decides else np.full_like(published.predictions, -1)
    sample = sample_rows(len(published.ids), _row_limit(directory, record), seed)
    fit, held_out = split_fit_eval(len(sample), seed=seed)
    evaluation = Evaluation(
        set=record.set,
        fingerprint=record.fingerprint,
        seed=seed,
        num_fit=len(fit),
        num_eval=len(held_out),
        num_images=0,
        complexity=Complexity(occupied=complexity.occupied, covering=complexity.covering, entropy=complexity.entropy),
        purity_labels=_mean(in_majority(path_of, published.labels), seed),
        purity_predictions=_mean(in_majority(path_of, predictions), seed),
    )
    if evaluation.purity_labels is None:
        notes.append("No example has a label: purity with labels is left out.")
    if evaluation.purity_predictions is None:
        notes.append(
            "The model has no class scores (as in regression or an embedding): purity with predictions, decision "
            "alignment, preserved decisions, max softmax and energy are left out."
        )
    elif len(np.unique(predictions[predictions >= 0])) == 1:
        notes.append("The model predicts one class for every example: alignment is perfect and not informative.")
    needed = max(MIN_EVAL, *record.k_per_layer.values())
    if len(held_out) < needed:
        notes.append(
            f"{len(held_out)} examples can be held out and at least {needed} are needed (30, and the largest k): alignment, "
            "path agreement and OOD detection are left out."
        )
        return evaluation.model_copy(update={"notes": tuple(notes)})
    again = refit_clustering(directory, record, published.ids, sample, fit, held_out, seed)
    alignment = _alignment(again, predictions[sample], seed) if evaluation.purity_predictions else None
    probe = _Probe(published, job, again, seed, decides)
    images = probe.read(published, notes)
    return evaluation.model_copy(
        update={
            "alignment": alignment,
            "num_images": len(images),
            "perturbations": probe.perturbed(images) if len(images) else (),
            "strangers": probe.ood_detection(images, more) if len(images) else (),
            "notes": tuple(notes),
        }
    )


def _decides(directory: Storage) -> bool:
    """Whether the cached outputs of the first examples can be class scores."""
    with pq.ParquetFile(directory.local(EXAMPLES)) as file:
        for batch in file.iter_batches(1024, columns=["logits"]):
            scores = batch.column(0).drop_null().to_pylist()
            if scores:
                return has_class_scores(np.array(scores))
    return False


def sample_rows(n: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Up to about `limit` of n positions, ascending: all, or random runs of 64 that the cache reads at once."""
    if n <= limit:
        return np.arange(n)
    starts = np.random.default_rng([seed, 1]).permutation(-(-n // RUN))[: max(limit // RUN, 1)] * RUN
    return np.concatenate([np.arange(start, min(start + RUN, n)) for start in np.sort(starts)])


def _row_limit(directory: Storage, record: SetRecord) -> int:
    widths = sum(LayerRows(directory, layer, np.empty(0, np.int64)).width for layer in record.layers)
    return min(MAX_EXAMPLES, max(MIN_CAPPED, MAX_BYTES // (4 * widths)))


def _alignment(again: Refit, predictions: NDArray[np.int16], seed: int) -> Alignment | None:
    fit, held_out = (rows[predictions[rows] >= 0] for rows in (again.fit, again.held_out))
    if not len(fit) or not len(held_out):
        return None
    own = predictions[held_out]
    found = decision_alignment(again.clusters[fit], predictions[fit], again.clusters[held_out], own)
    correct = found.predicted == own
    neighbours, _ = nearest_neighbours(again.features[fit], again.features[held_out])
    return Alignment(
        daf=_measured(correct, seed),
        coverage=_measured(found.seen, seed),
        daf_seen=_mean(correct[found.seen], seed),
        paths=path_complexity(again.clusters[fit]).occupied,
        majority=_measured(majority_baseline(predictions[fit], len(held_out)) == own, seed),
        deep_knn=_measured(neighbours_vote(neighbours, predictions[fit]) == own, seed),
    )


def _measured(values: NDArray[np.bool_] | NDArray[np.float64], seed: int) -> Measure:
    low, high = bootstrap_mean(values, seed)
    return Measure(value=float(values.mean()), low=low, high=high, n=len(values))


def _mean(values: NDArray[np.bool_], seed: int) -> Measure | None:
    return _measured(values, seed) if len(values) else None


@dataclass(frozen=True)
class _Outputs:
    """Paths, features and class scores of m images."""

    published: NDArray[np.int16]  # (m, L) paths by the set's centroids
    clusters: NDArray[np.int16]  # (m, L) by those of the refitted clustering
    distances: NDArray[np.float32]  # (m, L) to the latter
    features: NDArray[np.float32]  # (m, d)
    logits: NDArray[np.float32] | None  # (m, classes)


class _Probe:
    """Runs the model on images."""

    def __init__(self, published: PublishedSet, job: ExtractionJob, again: Refit, seed: int, decides: bool) -> None:
        record = published.record
        self._record, self._job, self._again, self._seed, self._decides = record, job, again, seed, decides
        self._session = TapSession(job.model)
        self._published = published.read_centroids()
        self._first = {
            id(table): {layer: first_alike(table[layer]) for layer in record.layers}
            for table in (self._published, again.centroids)
        }

    def read(self, published: PublishedSet, notes: list[str]) -> perturb.Images:
        """Images of up to 500 eval examples."""
        wanted = self._again.held_out
        if len(wanted) > MAX_IMAGES:
            wanted = np.sort(np.random.default_rng([self._seed, 3]).choice(wanted, MAX_IMAGES, replace=False))
        files = published.files.take(pa.array(self._again.sample[wanted])).to_pylist()
        dataset, size = open_dataset(self._job.dataset), self._job.preprocessing.size
        pixels = []
        for file in files:
            try:
                pixels.append(fit(dataset.read_image(file), self._job.preprocessing))
            except OSError:
                continue
        if len(pixels) < len(wanted):
            notes.append(f"{len(wanted) - len(pixels)} of {len(wanted)} images could not be read and are left out.")
        return np.array(pixels, np.uint8).reshape(len(pixels), *size, 3)

    def run(
        self, images: perturb.Images, change: perturb.Perturbation = lambda images, _: images, at: int = 0
    ) -> _Outputs:
        """In batches; changed images and activations are held for one batch only."""
        rng = np.random.default_rng([self._seed, 4, at])
        parts = [self._run(change(images[start : start + BATCH], rng)) for start in range(0, len(images), BATCH)]
        logits = [part.logits for part in parts if part.logits is not None]
        return _Outputs(
            np.concatenate([part.published for part in parts]),
            np.concatenate([part.clusters for part in parts]),
            np.concatenate([part.distances for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate(logits) if logits else None,
        )

    def _run(self, images: perturb.Images) -> _Outputs:
        out = self._session.run(normalise(images, self._job.preprocessing))
        shape = (len(images), len(self._record.layers))
        published, clusters = np.empty(shape, np.int16), np.empty(shape, np.int16)
        distances = np.empty(shape, np.float32)
        for at, layer in enumerate(self._record.layers):
            block = np.asarray(out.layers[layer], np.float32).reshape(len(images), -1)
            published[:, at], _ = self._nearest(block, self._published, layer)
            clusters[:, at], distances[:, at] = self._nearest(block, self._again.centroids, layer)
        projection = self._again.projection
        features = block if projection is None else block @ projection
        return _Outputs(published, clusters, distances, features, out.logits if self._decides else None)

    def _nearest(
        self, block: NDArray[np.float32], table: dict[str, NDArray[np.float32]], layer: str
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        found = nearest(block, table[layer], self._record.distance)
        far = found.squared / 2 if self._record.distance == "cosine" else np.sqrt(found.squared)
        return self._first[id(table)][layer][found.labels], far.astype(np.float32)

    def perturbed(self, images: perturb.Images) -> tuple[Perturbed, ...]:
        clean, found = self.run(images), []
        for index, (name, change) in enumerate(perturb.PERTURBATIONS.items()):
            seen = self.run(images, change, index)
            unchanged, layers = path_agreement(clean.published, seen.published)
            same = None
            if clean.logits is not None and seen.logits is not None:
                same = _measured(clean.logits.argmax(axis=1) == seen.logits.argmax(axis=1), self._seed)
            found.append(
                Perturbed(
                    name=name,
                    paths=_measured(unchanged, self._seed),
                    layers=_measured(layers, self._seed),
                    predictions=same,
                )
            )
        return tuple(found)

    def ood_detection(self, images: perturb.Images, more: Mapping[str, perturb.Images]) -> tuple[OODDetection, ...]:
        count, size = min(MAX_OOD, len(images)), self._job.preprocessing.size
        rng = np.random.default_rng([self._seed, 5])
        others = {
            "crops of photographs": perturb.photo_crops(count, size, rng),
            "upside-down examples": perturb.upside_down(images[:count]),
            "uniform noise": perturb.uniform_noise(count, size, rng),
        }
        root = Path(self._job.dataset.root)
        if not any((folder / "faces.json").is_file() for folder in (root, root / "celeba")):  # the sample itself
            others["drawn faces"] = perturb.drawn_faces(count, size, self._seed)
        others |= more
        own = self._scores(self.run(images))
        found = []
        for name, pixels in others.items():
            theirs = self._scores(self.run(pixels))
            found.append(
                OODDetection(
                    name=name,
                    num_images=len(pixels),
                    scores=tuple(self._detect(score, own[score], theirs[score]) for score in own if score in theirs),
                )
            )
        return tuple(found)

    def _scores(self, seen: _Outputs) -> dict[str, NDArray[np.float64]]:
        """OOD scores of each image, by name; higher is farther from the set's own."""
        fit = self._again.fit
        paths, distances = self._again.clusters[fit], self._again.distances[fit]
        k = [self._record.k_per_layer[layer] for layer in self._record.layers]
        scores = {
            "paths": scale_distances(paths, distances, k).score(seen.clusters, seen.distances),
            "path rarity": path_rarity(paths, seen.clusters),
            "deep k-NN": nearest_neighbours(self._again.features[fit], seen.features)[1][:, -1],
        }
        if seen.logits is not None:
            scores |= confidence_scores(seen.logits)
        return scores

    def _detect(self, score: str, own: NDArray[np.float64], others: NDArray[np.float64]) -> Detection:
        area, rate = auroc(own, others), fpr95(own, others)
        areas, rates = bootstrap_detection(own, others, self._seed)
        n = len(own) + len(others)
        return Detection(
            score=score,
            auroc=Measure(value=area, low=areas[0], high=areas[1], n=n),
            fpr95=Measure(value=rate, low=rates[0], high=rates[1], n=n),
        )

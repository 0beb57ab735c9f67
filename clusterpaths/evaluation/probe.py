"""Running the model on images: what a perturbation changes, and how well scores detect OOD images.

Belongs here: images in, paths, distances and decisions out, by worker threads. Activations never leave the
runtime: it computes their products with the centroids (`models/products.py`). The results do not depend on the number of
threads: each batch has random numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.clustering.assign import Assigner
from clusterpaths.datasets import open_dataset
from clusterpaths.evaluation import perturb
from clusterpaths.evaluation.record import Detection, Measure, OODDetection, Perturbed
from clusterpaths.evaluation.refit import GRADED_LAYERS
from clusterpaths.evaluation.scores import OODScores, Seen
from clusterpaths.evaluation.split import Split
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.metrics.agreement import path_agreement
from clusterpaths.metrics.detection import auroc, bootstrap_detection, fpr95
from clusterpaths.metrics.intervals import bootstrap_mean
from clusterpaths.models.outputs import decide, join_decisions
from clusterpaths.models.products import Products, Values
from clusterpaths.models.rounded import RoundedSession
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import CacheDtype, ModelOutputs, Tap
from clusterpaths.sets.published import PublishedSet

BATCH = 32
MAX_OOD = 300  # OOD images of each kind
# Taps beside the set's own, on the same tensors. A layer's name holds no space.
REFITTED, FEATURES = "refitted ", "projected features"


@dataclass(frozen=True)
class Work:
    """Images to run, changed on the way; `stream` numbers the random numbers of the change."""

    images: perturb.Images
    change: perturb.Perturbation | None = None
    stream: int = 0


class Probe:
    """Runs the model on images. A context manager: its threads end with it.

    Args:
        published: the set.
        job: that filled its cache; activations are rounded as there.
        split: with the statistics of the fit examples.
        seed: of noise, OOD images and intervals.
        outputs: what the model's output rows mean.
        workers: threads.
    """

    def __init__(
        self, published: PublishedSet, job: ExtractionJob, split: Split, seed: int, outputs: ModelOutputs, workers: int
    ) -> None:
        record = published.record
        self._record, self._job, self._split, self._seed, self._outputs_are = record, job, split, seed, outputs
        taps = {tap.layer: tap for tap in job.model.taps}
        given = published.read_centroids()
        self._dtypes: dict[str, CacheDtype] = {layer: job.dtypes[layer] for layer in record.layers}
        self._taps = [taps[layer] for layer in record.layers]
        for layer, centroids in (split.refitted or {}).items():
            self._tap_again(taps[layer], REFITTED + layer)
            given[REFITTED + layer] = centroids
        self._assigners = {name: Assigner(rows, record.distance) for name, rows in given.items()}
        self._tap_again(taps[record.layers[-1]], FEATURES)
        self._centroids: dict[str, Values] = {name: one.compared for name, one in self._assigners.items()}
        self._centroids[FEATURES] = split.features.projection.T
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="evaluate")
        model = job.model.model_copy(update={"taps": tuple(self._taps)})
        self._session = RoundedSession(model, self._dtypes, self._centroids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _tap_again(self, tap: Tap, name: str) -> None:
        self._taps.append(tap.model_copy(update={"layer": name}))
        self._dtypes[name] = self._dtypes[tap.layer]

    def read(
        self, published: PublishedSet, wanted: NDArray[np.int64], notes: list[str]
    ) -> tuple[NDArray[np.int64], perturb.Images]:
        """Those of the wanted positions in the set whose images can be read, and the images."""
        dataset, preprocessing = open_dataset(self._job.dataset), self._job.preprocessing

        def read(file: str) -> NDArray[np.uint8] | None:
            try:
                return fit(dataset.read_image(file), preprocessing)
            except OSError:
                return None

        found = list(self._pool.map(read, published.files.take(pa.array(wanted)).to_pylist()))
        pixels = [image for image in found if image is not None]
        if len(pixels) < len(wanted):
            notes.append(f"{len(wanted) - len(pixels)} of {len(wanted)} images could not be read and are left out.")
        readable = np.array([image is not None for image in found], bool)
        return wanted[readable], np.array(pixels, np.uint8).reshape(len(pixels), *preprocessing.size, 3)

    def run(self, works: Sequence[Work]) -> list[Seen]:
        """In batches; changed images are held for one batch only."""
        batches = [[(work, start) for start in range(0, len(work.images), BATCH)] for work in works]
        parts = self._pool.map(self._run_batch, *zip(*(batch for one in batches for batch in one), strict=True))
        return [_joined([next(parts) for _ in one]) for one in batches]

    def _run_batch(self, work: Work, start: int) -> Seen:
        images = work.images[start : start + BATCH]
        if work.change is not None:
            images = work.change(images, np.random.default_rng([self._seed, 4, work.stream, start]))
        out = self._session.run(normalise(images, self._job.preprocessing))
        layers = self._record.layers
        labels = {name: one.assign([out.products[name]]) for name, one in self._assigners.items()}
        names = [layer if self._split.refitted is None else REFITTED + layer for layer in layers]
        measured = [labels[name] for name in names]
        graded = [self._assigners[name].distances(out.products[name]) for name in names[-GRADED_LAYERS:]]
        return Seen(
            np.stack([labels[layer].labels for layer in layers], axis=1),
            np.stack([one.labels for one in measured], axis=1),
            np.stack([one.distances for one in measured], axis=1),
            np.hstack(graded),
            _with_centroids(out.products[FEATURES]),
            decide(self._outputs_are, np.empty((len(images), 0)) if out.logits is None else out.logits),
        )

    def perturbed(self, clean: Seen, images: perturb.Images) -> tuple[Perturbed, ...]:
        """Path agreement under each perturbation of these images, which unchanged are `clean`."""
        changes = perturb.PERTURBATIONS
        found = []
        works = [Work(images, change, stream) for stream, change in enumerate(changes.values())]
        for name, seen in zip(changes, self.run(works), strict=True):
            unchanged, layers = path_agreement(clean.published, seen.published)
            same = None
            if self._outputs_are.predicts:
                same = self._measured(clean.decisions.predictions == seen.decisions.predictions)
            found.append(
                Perturbed(name=name, paths=self._measured(unchanged), layers=self._measured(layers), predictions=same)
            )
        return tuple(found)

    def _measured(self, values: NDArray[np.bool_] | NDArray[np.float64]) -> Measure:
        return measured(values, self._seed)

    def ood_images(self, images: perturb.Images) -> dict[str, Future[perturb.OODImages]]:
        """OOD images of each kind, as many as these or 300; made while other images run."""
        count, size = min(MAX_OOD, len(images)), self._job.preprocessing.size
        crops_rng, noise_rng, draw_rng = np.random.default_rng([self._seed, 5]).spawn(3)
        # at random: ids may be in the order of classes
        drawn = np.sort(draw_rng.choice(len(images), count, replace=False))
        makers: dict[str, Callable[[], perturb.OODImages]] = {
            "crops of photographs": lambda: perturb.photo_crops(count, size, crops_rng),
            "upside-down examples": lambda: perturb.OODImages(perturb.upside_down(images[drawn])),
            "uniform noise": lambda: perturb.OODImages(perturb.uniform_noise(count, size, noise_rng)),
        }
        root = Path(self._job.dataset.root)
        if not any((folder / "faces.json").is_file() for folder in (root, root / "celeba")):  # the sample itself
            makers["drawn faces"] = lambda: perturb.OODImages(perturb.drawn_faces(count, size, self._seed))
        return {name: self._pool.submit(make) for name, make in makers.items()}

    def ood_detection(
        self,
        clean: Seen,
        made: Mapping[str, Future[perturb.OODImages]],
        more: Mapping[str, perturb.OODImages],
        scores: OODScores,
    ) -> tuple[OODDetection, ...]:
        """How well each score separates OOD images from the set's own, which are `clean`."""
        others = {name: future.result() for name, future in made.items()} | dict(more)
        own, *found = [scores.of(one) for one in (clean, *self.run([Work(one.images) for one in others.values()]))]
        return tuple(
            OODDetection(
                name=name,
                num_images=len(one.images),
                num_sources=None if one.sources is None else len(np.unique(one.sources)),
                scores=tuple(
                    self._detect(score, own[score], theirs[score], one.sources) for score in own if score in theirs
                ),
            )
            for (name, one), theirs in zip(others.items(), found, strict=True)
        )

    def _detect(
        self, score: str, own: NDArray[np.float64], others: NDArray[np.float64], sources: NDArray[np.int64] | None
    ) -> Detection:
        area, rate = auroc(own, others), fpr95(own, others)
        areas, rates = bootstrap_detection(own, others, self._seed, sources)
        n = len(own) + len(others)
        return Detection(
            score=score,
            auroc=Measure(value=area, low=areas[0], high=areas[1], n=n),
            fpr95=Measure(value=rate, low=rates[0], high=rates[1], n=n),
        )


def measured(values: NDArray[np.bool_] | NDArray[np.float64], seed: int) -> Measure:
    """The mean of n > 0 values, and its interval."""
    low, high = bootstrap_mean(values, seed)
    return Measure(value=float(values.mean()), low=low, high=high, n=len(values))


def _joined(parts: Sequence[Seen]) -> Seen:
    return Seen(
        np.concatenate([part.published for part in parts]),
        np.concatenate([part.clusters for part in parts]),
        np.concatenate([part.distances for part in parts]),
        np.concatenate([part.graded for part in parts]),
        np.concatenate([part.features for part in parts]),
        join_decisions([part.decisions for part in parts]),
    )


def _with_centroids(products: Products) -> NDArray[np.float32]:
    assert products.with_centroids is not None
    return products.with_centroids.astype(np.float32, copy=False)

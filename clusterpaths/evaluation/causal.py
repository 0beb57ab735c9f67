"""Interventions: does the path carry the decision? The model is cut at a layer, other values go in, and it decides again.

Belongs here: which values are put in, and what share of decisions follows. The shifts are `shifts.py`, the cut
model is `models/tail.py`, the records are in `record.py`.

Steering adds the difference of two cluster means to an example's values, as activation addition does with the difference of two
means in language models (Turner et al., arXiv 2308.10248; Zou et al., arXiv 2310.01405); patching (Meng et al., arXiv 2202.05262;
Geiger et al., arXiv 2106.02997) puts in what another example has there. Necessity replaces a layer's values by a mean, as mean
ablation does (Wang et al., arXiv 2211.00593), here by that of the cluster: all but the cluster is forgotten.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.fit_sample import SAMPLE_ROWS, draw_ids
from clusterpaths.cache.rows import LayerRows
from clusterpaths.evaluation import perturb
from clusterpaths.evaluation.means import LayerMeans
from clusterpaths.evaluation.probe import measured
from clusterpaths.evaluation.record import Measure, Necessity, Steering
from clusterpaths.evaluation.shifts import GroupMeans, Groups, Rows, choose_targets, random_direction, shifted
from clusterpaths.evaluation.split import Split, with_activations
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models.live import Session, Tail, open_session, open_tail
from clusterpaths.models.outputs import decide
from clusterpaths.models.tail import RAW, weights_size, whole, why_uncuttable
from clusterpaths.preprocessing.prepare import normalise
from clusterpaths.records import ModelOutputs, ModelRecord, SetRecord, Tap
from clusterpaths.sets.columns import Classes
from clusterpaths.sets.published import PublishedSet

BATCH = 16  # examples; a layer of theirs is held in float32 a few times
MAX_EXAMPLES = 300
MAX_TARGETS = 7  # other clusters of an example: all where k is 8 or less
MAX_DONORS, MIN_DONORS = 64, 4  # fit examples of each cluster, whose values are patched in
MAX_RUNS = 25_000  # of parts of a model, for `EVALUATION_IMAGES`; of a large one a third
LARGE_MODEL = 20 << 20  # bytes of weights
MAX_DONOR_BYTES = 256 << 20
STREAM = 7  # of random numbers


@dataclass(frozen=True)
class Interventions:
    """What was found, one entry per layer that the model can be cut at; and notes on what is left out."""

    steering: tuple[Steering, ...]
    necessity: tuple[Necessity, ...]
    means: dict[str, LayerMeans]  # of the published clusters
    notes: tuple[str, ...]


def measure_interventions(
    published: PublishedSet,
    job: ExtractionJob,
    split: Split,
    positions: NDArray[np.int64],
    images: perturb.Images,
    predictions: Classes,
    outputs: ModelOutputs,
    seed: int,
    workers: int,
    say: Callable[[str], None] = lambda _: None,
) -> Interventions:
    """Steering and necessity of every layer.

    Args:
        published: the set.
        job: that filled its cache.
        split: with the clustering that is measured.
        positions: (m,) of held-out examples in the set.
        images: (m, height, width, 3) of them.
        predictions: (n,) of all the set's examples.
        outputs: what the model's output rows mean.
        seed: of random directions, donors and targets, and of the intervals.
        workers: threads; the result does not depend on them.
        say: told beforehand how long it will take about, if the model is large.

    Raises:
        CacheError, CorruptedShardError: the cache does not hold the fit examples' activations.
    """
    record, notes = published.record, list[str]()
    taps = {tap.layer: tap for tap in job.model.taps}
    cuttable = []
    for layer in record.layers:
        if reason := why_uncuttable(job.model, taps[layer]):
            notes.append(f"The model is not cut at {layer}: {reason}.")
        else:
            cuttable.append(layer)
    count = examples_for(job, [record.k_per_layer[layer] for layer in cuttable])
    chosen = np.searchsorted(published.ids[positions], draw_ids(published.ids[positions], count))
    if 0 < len(chosen) < min(len(positions), MAX_EXAMPLES):
        notes.append(
            f"Interventions are made on {len(chosen)} held-out examples: the model is large or has many layers."
        )
    if len(chosen) and cuttable and _is_large(job.model):
        say(
            _about(
                job,
                normalise(images[chosen[:BATCH]], job.preprocessing),
                len(chosen),
                cuttable,
                published.record,
                workers,
            )
        )
    steering, necessity, means = list[Steering](), list[Necessity](), dict[str, LayerMeans]()
    for layer in cuttable if len(chosen) else ():
        with _Layer(published, job, split, layer, positions[chosen], predictions, outputs, seed) as cut:
            found = cut.ask(images[chosen], workers)
        bypassed, means[layer] = cut.bypassed, cut.published
        if found.targets.shape[1]:
            steering.append(_steering(layer, found, bypassed, seed))
        else:
            notes.append(f"All examples of {layer} are in one cluster: no other one to steer to.")
        kept = [measured(one == found.before, seed) for one in (found.own_mean, found.onwards, found.mean)]
        necessity.append(Necessity(layer=layer, cluster=kept[0], onwards=kept[1], mean=kept[2], bypassed=bypassed))
    return Interventions(tuple(steering), tuple(necessity), means, tuple(notes))


def examples_for(job: ExtractionJob, ks: list[int]) -> int:
    """How many examples: at most `MAX_EXAMPLES`, at least 30, and of large models so many that it takes bounded time.

    Args:
        job: with the model.
        ks: clusters of each layer that the model is cut at.
    """
    runs = sum(map(_runs, ks))
    budget = MAX_RUNS // 3 if _is_large(job.model) else MAX_RUNS
    if not job.model.path:
        budget //= 4  # all of a live model runs, not the part behind a layer
    return int(np.clip(budget // max(runs, 1), 30, MAX_EXAMPLES))


def _is_large(model: ModelRecord) -> bool:
    return not model.path or weights_size(model) > LARGE_MODEL


def _runs(k: int) -> int:
    """Of the part of a model behind a layer with k clusters, for each example."""
    return 3 * min(max(k - 1, 0), MAX_TARGETS) + 3


def _about(
    job: ExtractionJob, images: NDArray[np.float32], count: int, layers: list[str], record: SetRecord, workers: int
) -> str:
    """How long it will take, from the time of one batch: a part of the model takes half of it on average."""
    session = open_session(job.model.model_copy(update={"taps": ()}))
    session.run(images[:1])  # the first run allocates
    begun = time.perf_counter()
    session.run(images)
    each = (time.perf_counter() - begun) / len(images)
    runs = sum(_runs(record.k_per_layer[layer]) for layer in layers)
    seconds = each * count * (len(layers) + runs / 2) / workers
    about = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    return (
        f"Interventions: {count} examples, {len(layers)} layers, {count * runs:,} runs of parts of the model, about {about}; "
        "--no-causal leaves them out."
    )


@dataclass(frozen=True)
class _Decisions:
    """(m,) or (m, t) predicted classes of m examples, with t targets each."""

    targets: NDArray[np.int64]  # the decision of most of the target cluster
    before: NDArray[np.int64]
    steered: NDArray[np.int64]
    random: NDArray[np.int64]
    patched: NDArray[np.int64]
    own_mean: NDArray[np.int64]
    onwards: NDArray[np.int64]
    mean: NDArray[np.int64]


def _steering(layer: str, found: _Decisions, bypassed: bool, seed: int) -> Steering:
    def becomes(decisions: NDArray[np.int64]) -> Measure:
        return measured(((decisions == found.targets) & (found.targets >= 0)).mean(axis=1), seed)

    return Steering(
        layer=layer,
        steered=becomes(found.steered),
        random=becomes(found.random),
        patched=becomes(found.patched),
        before=becomes(found.before[:, None]),
        changed=measured((found.steered != found.before[:, None]).mean(axis=1), seed),
        changed_randomly=measured((found.random != found.before[:, None]).mean(axis=1), seed),
        targets=found.targets.shape[1],
        bypassed=bypassed,
    )


class _Layer:
    """One layer's clusters, and the model cut there. A context manager: its sessions end with it."""

    def __init__(
        self,
        published: PublishedSet,
        job: ExtractionJob,
        split: Split,
        layer: str,
        positions: NDArray[np.int64],
        predictions: Classes,
        outputs: ModelOutputs,
        seed: int,
    ) -> None:
        record = published.record
        self._job, self._outputs, self._seed = job, outputs, seed
        self._at = record.layers.index(layer)
        self._tap: Tap = next(tap for tap in job.model.taps if tap.layer == layer)
        held = split.held_out.clusters[np.searchsorted(split.held_out.positions, positions)]
        self._own = held[:, self._at].astype(np.int64)  # (m,)
        k = record.k_per_layer[layer]
        self._majority = _majorities(split.fit.clusters[:, self._at], predictions[split.fit.positions], k)
        own = published.clusters[split.fit.positions, self._at]  # where the set was clustered again, other clusters
        ends, self._end = np.unique(held[:, self._at :], axis=0, return_inverse=True)
        ids = published.ids[split.fit.positions]
        rows = np.searchsorted(ids, draw_ids(ids[with_activations(job.storage, ids)], SAMPLE_ROWS))
        fit = split.fit.clusters[rows]
        members = np.hstack(
            [
                fit[:, self._at, None] == np.arange(k),
                np.ones((len(fit), 1), bool),
                (fit[:, None, self._at :] == ends[None]).all(axis=2),
                own[rows, None] == np.arange(k),
            ]
        )
        rng = np.random.default_rng([seed, STREAM, self._at])
        stored = LayerRows(job.storage, layer, ids[rows])
        count = int(np.clip(MAX_DONOR_BYTES // (4 * k * stored.width), MIN_DONORS, MAX_DONORS))
        donors = _donors(fit[:, self._at], k, count, rng)  # (k, count) rows of fit
        means, self._donors = GroupMeans(members, stored.width), np.empty((*donors.shape, stored.width), np.float32)
        for where, block in stored.blocks():
            means.add(where, block)
            at = np.arange(len(fit))[where]
            for cluster, place in np.argwhere(np.isin(donors, at)):
                self._donors[cluster, place] = block[np.searchsorted(at, donors[cluster, place])]
        groups = means.groups()
        self._low = groups.low
        self._clusters = Groups(groups.means[:k], groups.counts[:k], groups.low)
        self._mean, self._ends = groups.means[k], groups.means[k + 1 : k + 1 + len(ends)]
        self.published = LayerMeans(groups.means[k + 1 + len(ends) :], groups.low)
        self._local = threading.local()
        self.bypassed = bool(job.model.path) and open_tail(job.model, self._tap).needs_images

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._local = threading.local()

    def ask(self, images: perturb.Images, workers: int) -> _Decisions:
        """The decisions on all examples' images (m, height, width, 3)."""
        starts = range(0, len(images), BATCH)
        with ThreadPoolExecutor(workers, thread_name_prefix="interventions") as pool:
            parts = list(pool.map(lambda start: self._ask(images[start : start + BATCH], start), starts))
        return _Decisions(*(np.concatenate(one) for one in zip(*map(_fields, parts), strict=True)))

    def _ask(self, pixels: perturb.Images, start: int) -> _Decisions:
        head, tail = self._sessions()
        images = normalise(pixels, self._job.preprocessing)
        out = head.run(images)
        values = out.layers[RAW + self._tap.layer]
        rows: Rows = out.layers[self._tap.layer].reshape(len(pixels), -1)
        rng = np.random.default_rng([self._seed, STREAM, self._at, start])
        own = self._own[start : start + len(pixels)]
        targets = choose_targets(own, self._clusters.counts, MAX_TARGETS, rng)

        def after(by: Rows) -> NDArray[np.int64]:
            scores = tail.run(shifted(values, by, self._tap, self._low), images).logits
            assert scores is not None
            return decide(self._outputs, scores).predictions

        def known(mean: Rows, instead: Rows) -> Rows:
            return np.where(np.isnan(mean), instead, mean)

        own_mean = known(self._clusters.means[own], rows)
        steered, random, patched = list[NDArray[np.int64]](), list[NDArray[np.int64]](), list[NDArray[np.int64]]()
        for target in targets.T:
            by = self._clusters.means[target] - own_mean
            steered.append(after(by))
            random.append(after(random_direction(by, rng)))
            patched.append(after(self._donors[target, rng.integers(self._donors.shape[1], size=len(target))] - rows))
        assert out.logits is not None
        return _Decisions(
            targets=self._majority[targets],
            before=decide(self._outputs, out.logits).predictions,
            steered=_columns(steered, len(pixels)),
            random=_columns(random, len(pixels)),
            patched=_columns(patched, len(pixels)),
            own_mean=after(own_mean - rows),
            onwards=after(known(self._ends[self._end[start : start + len(pixels)]], own_mean) - rows),
            mean=after(self._mean - rows),
        )

    def _sessions(self) -> tuple[Session, Tail]:
        """This thread's."""
        if not hasattr(self._local, "sessions"):
            model = self._job.model.model_copy(update={"taps": (self._tap, whole(self._tap))})
            self._local.sessions = open_session(model), open_tail(model, self._tap)
        sessions: tuple[Session, Tail] = self._local.sessions
        return sessions


def _majorities(clusters: NDArray[np.int16], predictions: Classes, k: int) -> NDArray[np.int64]:
    """(k,) the decision of most examples in each cluster; -1 where there are none."""
    result = np.full(k, -1, np.int64)
    for cluster in range(k):
        known = predictions[(clusters == cluster) & (predictions >= 0)]
        if len(known):
            result[cluster] = np.bincount(known).argmax()
    return result


def _donors(clusters: NDArray[np.int16], k: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(k, count) rows of each cluster, some of them more than once where it has fewer; -1 where it has none."""
    result = np.full((k, count), -1, np.int64)
    for cluster in range(k):
        rows = np.flatnonzero(clusters == cluster)
        if len(rows):
            result[cluster] = np.resize(rng.permutation(rows), count)
    return result


def _columns(parts: list[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    return np.stack(parts, axis=1) if parts else np.empty((count, 0), np.int64)


def _fields(one: _Decisions) -> tuple[NDArray[np.int64], ...]:
    return tuple(getattr(one, field.name) for field in fields(one))

"""The stages of many pieces: shards and layers, run concurrently and, after a corrupted shard or an overflow, again.

Belongs here: which pieces there are to run. Each is recorded on disk when it is done, so running a stage again runs only what
is missing: after damage as after a crash.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np

from clusterpaths.cache.extracted import ExtractionRecord
from clusterpaths.cache.manifest import SAMPLE, ShardRecord, as_planned
from clusterpaths.clustering.assign import FitRecord, assigned
from clusterpaths.clustering.fit import forget_fits
from clusterpaths.clustering.identity import FitIdentity, identify_fits
from clusterpaths.common.malloc import return_memory
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, CorruptedShardError, Float16OverflowError
from clusterpaths.extraction.begin import mark_missing, widen_layers
from clusterpaths.extraction.finish import finish_extraction, require_few_failures
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.plan import ExtractionPlan
from clusterpaths.extraction.sample import plan_sample, whole_shards
from clusterpaths.extraction.sessions import release_sessions
from clusterpaths.records import ModelRecord
from clusterpaths.running import stages
from clusterpaths.running.progress import Tracker
from clusterpaths.running.report import Report
from clusterpaths.running.runner import Future, Runner, run_pieces
from clusterpaths.running.timer import StageTimer

log = logging.getLogger(__name__)
Result = TypeVar("Result")
_ShardCall = tuple[Callable[..., ShardRecord], ShardRecord, tuple[FitRecord, ...], ShardRecord | None]
FIT_READINGS = 4  # of a layer's sample, about: for progress


class Pieces:
    """The shards of a planned extraction, and the layers of its clustering.

    Args:
        plan: what is there and what is to be extracted.
        job: settings.
        runner: runs the pieces.
        report: shows their progress.
        timer: measures the stages.
    """

    def __init__(
        self, plan: ExtractionPlan, job: ExtractionJob, runner: Runner, report: Report, timer: StageTimer
    ) -> None:
        self.job = job
        self._plan, self._runner, self._report, self._timer = plan, runner, report, timer
        self._directory = job.storage
        self._ids, self._sample = plan.example_ids(), plan.sample_ids()
        self._shards = {shard.index: shard for shard in plan.shards_of(self._ids)}
        self._repaired: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every shard is extracted."""
        return all(shard.rows is not None for shard in self._shards.values())

    def sample(self) -> ExtractionRecord:
        """Extract the examples that layers are fitted on, where they are not in the cache."""
        return self._until_sound(self._extract_sample)

    def on_sample(self, stage: Callable[..., Result], *args: object) -> Result:
        """The result of a stage that reads activations of the sample."""

        def work() -> Result:
            self._extract_sample()
            self._keep_sample()
            return self._runner.run(stage, *args)

        return self._until_sound(work)

    def cluster(
        self, config: RunConfig, model: ModelRecord
    ) -> tuple[FitIdentity, tuple[FitRecord, ...], ExtractionRecord]:
        """Fit every layer on the sample; then extract all other examples, and assign all, in one pass."""

        def work() -> tuple[FitIdentity, tuple[FitRecord, ...], ExtractionRecord]:
            sample = self._extract_sample()
            self._keep_sample()
            identity = identify_fits(config, model, sample)
            fits = self._fit(sample, identity)
            return identity, fits, self._assign(fits)

        return self._until_sound(work)

    def extraction(self) -> ExtractionRecord:
        """The record of a complete extraction."""
        return finish_extraction(self._directory, self._ids, self.job.max_failed)

    def release_sample(self) -> None:
        """Remove the activations that a cache of images had while it was clustered and evaluated."""
        if self.job.cache.format == "none":
            (self._directory / SAMPLE).remove_tree()

    def _extract_sample(self) -> ExtractionRecord:
        pending = [shard for shard in self._of_sample() if shard.rows is None]
        if pending:
            parts = plan_sample(self._directory, self._sample) if self.job.cache.format == "none" else {}
            with self._timer("extract") as did:
                did.images = _examples(pending)
                did.detail = f"{did.images:,} examples"
                self._run_shards([(stages.extract_shard, s, (), parts.get(s.index)) for s in pending], "extract")
        return finish_extraction(self._directory, self._sample, self.job.max_failed)

    def _keep_sample(self) -> None:
        """A cache without activations: the model runs again on the sample, unless its activations are there."""
        if self.job.cache.format != "none":
            return
        parts = plan_sample(self._directory, self._sample)
        missing = [shard for shard in self._of_sample() if parts[shard.index].rows is None]
        if missing:
            with self._timer("extract") as did:
                did.images = _examples(parts[shard.index] for shard in missing)
                did.detail = f"{did.images:,} examples of the sample again"
                self._run_shards([(stages.run_again, s, (), parts[s.index]) for s in missing], "run again")

    def _of_sample(self) -> list[ShardRecord]:
        return [shard for shard in self._shards.values() if shard.planned_among(self._sample).any()]

    def _fit(self, sample: ExtractionRecord, identity: FitIdentity) -> tuple[FitRecord, ...]:
        """One piece per layer."""
        widths = {layer: int(np.prod(record.shape)) for layer, record in identity.layers.items()}
        ids = sample.example_ids()
        sizes = {layer: FIT_READINGS * len(identity.fit_ids(layer, ids)) * width for layer, width in widths.items()}
        calls = {layer: self._call(stages.fit_layer, sample, identity, layer, name=f"fit {layer}") for layer in widths}
        with (
            self._timer("fit") as did,
            self._report.progress("fitting", self.job.directory, sizes, len(ids)) as progress,
        ):
            found = self._run(calls, progress.finish)
            self._runner.everywhere(return_memory)
            did.detail = f"on {max(fit.num_fitted for fit in found.values()):,} examples"
        return tuple(found[layer] for layer in widths)

    def _assign(self, fits: tuple[FitRecord, ...]) -> ExtractionRecord:
        """One piece per shard: those not in the cache are extracted and assigned, the others assigned from the cache."""
        recorded = [shard for shard in self._shards.values() if shard.rows is not None]
        done = set.intersection(*(assigned(self._directory, fit, recorded) for fit in fits))
        stored = whole_shards(self._directory, recorded) if self.job.cache.format == "none" else {}
        pending = [shard for shard in self._shards.values() if shard.rows is None]
        unassigned = [shard for shard in recorded if shard.index not in done]
        if pending or unassigned:
            new, old = _examples(pending), _examples(unassigned)
            with self._timer("assign") as did:
                did.images, did.detail = new + old, f"{new + old:,} examples, {new:,} of them extracted"
                self._run_shards(
                    [
                        *((stages.extract_shard, shard, fits, None) for shard in pending),
                        *((stages.assign_shard, shard, fits, stored.get(shard.index)) for shard in unassigned),
                    ],
                    "assign",
                )
        return self.extraction()

    def _run_shards(self, calls: Sequence[_ShardCall], verb: str) -> None:
        """Raises:
        CorruptedShardError, Float16OverflowError: then not all shards are done.
        ExtractionError: too many images of the run cannot be read; no further shard is begun.
        """
        sizes = {str(shard.index): len(shard.planned_ids()) for _, shard, _, _ in calls}
        pieces = {
            str(shard.index): self._call(stage, self.job, shard, fits, part, name=f"{verb} shard {number}/{len(calls)}")
            for number, (stage, shard, fits, part) in enumerate(calls, start=1)
        }

        failures = sum(len(shard.failed) for shard in self._shards.values())

        def recorded(record: ShardRecord) -> None:
            nonlocal failures  # counted on: of a million shards, a sum for each would take hours
            failures += len(record.failed) - len(self._shards[record.index].failed)
            self._shards[record.index] = record
            if failures > self.job.max_failed:
                require_few_failures(self._shards.values(), self._ids, self.job.max_failed)

        with self._shards_progress(sizes) as progress:
            try:
                self._run(pieces, progress.finish, recorded)
            finally:
                self._runner.everywhere(release_sessions)

    def _shards_progress(self, sizes: dict[str, int]) -> AbstractContextManager[Tracker]:
        return self._report.progress("extraction", self.job.directory, sizes, sum(sizes.values()))

    def _run(
        self,
        calls: Mapping[str, Callable[[], Future[Result]]],
        finished: Callable[[str], None],
        take: Callable[[Result], None] | None = None,
    ) -> dict[str, Result]:
        """Results of the pieces, which `take` takes instead where it is given; all started pieces have ended.

        Raises:
            CorruptedShardError: a piece found one; all that were found are to be extracted again.
        """
        results: dict[str, Result] = {}
        corrupted: list[CorruptedShardError] = []

        def ended(key: str, future: Future[Result]) -> None:
            finished(key)
            try:
                result = future.result()
            except CorruptedShardError as damage:
                corrupted.append(damage)
                return
            if take:
                take(result)
            else:
                results[key] = result

        run_pieces(self._runner, calls, ended)
        for damage in corrupted[1:]:
            self._forget(damage)
        if corrupted:
            raise corrupted[0]
        return results

    def _call(self, stage: Callable[..., Result], *args: object, name: str) -> Callable[[], Future[Result]]:
        return lambda: self._runner.submit(stage, *args, name=name)

    def _until_sound(self, work: Callable[[], Result]) -> Result:
        """Repeat `work`, which does what is missing, until it finds no corrupted shard, and no layer exceeds float16."""
        while True:
            try:
                return work()
            except CorruptedShardError as damage:
                self._forget(damage)
            except Float16OverflowError as overflow:
                self._widen(overflow.layers)

    def _forget(self, damage: CorruptedShardError) -> None:
        """A corrupted shard is to be extracted again, at most once; fits that may have been made of it are made again.

        Raises:
            CacheError: it was extracted again already.
        """
        if self.job.cache.format == "arrays":
            raise CacheError(
                f"Activations of {self.job.directory} are not those that were checked: {damage} Something changed the files "
                "meanwhile. Run again."
            )
        log.warning(str(damage))
        if self.job.dataset.name == "collected":  # only its caller has the loader
            mark_missing(self._directory, damage.shard)
            forget_fits(self._directory)
            raise damage
        if damage.shard in self._repaired:
            raise CacheError(
                f"Shard {damage.shard} of {self.job.directory} was corrupted, extracted again, and "
                "is corrupted again. The disk does not return what was written. Check it, or use another --cache-root."
            )
        self._repaired.add(damage.shard)
        shard = self._shards[damage.shard]
        mark_missing(self._directory, damage.shard)
        self._shards[damage.shard] = as_planned(shard)
        if shard.planned_among(self._sample).any():
            forget_fits(self._directory)

    def _widen(self, layers: list[str]) -> None:
        log.warning(
            "%s: values that float16 cannot hold, stored as float32; all shards are extracted again", ", ".join(layers)
        )
        manifest = widen_layers(self._directory, layers)
        self.job = self.job.model_copy(update={"cache": manifest.identity})
        self._shards = {shard.index: shard for shard in manifest.shards if shard.index in self._shards}


def _examples(shards: Iterable[ShardRecord]) -> int:
    """How many examples these shards were planned for."""
    return sum(len(shard.planned_ids()) for shard in shards)

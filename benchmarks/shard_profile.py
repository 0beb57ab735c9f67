"""Where each core-millisecond of the one pass goes: CPU time of a fused shard, by what it was spent on.

A complete run in this process with one worker, on few images and a small sample. Decoding is done by the worker itself, so that
all is in one thread, and functions are wrapped in a clock of CPU time: each is charged with its own time only, so that the parts
add up to the total. The fastest of the fused shards counts; the first one, which creates the session, is left out.
The session's time is split into the model, its taps and the assignment by running three sessions in turns afterwards: without
taps, with taps, and with assignment in the graph.

    python benchmarks/shard_profile.py                        two minutes; prints a table
    python benchmarks/shard_profile.py --formats zarr --images 2560
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cyclopts
import numpy as np
import xxhash
from celeba import FORMATS, Words
from machine import Material, describe_machine, head, median, prepare
from models import take_turns
from stages import config_of, fitting_on
from tapping import plain_session

from clusterpaths import pipeline
from clusterpaths.clustering.assign import FitRecord, assigner_of
from clusterpaths.datasets import Dataset, ExampleTable
from clusterpaths.datasets.celeba import CelebA
from clusterpaths.extraction import decode, extract, writer
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models.session import TapSession
from clusterpaths.records import Preprocessing
from clusterpaths.running.runner import InProcess

SESSION, REST = "session", "rest"
PARTS = ("digest", "decode", "resize", "normalise", "model", "taps", "assignment", "hashing", "writing", REST)


class Clock:
    """CPU time of this process, charged to the innermost part that is entered.

    Attributes:
        seconds: of each part; they add up to the total.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [REST]
        self._last = time.process_time()  # of all threads: zarr compresses in threads of its own

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._inside[-1]] += now - self._last
        self._last = now

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """Charge to this part."""
        self._charge()
        self._inside.append(part)
        try:
            yield
        finally:
            self._charge()
            self._inside.pop()

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, charged to this part."""

        def call(*args: Any, **more: Any) -> Any:
            with self.inside(part):
                return function(*args, **more)

        return call

    def taken(self) -> dict[str, float]:
        """What was spent since the last call."""
        self._charge()
        spent, self.seconds = dict(self.seconds), defaultdict(float)
        return spent


class _Hash:
    """xxh3_64 whose updates are charged to hashing."""

    def __init__(self, clock: Clock) -> None:
        self._hash = xxhash.xxh3_64()
        self.update = clock.wrapped("hashing", self._hash.update)
        self.hexdigest = self._hash.hexdigest


@contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Charge the functions of a shard's way to their parts; decode in the calling thread."""

    def decode_here(dataset: Dataset, table: ExampleTable, preprocessing: Preprocessing, size: int) -> Iterator[Any]:
        for start in range(0, len(table), size):
            yield decode._decode(dataset, table, start, min(start + size, len(table)), preprocessing)

    functions: Sequence[tuple[str, Any, str]] = (
        ("digest", CelebA, "digest"),
        ("decode", CelebA, "read_image"),
        ("resize", decode, "fit"),
        ("normalise", decode, "normalise"),
        (SESSION, TapSession, "run"),
        ("writing", writer.ShardWriter, "add"),
        ("writing", writer.ShardWriter, "finish"),
        ("assignment", writer.ShardLabels, "add"),
        ("assignment", writer.ShardLabels, "write"),
    )
    with ExitStack() as patches:
        for part, owner, name in functions:
            patches.enter_context(mock.patch.object(owner, name, clock.wrapped(part, getattr(owner, name))))
        patches.enter_context(mock.patch.object(extract, "decode_batches", decode_here))
        patches.enter_context(mock.patch.object(writer, "xxhash", SimpleNamespace(xxh3_64=lambda: _Hash(clock))))
        yield


class ProfilingRunner(InProcess):
    """One worker, and the CPU time of fused shards.

    Attributes:
        shards: images of each, and seconds by part.
        settings: the job and the fits of the last one.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(1)
        self.shards: list[tuple[int, dict[str, float]]] = []
        self.settings: tuple[ExtractionJob, tuple[FitRecord, ...]] | None = None
        self._clock = clock

    def submit(self, stage: Callable[..., Any], *args: Any, name: str = "") -> Any:
        def profiled() -> Any:
            self._clock.taken()
            record = stage(*args)
            self.shards.append((len(args[1].planned_ids()), self._clock.taken()))
            self.settings = args[0], args[2]
            return record

        fused = stage.__name__ == "extract_shard" and args[2]
        return super().submit(profiled, name=name) if fused else super().submit(stage, *args, name=name)


def measure(material: Material, images: int, cache_format: str, rounds: int = 15) -> dict[str, float]:
    """CPU milliseconds per image of a fused shard, by part."""
    config = config_of(material, images, f"profile-{cache_format}", cache_format=cache_format, evaluate=False)
    clock = Clock()
    runner = ProfilingRunner(clock)
    with fitting_on(images // 5), clocked(clock):
        pipeline.run(config, runner)
    if runner.settings is None:
        raise RuntimeError("no shard was extracted and assigned at once")
    largest = max(size for size, _ in runner.shards)
    full = [spent for size, spent in runner.shards[1:] if size == largest]
    spent = {part: 1000 * seconds / largest for part, seconds in min(full, key=lambda each: sum(each.values())).items()}
    session, shares = spent.pop(SESSION), shares_of(*runner.settings, rounds)
    spent |= {part: spent.get(part, 0) + session * share for part, share in shares.items()}
    config.cache_dir.remove_tree()
    return {part: spent.get(part, 0) for part in PARTS}


def shares_of(job: ExtractionJob, fits: tuple[FitRecord, ...], rounds: int) -> dict[str, float]:
    """Of the session's time: the model's, its taps' and the assignment's, from three sessions on the same batch."""
    model, keep = job.model, job.cache.format != "none"
    centroids = {fit.layer: assigner_of(job.storage, fit).centroids for fit in fits}
    plain = plain_session(Path(model.path), str(model.logits))
    tapped, fused = TapSession(model, job.dtypes), TapSession(model, job.dtypes, centroids, keep)
    batch = np.random.default_rng(0).standard_normal((job.batch_size, 3, *model.size)).astype(np.float32)
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain.run([model.logits], {model.input: batch}),
        "tapped": lambda: tapped.run(batch),
        "fused": lambda: fused.run(batch),
    }
    ms = {way: median(seconds) for way, seconds in take_turns(ways, rounds, 8).items()}
    before = ms["tapped"] if keep else ms["plain"]  # without a cache of activations they never leave the runtime
    taken = {"model": ms["plain"], "taps": before - ms["plain"], "assignment": ms["fused"] - before}
    return {part: seconds / ms["fused"] for part, seconds in taken.items()}


def table(result: dict[str, dict[str, float]]) -> str:
    """The result as Markdown."""
    lines = [f"| CPU ms per image | {' | '.join(result)} |", "|---" * (len(result) + 1) + "|"]
    lines += [f"| {part} | {' | '.join(f'{spent[part]:.3f}' for spent in result.values())} |" for part in PARTS]
    lines.append(f"| **total** | {' | '.join(f'**{sum(spent.values()):.3f}**' for spent in result.values())} |")
    return "\n".join(lines)


def main(formats: Words = FORMATS, images: int = 5120) -> None:
    """Print the table.

    Parameters
    ----------
    formats
        cache formats of the flow
    images
        of each run; a fifth of them are the sample
    """
    with tempfile.TemporaryDirectory(prefix="clusterpaths-profile-") as temporary:
        material = prepare(Path(temporary), images)
        result = {name: measure(material, images, name) for name in formats}
    print(head({"data": material.data, **describe_machine()}), table(result), sep="\n\n")


if __name__ == "__main__":
    cyclopts.run(main)

"""One collection: what the first batch shows, what is stored already, and filling in what is missing.

Belongs here: from a model and a loader to a complete cache, and the records that the stages take. The call is `collect.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.examples import ATTRIBUTE, join_parts, read_examples, read_parts
from clusterpaths.cache.fit_sample import draw_ids, fit_size
from clusterpaths.cache.manifest import (
    SHARDS,
    CacheIdentity,
    LayerRecord,
    Manifest,
    consolidate,
    format_ids,
    read_version,
    require_manifest,
    require_same,
    write_manifest,
)
from clusterpaths.cache.registry import known_examples, register, version_of, write_registry
from clusterpaths.cache.stores import open_store, size_on_disk
from clusterpaths.cache.zarr_layout import slots
from clusterpaths.clustering.identity import require_enough
from clusterpaths.config import RunConfig
from clusterpaths.datasets import clear_caches, open_dataset
from clusterpaths.datasets.activations import COLLECTED, PIXELS, write_shown
from clusterpaths.errors import CacheError, DatasetError, ExtractionError, Float16OverflowError
from clusterpaths.extraction.begin import remove_cache, widen_layers
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.plan import ExtractionPlan, check_room
from clusterpaths.models.outputs import NO_LOGITS
from clusterpaths.pipeline import Prepared
from clusterpaths.preprocessing.prepare import NO_PREPROCESSING
from clusterpaths.pytorch import examples, layers, transforms
from clusterpaths.pytorch.batches import Batch, Loader
from clusterpaths.pytorch.filling import Work, fill, labels_of
from clusterpaths.pytorch.first import Asked, describe_model, find_preprocessing, how_images_go_in
from clusterpaths.pytorch.network import Network, as_numpy
from clusterpaths.pytorch.session import Runner
from clusterpaths.pytorch.session import register as offer
from clusterpaths.pytorch.shards import example_table, plan_shards, read_known
from clusterpaths.records import DatasetSpec, ModelIdentity, ModelRecord
from clusterpaths.running.progress import Tracker

Progress = Callable[..., AbstractContextManager[Tracker]]
log = logging.getLogger(__name__)
_SOME = 8  # batches of stored examples that are read again, to see whether the loader still gives them
_PART = "collect"  # of the progress
_OTHER = 0.05  # of a layer's largest value: devices and half precision differ by less


class Collection:
    """The cache of a model's activations on a loader's examples.

    Args:
        config: names the cache.
        asked: layers, output, and so on.
        network: the model.
        loader: the examples.
        progress: shows how far it is, as `Report.progress`.
    """

    def __init__(self, config: RunConfig, asked: Asked, network: Network, loader: Loader, progress: Progress) -> None:
        self._config, self._asked, self._network = config, asked, network
        self._loader, self._progress = loader, progress
        self._directory = config.cache_dir
        self._digest = network.digest()
        self._refresh = config.refresh
        self._read: Iterator[Batch] | None = None  # all batches, of which the first was looked at
        self._files = None
        self._notes: set[str] = set()
        batches = loader.batches
        if batches is not None:
            positions = [position for batch in batches for position in batch]
            self._files = examples.find_files(loader.dataset, positions)
        if loader.left_out:
            log.warning("The loader leaves out the last %d examples (drop_last=True).", loader.left_out)

    def begin(self) -> None:
        """Look at the first batch, and compare what is wanted with what is stored."""
        first = self._first()
        self._model, self._seen = describe_model(self._network, self._digest, self._asked, self._config, first)
        self._count = len(first)
        self._prepared_as, why = find_preprocessing(self._asked, self._loader.dataset, self._files, first)
        for note in (*first.notes, why):
            self._say(note)
        self._plan(first)
        takes = how_images_go_in(self._network, self._model, first)
        if takes is not None and self._prepared_as is not NO_PREPROCESSING:
            offer(self._network, takes, self._model)

    def _first(self) -> Batch:
        if self._loader.batches is not None:
            first = next(self._loader.some([0]), None) if self._loader.batches else None
        else:
            stream = self._loader.read() if self._read is None else self._read
            first = next(stream, None)
            self._read = stream if first is None else chain([first], stream)
        if first is None:
            raise DatasetError(
                "The loader is empty: it gives no batch. Expected at least as many examples as clusters."
            )
        return first

    def _say(self, note: str) -> None:
        if note and note not in self._notes:
            self._notes.add(note)
            log.warning(note)

    def _plan(self, first: Batch) -> None:
        """The manifest to fill, written; and what is stored of it."""
        directory, config = self._directory, self._config
        directory.make()
        stored, version = read_version(directory) if not self._refresh else (None, "")
        dtype = config.cache_dtype or "float16"
        required = CacheIdentity(
            model=ModelIdentity(file=self._network.name, sha256=self._digest),
            layers={
                tap.layer: LayerRecord(tensor=tap.identity, shape=tap.shape, dtype=dtype) for tap in self._model.taps
            },
            dataset=COLLECTED,
            preprocessing=self._prepared_as,
            dtype=dtype,
            format=config.cache_format or "npy",
            scores=self._model.outputs.name or NO_LOGITS,
        )
        if stored is not None:
            if (
                stored.dataset == COLLECTED
            ):  # it is how images are prepared for other uses; the loader's tensors are what counts
                stored = stored.model_copy(update={"preprocessing": self._prepared_as})
            require_same(
                stored,
                required,
                directory,
                format_asked=config.cache_format is not None,
                dtype_asked=config.cache_dtype is not None,
            )
            self._known, manifest = read_known(directory, stored)
            self._compare_activations(first, manifest)
        else:
            if self._refresh:
                remove_cache(directory)
                directory.remove_tree(PIXELS)
            manifest = Manifest(**dict(required))
            self._known, _ = read_known(directory, manifest)
        self._refresh = False
        sizes = [len(batch) for batch in self._loader.batches or ()]
        if self._loader.batches is not None:
            if len(self._known) > sum(sizes):
                raise self._too_few(sum(sizes))
            manifest = manifest.model_copy(update={"shards": plan_shards(manifest.shards, sizes)})
            missing = sum(sizes) - int(self._known.done.sum())
            check_room(self._extraction_plan(manifest, missing))
            if self._known.done.any():
                self._compare_some()
            elif not self._loader.once:
                self._compare_twice(first)
        write_manifest(directory, manifest, version)
        directory.remove_tree(SHARDS)
        store = open_store(directory, manifest.format, manifest.layers)
        store.reserve(max((shard.start + slots(len(shard.planned_ids())) for shard in manifest.shards), default=0))
        self._manifest = manifest

    def _compare_activations(self, first: Batch, manifest: Manifest) -> None:
        """Check that the model computes on the first batch what is stored of it: the code of a forward is not in its digest."""
        own = [shard for shard in manifest.shards if shard.rows is not None and int(shard.planned_ids()[0]) == 0]
        if not own or not np.array_equal(first.digests, self._known.digests[: len(first)]):
            return  # other inputs are reported where they are compared
        count = min(len(first), own[0].rows or 0)
        dtypes = {name: record.dtype for name, record in manifest.layers.items()}
        outputs = Runner(self._network, self._model, dtypes).run(first.inputs, len(first))
        store = open_store(self._directory, manifest.format, manifest.layers)
        ids = np.arange(count)
        for layer, values in outputs.layers.items():
            before = store.read(layer, ids, own[0].start + ids).astype(np.float32)
            now = values[:count].reshape(count, -1).astype(np.float32)
            if not np.abs(now - before).max() <= _OTHER * np.abs(before).max():
                raise CacheError(
                    f"The model computes other activations than those in {self._directory}, with the same weights: layer {layer} "
                    f"differs by up to {np.abs(now - before).max():.3g} on the first {count} examples. Its forward, its "
                    "precision or its device is another one. Use another directory, or refresh=True to collect them again."
                )

    def _compare_twice(self, first: Batch) -> None:
        again = next(self._loader.some([0]))
        if not np.array_equal(again.digests, first.digests):
            self._say(
                "The loader gives other inputs each time it is read (a random transform, such as RandomCrop?): these activations "
                "are of one such reading, and another call will not find them again."
            )

    def _compare_some(self) -> None:
        """Read some batches of stored examples again, the first and the last among them: they must be the same inputs."""
        batches = self._loader.batches or []
        ends = np.cumsum([len(batch) for batch in batches])
        known = np.append(self._known.done, np.zeros(max(int(ends[-1]) - len(self._known), 0), bool))
        stored = [at for at, end in enumerate(ends) if known[end - len(batches[at]) : end].all()]
        if self._files is not None:
            same = (self._files.sizes[: len(self._known)] == self._known.sizes) & (
                self._files.mtimes[: len(self._known)] == self._known.mtimes
            )
            changed = np.flatnonzero(self._known.done & ~same)
            if len(changed):
                raise self._other_examples(int(changed[0]), "its file was changed since")
        if not stored or self._config.fingerprint == "full":  # then all are compared
            return
        numbers = sorted({stored[at] for at in np.linspace(0, len(stored) - 1, _SOME).round().astype(int).tolist()})
        for number, batch in zip(numbers, self._loader.some(numbers), strict=True):
            end = int(ends[number])
            self._compare(batch, end - len(batch))

    def _compare(self, batch: Batch, first: int) -> None:
        """Check that a batch whose first example this is has the inputs and labels that are stored, where they are."""
        own = slice(first, first + len(batch))
        done = self._known.done[own]
        digests = batch.digests[: len(done)]
        labels = labels_of(batch)[: len(done)]
        wrong = done & ((digests != self._known.digests[own]) | (labels != self._known.labels[own]))
        if wrong.any():
            at = int(np.argmax(wrong))
            what = "input" if digests[at] != self._known.digests[own][at] else "label"
            raise self._other_examples(first + at, f"its {what} is another one")

    def _other_examples(self, example: int, why: str) -> CacheError:
        return CacheError(
            f"The loader's examples are not those whose activations are in {self._directory}: of example {example} "
            f"({self._name_of(example)}) {why}. Nothing was changed. Use another directory, or refresh=True to collect them "
            "again; a random transform, such as RandomCrop, gives other inputs each time."
        )

    def _name_of(self, example: int) -> str:
        return f"number {example} of the loader" if self._files is None else self._files.names[example]

    def fill(self) -> int:
        """Run the model on what is missing; how many examples that were. A layer that float16 cannot hold begins again."""
        while True:
            try:
                return self._fill()
            except Float16OverflowError as overflow:
                if self._loader.once:
                    raise ExtractionError(
                        f"The layers {', '.join(overflow.layers)} have values that float16 cannot hold, and this loader cannot "
                        'be read a second time. Give a DataLoader, or cache_dtype="float32".'
                    ) from overflow
                log.warning(
                    "%s: values that float16 cannot hold, stored as float32; all examples are run again",
                    ", ".join(overflow.layers),
                )
                self._manifest = widen_layers(self._directory, overflow.layers)
                self._known, _ = read_known(self._directory, self._manifest)
                self._read = None

    def _fill(self) -> int:
        self._known, self._manifest = read_known(self._directory, require_manifest(self._directory))
        pending = [shard for shard in self._manifest.shards if shard.rows is None]
        batches, compares = self._loader.batches, self._config.fingerprint == "full"
        if batches is not None and not pending and not compares:
            return 0
        first = 0
        ends = np.cumsum([len(batch) for batch in batches or ()])
        if batches is not None and pending and not compares:
            first = int(np.searchsorted(ends, int(pending[0].planned_ids()[0]), side="right"))
        work = Work(
            directory=self._directory,
            manifest=self._manifest,
            network=self._network,
            model=self._with_all_layers(),
            pending=tuple(pending),
            done=self._known.done,
            sizes=None if batches is None else tuple(len(batch) for batch in batches[first:]),
            files=self._files,
            attributes=lambda count: examples.attribute_names(self._loader.dataset, count),
            pixels=self._pixels,
            compare=self._compare,
            name_of=self._name_of,
            all=compares,
        )
        stream = self._loader.read(first) if batches is not None or self._read is None else self._read
        self._read = None
        missing = sum(len(shard.planned_ids()) for shard in pending)
        with ExitStack() as stack:
            advance = None
            if batches is not None and missing:
                tracker = self._progress("extraction", self._directory.address, {_PART: missing}, missing)
                advance = stack.enter_context(tracker).counter(_PART)
            did, end = fill(work, stream, int(ends[first - 1]) if first else 0, advance)
        if batches is None and end < len(self._known):
            raise self._too_few(end)
        return did

    def _with_all_layers(self) -> ModelRecord:
        """The record with the layers of the cache, which may have more than were asked for: it stays complete."""
        taps = {tap.layer: tap for tap in self._model.taps}
        for name, record in self._manifest.layers.items():
            if name not in taps:
                tensor, _, way = record.tensor.partition("|")
                chosen = layers.choose(self._network, self._seen, self._count, (tensor,), None)
                (tap,) = layers.make_taps(chosen, self._seen, self._network, way or "none")
                taps[name] = tap.model_copy(update={"layer": name})
        return self._model.model_copy(update={"taps": tuple(taps.values())})

    def _pixels(self, batch: Batch) -> NDArray[np.uint8] | None:
        """8-bit images of a batch, where they are stored."""
        if self._files is not None or batch.image is None or not self._asked.images:
            return None
        known = None if self._prepared_as is NO_PREPROCESSING else self._prepared_as
        return transforms.as_pixels(as_numpy(batch.image[1]).astype(np.float32), known)

    def _too_few(self, count: int) -> CacheError:
        return CacheError(
            f"The loader has {count:,} examples, and {self._directory} has activations of {len(self._known):,}. Expected "
            "the same examples, or more behind them. Use another directory, or refresh=True to collect them again."
        )

    def _extraction_plan(self, manifest: Manifest, missing: int) -> ExtractionPlan:
        ids: NDArray[np.int64] = np.concatenate(
            [np.empty(0, np.int64), *(shard.planned_ids() for shard in manifest.shards)]
        )
        own = self._model.layers
        most = None if self._config.fit == "all" else fit_size(self._config.largest_k(own))
        files, size = size_on_disk(manifest.format, manifest.layers, missing)
        return ExtractionPlan(
            directory=self._directory.address,
            manifest=manifest,
            pending=(),
            ids=format_ids(ids),
            sample=format_ids(ids if most is None else draw_ids(ids, most)),
            wanted=len(ids),
            cached=len(ids) - missing,
            values=sum(int(np.prod(record.shape)) for record in manifest.layers.values()),
            files=files,
            bytes=size,
            free=self._directory.free_bytes(),
            refresh=False,
        )

    def prepared(self) -> Prepared:
        """The complete cache, as the stages take it; the examples' table is written."""
        directory = self._directory
        manifest = consolidate(directory)
        recorded = [shard for shard in manifest.shards if shard.rows is not None]
        join_parts(directory, recorded)
        stored = read_examples(directory)
        require_enough(len(stored), self._config.k_per_layer(self._model.layers))
        pixels = directory.local_tree(PIXELS).is_dir()
        write_shown(directory, "" if self._files is None else self._files.root, {}, pixels=pixels)
        clear_caches()
        spec = DatasetSpec(name=COLLECTED, root=directory.address)
        own = [name for name in stored.column_names if name.startswith(ATTRIBUTE)]
        labels = stored["label"].to_numpy()
        names = examples.class_names(self._loader.dataset)
        table = example_table(
            0,
            len(stored),
            self._files,
            labels,
            names if int(labels.max(initial=-1)) < len(names) else (),
            {name.removeprefix(ATTRIBUTE): stored[name].to_numpy() for name in own},
        )
        nothing, _ = read_parts(directory, [])
        registry = register(table, known_examples(None, nothing), open_dataset(spec))
        write_registry(directory, registry)
        job = ExtractionJob(
            directory=directory.address,
            model=self._model,
            dataset=spec,
            preprocessing=self._prepared_as,
            cache=manifest.identity,
            batch_size=1,
            max_failed=0,
            registry=version_of(registry),
        )
        return Prepared(self._model, self._extraction_plan(manifest, 0), job)

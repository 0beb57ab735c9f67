"""Every document that is read back: of sets, caches, fits, series of windows, logs, gates, and those of other programs.

Belongs here: which document is mutated how, and which readers see it then. A reader may give a value, or raise an error of
clusterpaths/errors.py; anything else is a find.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clusterpaths.activations.config import ActivationsConfig
from clusterpaths.activations.describe import describe
from clusterpaths.activations.find import find_arrays
from clusterpaths.cache.examples import read_examples, read_part, read_parts
from clusterpaths.cache.manifest import ShardRecord, read_manifest, record_shard, require_manifest
from clusterpaths.cache.predictions import read_predictions, read_raw_rows
from clusterpaths.cache.registry import current_file, present_examples, read_registry, version_of
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.assign import (
    FitRecord,
    Labels,
    assigner_of,
    digest_of,
    read_labels,
    release_assigners,
    write_axes,
    write_labels,
)
from clusterpaths.clustering.fit import _read_fit
from clusterpaths.clustering.principal import Axes
from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.errors import ClusterPathsError
from clusterpaths.evaluation.means import read_means
from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.explore import documents as contract
from clusterpaths.explore.library import Library
from clusterpaths.gate.policy import DEFAULT_POLICY, read_policy
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.history import History
from clusterpaths.monitoring.monitor import watch
from clusterpaths.monitoring.reference import _stored
from clusterpaths.monitoring.series import Series
from clusterpaths.naming.annotations import edit, parse_annotations, read_annotations
from clusterpaths.preprocessing.check import parse_check
from clusterpaths.sets import accepted
from clusterpaths.sets.external import read_external
from clusterpaths.sets.place import read_axes
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import open_storage
from clusterpaths.watching.announced import AnnouncedModels
from tests.fuzz.engine import Case, FindError
from tests.fuzz.mutate import Mutate, mutate_bytes, mutate_json, mutate_npy, mutate_npz, mutate_parquet, mutate_text
from tests.runs import SAMPLE_MODEL, run_pipeline

SECONDS = 20.0

Read = Callable[[Path], Any]


@dataclasses.dataclass(frozen=True)
class Document:
    """A file below the root, how it is mutated, and a reader; `checked` where flipped bytes must not change what is read."""

    file: str
    mutate: Mutate
    read: Read
    checked: bool = False


CACHE, SET, SERIES = "cache/Faces", "cache/Faces/set_01", "cache/Faces/set_01/monitor/s"
SHARD = ShardRecord(index=0, ids="0-7", start=0, rows=8, checksums={"fc1": "0" * 16})
FIT = FitRecord(
    layer="fc1", directory="fit", digest="", distance="cosine", distinct=8, passes=1, num_fitted=8, axes=""
)  # fmt: skip


def prepare(root: Path) -> None:
    """A set with its cache and evaluation, a series of windows, a comparison, an external set, arrays of another program."""
    write_faces(root / "faces", 160, seed=1)
    run_pipeline(
        RunConfig(
            model=SAMPLE_MODEL,
            data_root=root / "faces",
            cache_root=str(root / "cache"),
            name="Faces",
            layers=("fc1", "fc2"),
            k=4,
        )
    )
    write_faces(root / "drawn", 12, seed=2)
    folder = root / "drawn" / "celeba" / "img_align_celeba"
    config = MonitorConfig(
        reference="Faces", cache_root=str(root / "cache"), data_root=str(folder), series="s", window="6", workers=1
    )
    assert len(list(watch(config))) == 2
    published = _set(root)
    storage = published.cache
    manifest = require_manifest(storage)
    record_shard(storage, manifest, manifest.shards[0])
    edit(published, "fc1/0", name="round", note="a note")
    accepted.choose(open_storage(root / "cache"), "Faces", published)
    _write_fit(root)
    for name in ("paths.json", "centroids.json"):
        target = root / "external" / "Other" / "set_01" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / SET / name, target)
    shutil.copyfile(root / CACHE / "metadata.json", root / "external" / "Other" / "metadata.json")
    _write_arrays(root / "arrays")
    (root / "policy.toml").write_text(DEFAULT_POLICY)
    (root / "announced.json").write_text(AnnouncedModels(root / "none").read().model_dump_json())


def _write_fit(root: Path) -> None:
    rng, storage = np.random.default_rng(0), open_storage(root / CACHE)
    centroids = rng.standard_normal((4, 128)).astype(np.float32)
    axes = Axes(rng.standard_normal((3, 128)).astype(np.float32), np.zeros(128, np.float32), np.array([0.5, 0.3, 0.1]))
    (root / CACHE / "fit").mkdir()
    fit = FIT.model_copy(update={"digest": digest_of(centroids), "axes": axes.digest})
    np.save(root / CACHE / fit.file, centroids)
    write_axes(storage, fit.axes_file, axes)
    (root / CACHE / "fit" / "fit.json").write_text(fit.model_dump_json())
    labels = Labels(
        np.arange(8, dtype=np.int16) % 4, np.ones(8, np.float32), np.zeros(8, bool), np.ones((8, 4), np.float32)
    )
    write_labels(storage, fit, SHARD, labels)


def _write_arrays(folder: Path) -> None:
    """What `clusterpaths activations` reads, a file of each format."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 6)).astype(np.float32)
    for name in ("npy", "npz", "safetensors", "zarr", "files", "table", "ids"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "npy" / "a.npy", rows)
    np.savez(folder / "npz" / "a.npz", a=rows, b=rows[:, :3])
    header = json.dumps({"a": {"dtype": "F32", "shape": [20, 6], "data_offsets": [0, rows.nbytes]}}).encode()
    (folder / "safetensors" / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + rows.tobytes())
    import zarr

    zarr.save_array(folder / "zarr" / "a", rows)
    (folder / "files" / "a").mkdir()
    for i in range(20):
        np.save(folder / "files" / "a" / f"{i}.npy", rows[i])
    for name in ("table", "ids"):
        np.save(folder / name / "a.npy", rows)
    columns = {
        "id": range(20),
        "label": ["x", "y"] * 10,
        "prediction": [0, 1] * 10,
        "split": ["train"] * 20,
        "big": ["yes", "no"] * 10,
    }
    pq.write_table(
        pa.table({name: list(values) for name, values in columns.items()}), folder / "table" / "examples.parquet"
    )
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (folder / "table" / "examples.csv").write_text("\n".join(lines) + "\n")
    np.save(folder / "ids" / "ids.npy", np.arange(20))
    np.save(folder / "ids" / "labels.npy", np.arange(20) % 3)


def _set(root: Path) -> PublishedSet:
    return open_set(root / SET)


def _storage(root: Path) -> Any:
    return open_storage(root / CACHE)


def _whole_set(root: Path) -> Any:
    """As a run, a comparison and the server read it."""
    published = _set(root)
    published.check()
    values = published.columns, published.contents, published.paths, published.purities
    if published.num_examples:
        values += published.scores, published.held_out_ood
    return values


def _served(root: Path) -> Any:
    """As the server reads it: the list of models, the set, and its documents of the contract."""
    library = Library(root / "cache")
    library.models()
    index = library.set("Faces", "set_01")
    texts = contract.Documents()
    return (
        texts.paths(index, 100, 0).tobytes(),
        texts.id_to_index(index),
        library.default(),
        index.top_scores(0),
        index.confidence,
    )


def _external(root: Path) -> Any:
    found = read_external(root / "external" / "Other" / "set_01")
    library = Library(root / "external")
    library.models()
    index = library.set("Other", "set_01")
    return found.clusters, found.paths, contract.Documents().paths(index, 100, 0).tobytes(), contract.centroids(index)


def _manifest(root: Path) -> Any:
    manifest = read_manifest(_storage(root))
    return manifest, [shard.row_ids() for shard in manifest.shards] if manifest else None, _set(root).is_of_cache()


def _rows(root: Path) -> Any:
    published = _set(root)
    rows = LayerRows(published.cache, "fc1", published.ids)
    return [block for _, block in rows.blocks()]


def _examples(root: Path) -> Any:
    storage, published = _storage(root), _set(root)
    found = read_examples(storage), read_raw_rows(storage, published.ids)
    outputs = published.record.outputs
    return *found, read_predictions(storage, published.ids, outputs) if outputs else None, published.read_top_scores(3)


def _part(root: Path) -> Any:
    storage = _storage(root)
    shards = list(require_manifest(storage).shards)
    read_parts(storage, shards)
    return read_part(storage.local_tree("examples"), shards[0])


def _registry(root: Path) -> Any:
    storage = _storage(root)
    found = read_registry(storage)
    return found and (
        present_examples(found),
        version_of(found),
        current_file(storage, 3),
        _set(root).read_attributes(),
    )


def _fit(root: Path) -> Any:
    release_assigners()
    storage = _storage(root)
    fit = _read_fit(storage, "fit")
    return fit and (fit, assigner_of(storage, fit).compared, read_labels(root / CACHE / "fit", fit, SHARD))


def _series(root: Path) -> Any:
    published = _set(root)
    series, history = Series(published, "s"), History()
    summaries = history.series(published), history.windows(published, "s", 10), history.totals(published, "s")
    return summaries, series.read(1), series.rows(1), series.identities(), series.announced()


def _activations(folder: str) -> Read:
    def read(root: Path) -> Any:
        source = root / "arrays" / folder
        config = ActivationsConfig(cache_root=str(root / "none"))
        found = find_arrays(source)
        return describe(config, source, found)

    return read


def _accepted(root: Path) -> Any:
    storage = open_storage(root / "cache")
    return accepted.read_accepted(storage), accepted.find_reference(storage, "Faces"), accepted.accepted_sets(storage)


DOCUMENTS = (
    Document(f"{SET}/set.json", mutate_json, _whole_set),
    Document(f"{SET}/set.json", mutate_json, _served),
    Document(f"{SET}/paths.parquet", mutate_parquet, _whole_set),
    Document(f"{SET}/paths.parquet", mutate_parquet, _served),
    Document(f"{SET}/attributes.parquet", mutate_parquet, lambda root: _set(root).read_attributes()),
    Document(f"{SET}/attributes.parquet", mutate_parquet, _served),
    Document(f"{SET}/centroids.npz", mutate_npz, lambda root: _set(root).read_centroids()),
    Document(
        f"{SET}/maps.parquet",
        mutate_parquet,
        lambda root: [_set(root).maps.layer(layer) for layer in ("fc1", "fc2")],
        checked=True,
    ),
    Document(f"{SET}/axes.npz", mutate_npz, lambda root: (_set(root).has_maps, read_axes(_set(root)))),
    Document(f"{SET}/metrics.json", mutate_json, lambda root: read_evaluation(_set(root))),
    Document(f"{SET}/cluster_means.npz", mutate_npz, lambda root: read_means(_set(root))),
    Document(
        f"{SET}/preprocessing_check.json",
        mutate_json,
        lambda root: parse_check(_set(root).document("preprocessing_check.json")),
    ),
    Document(f"{SET}/annotations.json", mutate_json, lambda root: read_annotations(_set(root))),
    Document(
        f"{SET}/annotations.json",
        mutate_json,
        lambda root: parse_annotations((root / SET / "annotations.json").read_bytes(), "x"),
    ),
    Document(f"{SET}/monitor/held_out.npz", mutate_npz, lambda root: _stored(_set(root))),
    Document(f"{SERIES}/window_000001/window.json", mutate_json, _series),
    Document(f"{SERIES}/window_000001/rows.parquet", mutate_parquet, _series),
    Document(f"{CACHE}/manifest.json", mutate_json, _manifest),
    Document(f"{CACHE}/shards/00000.json", mutate_json, _manifest),
    Document(f"{CACHE}/examples/00000.parquet", mutate_parquet, _part, checked=True),
    Document(f"{CACHE}/examples.parquet", mutate_parquet, _examples),
    Document(f"{CACHE}/examples.parquet", mutate_parquet, _served),
    Document(f"{CACHE}/registry.parquet", mutate_parquet, _registry),
    Document(f"{CACHE}/fc1/3.npy", mutate_npy, _rows, checked=True),
    Document(f"{CACHE}/metadata.json", mutate_json, lambda root: contract.metadata(_storage(root))),
    Document(f"{CACHE}/fit/fit.json", mutate_json, _fit),
    Document(f"{CACHE}/{FIT.file}", mutate_npy, _fit, checked=True),
    Document(f"{CACHE}/{FIT.axes_file}", mutate_npz, _fit, checked=True),
    Document(f"{CACHE}/fit/00000.npz", mutate_npz, _fit, checked=True),
    Document("cache/accepted.json", mutate_json, _accepted),
    Document("external/Other/set_01/paths.json", mutate_json, _external),
    Document("external/Other/set_01/centroids.json", mutate_json, _external),
    Document("external/Other/metadata.json", mutate_json, _external),
    Document("arrays/npy/a.npy", mutate_npy, _activations("npy")),
    Document("arrays/npz/a.npz", mutate_npz, _activations("npz")),
    Document("arrays/safetensors/a.safetensors", mutate_bytes, _activations("safetensors")),
    Document("arrays/zarr/a/zarr.json", mutate_json, _activations("zarr")),
    Document("arrays/files/a/0.npy", mutate_npy, _activations("files")),
    Document("arrays/table/examples.parquet", mutate_parquet, _activations("table")),
    Document("arrays/table/examples.csv", mutate_text, _activations("table")),
    Document("arrays/ids/ids.npy", mutate_npy, _activations("ids")),
    Document("arrays/ids/labels.npy", mutate_npy, _activations("ids")),
    Document("policy.toml", mutate_text, lambda root: read_policy(root / "policy.toml")),
    Document("announced.json", mutate_json, lambda root: AnnouncedModels(root / "announced.json").read()),
)


def open_kind(root: Path, scratch: Path) -> Case:
    """A case: a document in a copy of the directory is mutated, read, and restored."""
    here = scratch / "work"
    for name in ("cache", "external", "arrays", "policy.toml", "announced.json"):
        source = root / name
        shutil.copytree(source, here / name) if source.is_dir() else shutil.copyfile(source, here / name)
    whole: dict[int, Any] = {}

    def run(rng: random.Random) -> tuple[str, str]:
        number = rng.randrange(len(DOCUMENTS))
        document = DOCUMENTS[number]
        path = here / document.file
        before = path.read_bytes()
        mutate = mutate_bytes if document.checked and rng.random() < 0.7 else document.mutate
        after = mutate(rng, before)
        try:
            if document.checked and number not in whole:
                whole[number] = document.read(here)
            path.write_bytes(after)
            found = document.read(here)
            if document.checked and mutate is mutate_bytes and not same(found, whole[number]):
                raise FindError("other values than were written, though there is a checksum")
            return document.file, "read"
        except ClusterPathsError as error:
            require_paragraph(error, document.file)
            return document.file, "refused"
        except BaseException as error:
            error.add_note(document.file)
            raise
        finally:
            path.write_bytes(before)

    return run


def require_paragraph(error: Exception, group: str) -> None:
    """A message is one paragraph of a size that a person reads, and begins as a sentence."""
    text = str(error)
    if "\n" in text.strip() or not 20 < len(text) < 4000 or "Traceback" in text:
        find = FindError(f"the message of {type(error).__name__} is not one paragraph: {text[:300]!r}")
        find.add_note(group)
        raise find from error


def same(one: Any, other: Any) -> bool:
    """Whether two values that a reader gave are equal; None: it gave none, which is right for corrupted bytes."""
    if one is None:
        return True
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        )
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and same(list(vars(one).values()), list(vars(other).values()))
    if isinstance(one, pa.Table):
        return one.equals(other)
    return bool(one == other)

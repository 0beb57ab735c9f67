"""What changed from one set to another: two runs of one model, or two models on the same images.

Belongs here: which sets are compared, joining them by example, and filling the record of what came out. The record is
`comparison.py`, the numbers are `agreement.py`, pages and sentences `report/comparison.py`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.cache.examples import read_examples
from clusterpaths.comparison.joint_classes import join_classes
from clusterpaths.comparison.record import (
    ClusterMatch,
    Comparison,
    DecisionCount,
    Decisions,
    ExampleChange,
    LayerComparison,
    Migration,
    PathCount,
    Side,
)
from clusterpaths.config import CacheRoot
from clusterpaths.errors import CacheError, ConfigError, DatasetError
from clusterpaths.metrics import agreement
from clusterpaths.metrics.agreement import adjusted_rand, match_clusters
from clusterpaths.metrics.intervals import wilson
from clusterpaths.metrics.ood import overall_distance
from clusterpaths.metrics.paths import PathCounts, count_paths
from clusterpaths.records import Record, SetRecord
from clusterpaths.sets.publish import list_sets, read_set
from clusterpaths.sets.set_files import Rows, read_record, read_rows
from clusterpaths.storage.remote import address_of, fetch_folder, require_storage, subfolders

__all__ = [
    "CompareConfig",
    "Comparison",
    "adjusted_rand",
    "compare_sets",
    "find_earlier",
    "find_predecessor",
    "find_set_folder",
    "match_clusters",
]

TOP = 12
ALERT_BELOW = 0.8
EXAMPLES_OF_A_CHANGE = 8
LEAST_COMMON = 0.5  # share of a new set's examples that its predecessor must have


class CompareConfig(Record):
    """What changed from one set to another: of one model, or of two models on the same images."""

    first: str = Field(description="the set before: NAME/set_NN of the results' folder, or NAME for its newest set")
    second: str = Field(description="the set after, in the same form; the comparison is written into its folder")
    cache_root: CacheRoot | None = Field(None, description="where results lie, a folder a name [activation_cache]")
    data_root: Path | None = Field(
        None, description="the data set's folder, for pictures on the page [where the second set's images were]"
    )
    alert_below: float = Field(
        ALERT_BELOW, ge=0, le=1, description="path agreement under which the event cluster-paths.diverged is raised"
    )
    top: int = Field(TOP, ge=1, description="how many moved examples, changed decisions and largest paths are listed")


def compare_sets(first: Path, second: Path, *, top: int = TOP) -> Comparison:
    """Compare two set folders, joined on example id.

    Args:
        first: the set before.
        second: the set after, of the same model or another one.
        top: how many moved examples, changed decisions and largest paths are listed.

    Raises:
        CacheError: a folder is not a whole set, or the sets have no layer in common.
        DatasetError: not the same images: an id whose file differs, or no id in both.
        ConfigError: top below 1.
    """
    if top < 1:
        raise ConfigError(f"top should be >= 1, got {top} instead.")
    a, b = _open(first), _open(second)
    layers = [layer for layer in a.record.layers if layer in b.record.layers]
    if not layers:
        raise CacheError(
            f"{a.name} and {b.name} have no layer in common: {', '.join(a.record.layers)} and "
            f"{', '.join(b.record.layers)}. Expected sets that share at least one layer by name; cluster the same "
            "layers in both, with --layers."
        )
    at_a, at_b = _join(a, b)
    return _Comparing(a, b, layers, at_a, at_b).comparison(top)


@dataclass(frozen=True)
class _Opened:
    folder: Path
    record: SetRecord
    rows: Rows

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def side(self) -> Side:
        wanted = self.record.model_dump(include=set(Side.model_fields))
        return Side(name=self.name, **wanted)


def _open(folder: Path) -> _Opened:
    folder = folder.expanduser().resolve()
    record = read_record(folder)
    return _Opened(folder, record, read_rows(folder, record))


def _join(a: _Opened, b: _Opened) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the examples that both have, ids ascending: (n,) and (n,)."""
    ids, at_a, at_b = np.intersect1d(a.rows.ids, b.rows.ids, assume_unique=True, return_indices=True)
    if a.record.dataset != b.record.dataset or not len(ids):
        raise DatasetError(
            f"{a.name} ({a.record.dataset}, {len(a.rows.ids):,} examples) and {b.name} ({b.record.dataset}, "
            f"{len(b.rows.ids):,} examples) are not of the same images: they have no example in common. "
            "Expected two sets of one data set; compare others, or run both models on the same images."
        )
    told_a, told_b = (side.rows.files.take(pa.array(at)).to_pylist() for side, at in ((a, at_a), (b, at_b)))
    differing = [i for i, (one, other) in enumerate(zip(told_a, told_b, strict=True)) if one != other]
    if not differing and a.folder.parent != b.folder.parent:  # one cache has one list of its images
        sizes_a, sizes_b = _sizes(a, ids), _sizes(b, ids)
        differing = np.flatnonzero((sizes_a != sizes_b) & (sizes_a >= 0) & (sizes_b >= 0)).tolist()
        told_a, told_b = ([f"{size:,} bytes" for size in sizes.tolist()] for sizes in (sizes_a, sizes_b))
    if differing:
        i = differing[0]
        raise DatasetError(
            f"{a.name} and {b.name} are not of the same images: example {ids[i]} is {told_a[i]} in the first and "
            f"{told_b[i]} in the second, and so for {len(differing):,} of {len(ids):,} common ids. Expected one file an "
            "id. Compare sets of one data folder; where images were replaced, run the first model on them again."
        )
    return at_a, at_b


def _sizes(side: _Opened, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) bytes of each image as the cache around the set recorded it; -1 where it does not say."""
    try:
        table = read_examples(side.folder.parent, ["id", "size"])
    except (CacheError, OSError, pa.ArrowInvalid):
        return np.full(len(ids), -1, np.int64)
    stored: NDArray[np.int64] = table["id"].to_numpy()
    at = np.searchsorted(stored, ids).clip(max=max(len(stored) - 1, 0))
    found: NDArray[np.int64] = (
        np.where(stored[at] == ids, table["size"].to_numpy()[at], -1) if len(stored) else ids * 0 - 1
    )
    return found


class _Comparing:
    """The common examples and layers of two sets; n examples, L layers."""

    def __init__(
        self, a: _Opened, b: _Opened, layers: list[str], at_a: NDArray[np.int64], at_b: NDArray[np.int64]
    ) -> None:
        self.a, self.b, self.layers, self.at_a, self.at_b = a, b, layers, at_a, at_b
        columns_a, columns_b = (np.array([side.record.layers.index(layer) for layer in layers]) for side in (a, b))
        self.paths_a = a.rows.clusters[np.ix_(at_a, columns_a)].astype(np.int64)  # (n, L)
        self.paths_b = b.rows.clusters[np.ix_(at_b, columns_b)].astype(np.int64)  # (n, L)
        distances_a = overall_distance(a.rows.distances[np.ix_(at_a, columns_a)])
        distances_b = overall_distance(b.rows.distances[np.ix_(at_b, columns_b)])
        self.distances: NDArray[np.float64] = np.add(distances_a, distances_b)  # (n,)
        self.k_a, self.k_b = ([side.record.k_per_layer[layer] for layer in layers] for side in (a, b))
        self.matches = [
            match_clusters(self.paths_a[:, i], self.paths_b[:, i], self.k_a[i], self.k_b[i]) for i in range(len(layers))
        ]
        self.kept, self.renamed = agreement.matched_agreement(self.paths_a, self.paths_b, self.matches)
        self.classes = join_classes(
            a.record,
            b.record,
            a.rows.predictions[at_a],
            b.rows.predictions[at_b],
            b.rows.labels[at_b],  # the later set knows more labels, if anything
        )

    def comparison(self, top: int) -> Comparison:
        n, n_layers = self.kept.shape
        changed = (~self.kept).sum(axis=1)
        same = int((changed == 0).sum())
        ids = self.a.rows.ids[self.at_a]
        return Comparison(
            first=self.a.side(),
            second=self.b.side(),
            same_model=self.a.record.model.sha256 == self.b.record.model.sha256,
            num_examples=n,
            only_first=len(self.a.rows.ids) - n,
            only_second=len(self.b.rows.ids) - n,
            layers=tuple(self.layer(i) for i in range(n_layers)),
            layers_only_first=tuple(x for x in self.a.record.layers if x not in self.layers),
            layers_only_second=tuple(x for x in self.b.record.layers if x not in self.layers),
            path_agreement=same / n,
            path_agreement_interval=wilson(same, n),
            paths_kept=same,
            layers_kept=float(self.kept.mean()),
            changed_layers=tuple(np.bincount(changed, minlength=n_layers + 1).tolist()),
            path_adjusted_rand=adjusted_rand(
                count_paths(self.paths_a).of_example, count_paths(self.paths_b).of_example
            ),
            moved=self.examples(agreement.most_moved(changed, self.distances, ids, top)),
            class_names=self.classes.names,
            label_names=self.classes.label_names,
            decisions=self.decisions(top),
            migration=self.migration(top),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def layer(self, i: int) -> LayerComparison:
        shared = agreement.contingency(self.paths_a[:, i], self.paths_b[:, i], self.k_a[i], self.k_b[i])
        sizes_a, sizes_b = shared.sum(axis=1).tolist(), shared.sum(axis=0).tolist()
        second_of = {int(first): second for second, first in enumerate(self.matches[i]) if first >= 0}
        pairs: list[tuple[int | None, int | None]] = [(first, second_of.get(first)) for first in range(self.k_a[i])]
        pairs += [(None, second) for second, first in enumerate(self.matches[i]) if first < 0]
        matches = tuple(
            ClusterMatch(
                first=x,
                second=y,
                shared=0 if x is None or y is None else int(shared[x, y]),
                size_first=0 if x is None else sizes_a[x],
                size_second=0 if y is None else sizes_b[y],
            )
            for x, y in pairs
        )
        same, n = int(self.kept[:, i].sum()), len(self.kept)
        return LayerComparison(
            layer=self.layers[i],
            adjusted_rand=adjusted_rand(self.paths_a[:, i], self.paths_b[:, i]),
            agreement=same / n,
            agreement_interval=wilson(same, n),
            matches=matches,
        )

    def examples(self, rows: NDArray[np.int64]) -> tuple[ExampleChange, ...]:
        files = self.a.rows.files.take(pa.array(self.at_a[rows])).to_pylist()
        return tuple(
            ExampleChange(
                id=int(self.a.rows.ids[self.at_a[row]]),
                file=file or "",
                layers_changed=int((~self.kept[row]).sum()),
                path_first=tuple(self.paths_a[row].tolist()),
                path_second=tuple(self.paths_b[row].tolist()),
                path_renamed=tuple(self.renamed[row].tolist()),
                label=int(self.classes.labels[row]),
                prediction_first=int(self.classes.first[row]),
                prediction_second=int(self.classes.second[row]),
            )
            for row, file in zip(rows.tolist(), files, strict=True)
        )

    def decisions(self, top: int) -> Decisions | None:
        x, y, labels = self.classes.first, self.classes.second, self.classes.labels
        known = (x >= 0) & (y >= 0)
        n = int(known.sum())
        if not n:
            return None
        pairs, counts = np.unique(np.stack([x[known], y[known]], axis=1), axis=0, return_counts=True)
        order = np.lexsort((-counts, pairs[:, 0] == pairs[:, 1]))
        listed = []
        for place, at in enumerate(order.tolist()):
            first, second = pairs[at].tolist()
            shown = np.flatnonzero((x == first) & (y == second))[:EXAMPLES_OF_A_CHANGE] if place < top else ()
            examples = self.examples(np.asarray(shown, np.int64)) if first != second else ()
            listed.append(DecisionCount(first=first, second=second, count=int(counts[at]), examples=examples))
        changed = int((x != y)[known].sum())
        labelled = known & (labels >= 0) & (not self.classes.label_names)  # no index means the same in other classes
        return Decisions(
            num_examples=n,
            changed=changed,
            changed_interval=wilson(changed, n),
            num_labelled=int(labelled.sum()),
            right_first=int((x == labels)[labelled].sum()),
            right_second=int((y == labels)[labelled].sum()),
            counts=tuple(listed),
        )

    def migration(self, top: int) -> Migration:
        found = agreement.migrations(self.paths_a, self.paths_b, top)
        return Migration(
            first=_largest(found.first, top, None),
            second=_largest(found.second, top, self.matches),
            counts=tuple(tuple(row) for row in found.counts.tolist()),
        )


def _largest(paths: PathCounts, top: int, matches: list[NDArray[np.int64]] | None) -> tuple[PathCount, ...]:
    return tuple(
        PathCount(
            path=tuple(path),
            renamed=tuple(path if matches is None else [int(m[c]) for m, c in zip(matches, path, strict=True)]),
            count=count,
        )
        for path, count in zip(paths.paths[:top].tolist(), paths.counts[:top].tolist(), strict=True)
    )


def find_set_folder(cache_root: Path, given: str) -> Path:
    """The folder that NAME/set_NN, or NAME for its newest set, stands for; looked up among what is there.

    Raises:
        CacheError: there are no such results, or no such set among them.
    """
    require_storage(cache_root)
    name, _, wanted = given.rstrip("/").partition("/")
    names = [other for other in subfolders(cache_root) if list_sets(cache_root / other)]
    if name not in names:
        raise CacheError(
            f"There are no sets called {given!r} in {address_of(cache_root)}. Expected NAME or NAME/set_NN, with NAME one of: "
            f"{', '.join(names) or 'none yet'}. Name one of these, or another folder with --cache-root."
        )
    sets = list_sets(cache_root / name)
    if wanted and wanted not in sets:
        raise CacheError(
            f"{name} in {address_of(cache_root)} has no set {wanted!r}. Expected one of: {', '.join(sets)}, or {name} alone "
            "for the newest."
        )
    return fetch_folder(cache_root / name / (wanted or sets[-1]))


def find_earlier(folder: Path) -> Path | None:
    """The set to compare a new one with: the one before it under its name, else what `find_predecessor` finds.

    Sets without a layer in common, and folders that are not ours, are passed over.
    """
    own = _open(folder)
    sets = list_sets(own.folder.parent)
    for name in reversed(sets[: sets.index(own.folder.name)]):
        try:
            record = read_set(own.folder.parent, name).record
        except CacheError:
            continue
        if set(record.layers) & set(own.record.layers):
            return fetch_folder(own.folder.parent / name)
    return find_predecessor(folder)


def find_predecessor(folder: Path) -> Path | None:
    """The set that a new model's set is best compared with: the newest one of another model, under another name beside it.

    It has the same layers, is not younger, and at least half of the set's examples with the same images.
    Folders of the cache root that hold no sets of ours, or cannot be read, are passed over.

    Args:
        folder: a published set, cache_root/NAME/set_NN.
    """
    own = _open(folder)
    born = _time(own.record)
    found: list[tuple[datetime.datetime, str, str]] = []
    for beside in (own.folder.parent.parent / name for name in subfolders(own.folder.parent.parent)):
        try:
            sets = list_sets(beside) if beside != own.folder.parent else []
        except OSError:
            continue
        for name in sets:
            try:
                record = read_set(beside, name).record
                time = _time(record)
            except (CacheError, ValueError):
                continue
            if (
                record.model.sha256 != own.record.model.sha256
                and set(record.layers) == set(own.record.layers)
                and time <= born
            ):
                found.append((time, str(beside), name))
    for _, parent, name in sorted(found, reverse=True):
        try:
            other = _open(fetch_folder(Path(parent) / name))
            common = len(_join(other, own)[0])
        except (CacheError, DatasetError, OSError):
            continue  # damaged, or of other images
        if common >= LEAST_COMMON * len(own.rows.ids):
            return other.folder
    return None


def _time(record: SetRecord) -> datetime.datetime:
    time = datetime.datetime.fromisoformat(record.created)
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)

"""Names of an earlier set of the same model, carried over to a new one by matched clusters.

Belongs here: which cluster and path of the new set is which of the earlier one, and whether that is sure enough for a name.
Matching is `metrics/agreement.py`'s, on the examples that both sets have.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clusterpaths.errors import CacheError, ConfigError, DatasetError
from clusterpaths.metrics.agreement import contingency, match_clusters
from clusterpaths.naming.annotations import ANNOTATIONS, Entry, add_entries, read_annotations
from clusterpaths.naming.record import Carried, cluster_key, is_path_key, path_key
from clusterpaths.sets.find import list_sets
from clusterpaths.sets.join import join_examples
from clusterpaths.sets.published import PublishedSet, open_set

GOOD = 0.7  # share of the examples of either cluster that both must have

Matches = dict[str, tuple[str, float]]  # key in the earlier set -> key in the new one, and the share


def carry_over(earlier: PublishedSet, published: PublishedSet) -> tuple[tuple[Entry, ...], int]:
    """Write the earlier set's names and notes beside the new set, where the match is good; entries that are there stay.

    Returns:
        the entries that were written, and how many of the earlier set's have no good match or were there.

    Raises:
        ConfigError: the same set, or sets of different models.
        DatasetError: not the same images.
        CacheError: annotations.json of either set is corrupted or another set's.
    """
    if earlier.record.fingerprint == published.record.fingerprint and earlier.folder == published.folder:
        raise ConfigError(f"{earlier.name} was given twice. Expected an earlier set to carry names over from.")
    if earlier.record.model.sha256 != published.record.model.sha256:
        raise ConfigError(
            f"{earlier.name} and {published.name} are of different models ({earlier.record.model.file}, "
            f"{published.record.model.file}): their clusters mean different things. Expected two sets of one model."
        )
    entries = read_annotations(earlier).entries
    if not entries:
        return (), 0
    matches = match_keys(earlier, published, [entry.key for entry in entries])
    found = []
    for entry in entries:
        if entry.key in matches:
            key, share = matches[entry.key]
            carried = Carried(set=earlier.name, key=entry.key, share=share)
            found.append(entry.model_copy(update={"key": key, "carried": carried}))
    written = add_entries(published, found, replace=False)
    return written, len(entries) - len(written)


def carry_over_to_new(published: PublishedSet) -> tuple[str, int, int] | None:
    """Carry names over to a set without annotations from the last earlier one of its model that has some.

    Returns:
        the earlier set's name, how many names were carried over, and how many not; None: there is no such set, or the new set
        has annotations already, so that a name that was removed there does not come back.
    """
    if published.folder.read_version(ANNOTATIONS)[0] is not None:
        return None
    for earlier in _earlier(published):
        try:
            if not read_annotations(earlier).entries:
                continue
            written, others = carry_over(earlier, published)
        except (CacheError, DatasetError):
            continue  # corrupted, or of other images
        return earlier.name, len(written), others
    return None


def match_keys(earlier: PublishedSet, published: PublishedSet, keys: list[str]) -> Matches:
    """What these clusters and paths of the earlier set are in the new one, where at least `GOOD` of the examples agree.

    Raises:
        DatasetError: not the same images.
    """
    at_earlier, at_new = join_examples(earlier, published)
    before, after = earlier.clusters[at_earlier].astype(np.int64), published.clusters[at_new].astype(np.int64)  # (n, L)
    clusters: dict[tuple[str, int], tuple[int, float]] = {}
    for layer in earlier.layers:
        if layer not in published.layers:
            continue
        one, other = (side.layers.index(layer) for side in (earlier, published))
        k_one, k_other = earlier.record.k_per_layer[layer], published.record.k_per_layer[layer]
        shared = contingency(before[:, one], after[:, other], k_one, k_other)
        for second, first in enumerate(match_clusters(before[:, one], after[:, other], k_one, k_other).tolist()):
            if first >= 0:
                clusters[layer, first] = (
                    second,
                    _share(int(shared[first, second]), shared[first].sum(), shared[:, second].sum()),
                )
    found: Matches = {}
    for key in keys:
        if not is_path_key(key):
            layer, _, number = key.rpartition("/")
            if (layer, int(number)) in clusters:
                second, share = clusters[layer, int(number)]
                found[key] = cluster_key(layer, second), share
        elif earlier.layers == published.layers:
            path = [int(step) for step in key.split("-")]
            matched = [clusters.get((layer, step)) for layer, step in zip(earlier.layers, path, strict=True)]
            steps = [match[0] for match in matched if match is not None]
            if len(steps) == len(path):
                on_first, on_second = (before == path).all(axis=1), (after == steps).all(axis=1)
                both = int((on_first & on_second).sum())
                found[key] = path_key(steps), _share(both, on_first.sum(), on_second.sum())
    return {key: (new, share) for key, (new, share) in found.items() if share >= GOOD}


def _share(both: int, first: int, second: int) -> float:
    return both / int(max(first, second)) if max(first, second) else 0.0


def _earlier(published: PublishedSet) -> Iterator[PublishedSet]:
    """Native sets of the same model before this one under its name, newest first."""
    names = list_sets(published.cache)
    number = names.index(published.folder.name) if published.folder.name in names else 0
    for name in reversed(names[:number]):
        try:
            other = open_set(published.cache / name)
        except CacheError:
            continue
        if other.record.model.sha256 == published.record.model.sha256:
            other.folder.local_tree()
            yield other

"""The examples that two sets have in common.

Belongs here: joining by content, or of sets from before it was recorded, by id with a check that it means the same image in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.errors import DatasetError
from clusterpaths.sets.cached_examples import read_sizes
from clusterpaths.sets.published import PublishedSet


def join_examples(a: PublishedSet, b: PublishedSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the examples that both have, in the first one's order: (n,) of a and (n,) of b.

    Raises:
        DatasetError: not the same images: none in both, or an id whose file differs.
        CacheError: a set cannot be read.
    """
    by_content = a.contents is not None and b.contents is not None
    at_a, at_b = _same_content(a.contents, b.contents) if by_content else _same_ids(a, b)
    # the same files may be read as CelebA, as a folder or by a PyTorch loader; ids mean nothing across data sets
    if not len(at_a) or not (by_content or a.record.dataset == b.record.dataset):
        raise DatasetError(
            f"{a.name} ({a.record.dataset}, {len(a.ids):,} examples) and {b.name} ({b.record.dataset}, "
            f"{len(b.ids):,} examples) are not of the same images: they have no example in common. "
            "Expected two sets of the same image files; compare others, or run both models on the same images."
        )
    if not by_content:
        _require_same_files(a, b, at_a, at_b)
    return at_a, at_b


def _same_content(a: Any, b: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Copies of an image are paired in order."""
    _, at_a, at_b = np.intersect1d(_numbered(a), _numbered(b), assume_unique=True, return_indices=True)
    order = np.argsort(at_a)
    return at_a[order], at_b[order]


def _numbered(digests: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(n,) keys, each once: the digest of the first copy, and others of the further ones."""
    order = np.argsort(digests, kind="stable")
    in_order = digests[order]
    copy = np.arange(len(digests)) - np.searchsorted(in_order, in_order)
    keys = np.empty_like(digests)
    keys[order] = in_order + copy.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return keys


def _same_ids(a: PublishedSet, b: PublishedSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    _, at_a, at_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    return at_a, at_b


def _require_same_files(a: PublishedSet, b: PublishedSet, at_a: NDArray[np.int64], at_b: NDArray[np.int64]) -> None:
    ids = a.ids[at_a]
    images_a, images_b = (side.files.take(pa.array(at)).to_pylist() for side, at in ((a, at_a), (b, at_b)))
    differing = [i for i, (one, other) in enumerate(zip(images_a, images_b, strict=True)) if one != other]
    if not differing and a.cache.resolve() != b.cache.resolve():  # one cache has one list of its images
        sizes_a, sizes_b = read_sizes(a.cache, ids), read_sizes(b.cache, ids)
        differing = np.flatnonzero((sizes_a != sizes_b) & (sizes_a >= 0) & (sizes_b >= 0)).tolist()
        images_a, images_b = ([f"{size:,} bytes" for size in sizes.tolist()] for sizes in (sizes_a, sizes_b))
    if differing:
        i = differing[0]
        raise DatasetError(
            f"{a.name} and {b.name} are not of the same images: example {ids[i]} is {images_a[i]} in the first and "
            f"{images_b[i]} in the second, and so for {len(differing):,} of {len(ids):,} common ids. Expected one file per "
            "id. Compare sets of one data directory; if images were replaced, run the first model on them again."
        )

"""The examples that two sets have in common.

Belongs here: joining by id, and the check that an id means the same image in both.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.errors import DatasetError
from clusterpaths.sets.cached_examples import read_sizes
from clusterpaths.sets.published import PublishedSet


def join_examples(a: PublishedSet, b: PublishedSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the examples that both have, ids ascending: (n,) of a and (n,) of b.

    Raises:
        DatasetError: not the same images: an id whose file differs, or no id in both.
        CacheError: a set cannot be read.
    """
    ids, at_a, at_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    if a.record.dataset != b.record.dataset or not len(ids):
        raise DatasetError(
            f"{a.name} ({a.record.dataset}, {len(a.ids):,} examples) and {b.name} ({b.record.dataset}, "
            f"{len(b.ids):,} examples) are not of the same images: they have no example in common. "
            "Expected two sets of one data set; compare others, or run both models on the same images."
        )
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
    return at_a, at_b

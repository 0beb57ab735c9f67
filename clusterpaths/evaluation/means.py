"""cluster_means.npz: what explanations by intervention need of a set, the mean activation of each cluster.

Belongs here: the file beside metrics.json, which the evaluation writes. Centroids are no means: with the cosine distance they
have unit length.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.corrupted import reading
from clusterpaths.sets.published import PublishedSet

MEANS = "cluster_means.npz"
_FINGERPRINT, _LOW = " fingerprint", " low"  # a layer's name holds no space


@dataclass(frozen=True)
class LayerMeans:
    """Of one layer.

    Attributes:
        means: (k, width) float32 mean activation of each cluster's fit examples; NaN where it has none.
        low: the smallest value that the layer has, where it follows a Relu or the like: 0; None: no limit is known.
    """

    means: NDArray[np.float32]
    low: float | None


def write_means(published: PublishedSet, layers: Mapping[str, LayerMeans]) -> None:
    """Write the file atomically.

    Raises:
        DiskError: no room or no permission.
    """
    arrays: dict[str, NDArray[np.generic]] = {_FINGERPRINT: np.array(published.record.fingerprint)}
    for layer, one in layers.items():
        arrays[layer] = one.means
        arrays[layer + _LOW] = np.array(np.nan if one.low is None else one.low)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names of arrays for its own options
    published.write(MEANS, buffer.getvalue())


def read_means(published: PublishedSet) -> dict[str, LayerMeans]:
    """Layer -> its means, of those that the model can be cut at.

    Empty where the set has no such file, one that cannot be read, or that of another set.
    """
    document = published.document(MEANS)
    if document is None:
        return {}
    try:
        with reading(), np.load(io.BytesIO(document)) as arrays:
            if str(arrays[_FINGERPRINT]) != published.record.fingerprint:
                return {}
            layers = [layer for layer in published.record.layers if layer in arrays]
            return {layer: _means(arrays[layer], float(arrays[layer + _LOW])) for layer in layers}
    except ValueError:
        return {}


def _means(means: NDArray[np.float32], low: float) -> LayerMeans:
    return LayerMeans(means, None if np.isnan(low) else low)

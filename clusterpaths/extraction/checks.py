"""Checks on what a model outputs for a batch: values that are not finite, or that float16 does not hold.

Belongs here: what every extraction does, whatever runs the model. Where float32 is needed to say what is wrong, the images are
run again: most batches need no second run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import ExtractionError, Float16OverflowError
from clusterpaths.models.outputs import not_finite
from clusterpaths.models.session import Outputs
from clusterpaths.records import CacheDtype, ModelOutputs

Exact = Callable[[list[Any]], list[Outputs]]
"""Runs batches of images again, all layers in float32."""

# Rounding to float16, as a share of a layer's standard deviation, from which the layer is stored as float32. Of ordinary
# layers it is 0.0002 to 0.003; of values below 6e-8, which become 0, and of a bias of 3,000 with differences of 1, above 0.5.
MAX_ROUNDING = 0.05
ROUNDING_IMAGES = 8  # that this is measured on: a layer's scale is the model's, not an image's
NOISE = 1e-12  # of squared lengths: what equal images may differ by in float32


def check_finite(
    outputs: Outputs,
    images: Any,
    ids: NDArray[np.int64],
    dtypes: Mapping[str, CacheDtype],
    exact: Exact,
    file_of: Callable[[int], str],
) -> None:
    """Check a batch by the squared lengths of its rows, which `outputs.products` has for every layer.

    Args:
        outputs: of the batch.
        images: of the batch, as `exact` takes them.
        ids: (n,) of its examples.
        dtypes: layer -> the dtype that it is stored in.
        exact: runs the batch again.
        file_of: the file of an example, for messages.

    Raises:
        ExtractionError: values that are not finite in float32 either, or beyond it when squared.
        Float16OverflowError: layers that need float32.
    """
    suspects = [layer for layer, found in outputs.products.items() if not np.isfinite(found.squares).all()]
    if not suspects:
        return
    # float32: distinguishes an overflow of float16 from inf or NaN in float32
    again = exact([images])[0]
    for layer in suspects:
        finite = np.isfinite(again.layers[layer]).reshape(len(ids), -1).all(axis=1)
        if not finite.all():
            example = int(ids[np.argmin(finite)])
            raise ExtractionError(
                f"Layer {layer} outputs values that are not finite (inf or NaN) for example {example} "
                f"({file_of(example)}). Expected finite activations. Check the model and "
                "--preprocessing with that image, or leave the layer out with --layers."
            )
        if dtypes[layer] == "float32":
            largest = float(np.abs(again.layers[layer]).max())
            raise ExtractionError(
                f"Layer {layer} outputs values up to {largest:.3g}, whose squared lengths exceed float32. Expected values below "
                "1e16. Check the model and --preprocessing, or leave the layer out with --layers."
            )
    raise Float16OverflowError(suspects)


class Rounding:
    """Checks on the first images whether float16 loses what distinguishes them: in tiny values, beside a large bias.

    Args:
        dtypes: layer -> the dtype that it is stored in.
        images: how many, over as many batches as it takes.
        exact: runs them again.
    """

    def __init__(self, dtypes: Mapping[str, CacheDtype], images: int, exact: Exact) -> None:
        self._dtypes, self._wanted, self._exact = dtypes, images, exact
        self._images: list[Any] = []
        self._rows: list[dict[str, NDArray[Any]]] = []

    def add(self, outputs: Outputs, images: Any, count: int) -> None:
        """Take a batch of `count` images.

        Raises:
            Float16OverflowError: as `check`.
        """
        if self._wanted > 0:
            self._images.append(images)
            self._rows.append({x: rows for x, rows in outputs.layers.items() if self._dtypes[x] == "float16"})
            self._wanted -= count
            if self._wanted <= 0:
                self.check()

    def check(self) -> None:
        """Check the images that were added since.

        Raises:
            Float16OverflowError: layers that float16 does not hold.
        """
        images, seen = self._images, self._rows
        self._images, self._rows, self._wanted = [], [], 0
        narrow = {layer: np.concatenate([rows[layer] for rows in seen]) for layer in (seen[0] if seen else ())}
        # A guess by float16's steps first: a session in float32 takes time and memory.
        suspects = [layer for layer, rows in narrow.items() if _loses(rows, np.spacing(rows) / np.float32(12**0.5), 0)]
        if not suspects:
            return
        runs = [outputs.layers for outputs in self._exact(images)]
        exact = {layer: np.concatenate([rows[layer] for rows in runs]) for layer in suspects}
        lost = [layer for layer in suspects if _loses(exact[layer], exact[layer] - narrow[layer], NOISE)]
        if lost:
            raise Float16OverflowError(lost)


def _loses(rows: NDArray[Any], errors: NDArray[np.float32], noise: float) -> bool:
    """Whether errors are more than MAX_ROUNDING of rows (n, …), or of their differences if these are more than noise.

    A single row has no differences.
    """
    values = rows.astype(np.float32)
    lost, squares = (float(np.square(one, dtype=np.float64).sum()) for one in (errors, values))
    differences = float(np.square(values - values.mean(axis=0, dtype=np.float64)).sum())
    least = differences if len(rows) > 1 and differences >= noise * squares else squares
    return lost > 0 and lost >= MAX_ROUNDING**2 * least


def check_scores(
    outputs: Outputs, ids: NDArray[np.int64], meaning: ModelOutputs, file_of: Callable[[int], str]
) -> None:
    """Raises: ExtractionError: rows of the output with class scores that are not finite."""
    if outputs.logits is None or not (wrong := not_finite(meaning, outputs.logits)).any():
        return
    example = int(ids[np.argmax(wrong)])
    raise ExtractionError(
        f"The output {meaning.name} holds class scores that are not finite (inf or NaN) for example {example} "
        f"({file_of(example)}), and for {int(wrong.sum())} of {len(ids)} examples of its "
        "batch. Expected finite scores. Check the model and --preprocessing with that image, or cluster without "
        "predictions with --logits none."
    )

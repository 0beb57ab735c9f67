"""Are the images of a set pictures at all? A few are decoded before the run: constant ones and copies tell nothing.

Belongs here: what most of a set's images have in common that makes its clusters meaningless. Single files that cannot be
read are extraction's.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import xxhash

from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.datasets.fingerprint import sample_positions
from clusterpaths.datasets.value_range import RANGE

_FEWEST = 3  # of fewer images "most" means nothing


def check_variety(dataset: Dataset, table: ExampleTable) -> tuple[str, ...]:
    """Warnings on up to 64 images, chosen by their number alone: most are constant, most decode to the same pixels, or
    the images of more than 8 bits are read with different ranges of values; none where all is well.
    """
    constant: list[str] = []
    copies: Counter[int] = Counter()
    ranges: Counter[str] = Counter()
    for position in sample_positions(len(table)):
        try:
            image = dataset.read_image(table.files[position])
        except OSError:
            continue  # extraction reports it
        pixels = np.asarray(image)
        copies[xxhash.xxh3_64_intdigest(f"{image.size}".encode() + pixels.tobytes())] += 1
        if (pixels == pixels[:1, :1]).all():
            constant.append(table.files[position])
        if RANGE in image.info:
            ranges[str(image.info[RANGE])] += 1
    read = copies.total()
    warnings = []
    same = sum(count for count in copies.values() if count > 1)
    if read >= _FEWEST and len(constant) > read / 2:
        warnings.append(
            f"{len(constant)} of {read} images examined have one colour only, such as {constant[0]}: their clusters will mean "
            f"nothing. Check that these are the images that you mean, and the range of their values in {dataset.root}."
        )
    elif read >= _FEWEST and same > read / 2:
        warnings.append(
            f"{same} of {read} images examined have the same pixels as another one: {len(copies)} different images. Check "
            f"that {dataset.root} holds the images that you mean."
        )
    if len(ranges) > 1:
        found = ", ".join(f"{which} ({count})" for which, count in ranges.most_common())
        warnings.append(
            f"Images of more than 8 bits in {dataset.root} are read with different ranges of values: {found}. Each takes the "
            "smallest range that holds its brightest pixel; where a set has one range, save it as 8 bits."
        )
    return tuple(warnings)

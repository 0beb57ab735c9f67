"""Preprocessed images as a model's input takes them.

Belongs here: the last step before a session, and the metadata entry that says which preprocessing comes before. Without onnx:
a service that runs path models imports this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.records import InputType, Layout

PREPROCESSING_KEY = "clusterpaths.preprocessing"


def as_input(images: NDArray[np.float32], layout: Layout, input_type: InputType) -> NDArray[Any]:
    """(n, 3, height, width) in a model's own layout and type."""
    if layout == "NHWC":
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if input_type == "uint8":
        return np.clip(np.rint(images), 0, 255).astype(np.uint8)
    return images.astype(input_type, copy=False)

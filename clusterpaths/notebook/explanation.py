"""`PublishedSet.explain`: one image, from a file or from memory.

Belongs here: which model, and which image. The explanation is `explanation/explain.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageOps

from clusterpaths.errors import ModelError
from clusterpaths.explanation.explain import SetWithModel, load_model, read_upright
from clusterpaths.explanation.record import Explanation
from clusterpaths.models.find import require_model
from clusterpaths.sets.places import model_of
from clusterpaths.sets.published import PublishedSet


def explain(
    published: PublishedSet, image: str | os.PathLike[str] | Image.Image, model: str | os.PathLike[str] | None
) -> Explanation:
    """As `PublishedSet.explain`. The model is loaded once per set."""
    place = Path(model).expanduser() if model is not None else model_of(published.folder, published.record)
    if place is None:
        raise ModelError(
            f"{published.path} does not record where its model was. Name the ONNX file: explain(image, model=…)."
        )
    place = require_model(place).absolute()
    loaded: SetWithModel = published.index.once(("model", place), lambda: load_model(published.index, place))
    if isinstance(image, Image.Image):
        picture, name = ImageOps.exif_transpose(image).convert("RGB"), "image"
    else:
        picture, name = read_upright(Path(image).expanduser()), os.fspath(image)
    return loaded.explain(picture, name)

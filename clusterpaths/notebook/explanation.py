"""`PublishedSet.explain`: one image, from a file or from memory.

Belongs here: which model, which image, and the page in a cell. The explanation is `explanation/explain.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps
from pydantic import PrivateAttr

from clusterpaths.errors import ModelError
from clusterpaths.explanation.explain import SetWithModel, load_live_model, load_model, read_upright
from clusterpaths.explanation.record import Explanation
from clusterpaths.explore.index import SetIndex
from clusterpaths.models.find import require_model
from clusterpaths.report.explanation import explanation_page
from clusterpaths.report.templates import render
from clusterpaths.sets.images import find_images
from clusterpaths.sets.places import model_of
from clusterpaths.sets.published import PublishedSet


class ShownExplanation(Explanation):
    """An explanation that shows its page in a notebook; its values are those of the record."""

    _picture: Image.Image = PrivateAttr()
    _read: Callable[[str], Image.Image] = PrivateAttr()
    _index: SetIndex = PrivateAttr()

    def _repr_html_(self) -> str:
        return render("frame.html", page=explanation_page(self, self._picture, self._read, self._index))


def explain(
    published: PublishedSet, image: str | os.PathLike[str] | Image.Image, model: str | os.PathLike[str] | None
) -> ShownExplanation:
    """As `PublishedSet.explain`. The model is loaded once per set."""
    place = Path(model).expanduser() if model is not None else model_of(published.folder, published.record)
    if model is None and published.record.collected:
        loaded = published.index.once(("live model",), lambda: load_live_model(published.index))
        return _shown(published, loaded, image)
    if place is None:
        raise ModelError(
            f"{published.path} does not record where its model was. Name the ONNX file: explain(image, model=…)."
        )
    place = require_model(place).absolute()
    loaded = published.index.once(("model", place), lambda: load_model(published.index, place))
    return _shown(published, loaded, image)


def _shown(
    published: PublishedSet, loaded: SetWithModel, image: str | os.PathLike[str] | Image.Image
) -> ShownExplanation:
    if isinstance(image, Image.Image):
        picture, name = ImageOps.exif_transpose(image).convert("RGB"), "image"
    else:
        picture, name = read_upright(Path(image).expanduser()), os.fspath(image)
    found = ShownExplanation(**dict(loaded.explain(picture, name)))
    found._picture, found._read, found._index = picture, find_images(published, None), published.index
    return found

"""What the examples of given activations look like: images of a directory, or texts, drawn as cards.

Belongs here: showing an example. Where its activations are is `cache/arrays.py`; the table of examples is the cache's registry.
"""

from __future__ import annotations

import errno
import textwrap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from PIL import Image, ImageDraw, ImageFont

from clusterpaths.datasets.base import ExampleTable, file_digest, path_in
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec, Record
from clusterpaths.storage import Storage, open_storage

NAME = "activations"
SHOWN = "shown.json"
TEXTS = "texts.parquet"
_CARD, _MARGIN, _FONT = (178, 218), 12, 19  # pixels; the shape of thumbnails, which cut off what does not fit
_CHARACTERS, _LINES = 16, 9  # that fit on a card


class Shown(Record):
    """The content of shown.json."""

    images: str = ""
    texts: bool = False


@dataclass(frozen=True)
class ActivationsData:
    """The examples of a cache of given activations; see `Dataset` for the members."""

    root: Path
    shown: Shown
    directory: Storage
    name: str = NAME
    notes: tuple[str, ...] = field(default=())

    def examples(self) -> ExampleTable:
        """Not known here: the activations say which examples there are.

        Raises:
            DatasetError: always.
        """
        raise DatasetError(
            f"{self.root} was made of activations that were there, without a model. Expected `clusterpaths activations DIR "
            f"--name {self.root.name}`: only that command reads them."
        )

    def read_image(self, file: str) -> Image.Image:
        """The example's image, or its text on a card; OSError where it has neither."""
        if self.shown.images:
            return open_rgb(path_in(Path(self.shown.images), file))
        if file not in self._texts:
            raise FileNotFoundError(errno.ENOENT, "there is no image of it", file)
        return draw_card(self._texts[file])

    def digest(self, file: str) -> int:
        """xxh3_64 of the image's bytes, of the text, or of the name where there is neither."""
        if self.shown.images:
            return file_digest(path_in(Path(self.shown.images), file))
        return xxhash.xxh3_64_intdigest(self._texts.get(file, file).encode())

    @cached_property
    def _texts(self) -> dict[str, str]:
        if not self.shown.texts:
            return {}
        table = pq.read_table(self.directory.local(TEXTS))
        return dict(zip(table["file"].to_pylist(), table["text"].to_pylist(), strict=True))


def open_activations(spec: DatasetSpec) -> ActivationsData:
    """The examples of a cache; where its directory has no shown.json, it is a directory of their images."""
    directory = open_storage(spec.root)
    try:
        shown = Shown.model_validate_json(directory.read(SHOWN))
    except FileNotFoundError:
        shown = Shown(images=spec.root)
    return ActivationsData(Path(spec.root), shown, directory)


def write_shown(directory: Storage, images: str, texts: dict[str, str]) -> None:
    """Record what examples look like: the directory of their images, or a text for each name."""
    if texts:
        table = pa.table({"file": list(texts), "text": list(texts.values())})
        with directory.write(TEXTS) as partial:
            pq.write_table(table, partial, compression="zstd")
    directory.write_bytes(SHOWN, (Shown(images=images, texts=bool(texts)).model_dump_json() + "\n").encode())


def draw_card(text: str) -> Image.Image:
    """A text as a picture: its beginning, in lines; line breaks are preserved."""
    lines = [piece for line in text.splitlines() or [""] for piece in textwrap.wrap(line, _CHARACTERS) or [""]]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"{lines[_LINES - 1][: _CHARACTERS - 2]} …"]
    card = Image.new("RGB", _CARD, "white")
    ImageDraw.Draw(card).multiline_text(
        (_MARGIN, _MARGIN), "\n".join(lines), fill="black", font=ImageFont.load_default(_FONT)
    )
    return card

"""What the examples of activations look like that no run extracted: images of a directory or of the cache, or texts, as cards.

Belongs here: showing an example of given activations, or of those of a PyTorch model. Where its
activations are is `cache/arrays.py`; the table of examples is the cache's registry.
"""

from __future__ import annotations

import bisect
import errno
import textwrap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from clusterpaths.common.corrupted import reading, what_does_not_fit
from clusterpaths.datasets.base import ExampleTable, file_digest, path_in
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.errors import CacheError, DatasetError
from clusterpaths.records import DatasetSpec, Record
from clusterpaths.storage import Storage, open_storage

NAME = "activations"
COLLECTED = "collected"  # activations of a PyTorch model
SHOWN = "shown.json"
PIXELS = "shown"  # directory of 8-bit images, (n, height, width, 3) in files named by their first example
TEXTS = "texts.parquet"
_CARD, _MARGIN, _FONT = (178, 218), 12, 19  # pixels; the shape of thumbnails, which cut off what does not fit
_CHARACTERS, _LINES = 16, 9  # that fit on a card


class Shown(Record):
    """The content of shown.json."""

    images: str = ""
    texts: bool = False
    pixels: bool = False


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
        if self.name == COLLECTED:
            raise DatasetError(
                f"{self.root} has activations of a PyTorch model. Expected clusterpaths.collect with that model and its loader: "
                "only that call reads them."
            )
        raise DatasetError(
            f"{self.root} was made of activations that were there, without a model. Expected `clusterpaths activations DIR "
            f"--name {self.root.name}`: only that command reads them."
        )

    def read_image(self, file: str) -> Image.Image:
        """The example's image, or its text on a card; OSError where it has neither."""
        if self.shown.images:
            return open_rgb(path_in(Path(self.shown.images), file))
        if self.shown.pixels:
            return Image.fromarray(self._row(file))
        if file not in self._texts:
            raise FileNotFoundError(errno.ENOENT, "there is no image of it", file)
        return draw_card(self._texts[file])

    def digest(self, file: str) -> int:
        """xxh3_64 of the image's bytes, of the text, or of the name where there is neither."""
        if self.shown.images:
            return file_digest(path_in(Path(self.shown.images), file))
        if self.shown.pixels:
            return pixels_digest(self._row(file))
        return xxhash.xxh3_64_intdigest(self._texts.get(file, file).encode())

    def _row(self, file: str) -> NDArray[np.uint8]:
        """(height, width, 3) of an example, whose name is its number."""
        example = int(file) if file.isascii() and file.isdigit() else -1
        at = bisect.bisect_right(self._firsts, example) - 1
        if at < 0:
            raise FileNotFoundError(errno.ENOENT, "there is no image of it", file)
        first = self._firsts[at]
        rows = np.load(self.directory.local(pixels_file(first)), mmap_mode="r", allow_pickle=False)
        if example - first >= len(rows):
            raise FileNotFoundError(errno.ENOENT, "there is no image of it", file)
        return np.ascontiguousarray(rows[example - first])

    @cached_property
    def _firsts(self) -> list[int]:
        return sorted(int(path.stem) for path in self.directory.local_tree(PIXELS).glob("*.npy"))

    @cached_property
    def _texts(self) -> dict[str, str]:
        if not self.shown.texts:
            return {}
        try:
            with reading():
                table = pq.read_table(self.directory.local(TEXTS))
                columns = [table[name].cast(pa.string()).to_pylist() for name in ("file", "text")]
                if None in (*columns[0], *columns[1]):
                    raise ValueError("it has gaps")
                return dict(zip(*columns, strict=True))
        except (OSError, ValueError) as error:
            raise CacheError(
                f"{self.directory / TEXTS} cannot be read: {error}. Expected the texts of examples. Run `clusterpaths "
                "activations` again with --refresh."
            ) from error


def open_activations(spec: DatasetSpec) -> ActivationsData:
    """The examples of a cache; where its directory has no shown.json, it is a directory of their images."""
    directory = open_storage(spec.root)
    try:
        shown = Shown.model_validate_json(directory.read(SHOWN))
    except FileNotFoundError:
        shown = Shown(images=spec.root)
    except ValidationError as error:
        raise CacheError(
            f"{directory / SHOWN} cannot be read: {what_does_not_fit(error)}. It records what examples look like. Run "
            "`clusterpaths activations` again with --refresh."
        ) from error
    return ActivationsData(Path(spec.root), shown, directory, spec.name)


def write_shown(directory: Storage, images: str, texts: dict[str, str], *, pixels: bool = False) -> None:
    """Record what examples look like: the directory of their images, images in the cache, or a text for each name."""
    if texts:
        table = pa.table({"file": list(texts), "text": list(texts.values())})
        with directory.write(TEXTS) as partial:
            pq.write_table(table, partial, compression="zstd")
    directory.write_bytes(
        SHOWN, (Shown(images=images, texts=bool(texts), pixels=pixels).model_dump_json() + "\n").encode()
    )


def pixels_file(first: int) -> str:
    """Where the images of a shard are, whose first example this is."""
    return f"{PIXELS}/{first:08d}.npy"


def pixels_digest(pixels: NDArray[np.uint8]) -> int:
    """xxh3_64 of one image of the cache."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data)


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

"""Reads a set and writes its page.

Belongs here: what is read, what is checked, the order of the work. Numbers come from `tables.py`,
pictures from `thumbnails.py`, sentences and cards from `view.py`, looks from `report.html` and `report.css`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.atomic import atomic_write
from clusterpaths.errors import CacheError, ConfigError
from clusterpaths.metrics import count_paths
from clusterpaths.records import SetRecord
from clusterpaths.report import view
from clusterpaths.report.tables import nearest, overall_distance
from clusterpaths.report.thumbnails import make_thumbnails, usual_ratio

EXEMPLARS = 8  # pictures of a cluster


@dataclass(frozen=True)
class Rows:
    """What the page needs of paths.parquet, n rows and L layers; file names stay in Arrow until they are shown."""

    ids: NDArray[np.int64]  # (n,)
    labels: NDArray[np.int16]  # (n,)
    predictions: NDArray[np.int16]  # (n,)
    clusters: NDArray[np.int16]  # (n, L)
    distances: NDArray[np.float32]  # (n, L)
    files: Any  # pyarrow.ChunkedArray of n strings


def write_report(
    set_dir: Path, read_image: Callable[[str], Image.Image], *, exemplars: int = EXEMPLARS, top_paths: int = 12
) -> Path:
    """Write set_dir/report.html from the set's record and paths, whole or not at all.

    Args:
        read_image: called with names of the `file` column; may raise OSError for an image that is gone, which
            then has a placeholder.
        exemplars: pictures for each cluster and each path; 0 for a page without pictures.
        top_paths: how many of the most frequent paths are shown.

    Raises:
        CacheError: the folder is not a whole set, or its parts do not fit together.
        ConfigError: a negative number of pictures or paths.
        DiskError: no room or no permission.
    """
    if exemplars < 0 or top_paths < 0:
        raise ConfigError(f"exemplars and top_paths should be >= 0, got {exemplars} and {top_paths} instead.")
    record = read_record(set_dir)
    rows = read_rows(set_dir, record)
    paths = count_paths(rows.clusters)
    k = [record.k_per_layer[layer] for layer in record.layers]
    by_cluster = [
        nearest(rows.clusters[:, layer], rows.distances[:, layer], rows.ids, k[layer], exemplars)
        for layer in range(len(record.layers))
    ]
    top = np.flatnonzero(paths.of_example < top_paths)  # rows on one of the paths that are shown
    shown = min(top_paths, len(paths.counts))
    by_path = [
        top[picked]
        for picked in nearest(
            paths.of_example[top], overall_distance(rows.distances)[top], rows.ids[top], shown, exemplars
        )
    ]
    wanted = np.unique(np.concatenate([*(one for layer in by_cluster for one in layer), *by_path, np.empty(0, int)]))
    files = dict(zip(wanted.tolist(), rows.files.take(pa.array(wanted)).to_pylist(), strict=True))
    thumbnails = make_thumbnails(files.values(), read_image)
    content = view.build(record, rows, paths, by_cluster, by_path, files, thumbnails)
    html = _template().render(
        page=content,
        record=record,
        name=set_dir.resolve().parent.name,
        thumbnails=list(thumbnails.values()),
        ratio=f"{usual_ratio(thumbnails.values()):.3f}",
        css=Markup(resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")),  # our own file
    )
    target = set_dir / "report.html"
    # File names need not be valid Unicode (a surrogate stands for a stray byte): show, do not fail.
    atomic_write(target, html.encode("utf-8", errors="replace"))
    return target


def read_record(set_dir: Path) -> SetRecord:
    """set.json of a set folder.

    Raises:
        CacheError: it is missing or is not a set's record.
    """
    path = set_dir / "set.json"
    try:
        return SetRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CacheError(
            f"{path} does not exist. Expected the folder of a published set, with set.json and paths.parquet."
        ) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise CacheError(
            f"{path} is not the record of a set: {'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']} "
            f"({error.error_count()} problems in all). Expected what this version of the program writes; "
            "publish the set again."
        ) from error


def read_rows(set_dir: Path, record: SetRecord) -> Rows:
    """The columns of paths.parquet that the page shows.

    Raises:
        CacheError: the file is missing, lacks a column, or holds cluster ids beyond the record's k.
    """
    path = set_dir / "paths.parquet"
    distances = [f"distance.{layer}" for layer in record.layers]
    needed = ["id", "file", "label", "prediction", *record.layers, *distances]
    try:
        stored = pq.read_schema(path).names
        missing = [name for name in needed if name not in stored]
        if missing:
            raise CacheError(
                f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(stored)}. "
                "It does not belong to the set.json beside it; publish the set again."
            )
        table = pq.read_table(path, columns=needed)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise CacheError(
            f"{path} cannot be read: {error}. Expected the paths of a set; publish the set again."
        ) from error
    clusters = np.stack([_ints(table, layer) for layer in record.layers], axis=1)
    for column, layer in zip(clusters.T, record.layers, strict=True):
        k = record.k_per_layer.get(layer, 0)
        if len(column) and not (column.min() >= 0 and column.max() < k):
            raise CacheError(
                f"{path} has cluster ids {column.min()} to {column.max()} in layer {layer}; "
                f"set.json says k={k}, so 0 to {k - 1} were expected. Publish the set again."
            )
    return Rows(
        ids=table["id"].to_numpy(),
        labels=_ints(table, "label"),
        predictions=_ints(table, "prediction"),
        clusters=clusters,
        distances=np.stack([table[name].to_numpy() for name in distances], axis=1),
        files=table["file"],
    )


def _ints(table: Any, name: str) -> NDArray[np.int16]:
    values: NDArray[np.int16] = pc.fill_null(table[name].cast(pa.int16()), -1).to_numpy()
    return values


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clusterpaths", "report"),
        autoescape=True,  # file names, class names and layer names come from elsewhere
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"thousands": view.thousands, "percent": view.percent, "seconds": view.seconds}
    return environment.get_template("report.html")

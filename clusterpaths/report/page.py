"""Reads a set and writes its page.

Belongs here: what is read, what is checked, the order of the work. Numbers come from `tables.py`,
pictures from `thumbnails.py`, sentences and cards from `view.py`, looks from `report.html` and `report.css`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from PIL import Image

from clusterpaths.errors import ConfigError
from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.metrics.counts import nearest_members
from clusterpaths.metrics.ood import overall_distance
from clusterpaths.metrics.paths import count_paths
from clusterpaths.preprocessing.check import read_check
from clusterpaths.report import view
from clusterpaths.report.choice import read_choice
from clusterpaths.report.comparison import read_comparisons
from clusterpaths.report.evaluation import evaluation_rows
from clusterpaths.report.templates import render
from clusterpaths.report.thumbnails import make_thumbnails, usual_ratio
from clusterpaths.sets.set_files import read_record, read_rows
from clusterpaths.storage.atomic import atomic_write

EXEMPLARS = 8  # pictures of a cluster


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
        nearest_members(rows.clusters[:, layer], rows.distances[:, layer], rows.ids, k[layer], exemplars)
        for layer in range(len(record.layers))
    ]
    top = np.flatnonzero(paths.of_example < top_paths)  # rows on one of the paths that are shown
    shown = min(top_paths, len(paths.counts))
    by_path = [
        top[picked]
        for picked in nearest_members(
            paths.of_example[top], overall_distance(rows.distances)[top], rows.ids[top], shown, exemplars
        )
    ]
    wanted = np.unique(np.concatenate([*(one for layer in by_cluster for one in layer), *by_path, np.empty(0, int)]))
    files = dict(zip(wanted.tolist(), rows.files.take(pa.array(wanted)).to_pylist(), strict=True))
    thumbnails = make_thumbnails(files.values(), read_image)
    content = view.build(record, rows, paths, by_cluster, by_path, files, thumbnails)
    evaluation = read_evaluation(set_dir)
    html = render(
        "report.html",
        page=content,
        record=record,
        name=set_dir.resolve().parent.name,
        comparisons=read_comparisons(set_dir),
        chosen=read_choice(set_dir),
        check=read_check(set_dir),
        evaluation=evaluation,
        evaluation_groups=evaluation_rows(evaluation) if evaluation else (),
        thumbnails=list(thumbnails.values()),
        ratio=f"{usual_ratio(thumbnails.values()):.3f}",
        css=Markup(resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")),  # our own file
    )
    target = set_dir / "report.html"
    # File names need not be valid Unicode (a surrogate stands for a stray byte): show, do not fail.
    atomic_write(target, html.encode("utf-8", errors="replace"))
    return target

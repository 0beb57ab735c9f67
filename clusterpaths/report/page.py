"""Write report.html of a set.

Belongs here: the order of the work. Numbers come from `explore/`, thumbnails from `thumbnails.py`, cards from `view.py`,
layout from `report.html` and `report.css`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from clusterpaths.errors import ConfigError
from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.routes import routes
from clusterpaths.preprocessing.check import CHECK, parse_check
from clusterpaths.report import view
from clusterpaths.report.choice import read_choice
from clusterpaths.report.comparison import read_comparisons
from clusterpaths.report.evaluation import evaluation_rows
from clusterpaths.report.map_picture import draw_maps
from clusterpaths.report.templates import render
from clusterpaths.report.thumbnails import make_thumbnails, median_ratio
from clusterpaths.sets.class_names import about_classes
from clusterpaths.sets.published import PublishedSet

EXEMPLARS = 8  # images per cluster


def write_report(
    published: PublishedSet,
    read_image: Callable[[str], Image.Image],
    *,
    exemplars: int = EXEMPLARS,
    top_paths: int = 12,
) -> Path:
    """Write report.html into the set's directory, atomically.

    Args:
        published: the set.
        read_image: called with names of the `file` column; may raise OSError for a missing image, which
            is shown as a placeholder.
        exemplars: images per cluster and per path; 0 for a page without images.
        top_paths: how many of the most frequent paths are shown.

    Raises:
        CacheError: the set is incomplete or inconsistent.
        ConfigError: a negative number of exemplars or paths.
        DiskError: no room or no permission.
    """
    if exemplars < 0 or top_paths < 0:
        raise ConfigError(f"exemplars and top_paths should be >= 0, got {exemplars} and {top_paths} instead.")
    index = SetIndex(published)
    shown = view.choose_exemplars(index, exemplars, top_paths)
    thumbnails = make_thumbnails(shown.files(), read_image)
    evaluation = read_evaluation(published)
    html = render(
        "report.html",
        page=view.build(index, published.record, shown, thumbnails),
        record=published.record,
        about_classes=about_classes(published.record),
        name=published.path.resolve().parent.name,
        maps=draw_maps(index),
        comparisons=read_comparisons(published, [one.name for one in routes(index).classes]),
        chosen=read_choice(published),
        check=parse_check(published.document(CHECK)),
        evaluation=evaluation,
        evaluation_groups=evaluation_rows(evaluation) if evaluation else (),
        thumbnails=list(thumbnails.values()),
        ratio=f"{median_ratio(thumbnails.values()):.3f}",
        css=Markup(resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
    )
    # File names need not be valid Unicode (a surrogate stands for an undecodable byte): replace, do not fail.
    return published.write("report.html", html.encode("utf-8", errors="replace"))

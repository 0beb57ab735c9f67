"""Reads a set and writes its page.

Belongs here: what is read, what is checked, the order of the work. Numbers come from `explore/`, pictures from
`thumbnails.py`, sentences and cards from `view.py`, looks from `report.html` and `report.css`.
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
from clusterpaths.preprocessing.check import CHECK, parse_check
from clusterpaths.report import view
from clusterpaths.report.choice import read_choice
from clusterpaths.report.comparison import read_comparisons
from clusterpaths.report.evaluation import evaluation_rows
from clusterpaths.report.templates import render
from clusterpaths.report.thumbnails import make_thumbnails, median_ratio
from clusterpaths.sets.published import PublishedSet

EXEMPLARS = 8  # pictures of a cluster


def write_report(
    published: PublishedSet,
    read_image: Callable[[str], Image.Image],
    *,
    exemplars: int = EXEMPLARS,
    top_paths: int = 12,
) -> Path:
    """Write report.html into the set's directory, complete or not at all.

    Args:
        published: the set.
        read_image: called with names of the `file` column; may raise OSError for an image that is gone, which
            then has a placeholder.
        exemplars: pictures for each cluster and each path; 0 for a page without pictures.
        top_paths: how many of the most frequent paths are shown.

    Raises:
        CacheError: the set is not complete, or its parts do not fit together.
        ConfigError: a negative number of pictures or paths.
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
        name=published.path.resolve().parent.name,
        comparisons=read_comparisons(published),
        chosen=read_choice(published),
        check=parse_check(published.document(CHECK)),
        evaluation=evaluation,
        evaluation_groups=evaluation_rows(evaluation) if evaluation else (),
        thumbnails=list(thumbnails.values()),
        ratio=f"{median_ratio(thumbnails.values()):.3f}",
        css=Markup(resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")),  # our own file
    )
    # File names need not be valid Unicode (a surrogate stands for a stray byte): show, do not fail.
    return published.write("report.html", html.encode("utf-8", errors="replace"))

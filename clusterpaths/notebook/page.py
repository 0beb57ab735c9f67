"""A set in a notebook's cell, and its report.

Belongs here: what the cell shows. Its layout is report/notebook.html.
"""

from __future__ import annotations

import os
from pathlib import Path

from markupsafe import Markup

from clusterpaths.errors import ClusterPathsError
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.paths import path_page
from clusterpaths.explore.routes import routes
from clusterpaths.report.colours import PALETTE, Colours
from clusterpaths.report.examples import tile
from clusterpaths.report.page import write_report
from clusterpaths.report.sankey import draw_sankey
from clusterpaths.report.templates import render
from clusterpaths.report.thumbnails import make_thumbnails
from clusterpaths.sets.images import find_images
from clusterpaths.sets.published import PublishedSet

PATHS = 5
EXEMPLARS = 6  # images per path


def report(published: PublishedSet, data_root: str | os.PathLike[str] | None) -> Path:
    """As `PublishedSet.report`."""
    return write_report(published, find_images(published, Path(data_root) if data_root else None))


def set_html(published: PublishedSet) -> str:
    """The Sankey, the sizes of the clusters, the most frequent paths with pictures; or why it cannot be shown."""
    try:
        index: SetIndex = published.index
        colours = Colours(routes(index))
        paths = path_page(index, limit=PATHS, exemplars=EXEMPLARS).paths
        files = (example.file for path in paths for example in path.exemplars)
        pictures = make_thumbnails(files, find_images(published, None))
        return render(
            "notebook.html",
            record=published.record,
            name=published.name,
            n=len(index),
            occupied=len(index.paths.counts),
            sankey=Markup(draw_sankey(index)) if len(index) else "",  # noqa: S704 - our own, escaped there
            sizes=[(layer, sizes.tolist()) for layer, sizes in zip(index.layers, index.sizes, strict=True)],
            paths=[(path, [tile(example, pictures, example.distance) for example in path.exemplars]) for path in paths],
            purities=published.purities,
            colour=lambda layer, cluster: PALETTE[colours.of_cluster(layer, cluster)],
        )
    except ClusterPathsError as error:
        return render("notebook_error.html", set=repr(published), message=str(error))

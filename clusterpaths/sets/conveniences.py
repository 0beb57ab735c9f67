"""What a person asks a set in a notebook: methods of `PublishedSet`, each a module of its own.

Belongs here: names, arguments, types and documentation. The modules that answer import `PublishedSet`, so they are looked up by
name, when a method is called: reading a set imports none of them. Types of this library that they return are named in the
docstrings only, for the same reason.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import polars as pl
    import pyarrow as pa
    from matplotlib.figure import Figure
    from PIL import Image

FrameKind = Literal["pandas", "polars", "pyarrow"]
FigureKind = Literal["plotly", "matplotlib", "svg"]
_ANSWERS = {
    "index": "explore.index:SetIndex",
    "names": "naming.resolve:names_of",
    "frame": "notebook.frame:to_frame",
    "metrics": "evaluation.record:read_evaluation",
    "find": "find.find:find",
    "exemplars": "notebook.gallery:exemplars",
    "sankey": "notebook.figures:sankey",
    "explain": "notebook.explanation:explain",
    "report": "notebook.page:report",
    "html": "notebook.page:set_html",
}


def _answer(what: str, *args: Any, **options: Any) -> Any:
    module, _, function = _ANSWERS[what].partition(":")
    return getattr(import_module(f"clusterpaths.{module}"), function)(*args, **options)


class Conveniences:
    """Methods of `PublishedSet` for notebooks and scripts."""

    @cached_property
    def index(self) -> Any:
        """The set's lookups and sort orders, `clusterpaths.explore.index.SetIndex`; made once."""
        return _answer("index", self)

    @property
    def names(self) -> Any:
        """Names of clusters and paths as they are now, `clusterpaths.naming.resolve.SetNames`: a person's, else a model's, else
        from the data. `names.cluster("fc2", 2).text`, `names.path((3, 4, 4, 3, 3)).text`."""
        return _answer("names", self.index)

    @overload
    def to_frame(self, kind: Literal["pandas"]) -> pd.DataFrame: ...
    @overload
    def to_frame(self, kind: Literal["polars"]) -> pl.DataFrame: ...
    @overload
    def to_frame(self, kind: Literal["pyarrow"]) -> pa.Table: ...
    @overload
    def to_frame(self, kind: None = None) -> pd.DataFrame | pl.DataFrame | pa.Table: ...
    def to_frame(self, kind: FrameKind | None = None) -> pd.DataFrame | pl.DataFrame | pa.Table:
        """One row per example: id, file, split, label, prediction, right, path, path_count, ood_score, confidence, the cluster
        and the distance in each layer, and the attributes.

        Args:
            kind: "pandas", "polars" or "pyarrow"; the first of these that is installed, if left out.

        Raises:
            ConfigError: the package is not installed.
            CacheError: the set's files are missing or inconsistent.
        """
        return _answer("frame", self, kind)

    @property
    def metrics(self) -> Any:
        """metrics.json, `clusterpaths.evaluation.record.Evaluation`; None where the set was not evaluated."""
        return _answer("metrics", self)

    def find(
        self,
        kind: Literal["label-errors", "near-duplicates", "under-covered"],
        limit: int = 50,
        offset: int = 0,
        layer: str = "",
    ) -> Any:
        """A piece of a list of likely label errors, near duplicates or under-covered regions: one of the records of
        `clusterpaths.find.record`, whose `entries` are the list. The first call takes seconds for a large set.

        Args:
            kind: what to look for.
            limit: how many entries, at most.
            offset: how many to skip.
            layer: of under-covered, the one whose neighbours count [the last one].

        Raises:
            ConfigError: a layer for another kind.
            NotFoundError: no such kind or layer; or the set lacks what the list needs, such as labels.
        """
        return _answer("find", self.index, kind, layer=layer, limit=limit, offset=offset)

    def exemplars(
        self,
        layer: str,
        cluster: int,
        count: int = 12,
        *,
        kind: Literal["nearest", "farthest", "random"] = "nearest",
        data_root: str | os.PathLike[str] | None = None,
    ) -> Sequence[Any]:
        """Examples of a cluster: a sequence of records, which shows pictures in a notebook (`notebook.gallery.Gallery`).

        Args:
            layer: its name.
            cluster: its number.
            count: how many, at most.
            kind: nearest to the centroid, farthest from it, or at random (the same ones every time).
            data_root: the directory of the images, if it was moved.

        Raises:
            NotFoundError: no such layer (the nearest is named) or cluster.
        """
        gallery: Sequence[Any] = _answer("exemplars", self, layer, cluster, count, kind, data_root)
        return gallery

    @overload
    def sankey(self, kind: Literal["plotly"]) -> go.Figure: ...
    @overload
    def sankey(self, kind: Literal["matplotlib"]) -> Figure: ...
    @overload
    def sankey(self, kind: Literal["svg"] | None = None) -> Any: ...
    def sankey(self, kind: FigureKind | None = None) -> Any:
        """The figure of all clusters and the examples between those of neighbouring layers.

        Args:
            kind: "plotly" (a plotly.graph_objects.Figure), "matplotlib" (a matplotlib Figure), or "svg" (shown by
                notebooks, `str()` is the document); plotly if it is installed, else svg, if left out.

        Raises:
            ConfigError: the package is not installed.
        """
        return _answer("sankey", self, kind)

    def explain(
        self, image: str | os.PathLike[str] | Image.Image, *, model: str | os.PathLike[str] | None = None
    ) -> Any:
        """Run the set's model on one image and look its path up: `clusterpaths.explanation.record.Explanation`.

        Args:
            image: a picture file, or a picture of Pillow.
            model: the set's ONNX file, if it was moved.

        Raises:
            DatasetError: not a readable image.
            ModelError: another model than the set's, or none.
        """
        return _answer("explain", self, image, model)

    def report(self, *, data_root: str | os.PathLike[str] | None = None) -> Path:
        """Write report.html into the set's directory; its path.

        Args:
            data_root: the directory of the images, if it was moved.

        Raises:
            CacheError: the set's files are missing or inconsistent.
            DiskError: no room or no permission.
        """
        report: Path = _answer("report", self, data_root)
        return report

    def _repr_html_(self) -> str:
        """In a notebook: the Sankey, sizes, the most frequent paths, thumbnails."""
        html: str = _answer("html", self)
        return html

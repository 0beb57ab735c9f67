"""What an assistant may ask: read-only functions over a library of sets, with the same answers as the HTTP API.

Belongs here: names, parameters and their descriptions. `explore/` and `find/` answer; `server.py` speaks the protocol. No text
of a request becomes part of a path: models and sets are looked up by name.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from clusterpaths.comparison.cached import compare_cached
from clusterpaths.comparison.record import Comparison
from clusterpaths.errors import NotFoundError, RefusedImageError
from clusterpaths.evaluation.record import Evaluation, read_evaluation
from clusterpaths.explanation.record import Explanation
from clusterpaths.explanation.uploaded import Explainer
from clusterpaths.explore.ask import ask, choices
from clusterpaths.explore.cluster_detail import cluster_detail
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.images import Images
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.explore.paths import parse_path, path_detail, path_page
from clusterpaths.explore.records import (
    Choices,
    ClusterDetail,
    ExampleDetail,
    ExamplePage,
    ModelSummary,
    PathDetail,
    PathPage,
    Question,
    SetSummary,
)
from clusterpaths.find.find import find
from clusterpaths.find.record import Found, Kind

LARGEST_PICTURE = 1024  # pixels of the longer side
LARGEST_UPLOAD = 20_000_000  # bytes of an image that is explained
MOST_PAIRS = 50  # of classes in a comparison
_LARGEST_INT = 2**63 - 1

Set = Annotated[str, Field(max_length=511, description="MODEL/set_01, or MODEL for its newest set; see the tool sets")]
Limit = Annotated[int, Field(ge=1, le=50, description="maximum number of results")]
Offset = Annotated[int, Field(ge=0, le=_LARGEST_INT, description="number of results to skip")]
Few = Annotated[int, Field(ge=0, le=12, description="examples of each")]
Id = Annotated[int, Field(ge=0, le=_LARGEST_INT, description="an example's id")]


class Tools:
    """The tools. Thread-safe; every function returns a record, or raises an error of `clusterpaths.errors`."""

    def __init__(self, library: Library) -> None:
        self.library, self.images, self.explainer = library, Images(library), Explainer()

    def all(self) -> tuple[Callable[..., Any], ...]:
        """All tools that return records; `example` has a picture, too."""
        return (
            self.sets, self.summary, self.metrics, self.choices, self.search, self.cluster, self.paths, self.path,
            self.compare, self.explain, self.find,
        )  # fmt: skip

    def sets(self) -> tuple[ModelSummary, ...]:
        """List all models and their sets. Start here: the other tools take a set as MODEL/set_01.

        A set is the result of one run: a model's activations of a data set, clustered layer by layer. Each example has a cluster
        in each layer; the sequence is its cluster path, such as 3-2-1-0-4. Examples on the same path were treated alike.
        """
        return self.library.models()

    def summary(self, set: Set) -> SetSummary:  # noqa: A002
        """One set: model, data set, layers, clusters per layer (k), number of examples."""
        return self._index(set).summary

    def metrics(self, set: Set) -> Evaluation:  # noqa: A002
        """How good a set's paths are, measured on held-out examples: decision alignment, agreement, purity, OOD detection."""
        index = self._index(set)
        found = read_evaluation(index.source)
        if found is None:
            raise NotFoundError(f"{index.name} was not evaluated: it has no metrics.json of this version.")
        return found

    def choices(self, set: Set) -> Choices:  # noqa: A002
        """The values that filters of search can have: names of classes, attributes, splits and layers."""
        return choices(self._index(set))

    def search(
        self,
        set: Set,  # noqa: A002
        filters: Annotated[Question, Field(description="all given filters must hold; none: all examples")] = Question(),  # noqa: B008
        limit: Limit = 20,
        offset: Offset = 0,
    ) -> ExamplePage:
        """Search examples by prediction, label, attribute, split, path, cluster; `total` counts all matches.

        Wrong predictions: {"right": "wrong"}. The most unusual ones: {"order": "strange"}. With an attribute and without another:
        {"attribute": ["Smiling", "-Male"]}. Names must be those of the tool choices. To count only, use limit 1.
        """
        return ask(self._index(set), filters, limit=limit, offset=offset)

    def cluster(
        self,
        set: Set,  # noqa: A002
        layer: Annotated[str, Field(max_length=255, description="one of the set's layers")],
        cluster: Annotated[int, Field(ge=0, le=_LARGEST_INT, description="a cluster of that layer, from 0 on")],
        exemplars: Few = 6,
    ) -> ClusterDetail:
        """One cluster: classes, what is over-represented in it (lifts, with intervals), exemplars, where its members come from
        and go to. A lift counts only where `clear` is true."""
        return cluster_detail(self._index(set), layer, cluster, exemplars=exemplars)

    def paths(
        self,
        set: Set,  # noqa: A002
        order: Annotated[Literal["common", "rare"], Field(description="common or rare ones first")] = "common",
        limit: Limit = 10,
        offset: Offset = 0,
        exemplars: Few = 2,
    ) -> PathPage:
        """The cluster paths of a set with their counts and classes, most frequent first."""
        return path_page(self._index(set), order=order, limit=limit, offset=offset, exemplars=exemplars)

    def path(
        self,
        set: Set,  # noqa: A002
        path: Annotated[str, Field(max_length=2000, description="cluster ids from the first layer on: 3-2-1-0-4")],
        exemplars: Few = 6,
    ) -> PathDetail:
        """One path: its classes, what is over-represented on it, and paths that differ in one layer."""
        index = self._index(set)
        return path_detail(index, parse_path(index, path), exemplars=exemplars)

    def example(
        self,
        set: Set,  # noqa: A002
        id: Id,  # noqa: A002
        neighbours: Few = 6,
    ) -> ExampleDetail:
        """One example: prediction, label, path, how unusual it is (OOD score), attributes, similar examples; and its picture."""
        index = self._index(set)
        index.all_top_scores()
        return example_detail(index, id, neighbours=neighbours)

    def picture(self, set: str, example: int, size: int) -> bytes | None:  # noqa: A002
        """An example's JPEG, its longer side at most `size` pixels; None where the set has no picture of it."""
        index = self._index(set)
        try:
            return self.images.jpeg(index, index.row_of(example), min(size, LARGEST_PICTURE))
        except NotFoundError:
            return None

    def compare(
        self,
        first: Annotated[str, Field(max_length=511, description="the set before: MODEL/set_01")],
        second: Annotated[str, Field(max_length=511, description="the set after")],
    ) -> Comparison:
        """What changed from one set to another on the same images: matched clusters, paths, predictions.

        Of changed decisions, the most frequent pairs of classes."""
        found = compare_cached(self._index(first), self._index(second))
        decisions = found.decisions and found.decisions.model_copy(
            update={
                "counts": tuple(one.model_copy(update={"examples": ()}) for one in found.decisions.counts[:MOST_PAIRS])
            }
        )
        return found.model_copy(update={"decisions": decisions})

    def explain(
        self,
        set: Set,  # noqa: A002
        image: Annotated[
            str,
            Field(
                max_length=LARGEST_UPLOAD * 4 // 3 + 4,
                description="a picture as base64 or data URL: JPEG, PNG, WebP, BMP or GIF",
            ),
        ] = "",
        example: Annotated[
            int | None,
            Field(ge=0, le=_LARGEST_INT, description="or the id of an example of the set, whose picture is taken"),
        ] = None,
    ) -> Explanation:
        """Run the set's model on one picture: its prediction and path, how usual both are, and the nearest other decision."""
        index = self._index(set)
        if (not image) == (example is None):
            raise RefusedImageError("Expected either image or example; give one of them.", 422)
        if example is not None:
            row = index.row_of(example)
            return self.explainer.explain_picture(
                index, lambda: self.images.picture(index, row), index.file(row)
            ).explanation
        try:
            content = base64.b64decode(_without_scheme(image), validate=True)
        except ValueError as error:  # binascii.Error, too
            raise RefusedImageError(f"The image is not base64: {error}. Encode the bytes of the file.", 422) from error
        return self.explainer.explain(index, content, "image").explanation

    def find(
        self,
        set: Set,  # noqa: A002
        kind: Annotated[
            Kind,
            Field(
                description="label-errors: labels that are likely wrong; near-duplicates: pictures that are there more than "
                "once, also across splits (leakage); under-covered: kinds of images of which there are too few"
            ),
        ],
        limit: Limit = 20,
        offset: Offset = 0,
        layer: Annotated[
            str, Field(description="of under-covered: the layer whose neighbours count; empty: the last one")
        ] = "",
    ) -> Found:
        """Data work: find examples to relabel, to remove, or to collect more of. The first call takes seconds for a large set."""
        return find(self._index(set), kind, layer=layer, limit=limit, offset=offset)

    def _index(self, name: str) -> SetIndex:
        model, slash, set_name = name.partition("/")
        return self.library.set(model, set_name) if slash else self.library.newest(model)


def _without_scheme(image: str) -> str:
    """The base64 of data:image/png;base64,…, and of lines."""
    joined = "".join(image.split())
    return joined.partition(",")[2] if joined.startswith("data:") else joined

"""/api/v1: records of clusterpaths/explore as JSON.

Belongs here: addresses, parameters and their bounds. The called functions look up models, sets, layers and examples; no
text of a request becomes a path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, File, Path, Query, Request, UploadFile
from pydantic import AfterValidator, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from clusterpaths.common.disclosure import names_file
from clusterpaths.comparison.cached import compare_cached
from clusterpaths.comparison.record import Comparison
from clusterpaths.errors import CacheError, DatasetError, NotFoundError
from clusterpaths.evaluation.record import Evaluation, read_evaluation
from clusterpaths.explanation.look_up import explain_example, prepare_example
from clusterpaths.explanation.record import Explanation
from clusterpaths.explore.alike import alike, prepare_alike
from clusterpaths.explore.cluster_detail import cluster_detail
from clusterpaths.explore.clusters import cluster_infos, exemplars
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.paths import parse_path, path_detail, path_page
from clusterpaths.explore.records import (
    AlikePage,
    ClusterDetail,
    ClusterInfo,
    ExampleDetail,
    ExamplePage,
    Exemplars,
    ModelSummary,
    PathDetail,
    PathPage,
    Question,
    Routes,
    SetSummary,
    Transition,
)
from clusterpaths.explore.routes import routes
from clusterpaths.records import Record
from clusterpaths.server.answers import encode, has, json_answer, not_modified, of_set, of_version, tag_of
from clusterpaths.server.dependencies import ImagesOf, LibraryOf
from clusterpaths.server.uploads import explain_upload

SIZES = (0, 48, 64, 96, 128, 160, 192, 224, 256, 320, 480, 640, 1024)  # few, for cache hits
LARGEST_INT = 2**63 - 1

MANY = tuple(name for name, field in Question.model_fields.items() if field.default == ())  # may be repeated
MOST_FILTERS = 50  # in a query, besides ids
MOST_IDS = 1000
LONGEST = 2000  # characters of one value
LONGEST_OF = {"within": 4000}  # 64 corners with all digits


def refusal(pairs: Sequence[tuple[str, str]]) -> str:
    """An error message if a query is too large; empty if not."""
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1 and name not in MANY:
            return f"{name} is given {times:,} times. Expected it once; take the others out."
    filters, ids = (sum((name == "id") == of_ids for name, _ in pairs if name in MANY) for of_ids in (False, True))
    if filters > MOST_FILTERS:
        return f"There are {filters:,} filters. Expected at most {MOST_FILTERS}, ids aside; ask for fewer at once."
    if ids > MOST_IDS:
        return f"There are {ids:,} ids. Expected at most {MOST_IDS:,}; ask for them in several pieces."
    long = next((name for name, value in pairs if len(value) > LONGEST_OF.get(name, LONGEST)), "")
    return f"{long[:80]} is too long. Expected at most {LONGEST_OF.get(long, LONGEST):,} characters." if long else ""


async def sane(request: Request) -> None:
    """Raises: HTTPException."""
    if wrong := refusal(request.query_params.multi_items()):
        raise HTTPException(422, wrong)


router = APIRouter(prefix="/api/v1", dependencies=[Depends(sane)])
OF_SET = "/models/{model}/sets/{set}"


def _known_size(value: int) -> int:
    if value not in SIZES:
        raise ValueError(f"should be one of {', '.join(map(str, SIZES))}; 0 is the full size")
    return value


Model = Annotated[str, Path(description="directory in the results directory", max_length=255)]
Set = Annotated[str, Path(description="set_01 and so on", max_length=255)]
Layer = Annotated[str, Path(description="one of the set's layers", max_length=255)]
Cluster = Annotated[int, Path(description="a cluster of that layer, from 0 on", ge=0, le=LARGEST_INT)]
Id = Annotated[int, Path(description="an example's id", ge=0, le=LARGEST_INT)]
Limit = Annotated[int, Field(ge=1, le=1000, description="maximum number of results")]
Offset = Annotated[int, Field(ge=0, le=LARGEST_INT, description="number of results to skip")]
Few = Annotated[int, Field(ge=0, le=100)]
Size = Annotated[int, AfterValidator(_known_size), Field(json_schema_extra={"enum": list(SIZES)})]


class Nothing(Record):
    """No parameters; unknown ones are rejected."""


class Exemplary(Record):
    """Which members of a cluster."""

    kind: Exemplars = Field(
        "nearest", description="to the cluster's centroid; random ones are the same for every request"
    )
    limit: Limit = 50
    offset: Offset = 0


class Paths(Record):
    """A page of the list of paths."""

    order: Annotated[str, Field(pattern="^(common|rare)$", description="common or rare ones first")] = "common"
    limit: Limit = 20
    offset: Offset = 0
    exemplars: Few = Field(8, description="examples of each")


class HowMany(Record):
    """How many exemplars."""

    exemplars: Few = 12


class Neighbours(Record):
    """How many neighbours."""

    neighbours: Few = 12


class AtDepth(Record):
    """How deep in the network, and how many."""

    depth: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="0: by the first layer, 1: by the last one")
    limit: Few = 24


class Picture(Record):
    """How large a picture is."""

    size: Size = Field(160, description="maximum number of pixels of the longer side; 0: original size")
    v: str = Field("", max_length=200, description="the set's version: then the answer may be cached for an hour")


class Two(Record):
    """Two sets."""

    first: str = Field(max_length=511, description="the set before: MODEL/set_01")
    second: str = Field(max_length=511, description="the set after")


None_ = Annotated[Nothing, Query()]


@router.get("/models", tags=["sets"], response_model=tuple[ModelSummary, ...])
def models(library: LibraryOf, _: None_) -> Response:
    """All models and their sets; and sets that cannot be shown, with the reason."""
    return json_answer(encode(library.models()))


@router.get("/models/{model}", tags=["sets"], response_model=ModelSummary)
def one_model(library: LibraryOf, model: Model, _: None_) -> Response:
    """One model's sets."""
    return json_answer(encode(library.model(model)))


@router.get(OF_SET, tags=["sets"], response_model=SetSummary)
def summary(request: Request, model: Model, set: Set, _: None_) -> Response:  # noqa: A002  # as in the address
    """Summary of one set."""
    return of_set(request, model, set, lambda index: index.summary)


@router.get(f"{OF_SET}/routes", tags=["routes"], response_model=Routes)
def all_routes(request: Request, model: Model, set: Set, _: None_) -> Response:  # noqa: A002
    """The Sankey: clusters, and the transitions between neighbouring layers."""
    return of_set(request, model, set, routes)


@router.get(f"{OF_SET}/transitions", tags=["routes"], response_model=tuple[Transition, ...])
def transitions(request: Request, model: Model, set: Set, _: None_) -> Response:  # noqa: A002
    """Number of examples from each cluster to each of the next layer."""
    return of_set(request, model, set, lambda index: routes(index).transitions)


@router.get(f"{OF_SET}/clusters", tags=["clusters"], response_model=tuple[ClusterInfo, ...])
def clusters(request: Request, model: Model, set: Set, _: None_) -> Response:  # noqa: A002
    """Summaries of all clusters."""
    return of_set(request, model, set, cluster_infos)


@router.get(  # before the next one, whose layer would match all of it
    f"{OF_SET}/clusters/{{layer:path}}/{{cluster}}/exemplars", tags=["clusters"], response_model=ExamplePage
)
def cluster_exemplars(
    request: Request,
    model: Model,
    set: Set,  # noqa: A002
    layer: Layer,
    cluster: Cluster,
    wanted: Annotated[Exemplary, Query()],
) -> Response:
    """Members of a cluster, page by page."""
    return of_set(
        request,
        model,
        set,
        lambda index: exemplars(index, layer, cluster, wanted.kind, wanted.limit, wanted.offset),
    )


@router.get(f"{OF_SET}/clusters/{{layer:path}}/{{cluster}}", tags=["clusters"], response_model=ClusterDetail)
def one_cluster(
    request: Request,
    model: Model,
    set: Set,  # noqa: A002
    layer: Layer,
    cluster: Cluster,
    wanted: Annotated[HowMany, Query()],
) -> Response:
    """One cluster: exemplars, what is over-represented in it, where its members come from and go to."""
    return of_set(request, model, set, lambda index: cluster_detail(index, layer, cluster, exemplars=wanted.exemplars))


@router.get(f"{OF_SET}/paths", tags=["paths"], response_model=PathPage)
def paths(request: Request, model: Model, set: Set, wanted: Annotated[Paths, Query()]) -> Response:  # noqa: A002
    """Cluster paths by frequency, page by page."""
    asked = wanted.model_dump()
    return of_set(request, model, set, lambda index: path_page(index, **asked))


@router.get(f"{OF_SET}/paths/{{path}}", tags=["paths"], response_model=PathDetail)
def one_path(
    request: Request,
    model: Model,
    set: Set,  # noqa: A002
    path: Annotated[str, Path(description="cluster ids from the first layer on: 3-2-1-0-4", max_length=2000)],
    wanted: Annotated[HowMany, Query()],
) -> Response:
    """One path; its examples are at /examples?path=3-2-1-0-4."""
    return of_set(
        request,
        model,
        set,
        lambda index: path_detail(index, parse_path(index, path), exemplars=wanted.exemplars),
    )


@router.get(f"{OF_SET}/examples/{{id}}", tags=["examples"], response_model=ExampleDetail)
def one_example(
    request: Request,
    model: Model,
    set: Set,  # noqa: A002
    id: Id,  # noqa: A002
    wanted: Annotated[Neighbours, Query()],
) -> Response:
    """One example: prediction, path, OOD score and similar examples."""
    return of_set(
        request,
        model,
        set,
        lambda index: example_detail(index, id, neighbours=wanted.neighbours),
        before=lambda index: index.all_top_scores(),
    )


@router.get(f"{OF_SET}/examples/{{id}}/alike", tags=["examples"], response_model=AlikePage)
def alike_examples(
    request: Request,
    model: Model,
    set: Set,  # noqa: A002
    id: Id,  # noqa: A002
    wanted: Annotated[AtDepth, Query()],
) -> Response:
    """The examples nearest to one, by the first layer (looks alike), the last one (decided alike), or between."""
    return of_set(
        request,
        model,
        set,
        lambda index: alike(index, id, wanted.depth, count=wanted.limit),
        before=lambda index: prepare_alike(index, id, wanted.depth, count=wanted.limit),
    )


@router.get(f"{OF_SET}/examples/{{id}}/explanation", tags=["explain"], response_model=Explanation)
def example_explanation(request: Request, model: Model, set: Set, id: Id, _: None_) -> Response:  # noqa: A002
    """An example as `explain` explains an image, by what is stored: the model is not run, so there is no counterfactual."""
    return of_set(
        request,
        model,
        set,
        lambda index: explain_example(index, index.row_of(id)),
        before=lambda index: prepare_example(index, index.row_of(id)),
    )


@router.get(
    f"{OF_SET}/examples/{{id}}/image",
    tags=["examples"],
    response_class=Response,
    responses={200: {"description": "a JPEG", "content": {"image/jpeg": {"schema": {"type": "string"}}}}},
)
def example_image(
    request: Request,
    library: LibraryOf,
    images: ImagesOf,
    model: Model,
    set: Set,  # noqa: A002
    id: Id,  # noqa: A002
    wanted: Annotated[Picture, Query()],
) -> Response:
    """An example's image, for an img element."""
    index = library.set(model, set)
    row = index.row_of(id)
    version = index.summary.version
    stamp = images.stamp(index, row)
    tag = tag_of(version, str(index.folder), str(id), str(wanted.size), str(stamp))
    cache = "private, max-age=3600" if wanted.v == version else "private, no-cache"
    if has(request, tag):
        return not_modified(tag, cache)
    content = images.jpeg(index, row, wanted.size, stamp)
    return Response(content, media_type="image/jpeg", headers={"ETag": tag, "Cache-Control": cache})


@router.get(f"{OF_SET}/metrics", tags=["sets"], response_model=Evaluation)
def metrics(library: LibraryOf, model: Model, set: Set, _: None_) -> Response:  # noqa: A002
    """Metrics of the set."""
    index = library.set(model, set)
    found = read_evaluation(index.source)
    if found is None:
        raise NotFoundError(f"{model}/{set} was not evaluated: it has no metrics.json of this version.")
    return json_answer(encode(found))


@router.post(f"{OF_SET}/explain", tags=["explain"], response_model=Explanation)
async def explain(
    request: Request,
    library: LibraryOf,
    model: Model,
    set: Set,  # noqa: A002
    image: Annotated[UploadFile, File(description="a picture: JPEG, PNG, WebP, BMP or GIF")],
) -> Response:
    """Run the set's model on an image: its prediction, its path, and both compared with the set."""
    index = await run_in_threadpool(library.set, model, set)
    return json_answer(encode((await explain_upload(request, index, image)).explanation))


@router.get("/comparisons", tags=["compare"], response_model=Comparison)
def comparison(request: Request, library: LibraryOf, two: Annotated[Two, Query()]) -> Response:
    """What changed from one set to another: of one model, or of two on the same images."""
    first, second = (library.set(*_parts(name)) for name in (two.first, two.second))
    versions = f"{first.summary.version} {second.summary.version}"
    try:
        return of_version(request, versions, f"{first.folder} {second.folder}", lambda: compare_cached(first, second))
    except (CacheError, DatasetError) as error:
        if names_file(str(error)):
            raise
        raise HTTPException(409, str(error)) from error  # two sets that are not comparable


def _parts(name: str) -> tuple[str, str]:
    model, _, set_name = name.partition("/")
    return model, set_name

"""The endpoints of existing dashboards.

Belongs here: addresses, shapes, clamps and status codes of that contract. Clients may cache answers about a set and
revalidate them (ETag). `explore/documents.py` creates the texts, `explore/images.py` the images.

Handlers are plain functions, which run in threads, as nearly all of them read the disk.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.responses import Response

from clusterpaths.config import MAX_K
from clusterpaths.errors import NoRunError, NotFoundError
from clusterpaths.explore import documents
from clusterpaths.explore.images import Images, Stamp
from clusterpaths.explore.library import Library
from clusterpaths.server.answers import has, not_modified, tag_of
from clusterpaths.server.contract.runs import RunAnswer, RunRequest, start_run
from clusterpaths.server.contract.shapes import (
    Attributes,
    AttributeValue,
    Centroids,
    ClusterImages,
    ExampleImage,
    ExamplePath,
    Filtered,
    Health,
    IdToIndex,
    Metadata,
    Models,
    PathImages,
    PathQuestion,
    Paths,
    Sets,
)
from clusterpaths.server.dependencies import DocumentsOf, ImagesOf, LibraryOf, SettingsOf
from clusterpaths.server.streaming import FileWithin, Parts, Pieces

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex

MOST_PATHS = 10_000
MOST_IMAGES = 100
LONGEST_SIDE = 512  # pixels of a picture in an answer; CelebA's are smaller and come as they are
_NOT_CACHED = {"Cache-Control": "private, no-store"}  # missing images may be available again soon

router = APIRouter(tags=["contract"])
ModelQuery = Annotated[str | None, Query(description="the model whose examples are meant [the default one]")]
SetQuery = Annotated[str | None, Query(alias="set", description="its set [the newest]")]
Limit = Annotated[int, Query(description=f"brought into 1 … {MOST_IMAGES}")]


@router.get("/health", response_model=Health)
async def health() -> Any:
    """Whether the server answers."""
    return {"status": "ok"}


@router.get("/models", response_model=Models)
def models(library: LibraryOf) -> Response:
    """All result directories."""
    return Pieces(*_json(models=library.names()))  # a dict would be validated in another thread


@router.get("/models/{model}/sets", response_model=Sets)
def sets(model: str, library: LibraryOf) -> Response:
    """The sets of a model."""
    return Pieces(*_json(model=model, sets=[summary.set for summary in library.model(model).sets]))


@router.get("/models/{model}/metadata", response_model=Metadata)
def metadata(model: str, request: Request, library: LibraryOf) -> Response:
    """The model's metadata.json."""
    content = documents.metadata(library.root / library.model(model).name)  # an existing name
    tag = tag_of(request.url.path, content.decode())
    return _answer(request, tag, lambda: (_object(model=model), b', "metadata": ', content.strip(), b"}"))


@router.get("/models/{model}/sets/{set}/centroids", response_model=Centroids)
def centroids(model: str, set: str, request: Request, library: LibraryOf) -> Response:  # noqa: A002 - the address's word
    """The centroids of each layer: k rows of the layer's width."""
    index = library.set(model, set)
    found = documents.centroids(index)
    start = _object(model=model, set=set) + b', "centroids": '
    tag = _tag_of(request, index)
    if isinstance(found, bytes):
        return _answer(request, tag, lambda: (start, found, b"}"))
    return _unchanged(request, tag) or FileWithin(start, found, b"}", _caching(tag))


@router.get("/models/{model}/sets/{set}/paths", response_model=Paths)
def paths(
    model: str,
    set: str,  # noqa: A002
    request: Request,
    library: LibraryOf,
    texts: DocumentsOf,
    limit: Annotated[int, Query(description=f"brought into 1 … {MOST_PATHS}")] = 50,
    offset: Annotated[int, Query(description="0 where negative")] = 0,
) -> Response:
    """Cluster paths by example, page by page."""
    index = library.set(model, set)
    limit, offset = _clamp(limit, MOST_PATHS), max(offset, 0)

    start = _object(model=model, set=set, total=len(index.ids), limit=limit, offset=offset)
    return _answer(
        request, _tag_of(request, index), lambda: (start, b', "paths": {', texts.paths(index, limit, offset), b"}}")
    )


@router.get("/models/{model}/sets/{set}/paths/{example_id}", response_model=ExamplePath)
def path_of_example(
    model: str,
    set: str,  # noqa: A002
    example_id: str,
    request: Request,
    library: LibraryOf,
) -> Response:
    """One example's cluster path, by its key."""
    index = library.set(model, set)
    path = documents.path_of(index, documents.row_of_key(index, example_id))
    return _answer(
        request, _tag_of(request, index), lambda: _json(model=model, set=set, example_id=example_id, path=path)
    )


@router.get("/images/example/{id}", response_model=ExampleImage)
def image_of_example(
    id: int,  # noqa: A002
    request: Request,
    library: LibraryOf,
    images: ImagesOf,
    model: ModelQuery = None,
    set_: SetQuery = None,
) -> Response:
    """The image of one example, by its id."""
    index = _chosen(library, model, set_)
    row = documents.row_of_id(index, id)
    stamp = images.stamp(index, row)
    return _answer(
        request,
        _tag_of(request, index, stamp),
        lambda: _json(example_id=id, image_base64=images.base64(index, row, LONGEST_SIDE, stamp).decode("ascii")),
    )


@router.get("/images/cluster/{layer:path}/{cluster}", response_model=ClusterImages)
def images_of_cluster(
    layer: str,
    cluster: int,
    request: Request,
    library: LibraryOf,
    images: ImagesOf,
    limit: Limit = 20,
    model: ModelQuery = None,
    set_: SetQuery = None,
) -> Response:
    """Pictures of the examples in a cluster, nearest to its centroid first."""
    index = _chosen(library, model, set_)
    at = index.layer_index(layer)
    index.require_cluster(at, cluster)
    limit = _clamp(limit, MOST_IMAGES)

    rows = index.members(at, cluster)[:limit].tolist()
    tag, stamps = None, dict[int, Stamp]()
    with contextlib.suppress(NotFoundError):  # one is missing: the others are sent, but not cached
        stamps |= {row: images.stamp(index, row) for row in rows}
        tag = _tag_of(request, index, list(stamps.values()))
        if (unchanged := _unchanged(request, tag)) is not None:
            return unchanged
    pictures, complete = _pictures(images, index, rows, stamps)
    start = _object(layer=layer, cluster_id=cluster, limit=limit)
    return Pieces(start, *_shown(pictures), headers=_caching(tag) if complete and tag else _NOT_CACHED)


@router.post("/images/path", response_model=PathImages)
def images_of_path(question: PathQuestion, library: LibraryOf, images: ImagesOf) -> Response:
    """Images of the examples on exactly this path; none if it is not occupied."""
    index = _chosen(library, question.model, question.set)
    path = _path(question.path, len(index.layers))
    limit = _clamp(20 if question.limit is None else question.limit, MOST_IMAGES)
    rows: Iterable[int] = ()
    if all(0 <= cluster <= MAX_K for cluster in path):
        with contextlib.suppress(NotFoundError):
            rows = index.on_path(index.path_rank(tuple(path)))[:limit]
    pictures, _ = _pictures(images, index, rows)
    return Pieces(_object(path=path, limit=limit), *_shown(pictures))


@router.get("/models/{model}/attributes", response_model=Attributes)
def attributes(model: str, request: Request, library: LibraryOf) -> Response:
    """Attributes of the examples of the newest set."""
    index = library.newest(model)
    return _answer(request, _tag_of(request, index), lambda: _json(model=model, attributes=list(index.attributes)))


@router.get("/models/{model}/attributes/filter", response_model=Filtered)
def filter_by_attribute(
    model: str,
    attr: str,
    value: AttributeValue,
    request: Request,
    library: LibraryOf,
    texts: DocumentsOf,
) -> Response:
    """Ids of the examples of the newest set that have (1) or lack (-1) an attribute; unknown values match neither."""
    index = library.newest(model)
    count, ids = texts.with_attribute(index, attr, value)
    start = _object(model=model, attribute=attr, value=int(value), count=count)
    return _answer(request, _tag_of(request, index), lambda: (start, b', "example_ids": [', ids, b"]}"))


@router.get("/models/{model}/id-to-index", response_model=IdToIndex)
def id_to_index(model: str, request: Request, library: LibraryOf, texts: DocumentsOf) -> Response:
    """The id of each example of the newest set, mapped to the number in its key of paths.json: the same number."""
    index = library.newest(model)
    count = b', "count": %d}' % len(index.ids)
    return _answer(
        request,
        _tag_of(request, index),
        lambda: (_object(model=model), b', "id_to_index": ', texts.id_to_index(index), count),
    )


@router.post("/run", response_model=RunAnswer)
async def run(question: RunRequest, library: LibraryOf, settings: SettingsOf) -> RunAnswer:
    """Start a run of the deployment for a model and a data set."""
    try:
        return await start_run(
            question, library, settings.prefect_api, settings.deployment, own_root=settings.cache_root is not None
        )
    except NoRunError as error:
        raise HTTPException(503, str(error)) from error


def _chosen(library: Library, model: str | None, name: str | None) -> SetIndex:
    """The set that a request about images refers to."""
    if model is None and name is None:
        return library.default()
    if model is None:
        model = library.default().summary.model
    return library.newest(model) if name is None else library.set(model, name)


def _pictures(
    images: Images, index: SetIndex, rows: Iterable[int], stamps: Mapping[int, Stamp] | None = None
) -> tuple[list[bytes], bool]:
    """The readable images in base64, and whether all are readable; fails only if none is."""
    made: list[bytes] = []
    failed: NotFoundError | None = None
    for row in rows:
        try:
            made.append(images.base64(index, int(row), LONGEST_SIDE, (stamps or {}).get(row)))
        except NotFoundError as error:  # a missing file does not hide the others
            failed = error
    if failed is not None and not made:
        raise failed
    return made, failed is None


def _shown(pictures: list[bytes]) -> Parts:
    """The end of a JSON object with these pictures: base64 needs no escaping, which was the slowest part."""
    return b', "images": [', b", ".join(b'"%b"' % one for one in pictures), b"]}"


def _path(given: Any, layers: int) -> list[int]:
    if not isinstance(given, list):
        raise HTTPException(
            400, f"path is not a list. Expected one cluster id per layer, {layers} in all, such as [2, 0, 4]."
        )
    if not all(type(cluster) is int for cluster in given):
        raise HTTPException(400, "path holds values other than integers. Expected cluster ids, such as [2, 0, 4].")
    if len(given) != layers:
        raise HTTPException(400, f"path has {len(given)} cluster ids. Expected {layers}, one per layer.")
    return given


def _clamp(limit: int, most: int) -> int:
    return min(max(limit, 1), most)


def _object(**fields: Any) -> bytes:
    """The beginning of a JSON object, without the closing brace."""
    return json.dumps(fields)[:-1].encode()


def _json(**fields: Any) -> Parts:
    return (json.dumps(fields).encode(),)


def _tag_of(request: Request, index: SetIndex, files: Any = ()) -> str:
    """`files`: changes with the files that are shown."""
    summary = index.summary
    return tag_of(summary.model, summary.set, summary.version, request.url.path, request.url.query, str(files))


def _caching(tag: str) -> dict[str, str]:
    return {"ETag": tag, "Cache-Control": "private, no-cache"}  # to be revalidated: a set can be replaced


def _unchanged(request: Request, tag: str) -> Response | None:
    """304 if the client has it already."""
    return not_modified(tag) if has(request, tag) else None


def _answer(request: Request, tag: str, make: Callable[[], Parts]) -> Response:
    return _unchanged(request, tag) or Pieces(*make(), headers=_caching(tag))

"""/api/v1/…/names: names and notes of a set's clusters and paths; with --edit they can be changed.

Belongs here: addresses and answers. `naming/resolve.py` chooses names, `naming/annotations.py` writes them.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from clusterpaths.errors import CacheError, DiskError, EditConflictError
from clusterpaths.explore.index import SetIndex
from clusterpaths.naming.annotations import LONGEST_BY, LONGEST_NAME, LONGEST_NOTE, edit
from clusterpaths.naming.record import Name, check_key, is_path_key
from clusterpaths.naming.resolve import SetNames, names_of, read_again
from clusterpaths.records import Record
from clusterpaths.server.answers import encode, json_answer, of_version
from clusterpaths.server.api.v1 import OF_SET, Model, None_, Set, sane
from clusterpaths.server.dependencies import LibraryOf, SettingsOf
from clusterpaths.server.middleware.log import LOGGER
from clusterpaths.sets.published import PublishedSet

NO_EDITING = "this server was started without --edit: names cannot be changed"

router = APIRouter(prefix="/api/v1", dependencies=[Depends(sane)])
Key = Annotated[str, Path(description="conv3/2: cluster 2 of layer conv3; 0-1-4: a path", max_length=2000)]


class Names(Record):
    """Names of a set."""

    set: str = Field(description="MODEL/set_01")
    editable: bool = Field(description="whether this server changes names")
    problem: str = Field(description="why annotations.json is not shown; empty: it is, or there is none")
    clusters: tuple[Name, ...] = Field(description="of all clusters, by layer, then number")
    paths: tuple[Name, ...] = Field(description="of paths with a name or note of their own, by key")


class NameEdit(Record):
    """A name or note by a person; both empty: the person's entry is removed."""

    name: str = Field("", max_length=2 * LONGEST_NAME)
    note: str = Field("", max_length=2 * LONGEST_NOTE)
    by: str = Field("", max_length=2 * LONGEST_BY, description="who says so")
    revision: int = Field(
        0, ge=0, description="of the name that the edit was made on; 409 if it has another one by now"
    )


@router.get(f"{OF_SET}/names", tags=["names"], response_model=Names)
def all_names(request: Request, library: LibraryOf, settings: SettingsOf, model: Model, set: Set, _: None_) -> Response:  # noqa: A002
    """Names of all clusters, and of paths that have one of their own."""
    index = library.set(model, set)
    names = names_of(index)
    editable = settings.edit and names.can_be_edited

    def answer() -> Names:
        return Names(
            set=index.name,
            editable=editable,
            problem=names.problem,
            clusters=tuple(name for layer in names.clusters for name in layer),
            paths=names.of_paths,
        )

    return of_version(request, f"{index.summary.version} {names.version}", str(index.folder), answer)


@router.get(f"{OF_SET}/names/{{key:path}}", tags=["names"], response_model=Name)
def one_name(library: LibraryOf, model: Model, set: Set, key: Key, _: None_) -> Response:  # noqa: A002
    """The name of one cluster or path."""
    index = library.set(model, set)
    return json_answer(encode(name_of_key(index, names_of(index), key)))


@router.put(f"{OF_SET}/names/{{key:path}}", tags=["names"], response_model=Name)
def change_name(
    library: LibraryOf,
    settings: SettingsOf,
    model: Model,
    set: Set,  # noqa: A002
    key: Key,
    wanted: NameEdit,
) -> Response:
    """Name or annotate a cluster or path; only if the server was started with --edit."""
    require_editing(settings.edit)
    index = library.set(model, set)
    try:
        change(index, key, wanted)
    except EditConflictError as error:
        raise HTTPException(409, str(error)) from error  # names of layers may look like files
    return json_answer(encode(name_of_key(index, names_of(index), key)))


def require_editing(allowed: bool) -> None:
    """Raises: HTTPException."""
    if not allowed:
        raise HTTPException(403, NO_EDITING)


def change(index: SetIndex, key: str, wanted: NameEdit) -> None:
    """Write an edit.

    Raises:
        EditConflictError: somebody else changed it meanwhile, or the annotations beside the set cannot be changed.
        ClusterPathsError: as `naming.annotations.edit`.
    """
    if not isinstance(index.source, PublishedSet):
        raise EditConflictError(f"{index.name} was made by another program, without a record: it cannot be annotated.")
    try:
        edit(index.source, key, name=wanted.name, note=wanted.note, by=wanted.by, revision=wanted.revision)
    except CacheError as error:  # another set's, or corrupted: the same until somebody moves it away
        raise EditConflictError(str(error)) from error
    except DiskError as error:
        LOGGER.warning("%s", error)
        text = f"The directory of {index.name} is full or may not be written to, so the name was not saved."
        raise EditConflictError(f"{text} Free some room or change its permissions; then save again.") from error
    finally:
        read_again(index.source)


def name_of_key(index: SetIndex, names: SetNames, key: str) -> Name:
    """Raises: NotFoundError."""
    key = check_key(key, index.summary.k_per_layer, index.name)
    if is_path_key(key):
        return names.path([int(step) for step in key.split("-")])
    layer, _, cluster = key.rpartition("/")
    return names.cluster(layer, int(cluster))

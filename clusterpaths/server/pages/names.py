"""…/names: the form that names a cluster or path, as browsers without JavaScript send it.

Belongs here: the way back to the page, and the page of an edit that was refused. `api/names.py` writes.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from clusterpaths.errors import ConfigError, EditConflictError
from clusterpaths.naming.record import is_path_key
from clusterpaths.naming.resolve import names_of
from clusterpaths.server.api.names import NameEdit, change, name_of_key, require_editing
from clusterpaths.server.dependencies import LibraryOf, SettingsOf
from clusterpaths.server.pages.rendering import render
from clusterpaths.server.pages.set_view import SetView, set_view

router = APIRouter(default_response_class=HTMLResponse)


class NameForm(NameEdit):
    """An edit, and what it names."""

    key: str


@router.post("/explore/{model}/{name}/names")
def rename(
    request: Request,
    library: LibraryOf,
    settings: SettingsOf,
    model: str,
    name: str,
    form: Annotated[NameForm, Form()],
) -> Response:
    """Save a name and go back to the page; or show both texts if somebody else saved one meanwhile."""
    require_editing(settings.edit)
    index = library.set(model, name)
    current = name_of_key(index, names_of(index), form.key)
    back = f"{_address(set_view(index), current.key)}#name"
    try:
        change(index, form.key, form)
    except (EditConflictError, ConfigError) as error:
        current = name_of_key(index, names_of(index), form.key)
        return render(
            request,
            "rename.html",
            409 if isinstance(error, EditConflictError) else 422,
            index=index,
            title="Somebody else changed this name" if current.revision != form.revision else "Not saved",
            problem=str(error),
            key=current.key,
            back=back,
            current=current if names_of(index).can_be_edited else None,
            given=form,
        )
    return RedirectResponse(back, 303)


def _address(view: SetView, key: str) -> str:
    if is_path_key(key):
        return view.path_url([int(step) for step in key.split("-")])
    layer, _, cluster = key.rpartition("/")
    return view.cluster_url(layer, int(cluster))

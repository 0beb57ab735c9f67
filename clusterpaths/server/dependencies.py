"""Dependencies of request handlers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from clusterpaths.explore.documents import Documents
from clusterpaths.explore.images import Images
from clusterpaths.explore.library import Library
from clusterpaths.monitoring.history import History
from clusterpaths.server.settings import ServeConfig


async def _library(request: Request) -> Library:  # async: a plain function would take a thread of its own for this
    library: Library = request.app.state.library
    return library


async def _settings(request: Request) -> ServeConfig:
    settings: ServeConfig = request.app.state.settings
    return settings


async def _documents(request: Request) -> Documents:
    found: Documents = request.app.state.documents
    return found


async def _images(request: Request) -> Images:
    found: Images = request.app.state.images
    return found


async def _history(request: Request) -> History:
    found: History = request.app.state.history
    return found


LibraryOf = Annotated[Library, Depends(_library)]
SettingsOf = Annotated[ServeConfig, Depends(_settings)]
DocumentsOf = Annotated[Documents, Depends(_documents)]
ImagesOf = Annotated[Images, Depends(_images)]
HistoryOf = Annotated[History, Depends(_history)]

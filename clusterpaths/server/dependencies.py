"""What a request finds through the application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from clusterpaths.explore.library import Library
from clusterpaths.server.settings import ServeConfig


def _library(request: Request) -> Library:
    library: Library = request.app.state.library
    return library


def _settings(request: Request) -> ServeConfig:
    settings: ServeConfig = request.app.state.settings
    return settings


LibraryOf = Annotated[Library, Depends(_library)]
SettingsOf = Annotated[ServeConfig, Depends(_settings)]

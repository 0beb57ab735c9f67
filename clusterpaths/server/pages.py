"""The explorer's pages: server-rendered, one address a view."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()

"""/api/v1, our own endpoints: records of clusterpaths/explore as JSON."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()

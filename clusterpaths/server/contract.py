"""What existing dashboards ask for, in the shapes that they expect."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()

"""A server that reads its documents at every request: the baseline of load.py.

Belongs here: three endpoints in their simplest form. No index, no cache, no binary documents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cyclopts
import uvicorn
from fastapi import FastAPI, HTTPException


def make_app(root: Path) -> FastAPI:
    """GET /health, and the two addresses of paths."""
    app = FastAPI()

    def read(model: str, name: str) -> dict[str, list[int]]:
        paths: dict[str, list[int]] = json.loads((root / model / name / "paths.json").read_text())
        return paths

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/models/{model}/sets/{name}/paths")
    def paths(model: str, name: str, limit: int = 50, offset: int = 0) -> dict[str, Any]:
        items = list(read(model, name).items())
        return {"total": len(items), "limit": limit, "offset": offset, "paths": dict(items[offset : offset + limit])}

    @app.get("/models/{model}/sets/{name}/paths/{example_id}")
    def path(model: str, name: str, example_id: str) -> dict[str, Any]:
        found = read(model, name).get(example_id)
        if found is None:
            raise HTTPException(404)
        return {"example_id": example_id, "path": found}

    return app


def main(root: Path, *, port: int) -> None:
    """Serve the results below `root`."""
    uvicorn.run(make_app(root), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    cyclopts.run(main)

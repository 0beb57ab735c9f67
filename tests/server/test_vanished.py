"""A set that was shown and has vanished leaves nothing behind: a server runs for months, and sets are replaced every night."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from clusterpaths.explore.index import SetIndex
from clusterpaths.server.app import create_app
from clusterpaths.server.settings import ServeConfig
from tests.generated_set import generate

PAGES = ("", "/paths", "/clusters/fc2/0", "/examples/1", "/map", "/ask", "/examples/1/alike", "/find/label-errors")


def test_the_index_of_a_deleted_set_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[SetIndex]] = []
    begin = SetIndex.__init__

    def noted(self: SetIndex, *given: Any, **more: Any) -> None:
        made.append(weakref.ref(self))
        begin(self, *given, **more)

    monkeypatch.setattr(SetIndex, "__init__", noted)
    root = tmp_path / "cache"
    generate(root, n=200)
    with TestClient(create_app(ServeConfig(cache_root=str(root))), base_url="http://127.0.0.1") as client:
        for page in PAGES:
            answer = client.get(f"/explore/CelebA/set_01{page}")
            assert answer.status_code in (200, 404), page
        assert made
        shutil.rmtree(root / "CelebA")
        assert client.get("/explore/CelebA/set_01").status_code == 404
        assert client.get("/models").status_code == 200
        gc.collect()
        assert [one() for one in made] == [None] * len(made)

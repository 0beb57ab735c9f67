"""The first page marks the accepted set."""

from __future__ import annotations

from pathlib import Path

import httpx

from clusterpaths.sets.accepted import ACCEPTED, choose
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.generated_set import generate
from tests.serving import serving

TAG = ">accepted</span>"


def test_the_accepted_set_is_marked_and_a_corrupted_document_is_said(tmp_path: Path) -> None:
    folder = generate(tmp_path / "cache", n=40, layers={"a": (4,), "b": (4,)}, k=2, attributes=1, model="Hair")
    root = open_storage(folder.parent.parent)
    with serving(root.path) as url:
        assert TAG not in httpx.get(url).text
        choose(root, "Hair", open_set(folder))
        page = httpx.get(url).text
        assert page.count(TAG) == 1
        assert "not known" not in page
        (root.path / ACCEPTED).write_text("{")
        page = httpx.get(url)
        assert page.status_code == 200
        assert "Which sets are accepted is not known." in page.text
        assert str(root.path) not in page.text

"""Sets in object storage: found, opened and forgotten as the store has them."""

from __future__ import annotations

import pytest

pytest.importorskip("obstore", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs moto's server")

from collections.abc import Iterator
from pathlib import Path

from clusterpaths.errors import NotFoundError
from clusterpaths.explore import library as module
from clusterpaths.explore.ask import ask
from clusterpaths.explore.library import Library
from clusterpaths.explore.records import Question
from clusterpaths.storage import open_storage
from tests.clusterpaths.explore.small import write_small
from tests.storage import BUCKET, Storage, running_storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with running_storage(tmp_path, tmp_path / "mirror") as started:
        yield started


def _upload(storage: Storage, made: Path, *, but: str = "") -> None:
    for path in made.rglob("*"):
        if path.is_file() and path.name != but:
            storage.client().upload_file(str(path), BUCKET, f"results/{path.relative_to(made).as_posix()}")


def test_sets_are_those_of_the_store(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FRESH_REMOTE", 0.0)
    write_small(tmp_path / "made")
    _upload(storage, tmp_path / "made", but="set.json")
    library = Library(open_storage(f"s3://{BUCKET}/results"))
    (found,) = library.models()
    assert (found.name, found.sets, found.problems) == ("Small", (), ())  # set.json comes last: none is there yet
    _upload(storage, tmp_path / "made")
    assert [summary.set for summary in library.model("Small").sets] == ["set_01"]
    index = library.default()
    assert ask(index, Question(attribute=("Smiling",))).total == 4  # of the cache's table
    assert library.set("Small", "set_01") is index
    for key in storage.objects("results/"):
        storage.client().delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(NotFoundError, match="no model"):
        library.set("Small", "set_01")
    assert library.models() == ()

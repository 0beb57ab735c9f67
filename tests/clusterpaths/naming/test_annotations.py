"""annotations.json: edits under a lock, refused where somebody else was quicker, and only of its own set."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from clusterpaths.errors import CacheError, ConfigError, EditConflictError, NotFoundError
from clusterpaths.explore.library import Library
from clusterpaths.naming.annotations import ANNOTATIONS, Annotations, Entry, add_entries, edit, read_annotations
from clusterpaths.naming.resolve import names_of, read_again
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.explore.small import write_small


@pytest.fixture
def published(tmp_path: Path) -> PublishedSet:
    return open_set(write_small(tmp_path))


def test_an_edit_is_written_with_who_when_and_a_revision(published: PublishedSet) -> None:
    first = edit(
        published, "b/1", name=" dogs  on grass ", note="why?", by="Ada", now=lambda: "2026-01-01T00:00:00+00:00"
    )
    second = edit(published, "0-0", name="the cats' way", by="Ada")
    assert first == Entry(
        key="b/1",
        source="person",
        name="dogs on grass",
        note="why?",
        by="Ada",
        at="2026-01-01T00:00:00+00:00",
        revision=1,
    )
    assert second is not None
    found = read_annotations(published)
    assert (found.set, found.fingerprint, found.revision) == ("Small/set_01", "0" * 64, 2)
    assert found.entries == (second, first)  # by key
    assert json.loads((published.path / ANNOTATIONS).read_text())["entries"][1]["name"] == "dogs on grass"


def test_a_stale_edit_is_refused_with_the_current_text_and_nothing_is_lost(published: PublishedSet) -> None:
    edit(published, "b/1", name="dogs", by="Ada")
    with pytest.raises(
        EditConflictError, match=r"b/1 was changed .* 'dogs', by Ada at .* Your text 'wolves' was not saved"
    ):
        edit(published, "b/1", name="wolves", by="Bob", revision=0)
    entry = read_annotations(published).get("b/1")
    assert entry is not None
    assert (entry.name, entry.by) == ("dogs", "Ada")
    edit(published, "b/1", name="wolves", by="Bob", revision=entry.revision)
    edit(published, "b/2", name="others", by="Ada")  # an edit of another cluster is no conflict
    assert [one.name for one in read_annotations(published).entries] == ["wolves", "others"]


def test_an_edit_of_what_was_removed_meanwhile_is_refused(published: PublishedSet) -> None:
    edit(published, "b/1", name="dogs")
    assert edit(published, "b/1", name="", revision=1) is None
    assert read_annotations(published).entries == ()
    with pytest.raises(EditConflictError, match="it was removed"):
        edit(published, "b/1", name="wolves", revision=1)


def _name_many(folder: Path, layer: str, count: int) -> None:
    published = open_set(folder)
    revision = 0
    for number in range(count):
        entry = edit(published, f"{layer}/0", name=f"{layer} {number}", by=layer, revision=revision)
        assert entry is not None
        revision = entry.revision


def test_two_processes_do_not_lose_each_others_edits(published: PublishedSet) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_name_many, args=(published.path, layer, 25)) for layer in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = read_annotations(published)
    assert found.revision == 50
    assert [entry.name for entry in found.entries] == ["a 24", "b 24"]


@pytest.mark.parametrize(
    "key", ["c/0", "a/2", "a/-1", "a/", "a", "", "0", "0-4", "0-0-0", "0-x", "٣-0", "../a/0", "/0"]
)
def test_what_the_set_does_not_have_cannot_be_named(published: PublishedSet, key: str) -> None:
    with pytest.raises(NotFoundError, match="has no cluster or path"):
        edit(published, key, name="x")
    assert not (published.path / ANNOTATIONS).exists()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"name": "x" * 121}, "name has 121 characters. Expected at most 120"),
        ({"name": "x", "note": "y" * 4001}, "note has 4,001 characters"),
        ({"name": "x", "by": "z" * 121}, "by has 121 characters"),
        ({"name": "x\x1b[31m"}, "name contains control characters"),
        ({"name": "evil\u202egnp"}, "name contains control characters"),
    ],
)
def test_texts_that_are_too_long_or_hide_something_are_refused(
    published: PublishedSet, texts: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        edit(published, "a/0", **{"name": "", **texts})


def test_annotations_of_another_set_are_refused_and_left_alone(tmp_path: Path) -> None:
    one, other = (open_set(write_small(tmp_path, name=f"set_0{i}", fingerprint=f"{i}" * 64)) for i in (1, 2))
    edit(one, "b/1", name="dogs")
    content = (one.path / ANNOTATIONS).read_bytes()
    (other.path / ANNOTATIONS).write_bytes(content)
    message = r"Small/set_02/annotations.json has annotations of another set: of Small/set_01, fingerprint 111111111111"
    with pytest.raises(CacheError, match=message) as raised:
        read_annotations(other)
    assert "\n" not in str(raised.value)
    with pytest.raises(CacheError, match=message):
        edit(other, "b/1", name="cats")
    assert (other.path / ANNOTATIONS).read_bytes() == content
    names = names_of(Library(tmp_path).set("Small", "set_02"))  # pages say so, and show names from the data
    assert "annotations of another set" in names.problem
    assert names.cluster("b", 1).source == "data"
    assert not names.can_be_edited


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"set": 1}', b'{"set": "S", "fingerprint": "f", "revision": -1}', b"\xff\xfe"]
)
def test_a_corrupted_document_is_one_paragraph_and_is_not_overwritten(published: PublishedSet, content: bytes) -> None:
    (published.path / ANNOTATIONS).write_bytes(content)
    with pytest.raises(CacheError, match=r"Small/set_01/annotations.json is not a document of annotations"):
        edit(published, "a/0", name="x")
    assert (published.path / ANNOTATIONS).read_bytes() == content


def test_a_document_with_clusters_that_are_not_there_is_refused(published: PublishedSet) -> None:
    entry = Entry(key="x/9", source="person", name="nowhere")
    document = Annotations(set="Small/set_01", fingerprint="0" * 64, entries=(entry,))
    (published.path / ANNOTATIONS).write_text(document.model_dump_json())
    with pytest.raises(CacheError, match=r"annotations.json cannot be used: Small/set_01 has no cluster or path 'x/9'"):
        read_annotations(published)


def test_a_persons_name_goes_before_a_models_and_that_before_the_datas(tmp_path: Path) -> None:
    published = open_set(write_small(tmp_path))
    library = Library(tmp_path)

    def shown() -> tuple[str, str, int]:
        read_again(published)
        name = names_of(library.set("Small", "set_01")).cluster("b", 1)
        return name.source, name.text, name.revision

    assert shown()[0] == "data"
    add_entries(published, [Entry(key="b/1", source="model", name="furry", by="vlm-1")], replace=True)
    assert shown() == ("model", "furry", 0)
    edit(published, "b/1", name="dogs")
    assert shown() == ("person", "dogs", 2)
    edit(published, "b/1", name="", note="only a note", revision=2)
    assert shown() == ("model", "furry", 3)
    edit(published, "b/1", name="", revision=3)
    assert shown() == ("model", "furry", 0)


def test_a_models_note_is_shown_but_is_not_a_persons(tmp_path: Path) -> None:
    published = open_set(write_small(tmp_path))
    add_entries(published, [Entry(key="b/1", source="model", name="furry", note="seen by a model")], replace=True)
    name = published.names.cluster("b", 1)
    assert (name.note, name.note_source) == ("seen by a model", "model")
    edit(published, "b/1", name="dogs", note="mine")
    name = published.names.cluster("b", 1)
    assert (name.text, name.note, name.note_source) == ("dogs", "mine", "person")


def test_entries_that_are_there_are_replaced_only_on_request(published: PublishedSet) -> None:
    edit(published, "b/1", name="dogs", by="Ada")
    new = [Entry(key="b/1", source="person", name="wolves"), Entry(key="a/0", source="person", name="left")]
    assert [one.key for one in add_entries(published, new, replace=False)] == ["a/0"]
    assert [one.name for one in read_annotations(published).entries] == ["left", "dogs"]
    assert [one.key for one in add_entries(published, new, replace=True)] == ["b/1"]  # the other one is there
    before = read_annotations(published)
    assert add_entries(published, new, replace=True) == ()
    assert read_annotations(published) == before


def test_a_change_by_another_process_is_noticed(tmp_path: Path) -> None:
    published = open_set(write_small(tmp_path))
    index = Library(tmp_path).set("Small", "set_01")
    before = names_of(index)
    assert names_of(index) is before
    (published.path / ANNOTATIONS).write_text(
        Annotations(
            set="Small/set_01",
            fingerprint="0" * 64,
            revision=1,
            entries=(Entry(key="0-0", source="person", name="way"),),
        ).model_dump_json()
    )
    after = names_of(index)
    assert after.version != before.version
    assert after.path((0, 0)).text == "way"
    assert [name.key for name in after.of_paths] == ["0-0"]

"""annotations.json beside a set: names and notes of its clusters and paths, by people and by vision-language models.

Belongs here: reading and changing the document. Every change is one step under the storage's lock, so two processes do not lose
each other's edits. An edit carries the revision that it was made on; an edit of an older text is refused with the current one.
The document has its set's fingerprint: those of another set are refused, as a cluster's number means another cluster there.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from typing import Literal

import pydantic
from pydantic import Field

from clusterpaths.common.corrupted import what_does_not_fit
from clusterpaths.errors import CacheError, ConfigError, EditConflictError, NotFoundError
from clusterpaths.naming.record import Carried, Check, check_key
from clusterpaths.records import Record
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage.atomic import disk_errors

ANNOTATIONS = "annotations.json"
LONGEST_NAME, LONGEST_NOTE, LONGEST_BY = 120, 4000, 120  # characters
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

Author = Literal["person", "model"]


class Entry(Record):
    """What a person or a model says of one cluster or path."""

    key: str = Field(description="conv3/2: cluster 2 of layer conv3; 0-1-4: a path")
    source: Author
    name: str = Field("", max_length=LONGEST_NAME, description="empty: a note only")
    note: str = Field("", max_length=LONGEST_NOTE)
    by: str = Field("", max_length=LONGEST_BY)
    at: str = Field("", description="ISO time, UTC")
    revision: int = Field(0, ge=0, description="of the document with which it was written")
    check: Check | None = None
    carried: Carried | None = None


class Annotations(Record):
    """The document."""

    version: Literal[1] = 1
    set: str = Field(description="NAME/set_NN when it was written first")
    fingerprint: str = Field(description="of the set")
    model: str = Field("", description="SHA-256 of the set's model")
    revision: int = Field(0, ge=0, description="number of changes so far")
    entries: tuple[Entry, ...] = ()

    def get(self, key: str, source: Author = "person") -> Entry | None:
        """The entry of this cluster or path by a person, or by a model."""
        return next((entry for entry in self.entries if (entry.key, entry.source) == (key, source)), None)


def empty(published: PublishedSet) -> Annotations:
    """The document of a set without entries."""
    record = published.record
    return Annotations(set=published.name, fingerprint=record.fingerprint, model=record.model.sha256)


def read_annotations(published: PublishedSet) -> Annotations:
    """The set's annotations as they are now; without entries where there are none.

    Raises:
        CacheError: the document is corrupted, or is another set's.
    """
    return _parse(published, published.folder.read_version(ANNOTATIONS)[0])


def parse_annotations(content: bytes, where: str) -> Annotations:
    """The document of these bytes.

    Raises:
        CacheError: it is none; `where` says which.
    """
    try:
        return Annotations.model_validate_json(content)
    except pydantic.ValidationError as error:
        raise CacheError(
            f"{where} is not a document of annotations: {what_does_not_fit(error)}. "
            f"Expected what `clusterpaths names SET --export FILE` writes. Repair it, or move it away to begin anew."
        ) from error


def edit(
    published: PublishedSet,
    key: str,
    *,
    name: str,
    note: str = "",
    by: str = "",
    revision: int = 0,
    now: Callable[[], str] | None = None,
) -> Entry | None:
    """Name or annotate a cluster or path as a person; with neither name nor note, the person's entry is removed.

    Args:
        published: the set.
        key: conv3/2, or 0-1-4 of a path.
        name: at most 120 characters.
        note: at most 4,000 characters.
        by: who says so.
        revision: of the person's entry that the edit was made on; 0: there was none.
        now: the time, as text.

    Returns:
        the new entry; None: it was removed.

    Raises:
        NotFoundError: the set has no such cluster or path.
        ConfigError: a text is too long or has control characters.
        EditConflictError: somebody else changed the entry meanwhile. The message has the current text; nothing is written.
        CacheError: annotations.json is corrupted, or another set's.
        DiskError: no room or no permission.
    """
    key = check_key(key, published.record.k_per_layer, published.name)
    name, note, by = (
        _clean("name", name, LONGEST_NAME),
        _clean("note", note, LONGEST_NOTE),
        _clean("by", by, LONGEST_BY),
    )
    at = (now or utc_now)()
    written: list[Entry | None] = []

    def change(before: Annotations) -> Annotations:
        current = before.get(key)
        if (current.revision if current else 0) != revision:
            raise EditConflictError(_conflict(key, name, current))
        following = before.revision + 1
        entry = Entry(key=key, source="person", name=name, note=note, by=by, at=at, revision=following)
        written[:] = [entry if name or note else None]
        others = [one for one in before.entries if one is not current]
        return before.model_copy(
            update={"revision": following, "entries": _sorted([*others, *(one for one in written if one)])}
        )

    update_annotations(published, change)
    return written[0]


def add_entries(published: PublishedSet, entries: Iterable[Entry], *, replace: bool) -> tuple[Entry, ...]:
    """Write several entries at once; the ones that were written.

    Args:
        published: the set.
        entries: of its clusters and paths; their revisions are set here.
        replace: whether entries of the same cluster or path and source are replaced; else those stay.

    Raises:
        NotFoundError, CacheError, DiskError: as `edit`.
    """
    given = {(one.key, one.source): one for one in entries}
    for key, _ in given:
        check_key(key, published.record.k_per_layer, published.name)
    written: list[Entry] = []

    def change(before: Annotations) -> Annotations:
        kept = {(one.key, one.source): one for one in before.entries}
        new = {which: one for which, one in given.items() if replace or which not in kept}
        new = {which: one for which, one in new.items() if which not in kept or not _same(one, kept[which])}
        following = before.revision + bool(new)
        written[:] = [one.model_copy(update={"revision": following}) for one in new.values()]
        return before.model_copy(
            update={
                "revision": following,
                "entries": _sorted((kept | {(one.key, one.source): one for one in written}).values()),
            }
        )

    if given:
        update_annotations(published, change)
    return tuple(written)


def update_annotations(published: PublishedSet, change: Callable[[Annotations], Annotations]) -> None:
    """Read, change and write the document as one step; safe between threads, processes and machines.

    Raises:
        CacheError, DiskError: as `edit`; and what `change` raises, whereupon nothing is written.
    """

    def changed(content: bytes | None) -> bytes:
        return (change(_parse(published, content)).model_dump_json(indent=2) + "\n").encode()

    with disk_errors(published.path):
        published.folder.update(ANNOTATIONS, changed)


def utc_now() -> str:
    """ISO time, UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def require_same_set(published: PublishedSet, found: Annotations, where: str) -> None:
    """Check that a document belongs to this set.

    Raises:
        CacheError: it is another set's.
    """
    if found.fingerprint != published.record.fingerprint:
        raise CacheError(
            f"{where} has annotations of another set: of {found.set}, fingerprint {found.fingerprint[:12]}; {published.name} has "
            f"{published.record.fingerprint[:12]}. A cluster's number means another cluster there, so they are not shown and "
            f"not changed. Move the file away; names of an earlier set of the same model are carried over by matched clusters "
            f"with `clusterpaths names {published.name} --carry-over {found.set}`."
        )


def _parse(published: PublishedSet, content: bytes | None) -> Annotations:
    if content is None:
        return empty(published)
    found = parse_annotations(content, f"{published.name}/{ANNOTATIONS}")
    require_same_set(published, found, f"{published.name}/{ANNOTATIONS}")
    for entry in found.entries:
        try:
            check_key(entry.key, published.record.k_per_layer, published.name)
        except NotFoundError as error:
            raise CacheError(f"{published.name}/{ANNOTATIONS} cannot be used: {error}") from error
    return found


def _clean(what: str, text: str, longest: int) -> str:
    """Raises: ConfigError."""
    text = text.replace("\r\n", "\n").strip()
    if what != "note":
        text = " ".join(text.split())
    if len(text) > longest:
        raise ConfigError(f"{what} has {len(text):,} characters. Expected at most {longest:,}; shorten it.")
    if _CONTROL.search(text):
        raise ConfigError(f"{what} contains control characters. Expected plain text; take them out.")
    return text


def _conflict(key: str, name: str, current: Entry | None) -> str:
    if current is None:
        state = "it was removed"
    else:
        who = f"{current.by or 'somebody else'} at {current.at}"
        state = f"it is now {current.name!r}, by {who}" + (f", with the note {current.note!r}" if current.note else "")
    return (
        f"The name of {key} was changed by somebody else while you were editing: {state}. Your text {name!r} was not saved; "
        "nothing is lost. Look at the current text, then save yours again or leave it."
    )


def _same(one: Entry, other: Entry) -> bool:
    return one.model_copy(update={"revision": 0, "at": ""}) == other.model_copy(update={"revision": 0, "at": ""})


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda one: (one.key, one.source)))

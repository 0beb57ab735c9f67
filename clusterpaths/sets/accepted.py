"""accepted.json of the results directory: which set is the accepted one, that others are compared with.

Belongs here: the pointer, its history, and moving it. Whether a candidate may be accepted is the gate's decision.

There is one line of accepted sets for each NAME that a gate began with: CelebA's may go on to sets of other names, those of later
models. The document only grows: a roll-back is another entry. It is changed as one step, in a directory as in object storage, so
that of two writers the second sees what the first wrote, and a crash leaves either document complete.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError

from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.records import ModelIdentity, Record
from clusterpaths.sets.find import find_named, is_comparable, list_sets
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import Storage
from clusterpaths.storage.atomic import disk_errors

ACCEPTED = "accepted.json"
Action = Literal["first", "accepted", "chosen", "rolled back"]


class Entry(Record):
    """One change of the pointer."""

    action: Action = Field(description="first: the reference of the first gate; chosen: by hand")
    set: str = Field(description="NAME/set_NN")
    fingerprint: str
    model: ModelIdentity
    decision: str = Field(default="", description="the document of the gate's decision, beside the set")
    created: str = Field(description="ISO time, UTC")


class Accepted(Record):
    """accepted.json."""

    version: int = 1
    lines: dict[str, Annotated[tuple[Entry, ...], Field(min_length=1)]] = Field(
        default={}, description="by the NAME that a line began with, oldest first"
    )

    def current(self, line: str) -> Entry | None:
        """The accepted set of a line."""
        entries = self.lines.get(line)
        return entries[-1] if entries else None

    def before(self, line: str) -> Entry | None:
        """The set that a roll-back returns to: the one that was accepted before the current one."""
        stack: list[Entry] = []
        for entry in self.lines.get(line, ()):
            if entry.action == "rolled back":
                del stack[-1:]
            else:
                stack.append(entry)
        return stack[-2] if len(stack) > 1 else None


class Moved(NamedTuple):
    """Whether the pointer is where it was asked to be, and why not."""

    done: bool
    reason: str = ""


def read_accepted(cache_root: Storage) -> Accepted:
    """The document of a results directory; empty where there is none.

    Raises:
        CacheError: it is corrupted.
    """
    return _parse(cache_root, cache_root.read_version(ACCEPTED)[0])


def find_reference(cache_root: Storage, given: str) -> tuple[str, PublishedSet]:
    """The line and the set that a gate compares with.

    Args:
        cache_root: the results directory.
        given: NAME: the accepted set of that line, or the newest of NAME before any was accepted. NAME/set_NN: that set, of the
            line that it is or was accepted in, else of NAME.

    Raises:
        CacheError: there is no such set, or it is no longer what was accepted.
    """
    cache_root.require()
    accepted, name = read_accepted(cache_root), given.rstrip("/")
    if name in accepted.lines:
        return name, accepted_set(cache_root, name)
    published = find_named(cache_root, given)
    return line_of(accepted, published), published


def sets_of(cache_root: Storage, name: str) -> list[PublishedSet]:
    """All sets that NAME stands for or stood for: its own ones, and those of its line; deleted ones are left out.

    Raises:
        CacheError: the document is corrupted.
    """
    entries = read_accepted(cache_root).lines.get(name.rstrip("/"), ())
    own = [f"{name.rstrip('/')}/{one}" for one in list_sets(cache_root / name.rstrip("/"))]
    found = []
    for one in dict.fromkeys([*(entry.set for entry in entries), *own]):
        with contextlib.suppress(CacheError):
            found.append(find_named(cache_root, one))
    return found


def line_of(accepted: Accepted, published: PublishedSet) -> str:
    """The line that a set is accepted in now, or was once; else its own NAME."""
    own = published.record.fingerprint
    now = (line for line in accepted.lines if (entry := accepted.current(line)) and entry.fingerprint == own)
    once = (line for line, entries in accepted.lines.items() if own in {entry.fingerprint for entry in entries})
    return next(now, None) or next(once, None) or published.name.partition("/")[0]


def accepted_set(cache_root: Storage, line: str) -> PublishedSet:
    """The accepted set of a line.

    Raises:
        NotFoundError: there is no such line.
        CacheError: the set was deleted, or another one has its name.
    """
    accepted = read_accepted(cache_root)
    return _open(cache_root, line, _current(cache_root, accepted, line))


def accepted_sets(cache_root: Storage) -> list[PublishedSet]:
    """The accepted sets of all lines, the latest accepted first; those that were deleted are left out.

    Raises:
        CacheError: the document is corrupted.
    """
    accepted = read_accepted(cache_root)
    latest = sorted(
        ((entries[-1], line) for line, entries in accepted.lines.items() if entries), key=_time, reverse=True
    )
    found = []
    for entry, line in latest:
        try:
            found.append(_open(cache_root, line, entry))
        except CacheError:
            continue
    return found


def find_accepted(own: PublishedSet) -> PublishedSet | None:
    """The accepted set that a new model's set is compared with: the latest one of another model, on the same images.

    None for a further set of the same model, which is compared with the one before it, and where no set was accepted.

    Raises:
        CacheError: accepted.json is corrupted.
    """
    for name in list_sets(own.cache):
        if name == own.folder.name:
            break
        with contextlib.suppress(CacheError):
            if open_set(own.cache / name).record.model.sha256 == own.record.model.sha256:
                return None
    for other in accepted_sets(own.cache.parent):
        if other.record.model.sha256 != own.record.model.sha256 and is_comparable(other, own):
            return other
    return None


def accept(
    cache_root: Storage, line: str, reference: PublishedSet, candidate: PublishedSet, decision: str = ""
) -> Moved:
    """Make a candidate the accepted set of a line, if its reference still is.

    The first time, the reference becomes the line's first set. To accept what is accepted already changes nothing.

    Args:
        cache_root: the results directory.
        line: of the reference.
        reference: the set that the candidate was compared with.
        candidate: the set.
        decision: the document of the decision.

    Raises:
        CacheError: the document is corrupted.
        DiskError: no room or no permission.
    """

    def change(accepted: Accepted) -> list[Entry] | Moved:
        current = accepted.current(line)
        if current and current.fingerprint == candidate.record.fingerprint:
            return Moved(True)
        if current and current.fingerprint != reference.record.fingerprint:
            return Moved(
                False, f"{reference.name} is not the accepted set of {line}: {current.set} is, since {current.created}."
            )
        first = [] if current else [_entry("first", reference)]
        return [*first, _entry("accepted", candidate, decision)]

    return _update(cache_root, line, change)


def choose(cache_root: Storage, line: str, published: PublishedSet) -> Moved:
    """Make a set the accepted one of a line by hand, whatever a gate decided.

    Raises:
        CacheError, DiskError: as `accept`.
    """

    def change(accepted: Accepted) -> list[Entry] | Moved:
        current = accepted.current(line)
        if current and current.fingerprint == published.record.fingerprint:
            return Moved(True)
        return [_entry("chosen" if current else "first", published)]

    return _update(cache_root, line, change)


def roll_back(cache_root: Storage, line: str) -> PublishedSet:
    """Return to the set that was accepted before the current one; again, to the one before that.

    Raises:
        NotFoundError: there is no such line, or nothing was accepted before.
        CacheError: that set was deleted; then nothing is changed.
        DiskError: no room or no permission.
    """
    found: list[PublishedSet] = []

    def change(accepted: Accepted) -> list[Entry] | Moved:
        current, before = _current(cache_root, accepted, line), accepted.before(line)
        if before is None:
            raise NotFoundError(
                f"{current.set} is the first accepted set of {line}: there is none to roll back to. "
                "Choose another with `clusterpaths accepted --set NAME/set_NN`."
            )
        found[:] = [_open(cache_root, line, before)]
        return [_entry("rolled back", found[0], before.decision)]

    _update(cache_root, line, change)
    return found[0]


class _UnchangedError(Exception):
    """The pointer is not moved; nothing is written."""


def _update(cache_root: Storage, line: str, change: Callable[[Accepted], list[Entry] | Moved]) -> Moved:
    outcome = Moved(True)

    def changed(content: bytes | None) -> bytes:
        nonlocal outcome
        accepted = _parse(cache_root, content)
        added = change(accepted)
        if isinstance(added, Moved):
            outcome = added
            raise _UnchangedError
        lines = accepted.lines | {line: (*accepted.lines.get(line, ()), *added)}
        return (accepted.model_copy(update={"lines": lines}).model_dump_json(indent=2) + "\n").encode()

    try:
        with disk_errors(cache_root.path):
            cache_root.update(ACCEPTED, changed)
    except _UnchangedError:
        return outcome
    return Moved(True)


def _parse(cache_root: Storage, content: bytes | None) -> Accepted:
    if content is None:
        return Accepted()
    try:
        return Accepted.model_validate_json(content)
    except ValidationError as error:
        raise CacheError(
            f"{cache_root}/{ACCEPTED} cannot be read ({error.error_count()} problems): it records accepted sets. Expected "
            "what this program wrote there. Restore it, or move it away: then no set counts as accepted."
        ) from error


def _current(cache_root: Storage, accepted: Accepted, line: str) -> Entry:
    if (entry := accepted.current(line)) is None:
        lines = ", ".join(accepted.lines) or "none yet"
        raise NotFoundError(
            f"No set of {line} was accepted in {cache_root}. Lines with accepted sets: {lines}. A gate begins one: "
            "`clusterpaths gate --reference NAME/set_NN --candidate MODEL`."
        )
    return entry


def _open(cache_root: Storage, line: str, entry: Entry) -> PublishedSet:
    """The set of an entry.

    Raises:
        CacheError: it is gone, or another set is there.
    """
    name, _, number = entry.set.partition("/")
    what = f"{entry.set}, which was accepted for {line},"
    instead = f"Choose another with `clusterpaths accepted {line} --set NAME/set_NN`, or run its model again."
    if number not in list_sets(cache_root / name):
        raise CacheError(f"{what} is no longer in {cache_root}. {instead}")
    published = find_named(cache_root, entry.set)
    if published.record.fingerprint != entry.fingerprint:
        raise CacheError(
            f"{what} is another set now: its fingerprint is {published.record.fingerprint[:12]}, accepted was "
            f"{entry.fingerprint[:12]}. {instead}"
        )
    return published


def _entry(action: Action, published: PublishedSet, decision: str = "") -> Entry:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = published.record
    return Entry(
        action=action,
        set=published.name,
        fingerprint=record.fingerprint,
        model=record.model,
        decision=decision,
        created=now,
    )


def _time(pair: tuple[Entry, str]) -> tuple[str, str]:
    return pair[0].created, pair[1]

"""The models that were announced already, stored in one small file.

Belongs here: that file. Nothing is sent here: the caller reports when a server has accepted an event.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import Field, ValidationError

from clusterpaths.errors import ConfigError, DiskError
from clusterpaths.records import Record
from clusterpaths.storage.atomic import atomic_write, disk_errors
from clusterpaths.watching.arrivals import Arrival, Outcome

STATE_FILE = ".announced.json"


class KnownModel(Record):
    """A model that was announced, or was there before the first watcher started."""

    path: str
    name: str
    since: str = Field(description="ISO time, UTC")
    announced: bool


class KnownRejection(Record):
    """The last rejected content of a file of this name."""

    sha256: str
    reason: str
    since: str = Field(description="ISO time, UTC")


class State(Record):
    """.announced.json: the models of a directory that were announced."""

    version: int = 1
    salt: uuid.UUID = Field(description="the ids of this directory's events are made from it")
    watched: bool = Field(default=False, description="whether a watcher has been here")
    models: dict[str, KnownModel] = Field(default={}, description="by sha256")
    rejected: dict[str, KnownRejection] = Field(default={}, description="by file name")


class AnnouncedModels:
    """The models announced so far; stored in one small file, by default in the model directory itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> State:
        """The stored state; empty where there is no such file yet.

        Raises:
            ConfigError: the file is corrupted.
        """
        try:
            return State.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return State(salt=uuid.uuid4())
        except (ValidationError, OSError) as error:
            raise ConfigError(
                f"{self.path}, which records the announced models, cannot be read ({str(error).splitlines()[0]}). "
                "Expected what the watcher wrote there. Remove it to start over: models already there then count as "
                "known; with --first-start announce they are all announced."
            ) from error

    def write(self, state: State) -> None:
        """Replace the file.

        Raises:
            DiskError: no room or no permission.
        """
        with self._disk_errors():
            atomic_write(self.path, state.model_dump_json(indent=2).encode() + b"\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock while announcing, so that the watcher and `clusterpaths announce` never both send the same model."""
        lock = FileLock(f"{self.path}.lock")
        with self._disk_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            if not self.path.exists():
                self.write(self.read())  # the salt has to be the same from the first attempt on
            yield
        finally:
            lock.release()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            with disk_errors(self.path):
                yield
        except DiskError as error:
            cause = error.__cause__
            raise DiskError(
                f"{self.path} cannot be written ({getattr(cause, 'strerror', None) or error}). It remembers what models "
                "were announced. Expected a directory with room, that this user may write to; --state of the watcher "
                "names another file."
            ) from error

    def unknown(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those that were not announced yet, each once."""
        state = self.read()
        fresh = {self._key(outcome): outcome for outcome in reversed(outcomes) if not _knows(state, outcome)}
        return list(reversed(fresh.values()))

    def knows(self, path: Path, sha256: str) -> bool:
        """Whether a file with this content was handled before."""
        state = self.read()
        old = state.rejected.get(path.name)
        return sha256 in state.models or (old is not None and old.sha256 == sha256)

    def add(self, outcomes: Iterable[Outcome], *, announced: bool = True, watched: bool = False) -> None:
        """Store these outcomes; `announced` False: they were there before."""
        state = self.read()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        models, rejected = dict(state.models), dict(state.rejected)
        for outcome in outcomes:
            if isinstance(outcome, Arrival):
                models[outcome.sha256] = KnownModel(
                    path=outcome.path, name=outcome.name, since=now, announced=announced
                )
                rejected.pop(Path(outcome.path).name, None)
            else:
                rejected[Path(outcome.path).name] = KnownRejection(
                    sha256=outcome.sha256, reason=outcome.reason, since=now
                )
        update = {"models": models, "rejected": rejected, "watched": state.watched or watched}
        self.write(state.model_copy(update=update))

    def event_id(self, outcome: Outcome) -> uuid.UUID:
        """The same at every attempt to announce it, so that a server can recognise a repeated event."""
        return uuid.uuid5(self.read().salt, " ".join(self._key(outcome)))

    @staticmethod
    def _key(outcome: Outcome) -> tuple[str, str, str]:
        return outcome.kind, outcome.sha256, "" if isinstance(outcome, Arrival) else Path(outcome.path).name


def _knows(state: State, outcome: Outcome) -> bool:
    if isinstance(outcome, Arrival):
        return outcome.sha256 in state.models
    old = state.rejected.get(Path(outcome.path).name)
    return old is not None and old.sha256 == outcome.sha256

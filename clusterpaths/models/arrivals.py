"""Which model files in a folder are new, whole, and load.

Belongs here: looking at files, and remembering what was announced. Nothing waits here and nothing is sent: the caller
looks again and again, and says when a server has taken in what it was given.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import onnx
from filelock import FileLock
from google.protobuf.message import DecodeError
from pydantic import Field, TypeAdapter, ValidationError

from clusterpaths.atomic import atomic_write, disk_errors
from clusterpaths.errors import ConfigError, DiskError, InputError, ModelError
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.external import external_tensors, find_external_files, hash_files
from clusterpaths.preprocessing import resolve_preprocessing
from clusterpaths.records import Record

STATE_FILE = ".announced.json"
_ADDED_OUTPUTS = "_instrumented"
_FINAL = "--final"


class Arrival(Record):
    """A model that is whole and ran on a blank image."""

    kind: Literal["arrived"] = "arrived"
    path: str
    name: str = Field(description="file stem without _instrumented")
    sha256: str = Field(description="of the ONNX file and its external weights")


class Rejected(Record):
    """A file that is no model that a run could use."""

    kind: Literal["rejected"] = "rejected"
    path: str
    name: str
    sha256: str = Field(description="of the file and those of its external weights that are there; empty: unreadable")
    reason: str = Field(description="one paragraph")


class NotYet(Record):
    """A file that may become whole: it is cut off, empty, or its weights are still missing."""

    kind: Literal["not yet"] = "not yet"
    path: str
    reason: str


Outcome = Arrival | Rejected
_ANSWER: TypeAdapter[Arrival | Rejected | NotYet] = TypeAdapter(
    Annotated[Arrival | Rejected | NotYet, Field(discriminator="kind")]
)


def model_name(path: Path) -> str:
    """What a model is called: its file's stem without _instrumented."""
    return path.stem.removesuffix(_ADDED_OUTPUTS) or path.stem


def examine(path: Path, *, patient: bool = True) -> Arrival | Rejected | NotYet:
    """Whether the model is whole, and runs on one blank image of the size that a run would give it.

    `patient` False takes what lies there for all there will be: what is cut off or missing is then a reason to reject.
    """
    try:
        unfinished = _unfinished(path)
        if unfinished and patient:
            return NotYet(path=str(path.absolute()), reason=unfinished)
        record = check_model(path)
        instrument_model(record, resolve_preprocessing(record)[0].size)
    except InputError as error:
        return _reject(path, str(error).split("\n\n")[0].strip())
    except OSError as error:
        reason = f"{path} cannot be read ({error.strerror or error})."
        return NotYet(path=str(path.absolute()), reason=reason) if patient else _reject(path, reason)
    return Arrival(path=str(path.absolute()), name=model_name(path), sha256=record.sha256)


def examine_apart(path: Path, *, patient: bool = True, timeout: float = 600.0) -> Arrival | Rejected | NotYet:
    """`examine` in a process of its own: a file that brings ONNX Runtime down, or holds it up, takes nothing with it."""
    command = [
        sys.executable,
        "-m",
        "clusterpaths.models.arrivals",
        str(path.absolute()),
        *([] if patient else [_FINAL]),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return _reject(path, f"{path} did not run on one blank image within {timeout:.0f} s.")
    if done.returncode == 0:
        return _ANSWER.validate_json(done.stdout.strip().splitlines()[-1])
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return _reject(path, f"The process that loaded {path} ended with {how}: {said}")


def _reject(path: Path, reason: str) -> Rejected:
    return Rejected(path=str(path.absolute()), name=model_name(path), sha256=_sha256(path), reason=reason)


def _unfinished(path: Path) -> str | None:
    """Why the file may be part of one that is still on its way; None: it is whole, or will never be a model."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        return None if _is_text(path) else f"{path} is cut off ({error})."
    if not model.graph.node:
        return None if _is_text(path) else f"{path} holds no graph yet ({path.stat().st_size:,} bytes)."
    try:
        find_external_files(model, path.parent)
    except ModelError as error:
        return str(error)
    return None


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(60)
    return bool(head.strip()) and head.isascii() and all(byte >= 32 or byte in b"\t\n\r" for byte in head)


def _external_locations(path: Path) -> tuple[str, ...]:
    """The weights files that the model names; none where it cannot be read."""
    try:
        model = onnx.load(str(path), load_external_data=False)
        locations = {onnx.external_data_helper.ExternalDataInfo(tensor).location for tensor in external_tensors(model)}
    except (DecodeError, ValueError, OSError):
        return ()
    return tuple(sorted(location for location in locations if location))


def _beside(folder: Path, location: str) -> Path | None:
    """The weights file, also where its name differs in letter case; None: not there."""
    wanted = folder / location
    if wanted.is_file() or not wanted.parent.is_dir():
        return wanted if wanted.is_file() else None
    same = [path for path in wanted.parent.iterdir() if path.name.lower() == wanted.name.lower() and path.is_file()]
    return same[0] if len(same) == 1 else None


def _sha256(path: Path, locations: tuple[str, ...] | None = None) -> str:
    """`ModelRecord.sha256` where everything is there, else of what is there; empty: unreadable."""
    names = _external_locations(path) if locations is None else locations
    try:
        return hash_files([path, *(found for name in names if (found := _beside(path.parent, name)))])
    except OSError:
        return ""


class KnownModel(Record):
    """A model that was announced, or lay there before anybody watched."""

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
    """.announced.json: what of a model folder needs no announcing any more."""

    version: int = 1
    salt: uuid.UUID = Field(description="the ids of this folder's events are made from it")
    watched: bool = Field(default=False, description="whether a watcher has been here")
    models: dict[str, KnownModel] = Field(default={}, description="by sha256")
    rejected: dict[str, KnownRejection] = Field(default={}, description="by file name")


class Known:
    """The models that were announced already; kept in one small file, by default in the model folder itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> State:
        """What is known; nothing where there is no such file yet.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            return State.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return State(salt=uuid.uuid4())
        except (ValidationError, OSError) as error:
            raise ConfigError(
                f"{self.path}, which says what models were announced, cannot be read ({str(error).splitlines()[0]}). "
                "Expected what the watcher wrote there. Remove it to begin anew: models that lie there then count as "
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
        """Hold it while announcing: the watcher and `announce` by hand never both send the same model."""
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
                "were announced. Expected a folder with room, that this user may write to; --state of the watcher "
                "names another file."
            ) from error

    def unknown(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those that were not announced yet, each once."""
        state = self.read()
        fresh = {self._key(outcome): outcome for outcome in reversed(outcomes) if not _knows(state, outcome)}
        return list(reversed(fresh.values()))

    def knows(self, path: Path, sha256: str) -> bool:
        """Whether a file of this content needs no look."""
        state = self.read()
        old = state.rejected.get(path.name)
        return sha256 in state.models or (old is not None and old.sha256 == sha256)

    def add(self, outcomes: Iterable[Outcome], *, announced: bool = True, watched: bool = False) -> None:
        """Remember these; `announced` False: they were there before."""
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
        """The same at every attempt to announce it, so that a server can be asked whether it has it already."""
        return uuid.uuid5(self.read().salt, " ".join(self._key(outcome)))

    @staticmethod
    def _key(outcome: Outcome) -> tuple[str, str, str]:
        return outcome.kind, outcome.sha256, "" if isinstance(outcome, Arrival) else Path(outcome.path).name


def _knows(state: State, outcome: Outcome) -> bool:
    if isinstance(outcome, Arrival):
        return outcome.sha256 in state.models
    old = state.rejected.get(Path(outcome.path).name)
    return old is not None and old.sha256 == outcome.sha256


_FileStamp = tuple[int, int, int] | None  # size, mtime in ns, inode; None: not there


def _stamp(path: Path | None) -> _FileStamp:
    try:
        stat = path.stat() if path else None
    except OSError:
        return None
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino) if stat else None


@dataclass
class _Sighting:
    own: _FileStamp  # of the .onnx file
    since: float  # when the last change of it or of its weights was seen
    locations: tuple[str, ...] | None = None  # None: not looked for yet
    weights: tuple[_FileStamp, ...] = ()
    waiting: bool = False  # it was looked at, and is not whole
    done: bool = False

    def stamp_weights(self, folder: Path) -> tuple[_FileStamp, ...]:
        return tuple(_stamp(_beside(folder, location)) for location in self.locations or ())


class ModelFolder:
    """The models of a folder, looked at again and again.

    Args:
        folder: its *.onnx files are looked at, its subfolders and hidden files are not.
        known: what was announced.
        settle: seconds in which a file and its weights must not have changed.
        patience: seconds after its last change after which what is cut off or missing will not come any more.
        log: told what is waited for.
    """

    def __init__(
        self,
        folder: Path,
        known: Known,
        settle: float = 2.0,
        patience: float = 60.0,
        log: Callable[[str], None] = lambda _: None,
        examine: Callable[..., Arrival | Rejected | NotYet] = examine_apart,
    ) -> None:
        self.folder, self.known, self.settle, self.patience = folder.absolute(), known, settle, patience
        self._log, self._examine = log, examine
        self._seen: dict[Path, _Sighting] = {}

    @property
    def busy(self) -> bool:
        """Whether a file has yet to settle; look again soon."""
        return any(not seen.done for seen in self._seen.values())

    def files(self) -> list[Path]:
        """The *.onnx files that are there now."""
        return sorted(path for path in self.folder.glob("*.onnx") if path.is_file() and not path.name.startswith("."))

    def survey(self) -> list[Outcome]:
        """Everything there as it is now, not run: what a first start takes for known."""
        found: list[Outcome] = []
        for path in self.files():
            where, name, sha256 = str(path), model_name(path), _sha256(path)
            try:
                unfinished = _unfinished(path)
            except OSError as error:
                unfinished = str(error)
            found.append(
                Rejected(path=where, name=name, sha256=sha256, reason=unfinished)
                if unfinished
                else Arrival(path=where, name=name, sha256=sha256)
            )
        return found

    def look(self, now: float) -> Iterator[Outcome]:
        """What has become whole, or hopeless, and was not announced; each once until its file changes.

        `now`: seconds of any clock that does not jump.
        """
        files = self.files()
        self._seen = {path: self._seen[path] for path in files if path in self._seen}
        for path in files:
            try:
                outcome = self._follow(path, now)
            except InputError:  # the state, not the file
                raise
            except OSError as error:
                self._log(f"{path.name} cannot be looked at now ({error.strerror or error}).")
                self._seen.pop(path, None)
            except Exception as error:  # noqa: BLE001 - no one file may keep the others from being looked at
                self._seen[path].done = True
                yield _reject(path, f"{path} could not be examined ({type(error).__name__}: {error}).")
            else:
                if outcome is not None:
                    yield outcome

    def is_current(self, outcome: Outcome) -> bool:
        """Whether its file is still what was looked at: neither deleted nor changed since."""
        path = self.folder / Path(outcome.path).name
        seen = self._seen.get(path)
        return (
            seen is not None
            and seen.done
            and (seen.own, seen.weights) == (_stamp(path), seen.stamp_weights(self.folder))
        )

    def _follow(self, path: Path, now: float) -> Outcome | None:
        seen, own = self._seen.get(path), _stamp(path)
        if seen is None or seen.own != own:
            self._seen[path] = _Sighting(own, now)
            return None
        if seen.locations is None:
            if now - seen.since < self.settle:
                return None
            seen.locations = _external_locations(path)
            seen.weights = seen.stamp_weights(self.folder)
            if seen.locations:
                seen.since = now  # its weights have to hold still as well, from now on
        if (weights := seen.stamp_weights(self.folder)) != seen.weights:
            seen.weights, seen.since, seen.waiting, seen.done = weights, now, False, False
        age = now - seen.since
        if seen.done or age < self.settle or (seen.waiting and age < self.patience):
            return None
        return self._decide(path, seen, patient=age < self.patience)

    def _decide(self, path: Path, seen: _Sighting, patient: bool) -> Outcome | None:
        if self.known.knows(path, _sha256(path, seen.locations)):
            seen.done = True
            return None
        outcome = self._examine(path, patient=patient)
        if _stamp(path) != seen.own or seen.stamp_weights(self.folder) != seen.weights:
            return None  # changed while it was looked at; the next look sees that
        if isinstance(outcome, NotYet):
            if not seen.waiting:
                self._log(f"{path.name} is not whole yet; waiting up to {self.patience:.0f} s. {outcome.reason}")
            seen.waiting = True
            return None
        seen.done = True
        return outcome


if __name__ == "__main__":
    sys.stdout.write(examine(Path(sys.argv[1]), patient=_FINAL not in sys.argv[2:]).model_dump_json() + "\n")

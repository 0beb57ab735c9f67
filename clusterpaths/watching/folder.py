"""Which model files in a directory are new, complete, and load.

Belongs here: examining the files of a directory repeatedly, by the clock of the caller. Nothing waits here; whether
one file is complete is `arrivals.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterpaths.common.text import is_utf8
from clusterpaths.errors import InputError
from clusterpaths.watching.announced import AnnouncedModels
from clusterpaths.watching.arrivals import (
    Arrival,
    NotYet,
    Outcome,
    Rejected,
    content_sha256,
    examine_apart,
    external_locations,
    model_name,
    reject,
    weights_of,
    why_unfinished,
)

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
    waiting: bool = False  # examined, and not complete yet
    done: bool = False

    def stamp_weights(self, folder: Path) -> tuple[_FileStamp, ...]:
        return tuple(_stamp(weights_of(folder, location)) for location in self.locations or ())


class ModelFolder:
    """The models of a directory, examined repeatedly.

    Args:
        folder: its *.onnx files are examined; its subdirectories, hidden files and names that are not UTF-8 are not.
        known: what was announced.
        settle: seconds in which a file and its weights must not have changed.
        patience: seconds after its last change after which truncated or missing files are given up.
        log: gets a message for each file that is waited for.
    """

    def __init__(
        self,
        folder: Path,
        known: AnnouncedModels,
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
        found = (path for path in self.folder.glob("*.onnx") if path.is_file() and not path.name.startswith("."))
        return sorted(path for path in found if is_utf8(path.name))

    def survey(self) -> list[Outcome]:
        """All files as they are now, without running them: what a first start treats as known."""
        found: list[Outcome] = []
        for path in self.files():
            where, name, sha256 = str(path), model_name(path), content_sha256(path)
            try:
                unfinished = why_unfinished(path)
            except OSError as error:
                unfinished = str(error)
            found.append(
                Rejected(path=where, name=name, sha256=sha256, reason=unfinished)
                if unfinished
                else Arrival(path=where, name=name, sha256=sha256)
            )
        return found

    def look(self, now: float) -> Iterator[Outcome]:
        """Files that became complete or were rejected, and were not announced; each once until its file changes.

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
                self._log(f"{path.name} cannot be read now ({error.strerror or error}).")
                self._seen.pop(path, None)
            except Exception as error:  # noqa: BLE001 - one bad file must not block the others
                self._seen[path].done = True
                yield reject(path, f"{path} could not be examined ({type(error).__name__}: {error}).")
            else:
                if outcome is not None:
                    yield outcome

    def is_current(self, outcome: Outcome) -> bool:
        """Whether its file is unchanged since it was examined."""
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
            seen.locations = external_locations(path)
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
        if self.known.knows(path, content_sha256(path, seen.locations)):
            seen.done = True
            return None
        outcome = self._examine(path, patient=patient)
        if _stamp(path) != seen.own or seen.stamp_weights(self.folder) != seen.weights:
            return None  # changed while it was examined; the next look finds out
        if isinstance(outcome, NotYet):
            if not seen.waiting:
                self._log(f"{path.name} is not complete yet; waiting up to {self.patience:.0f} s. {outcome.reason}")
            seen.waiting = True
            return None
        seen.done = True
        return outcome

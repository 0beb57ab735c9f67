"""Is a model file complete, and does it load?

Belongs here: one look at one file. Watching a directory is `folder.py`, the announced models are `announced.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import onnx
from google.protobuf.message import DecodeError
from pydantic import Field, TypeAdapter

from clusterpaths.common.memory import limit_memory, physical_bytes
from clusterpaths.errors import InputError, ModelError
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.external import external_tensors, find_external_files, hash_files, weights_beside
from clusterpaths.models.load import load_proto
from clusterpaths.models.mapped import OWN
from clusterpaths.preprocessing.prepare import resolve_preprocessing
from clusterpaths.records import Record

_NO_MEMORY = ("allocate", "bad_alloc", "too much memory")  # in messages of ONNX Runtime
_ADDED_OUTPUTS = "_instrumented"
_FINAL = "--final"
# What a file may take while it is examined. ViT-B/16 (346 MB) takes 1.5 GB, and 30 s on two busy cores.
_MEMORY, _MEMORY_PER_BYTE = 4 << 30, 6
_SECONDS, _SECONDS_PER_GB = 120.0, 300.0


class Arrival(Record):
    """A complete model that ran on a blank image."""

    kind: Literal["arrived"] = "arrived"
    path: str
    name: str = Field(description="file stem without _instrumented")
    sha256: str = Field(description="of the ONNX file and its external weights")


class Rejected(Record):
    """A file that is no usable model."""

    kind: Literal["rejected"] = "rejected"
    path: str
    name: str
    sha256: str = Field(description="of the file and those of its external weights that are there; empty: unreadable")
    reason: str = Field(description="one paragraph")


class NotYet(Record):
    """A file that may still be copied: it is truncated, empty, or its weights are missing."""

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
    """Whether the model is complete, and runs on one blank image of the size that a run would use.

    `patient` False expects no further data: truncated or missing files are then rejected.
    """
    try:
        if patient and (unfinished := why_unfinished(path)):
            return NotYet(path=str(path.absolute()), reason=unfinished)
        record = check_model(path)
        instrument_model(record, resolve_preprocessing(record)[0].size)
    except InputError as error:
        return reject(path, str(error).split("\n\n")[0].strip())
    except OSError as error:
        reason = f"{path} cannot be read ({error.strerror or error})."
        return NotYet(path=str(path.absolute()), reason=reason) if patient else reject(path, reason)
    return Arrival(path=str(path.absolute()), name=model_name(path), sha256=record.sha256)


def examine_apart(
    path: Path, *, patient: bool = True, timeout: float | None = None, memory: int | None = None
) -> Arrival | Rejected | NotYet:
    """`examine` in a separate process: a file that makes ONNX Runtime crash, hang or use up memory does not affect the caller.

    Args:
        path: of the ONNX file.
        patient: as of `examine`.
        timeout: seconds; None: 120, and 300 more for each GB of the file and its weights.
        memory: bytes that the process may allocate (on Linux); None: 4 GiB, and six times the file and its weights; in any
            case less than this machine has.
    """
    size = _size(path)
    seconds = timeout if timeout is not None else _SECONDS + _SECONDS_PER_GB * size / 1e9
    most = min(memory if memory is not None else _MEMORY + _MEMORY_PER_BYTE * size, physical_bytes() * 9 // 10)
    command = [
        sys.executable,
        "-m",
        "clusterpaths.watching.arrivals",
        str(path.absolute()),
        str(most),
        *([] if patient else [_FINAL]),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return reject(
            path,
            f"{path} did not run on one blank image within {seconds:.0f} s, the limit for files of {size:,} bytes. Expected a "
            "classifier of images. If it is one, the machine is too busy: announce it with `clusterpaths announce`.",
        )
    if done.returncode == 0:
        return _ANSWER.validate_json(done.stdout.strip().splitlines()[-1])
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    message = (done.stderr.strip().splitlines() or ["without a message"])[-1]
    return reject(path, f"The process that loaded {path} ended with {how}: {message}")


def _size(path: Path) -> int:
    """Bytes of the file and those of its weights that are there."""
    files = [path, *(found for name in external_locations(path) if (found := weights_of(path.parent, name)))]
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def _within(memory: int, path: Path, patient: bool) -> Arrival | Rejected | NotYet:
    """`examine` in this process, which may allocate that many bytes from here on."""
    limit_memory(memory)
    try:
        found = examine(path, patient=patient)
    except MemoryError:
        found = reject(path, f"{path} cannot be loaded: it needs too much memory.")
    if isinstance(found, Rejected) and any(words in found.reason for words in _NO_MEMORY):
        limit = f" It may take {memory / 1e9:.1f} GB while it is examined."
        return found.model_copy(update={"reason": found.reason + limit})
    return found


def reject(path: Path, reason: str) -> Rejected:
    """The outcome for a file that is not accepted."""
    return Rejected(path=str(path.absolute()), name=model_name(path), sha256=content_sha256(path), reason=reason)


def why_unfinished(path: Path) -> str | None:
    """Why the file may still be incomplete; None: it is complete, or will never be a model."""
    try:
        model = load_proto(path)
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


def external_locations(path: Path) -> tuple[str, ...]:
    """The weights files that the model names; none where it cannot be read."""
    try:
        model = load_proto(path)
        locations = {onnx.external_data_helper.ExternalDataInfo(tensor).location for tensor in external_tensors(model)}
    except (DecodeError, ValueError, OSError):
        return ()
    return tuple(sorted(location for location in locations if location not in ("", None, OWN)))


def weights_of(folder: Path, location: str) -> Path | None:
    """As `weights_beside`; None also for a file outside the model's directory, which is not looked at."""
    try:
        return weights_beside(folder, location)
    except ModelError:
        return None


def content_sha256(path: Path, locations: tuple[str, ...] | None = None) -> str:
    """`ModelRecord.sha256` where everything is there, else of what is there; empty: unreadable."""
    names = external_locations(path) if locations is None else locations
    try:
        return hash_files([path, *(found for name in names if (found := weights_of(path.parent, name)))])
    except OSError:
        return ""


if __name__ == "__main__":
    _answer = _within(int(sys.argv[2]), Path(sys.argv[1]), patient=_FINAL not in sys.argv[3:])
    sys.stdout.write(_answer.model_dump_json() + "\n")

"""Models that run in this process without an ONNX file: who runs a model asks here for a session, whichever kind it is.

Belongs here: the interface of sessions, and which models there are, by the digest that their sets record. What a live session
is, is its own affair (`pytorch/session.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clusterpaths.models.products import Values
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.models.tail import TailSession
from clusterpaths.records import CacheDtype, ModelRecord, Tap


class Session(Protocol):
    """What runs a model on batches of images, as `TapSession` does; `model` is its record."""

    model: ModelRecord

    def run(self, images: NDArray[np.float32]) -> Outputs:
        """Run (n, 3, height, width) float32."""
        ...


class LiveSession(Session, Protocol):
    """A session of a live model: other values can be put into a layer on the way."""

    def run_with(self, images: NDArray[np.float32], tap: Tap, values: NDArray[np.float32]) -> Outputs:
        """As `run`, with these values (n, *full shape) as what the tap's layer outputs."""
        ...


class Tail(Protocol):
    """The part of a model behind a layer, as `TailSession` is."""

    needs_images: bool

    def run(self, values: NDArray[np.float32], images: NDArray[np.float32]) -> Outputs:
        """As `TailSession.run`."""
        ...


Open = Callable[[ModelRecord, Mapping[str, CacheDtype], Mapping[str, Values] | None, bool], LiveSession]
"""Makes a session of: the record with its taps, dtypes of layers, centroids and `keep`, each as `TapSession` has them."""

_live: dict[str, tuple[ModelRecord, Open]] = {}


def register(model: ModelRecord, opens: Open) -> None:
    """Offer a model to all that run one, under its digest (`ModelRecord.sha256`)."""
    _live[model.sha256] = model, opens


def live_model(sha256: str) -> ModelRecord | None:
    """The record of the model with this digest, if it can be run in this process; None where it cannot."""
    found = _live.get(sha256)
    return found[0] if found else None


def forget(sha256: str, opens: Open) -> None:
    """The model that was registered with `opens` is no longer there; another one with the same weights may be."""
    if sha256 in _live and _live[sha256][1] is opens:
        del _live[sha256]


def open_session(
    model: ModelRecord,
    dtypes: Mapping[str, CacheDtype] | None = None,
    centroids: Mapping[str, Values] | None = None,
    keep: bool = True,
) -> Session:
    """A session of a live model, else of the record's ONNX file; arguments as of `TapSession`.

    Raises:
        ModelError: it cannot be run.
    """
    found: tuple[Any, Open] | None = _live.get(model.sha256) if not model.path else None
    return found[1](model, dtypes or {}, centroids, keep) if found else TapSession(model, dtypes, centroids, keep)


def open_tail(
    model: ModelRecord, tap: Tap, following: Sequence[Tap] = (), dtypes: Mapping[str, CacheDtype] | None = None
) -> Tail:
    """The part of a live model, else of the record's ONNX file, behind a layer; arguments as of `TailSession`.

    Raises:
        ModelError: it cannot be run.
    """
    found: tuple[Any, Open] | None = _live.get(model.sha256) if not model.path else None
    if not found:
        return TailSession(model, tap, following, dtypes)
    record = model.model_copy(update={"taps": tuple(following)})
    return _LiveTail(found[1](record, dtypes or {}, None, True), tap)


class _LiveTail:
    """All of the model runs; what is in front of the layer has no effect but where it goes past it."""

    needs_images = True

    def __init__(self, session: LiveSession, tap: Tap) -> None:
        self._session, self._tap = session, tap

    def run(self, values: NDArray[np.float32], images: NDArray[np.float32]) -> Outputs:
        return self._session.run_with(images, self._tap, values)

"""Running a model with activations rounded as in a set's cache, on any images, in any thread.

Belongs here: one session per thread, and a second one in float32 for images whose activations exceed float16.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clusterpaths.models.live import Session, open_session
from clusterpaths.models.products import Values
from clusterpaths.models.session import Outputs
from clusterpaths.records import CacheDtype, ModelRecord


class RoundedSession:
    """Computes products of activations with centroids; thread-safe: each thread has a session of its own.

    Args:
        model: the record with its taps.
        dtypes: layer -> dtype that its activations are rounded to first.
        centroids: layer -> (k, width), as `TapSession` takes them.
    """

    def __init__(
        self, model: ModelRecord, dtypes: Mapping[str, CacheDtype], centroids: Mapping[str, Values] | None
    ) -> None:
        self._model, self._dtypes, self._centroids = model, dict(dtypes), centroids
        self._own = threading.local()

    def run(self, images: NDArray[np.float32]) -> Outputs:
        """Run (n, 3, height, width) float32; without the activations themselves."""
        out = self._session("own", self._dtypes).run(images)
        if all(np.isfinite(one.squares).all() for one in out.products.values()):
            return out
        # Activations of other images, such as noise, can exceed float16 where those of the set do not.
        return self._session("float32", dict.fromkeys(self._dtypes, "float32")).run(images)

    def _session(self, name: str, dtypes: Mapping[str, CacheDtype]) -> Session:
        """This thread's."""
        if not hasattr(self._own, name):
            setattr(self._own, name, open_session(self._model, dtypes, self._centroids, keep=False))
        session: Session = getattr(self._own, name)
        return session

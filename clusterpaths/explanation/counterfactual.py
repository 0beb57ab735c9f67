"""What would change the decision on one image: the nearest other path, found by intervention.

Belongs here: the search. For each layer and each other cluster, the image's values are moved by the difference of the two
clusters' means; where the model then decides otherwise, how much of the way is enough is found by bisection. The shifts are
`evaluation/shifts.py`, the cut model is `models/tail.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.clustering.kmeans import comparable, first_alike, nearest
from clusterpaths.evaluation.means import LayerMeans
from clusterpaths.evaluation.shifts import shifted
from clusterpaths.models.live import Tail, open_session, open_tail
from clusterpaths.models.outputs import Decisions, decide
from clusterpaths.models.session import Outputs
from clusterpaths.models.tail import RAW, weights_size, whole
from clusterpaths.records import CacheDtype, ModelRecord, SetRecord

STEPS = 7  # bisections: the amount is known to 1/128 of the way
KEPT = 32 << 20  # bytes of weights; a larger model has no session for each of its layers in memory


@dataclass(frozen=True)
class Change:
    """A shift in one layer that changes the decision.

    Attributes:
        layer: its position in the path.
        source: the image's own cluster there.
        target: the cluster that it is moved to.
        amount: a share of the way, 0 to 1, at which the decision becomes another one; by bisection, so that it is the
            smallest one where the decision changes once on the way.
        prediction: the class that is decided there.
        at_target: the class that is decided at the end of the way.
        path: (layers,) at the end of the way.
    """

    layer: int
    source: int
    target: int
    amount: float
    prediction: int
    at_target: int
    path: tuple[int, ...]


class Counterfactuals:
    """Searches for changes of a set's images. Create one and keep it: it holds a session per layer, of models that are small.

    Args:
        record: of the set.
        model: the set's, tapped.
        means: layer -> means of its clusters; layers without are not asked.
        centroids: layer -> (k, width).
        dtypes: of the layers' values in the cache.
    """

    def __init__(
        self,
        record: SetRecord,
        model: ModelRecord,
        means: dict[str, LayerMeans],
        centroids: dict[str, NDArray[np.float32]],
        dtypes: dict[str, CacheDtype],
    ) -> None:
        self._record, self._means, self._centroids = record, means, centroids
        self._taps = {tap.layer: tap for tap in model.taps}
        self._outputs = model.outputs
        self.layers = tuple(layer for layer in record.layers if layer in means)
        self._model, self._dtypes, self._keep = model, dtypes, not model.path or weights_size(model) <= KEPT
        self._tails: dict[str, Tail] = {}
        raw = [whole(self._taps[layer]) for layer in self.layers]
        self._head = open_session(model.model_copy(update={"taps": tuple(raw)})) if raw else None

    def _tail(self, layer: str) -> Tail:
        if layer in self._tails:
            return self._tails[layer]
        following = self._record.layers[self._record.layers.index(layer) + 1 :]
        tail = open_tail(self._model, self._taps[layer], [self._taps[one] for one in following], self._dtypes)
        if self._keep:
            self._tails[layer] = tail
        return tail

    def search(self, images: NDArray[np.float32], path: NDArray[np.int64]) -> tuple[Change, ...]:
        """The changes that were found, that with the smallest amount first.

        Args:
            images: (1, 3, height, width), the one image as the model gets it.
            path: (layers,) its clusters.
        """
        if self._head is None:
            return ()
        out = self._head.run(images)
        decided = self._decide(out)
        found = [
            change
            for layer in self.layers
            for change in self._in_layer(layer, out.layers[RAW + layer], images, path, int(decided.predictions[0]))
        ]
        return tuple(sorted(found, key=lambda change: (change.amount, -change.layer)))

    def _in_layer(
        self,
        layer: str,
        values: NDArray[np.float32],
        images: NDArray[np.float32],
        path: NDArray[np.int64],
        decided: int,
    ) -> list[Change]:
        at, one = self._record.layers.index(layer), self._means[layer]
        own = int(path[at])
        with_means = np.flatnonzero(np.isfinite(one.means).all(axis=1))
        targets = with_means[with_means != own]
        if own not in with_means or not len(targets) or decided < 0:
            return []
        shifts, tail = one.means[targets] - one.means[own], self._tail(layer)

        def moved(which: NDArray[np.int64], amounts: NDArray[np.float32]) -> Outputs:
            by = shifts[which] * amounts[:, None]
            repeated = np.repeat(images, len(which), axis=0) if tail.needs_images else images
            return tail.run(shifted(values, by, self._taps[layer], one.low), repeated)

        every = np.arange(len(targets), dtype=np.int64)
        end = moved(every, np.ones(len(targets), np.float32))
        at_end = self._decide(end).predictions
        changing = every[at_end != decided]
        low, high = np.zeros(len(changing), np.float32), np.ones(len(changing), np.float32)
        prediction = at_end[changing]
        for _ in range(STEPS if len(changing) else 0):
            middle = (low + high) / np.float32(2)
            now = self._decide(moved(changing, middle)).predictions
            other = now != decided
            prediction = np.where(other, now, prediction)
            low, high = np.where(other, low, middle), np.where(other, middle, high)
        behind = {name: self._clusters(name, rows) for name, rows in end.layers.items()}
        return [
            Change(
                layer=at,
                source=own,
                target=int(targets[index]),
                amount=float(amount),
                prediction=int(new),
                at_target=int(at_end[index]),
                path=(
                    *path[:at].tolist(),
                    int(targets[index]),
                    *(int(behind[name][index]) for name in self._record.layers[at + 1 :]),
                ),
            )
            for index, amount, new in zip(changing.tolist(), high.tolist(), prediction.tolist(), strict=True)
        ]

    def _clusters(self, layer: str, rows: NDArray[np.float32]) -> NDArray[np.int16]:
        flat = rows.reshape(len(rows), -1).astype(np.float32)
        found = nearest(flat, comparable(self._centroids[layer], self._record.distance), self._record.distance)
        clusters: NDArray[np.int16] = first_alike(self._centroids[layer])[found.labels]
        return clusters

    def _decide(self, out: Outputs) -> Decisions:
        assert out.logits is not None
        return decide(self._outputs, out.logits)

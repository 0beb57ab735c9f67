"""The record of one window: its counts, its verdict, and what changed.

Belongs here: from the rows of a window to `WindowRecord`, and the pictures of new images.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.metrics.intervals import wilson
from clusterpaths.metrics.paths import count_paths
from clusterpaths.monitoring.growth import find_growth
from clusterpaths.monitoring.observations import Observations, Status, as_time
from clusterpaths.monitoring.record import (
    ClassCounts,
    Growth,
    LayerCounts,
    NewImage,
    Quantiles,
    Reference,
    WindowRecord,
)
from clusterpaths.monitoring.reference import reference_routes
from clusterpaths.monitoring.verdict import Routes, detect
from clusterpaths.monitoring.windows import Window
from clusterpaths.sets.published import PublishedSet

PICTURE = 160  # pixels of the longer side
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ReadImage = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Judged:
    """A window's record, and its pictures by the name of their file."""

    record: WindowRecord
    pictures: dict[str, bytes]


class Judge:
    """Judges the windows of one source against a set.

    Args:
        published: the reference.
        source: where windows come from, for the record.
        alpha: of one window.
        seed: of the tests' random draws.
        series: its name; empty: windows by hand.
        size: of its windows, as text.
        read: a new image by its name, raising OSError; None: images are not there.
    """

    def __init__(
        self,
        published: PublishedSet,
        source: str,
        *,
        alpha: float,
        seed: int,
        series: str = "",
        size: str = "",
        read: ReadImage | None = None,
    ) -> None:
        self._set, self._source, self._alpha, self._seed = published, source, alpha, seed
        self._series, self._size, self._read = series, size, read
        self._reference: Routes = reference_routes(published, store=bool(series))
        self._paths = {tuple(path) for path in published.paths.paths.tolist()}

    def judge(self, window: Window, number: int) -> Judged:
        """The record of a window. Of the same rows always the same verdict."""
        rows, record = window.rows.routed, self._set.record
        verdict = detect(
            self._reference,
            Routes(rows.clusters, rows.ood_scores, rows.predictions),
            self._set.layers,
            record.class_names,
            self._alpha,
            self._seed,
        )
        new = self._is_new(rows)
        growth, pictures = self._pictured(find_growth(self._set, rows))
        found = WindowRecord(
            series=self._series,
            number=number,
            size=self._size,
            reference=Reference(
                name=self._set.name,
                fingerprint=record.fingerprint,
                model=record.model.sha256,
                num_examples=record.num_examples,
            ),
            source=self._source,
            start=as_time(window.start),
            end=as_time(window.end),
            num_images=len(rows),
            duplicates=window.rows.count(Status.DUPLICATE),
            unusable=window.rows.count(Status.UNUSABLE),
            late=window.rows.count(Status.LATE),
            verdict=verdict,
            layers=self._layers(rows),
            classes=self._classes(rows, new),
            paths_window=len(count_paths(rows.clusters).counts) if len(rows) else 0,
            new_paths=int(new.sum()),
            new_paths_interval=wilson(int(new.sum()), len(rows)) if len(rows) else (0.0, 1.0),
            ood=Quantiles(reference=_quantiles(self._reference.ood_scores), window=_quantiles(rows.ood_scores))
            if len(rows)
            else None,
            growth=growth,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        return Judged(found, pictures)

    def _is_new(self, rows: Observations) -> NDArray[np.bool_]:
        return np.array([tuple(path) not in self._paths for path in rows.clusters.tolist()], np.bool_)

    def _layers(self, rows: Observations) -> tuple[LayerCounts, ...]:
        counts = (
            [np.bincount(side[:, i], minlength=k).tolist() for side in (self._set.clusters, rows.clusters)]
            for i, k in enumerate(self._set.k)
        )
        return tuple(
            LayerCounts(layer=layer, reference=tuple(reference), window=tuple(window))
            for layer, (reference, window) in zip(self._set.layers, counts, strict=True)
        )

    def _classes(self, rows: Observations, new: NDArray[np.bool_]) -> tuple[ClassCounts, ...]:
        both = np.concatenate([self._reference.predictions, rows.predictions])
        found = []
        for index in np.unique(both[both >= 0]).tolist():
            reference, window = self._reference.predictions == index, rows.predictions == index
            found.append(
                ClassCounts(
                    index=index,
                    name=self._set.class_name(index),
                    reference=int(reference.sum()),
                    window=int(window.sum()),
                    new_paths=int(new[window].sum()),
                    ood_reference=_median(self._reference.ood_scores[reference]),
                    ood_window=_median(rows.ood_scores[window]),
                )
            )
        return tuple(found)

    def _pictured(self, growth: tuple[Growth, ...]) -> tuple[tuple[Growth, ...], dict[str, bytes]]:
        """The same, with the pictures of new images."""
        pictures: dict[str, bytes] = {}
        names: dict[str, str] = {}

        def pictured(one: NewImage) -> NewImage:
            if one.name not in names:
                content = self._picture(one.name)
                names[one.name] = f"picture_{len(pictures):02d}.jpg" if content else ""
                if content:
                    pictures[names[one.name]] = content
            return one.model_copy(update={"picture": names[one.name]})

        found = tuple(
            one.model_copy(update={"exemplars_window": tuple(map(pictured, one.exemplars_window))}) for one in growth
        )
        return found, pictures

    def _picture(self, name: str) -> bytes:
        """JPEG; empty where the image is not there."""
        if self._read is None:
            return b""
        try:
            small = self._read(name).convert("RGB")
        except OSError:
            return b""  # removed since; the record keeps its name
        small.thumbnail((PICTURE, PICTURE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def _quantiles(scores: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    a, b, c, d, e = np.quantile(scores, QUANTILES).tolist()
    return a, b, c, d, e


def _median(scores: NDArray[np.float64]) -> float | None:
    return float(np.median(scores)) if len(scores) else None

"""What a vision-language model is asked about a set: which groups of exemplars are compared, and their montages.

Belongs here: choosing examples. Deterministic, so that a repetition asks the same and finds its answers cached.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.explore.index import SetIndex
from clusterpaths.naming.prompts import CLUSTER, PAIR

SHOWN = 9  # photographs of a montage
FEWEST = 2  # photographs that can be compared
TILE = 128  # pixels; three by three fit into 512, the size that models look at in one piece
ASKINGS = 2  # of each cluster, each with other exemplars
MOST_PATHS, MOST_PAIRS = 300, 40  # of the most frequent paths those that are paired, and their pairs
QUALITY = 85


@dataclass(frozen=True)
class Ask:
    """One question: two groups of rows of the set, compared.

    Of a cluster (layer, cluster): its exemplars with those of the layer's other clusters. Of a pair: exemplars of two paths that
    differ in this layer only, in these two clusters.
    """

    layer: int
    clusters: tuple[int, ...]  # one, or the two of a pair
    first: tuple[int, ...]  # rows
    second: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """Its text."""
        return PAIR if len(self.clusters) == 2 else CLUSTER

    @property
    def fields(self) -> tuple[str, ...]:
        """Of the JSON object that is the answer."""
        return ("a", "b") if len(self.clusters) == 2 else ("name",)

    @property
    def photographs(self) -> int:
        """How many leave the machine with it."""
        return len(self.first) + len(self.second)


def cluster_questions(index: SetIndex) -> list[Ask]:
    """Two questions per cluster, the last layer first, the first asking of every cluster of a layer before the second.

    The askings take turns among the exemplars, nearest to the centroid first, so both show the cluster's core. Clusters of fewer
    than four examples, and layers of one cluster, are left out.
    """
    found = []
    for layer in reversed(range(len(index.k))):
        members = [index.members(layer, cluster) for cluster in range(index.k[layer])]
        for asking in range(ASKINGS):
            for cluster, own in enumerate(members):
                others = _in_turns([rows for other, rows in enumerate(members) if other != cluster])
                first, second = (_turn(rows, asking) for rows in (own, others))
                if len(own) >= FEWEST * ASKINGS and len(second) >= FEWEST:
                    found.append(Ask(layer, (cluster,), first, second))
    return found


def pair_questions(index: SetIndex, most: int = MOST_PAIRS) -> list[Ask]:
    """Minimal divergences: pairs of frequent paths that differ in exactly one layer, one per layer and two clusters.

    Of several such pairs the one whose rarer path is most frequent; most frequent first.
    """
    paths = index.paths.paths[:MOST_PATHS].astype(np.int64)
    counts = index.paths.counts[:MOST_PATHS]
    best: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for p in range(len(paths)):
        if counts[p] < FEWEST:
            break
        differing = paths[p + 1 :] != paths[p]  # (q, L)
        for q in (np.flatnonzero(differing.sum(axis=1) == 1) + p + 1).tolist():
            layer = int(np.flatnonzero(paths[q] != paths[p])[0])
            a, b = sorted((int(paths[p, layer]), int(paths[q, layer])))
            one, other = (p, q) if paths[p, layer] == a else (q, p)
            if counts[q] >= FEWEST and counts[q] > best.get((layer, a, b), (0, 0, 0))[0]:  # q is the rarer one
                best[layer, a, b] = int(counts[q]), one, other
    order = sorted(best.items(), key=lambda entry: (-entry[1][0], -entry[0][0], entry[0]))
    return [
        Ask(layer, (a, b), _first(index.on_path(one)), _first(index.on_path(other)))
        for (layer, a, b), (_, one, other) in order[: max(most, 0)]
    ]


def montage(pictures: Sequence[Image.Image]) -> bytes:
    """A JPEG of these pictures, three in a row, each scaled into a square without cropping."""
    across = min(3, len(pictures))
    rows = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * TILE, rows * TILE), (128, 128, 128))
    for number, picture in enumerate(pictures):
        small = picture.convert("RGB")
        scale = TILE / max(small.size)
        size = (max(round(small.width * scale), 1), max(round(small.height * scale), 1))
        small = small.resize(size, Image.Resampling.BILINEAR)
        left, top = number % across * TILE, number // across * TILE
        sheet.paste(small, (left + (TILE - small.width) // 2, top + (TILE - small.height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def montages(ask: Ask, index: SetIndex, read_image: Callable[[str], Image.Image]) -> tuple[bytes, ...] | None:
    """The two montages of a question; None where fewer than two images of a group can be read."""
    made = []
    for rows in (ask.first, ask.second):
        pictures = []
        for row in rows:
            try:
                pictures.append(read_image(index.file(row)))
            except (OSError, Image.DecompressionBombError):
                continue  # deleted or replaced since
        if len(pictures) < FEWEST:
            return None
        made.append(montage(pictures))
    return tuple(made)


def _turn(rows: NDArray[np.integer], asking: int) -> tuple[int, ...]:
    return _first(rows[asking::ASKINGS])


def _first(rows: NDArray[np.integer]) -> tuple[int, ...]:
    return tuple(rows[:SHOWN].tolist())


def _in_turns(groups: Sequence[NDArray[np.integer]]) -> NDArray[np.integer]:
    """Rows of all groups, the nearest of each group first; in twos of a group, so that every asking shows as many of each."""
    wanted = SHOWN * ASKINGS
    found = [group[step : step + ASKINGS].tolist() for step in range(0, wanted, ASKINGS) for group in groups]
    pairs = [pair for pair in found if len(pair) == ASKINGS][:SHOWN]
    return np.array([row for pair in pairs for row in pair], np.int64)

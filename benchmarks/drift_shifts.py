"""The ways in which benchmarks/drift.py makes new images differ from a reference, and the search for the smallest amount found.

Belongs here: shifts, and windows of them. What is measured on them is `drift.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from drift_methods import Seen
from numpy.typing import NDArray

from clusterpaths.evaluation import perturb

Images = NDArray[np.uint8]
See = Callable[[Images], Seen]
SHARES = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
CHANGES: dict[str, tuple[tuple[float, ...], Callable[[float], perturb.Perturbation]]] = {
    "noise, σ in gray levels": ((2, 4, 6, 8, 12, 16, 24, 32), lambda levels: perturb.gaussian_noise(levels / 255)),
    "JPEG, 100 - quality": ((20, 30, 40, 50, 60, 70, 80, 90, 95), lambda loss: perturb.jpeg(round(100 - loss))),
    "brighter, by": ((0.05, 0.1, 0.15, 0.2, 0.3, 0.5), lambda by: perturb.brightness(1 + by)),
    "darker, by": ((0.05, 0.1, 0.15, 0.2, 0.3, 0.5), lambda by: perturb.brightness(1 - by)),
}
FOUND = 0.8  # of the windows


@dataclass(frozen=True)
class Shift:
    """A kind of shift: `window(split, amount, size, trial)` is a window of it, the same for every detector."""

    name: str
    amounts: tuple[float, ...]
    window: Callable[[int, float, int, int], Seen]


def shifts(held_out: Sequence[Images], sees: Sequence[See]) -> Iterator[Shift]:
    """All of them, one after the other.

    Args:
        held_out: of each split, its held-out images (n, height, width, 3).
        sees: of each split, what makes images into what detectors see.
    """
    own = [see(images) for see, images in zip(sees, held_out, strict=True)]
    size = (held_out[0].shape[1], held_out[0].shape[2])
    crops = perturb.photo_crops(len(held_out[0]), size, np.random.default_rng(0)).images
    drawn = perturb.drawn_faces(len(held_out[0]), size, seed=0)
    for name, images in {
        "photo crops, share": [crops] * len(sees),
        "drawn faces, share": [drawn] * len(sees),
        "upside-down faces, share": [perturb.upside_down(images) for images in held_out],
    }.items():
        foreign = [see(each) for see, each in zip(sees, images, strict=True)]
        yield Shift(name, SHARES, lambda *which, foreign=foreign: _mixed(own, foreign, *which))
    for name, (amounts, change) in CHANGES.items():

        @cache
        def changed(split: int, amount: float, change: Callable[[float], perturb.Perturbation] = change) -> Seen:
            return sees[split](change(amount)(held_out[split], np.random.default_rng([split, 1])))

        yield Shift(
            name, amounts, lambda split, amount, *which, seen=changed: _drawn(seen(split, amount), split, *which)
        )
    shares = np.bincount(np.concatenate([seen.predictions for seen in own])) / sum(map(len, own))
    classes = {float(round(share, 4)): at for at, share in enumerate(shares.tolist()) if share}
    yield Shift(
        "no image of a class, its share",
        tuple(sorted(classes)),
        lambda split, amount, *which: _drawn(
            own[split].take(np.flatnonzero(own[split].predictions != classes[amount])), split, *which
        ),
    )


def _drawn(seen: Seen, split: int, size: int, trial: int) -> Seen:
    """A window of these images, each once."""
    return seen.take(np.random.default_rng([split, trial]).choice(len(seen), size, replace=False))


def _mixed(own: Sequence[Seen], foreign: Sequence[Seen], split: int, share: float, size: int, trial: int) -> Seen:
    """A window of own images, of which a share is replaced by foreign ones."""
    count, rng = round(size * share), np.random.default_rng([split, trial])
    mine, others = (
        rng.choice(len(own[split]), size - count, replace=False),
        rng.choice(len(foreign[split]), count, replace=False),
    )
    return own[split].take(mine).join(foreign[split].take(others))


def smallest(amounts: tuple[float, ...], power: Callable[[float], float]) -> tuple[float | None, dict[float, float]]:
    """The weakest amount that is found in FOUND of the windows (None: not the strongest either), and the shares measured.

    By halving: power rises with the amount.
    """
    low, high, measured = 0, len(amounts), dict[float, float]()
    while low < high:
        middle = (low + high) // 2
        measured[amounts[middle]] = power(amounts[middle])
        if measured[amounts[middle]] >= FOUND:
            high = middle
        else:
            low = middle + 1
    return (amounts[low] if low < len(amounts) else None), dict(sorted(measured.items()))

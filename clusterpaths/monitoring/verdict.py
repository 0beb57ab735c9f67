"""One verdict for a window of new examples: the tests, corrected for their number.

Belongs here: what is compared, the verdict's record, and the level of a series of windows. The tests themselves are
`two_sample.py`; how the reference's examples are made comparable is `reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.metrics.checks import Ints, require_classes, require_paths
from clusterpaths.metrics.paths import count_paths
from clusterpaths.monitoring.two_sample import (
    TestResult,
    count_groups,
    draws_needed,
    g_test,
    high_scores_test,
    holm,
    ks_test,
    new_categories_test,
)
from clusterpaths.records import Record, name_of

Kind = Literal[
    "clusters", "paths", "new paths", "predictions", "OOD scores", "high OOD scores", "paths of a class"
]  # fmt: skip
EffectName = Literal["Jensen-Shannon distance", "Kolmogorov-Smirnov distance", "share of the window"]

CLASS_EXAMPLES = 30  # predicted as a class, in reference and window each: of fewer its paths are not tested
HIGH_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # of the OOD scores that count as high


@dataclass(frozen=True)
class Routes:
    """What is known of n examples.

    Attributes:
        clusters: (n, L) the cluster paths, ids >= 0.
        ood_scores: (n,) as if no centroid had been fitted on the example (`held_out_scores`).
        predictions: (n,) class indices, -1: none.

    Raises:
        ValueError: shapes that do not match, ids below 0, classes below -1, or scores that are not finite.
    """

    clusters: Ints
    ood_scores: NDArray[np.float64]
    predictions: Ints

    def __post_init__(self) -> None:
        require_paths("clusters", self.clusters)
        require_classes("predictions", self.predictions, "clusters", len(self))
        if self.ood_scores.shape != (len(self),):
            raise ValueError(
                f"ood_scores should be one per row of clusters, so ({len(self)},), got {self.ood_scores.shape} instead."
            )
        if not np.isfinite(self.ood_scores).all():
            raise ValueError("ood_scores should be finite, got NaN or infinity instead.")

    def __len__(self) -> int:
        return len(self.clusters)


class DriftTest(Record):
    """One test of whether a window is as the reference."""

    kind: Kind
    subject: str = Field(default="", description="the layer of clusters, the class of paths of a class")
    statistic_name: Literal["G", "D", "examples", "-log p"]
    statistic: float
    p_value: float = Field(description="probability of such a statistic, or a larger one, without drift")
    adjusted_p_value: float = Field(description="corrected for the number of tests of the window (Holm)")
    effect_name: EffectName
    effect: float = Field(description="size of the difference, in 0..1; does not depend on how many examples show it")
    effect_by_chance: float = Field(description="its mean without drift, for as many examples")
    n_reference: int = Field(description="examples")
    n_window: int


class Verdict(Record):
    """Whether a window drifted; the tests in the order: clusters by layer, paths, predictions, OOD scores, classes."""

    drifted: bool = Field(description="p_value <= alpha")
    p_value: float = Field(description="smallest adjusted p-value of the tests; 1 without tests")
    alpha: float = Field(description="probability of a false alarm in this window, at most")
    effect: float | None = Field(
        description="Jensen-Shannon distance of the path distributions, in 0..1; None: no examples"
    )
    effect_by_chance: float | None = Field(description="its mean without drift, for as many examples")
    first_layer: str | None = Field(
        description="first layer, in the network's order, with an adjusted p-value <= alpha"
    )
    n_reference: int = Field(description="examples")
    n_window: int
    tests: tuple[DriftTest, ...]


def detect(
    reference: Routes,
    window: Routes,
    layers: Sequence[str],
    class_names: Sequence[str],
    alpha: float,
    seed: int,
) -> Verdict:
    """Compare a window with the reference; the same arguments give the same verdict, bit by bit.

    Tested are the clusters of each layer, the paths, the share of new paths, the predictions, the OOD scores (their
    distribution, and how many are high), and the paths of each predicted class with at least CLASS_EXAMPLES examples in both.
    Holm's correction keeps the probability of any false alarm at alpha, if reference and window are exchangeable.

    Args:
        reference: n > 0 examples.
        window: m examples; without any there are no tests and no drift.
        layers: names, in the network's order.
        class_names: of predictions, by index; a class beyond them is named by its number.
        alpha: probability of a false alarm in this window. Of a series: `level_of_window`. A window that drifted takes about
            50 / alpha random draws for each test: seconds at 0.0005.
        seed: of the draws.

    Raises:
        ValueError: alpha is not in 0..1, another number of layers, or an empty reference.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha should be above 0 and below 1, got {alpha} instead.")
    for name, routes in (("the reference", reference), ("the window", window)):
        if routes.clusters.shape[1] != len(layers):
            raise ValueError(f"{name} should have {len(layers)} layers, got {routes.clusters.shape[1]} instead.")
    if not len(reference):
        raise ValueError("The reference should have examples, got none.")
    planned = list(_plan(reference, window, layers, class_names)) if len(window) else []
    draws = draws_needed(alpha, max(len(planned), 1))
    results = [run(draws, np.random.default_rng([seed, at])) for at, (*_, run) in enumerate(planned)]
    adjusted = holm([result.p_value for result in results])
    tests = tuple(
        _record(kind, subject, result, p)
        for (kind, subject, _), result, p in zip(planned, results, adjusted, strict=True)
    )
    paths = next((test for test in tests if test.kind == "paths"), None)
    p_value = min(adjusted, default=1.0)
    changed = (test.subject for test in tests if test.kind == "clusters" and test.adjusted_p_value <= alpha)
    return Verdict(
        drifted=p_value <= alpha,
        p_value=p_value,
        alpha=alpha,
        effect=paths.effect if paths else None,
        effect_by_chance=paths.effect_by_chance if paths else None,
        first_layer=next(changed, None),
        n_reference=len(reference),
        n_window=len(window),
        tests=tests,
    )


def level_of_window(alpha: float, horizon: int) -> float:
    """The level of each window, so that any `horizon` consecutive windows have a false alarm with probability alpha at most.

    alpha / horizon (Bonferroni). It holds however the windows depend on each other, and they do: all are compared with the
    same reference, and one whose draw was unusual makes every window look unusual. Methods that gain power over time (alpha
    investing, e-detectors) need p-values that are valid given the windows before, which a shared reference does not give.

    Raises:
        ValueError: alpha is not in 0..1, or horizon is below 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha should be above 0 and below 1, got {alpha} instead.")
    if horizon < 1:
        raise ValueError(f"horizon should be at least 1 window, got {horizon} instead.")
    return alpha / horizon


Run = Callable[[int, np.random.Generator], TestResult]  # of the number of draws


def _plan(
    reference: Routes, window: Routes, layers: Sequence[str], class_names: Sequence[str]
) -> Iterator[tuple[Kind, str, Run]]:
    """Kind and subject of each test, and how it is run."""
    for at, layer in enumerate(layers):
        yield "clusters", layer, _counted(reference.clusters[:, at], window.clusters[:, at])
    n = len(reference)
    paths = count_paths(np.concatenate([reference.clusters, window.clusters])).of_example
    yield "paths", "", _counted(paths[:n], paths[n:])
    counts = count_groups(paths[:n], paths[n:])
    yield "new paths", "", lambda draws, rng: new_categories_test(*counts, draws, rng)
    known = [routes.predictions >= 0 for routes in (reference, window)]
    if known[0].any() and known[1].any():
        yield "predictions", "", _counted(reference.predictions[known[0]], window.predictions[known[1]])
    scores = reference.ood_scores, window.ood_scores
    yield "OOD scores", "", lambda *_: ks_test(*scores)
    yield "high OOD scores", "", lambda draws, rng: high_scores_test(*scores, HIGH_SHARES, draws, rng)
    for index in np.unique(window.predictions[known[1]]).tolist():
        of_class = [routes.predictions == index for routes in (reference, window)]
        if min(mask.sum() for mask in of_class) >= CLASS_EXAMPLES:
            yield (
                "paths of a class",
                name_of(tuple(class_names), index),
                _counted(paths[:n][of_class[0]], paths[n:][of_class[1]]),
            )


def _counted(reference: Ints, window: Ints) -> Run:
    counts = count_groups(reference, window)
    return lambda draws, rng: g_test(*counts, draws, rng)


def _record(kind: Kind, subject: str, result: TestResult, adjusted: float) -> DriftTest:
    names: dict[Kind, tuple[Literal["D", "examples", "-log p"], EffectName]] = {
        "OOD scores": ("D", "Kolmogorov-Smirnov distance"),
        "high OOD scores": ("-log p", "share of the window"),
        "new paths": ("examples", "share of the window"),
    }
    statistic_name, effect_name = names.get(kind, ("G", "Jensen-Shannon distance"))
    return DriftTest(
        kind=kind,
        subject=subject,
        statistic_name=statistic_name,
        statistic=result.statistic,
        p_value=result.p_value,
        adjusted_p_value=adjusted,
        effect_name=effect_name,
        effect=result.effect,
        effect_by_chance=result.by_chance,
        n_reference=result.n_reference,
        n_window=result.n_window,
    )

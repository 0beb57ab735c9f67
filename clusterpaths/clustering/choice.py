"""What a sweep over k, distances and layers found: `choice.json` and its words. The sweep itself is `choose.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from clusterpaths.records import Distance, Record

Interval = tuple[float, float]


class SweepPoint(Record):
    """One layer, clustered with one k and one distance."""

    layer: str
    distance: Distance
    k: int
    daf: float | None = Field(description="decision alignment of this layer only; None: no class scores")
    interval: Interval | None = Field(description="95%")
    occupied: int = Field(description="clusters that have an example: the complexity of a path of this layer only")
    stability: float = Field(description="mean adjusted Rand index between the seeds' clusterings")
    silhouette: float = Field(description="simplified, of held-out rows: near 1 is well separated, 0 is not separated")
    chosen: bool = False


class LayerSet(Record):
    """Paths through some of the layers, each with its chosen k."""

    layers: tuple[str, ...]
    distance: Distance
    daf: float | None
    interval: Interval | None
    paths: int = Field(description="occupied paths of the sample, on average over the seeds: the complexity")
    stability: float
    advised: bool = False


class Choice(Record):
    """The complete sweep, and what was chosen from it."""

    version: Literal[1] = 1
    sentence: str = Field(description="the choice and its reason")
    advice: str = Field(description="layers that would suffice; not applied")
    scored_by: Literal["decisions", "stability"]
    distance: Distance
    k_per_layer: dict[str, int]
    seed: int
    sampled: int = Field(description="examples whose sketches were clustered")
    judged: int = Field(description="of them, examples with a prediction that were held out of one fit")
    baseline: float | None = Field(description="accuracy of always predicting the most frequent class")
    baseline_interval: Interval | None
    carries_nothing: tuple[str, ...] = Field(description="layers whose clusters are no better than the baseline")
    cut: tuple[str, ...] = Field(
        description="layers with the smallest k because more clusters would scatter complete paths"
    )
    points: tuple[SweepPoint, ...]
    layer_sets: tuple[LayerSet, ...]


def sentence(
    choice: Choice, asked: Mapping[str, int | None], distance: Distance | Literal["auto"], one_class: bool
) -> str:
    """The choice and its reason; `asked` and `distance`: which settings were to be chosen."""
    given = [layer for layer, k in asked.items() if k is not None]
    left = [layer for layer in choice.k_per_layer if layer not in given]
    each = [", ".join(f"{layer}={choice.k_per_layer[layer]}" for layer in layers) for layers in (given, left)]
    ks = ", ".join([f"{each[0]} (as given)"] * bool(given) + [each[1]] * bool(left))
    taken = f"{choice.distance} distance{'' if distance == 'auto' else ' (as given)'} and k {ks}"
    all_layers = next(
        one for one in choice.layer_sets if one.distance == choice.distance and set(one.layers) == set(asked)
    )
    nothing = tuple(layer for layer in choice.carries_nothing if layer in left)
    of_each = f"for {'these' if given else 'each layer'}"
    if all_layers.daf is None or all_layers.interval is None or choice.baseline is None:
        why = "the model predicts one class only" if one_class else "there are no class scores"
        rule = f"{of_each} the most clusters that are stable over seeds and as well separated as any; "
        return (
            f"Chosen: {taken}, by stability over seeds because {why}: {rule * bool(left)}complete paths have an adjusted "
            f"Rand index of {all_layers.stability:.2f} between seeds{_listed(nothing, 'no stable clusters', '')}."
        )
    rule = f"{of_each} the fewest clusters whose decision alignment is within the 95% interval of the layer's best; "
    rest = _listed(nothing, "nothing", " (no better than the most frequent class)")
    if choice.cut:
        rest += f"; {', '.join(choice.cut)} at the smallest k, as more clusters there would scatter complete paths"
    return (
        f"Chosen: {taken}, {rule * bool(left)}complete paths predict the model's decision for {all_layers.daf:.1%} "
        f"({all_layers.interval[0]:.1%} to {all_layers.interval[1]:.1%}) of {choice.judged:,} held-out examples, the most "
        f"frequent class for {choice.baseline:.1%}{rest}."
    )


def _listed(layers: tuple[str, ...], what: str, why: str) -> str:
    if not layers:
        return ""
    return f"; {', '.join(layers)} carr{'ies' if len(layers) == 1 else 'y'} {what}{why}, hence the smallest k there"


def advice(advised: LayerSet | None) -> str:
    """Which fewer layers would suffice; empty where all are needed."""
    if advised is None or advised.daf is None:
        return ""
    return (
        f"Fewer layers would suffice: {', '.join(advised.layers)} (decision alignment {advised.daf:.1%}, {advised.paths:,} "
        f"paths) {'is' if len(advised.layers) == 1 else 'are'} as good as any set of layers within the 95% interval."
    )

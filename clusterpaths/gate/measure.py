"""What a gate measures of two sets: the value of each rule, with its interval, or why there is none.

Belongs here: reading both sets, and the arithmetic. A value is a `Measured`; where there is none, a sentence says why. The limits
are the policy's, the verdict is `decide.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clusterpaths.comparison.compare import compare_sets
from clusterpaths.comparison.joint_classes import JointClasses, join_classes
from clusterpaths.comparison.record import Comparison
from clusterpaths.evaluation.record import VERSION, Evaluation, Measure, read_evaluation
from clusterpaths.gate.policy import ClassesRule, ShortcutRule
from clusterpaths.gate.record import Measured
from clusterpaths.metrics.intervals import ratio_interval, wilson
from clusterpaths.metrics.paths import FEW_EXAMPLES, in_majority
from clusterpaths.records import name_of
from clusterpaths.sets.join import join_examples
from clusterpaths.sets.published import PublishedSet

OOD_SCORE = "paths"  # the score that path models have, among those of metrics.json
_Z95 = 1.959963984540054
Found = Measured | str


@dataclass(frozen=True)
class Evidence:
    """Two sets of the same images; m common examples."""

    reference: PublishedSet
    candidate: PublishedSet

    @cached_property
    def comparison(self) -> Comparison:
        """What changed.

        Raises:
            CacheError, DatasetError: as `comparison.compare.compare_sets`.
        """
        return compare_sets(self.reference, self.candidate)

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return join_examples(self.reference, self.candidate)

    @cached_property
    def _classes(self) -> JointClasses:
        at_a, at_b = self._rows
        a, b = self.reference, self.candidate
        return join_classes(a.record, b.record, a.predictions[at_a], b.predictions[at_b], b.labels[at_b])

    @cached_property
    def evaluations(self) -> tuple[Evaluation | None, Evaluation | None]:
        """metrics.json of the reference and of the candidate."""
        return read_evaluation(self.reference), read_evaluation(self.candidate)

    # Decisions

    def decisions_kept(self) -> Found:
        """Share of common examples with the same predicted class."""
        found = self.comparison.decisions
        if found is None:
            return "a set has no predictions"
        kept, n = found.num_examples - found.changed, found.num_examples
        low, high = wilson(kept, n)
        return Measured(value=kept / n, low=low, high=high, n=n)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(m,) examples with a label that both predictions can be compared with."""
        one = self._classes
        if one.label_names:  # indices of other classes
            return np.zeros(len(one.labels), np.bool_)
        known: NDArray[np.bool_] = (one.labels >= 0) & (one.first >= 0) & (one.second >= 0)
        return known

    @property
    def should_have_labels(self) -> bool:
        """Whether examples have labels that the reference's predictions can be compared with: the candidate's should be, too."""
        at, a = self._rows[0], self.reference
        return bool(a.record.same_classes and ((a.labels[at] >= 0) & (a.predictions[at] >= 0)).any())

    def accuracy_change(self) -> Found:
        """Accuracy of the candidate minus the reference's, on the labelled examples."""
        at, one = self.labelled, self._classes
        if not at.any():
            return "no common example has a label and two predictions of its classes"
        return paired_change((one.first == one.labels)[at], (one.second == one.labels)[at])

    def class_changes(self, rule: ClassesRule) -> dict[str, Measured] | str:
        """Change of each class's recall; without labels, of the reference's predictions of a class that stay."""
        one, at = self._classes, self.labelled
        decided = (one.first >= 0) & (one.second >= 0)
        if not decided.any():
            return "a set has no predictions"
        if self.should_have_labels and not at.any():
            return "the candidate's predictions cannot be compared with the labels, as the reference's can"
        of, at = (one.labels, at) if at.any() else (one.first, decided)
        found: dict[str, Measured] = {}
        for number in np.unique(of[at]).tolist():
            own = at & (of == number)
            if own.sum() >= rule.min_examples:
                change = paired_change((one.first == number)[own], (one.second == number)[own])
                found[name_of(one.names, number)] = change.model_copy(update={"about": name_of(one.names, number)})
        return found or f"no class has {rule.min_examples} examples"

    # Paths

    def path_agreement(self) -> Found:
        """Share of common examples whose complete path is unchanged."""
        found = self.comparison
        if found.layers_only_first:
            return f"the candidate lacks {', '.join(found.layers_only_first)} of the reference"
        if not found.same_k:
            return "the sets have different numbers of clusters, so that their paths differ anyway"
        low, high = found.path_agreement_interval
        return Measured(value=found.path_agreement, low=low, high=high, n=found.num_examples)

    def layer_agreement(self, layer: str) -> Found:
        """Share of common examples whose cluster is unchanged in a layer."""
        found = next((one for one in self.comparison.layers if one.layer == layer), None)
        if found is None:
            return f"{layer} is not a layer of both; those are {', '.join(x.layer for x in self.comparison.layers)}"
        if self.comparison.first.k_per_layer[layer] != self.comparison.second.k_per_layer[layer]:
            return f"the sets have different numbers of clusters in {layer}"
        low, high = found.agreement_interval
        return Measured(value=found.agreement, low=low, high=high, n=self.comparison.num_examples, about=layer)

    def shared_information(self) -> dict[str, Measured] | str:
        """Adjusted mutual information of the clusters of each layer; it has no interval."""
        if lost := self.comparison.layers_only_first:
            return f"the candidate lacks {', '.join(lost)} of the reference"
        return {
            one.layer: Measured(value=one.shared_information, n=self.comparison.num_examples, about=one.layer)
            for one in self.comparison.layers
            if one.shared_information is not None
        }

    # Shortcuts

    @cached_property
    def _attributes(self) -> tuple[Mapping[str, NDArray[np.int8]], Mapping[str, NDArray[np.int8]]]:
        return self.reference.read_attributes(), self.candidate.read_attributes()

    def _layers(self, rule: ShortcutRule) -> list[str] | str:
        unknown = [layer for layer in rule.layers if layer not in self.candidate.layers]
        if unknown:
            return f"{', '.join(unknown)} is not clustered; layers are {', '.join(self.candidate.layers)}"
        return list(rule.layers or self.candidate.layers)

    def _attribute(self, name: str, side: int) -> NDArray[np.int8] | str:
        """(n,) 1, -1, or 0 for not known; of the candidate's examples (1) or the reference's (0)."""
        values = self._attributes[side].get(name)
        if values is None:
            there = ", ".join(self._attributes[side])
            return f"the data set has no attribute {name}; it has {there or 'none'}"
        if not ((values == 1).any() and (values == -1).any()):
            return f"{name} has one value for all examples"
        return values

    def purities(self, rule: ShortcutRule) -> dict[str, Measured] | str:
        """Layer -> purity of its clusters for the attribute, of the candidate."""
        layers, values = self._layers(rule), self._attribute(rule.attribute, 1)
        if isinstance(layers, str) or isinstance(values, str):
            return layers if isinstance(layers, str) else str(values)
        found = {}
        for layer in layers:
            pure = in_majority(_column(self.candidate, layer), _as_classes(values))
            low, high = wilson(int(pure.sum()), len(pure))
            found[layer] = Measured(value=float(pure.mean()), low=low, high=high, n=len(pure), about=layer)
        return found

    def purity_rises(self, rule: ShortcutRule) -> dict[str, Measured] | str:
        """Layer -> that purity minus the reference's, on the common examples."""
        layers, values = self._layers(rule), self._attribute(rule.attribute, 1)
        if isinstance(layers, str) or isinstance(values, str):
            return layers if isinstance(layers, str) else str(values)
        at_a, at_b = self._rows
        classes, found = _as_classes(values)[at_b], {}
        if not (classes >= 0).any():
            return f"{rule.attribute} is not known for any image that both sets have"
        for layer in layers:
            if layer not in self.reference.layers:
                return f"the reference lacks {layer}"
            before = in_majority(_column(self.reference, layer)[at_a], classes)
            after = in_majority(_column(self.candidate, layer)[at_b], classes)
            found[layer] = paired_change(before, after).model_copy(update={"about": layer})
        return found

    def lifts(self, rule: ShortcutRule) -> dict[str, Measured] | str:
        """Cluster -> how much more frequent the attribute is in it than outside; the intervals hold jointly for a layer."""
        layers, values = self._layers(rule), self._attribute(rule.attribute, 1)
        if isinstance(layers, str) or isinstance(values, str):
            return layers if isinstance(layers, str) else str(values)
        found = {one.about: one for layer in layers for one in _lifts(self.candidate, layer, values)}
        return found or f"no cluster has {FEW_EXAMPLES} examples"

    # OOD detection

    def ood(self, side: int) -> dict[str, Measured] | str:
        """Kind of images -> AUROC of the OOD score; of the reference (0) or the candidate (1)."""
        evaluation, published = self.evaluations[side], (self.reference, self.candidate)[side]
        if evaluation is None or evaluation.fingerprint != published.record.fingerprint:
            return f"{published.name} has no metrics.json: it was not evaluated. Run its model again, with the same settings"
        if evaluation.version != VERSION:
            return f"{published.name} was evaluated by another version of this program. Run its model again"
        found = {
            kind.name: _of_measure(score.auroc, kind.name)
            for kind in evaluation.strangers
            for score in kind.scores
            if score.score == OOD_SCORE
        }
        return found or f"OOD detection of {published.name} was not measured: {' '.join(evaluation.notes)}"

    def ood_changes(self) -> dict[str, Measured] | str:
        """Kind of images -> AUROC of the candidate minus the reference's; intervals as of independent samples."""
        before, after = self.ood(0), self.ood(1)
        if isinstance(before, str) or isinstance(after, str):
            return before if isinstance(before, str) else str(after)
        if missing := [kind for kind in before if kind not in after]:
            return f"it was not measured on {', '.join(missing)} for the candidate, as it was for the reference"
        both = {kind: independent_change(before[kind], after[kind]) for kind in before}
        return both or "no kind of images was measured on both sides"


def paired_change(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Measured:
    """A share after minus before, on the same n > 0 examples, with its 95% interval.

    Agresti and Min, Simple improved confidence intervals for comparing matched proportions, Statistics in Medicine 24 (2005):
    Wald's interval with half an example added to each cell of the table. It is not without width where nothing changed.
    """
    n, lost, won = len(before), int((before & ~after).sum()), int((~before & after).sum())
    m, b, c = n + 2, lost + 0.5, won + 0.5
    middle, half = (c - b) / m, _Z95 * math.sqrt((b + c) - (c - b) ** 2 / m) / m
    return Measured(value=(won - lost) / n, low=max(middle - half, -1.0), high=min(middle + half, 1.0), n=n)


def independent_change(before: Measured, after: Measured) -> Measured:
    """A value after minus before, of independent samples: both intervals joined by squares.

    Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17 (1998), method 10.
    """
    ends = [one for side in (before, after) for one in (side.low, side.high)]
    change = after.value - before.value
    if None in ends:
        return Measured(value=change, n=after.n, about=after.about)
    low_a, high_a, low_b, high_b = (float(end) for end in ends if end is not None)
    return Measured(
        value=change,
        low=change - math.hypot(after.value - low_b, high_a - before.value),
        high=change + math.hypot(high_b - after.value, before.value - low_a),
        n=after.n,
        about=after.about,
    )


def _lifts(published: PublishedSet, layer: str, values: NDArray[np.int8]) -> Iterator[Measured]:
    clusters, known = _column(published, layer), values != 0
    k = published.record.k_per_layer[layer]
    sizes = np.bincount(clusters[known], minlength=k)
    having = np.bincount(clusters[values == 1], minlength=k)
    confidence = 1 - 0.05 / max(int((sizes >= FEW_EXAMPLES).sum()), 1)  # Bonferroni: jointly over the clusters
    for cluster in range(k):
        inside, size = int(having[cluster]), int(sizes[cluster])
        outside, others = int(having.sum()) - inside, int(sizes.sum()) - size
        if size < FEW_EXAMPLES or not others or not (inside or outside):
            continue
        low, high = ratio_interval(inside, size, outside, others, confidence)
        value = (inside / size) / (max(outside, 0.5) / others)  # half an example where there is none outside
        yield Measured(value=value, low=low, high=high, n=size, about=f"{layer}/{cluster}")


def _column(published: PublishedSet, layer: str) -> NDArray[np.int16]:
    column: NDArray[np.int16] = published.clusters[:, published.layers.index(layer)]
    return column


def _as_classes(values: NDArray[np.int8]) -> NDArray[np.int64]:
    """1, -1, 0 for not known -> 1, 0, -1 for not known."""
    return np.where(values == 0, -1, (values == 1).astype(np.int64))


def _of_measure(measure: Measure, about: str) -> Measured:
    return Measured(value=measure.value, low=measure.low, high=measure.high, n=measure.n, about=about)

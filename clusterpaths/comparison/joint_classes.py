"""The classes of two sets under one list of names.

Belongs here: matching the classes of two models by name, and whether labels are comparable with them. `compare.py` uses
them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.checks import Ints
from clusterpaths.records import SetRecord, name_of


@dataclass(frozen=True)
class JointClasses:
    """Predictions of both sets as indices into `names`, and labels beside them; n examples.

    Attributes:
        names: of the first's classes, then of those that only the second has; empty where neither has names.
        label_names: as in `SetRecord`.
        first, second: (n,) predictions, -1: none.
        labels: (n,) into label_names, or into names where that is empty; -1: none.
    """

    names: tuple[str, ...]
    label_names: tuple[str, ...]
    first: Ints
    second: Ints
    labels: Ints


def join_classes(a: SetRecord, b: SetRecord, first: Ints, second: Ints, labels: Ints) -> JointClasses:
    """One list of names for the classes of both; classes of one name are one class.

    A side without names uses the classes of the other, unless only one of them has the data set's classes or there are more
    classes than names: then its classes are named by number. Names that occur twice on a side get their number too.

    Args:
        a: record of the first set.
        b: record of the second.
        first: (n,) predictions of the first, as its rows have them.
        second: (n,) those of the second.
        labels: (n,) labels as the second's rows have them.
    """
    names, others = _distinct(a.class_names), _distinct(b.class_names)
    if bool(names) != bool(others) and (
        a.same_classes != b.same_classes or _number(second if names else first) > len(names or others)
    ):
        names, others = names or _numbered(first), others or _numbered(second)
    joint, index = names or others, None
    if names and others:
        joint = names + tuple(name for name in others if name not in names)
        index = np.array([joint.index(name) for name in others], np.int64)
    second = _mapped(second, index)
    if a.same_classes and b.same_classes:
        return JointClasses(joint, (), first, second, _mapped(labels, index))
    return JointClasses(joint, b.label_names or b.class_names or a.label_names, first, second, labels)


def _number(classes: Ints) -> int:
    """Number of classes that occur."""
    return int(classes.max(initial=-1)) + 1


def _numbered(classes: Ints) -> tuple[str, ...]:
    return tuple(name_of((), index) for index in range(_number(classes)))


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet has two classes called crane."""
    often = Counter(names)
    return tuple(f"{name} ({index})" if often[name] > 1 else name for index, name in enumerate(names))


def _mapped(classes: Ints, index: NDArray[np.int64] | None) -> Ints:
    """Class indices in the joint names; classes without a name are unchanged."""
    if index is None or not len(index):
        return classes
    return np.where((classes >= 0) & (classes < len(index)), index[classes.clip(0, len(index) - 1)], classes)

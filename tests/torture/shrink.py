"""Shrinking a failing schedule: delta debugging over its steps, then over the faults of each (Zeller and Hildebrandt, 2002).

Belongs here: which smaller schedules are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.torture.schedule import Step

Item = TypeVar("Item")


def ddmin(items: Sequence[Item], fails: Callable[[list[Item]], bool]) -> list[Item]:
    """A sublist that fails and of which no single item can be left out.

    Args:
        items: a list that fails.
        fails: whether a sublist does.
    """
    left, pieces = list(items), 2
    while len(left) >= 2:
        size = -(-len(left) // pieces)
        for start in range(0, len(left), size):
            fewer = left[:start] + left[start + size :]
            if fewer and fails(fewer):
                left, pieces = fewer, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                return left
            pieces = min(pieces * 2, len(left))
    return left


def shrink(schedule: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """The shortest schedule found that fails in the same way; the step that begins stays."""
    begin, steps = schedule[0], schedule[1:]
    steps = ddmin(steps, lambda some: fails([begin, *some]))
    for number, step in enumerate(steps):
        if step.get("faults"):
            without = [*steps[:number], step | {"faults": []}, *steps[number + 1 :]]
            if fails([begin, *without]):
                steps = without
    alone = begin | {"server": False}
    return [alone, *steps] if begin["server"] and fails([alone, *steps]) else [begin, *steps]

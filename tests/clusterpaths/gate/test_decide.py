"""The verdict on values that are known, and the arithmetic of changes."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest

from clusterpaths.gate.decide import check, judged
from clusterpaths.gate.latency import _timed, median_interval
from clusterpaths.gate.measure import Evidence, independent_change, paired_change
from clusterpaths.gate.policy import parse_policy
from clusterpaths.gate.record import Check, Measured

KEPT = Measured(value=0.95, low=0.91, high=0.97, n=200)


class Known:
    """Evidence without sets."""

    labelled = np.ones(3, np.bool_)
    should_have_labels = True

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, lambda *_, value=value: value)


def verdict(policy: str, **values: Any) -> Check:
    [one] = check(parse_policy(policy, "it"), cast(Evidence, Known(**values)), lambda _: ("no model", "no model"))
    return one


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [
        ("decisions = {kept = 0.95}", "passed"),
        ("decisions = {kept = 0.951}", "failed"),
        ('judge = "bound"\ndecisions = {kept = 0.92}', "failed"),
        ('judge = "bound"\ndecisions = {kept = 0.91}', "passed"),
        ('judge = "bound"\ndecisions = {kept = 0.92, judge = "value"}', "passed"),
    ],
)
def test_the_value_or_the_worse_end_of_its_interval_has_to_meet_the_limit(policy: str, outcome: str) -> None:
    assert verdict(policy, decisions_kept=KEPT).outcome == outcome


def test_a_failure_gives_the_value_the_limit_and_what_was_compared() -> None:
    found = verdict('decisions = {kept = 0.92, judge = "bound"}', decisions_kept=KEPT)
    assert found.reason == (
        "decisions.kept is 0.910, the lower end of its interval; the policy asks for at least 0.920."
    )


def test_of_many_values_the_worst_counts_and_all_beyond_the_limit_are_named() -> None:
    of = {
        name: Measured(value=value, about=name) for name, value in (("a", 0.99), ("b", 0.93), ("c", 0.97), ("d", 0.5))
    }
    found = verdict('shortcuts = [{attribute = "Hat", purity = 0.96}]', purities=of)
    assert found.measured == of["a"]
    assert found.reason == "shortcuts.Hat.purity (a) is 0.990; the policy asks for at most 0.960; also c."


@pytest.mark.parametrize(("choice", "rejects"), [("", True), ('not_measurable = "pass"', False)])
def test_what_cannot_be_measured_rejects_unless_the_policy_lets_it_pass(choice: str, rejects: bool) -> None:
    found = verdict(f"{choice}\ndecisions = {{kept = 0.9}}", decisions_kept="a set has no predictions")
    assert (found.outcome, found.rejects, found.tolerated) == ("not measurable", rejects, not rejects)
    assert found.reason == "decisions.kept cannot be measured: a set has no predictions."


def test_accuracy_is_left_out_without_labels_only_if_the_policy_says_so() -> None:
    evidence = Known(accuracy_change="no label")
    evidence.labelled = np.zeros(3, np.bool_)
    if_labelled = parse_policy("accuracy = {drop = 0.1, if_labelled = true}", "it")
    [lost] = check(if_labelled, cast(Evidence, evidence), lambda _: ("", ""))
    assert (lost.outcome, lost.rejects) == ("not measurable", True)  # there are labels, which do not fit the candidate
    evidence.should_have_labels = False
    for policy, checks in (("accuracy = {drop = 0.1}", 1), ("accuracy = {drop = 0.1, if_labelled = true}", 0)):
        found = check(parse_policy(policy, "it"), cast(Evidence, evidence), lambda _: ("", ""))
        assert len(found) == checks


def test_a_paired_change_counts_the_examples_that_changed() -> None:
    before, after = np.repeat([True, True, False], [80, 10, 10]), np.repeat([True, False, True, False], [80, 10, 4, 6])
    found = paired_change(before, after)
    assert found.value == pytest.approx(-0.06)
    # Agresti and Min by hand: n 102, lost 10.5, won 4.5; middle -6/102, variance (15 - 36/102) / 102 ** 2
    assert (found.low, found.high) == pytest.approx((-6 / 102 - 0.07354, -6 / 102 + 0.07354), abs=1e-5)


def test_a_change_of_nothing_has_an_interval_with_a_width() -> None:
    same = np.ones(50, np.bool_)
    found = paired_change(same, same)
    assert found.value == 0
    assert found.low is not None
    assert found.low < 0


def test_an_independent_change_joins_both_intervals() -> None:
    found = independent_change(Measured(value=0.9, low=0.86, high=0.93), Measured(value=0.8, low=0.76, high=0.83))
    assert (found.value, found.low, found.high) == pytest.approx((-0.1, -0.15, -0.05))


def test_a_median_has_an_interval_of_order_statistics() -> None:
    found = median_interval(np.arange(1.0, 11.0)[::-1])  # n = 10: the 2nd and the 9th, of 97.9%
    assert (found.value, found.low, found.high, found.n) == (5.5, 2, 9, 10)


def test_of_two_models_each_is_called_first_as_often_as_the_other() -> None:
    called: list[str] = []
    times = _timed([(lambda: called.append("a"), 1), (lambda: called.append("b"), 1)], 4)
    assert "".join(called[-8:]) == "abbaabba"
    assert times.shape == (2, 4)


def test_latency_is_judged_by_its_median_whatever_the_policy_judges_by() -> None:
    taken = Measured(value=1.0, low=0.9, high=2.0, n=60)
    policy = parse_policy('judge = "bound"\nlatency = {ms = 1.5, ratio = 1.5}', "it")
    found = check(policy, cast(Evidence, Known()), lambda _: (taken, taken))
    assert [(one.outcome, one.judged) for one in found] == [("passed", "value")] * 2


def test_an_interval_without_end_does_not_meet_a_bound() -> None:
    lift = Measured(value=2.0, low=1.5, high=None, n=10)
    assert judged(lift, "<=", "bound") == math.inf
    assert judged(lift, "<=", "value") == 2
    assert judged(Measured(value=2.0, low=None, high=None, n=10), "<=", "bound") == 2  # it has no interval at all

"""The verdict: each rule of a policy against what was measured.

Belongs here: limits, outcomes and their sentences. The values come from `measure.py` and `latency.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from clusterpaths.gate.latency import Latencies
from clusterpaths.gate.measure import Evidence, Found
from clusterpaths.gate.policy import Judge, LatencyRule, Policy, ShortcutRule
from clusterpaths.gate.record import Check, Measured

Many = dict[str, Measured] | str
Sign = Literal[">=", "<="]


class _Question(NamedTuple):
    """A rule and its value, before the verdict."""

    rule: str
    title: str
    sign: Sign
    limit: float
    judge: Judge | None
    found: Found | Many
    unit: str = ""


def check(policy: Policy, evidence: Evidence, latency: Callable[[LatencyRule], Latencies]) -> tuple[Check, ...]:
    """One check for each limit of the policy, in the policy's order.

    Args:
        policy: the rules.
        evidence: of both sets.
        latency: milliseconds per image and the ratio, called only where the policy asks for them.

    Raises:
        CacheError, DatasetError: the sets cannot be read, or have no examples in common.
    """
    asked = [*_decided(policy, evidence), *_paths(policy, evidence)]
    for rule in policy.shortcuts:
        asked += _shortcut(rule, evidence)
    asked += [*_ood(policy, evidence), *_latency(policy, latency)]
    return tuple(_verdict(question, policy) for question in asked)


def _decided(policy: Policy, evidence: Evidence) -> Iterator[_Question]:
    if one := policy.decisions:
        yield _Question(
            "decisions.kept", "Decisions as before", ">=", one.kept, one.judge, evidence.decisions_kept()
        )  # fmt: skip
    if (one_ := policy.accuracy) and (evidence.should_have_labels or evidence.labelled.any() or not one_.if_labelled):
        yield _Question(
            "accuracy.drop", "Accuracy, candidate minus reference", ">=", -one_.drop, one_.judge, evidence.accuracy_change()
        )  # fmt: skip
    if of := policy.classes:
        what = (
            "Recall of the class that loses most"
            if evidence.labelled.any()
            else "Decisions of the class that loses most"
        )
        yield _Question("classes.drop", what, ">=", -of.drop, of.judge, evidence.class_changes(of))


def _paths(policy: Policy, evidence: Evidence) -> Iterator[_Question]:
    if (rule := policy.paths) is None:
        return
    if rule.agreement is not None:
        found = evidence.path_agreement()
        yield _Question("paths.agreement", "Complete paths unchanged", ">=", rule.agreement, rule.judge, found)
    for layer, limit in rule.layers.items():
        title = f"Clusters unchanged in {layer}"
        yield _Question(f"paths.layers.{layer}", title, ">=", limit, rule.judge, evidence.layer_agreement(layer))
    if rule.information is not None:
        title = "Shared information of a layer's clusters"
        yield _Question("paths.information", title, ">=", rule.information, rule.judge, evidence.shared_information())


def _shortcut(rule: ShortcutRule, evidence: Evidence) -> Iterator[_Question]:
    name = f"shortcuts.{rule.attribute}" + (f".{'+'.join(rule.layers)}" if rule.layers else "")
    if rule.purity is not None:
        title = f"Purity of clusters for {rule.attribute}"
        yield _Question(f"{name}.purity", title, "<=", rule.purity, rule.judge, evidence.purities(rule))
    if rule.rise is not None:
        title = f"Purity for {rule.attribute}, candidate minus reference"
        yield _Question(f"{name}.rise", title, "<=", rule.rise, rule.judge, evidence.purity_rises(rule))
    if rule.lift is not None:
        title = f"Lift of {rule.attribute} in a cluster"
        yield _Question(f"{name}.lift", title, "<=", rule.lift, rule.judge, evidence.lifts(rule))


def _ood(policy: Policy, evidence: Evidence) -> Iterator[_Question]:
    if (rule := policy.ood) is None:
        return
    found = evidence.ood(1)
    if rule.auroc is not None:
        yield _Question("ood.auroc", "AUROC of the OOD score", ">=", rule.auroc, rule.judge, found)
    for kind, limit in rule.kinds.items():
        one: Found = found if isinstance(found, str) else found.get(kind, _no_kind(kind, found))
        yield _Question(f"ood.kinds.{kind}", f"AUROC of the OOD score: {kind}", ">=", limit, rule.judge, one)
    if rule.drop is not None:
        title = "AUROC of the OOD score, candidate minus reference"
        yield _Question("ood.drop", title, ">=", -rule.drop, rule.judge, evidence.ood_changes())


def _no_kind(kind: str, found: dict[str, Measured]) -> str:
    return f"{kind} was not measured; kinds of OOD images are {', '.join(found)}"


def _latency(policy: Policy, latency: Callable[[LatencyRule], Latencies]) -> Iterator[_Question]:
    if (rule := policy.latency) is None:
        return
    taken, ratio = latency(rule)
    if rule.ms is not None:
        yield _Question("latency.ms", "Path model, per image", "<=", rule.ms, "value", taken, " ms")
    if rule.ratio is not None:
        title = "Path model, time beside the reference's"
        yield _Question("latency.ratio", title, "<=", rule.ratio, "value", ratio, "×")


def _verdict(asked: _Question, policy: Policy) -> Check:
    """The check of a rule; of many values the one furthest on the wrong side counts, and all beyond the limit are named."""
    judge = asked.judge or policy.judge
    found, beyond = _counting(asked, judge)
    measured = None if isinstance(found, str) else found
    outcome: Literal["passed", "failed", "not measurable"]
    if isinstance(found, str):
        outcome, reason = "not measurable", f"{asked.rule} cannot be measured: {found.rstrip('.')}."
    else:
        outcome = "failed" if beyond else "passed"
        reason = _sentence(asked, judge, found, beyond) if beyond else ""
    return Check(
        rule=asked.rule, title=asked.title, sign=asked.sign, limit=asked.limit, unit=asked.unit, judged=judge,
        measured=measured, outcome=outcome, reason=reason,
        tolerated=outcome == "not measurable" and policy.not_measurable == "pass",
    )  # fmt: skip


def _counting(asked: _Question, judge: Judge) -> tuple[Found, list[Measured]]:
    """The value that counts, and all that are beyond the limit, worst first."""
    if isinstance(asked.found, str):
        return asked.found, []
    many = list(asked.found.values()) if isinstance(asked.found, dict) else [asked.found]
    if not many:
        return "there is no value", []
    direction = 1 if asked.sign == ">=" else -1
    ordered = sorted(many, key=lambda one: direction * judged(one, asked.sign, judge))
    return ordered[0], [one for one in ordered if direction * judged(one, asked.sign, judge) < direction * asked.limit]


def judged(measured: Measured, sign: Sign, judge: Judge) -> float:
    """What is compared with the limit: the value, or the worse end of its interval, if it has one."""
    end, other = (measured.low, measured.high) if sign == ">=" else (measured.high, measured.low)
    if judge == "value" or (end is None and other is None):
        return measured.value
    if end is None:  # an interval without end on this side
        return -math.inf if sign == ">=" else math.inf
    return end


def _sentence(asked: _Question, judge: Judge, worst: Measured, beyond: list[Measured]) -> str:
    which = f" ({worst.about})" if worst.about else ""
    least = "at least" if asked.sign == ">=" else "at most"
    compared = judged(worst, asked.sign, judge)
    end = f", the {'lower' if asked.sign == '>=' else 'upper'} end of its interval" if compared != worst.value else ""
    others = f"; also {', '.join(one.about for one in beyond[1:] if one.about)}" if len(beyond) > 1 else ""
    return (
        f"{asked.rule}{which} is {number(compared, asked.unit)}{end}; the policy asks for {least} "
        f"{number(asked.limit, asked.unit)}{others}."
    )


def number(value: float, unit: str = "") -> str:
    """0.93456 -> 0.935, -0.0123 -> -0.012, 12.345 ms -> 12.3 ms."""
    return f"{value:.3f}{unit}" if abs(value) < 10 else f"{value:.1f}{unit}"


def interval(measured: Measured) -> str:
    """[0.91, 0.95], or nothing where the value has none."""
    if measured.low is None and measured.high is None:
        return ""
    low, high = ("…" if end is None else number(end) for end in (measured.low, measured.high))
    return f"[{low}, {high}]"

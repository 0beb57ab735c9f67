"""gate.json: a decision about a candidate, with what was measured for each rule.

Belongs here: the record, and the documents beside a set. They are append-only: a later decision is another document.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, ValidationError

from clusterpaths.errors import CacheError
from clusterpaths.gate.policy import Judge, Policy
from clusterpaths.records import ModelIdentity, Record
from clusterpaths.sets.published import PublishedSet

DOCUMENT = "gate.json"
_DOCUMENTS = re.compile(r"gate(?:_(\d+))?\.json")
Outcome = Literal["passed", "failed", "not measurable"]


class Measured(Record):
    """What was measured for a rule, with its 95% interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = Field(default=0, description="examples, or timed calls")
    about: str = Field(default="", description="the class, layer or kind of images that the value is of")


class Check(Record):
    """One rule and its outcome."""

    rule: str = Field(description="as in the policy, such as decisions.kept")
    title: str = Field(description="the rule in words")
    sign: Literal[">=", "<="]
    limit: float
    unit: str = ""
    judged: Judge = Field(description="whether the value or the worse end of its interval is compared with the limit")
    measured: Measured | None
    outcome: Outcome
    reason: str = Field(default="", description="why it failed or was not measured; empty: it passed")
    tolerated: bool = Field(default=False, description="not measurable, which the policy lets pass")

    @property
    def rejects(self) -> bool:
        """Whether the candidate is rejected because of it."""
        return self.outcome != "passed" and not self.tolerated


class Side(Record):
    """One of the two sets."""

    set: str = Field(description="NAME/set_NN")
    fingerprint: str
    model: ModelIdentity


class GateRecord(Record):
    """gate.json."""

    version: int = 1
    accepted: bool
    candidate: Side
    reference: Side
    policy: Policy
    policy_source: str = Field(description="the policy's file, or default")
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    examples: int = Field(description="in both sets")
    comparison: str = Field(default="", description="the comparison's page, beside this document")
    created: str = Field(description="ISO time, UTC")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was rejected: a sentence for each rule that failed."""
        return tuple(check.reason for check in self.checks if check.rejects)

    @property
    def headline(self) -> str:
        """The decision in a sentence."""
        failed = [check.rule for check in self.checks if check.rejects]
        verdict = "accepted" if self.accepted else "rejected"
        why = f"all {len(self.checks)} rules pass" if not failed else f"{', '.join(failed)} failed"
        tolerated = [check.rule for check in self.checks if check.tolerated]
        if tolerated and self.accepted:
            why = f"no rule fails; not measurable: {', '.join(tolerated)}"
        return f"{self.candidate.set} is {verdict} against {self.reference.set}: {why}"


def side(published: PublishedSet) -> Side:
    """A set as a decision names it."""
    record = published.record
    return Side(set=published.name, fingerprint=record.fingerprint, model=record.model)


class _TakenError(Exception):
    """Another decision has this number."""


def write_decision(published: PublishedSet, record: GateRecord) -> str:
    """Write a decision beside the candidate's set, as gate.json, gate_02.json, …; returns the document's name.

    A decision that says the same as the last one is not written again. Safe with other writers: no document is replaced.

    Raises:
        CacheError: an earlier decision is corrupted.
        DiskError: no room or no permission.
    """
    content = (record.model_dump_json(indent=2) + "\n").encode()

    def once(found: bytes | None) -> bytes:
        if found is not None:
            raise _TakenError
        return content

    published.folder.local_tree()
    known = decision_names(published)
    if known and _same(read_decision(published, known[-1]), record):
        return known[-1]
    number = _number(known[-1]) + 1 if known else 1
    while True:
        name = DOCUMENT if number == 1 else f"gate_{number:02d}.json"
        try:
            published.folder.update(name, once)
        except _TakenError:
            number += 1
            continue
        published.folder.local(name)  # the mirror of a bucket
        return name


def decision_names(published: PublishedSet) -> list[str]:
    """The documents of a set's decisions, oldest first."""
    names = [name for name, _ in published.documents("gate*.json") if _DOCUMENTS.fullmatch(name)]
    return sorted(names, key=_number)


def read_decision(published: PublishedSet, name: str) -> GateRecord:
    """A decision.

    Raises:
        CacheError: it is not there, or corrupted.
    """
    content = published.document(name)
    try:
        return GateRecord.model_validate_json(content or b"")
    except ValidationError as error:
        raise CacheError(
            f"{published.path / name} is not the record of a decision ({error.error_count()} problems). Move it away, and run "
            "the gate again."
        ) from error


def _number(name: str) -> int:
    found = _DOCUMENTS.fullmatch(name)
    return int(found[1] or 1) if found else 0


def _same(one: GateRecord, other: GateRecord) -> bool:
    return one.model_copy(update={"created": ""}) == other.model_copy(update={"created": ""})

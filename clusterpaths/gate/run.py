"""The gate: a candidate against a reference, by a policy.

Belongs here: the order. The candidate's settings are `candidate.py`'s, the numbers `measure.py`'s and `latency.py`'s, the verdict
`decide.py`'s, the documents `record.py`'s; which set is the accepted one is `sets/accepted.py`'s.
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import dataclass
from pathlib import Path

from clusterpaths import pipeline
from clusterpaths.errors import ConfigError, DatasetError
from clusterpaths.gate.candidate import candidate_config
from clusterpaths.gate.decide import check
from clusterpaths.gate.latency import measure_latency
from clusterpaths.gate.measure import Evidence
from clusterpaths.gate.policy import DEFAULT, Policy
from clusterpaths.gate.record import GateRecord, decision_names, read_decision, side, write_decision
from clusterpaths.running import stages
from clusterpaths.running.report import Report
from clusterpaths.running.runner import Runner
from clusterpaths.sets.accepted import Moved, accept, find_reference
from clusterpaths.sets.find import LEAST_COMMON
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decided:
    """A decision and what followed from it.

    Attributes:
        record: the decision.
        published: the candidate's set.
        document: its document beside the set, such as gate.json.
        moved: whether the candidate is the accepted set now, and why not; None: that was not asked for.
    """

    record: GateRecord
    published: PublishedSet
    document: str
    moved: Moved | None = None


def publish_candidate(
    reference: PublishedSet,
    model: Path,
    data_root: Path | None = None,
    name: str | None = None,
    runner: Runner | None = None,
    report: Report | None = None,
) -> PublishedSet:
    """The candidate's set, published with the reference's settings, or found if it was published before.

    Raises:
        ClusterPathsError: as `candidate_config` and `clusterpaths.pipeline.run`.
    """
    published = pipeline.run(candidate_config(reference, model, data_root, name), runner, report).published
    assert published is not None  # it was not only planned
    return published


def decide(
    reference: PublishedSet,
    candidate: PublishedSet,
    policy: Policy,
    source: str = DEFAULT,
    data_root: Path | None = None,
) -> tuple[GateRecord, str]:
    """Judge a candidate's set, and write the decision and the comparison's page beside it.

    Returns:
        The decision, and the name of its document.

    Args:
        reference: the set that it may replace.
        candidate: the set.
        policy: the rules.
        source: the policy's file, for people.
        data_root: where the images are, for the comparison's page [where they were].

    Raises:
        ConfigError: both are the same set.
        CacheError, DatasetError: a set cannot be read, or they have no layer or no image in common.
        DiskError: no room or no permission.
    """
    if reference.record.fingerprint == candidate.record.fingerprint:
        raise ConfigError(
            f"{candidate.name} is the reference itself, or has the same model, images and settings as {reference.name}: there is "
            "nothing to decide. Expected another model as the candidate."
        )
    evidence = Evidence(reference, candidate)
    comparison = evidence.comparison
    if comparison.num_examples < LEAST_COMMON * len(reference.ids):
        raise DatasetError(
            f"{candidate.name} has {comparison.num_examples:,} of the {len(reference.ids):,} images of {reference.name}: too "
            "few to decide by. Expected at least half of them; run the candidate on the reference's images."
        )
    checks = check(policy, evidence, lambda rule: measure_latency(reference, candidate, rule))
    if not checks:
        raise ConfigError(
            f"No rule of the policy ({source}) applies to {reference.name} and {candidate.name}: they have no labels, and "
            "every rule of it is left out without. Expected at least one that decides; add one, such as [decisions]."
        )
    page = stages.write_comparison(comparison, candidate, data_root)
    record = GateRecord(
        accepted=not any(one.rejects for one in checks),
        candidate=side(candidate),
        reference=side(reference),
        policy=policy,
        policy_source=source,
        checks=checks,
        notes=_notes(evidence),
        examples=comparison.num_examples,
        comparison=page.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    log.info(record.headline)
    return record, write_decision(candidate, record)


def decide_and_accept(
    cache_root: Storage,
    reference: str,
    candidate: PublishedSet,
    policy: Policy,
    source: str = DEFAULT,
    data_root: Path | None = None,
    compared: tuple[str, PublishedSet] | None = None,
) -> Decided:
    """`decide`, and where it accepts, make the candidate the accepted set that others are compared with from then on.

    Where another candidate was accepted meanwhile, the decision is made again, against that one.

    Args:
        cache_root: the results directory.
        reference: NAME, for its accepted set, or NAME/set_NN.
        candidate, policy, source, data_root: as in `decide`.
        compared: what `find_reference` found before the candidate was made by that set's settings [found now].

    Raises:
        ClusterPathsError: as `decide` and `find_reference`.
    """
    found = compared
    while True:
        line, before = found or find_reference(cache_root, reference)
        found = None
        if before.record.fingerprint == candidate.record.fingerprint and (stored := _stored(candidate, policy)):
            return stored  # accepted already, by an earlier try
        record, document = decide(before, candidate, policy, source, data_root)
        if not record.accepted:
            return Decided(record, candidate, document)
        moved = accept(cache_root, line, before, candidate, document)
        if moved.done or "/" in reference:
            return Decided(record, candidate, document, moved)
        log.info("%s Decided again.", moved.reason)


def _stored(candidate: PublishedSet, policy: Policy) -> Decided | None:
    """The last decision that accepted this set by the same policy."""
    for name in reversed(decision_names(candidate)):
        record = read_decision(candidate, name)
        if record.accepted and record.policy == policy:
            return Decided(record, candidate, name, Moved(True))
    return None


def _notes(evidence: Evidence) -> tuple[str, ...]:
    """How the sets were made differently, so that paths differ whatever the models do."""
    a, b = evidence.reference.record, evidence.candidate.record
    differing = [
        f"{what} {x} and {y}"
        for what, x, y in (
            ("k", a.k_per_layer, b.k_per_layer),
            ("distance", a.distance, b.distance),
            ("seed", a.seed, b.seed),
        )
        if x != y
    ]
    notes = [f"The sets were not made with the same settings: {'; '.join(differing)}."] if differing else []
    alone = evidence.comparison.only_first
    if alone:
        notes.append(f"{alone:,} examples of the reference are not in the candidate's set.")
    return tuple(notes)

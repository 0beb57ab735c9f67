"""The gate as flows run it: a new model's run with the reference's settings, then the decision, its events and its artifact."""

from __future__ import annotations

from pathlib import Path

from clusterpaths.common import roots
from clusterpaths.config import RunConfig
from clusterpaths.errors import ModelError
from clusterpaths.gate.candidate import as_candidate
from clusterpaths.gate.policy import GateSettings, read_policy
from clusterpaths.gate.registry import Registry, parse_version
from clusterpaths.running.inputs import model_path
from clusterpaths.running.report import Outcome
from clusterpaths.sets.accepted import find_reference
from clusterpaths.storage import open_storage
from flows.pipeline import cluster_paths
from flows.shell import set_up_logging
from tasks.gate import announce_decision, announce_refusal, decide, show_decision
from tasks.registry import report_to_registry
from tasks.time_limit import in_one_paragraph


def cluster_and_decide(config: RunConfig, gate: GateSettings, registered: str = "") -> Outcome:
    """Run all stages and the gate; to be called inside a flow.

    A model that cannot be run as the reference was is rejected, too: that is announced, and the flow fails with the reason.
    """
    set_up_logging()
    with in_one_paragraph():
        policy = read_policy(gate.policy)
        if parse_version(registered):
            Registry()  # that it is configured here: not only found out after an hour of clustering
        root = open_storage(config.cache_root or roots.cache_root())
        line, reference = find_reference(root, gate.reference)
        path = model_path(config)
    try:
        with in_one_paragraph():
            candidate = as_candidate(reference, config)
        outcome = cluster_paths(candidate)
        published = outcome.published
        assert published is not None  # it was not only planned
        decided = decide(root, gate.reference, published, policy, gate.source, compared=(line, reference))
    except ModelError as error:  # not images that cannot be read, a disk that is full, or a network that is away
        announce_refusal(path, config.model_sha256 or "", gate, str(error))
        report_to_registry(registered, None, str(error))
        raise
    show_decision(decided)
    announce_decision(Path(path), decided)
    report_to_registry(registered, decided)
    return outcome

"""Whether a new model may take the place of the accepted one: `clusterpaths gate --reference CelebA --candidate new.onnx`.

Exit code 0: accepted, 1: rejected, 2: a mistake in the input. Not a flow; flows/celeba.py runs the same for models that arrive.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from pydantic import Field

from clusterpaths.commands.export import find_set
from clusterpaths.commands.run import show
from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.common import roots
from clusterpaths.config import IMAGES, CacheRoot
from clusterpaths.errors import NotFoundError
from clusterpaths.gate.policy import DEFAULT, read_policy
from clusterpaths.records import Record
from clusterpaths.storage import Storage, open_storage
from clusterpaths.storage.atomic import atomic_write

if TYPE_CHECKING:
    from clusterpaths.gate.record import GateRecord
    from clusterpaths.gate.run import Decided
    from clusterpaths.running.report import Report
    from clusterpaths.sets.published import PublishedSet

REJECTED = 1  # exit code


class GateConfig(Record):
    """Options of `clusterpaths gate`."""

    reference: str = Field(
        description="what the candidate is compared with: NAME for the accepted set of that name (its newest before any was "
        "accepted), or NAME/set_NN"
    )
    candidate: str = Field(
        description="an ONNX file, which is run with the reference's settings; or a set that exists: NAME/set_NN"
    )
    policy: Path | None = Field(None, description="TOML file with the rules [a default policy, in docs/gate.md]")
    data_root: Annotated[Path | None, IMAGES] = Field(
        None, description="directory of the reference's images, if it was moved [where they were]"
    )
    name: str | None = Field(None, description="name of the candidate's results [MODEL-SHA256, its first 8 digits]")
    decide_only: Annotated[bool, cyclopts.Parameter(negative=())] = Field(
        False, description="decide, and leave the accepted set as it is"
    )
    junit: Path | None = Field(None, description="write the rules as test cases into this JUnit XML file")
    markdown: Path | None = Field(None, description="write a summary into this Markdown file")
    as_json: Annotated[bool, cyclopts.Parameter(name="--json", negative=())] = Field(
        False, description="print the decision as JSON"
    )
    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )
    verbose: Annotated[bool, cyclopts.Parameter(negative=())] = Field(
        False, description="show the complete log instead of a line per stage"
    )


def gate(*, config: Annotated[GateConfig, cyclopts.Parameter(name="*")]) -> None:
    """Decide by a policy whether a model may take the place of the accepted one. Exit code 0: accepted, 1: rejected."""
    policy = read_policy(config.policy)  # before anything slow
    root = open_storage(config.cache_root or roots.cache_root())
    from clusterpaths.gate.run import decide, decide_and_accept  # imports the pipeline
    from clusterpaths.sets.accepted import find_reference

    line, reference = find_reference(root, config.reference)
    candidate = _candidate(config, reference, root)
    source = str(config.policy) if config.policy else DEFAULT
    if config.decide_only:
        record, document = decide(reference, candidate, policy, source, config.data_root)
        decided = None
    else:
        decided = decide_and_accept(
            root, config.reference, candidate, policy, source, config.data_root, compared=(line, reference)
        )
        record, document = decided.record, decided.document
    _write(config, record)
    if config.as_json:
        sys.stdout.write(record.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(text(record, candidate, document, decided))
    if not record.accepted:
        sys.stdout.flush()
        raise SystemExit(REJECTED)


def _candidate(config: GateConfig, reference: PublishedSet, root: Storage) -> PublishedSet:
    """The candidate's set: the one that was named, or that of the model, made now."""
    path = Path(config.candidate).expanduser()
    if not path.is_file():
        if path.suffix == ".onnx":
            raise NotFoundError(f"{path} does not exist. Expected an ONNX file, or a set NAME/set_NN, as --candidate.")
        return find_set(config.candidate, root.address)
    found: list[PublishedSet] = []

    def run(report: Report) -> None:
        from clusterpaths.gate.run import publish_candidate

        found.append(publish_candidate(reference, path, config.data_root, config.name, report=report))

    show([f"Gate: {path} with the settings of {reference.name}"], run, verbose=config.verbose)
    return found[0]


def _write(config: GateConfig, record: GateRecord) -> None:
    from clusterpaths.gate.junit import junit
    from clusterpaths.gate.markdown import markdown

    for target, content in ((config.junit, junit(record)), (config.markdown, markdown(record).encode())):
        if target is not None:
            atomic_write(target.expanduser().absolute(), content)


def text(record: GateRecord, candidate: PublishedSet, document: str, decided: Decided | None) -> str:
    """The decision for a terminal: a line for each rule, then the verdict and what follows from it."""
    from clusterpaths.gate.junit import measured_line

    width = max(len(check.rule) for check in record.checks)
    lines = [f"{check.outcome:<14}  {check.rule:<{width}}  {measured_line(check)}" for check in record.checks]
    lines += [
        "",
        f"{'Accepted' if record.accepted else 'Rejected'}: {record.headline}.",
        *record.reasons,
        *record.notes,
    ]
    if decided and decided.moved:
        moved = decided.moved
        lines.append(
            f"{record.candidate.set} is the accepted set now; `clusterpaths accepted --roll-back` returns to the one before."
            if moved.done
            else f"The accepted set was left as it is: {moved.reason}"
        )
    return "\n".join([*lines, f"Decision: {candidate.path / document}"]) + "\n"


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("gate", gate)


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

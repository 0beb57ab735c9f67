"""A window in plain English, for the terminal, artifacts and pages.

Belongs here: sentences from a record. Nothing is computed here but what is shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from clusterpaths.monitoring.record import Growth, WindowRecord
from clusterpaths.monitoring.verdict import DriftTest

_KINDS = {"paths": "cluster paths", "predictions": "predictions"}


def headline(record: WindowRecord) -> str:
    """The verdict in one line."""
    if not record.num_images:
        return "No images in this window."
    p = p_text(record.verdict.p_value)
    if not record.drifted:
        return f"No drift: {record.num_images:,} images as in {record.reference.name} ({p})."
    first = record.verdict.first_layer
    where = f", from {first} on" if first else ""
    return f"Drifted{where}: {record.num_images:,} images are not as in {record.reference.name} ({p})."


def sentences(record: WindowRecord) -> Iterator[str]:
    """What changed, most important first."""
    if record.drifted:
        changed = [name_of_test(test) for test in record.verdict.tests if test.adjusted_p_value <= record.verdict.alpha]
        yield f"Different: {', '.join(changed)}."
        if record.verdict.first_layer:
            yield f"The first layer that differs is {record.verdict.first_layer}."
        for growth in record.growth:
            yield growth_text(growth) + "."
    if record.num_images:
        low, high = record.new_paths_interval
        share = record.new_paths / record.num_images
        yield f"{share:.1%} of the images ({low:.1%} to {high:.1%}) took a path that no example of the reference took."
    yield from left_out(record)


def left_out(record: WindowRecord) -> Iterator[str]:
    """What of the window is not in the tests."""
    counts = {
        "observed before (duplicates)": record.duplicates,
        "no images, or without finite activations": record.unusable,
        "late: their window was closed before they came": record.late,
    }
    for why, count in counts.items():
        if count:
            yield f"{count:,} left out: {why}."


def growth_text(growth: Growth) -> str:
    """Such as "fc1/2 (Female, dark hair): 31% of the window, 12% of the reference (2.6 times)"."""
    name = f" ({growth.name})" if growth.name else ""
    times = f"{growth.ratio:.1f} times" if growth.ratio else "new"
    what = "Cluster" if growth.kind == "cluster" else "Path"
    return (
        f"{what} {growth.key}{name}: {growth.share_window:.1%} of the window, {growth.share_reference:.1%} of the reference "
        f"({times})"
    )


def name_of_test(test: DriftTest) -> str:
    """What a test compares: clusters of fc1, cluster paths, OOD scores, cluster paths of Blond."""
    if test.kind == "clusters":
        return f"clusters of {test.subject}"
    if test.kind == "paths of a class":
        return f"cluster paths of {test.subject}"
    return _KINDS.get(test.kind, test.kind)


def p_text(p: float) -> str:
    """p = 0.032, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"

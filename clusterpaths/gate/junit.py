"""A decision as JUnit XML, which CI systems show as tests: one test case for each rule."""

from __future__ import annotations

from xml.etree import ElementTree

from clusterpaths.gate.decide import interval, number
from clusterpaths.gate.record import Check, GateRecord


def junit(record: GateRecord) -> bytes:
    """The XML document; a rule that failed is a failure, one that was not measured and may not be is an error."""
    failed = [check for check in record.checks if check.rejects]
    counts = {
        "tests": str(len(record.checks)),
        "failures": str(sum(check.outcome == "failed" for check in failed)),
        "errors": str(sum(check.outcome == "not measurable" for check in failed)),
        "skipped": str(sum(check.tolerated for check in record.checks)),
    }
    root = ElementTree.Element("testsuites", {"name": "clusterpaths gate", **counts, "time": "0"})
    of_suite = {"name": f"{record.candidate.set} against {record.reference.set}", **counts, "time": "0"}
    suite = ElementTree.SubElement(root, "testsuite", {**of_suite, "timestamp": record.created.partition("+")[0]})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (
        ("candidate", record.candidate.set),
        ("candidate.sha256", record.candidate.model.sha256),
        ("reference", record.reference.set),
        ("reference.sha256", record.reference.model.sha256),
        ("policy", record.policy_source),
    ):
        ElementTree.SubElement(properties, "property", {"name": name, "value": value})
    for check in record.checks:
        case = {"name": check.rule, "classname": "clusterpaths.gate", "time": "0"}
        _fill(ElementTree.SubElement(suite, "testcase", case), check)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _fill(case: ElementTree.Element, check: Check) -> None:
    if check.outcome == "failed":
        failure = ElementTree.SubElement(case, "failure", {"message": check.reason, "type": "failed"})
        failure.text = measured_line(check)
    elif check.tolerated:
        ElementTree.SubElement(case, "skipped", {"message": check.reason})
    elif check.outcome == "not measurable":
        error = ElementTree.SubElement(case, "error", {"message": check.reason, "type": "not measurable"})
        error.text = "The policy has not_measurable = fail."
    ElementTree.SubElement(case, "system-out").text = measured_line(check)


def measured_line(check: Check) -> str:
    """The rule, its value with the interval, and the limit, in one line."""
    wanted = f"{check.sign} {number(check.limit, check.unit)}" + (
        " (end of the interval)" if check.judged == "bound" else ""
    )
    if check.measured is None:
        return f"{check.title}: not measurable, wanted {wanted}"
    about = f" ({check.measured.about})" if check.measured.about else ""
    value = f"{number(check.measured.value, check.unit)} {interval(check.measured)}".strip()
    return f"{check.title}{about}: {value}, wanted {wanted}"

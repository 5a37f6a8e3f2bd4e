"""The verdicts of a report as JUnit XML, for continuous integration: a run is a test suite, a line a test case."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from perf.bench.result import Report, Verdict


def xml(report: Report) -> bytes:
    root = ElementTree.Element("testsuites", name="filmroom bench")
    for run in report.runs:
        _suite(root, f"{run.title} (factor {run.factor:g})", run.verdicts, run.seconds)
    if report.target is not None:
        _suite(root, f"target {report.target.title}", report.verdicts, 0.0)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _suite(root: ElementTree.Element, name: str, verdicts: Sequence[Verdict], seconds: float) -> None:
    counts = {
        "tests": len(verdicts),
        "failures": sum(verdict.judgement == "missed" for verdict in verdicts),
        "skipped": sum(verdict.judgement == "not measured" for verdict in verdicts),
    }
    suite = ElementTree.SubElement(root, "testsuite", name=name, time=f"{seconds:g}")
    suite.attrib.update({key: str(count) for key, count in counts.items()})
    for verdict in verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=f"{verdict.text} ({verdict.limit})")
        if verdict.judgement == "missed":
            ElementTree.SubElement(case, "failure", message=f"{verdict.measured}; the limit is {verdict.limit}")
        elif verdict.judgement == "not measured":
            ElementTree.SubElement(case, "skipped", message=verdict.measured)

"""Searches for workitems among many: a registry with so many of them, and what schedulers, performers and people ask.

    python -m perf.workitems --fill DIR --workitems 200000
    python -m perf.workitems --ask DIR

In the program's own process, without a network: a time runs from the question to the last match, at most --limit of
them, as for a client that reads one page. A tenth of the workitems is SCHEDULED, a hundredth IN PROGRESS, the rest is
COMPLETED or CANCELED; each names a study with 20 instances as its input.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

from engine import Archive
from engine.archive.hospital import open_orders
from engine.dicom import tags
from engine.dicom.identifier import Identifier
from engine.orders import attributes
from engine.orders.registry import NoRules, Orders
from engine.orders.rows import WorkitemRow
from engine.orders.values import Source
from engine.orders.work import Work
from engine.orders.workitems import life, rules
from engine.orders.workitems.rules import State
from engine.orders.workitems.search import Search, question_of
from engine.orders.workitems.store import Workitems
from perf.harness import Latencies, say

BATCH = 500
ALONE = 100
"""How many of them come one by one."""
Values = dict[int, bytes | list[Identifier]]
LABELS, STATIONS, PER_DAY = 20, 50, 2000
CT = b"1.2.840.10008.5.1.4.1.1.2"


def code(value: str) -> list[Identifier]:
    """A code as the only item of a sequence."""
    return [
        Identifier(
            {tags.CodeValue: value.encode(), tags.CodingSchemeDesignator: b"99PERF", tags.CodeMeaning: value.encode()}
        )
    ]


def state_of(number: int) -> State:
    """The state of the workitem with a number."""
    if number % 10 == 0:
        return State.SCHEDULED
    if number % 100 == 1:
        return State.IN_PROGRESS
    return State.COMPLETED if number % 7 else State.CANCELED


def workitem(number: int) -> Identifier:
    """The attributes of an N-CREATE."""
    day = number // PER_DAY
    study = f"1.2.3.{number // 2}"
    images = [
        Identifier({tags.ReferencedSOPClassUID: CT, tags.ReferencedSOPInstanceUID: f"{study}.1.{each}".encode()})
        for each in range(20)
    ]
    source: Values = {
        tags.TypeOfInstances: b"DICOM",
        tags.StudyInstanceUID: study.encode(),
        tags.SeriesInstanceUID: f"{study}.1".encode(),
        tags.ReferencedSOPSequence: images,
    }
    return Identifier(
        {
            tags.ProcedureStepState: b"SCHEDULED",
            tags.ScheduledProcedureStepPriority: (b"HIGH", b"MEDIUM", b"LOW")[number % 3],
            tags.ProcedureStepLabel: f"Work {number % 40}".encode(),
            tags.WorklistLabel: f"List {number % LABELS}".encode(),
            tags.ScheduledProcedureStepStartDateTime: (
                f"2026{1 + day // 28 % 12:02}{1 + day % 28:02}{number % 24:02}{number % 60:02}00".encode()
            ),
            tags.InputReadinessState: b"READY",
            tags.PatientID: f"P{number // 4}".encode(),
            tags.PatientName: f"Family{number // 4}^Given".encode(),
            tags.StudyInstanceUID: study.encode(),
            tags.ScheduledStationNameCodeSequence: code(f"ST{number % STATIONS}"),
            tags.ScheduledWorkitemCodeSequence: code(f"W{number % 30}"),
            tags.InputInformationSequence: [Identifier(source)],
            tags.ReferencedRequestSequence: [
                Identifier({tags.StudyInstanceUID: study.encode(), tags.AccessionNumber: f"A{number // 2}".encode()})
            ],
        }
    )


def fill(folder: Path, count: int) -> dict[str, float]:
    """Makes an archive with so many workitems; returns what it took."""
    with Archive.open(folder, create=True) as archive, open_orders(archive, NoRules()) as registry:
        began = time.perf_counter()
        for first in range(0, count - ALONE, BATCH):
            with registry.work(Source(name="perf")) as work:
                for number in range(first, min(first + BATCH, count - ALONE)):
                    _create(work, number)
        together_s = time.perf_counter() - began
        workitems, alone = Workitems(registry), []
        for number in range(count - ALONE, count):
            began = time.perf_counter()
            workitems.create(f"1.2.9.{number}", workitem(number), "perf")
            alone.append(round((time.perf_counter() - began) * 1e9))
    latency = Latencies.of(alone)
    return {
        "per_s_together": round((count - ALONE) / together_s),
        "one_alone_p50_ms": latency.p50_ms,
        "one_alone_p99_ms": latency.p99_ms,
    }


def _create(work: Work, number: int) -> None:
    """Adds a workitem that has a history already."""
    uid, state = f"1.2.9.{number}", state_of(number)
    items = {
        **rules.with_defaults(attributes.in_utf_8(workitem(number))),
        tags.SOPClassUID: life.CLASS_UID.encode(),
        tags.SOPInstanceUID: uid.encode(),
        tags.ProcedureStepState: state.encode(),
    }
    row = WorkitemRow(state=state, data_set=attributes.encoded(items), ended=work.now if state.is_final else 0.0)
    work.writing.put(work.tables.workitems, uid.encode(), row)


def questions() -> dict[str, Iterator[Values]]:
    """The keys of questions, by kind; each differs from the others of its kind."""
    state, label = tags.ProcedureStepState, tags.WorklistLabel
    station = tags.ScheduledStationNameCodeSequence

    def coded(number: int) -> list[Identifier]:
        return [Identifier({tags.CodeValue: f"ST{number}".encode()})]

    return {
        "what a station is to do": ({state: b"SCHEDULED", station: coded(i % STATIONS)} for i in range(0, 100, 10)),
        "what is under way": ({state: b"IN PROGRESS"} for _ in range(5)),
        "scheduled, of a label": ({state: b"SCHEDULED", label: f"List {i % LABELS}".encode()} for i in (0, 10)),
        "of a patient": ({tags.PatientID: f"P{i * 17}".encode()} for i in range(20)),
        "of a study": ({tags.StudyInstanceUID: f"1.2.3.{i * 17}".encode()} for i in range(20)),
        "of an hour": ({tags.ScheduledProcedureStepStartDateTime: b"2026%02d1207" % i} for i in range(1, 4)),
        "by a part of the name": ({tags.PatientName: b"*family12%d*" % i} for i in range(3)),
        "nothing": ({state: b"SCHEDULED", label: b"NONE"} for _ in range(3)),
    }


def ask(registry: Orders, limit: int) -> dict[str, dict[str, float]]:
    """The times of each kind of question, in milliseconds."""
    workitems, results = Workitems(registry), {}
    for name, asked in questions().items():
        times, found, count, cpu_ns = [], 0, 0, time.process_time_ns()
        for keys in asked:
            began = time.perf_counter_ns()
            running, matches = Search(question_of(Identifier(dict(keys)))), 0
            while matches < limit and (more := workitems.read(running)) is not None:
                matches += len(more)
            times.append(time.perf_counter_ns() - began)
            found, count = found + min(matches, limit), count + 1
        latency = Latencies.of(times)
        cpu_ms = (time.process_time_ns() - cpu_ns) / count / 1e6
        results[name] = {
            "workitems": found / count, "p50_ms": latency.p50_ms, "p99_ms": latency.p99_ms, "cpu_ms": cpu_ms
        }  # fmt: skip
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fill", type=Path, metavar="DIR")
    parser.add_argument("--ask", type=Path, metavar="DIR")
    parser.add_argument("--workitems", type=int, default=200_000)
    parser.add_argument("--limit", type=int, default=200)
    options = parser.parse_args()
    if options.fill:
        say(json.dumps(fill(options.fill, options.workitems)))
    if options.ask:
        began = time.perf_counter()
        with Archive.open(options.ask) as archive, open_orders(archive, NoRules()) as registry:
            say(f"opened in {time.perf_counter() - began:.2f} s")
            for name, facts in ask(registry, options.limit).items():
                times = f"p50 {facts['p50_ms']:8.2f} ms   p99 {facts['p99_ms']:8.2f} ms"
                times += f"   CPU {facts['cpu_ms']:8.2f} ms"
                say(f"{name:26} {facts['workitems']:8.1f} workitems   {times}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Modality Worklist under load: a registry with many entries, and the queries that modalities send.

    python -m perf.worklist --fill DIR --entries 100000
    filmroom serve --data DIR
    python -m perf.worklist --port 11112

A query's time runs from the request to the final response, with all entries read. --fill also prints how long one
message takes until it is on disk and visible. The entries lie on days with 1700 each, for 34 stations with 50 a day.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from engine import Archive
from engine.archive.hospital import open_orders
from engine.dicom import tags
from engine.dicom.identifier import Value, encode_identifier
from engine.dicom.transfer_syntax import of as syntax_of
from engine.orders.registry import NoRules
from engine.orders.values import (
    Identifier,
    Issuer,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepUpdate,
)
from perf import wire
from perf.association import Association, Target
from perf.harness import Latencies, PerfError, say

PER_DAY, STATIONS = 1700, 34
FIRST_DAY = date(2026, 12, 1)
MODALITIES = ("CT", "MR", "US", "CR", "DX", "XA")
WORKLIST = b"1.2.840.10008.5.1.4.31"
BATCH = 500
HOSPITAL = Issuer("HOSPITAL")


def orders(count: int, first: int = 0) -> Iterator[OrderUpdate]:
    """Orders of one step each."""
    for number in range(first, first + count):
        day = FIRST_DAY + timedelta(number // PER_DAY)
        station = number % STATIONS
        modality = MODALITIES[station % len(MODALITIES)]
        step = StepUpdate(
            scheduled_procedure_step_id=f"S{number}",
            modality=modality,
            station_aes=(f"{modality}{station}",),
            start_date=f"{day:%Y%m%d}",
            start_time=f"{7 + number % 12:02}{number % 60:02}00",
            attributes={"ScheduledProcedureStepDescription": f"Examination {number % 400}"},
        )
        yield OrderUpdate(
            action=OrderAction.NEW,
            patient=PatientUpdate(
                identifiers=(Identifier(f"P{number // 2:07}", HOSPITAL),),
                attributes={
                    "PatientName": f"Family{number // 2}^Given{number % 97}",
                    "PatientBirthDate": f"19{number % 90 + 10}0101",
                    "PatientSex": "FM"[number // 2 % 2],
                },
            ),
            accession=Identifier(f"A{number:08}", HOSPITAL),
            attributes={"ReferringPhysicianName": f"Doctor{number % 300}^A"},
            procedures=(
                ProcedureUpdate(
                    study_instance_uid=f"1.2.3.4.{number}",
                    attributes={"RequestedProcedureDescription": f"Procedure {number % 400}"},
                    steps=(step,),
                ),
            ),
        )


def fill(folder: Path, count: int) -> dict[str, float]:
    """Makes an archive with so many entries; returns what it took."""
    source = Source(name="perf")
    with Archive.open(folder, create=True) as archive, open_orders(archive, NoRules()) as registry:
        began = time.perf_counter()
        batch: list[tuple[Any, Source]] = []
        for value in orders(count):
            batch.append((value, source))
            if len(batch) == BATCH:
                registry.apply_all(batch)
                batch = []
        registry.apply_all(batch)
        together_s = time.perf_counter() - began
        alone = []
        for value in orders(50, count):
            began = time.perf_counter()
            registry.apply(value, source)
            alone.append(time.perf_counter() - began)
    alone.sort()
    return {
        "orders_per_s_together": round(count / together_s),
        "one_alone_ms": round(alone[len(alone) // 2] * 1e3, 2),
        "one_alone_p99_ms": round(alone[-1] * 1e3, 2),
    }


KEYS = (
    tags.AccessionNumber, tags.ReferringPhysicianName, tags.PatientName, tags.PatientID, tags.IssuerOfPatientID,
    tags.PatientBirthDate, tags.PatientSex, tags.PatientWeight, tags.MedicalAlerts, tags.Allergies,
    tags.PregnancyStatus, tags.StudyInstanceUID, tags.RequestingPhysician, tags.RequestedProcedureDescription,
    tags.AdmissionID, tags.SpecialNeeds, tags.CurrentPatientLocation, tags.PatientState, tags.RequestedProcedureID,
    tags.RequestedProcedurePriority, tags.PatientTransportArrangements,
)  # fmt: skip
STEP_KEYS = (
    tags.Modality, tags.ScheduledStationAETitle, tags.ScheduledProcedureStepStartDate,
    tags.ScheduledProcedureStepStartTime, tags.ScheduledPerformingPhysicianName,
    tags.ScheduledProcedureStepDescription, tags.ScheduledProcedureStepID, tags.ScheduledStationName,
    tags.ScheduledProcedureStepLocation, tags.PreMedication,
)  # fmt: skip


def identifier(of_step: dict[int, bytes], of_root: dict[int, bytes], syntax: str) -> bytes:
    """A query with the usual return keys."""
    item: dict[int, Value] = {**dict.fromkeys(STEP_KEYS, b""), **of_step}
    root: dict[int, Value] = {**dict.fromkeys(KEYS, b""), **of_root}
    root[tags.ScheduledProcedureStepSequence] = [dict(sorted(item.items()))]
    return encode_identifier(dict(sorted(root.items())), syntax_of(syntax))


def questions(days: int) -> dict[str, list[tuple[dict[int, bytes], dict[int, bytes]]]]:
    """Queries by kind; each differs from the others of its kind."""
    dates = [f"{FIRST_DAY + timedelta(number):%Y%m%d}".encode() for number in range(days)]
    stations = [f"{MODALITIES[number % len(MODALITIES)]}{number}".encode() for number in range(STATIONS)]
    day, ae = tags.ScheduledProcedureStepStartDate, tags.ScheduledStationAETitle
    one_each = [({day: dates[i % days], ae: stations[i % STATIONS]}, {}) for i in range(200)]
    return {
        "station and date": one_each,
        "station and date, the same again": [one_each[0]] * 200,
        "a whole day": [({day: dates[i % days]}, {}) for i in range(20)],
        "date and modality": [({day: dates[i % days], tags.Modality: b"CT"}, {}) for i in range(20)],
        "patient": [({}, {tags.PatientID: b"P%07d" % (i * 7)}) for i in range(100)],
        "accession": [({}, {tags.AccessionNumber: b"A%08d" % (i * 7)}) for i in range(100)],
        "nothing of the list": [({day: dates[i % days], ae: b"NOBODY"}, {}) for i in range(100)],
        "name with wild cards": [({}, {tags.PatientName: b"*given%d*" % (i + 17)}) for i in range(3)],
    }


def measure(target: Target, entries: int) -> dict[str, dict[str, float]]:
    """The times of each kind of query, in milliseconds."""
    association = Association(target, [wire.Context(1, WORKLIST)])
    results = {}
    try:
        syntax = association.accepted.transfer_syntaxes[1].decode()
        for name, asked in questions(max(1, entries // PER_DAY)).items():
            times, found = [], 0
            for of_step, of_root in asked:
                data = identifier(of_step, of_root, syntax)
                began = time.perf_counter_ns()
                association.send_message(1, wire.find_rq(WORKLIST, 1), data)
                count, _, status = association.read_responses((0xFF00, 0xFF01))
                if status:
                    raise PerfError(f"{name}: status {status:04X}")
                times.append(time.perf_counter_ns() - began)
                found += count
            latency = Latencies.of(times)
            results[name] = {"entries": found / len(asked), "p50_ms": latency.p50_ms, "p99_ms": latency.p99_ms}
    finally:
        association.release()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fill", type=Path, metavar="DIR")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--port", type=int, default=11112)
    parser.add_argument("--aec", default="FILMROOM")
    options = parser.parse_args()
    if options.fill:
        say(json.dumps(fill(options.fill, options.entries)))
        return 0
    for name, facts in measure(Target(options.port, options.aec), options.entries).items():
        times = f"p50 {facts['p50_ms']:8.2f} ms   p99 {facts['p99_ms']:8.2f} ms"
        say(f"{name:34} {facts['entries']:8.1f} entries   {times}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Modality Worklist under load: a registry with many entries, and the queries that modalities send.

    python -m perf.worklist --fill DIR --entries 100000
    filmroom serve --data DIR
    python -m perf.worklist --port 11112
    python -m perf.worklist --beside-wlmscpfs --entries 3400     starts both, with the same entries

A query's time runs from the request to the final response, with all entries read. --fill also prints how long one
message takes until it is on disk and visible. The entries lie on days with 1700 each, for 34 stations with 50 a day.
"""

from __future__ import annotations

import argparse
import json
import tempfile
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
from perf import peers, wire
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


def wl_file(order: OrderUpdate) -> bytes:
    """The entry of an order as a file of wlmscpfs, in Explicit VR Little Endian."""
    (procedure,), patient = order.procedures, order.patient
    (step,) = procedure.steps
    item: dict[int, Value] = {
        tags.Modality: (step.modality or "").encode(),
        tags.ScheduledStationAETitle: "\\".join(step.station_aes or ()).encode(),
        tags.ScheduledProcedureStepStartDate: (step.start_date or "").encode(),
        tags.ScheduledProcedureStepStartTime: (step.start_time or "").encode(),
        tags.ScheduledPerformingPhysicianName: b"",
        tags.ScheduledProcedureStepDescription: str(step.attributes["ScheduledProcedureStepDescription"]).encode(),
        tags.ScheduledProcedureStepID: step.scheduled_procedure_step_id.encode(),
    }
    accession = order.accession.value if order.accession is not None else ""
    root: dict[int, Value] = {
        tags.AccessionNumber: accession.encode(),
        tags.ReferringPhysicianName: str(order.attributes["ReferringPhysicianName"]).encode(),
        tags.PatientID: patient.identifiers[0].value.encode(),
        tags.StudyInstanceUID: procedure.study_instance_uid.encode(),
        tags.RequestedProcedureDescription: str(procedure.attributes["RequestedProcedureDescription"]).encode(),
        tags.RequestedProcedureID: accession.encode(),
        tags.ScheduledProcedureStepSequence: [item],
    }
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex"):
        root[tags.tag_of(keyword) or 0] = str(patient.attributes[keyword]).encode()
    return encode_identifier(dict(sorted(root.items())), syntax_of("1.2.840.10008.1.2.1"))


def beside_wlmscpfs(count: int) -> dict[str, dict[str, dict[str, float]]]:
    """The times of both servers with the same entries, each alone; wlmscpfs gets some queries of each kind."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="perf-worklist-") as name:
        ours, theirs = Path(name) / "ours", Path(name) / "theirs"
        fill(ours, count)
        folder = theirs / "WLMSCPFS"
        folder.mkdir(parents=True)
        for number, order in enumerate(orders(count)):
            (folder / f"{number:06}.wl").write_bytes(wl_file(order))
        for peer, data, most in (("filmroom", ours, 1000), ("wlmscpfs", theirs, 5)):
            with peers.running(peer, data=data, workers=1) as running:
                results[peer] = measure(running.target, count, most)
    return results


def measure(target: Target, entries: int, most: int = 1000) -> dict[str, dict[str, float]]:
    """The times of each kind of query, in milliseconds; `most` queries of each."""
    association = Association(target, [wire.Context(1, WORKLIST)])
    results = {}
    try:
        syntax = association.accepted.transfer_syntaxes[1].decode()
        for name, asked in questions(max(1, entries // PER_DAY)).items():
            times, found = [], 0
            for of_step, of_root in asked[:most]:
                data = identifier(of_step, of_root, syntax)
                began = time.perf_counter_ns()
                association.send_message(1, wire.find_rq(WORKLIST, 1), data)
                count, _, status = association.read_responses((0xFF00, 0xFF01))
                if status:
                    raise PerfError(f"{name}: status {status:04X}")
                times.append(time.perf_counter_ns() - began)
                found += count
            latency = Latencies.of(times)
            results[name] = {"entries": found / len(times), "p50_ms": latency.p50_ms, "p99_ms": latency.p99_ms}
    finally:
        association.release()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fill", type=Path, metavar="DIR")
    parser.add_argument("--beside-wlmscpfs", action="store_true")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--port", type=int, default=11112)
    parser.add_argument("--aec", default="FILMROOM")
    options = parser.parse_args()
    if options.fill:
        say(json.dumps(fill(options.fill, options.entries)))
        return 0
    if options.beside_wlmscpfs:
        for peer, facts in beside_wlmscpfs(options.entries).items():
            show(facts, f"{peer:9} ")
        return 0
    show(measure(Target(options.port, options.aec), options.entries))
    return 0


def show(results: dict[str, dict[str, float]], before: str = "") -> None:
    """Prints the times of each kind of query."""
    for name, facts in results.items():
        times = f"p50 {facts['p50_ms']:8.2f} ms   p99 {facts['p99_ms']:8.2f} ms"
        say(f"{before}{name:34} {facts['entries']:8.1f} entries   {times}")


if __name__ == "__main__":
    raise SystemExit(main())

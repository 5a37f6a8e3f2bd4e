"""The modalities: one asks for its worklist, reports steps (MPPS), stores images, and asks for storage commitment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from pydicom.dataset import Dataset

from engine.dicom import uids
from engine.dimse import messages
from perf.hospital import invented, network, pictures
from perf.hospital.day import Examination, Fate
from perf.hospital.network import Association, Refused, Server, check

WORKLIST: Final = uids.ModalityWorklistInformationModelFind
PERFORMED: Final = uids.ModalityPerformedProcedureStep
PERFORMED_RETRIEVE: Final = uids.ModalityPerformedProcedureStepRetrieve
COMMITMENT: Final = uids.StorageCommitmentPushModel
COMMITMENT_INSTANCE: Final = uids.StorageCommitmentPushModelInstance
DUPLICATE: Final = 0x0111
ENDED: Final = 0x0110
"""An N-SET of a step that has ended: our own, whose answer was lost."""
LOOK_AGAIN_S: Final = 0.05
REPORT_S_MAX: Final = 60.0


class Modalities:
    """One of each kind; a station does one examination at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def found(self, one: Examination, count: int) -> list[Dataset]:
        """The entries of an examination in the list of its station, as soon as there are `count`. Raises Refused."""
        deadline = asyncio.get_running_loop().time() + self._server.patience_s
        while True:
            entries = await network.insisting(self._server, lambda: self._worklist(one))
            if len(entries) == count:
                return entries
            if asyncio.get_running_loop().time() > deadline:
                raise Refused(f"the worklist of {one.station} has {len(entries)} steps of {one.accession}, not {count}")
            await asyncio.sleep(LOOK_AGAIN_S)

    async def begin(self, one: Examination, entries: Sequence[Dataset]) -> None:
        """Reports that the steps of `entries` begin, or an unscheduled one."""
        uid = f"{one.uid}.90"
        created = _created(one, entries)
        await self._report(one, messages.NCreateRQ(0, PERFORMED, uid, True), created)
        one.performed_uid = uid

    async def end(self, one: Examination) -> None:
        """Reports that they have ended."""
        changed = Dataset()
        is_done = one.fate is not Fate.DISCONTINUED
        changed.PerformedProcedureStepStatus = "COMPLETED" if is_done else "DISCONTINUED"
        changed.PerformedProcedureStepEndDate = time.strftime("%Y%m%d")
        changed.PerformedProcedureStepEndTime = time.strftime("%H%M%S")
        changed.PerformedSeriesSequence = [_series(one)] if is_done else []
        await self._report(one, messages.NSetRQ(0, PERFORMED, one.performed_uid), changed)

    async def store(self, one: Examination, numbers: Sequence[int]) -> None:
        """Stores images, on one association while it holds."""
        images = [pictures.image(one, number) for number in numbers]
        await store(self._server, one.station, one, images)

    async def commit(self, one: Examination) -> None:
        """Asks whether all is stored safely, and counts what is. Raises Refused."""
        attempt = 0

        async def ask() -> None:
            nonlocal attempt
            attempt += 1
            async with await network.associate(self._server, one.station, [COMMITMENT]) as association:
                one.committed_count = await _commitment(association, one, f"{one.uid}.93.{attempt}")

        await network.insisting(self._server, ask)

    async def performed(self, one: Examination) -> str:
        """The status of its reported step, as the archive has it (N-GET)."""

        async def get() -> str:
            async with await network.associate(self._server, one.station, [PERFORMED_RETRIEVE]) as association:
                response, found = await association.request(
                    PERFORMED_RETRIEVE,
                    lambda message_id: messages.NGetRQ(message_id, PERFORMED_RETRIEVE, one.performed_uid),
                )
                check(response, "N-GET of a performed step")
                return str(found[0].get("PerformedProcedureStepStatus", "")) if found else ""

        return await network.insisting(self._server, get)

    async def _worklist(self, one: Examination) -> list[Dataset]:
        step = Dataset()
        step.ScheduledStationAETitle, step.ScheduledProcedureStepStartDate = one.station, time.strftime("%Y%m%d")
        step.ScheduledProcedureStepID = step.Modality = step.ScheduledProcedureStepStartTime = ""
        keys = Dataset()
        keys.SpecificCharacterSet = "ISO_IR 192"
        keys.AccessionNumber, keys.ScheduledProcedureStepSequence = one.accession, [step]
        keys.PatientName = keys.PatientID = keys.PatientBirthDate = keys.PatientSex = ""
        keys.StudyInstanceUID = keys.RequestedProcedureID = ""
        async with await network.associate(self._server, one.station, [WORKLIST]) as association:
            response, found = await association.request(
                WORKLIST, lambda message_id: messages.CFindRQ(message_id, WORKLIST), keys
            )
            check(response, "the query of the worklist")
            return found

    async def _report(self, one: Examination, rq: messages.NCreateRQ | messages.NSetRQ, data_set: Dataset) -> None:
        """Sends an N-CREATE or N-SET; one whose answer was lost has happened already. Raises Refused."""
        attempt = 0

        async def send() -> None:
            nonlocal attempt
            attempt += 1
            also = (DUPLICATE, ENDED) if attempt > 1 else ()
            async with await network.associate(self._server, one.station, [PERFORMED]) as association:
                response, _ = await association.request(PERFORMED, partial(_numbered, rq), data_set)
                check(response, type(rq).__name__, *also)

        await network.insisting(self._server, send)


async def store(server: Server, ae_title: str, one: Examination, data_sets: Sequence[Dataset]) -> None:
    """Stores instances of an examination and notes those that were accepted. Raises Refused."""
    classes = sorted({str(each.SOPClassUID) for each in data_sets})

    async def send() -> None:
        async with await network.associate(server, ae_title, classes) as association:
            for each in data_sets:
                uid, sop_class = str(each.SOPInstanceUID), str(each.SOPClassUID)
                if uid in one.stored:
                    continue
                rq = messages.CStoreRQ(0, sop_class, uid)
                response, _ = await association.request(sop_class, partial(_numbered, rq), each)
                check(response, f"C-STORE of {uid}")
                one.stored.append(uid)

    await network.insisting(server, send)


def _numbered(
    rq: messages.NCreateRQ | messages.NSetRQ | messages.CStoreRQ, message_id: int
) -> messages.NCreateRQ | messages.NSetRQ | messages.CStoreRQ:
    return replace(rq, message_id=message_id)


async def _commitment(association: Association, one: Examination, transaction_uid: str) -> int:
    """The number of instances that the archive commits to. Raises Refused if it has any failed."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [reference(pictures.SOP_CLASSES[one.modality], uid) for uid in one.stored]
    response, _ = await association.request(
        COMMITMENT,
        lambda message_id: messages.NActionRQ(message_id, COMMITMENT, COMMITMENT_INSTANCE, 1, True),
        information,
    )
    check(response, "storage commitment")
    try:
        _, report = await association.report(REPORT_S_MAX)
    except TimeoutError:
        raise Refused("no report of storage commitment") from None
    if report.get("FailedSOPSequence"):
        raise Refused(f"storage commitment failed for {len(report.FailedSOPSequence)} instances")
    return len(report.ReferencedSOPSequence)


def reference(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


def _created(one: Examination, entries: Sequence[Dataset]) -> Dataset:
    created = Dataset()
    created.SpecificCharacterSet = "ISO_IR 192"
    created.ScheduledStepAttributesSequence = [_scheduled(one, entry) for entry in entries or [Dataset()]]
    created.PatientName, created.PatientID = one.person.name, one.person.patient_id
    created.PatientBirthDate, created.PatientSex = one.person.birth_date, one.person.sex
    created.ReferencedPatientSequence = []
    created.PerformedProcedureStepID, created.PerformedStationAETitle = f"S{one.number}", one.station
    created.PerformedStationName, created.PerformedLocation = one.station, invented.FAMILY_NAME
    created.PerformedProcedureStepStartDate = time.strftime("%Y%m%d")
    created.PerformedProcedureStepStartTime = time.strftime("%H%M%S")
    created.PerformedProcedureStepStatus = "IN PROGRESS"
    created.PerformedProcedureStepDescription = f"Invented {one.modality}"
    created.PerformedProcedureTypeDescription = created.PerformedProcedureStepEndDate = ""
    created.PerformedProcedureStepEndTime = ""
    created.ProcedureCodeSequence, created.PerformedProtocolCodeSequence = [], []
    created.Modality, created.StudyID, created.PerformedSeriesSequence = one.modality, str(one.number), []
    return created


def _scheduled(one: Examination, entry: Dataset) -> Dataset:
    """What a step says of the order that it fulfils; empty for an unscheduled one."""
    item = Dataset()
    item.StudyInstanceUID = entry.get("StudyInstanceUID", one.uid)
    item.ReferencedStudySequence = []
    item.AccessionNumber = entry.get("AccessionNumber", "")
    item.RequestedProcedureID = entry.get("RequestedProcedureID", "")
    item.RequestedProcedureDescription = item.ScheduledProcedureStepDescription = ""
    steps = entry.get("ScheduledProcedureStepSequence") or [Dataset()]
    item.ScheduledProcedureStepID = steps[0].get("ScheduledProcedureStepID", "")
    item.ScheduledProtocolCodeSequence = []
    return item


def _series(one: Examination) -> Dataset:
    series = Dataset()
    series.PerformingPhysicianName = series.OperatorsName = ""
    series.ProtocolName, series.SeriesInstanceUID = "Invented", f"{one.uid}.1"
    series.SeriesDescription, series.RetrieveAETitle = f"Invented {one.modality}", ""
    sop_class = pictures.SOP_CLASSES[one.modality]
    uids_ = [f"{one.uid}.1.{number}" for number in range(1, one.image_count + 1)]
    series.ReferencedImageSequence = [reference(sop_class, uid) for uid in uids_]
    series.ReferencedNonImageCompositeSOPInstanceSequence = []
    return series

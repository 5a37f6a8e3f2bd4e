"""The scheduler, which makes a workitem of each study to be read by a machine, and the assistant that does the work.

Both speak UPS (PS3.4 CC): the one pushes, the other queries, claims, stores its results and completes.
"""

from __future__ import annotations

import time
from typing import Final

from pydicom.dataset import Dataset

from engine.dicom import uids
from engine.dimse import messages
from perf.hospital import modality, network, pictures
from perf.hospital.day import Examination
from perf.hospital.network import Association, Refused, Server, check
from perf.hospital.pictures import code

PUSH: Final = uids.UnifiedProcedureStepPush
PULL: Final = uids.UnifiedProcedureStepPull
SCHEDULER, ASSISTANT = "SIMRIS", "SIMAI1"
LABEL: Final = "Invented segmentation"
DUPLICATE: Final = 0x0111
ATTRIBUTES_NOT_SET: Final = 0x0001
ALREADY_COMPLETED: Final = 0xB306
FINAL: Final = 0xC300
ALREADY_IN_PROGRESS: Final = 0xC302
"""Statuses of PS3.4 CC.2."""
CHANGE_STATE: Final = 1


async def schedule(server: Server, one: Examination) -> None:
    """Makes the workitem. Raises Refused."""
    uid = f"{one.uid}.91"

    async def create() -> None:
        async with await network.associate(server, SCHEDULER, [PUSH]) as association:
            rq = lambda message_id: messages.NCreateRQ(message_id, PUSH, uid, True)  # noqa: E731
            response, _ = await association.request(PUSH, rq, _workitem(one))
            check(response, "the N-CREATE of a workitem", DUPLICATE)

    await network.insisting(server, create)
    one.workitem_uid = uid


async def work(server: Server, one: Examination) -> None:
    """Finds the workitem, claims it, stores the results and completes it. Raises Refused."""
    claimed = False

    async def claim() -> None:
        nonlocal claimed
        async with await network.associate(server, ASSISTANT, [PULL]) as association:
            if not claimed and one.workitem_uid not in await _waiting(association, one):
                raise Refused(f"workitem {one.workitem_uid} is not found among those that are scheduled")
            # Our claim may be known there although we got no answer. Whether it is ours, the N-SET shows.
            also = (ALREADY_IN_PROGRESS,) if claimed else ()
            claimed = True
            await _change(association, one, "IN PROGRESS", *also)

    async def finish() -> None:
        async with await network.associate(server, ASSISTANT, [PULL]) as association:
            rq = lambda message_id: messages.NSetRQ(message_id, PUSH, one.workitem_uid)  # noqa: E731
            response, _ = await association.request(PULL, rq, _performed(one))
            check(response, "the N-SET of a workitem", ATTRIBUTES_NOT_SET, FINAL)  # completed at an attempt before
            await _change(association, one, "COMPLETED", ALREADY_COMPLETED)

    await network.insisting(server, claim)
    await modality.store(server, ASSISTANT, one, [pictures.report(one), pictures.segmentation(one)])
    await network.insisting(server, finish)


async def _waiting(association: Association, one: Examination) -> list[str]:
    """The UIDs of scheduled workitems of the study's patient."""
    keys = Dataset()
    keys.ProcedureStepState, keys.ProcedureStepLabel = "SCHEDULED", LABEL
    keys.PatientID, keys.SOPInstanceUID = one.shown_person.patient_id, ""
    response, found = await association.request(PULL, lambda number: messages.CFindRQ(number, PULL), keys)
    check(response, "the query of workitems")
    return [str(each.SOPInstanceUID) for each in found]


async def _change(association: Association, one: Examination, state: str, *also: int) -> None:
    information = Dataset()
    information.ProcedureStepState, information.TransactionUID = state, f"{one.uid}.92"
    rq = lambda number: messages.NActionRQ(number, PUSH, one.workitem_uid, CHANGE_STATE, True)  # noqa: E731
    response, _ = await association.request(PULL, rq, information)
    check(response, f"the change of a workitem to {state}", *also)


def _workitem(one: Examination) -> Dataset:
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.ProcedureStepState, data_set.ScheduledProcedureStepPriority = "SCHEDULED", "MEDIUM"
    data_set.ProcedureStepLabel, data_set.InputReadinessState = LABEL, "READY"
    data_set.ScheduledProcedureStepStartDateTime = time.strftime("%Y%m%d%H%M%S")
    data_set.ScheduledWorkitemCodeSequence = [code("110005", "DCM", "Interpretation")]
    person = one.shown_person
    data_set.PatientName, data_set.PatientID = person.name, person.patient_id
    data_set.PatientBirthDate, data_set.PatientSex = person.birth_date, person.sex
    data_set.StudyInstanceUID = one.uid
    data_set.InputInformationSequence = [_study(one)]
    return data_set


def _performed(one: Examination) -> Dataset:
    now = time.strftime("%Y%m%d%H%M%S")
    step = Dataset()
    step.PerformedStationNameCodeSequence = [code(ASSISTANT, "99SIM", "Invented assistant")]
    step.PerformedWorkitemCodeSequence = [code("110005", "DCM", "Interpretation")]
    step.PerformedProcedureStepStartDateTime = step.PerformedProcedureStepEndDateTime = now
    step.OutputInformationSequence = [_study(one)]
    data_set = Dataset()
    data_set.TransactionUID = f"{one.uid}.92"
    data_set.UnifiedProcedureStepPerformedProcedureSequence = [step]
    return data_set


def _study(one: Examination) -> Dataset:
    item = Dataset()
    item.TypeOfInstances, item.StudyInstanceUID, item.SeriesInstanceUID = "DICOM", one.uid, f"{one.uid}.1"
    item.ReferencedSOPSequence = [
        modality.reference(pictures.SOP_CLASSES[one.modality], f"{one.uid}.1.{number}")
        for number in range(1, one.image_count + 1)
    ]
    return item

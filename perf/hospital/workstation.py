"""A workstation: finds a study, and fetches it by C-GET."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from engine.dicom import uids
from engine.dimse import messages
from perf.hospital import network, pictures
from perf.hospital.day import Examination
from perf.hospital.network import Refused, Server, check

FIND: Final = uids.StudyRootQueryRetrieveInformationModelFind
GET: Final = uids.StudyRootQueryRetrieveInformationModelGet
WORKSTATION: Final = "SIMWS1"


async def read(server: Server, one: Examination) -> None:
    """Finds a study by its UID, and fetches its images. Raises Refused if one is missing."""
    sop_class = pictures.SOP_CLASSES[one.modality]

    async def fetch() -> None:
        classes = [FIND, GET, sop_class]
        async with await network.associate(server, WORKSTATION, classes, [sop_class]) as association:
            keys = _keys(one, "STUDY")
            keys.PatientID = ""
            response, found = await association.request(FIND, lambda number: messages.CFindRQ(number, FIND), keys)
            check(response, "the query of a study")
            if len(found) != 1:
                raise Refused(f"study {one.uid} is found {len(found)} times")
            keys = _keys(one, "SERIES")
            keys.SeriesInstanceUID = f"{one.uid}.1"
            response, _ = await association.request(GET, lambda number: messages.CGetRQ(number, GET), keys)
            check(response, "the retrieval of a study")
            images = {uid for uid in one.stored if uid.startswith(f"{one.uid}.1.")}
            if missing := images - set(association.received):
                raise Refused(f"the retrieval of {one.uid} lacks {len(missing)} images")
            one.read_count = len(images)

    await network.insisting(server, fetch)


def _keys(one: Examination, level: str) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = level, one.uid
    return keys

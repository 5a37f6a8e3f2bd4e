"""Documents of reports (HL7 ORU) as instances of the archive: they join the study that the report names.

    Study Instance UID in the report ──► that study          a stored study with its accession number ──► that one
    none of these ──► a study of its own, with the UID that the order gets (`orders.ordering.made_uid`)

The UIDs of an instance come from the message's bytes, so that a message that is applied again stores nothing new. In a
stored study the document has that study's patient, so that one study never has two.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

from engine.archive.ingest.request import ReceivedInstance
from engine.dicom import tags
from engine.dicom.reports import CLASSES, EXPLICIT_LITTLE, Uids, data_set
from engine.errors import EngineError, QueryError
from engine.orders.ordering import made_uid
from engine.orders.values import ReportState
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.dicom.document import Document
    from engine.orders.values import Identifier, ReportUpdate

_COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_SENT = ("PatientName", "PatientBirthDate", "PatientSex")


class ReportDocuments:
    """Stores documents; used in one thread."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def store(self, report: ReportUpdate, document: Document, message: bytes, number: int) -> tuple[str, str]:
        """Stores the `number`-th document of a message; returns the UIDs of study and instance.

        Raises InstanceRefused, StorageFull, StorageFailed, IndexError_.
        """
        instance_uid = _uid(message, str(number).encode())
        if known := self._study_of_instance(instance_uid):
            return known, instance_uid
        values, study = self._study_of(report)
        uids = Uids(
            study=study,
            series=_uid(study.encode(), document.kind.encode(), b"reports"),
            instance=instance_uid,
        )
        values["PreliminaryFlag"] = "PRELIMINARY" if report.state is ReportState.PRELIMINARY else "FINAL"
        payload = data_set(document, values, uids)
        instance = ReceivedInstance(
            [payload], len(payload), crc32c(payload), EXPLICIT_LITTLE, "HL7", CLASSES[document.kind], uids.instance
        )
        (answer,) = self._archive.ingest_batch([instance])
        if isinstance(answer, EngineError):
            raise answer
        return uids.study, uids.instance

    def _study_of_instance(self, sop_instance_uid: str) -> str:
        """The study of a stored instance; "" if there is none."""
        keys = {"SOPInstanceUID": sop_instance_uid, "StudyInstanceUID": ""}
        found = list(self._archive.find("instance", keys, limit=1))
        return found[0].attributes[tags.StudyInstanceUID].decode() if found else ""

    def _study_of(self, report: ReportUpdate) -> tuple[dict[str, str], str]:
        """The values of patient and study, and the study's UID."""
        accession = report.accession.value if report.accession is not None else ""
        stored: dict[str, str] | None = None
        if report.study_instance_uid:
            stored = self._stored({"StudyInstanceUID": report.study_instance_uid})
        elif accession:
            stored = self._stored({"AccessionNumber": accession, "PatientID": report.patient.identifiers[0].value})
        if stored is not None:
            values = {keyword: stored[keyword] for keyword in _COPIED if stored.get(keyword)}
            return values, stored["StudyInstanceUID"]
        identifier = report.patient.identifiers[0]
        values = {
            keyword: value
            for keyword in _SENT
            if isinstance(value := report.patient.attributes.get(keyword, ""), str) and value
        }
        values["PatientID"] = identifier.value
        if issuer := identifier.issuer.name or identifier.issuer.universal_id:
            values["IssuerOfPatientID"] = issuer
        if accession:
            values["AccessionNumber"] = accession[:16]
        return values, report.study_instance_uid or self._made(report, identifier)

    def _made(self, report: ReportUpdate, patient: Identifier) -> str:
        number = report.accession or report.filler or report.placer or patient
        return made_uid(self._archive.secret, number, number.value)

    def _stored(self, keys: dict[str, str]) -> dict[str, str] | None:
        """The one stored study that has these values; None if there is none, or several."""
        try:
            found = list(self._archive.find("study", {**dict.fromkeys(_COPIED, ""), **keys}, limit=2))
        except QueryError:
            return None
        if len(found) != 1:
            return None
        return {tags.keyword_of(tag): value.decode("utf-8", "replace") for tag, value in found[0].attributes.items()}


def _uid(*parts: bytes) -> str:
    digest = hashlib.sha256(b"\0".join(parts)).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"

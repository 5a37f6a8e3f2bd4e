"""Documents of reports are instances that others can read, in the study that the report is about."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from engine.archive.archive import Archive
from engine.archive.reports import ReportDocuments
from engine.dicom.document import Document
from engine.index.query.keywords import query_of_names
from engine.orders.values import Identifier, Issuer, PatientUpdate, ReportState, ReportUpdate
from tests import samples
from tests.mapping.test_documents import CDA, PDF

DOCUMENTS = [
    Document("pdf", PDF, "CT Thorax", "20261130", "101500"),
    Document("cda", CDA, "Bericht", "20261130"),
    Document("text", "Befund: unauffällig\nkein Erguss".encode(), "Text"),
]


def report(patient: str = "P1", accession: str = "A77", study: str = "") -> ReportUpdate:
    return ReportUpdate(
        patient=PatientUpdate(
            identifiers=(Identifier(patient, Issuer("HOSP")),),
            attributes={"PatientName": "Müller^Jörg", "PatientSex": "M"},
        ),
        state=ReportState.FINAL,
        accession=Identifier(accession, Issuer("RIS")),
        study_instance_uid=study,
    )


def read(archive: Archive, instance_uid: str) -> pydicom.Dataset:
    (instance,) = archive.instances(query_of_names("instance", {"SOPInstanceUID": instance_uid}, archive.schema))
    return archive.dataset(instance)


@pytest.fixture
def archive(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Archive.open(tmp_path / "data", create=True) as archive:
        yield archive


@pytest.mark.parametrize("document", DOCUMENTS, ids=["pdf", "cda", "text"])
def test_a_document_is_stored_and_read_by_others(archive: Archive, document: Document) -> None:
    study, instance = ReportDocuments(archive).store(report(), document, b"message", 1)
    found = read(archive, instance)
    assert (found.StudyInstanceUID, found.PatientID, found.IssuerOfPatientID) == (study, "P1", "HOSP")
    assert (str(found.PatientName), found.AccessionNumber) == ("Müller^Jörg", "A77")
    if document.kind == "text":
        assert found.ContentSequence[0].TextValue == document.data.decode()
    else:
        assert found.EncapsulatedDocument[: found.EncapsulatedDocumentLength] == document.data


def test_the_same_message_stores_nothing_new_and_documents_of_a_study_share_it(archive: Archive) -> None:
    documents = ReportDocuments(archive)
    first = documents.store(report(), DOCUMENTS[0], b"message", 1)
    assert documents.store(report(), DOCUMENTS[0], b"message", 1) == first
    assert read(archive, first[1]).PatientSex == "M"
    corrected = documents.store(report(), DOCUMENTS[0]._replace(data=PDF + b"% 2\n"), b"other message", 1)
    assert corrected[0] == first[0] and corrected[1] != first[1]
    assert archive.stats()["instances"] == 2 and archive.stats()["versions"] == 0


def test_a_document_joins_a_stored_study_and_has_its_patient(archive: Archive) -> None:
    archive.store(samples.part10(samples.instance(patient_name="DOE^JOHN", AccessionNumber="A77")))
    (study,) = archive.find("study", AccessionNumber="A77")
    uid = next(value.decode() for tag, value in study.attributes.items() if tag == 0x0020000D)
    for each in (report(), report(patient="OTHER", study=uid)):
        stored, instance = ReportDocuments(archive).store(each, DOCUMENTS[0], repr(each).encode(), 1)
        found = read(archive, instance)
        assert (stored, found.PatientID, str(found.PatientName)) == (uid, "P1", "DOE^JOHN")
    assert archive.stats()["studies"] == 1 and archive.stats()["conflicts"] == 0


def test_the_same_accession_number_of_another_patient_is_another_study(archive: Archive) -> None:
    archive.store(samples.part10(samples.instance(patient_id="P2", AccessionNumber="A77")))
    ReportDocuments(archive).store(report(), DOCUMENTS[0], b"message", 1)
    assert archive.stats()["studies"] == 2

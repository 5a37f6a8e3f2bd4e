"""Which studies an event of the change feed has changed: those of a corrected patient too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.archive.admin import corrections
from engine.archive.feed.event import CORRECTED, DELETED, RESTORED, STORED, VERSION_DELETED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.archive.archive import Archive
    from engine.archive.feed.event import Event

_OF_STUDIES: Final = frozenset((STORED, DELETED, RESTORED, VERSION_DELETED))


def studies_of(archive: Archive, event: Event) -> Iterable[str]:
    """The Study Instance UIDs that an event of the change feed is about."""
    if event.action in _OF_STUDIES:
        return (event.study_instance_uid,) if event.study_instance_uid else ()
    if event.action != CORRECTED:
        return ()
    if event.level != "patient":
        return event.names if event.level == "study" else event.names[:1]
    return _studies_of_patients(archive, event.names)


def _studies_of_patients(archive: Archive, names: Sequence[str]) -> set[str]:
    """The studies of a corrected patient, also under the ID that they got by it."""
    patients = {"^^^".join(filter(None, names[:2]))}
    for row in corrections.list_all(archive, values=True):
        if row["level"] == "patient" and patients & set(row["names"]):
            values = row["sets"]
            into = "^^^".join(filter(None, (values.get("PatientID", ""), values.get("IssuerOfPatientID", ""))))
            patients |= {into} if into else set()
    return {uid for patient in patients for uid in corrections.studies_of(archive, patient)}

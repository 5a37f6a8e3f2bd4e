"""What there is to know of stored studies beside their attributes, as plain data: size, senders, times, holds,
conflicts, corrections.

    sender   {"name": "CT1", "way": "dimse", "instances": …, "bytes": …, "first_received": …, "last_received": …}
             way: dimse, from an application entity; http, from an address; import, from files on the server
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from engine.archive.admin import corrections
from engine.archive.admin.times import time_text
from engine.dicom import plain_values, tags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.archive.view import View
    from engine.index.catalog import SeriesArrival

_HTTP: Final = "http:"


def summary(view: View, study_instance_uid: str) -> dict[str, Any]:
    """Size, senders and times of one study, for a list: the first and last instance of each series tell the senders."""
    arrivals = view.arrivals(study_instance_uid)
    senders = [(name, sender) for arrival in arrivals for name, sender in arrival.senders.items()]
    return {
        "instances": sum(arrival.instances for arrival in arrivals),
        "bytes": sum(arrival.bytes for arrival in arrivals),
        "senders": list(dict.fromkeys(name for name, _ in senders)),
        "institutions": _distinct(arrival.institution for arrival in arrivals),
        "first_received": time_text(min(sender.first_ns for _, sender in senders)) if senders else None,
        "last_received": time_text(max(sender.last_ns for _, sender in senders)) if senders else None,
    }


def details(view: View, study_instance_uid: str) -> dict[str, Any] | None:
    """Everything about one study; None if it is not stored. The values of conflicts and corrections included."""
    arrivals = view.arrivals(study_instance_uid, whole=True)
    if not arrivals:
        return None
    return {
        "study_instance_uid": study_instance_uid,
        "instances": sum(arrival.instances for arrival in arrivals),
        "bytes": sum(arrival.bytes for arrival in arrivals),
        "series": [_series(arrival) for arrival in arrivals],
        "senders": _senders(arrivals),
        "hold": _hold(view, study_instance_uid),
        "conflicts": [
            {
                "series_instance_uid": conflict.series_instance_uid.decode("utf-8", "replace"),
                "attributes": {
                    tags.keyword_of(tag): [plain_values.text_of(tag, value, view.schema.vr_of) for value in texts]
                    for tag, texts in conflict.values.items()
                },
            }
            for conflict in view.conflicts_of(study_instance_uid)
        ],
        "corrections": [] if view.is_partial else list(_corrections(view, study_instance_uid)),
    }


def _series(arrival: SeriesArrival) -> dict[str, Any]:
    senders = arrival.senders.values()
    return {
        "series_instance_uid": arrival.series_instance_uid,
        "institution": arrival.institution,
        "instances": arrival.instances,
        "bytes": arrival.bytes,
        "senders": list(arrival.senders),
        "first_received": time_text(min(sender.first_ns for sender in senders)) if senders else None,
        "last_received": time_text(max(sender.last_ns for sender in senders)) if senders else None,
    }


def _senders(arrivals: Iterable[SeriesArrival]) -> list[dict[str, Any]]:
    """Who sent what of a study, the first one first."""
    by_name: dict[str, list[Any]] = {}
    for arrival in arrivals:
        for name, sender in arrival.senders.items():
            by_name.setdefault(name, []).append(sender)
    facts = [
        {
            "name": name.removeprefix(_HTTP),
            "way": "http" if name.startswith(_HTTP) else "dimse" if name else "import",
            "instances": sum(part.instances for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "first_received": time_text(min(part.first_ns for part in parts)),
            "last_received": time_text(max(part.last_ns for part in parts)),
        }
        for name, parts in by_name.items()
    ]
    return sorted(facts, key=lambda sender: str(sender["first_received"]))


def _hold(view: View, study_instance_uid: str) -> dict[str, Any] | None:
    uid = study_instance_uid.encode()
    for hold in view.holds():
        if hold.study_instance_uid == uid:
            return {
                "since": time_text(hold.set_ns),
                "by": hold.by.decode("utf-8", "replace"),
                "reason": hold.reason.decode("utf-8", "replace"),
            }
    return None


def _corrections(view: View, study_instance_uid: str) -> Iterator[dict[str, Any]]:
    """Corrections of the study, of its series, and of its patient, the earliest first; undos are part of them."""
    keys = {"StudyInstanceUID": study_instance_uid, "PatientID": "", "IssuerOfPatientID": ""}
    patients = {
        f"{match['PatientID']}^^^{match['IssuerOfPatientID']}" if match["IssuerOfPatientID"] else match["PatientID"]
        for match in view.find("study", keys)
        if match["PatientID"]
    }
    for row in corrections.list_all(view, values=True):
        if row["undoes"]:
            continue
        is_of_patient = row["level"] == "patient" and bool(patients & {*row["names"], row["sets"].get("PatientID")})
        if is_of_patient or study_instance_uid in row["names"]:
            yield row


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, texts)))

"""Provenance of a study: who sent it, and who corrected it (R4 and R5 provenance.html).

    each sender         CREATE, from its first to its last instance, by a transmitter
    each correction     UPDATE, by its author, with the reason
    an undone one       says so in its activity

They are made when they are asked for, and have no id: the study is how one finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from engine.fhir.datatypes import Json, concept, text, without_empty
from engine.fhir.release import Release

_OPERATIONS: Final = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
_PARTICIPANTS: Final = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_WAYS: Final = {"dimse": "application entity", "http": "address", "import": "files on the server"}


def provenances(study_instance_uid: str, facts: Mapping[str, Any], release: Release) -> Iterator[Json]:
    """What is known of a study. `facts`: its senders and corrections, as plain data."""
    target = [{"reference": f"ImagingStudy/{study_instance_uid}"}]
    for sender in facts["senders"]:
        name = text(sender["name"]) or "import"
        yield {
            "resourceType": "Provenance",
            "target": target,
            "occurredPeriod": {"start": sender["first_received"], "end": sender["last_received"]},
            "recorded": sender["last_received"],
            "activity": concept(_OPERATIONS, "CREATE", "create"),
            "agent": [_agent("transmitter", f"{name} ({_WAYS.get(sender['way'], sender['way'])})")],
        }
    for row in facts["corrections"]:
        reason = text(row.get("reason"))
        activity = concept(_OPERATIONS, "UPDATE", "revise")
        if row.get("undone_by"):
            activity["text"] = "corrected, and undone later"
        because: Json = {"text": reason}
        why = {"authorization": [{"concept": because}]} if release is Release.R5 else {"reason": [because]}
        yield {
            "resourceType": "Provenance",
            **without_empty(
                {
                    "target": target,
                    "recorded": row["made"],
                    "activity": activity,
                    "agent": [_agent("author", text(row.get("by")) or "unknown")],
                    **(why if reason else {}),
                }
            ),
        }


def _agent(kind: str, who: str) -> Json:
    return {"type": concept(_PARTICIPANTS, kind), "who": {"display": who}}

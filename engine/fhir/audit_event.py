"""AuditEvent of a record of the audit log (R4 and R5 auditevent.html), with the codes of DICOM's audit messages.

R4   type, subtype, action, recorded, outcome, outcomeDesc, agent.network, entity.query
R5   category, code, action, recorded, outcome.code, agent.networkString, entity.query
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from engine.fhir.datatypes import DCM, Json, coding, identifier, system_of, text, without_empty
from engine.fhir.release import Release

KINDS: Final = "urn:filmroom:audit-event"
"""The system of the kinds of events, as the audit log has them."""
_ROLES: Final = "http://terminology.hl7.org/CodeSystem/object-role"
_OUTCOMES: Final = {
    0: ("success", "Success"),
    4: ("minor", "Minor failure"),
    8: ("serious", "Serious failure"),
    12: ("major", "Major failure"),
}


def audit_event(record: Mapping[str, Any], code: tuple[str, str, str], source: str, release: Release) -> Json:
    """The resource. `code`: DICOM's code and meaning of the event, and its action; `source`: who kept it."""
    event_code, meaning, action = code
    outcome = int(record.get("outcome", 0))
    kind = coding(KINDS, str(record["kind"]), text(record.get("action")))
    detail = "; ".join(text(record[name]) for name in ("reason", "detail") if record.get(name))
    is_r5 = release is Release.R5
    event = coding(DCM, event_code, meaning)
    name = _OUTCOMES.get(outcome, _OUTCOMES[12])
    of_release: Json = (
        {
            "category": [{"coding": [event]}],
            "code": {"coding": [kind]},
            "outcome": without_empty(
                {
                    "code": coding("http://terminology.hl7.org/CodeSystem/audit-event-outcome", str(outcome), name[1]),
                    "detail": [{"text": detail}] if detail else [],
                }
            ),
        }
        if is_r5
        else {"type": event, "subtype": [kind], "outcome": str(outcome), "outcomeDesc": detail}
    )
    agents = [_agent(record["who"], release)]
    if record.get("peer"):
        peer = {"name": record["peer"], "address": record.get("peer_address", "")}
        agents.append({**_agent(peer, release), "requestor": False})
    return {
        "resourceType": "AuditEvent",
        **without_empty(
            {
                "id": id_of(record),
                **of_release,
                "action": action,
                "recorded": record["t"],
                "agent": agents,
                "source": {"observer": {"display": source}},
                "entity": _entities(record, release),
            }
        ),
    }


def id_of(record: Mapping[str, Any]) -> str:
    """Its chain and its number there."""
    return f"{record['chain']}-{record['n']}".replace("/", ".")


def _agent(who: Mapping[str, Any], release: Release) -> Json:
    names = [text(who.get(each)) for each in ("name", "user", "claimed_user")]
    name = next(filter(None, names), "") or text(who.get("address")) or "unknown"
    address = text(who.get("address"))
    network: Json = (
        {"networkString": address} if release is Release.R5 else {"network": {"address": address, "type": "2"}}
    )
    return {
        "who": {"display": name},
        **({"name": name} if release is Release.R4 else {}),
        "requestor": True,
        **(network if address else {}),
    }


def _entities(record: Mapping[str, Any], release: Release) -> list[Json]:
    entities: list[Json] = []
    patient = record.get("patient")
    if isinstance(patient, Mapping) and patient.get("id"):
        issuer = text(patient.get("issuer"))
        what = {"type": "Patient", "identifier": identifier(text(patient["id"]), system_of(issuer), "MR", issuer)}
        entities.append({"what": what, "role": _role("1", "Patient", release)})
    if record.get("study"):
        what = {"reference": f"ImagingStudy/{record['study']}"}
        entities.append({"what": what, "role": _role("3", "Report", release)})
    if record.get("query"):
        query = base64.b64encode(str(record["query"]).encode("utf-8", "replace")).decode()
        entities.append({"role": _role("24", "Query", release), "query": query})
    return entities


def _role(code: str, meaning: str, release: Release) -> Json:
    role = coding(_ROLES, code, meaning)
    return {"coding": [role]} if release is Release.R5 else role

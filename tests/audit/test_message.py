"""Every event is a message that the schema of PS3.15 A.5.1 accepts, whatever texts are in it."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.access.principal import Kind as PrincipalKind
from engine.access.principal import Principal
from engine.audit.event import Alert, Event, Kind, Outcome, Patient, encoded, fields_of
from engine.audit.message import _EVENTS, _TYPES, MESSAGE_BYTES_MAX, Source, message
from engine.audit.search import Condition

etree = pytest.importorskip("lxml.etree", reason="lxml validates the messages")

SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).with_name("audit_message.rng")))
SOURCE = Source("pacs", "Saint Ann", "FILMROOM", "pacs.hosp")
CT1 = Principal(PrincipalKind.PEER, "CT1", "10.0.0.7")
ANN = Principal(PrincipalKind.HTTP, "ann", "10.0.0.8", session="s1")


def document(event: Event) -> Any:
    """The message as XML, validated."""
    text = message(orjson.loads(encoded({"n": 1, **fields_of(event)})), SOURCE)
    assert text.isascii() and b"\n" not in text and b"\r" not in text and len(text) <= MESSAGE_BYTES_MAX
    tree = etree.fromstring(text)
    assert SCHEMA.validate(tree), (SCHEMA.error_log, text.decode())
    return tree


def full(kind: Kind, **fields: Any) -> Event:
    known: dict[str, Any] = {
        "principal": CT1,
        "action": "C-MOVE",
        "patient": Patient("P1", "HOSP", "DOE^JANE"),
        "study": "1.2.3",
        "accession": "A1",
        "classes": {"1.2.840.10008.5.1.4.1.1.2": 7},
        "count": 7,
        "peer": "VIEWER",
        "peer_address": "viewer.hosp",
    }
    return Event(kind=kind, **{**known, **fields})


@pytest.mark.parametrize("kind", list(Kind))
def test_every_event_is_valid_with_all_fields_and_with_none(kind: Kind) -> None:
    assert kind.value in _EVENTS
    document(Event(kind=kind))
    tree = document(full(kind, series=("1.2.3.4",), reason="because", detail="more", outcome=Outcome.MINOR))
    assert tree.find("EventIdentification").get("EventOutcomeIndicator") == "4"
    assert tree.find("AuditSourceIdentification").get("AuditSourceID") == "pacs"
    requestors = [
        each.get("UserID") for each in tree.iter("ActiveParticipant") if each.get("UserIsRequestor") == "true"
    ]
    assert requestors == ["CT1"]


@pytest.mark.parametrize("alert", list(Alert))
def test_every_alert_has_its_code(alert: Alert) -> None:
    tree = document(Event(kind=Kind.ALERT, alert=alert, principal=CT1, detail="why", outcome=Outcome.MINOR))
    code = tree.find("EventIdentification/EventTypeCode")
    assert (code.get("csd-code"), code.get("originalText")) == _TYPES[alert.value]
    assert tree.findtext("EventIdentification/EventOutcomeDescription") == "why"


def roles(tree: Any) -> dict[str, str]:
    return {each.get("UserID"): role.get("csd-code") for each in tree.iter("ActiveParticipant") for role in each[:1]}


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"user": "anna"}, "anna"), ({"claimed_user": "anna"}, "anna (not proven)"), ({}, None)],
)
def test_the_user_of_an_association_is_named_beside_its_title(fields: dict[str, str], name: str | None) -> None:
    event = full(Kind.RECEIVED, principal=replace(CT1, **fields), peer="")
    participant = next(document(event).iter("ActiveParticipant"))
    assert (participant.get("UserID"), participant.get("UserName")) == ("CT1", name)
    record = encoded({"n": 1, **fields_of(event)})
    assert (Condition(user="anna").parse(record) is not None) == bool(fields)


def test_instances_go_from_a_source_to_a_destination() -> None:
    assert roles(document(full(Kind.RECEIVED, peer=""))) == {"CT1": "110153", "FILMROOM": "110152"}
    assert roles(document(full(Kind.SENT, peer=""))) == {"FILMROOM": "110153", "CT1": "110152"}
    move = document(full(Kind.SENDING))
    assert roles(move) == {"FILMROOM": "110153", "VIEWER": "110152"}, "who asks for a C-MOVE is the third"
    study = move.find("ParticipantObjectIdentification")
    assert (study.get("ParticipantObjectID"), study.get("ParticipantObjectTypeCodeRole")) == ("1.2.3", "3")
    sop_class = study.find("ParticipantObjectDescription/SOPClass")
    assert (sop_class.get("UID"), sop_class.get("NumberOfInstances")) == ("1.2.840.10008.5.1.4.1.1.2", "7")


def test_codes_follow_what_happened() -> None:
    def code(event: Event) -> tuple[str, str]:
        identification = document(event).find("EventIdentification")
        return identification.find("EventID").get("csd-code"), identification.get("EventActionCode")

    assert code(full(Kind.RECEIVED)) == ("110104", "C")
    assert code(full(Kind.RECEIVED, detail="7 were stored before")) == ("110104", "R")
    assert code(full(Kind.DELETED)) == ("110105", "D")
    assert code(full(Kind.DELETED, series=("1.2.3.4",))) == ("110103", "D")
    assert code(full(Kind.MERGED)) == ("110103", "U")
    assert code(full(Kind.MERGED, study="")) == ("110110", "U")


def test_a_query_carries_its_identifier() -> None:
    tree = document(
        Event(kind=Kind.QUERY, principal=CT1, identifier=b"\x08\0\x52\0", sop_class="1.2", transfer_syntax="1.3")
    )
    query = tree.find("ParticipantObjectIdentification")
    assert base64.b64decode(query.findtext("ParticipantObjectQuery")) == b"\x08\0\x52\0"
    assert query.get("ParticipantObjectID") == "1.2"
    tree = document(Event(kind=Kind.QUERY, principal=ANN, action="QIDO-RS", query="/studies PatientName=Ä*"))
    assert base64.b64decode(tree.findtext("*/ParticipantObjectQuery")).decode() == "/studies PatientName=Ä*"


HOSTILE = "A\"\n<script>&]]>\r\x00\x1b[31m\u202eEVE\ufffe\U0001f600\ud800'"


@pytest.mark.parametrize("kind", list(Kind))
def test_hostile_texts_forge_nothing(kind: Kind) -> None:
    evil = Principal(PrincipalKind.PEER, HOSTILE, HOSTILE, session=HOSTILE)
    event = full(
        kind,
        principal=evil,
        patient=Patient(HOSTILE, HOSTILE, HOSTILE),
        study=HOSTILE,
        accession=HOSTILE,
        classes={HOSTILE: 1},
        peer=HOSTILE,
        peer_address=HOSTILE,
        query=HOSTILE,
        detail=HOSTILE,
        reason=HOSTILE,
        series=(HOSTILE,),
        outcome=Outcome.SERIOUS,
    )
    tree = document(event)
    assert not list(tree.iter("script"))
    user = next(each for each in tree.iter("ActiveParticipant") if each.get("UserIsRequestor") == "true")
    assert user.get("UserID").startswith('A"\n<script>') and "\u202e" in user.get("UserID")


def test_a_long_message_is_shortened_to_what_every_collector_takes() -> None:
    long = "ä" * 4000
    classes = {f"1.2.{number}.{long}"[:64]: 1 for number in range(400)}
    document(full(Kind.SENT, detail=long, reason=long, peer=long, classes=classes, series=(long,) * 400))

"""HL7 messages about studies, by the rules: that an order is done, or that there are images as its result.

    ORM^O01    MSH PID ORC(SC, CM) OBR ZDS
    ORU^R01    MSH PID ORC(SC, CM) OBR(25: R) OBX(Study Instance UID) ZDS

Accession number in OBR-18 and, where the order is unknown, as filler order number; Study Instance UID in ZDS-1. Where a
study is linked to orders, one message for each, with its own numbers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from engine import tls
from engine.archive.feed.event import decode
from engine.archive.hospital import has_orders
from engine.dicom import tags
from engine.errors import DeliveryFailed, HL7SendFailed
from engine.exchange.identity import control_id_of
from engine.exchange.matching import matching
from engine.hl7 import moment
from engine.hl7.writer import Field, header, message, segment
from engine.index.format.types import Level
from engine.index.query.keywords import query_of
from engine.messaging.client import Acknowledgement, Client
from engine.orders import linking
from engine.orders.names import id_key

if TYPE_CHECKING:
    from engine.exchange.settings import Rule
    from engine.hl7.settings import Hl7Destination
    from engine.orders.rows import OrderRow
    from engine.outbox.source import Unit
    from engine.runtime.engine import Engine

_CODECS: Final = {"utf-8": "utf_8", "iso8859-1": "iso8859_1", "ascii": "ascii"}
_ASKED: Final = (
    tags.PatientID, tags.IssuerOfPatientID, tags.PatientName, tags.PatientBirthDate, tags.PatientSex,
    tags.AccessionNumber, tags.StudyDescription, tags.StudyDate, tags.StudyTime, tags.ModalitiesInStudy,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of an order."""

    placer: str = ""
    filler: str = ""
    accession: str = ""


class Receiver:
    """One [[hl7_destination]], with a connection that stays open."""

    def __init__(self, engine: Engine, destination: Hl7Destination) -> None:
        self._engine = engine
        self._destination = destination
        self._client: Client | None = None

    async def send(self, data: bytes) -> None:
        """Sends a message; returns when the receiver has accepted it. Raises DeliveryFailed, HL7SendFailed."""
        was_open = self._client is not None
        try:
            answer = await self._send(data)
        except HL7SendFailed:
            if not was_open:
                raise
            answer = await self._send(data)  # the receiver had closed it: it may have been idle
        if not answer.is_success:
            raise DeliveryFailed(f"{self._destination.name} answered {_reason(answer)}")

    async def _send(self, data: bytes) -> Acknowledgement:
        try:
            return await (await self._open()).send(data)
        except HL7SendFailed:
            await self.close()
            raise

    async def _open(self) -> Client:
        if self._client is None:
            to = self._destination
            context = tls.client_context(self._engine.config.tls, checks_name=True) if to.tls else None
            client = Client(to.host, to.port, timeout_s=to.timeout_s, context=context)
            await client.connect()
            self._client = client
        return self._client

    async def close(self) -> None:
        """Closes the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class Notices:
    """The messages of one rule to one destination (`outbox.follower.Sink`)."""

    def __init__(self, engine: Engine, rule: Rule, destination: Hl7Destination) -> None:
        self._engine = engine
        self._rule = rule
        self._destination = destination
        self._receiver = Receiver(engine, destination)

    def nothing(self, cursor: str) -> None:
        """No message says that others were left out."""

    async def close(self) -> None:
        """Closes the connection."""
        await self._receiver.close()

    async def deliver(self, unit: Unit[list[bytes]], reset: str) -> None:
        """Sends the messages of an event. Raises DeliveryFailed, HL7SendFailed, QueryError."""
        study = decode(unit.content[0]).study_instance_uid
        facts, orders = await self._engine.pools.slow.run(partial(self._study, study))
        if facts is None:
            return
        for number, order in enumerate(orders):
            place = f"{unit.before}.{number}" if number else unit.before
            control_id = control_id_of(self._engine, f"{self._rule.name}:{self._destination.name}", place)
            data = notice(
                self._rule.message, study, facts, order,
                control_id=control_id, destination=self._destination, sender=self._engine.config.aet, now=time.time(),
            )  # fmt: skip
            await self._receiver.send(data)
            self._engine.metrics.counters["hl7_messages_sent"] += 1

    def _study(self, study: str) -> tuple[Mapping[int, str] | None, Sequence[Numbers]]:
        """What the archive shows of a study, and its orders; None if the rule is not about it."""
        engine = self._engine
        if not matching(engine, self._rule, [study], "", also_own=True):
            return None, ()
        # The UID as it is: archives have invalid ones of some writers, and their studies have orders too.
        keys = {**dict.fromkeys(_ASKED, ""), tags.StudyInstanceUID: study}
        match = next(engine.archive.find(query_of(Level.STUDY, keys, engine.archive.schema)), None)
        if match is None:
            return None, ()
        facts = {tag: match.attributes.get(tag, b"").decode("utf-8", "replace").strip(" \0") for tag in _ASKED}
        return facts, self._orders(study) or (Numbers("", facts[tags.AccessionNumber], facts[tags.AccessionNumber]),)

    def _orders(self, study: str) -> list[Numbers]:
        if not has_orders(self._engine.archive):
            return []
        orders = self._engine.orders()
        with orders.read() as reading:
            links = linking.orders_of(reading, study)
            rows = [reading.get(reading.database.orders, id_key(link.order)) for link in links if not link.is_undone]
            return [_numbers(row) for row in rows if row is not None]


def _reason(answer: Acknowledgement) -> str:
    """Why a receiver refused, by codes alone: its words may name the patient, and this goes into the log."""
    code = answer.code if answer.code in ("AE", "AR", "CE", "CR") else "with an unknown code"
    number = answer.message.text("ERR", 3)
    return f"{code} (error {number})" if re.fullmatch(r"[0-9]{1,4}", number, re.ASCII) else code


def _numbers(row: OrderRow) -> Numbers:
    texts = [
        identifier.value if identifier is not None else "" for identifier in (row.placer, row.filler, row.accession)
    ]
    return Numbers(*texts)


def notice(
    kind: str,
    study: str,
    facts: Mapping[int, str],
    order: Numbers,
    *,
    control_id: str,
    destination: Hl7Destination,
    sender: str,
    now: float,
) -> bytes:
    """The message about one order of a study."""
    codec = _CODECS[destination.charset]
    accession = order.accession or facts[tags.AccessionNumber]
    is_result = kind == "ORU^R01"
    modality = facts[tags.ModalitiesInStudy].partition("\\")[0]
    service: Field = ("", facts[tags.StudyDescription] or modality or "Imaging")
    observed = facts[tags.StudyDate] + facts[tags.StudyTime].partition(".")[0] if facts[tags.StudyDate] else ""
    request: list[Field] = ["1", order.placer, order.filler, service, "", "", observed, *[""] * 10, accession]
    request += [*[""] * 5, modality, "R" if is_result else ""]
    segments = [
        header(
            kind=(*kind.split("^"), kind.replace("^", "_")),
            control_id=control_id,
            sender=(sender, destination.sending_facility),
            receiver=(destination.application, destination.facility),
            time=now,
            codec=codec,
        ),
        _patient(facts),
        segment("ORC", "SC", order.placer, order.filler, "", "CM", "", "", "", moment.write(now, None)),
        segment("OBR", *request),
    ]
    if is_result:
        segments.append(segment("OBX", "1", "ST", ("110180", "Study Instance UID", "DCM"), "1", study, *[""] * 5, "R"))
    segments.append(segment("ZDS", (study, "100", "Application", "DICOM")))
    return message(segments, codec)


def _patient(facts: Mapping[int, str]) -> str:
    name = facts[tags.PatientName].partition("=")[0].split("^")
    family, given, middle, prefix, suffix = (*name, *[""] * 5)[:5]
    identifier: Field = (facts[tags.PatientID], "", "", facts[tags.IssuerOfPatientID])
    sex = facts[tags.PatientSex]
    return segment(
        "PID", "1", "", identifier, "", (family, given, middle, suffix, prefix), "", facts[tags.PatientBirthDate],
        sex if sex in ("M", "F", "O") else "",
    )  # fmt: skip

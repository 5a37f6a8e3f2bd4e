"""The hospital's information system: registers patients, orders, cancels, merges and reports, by HL7 over MLLP.

One connection, one message at a time. A message without an acknowledgement is sent again, unchanged.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Final

from engine.errors import HL7SendFailed
from engine.hl7.writer import Field, header, message, segment
from engine.messaging.client import Client
from perf.hospital import invented, network
from perf.hospital.day import Examination
from perf.hospital.invented import Person
from perf.hospital.network import Refused, Server

TEXT: Final = "Invented report.\nThe patient, the images and this text do not exist outside of a simulation."


class Information:
    """Sends, and remembers what was acknowledged."""

    def __init__(self, server: Server, run: int) -> None:
        self._server = server
        self._prefix = f"{invented.PATIENT_ID_PREFIX}{invented.letters(run)}-"
        self._client: Client | None = None
        self._turn = asyncio.Lock()
        self._count = 0
        self.sent: list[str] = []
        """The control ids (MSH-10) of all messages that were acknowledged."""

    async def close(self) -> None:
        """Closes the connection."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def register(self, person: Person, patience_s: float | None = None) -> None:
        """ADT^A04: a patient comes."""
        await self._send("ADT", "A04", _pid(person), segment("PV1", "1", "O"), patience_s=patience_s)

    async def order(self, one: Examination) -> None:
        """OMI^O23; ORM^O01 for one step, in turn. IPC has the station, which OBR has no field for."""
        steps = [
            segment("IPC", _accession(one), _procedure(one), one.uid, step, one.modality, "", "", "", one.station)
            for step in one.step_ids
        ]
        kind = ("ORM", "O01") if one.step_count == 1 and one.number % 2 else ("OMI", "O23")
        await self._send(*kind, _pid(one.person), _orc(one, "NW"), _tq1(), _obr(one), *steps)

    async def reschedule(self, one: Examination) -> None:
        """SIU^S13: another time, today."""
        orders = _orc_numbers(one)
        fields: list[Field] = [f"A{one.accession}", *[""] * 9, ("", "", "", _time_of_day("0930")), *[""] * 14, *orders]
        await self._send("SIU", "S13", segment("SCH", *fields), _pid(one.person))

    async def cancel(self, one: Examination) -> None:
        """The order is canceled."""
        await self._send("ORM", "O01", _pid(one.person), _orc(one, "CA"), _obr(one))

    async def merge(self, prior: Person, survivor: Person) -> None:
        """ADT^A40: both are one person."""
        prior_id = segment("MRG", (prior.patient_id, "", "", invented.AUTHORITY))
        await self._send("ADT", "A40", _pid(survivor), prior_id)

    async def report(self, one: Examination) -> None:
        """ORU^R01: a text, or the same as PDF."""
        is_pdf = one.number % 4 == 0
        value: Field = TEXT
        if is_pdf:
            value = ("", "application", "pdf", "Base64", base64.b64encode(_pdf()).decode())
        text = segment("OBX", "1", "ED" if is_pdf else "TX", ("18748-4", "Diagnostic imaging report", "LN"), "", value)
        await self._send("ORU", "R01", _pid(one.shown_person), _orc(one, "SC"), _obr(one, result="F"), text, _zds(one))
        one.document_count += 1

    async def cancel_remaining(self, patient_id: str, patient_name: str, accession: str) -> None:
        """Cancels an order of another run."""
        number = accession.removeprefix(invented.ACCESSION_PREFIX)
        numbers = (f"P{number}", invented.AUTHORITY), (f"F{number}", invented.AUTHORITY)
        pid = segment("PID", "1", "", (patient_id, "", "", invented.AUTHORITY), "", tuple(patient_name.split("^")))
        obr = segment("OBR", "1", *numbers, ("SIM", "Invented", "L"))
        await self._send("ORM", "O01", pid, segment("ORC", "CA", *numbers), obr)

    async def _send(self, kind: str, event: str, *segments: str, patience_s: float | None = None) -> None:
        """Sends until it is acknowledged. Raises Refused, HL7SendFailed."""
        async with self._turn:
            self._count += 1
            control_id = f"{self._prefix}{self._count}"
            head = header(
                kind=(kind, event),
                control_id=control_id,
                sender=(invented.APPLICATION, invented.FACILITY),
                receiver=("FILMROOM", "SIMULATION"),
                time=time.time(),
            )
            data = message([head, *segments])
            answer = await network.insisting(self._server, lambda: self._attempt(data), patience_s)
            if answer:
                raise Refused(f"message {control_id} ({kind}^{event}) was answered with {answer}")
            self.sent.append(control_id)

    async def _attempt(self, data: bytes) -> str:
        """What is wrong with the message; empty: nothing."""
        if self._client is None:
            client = Client(self._server.host, self._server.hl7_port)
            await client.connect()
            self._client = client
        try:
            answer = await self._client.send(data)
        except HL7SendFailed:
            await self.close()
            raise
        return "" if answer.is_success else f"{answer.code} {answer.text}".strip()


def _pid(person: Person) -> str:
    identifier = (person.patient_id, "", "", invented.AUTHORITY)
    name = tuple(person.name.split("^"))
    return segment("PID", "1", "", identifier, "", name, "", person.birth_date, person.sex)


def _orc_numbers(one: Examination) -> tuple[tuple[str, str], tuple[str, str]]:
    number = one.accession.removeprefix(invented.ACCESSION_PREFIX)
    return (f"P{number}", invented.AUTHORITY), (f"F{number}", invented.AUTHORITY)


def _orc(one: Examination, control: str) -> str:
    status = {"NW": "SC", "SC": "CM"}.get(control, "")
    return segment("ORC", control, *_orc_numbers(one), "", status)


def _time_of_day(time_of_day: str) -> str:
    return f"{time.strftime('%Y%m%d')}{time_of_day}"


def _tq1() -> str:
    return segment("TQ1", "1", *[""] * 5, _time_of_day("0900"))


def _obr(one: Examination, *, result: str = "") -> str:
    fields: list[Field] = ["1", *_orc_numbers(one), ("SIM", f"{one.modality} Invented", "L"), *[""] * 13]
    fields += [_accession(one)[0], _procedure(one), "", "", "", "", one.modality, result]
    return segment("OBR", *fields)


def _accession(one: Examination) -> tuple[str, str]:
    return one.accession, invented.AUTHORITY


def _procedure(one: Examination) -> str:
    return f"R{one.accession[3:]}"


def _zds(one: Examination) -> str:
    return segment("ZDS", (one.uid, "100", "Application", "DICOM"))


def _pdf() -> bytes:
    """The smallest document that readers of PDF take for one."""
    text = b"BT /F1 12 Tf 40 700 Td (Invented report of a simulation) Tj ET"
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(text), text),
    ]
    out, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(parts) + 1, table) + b"trailer\n"
    return out + b"<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(parts) + 1, out.index(b"xref\n"))

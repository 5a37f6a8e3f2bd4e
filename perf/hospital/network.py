"""The simulation's side of DICOM: associations of the actors, and data sets of pydicom on them.

Each operation is tried again, on a new association, while the server cannot be reached (`insisting`): modalities and
information systems do, and a server that is restarted meanwhile must lose and double nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from engine.dimse import messages
from engine.errors import AssociationFailed, HL7SendFailed
from engine.net.client import Address, Requestor, open_association
from engine.ul.pdu import PresentationContextRQ, RoleSelection

if TYPE_CHECKING:
    from engine.dimse.assembly import DataSet
    from engine.dimse.messages import Request

Result = TypeVar("Result")

EXPLICIT: Final = "1.2.840.10008.1.2.1"
PENDING: Final = (0xFF00, 0xFF01)
TRY_AGAIN_S: Final = 0.2
ENDED: Final = -1


class Refused(Exception):
    """The server has answered, and not with success."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the archive is, and how long to insist when it does not answer."""

    host: str
    port: int
    ae_title: str
    hl7_port: int
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    patience_s: float = 120.0


async def insisting(
    server: Server, attempt: Callable[[], Awaitable[Result]], patience_s: float | None = None
) -> Result:
    """The result of an attempt at which the server was reached. Raises what the last one raised.

    `patience_s`: of this attempt, instead of the server's.
    """
    patience_s = server.patience_s if patience_s is None else patience_s
    deadline = asyncio.get_running_loop().time() + patience_s
    while True:
        try:
            return await attempt()
        except (AssociationFailed, HL7SendFailed, OSError):
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(TRY_AGAIN_S)


def encoded(data_set: Dataset) -> bytes:
    """In Explicit VR Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def decoded(data: bytes) -> Dataset:
    """A data set of Explicit VR Little Endian."""
    head = b"\0" * 128 + b"DICM"
    syntax = EXPLICIT.encode() + b"\0"
    meta = b"\x02\x00\x10\x00UI" + len(syntax).to_bytes(2, "little") + syntax
    return dcmread(BytesIO(head + meta + data), force=True)


class _Caller(Requestor):
    """Also takes what the server sends on our association: instances of a C-GET, commitment reports."""

    def __init__(self, connection: Any, rq: Any, address: Address) -> None:
        super().__init__(connection, rq, address)
        self.received: list[str] = []
        """SOP Instance UIDs."""
        self.reports: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        """Event type and information of each N-EVENT-REPORT; (ENDED, b"") when the association has ended."""
        self._requests: dict[int, messages.CStoreRQ | messages.NEventReportRQ] = {}
        self._pieces: dict[int, bytes] = {}

    def request_received(
        self, presentation_context_id: int, command: bytes, message: Request, has_data_set: bool
    ) -> None:
        """Remembers a request until its data set has come."""
        if isinstance(message, messages.CStoreRQ | messages.NEventReportRQ) and has_data_set:
            self._requests[presentation_context_id] = message
        else:
            super().request_received(presentation_context_id, command, message, has_data_set)

    def data_set_received(self, presentation_context_id: int, data_set: DataSet, is_last: bool) -> None:
        """Answers a request with its data set."""
        message = self._requests.get(presentation_context_id)
        if message is None:
            super().data_set_received(presentation_context_id, data_set, is_last)
            return
        if isinstance(message, messages.NEventReportRQ):
            self._pieces[presentation_context_id] = self._pieces.get(presentation_context_id, b"") + data_set.to_bytes()
        data_set.release()
        if not is_last:
            return
        del self._requests[presentation_context_id]
        answer: messages.CStoreRSP | messages.NEventReportRSP
        uids = message.affected_sop_class_uid, message.affected_sop_instance_uid
        if isinstance(message, messages.CStoreRQ):
            self.received.append(message.affected_sop_instance_uid)
            answer = messages.CStoreRSP(message.message_id, *uids)
        else:
            self.reports.put_nowait((message.event_type_id, self._pieces.pop(presentation_context_id)))
            answer = messages.NEventReportRSP(message.message_id, *uids, event_type_id=message.event_type_id)
        self.connection.send_message(presentation_context_id, answer.encode(), None, self.fragment)

    def association_ended(self, reason: str) -> None:
        """Wakes up who waits for a report."""
        super().association_ended(reason)
        self.reports.put_nowait((ENDED, b""))


class Association:
    """One association of an actor."""

    def __init__(self, requestor: _Caller, classes: Sequence[str]) -> None:
        self._requestor = requestor
        self._ids = {uid: 2 * number + 1 for number, uid in enumerate(classes)}

    async def __aenter__(self) -> Association:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._requestor.connection.is_open:
            await self._requestor.release()

    @property
    def received(self) -> list[str]:
        """The SOP Instance UIDs that came by C-GET."""
        return self._requestor.received

    def accepts(self, sop_class: str) -> bool:
        """Whether the server takes this SOP class on the association."""
        accepted = self._requestor.accepted
        return accepted is not None and self._ids[sop_class] in accepted.contexts

    async def request(
        self, sop_class: str, make: Callable[[int], Any], data_set: Dataset | None = None
    ) -> tuple[Any, list[Dataset]]:
        """The final response, and the data sets that came with it and before it. Raises AssociationFailed, Refused."""
        requestor, context_id = self._requestor, self._ids[sop_class]
        if not self.accepts(sop_class):
            raise Refused(f"the server does not accept {sop_class}")
        message_id, stream = requestor.responses.expect_several(
            requestor.connection.pause_reading, requestor.connection.resume_reading
        )
        data = None if data_set is None else encoded(data_set)
        found: list[Dataset] = []
        try:
            requestor.connection.send_message(context_id, make(message_id).encode(), data, requestor.fragment)
            while True:
                try:
                    response, identifier = await stream.next(requestor.address.message_timeout_s)
                except TimeoutError:
                    requestor.connection.abort("no answer in time")
                    raise AssociationFailed("no answer in time") from None
                if identifier:
                    found.append(decoded(identifier))
                if response.status not in PENDING:
                    return response, found
        finally:
            requestor.responses.forget(message_id)

    async def report(self, limit_s: float) -> tuple[int, Dataset]:
        """The next N-EVENT-REPORT: its event type and information. Raises TimeoutError, AssociationFailed."""
        async with asyncio.timeout(limit_s):
            kind, data = await self._requestor.reports.get()
        if kind == ENDED:
            raise AssociationFailed("the association has ended before a report came")
        return kind, decoded(data)


async def associate(server: Server, ae_title: str, classes: Sequence[str], received: Sequence[str] = ()) -> Association:
    """An association with these SOP classes. Raises AssociationFailed.

    `received`: storage classes among them that we take by C-GET.
    """
    contexts = [PresentationContextRQ(2 * number + 1, uid, (EXPLICIT,)) for number, uid in enumerate(classes)]
    address = Address(server.host, server.port, server.ae_title, ae_title, message_timeout_s=60.0)
    roles = [RoleSelection(uid, False, True) for uid in received]
    requestor = await open_association(address, contexts, roles=roles, user=_Caller)
    assert isinstance(requestor, _Caller)
    return Association(requestor, classes)


def check(response: Any, what: str, *also: int) -> None:
    """Raises Refused unless the status is success or one of `also`."""
    if response.status and response.status not in also:
        comment = f": {response.error_comment}" if response.error_comment else ""
        raise Refused(f"{what} was answered with {response.status:04X}{comment}")

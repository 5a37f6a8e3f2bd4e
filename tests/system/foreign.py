"""pynetdicom as foreign SCU and SCP, and DICOM files read without any library, for the system tests.

Data sets are sent and received as bytes: no code here decodes or encodes them.
"""

from __future__ import annotations

import io
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class

from tests import samples

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"
MODELS = {"patient": 1, "study": 2, "patient-study-only": 3}


def model(root: str, operation: str) -> str:
    """The SOP class of a Query/Retrieve information model: root "patient" or "study", operation "find" …"""
    return f"1.2.840.10008.5.1.4.1.2.{MODELS[root]}.{('find', 'move', 'get').index(operation) + 1}"


FIND_CLASSES = frozenset(model(root, "find") for root in MODELS)


@dataclass(frozen=True)
class Stored:
    """An instance as bytes, which are sent and must come back."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes

    @classmethod
    def of(cls, ds: Dataset) -> Stored:
        """A synthetic instance."""
        return cls(
            str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID), samples.encoded(ds)
        )


def read_file(path: Path) -> tuple[dict[int, bytes], bytes]:
    """Element number → value of the file meta group, and the data set, of a Part 10 file with a preamble."""
    data = path.read_bytes()
    assert data[128:132] == b"DICM", f"{path} has no preamble"
    return split_file(data)


def split_file(data: bytes) -> tuple[dict[int, bytes], bytes]:
    """The same from the bytes of such a file."""
    at, meta = 132, {}
    while data[at : at + 2] == b"\2\0":
        element, vr, length = struct.unpack_from("<H2sH", data, at + 2)
        at += 8
        if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
        meta[element] = data[at : at + length]
        at += length
    return meta, data[at:]


def uid_of(meta: Mapping[int, bytes], element: int) -> str:
    """A UID of the file meta group."""
    return meta.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


# SCU ---------------------------------------------------------------------------------------------


@contextmanager
def association(
    port: int,
    contexts: Iterable[tuple[str, str | list[str]]],
    *,
    calling: str = "FOREIGN",
    called: str = "FILMROOM",
    handlers: Iterable[Any] = (),
    roles: Iterable[str] = (),
    maximum_length: int = 16382,
    options: bytes = b"\1",
    tls: ssl.SSLContext | None = None,
) -> Iterator[Association]:
    """An association of pynetdicom with (abstract syntax, transfer syntax or syntaxes) contexts; must be accepted."""
    assoc = request(
        port,
        contexts,
        calling=calling,
        called=called,
        handlers=handlers,
        roles=roles,
        maximum_length=maximum_length,
        options=options,
        tls=tls,
    )
    assert assoc.is_established, "the association was not accepted"
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def request(
    port: int,
    contexts: Iterable[tuple[str, str | list[str]]],
    *,
    calling: str = "FOREIGN",
    called: str = "FILMROOM",
    handlers: Iterable[Any] = (),
    roles: Iterable[str] = (),
    maximum_length: int = 16382,
    options: bytes = b"\1",
    tls: ssl.SSLContext | None = None,
) -> Association:
    """Requests an association; the answer may be any.

    `options`: extended negotiation of every C-FIND class that is proposed, relational queries by default; empty: none.
    """
    contexts = list(contexts)
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    proposed = []
    for abstract_syntax, syntaxes in contexts:
        context = PresentationContext()
        context.abstract_syntax = UID(abstract_syntax)
        context.transfer_syntax = [UID(uid) for uid in ([syntaxes] if isinstance(syntaxes, str) else syntaxes)]
        proposed.append(context)
    return ae.associate(
        "127.0.0.1",
        port,
        contexts=proposed,
        ae_title=called,
        ext_neg=[build_role(uid, scp_role=True) for uid in dict.fromkeys(roles)]
        + [extended_negotiation(uid, options) for uid, _ in contexts if options and uid in FIND_CLASSES],
        evt_handlers=list(handlers),
        max_pdu=maximum_length,
        tls_args=None if tls is None else (tls, "127.0.0.1"),
    )


def context_id(assoc: Association, sop_class_uid: str, transfer_syntax_uid: str) -> int:
    """The id of the accepted presentation context of that class and syntax."""
    for context in assoc.accepted_contexts:
        if context.abstract_syntax == sop_class_uid and context.transfer_syntax[0] == transfer_syntax_uid:
            return int(context.context_id)
    raise AssertionError(f"no context for {sop_class_uid} in {transfer_syntax_uid}")


def send(assoc: Association, stored: Stored, message_id: int = 1) -> C_STORE:
    """Sends exactly these bytes by C-STORE; returns the response."""
    rq = C_STORE()
    rq.MessageID = message_id
    rq.AffectedSOPClassUID = stored.sop_class_uid
    rq.AffectedSOPInstanceUID = stored.sop_instance_uid
    rq.Priority = 0
    rq.DataSet = io.BytesIO(stored.data_set)
    # Like pynetdicom's send_c_store: its own thread must not take the answer.
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        threading.Event().wait(0.0002)
    try:
        assoc.dimse.send_msg(rq, context_id(assoc, stored.sop_class_uid, stored.transfer_syntax_uid))
        _, rsp = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    assert rsp is not None, f"no answer to C-STORE of {stored.sop_instance_uid}"
    return rsp


def store(port: int, instances: Iterable[Stored], *, calling: str = "FOREIGN") -> list[int]:
    """Stores instances on one association; returns the statuses."""
    instances = list(instances)
    contexts = dict.fromkeys((stored.sop_class_uid, stored.transfer_syntax_uid) for stored in instances)
    with association(port, contexts, calling=calling) as assoc:
        return [int(send(assoc, stored, number % 65535 + 1).Status) for number, stored in enumerate(instances)]


def find(
    port: int,
    keys: Mapping[str, object],
    *,
    root: str = "study",
    calling: str = "FOREIGN",
    syntax: str = EXPLICIT,
    options: bytes = b"\1",
) -> tuple[int, list[Dataset]]:
    """C-FIND with keyword keys; the final status and the matches."""
    responses, matches = find_responses(port, keys, root=root, calling=calling, syntax=syntax, options=options)
    return int(responses[-1].Status), matches


def find_responses(
    port: int,
    keys: Mapping[str, object],
    *,
    root: str = "study",
    calling: str = "FOREIGN",
    syntax: str = EXPLICIT,
    options: bytes = b"\1",
) -> tuple[list[Dataset], list[Dataset]]:
    """As `find`, with the status elements of every response."""
    uid = model(root, "find")
    responses, matches = [], []
    with association(port, [(uid, syntax)], calling=calling, options=options) as assoc:
        for status, match in assoc.send_c_find(identifier(keys), uid):
            responses.append(status)
            if match is not None:
                matches.append(match)
    return responses, matches


def find_statuses(port: int, keys: Mapping[str, object], **options: Any) -> tuple[list[int], list[Dataset]]:
    """As `find`, with the status of every response."""
    responses, matches = find_responses(port, keys, **options)
    return [int(response.Status) for response in responses], matches


def extended_negotiation(sop_class_uid: str, application_information: bytes) -> SOPClassExtendedNegotiation:
    """The item of PS3.7 D.3.3.5."""
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = UID(sop_class_uid)
    item.service_class_application_information = application_information
    return item


def identifier(keys: Mapping[str, object]) -> Dataset:
    """An identifier of keyword keys; `level` is the Query/Retrieve Level."""
    ds = Dataset()
    for keyword, value in keys.items():
        if keyword == "level":
            ds.QueryRetrieveLevel = value
        else:
            setattr(ds, keyword, value)
    return ds


@dataclass
class Retrieved:
    """The instances and responses of a C-GET or C-MOVE."""

    statuses: list[int] = field(default_factory=list)
    counts: list[tuple[int | None, int, int, int]] = field(default_factory=list)
    """Remaining, completed, failed and warning of each response."""
    failed_uids: list[str] = field(default_factory=list)
    data_sets: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """SOP Instance UID → transfer syntax and data set, for C-GET."""

    def note(self, status: Dataset, found: Dataset | None) -> None:
        """Adds one response."""
        self.statuses.append(int(status.Status))
        self.counts.append(
            (
                status.get("NumberOfRemainingSuboperations"),
                int(status.get("NumberOfCompletedSuboperations") or 0),
                int(status.get("NumberOfFailedSuboperations") or 0),
                int(status.get("NumberOfWarningSuboperations") or 0),
            )
        )
        if found is not None and "FailedSOPInstanceUIDList" in found:
            value = found.FailedSOPInstanceUIDList
            self.failed_uids = [str(value)] if isinstance(value, str) else [str(uid) for uid in value]


def get(
    port: int,
    keys: Mapping[str, object],
    kinds: Iterable[tuple[str, str]],
    *,
    root: str = "study",
    calling: str = "FOREIGN",
    answer: Callable[[str], int] = lambda uid: 0,
    maximum_length: int = 16382,
    tls: ssl.SSLContext | None = None,
) -> Retrieved:
    """C-GET; `kinds` are the (SOP class, transfer syntax) pairs to accept, `answer` gives our status for a UID."""
    result = Retrieved()

    def received(event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        result.data_sets[uid] = (str(event.context.transfer_syntax), event.request.DataSet.getvalue())
        return answer(uid)

    uid = model(root, "get")
    kinds = list(kinds)
    with association(
        port,
        [(uid, EXPLICIT), *kinds],
        calling=calling,
        handlers=[(evt.EVT_C_STORE, received)],
        roles=[sop_class_uid for sop_class_uid, _ in kinds],
        maximum_length=maximum_length,
        tls=tls,
    ) as assoc:
        for status, found in assoc.send_c_get(identifier(keys), uid):
            result.note(status, found)
    return result


def move(
    port: int, keys: Mapping[str, object], destination: str, *, root: str = "study", calling: str = "FOREIGN"
) -> Retrieved:
    """C-MOVE to `destination`."""
    result = Retrieved()
    uid = model(root, "move")
    with association(port, [(uid, EXPLICIT)], calling=calling) as assoc:
        for status, found in assoc.send_c_move(identifier(keys), destination, uid):
            result.note(status, found)
    return result


# SCP ---------------------------------------------------------------------------------------------


@dataclass
class Receipt:
    """One received C-STORE."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes
    originator: tuple[str | None, int | None]
    priority: int
    association: int
    """An arbitrary number that identifies its association."""


class Receiver:
    """A Storage SCP of pynetdicom."""

    def __init__(
        self,
        kinds: Iterable[tuple[str, str]],
        *,
        answer: Callable[[str], int] = lambda uid: 0,
        maximum_length: int = 16382,
        aet: str = "SINK",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`kinds`: the (SOP class, transfer syntax) pairs that it accepts; `answer`: its status for a UID."""
        self.receipts: list[Receipt] = []
        self._lock = threading.Lock()
        self._answer = answer
        ae = AE(ae_title=aet)
        ae.maximum_pdu_size = maximum_length
        ae.maximum_associations = 100
        for sop_class_uid, transfer_syntax_uid in kinds:
            _make_known(sop_class_uid)
            ae.add_supported_context(sop_class_uid, transfer_syntax_uid)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
        self.port: int = self._server.server_address[1]

    def _store(self, event: evt.Event) -> int:
        rq = event.request
        receipt = Receipt(
            str(rq.AffectedSOPClassUID),
            str(rq.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
            rq.DataSet.getvalue(),
            (rq.MoveOriginatorApplicationEntityTitle, rq.MoveOriginatorMessageID),
            int(rq.Priority),
            id(event.assoc),
        )
        with self._lock:
            self.receipts.append(receipt)
        return self._answer(receipt.sop_instance_uid)

    def data_sets(self) -> dict[str, tuple[str, bytes]]:
        """SOP Instance UID → transfer syntax and data set."""
        return {receipt.sop_instance_uid: (receipt.transfer_syntax_uid, receipt.data_set) for receipt in self.receipts}

    def peer(self, aet: str = "SINK", more: str = "") -> str:
        """Its [[peer]] for a configuration file."""
        return f'[[peer]]\naet = "{aet}"\nhost = "127.0.0.1"\nport = {self.port}\n{more}\n'

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()


def _make_known(sop_class_uid: str) -> None:
    """Registers a SOP class with pynetdicom, which stores only instances of classes that it knows."""
    if uid_to_service_class(sop_class_uid) is ServiceClass:
        register_uid(sop_class_uid, "Storage" + sop_class_uid.replace(".", "_"), StorageServiceClass)

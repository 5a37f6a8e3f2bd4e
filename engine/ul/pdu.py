"""The protocol data units of PS3.8 9.3 as dataclasses, with `decode` and `encode`.

It handles the rare PDUs of an association's start and end. P-DATA-TF is here for cold uses only (tools, tests, short
commands); `dimse.assembly` handles it on the receive path. It has no state and makes no decisions.

    PDU    type (1) | reserved (1) | length of the body (4, big endian) | body

    01H A-ASSOCIATE-RQ   7-8 protocol version | 9-10 reserved | 11-26 called AE title | 27-42 calling AE title |
    02H A-ASSOCIATE-AC   43-74 reserved | 75- items: 10H application context, 20H/21H presentation contexts,
                         50H user information. In the AC bytes 11-74 are the request's, sent back unchanged.
    03H A-ASSOCIATE-RJ   7 reserved | 8 result | 9 source | 10 reason
    04H P-DATA-TF        presentation data value items
    05H A-RELEASE-RQ     7-10 reserved
    06H A-RELEASE-RP     7-10 reserved
    07H A-ABORT          7-8 reserved | 9 source | 10 reason

For any bytes `decode` returns a PDU or raises `RemoteProtocolError` with the position and the reason for our A-ABORT.
Items of unknown type are skipped (PS3.8 9.3.1), known ones are checked to the byte.

Decoding a request is cheap, because the peer has not proven anything yet: only the first TRANSFER_SYNTAXES_MAX transfer
syntaxes of a context, and TRANSFER_SYNTAXES_TOTAL_MAX of all contexts, are read and negotiated; the rest of the context
is skipped. A context without any read one is rejected with 4, transfer syntaxes not supported.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias, TypeVar

from engine.errors import LocalProtocolError, RemoteProtocolError

from . import user_information
from .fields import UNEXPECTED_PARAMETER, UNRECOGNIZED_PDU, Fields, ascii_bytes, item, malformed, uid_of
from .user_information import (
    MAXIMUM_LENGTH_UNSTATED,
    AsynchronousOperationsWindow,
    RoleSelection,
    SopClassCommonExtendedNegotiation,
    SopClassExtendedNegotiation,
    UserIdentityAC,
    UserIdentityRQ,
    UserInformation,
)

__all__ = [
    "APPLICATION_CONTEXT_NAME",
    "MAXIMUM_LENGTH_UNSTATED",
    "PDU",
    "Abort",
    "AssociateAC",
    "AssociateRJ",
    "AssociateRQ",
    "AsynchronousOperationsWindow",
    "PDataTF",
    "PduType",
    "PresentationContextAC",
    "PresentationContextRQ",
    "PresentationDataValue",
    "ReleaseRP",
    "ReleaseRQ",
    "RoleSelection",
    "SopClassCommonExtendedNegotiation",
    "SopClassExtendedNegotiation",
    "UserIdentityAC",
    "UserIdentityRQ",
    "UserInformation",
    "decode",
    "encode",
    "p_data_tf",
]

APPLICATION_CONTEXT_NAME: Final = "1.2.840.10008.3.1.1.1"
"""The only application context name (PS3.7 A.2.1)."""

HEADER_BYTES: Final = 6

PRESENTATION_CONTEXT_COUNT_MAX: Final = 128
"""Odd numbers from 1 to 255 (PS3.8 9.3.2.2)."""

ASSOCIATE_LENGTH_MAX: Final = 1 << 20
"""The longest A-ASSOCIATE body that is read: 128 contexts with 40 transfer syntaxes each have 134 KB, a user identity
at most 128 KB."""

TRANSFER_SYNTAXES_MAX: Final = 128
"""Transfer syntaxes of one context that are read; PS3.6 has some sixty."""

TRANSFER_SYNTAXES_TOTAL_MAX: Final = 8192
"""Transfer syntaxes of one request that are read, in some milliseconds: all of PS3.6 for each of 128 contexts."""

_AE_TITLE_BYTES: Final = 16
_TITLES_BYTES: Final = 64  # bytes 11-74: both titles and the reserved field behind them
_ASSOCIATE: Final = struct.Struct(">HH")
_HEADER: Final = struct.Struct(">BBI")

_APPLICATION_CONTEXT: Final = 0x10
_PRESENTATION_CONTEXT_RQ: Final = 0x20
_PRESENTATION_CONTEXT_AC: Final = 0x21
_ABSTRACT_SYNTAX: Final = 0x30
_TRANSFER_SYNTAX: Final = 0x40
_USER_INFORMATION: Final = 0x50


class PduType(IntEnum):
    """The first byte of a PDU."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


@dataclass(frozen=True, slots=True)
class PresentationContextRQ:
    """A proposed presentation context (PS3.8 9.3.2.2)."""

    presentation_context_id: int
    """Odd, 1 to 255."""
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PresentationContextAC:
    """The answer to one proposed presentation context (PS3.8 9.3.3.2)."""

    presentation_context_id: int
    result: int
    """0 accepted, 1 user rejection, 2 no reason, 3 abstract syntax, 4 transfer syntaxes not supported."""
    transfer_syntax: str
    """Only significant if the result is 0."""


@dataclass(frozen=True, slots=True)
class AssociateRQ:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    called_ae_title: str
    """Without the spaces around it, which are not significant."""
    calling_ae_title: str
    presentation_contexts: tuple[PresentationContextRQ, ...]
    user_information: UserInformation = field(default_factory=UserInformation)
    application_context_name: str = APPLICATION_CONTEXT_NAME
    protocol_version: int = 1
    """Only bit 0 counts (PS3.8 9.3.2)."""
    titles: bytes = b""
    """Bytes 11-74 as received, which the acceptor sends back; empty in a request of ours."""


@dataclass(frozen=True, slots=True)
class AssociateAC:
    """A-ASSOCIATE-AC (PS3.8 9.3.3)."""

    titles: bytes
    """Bytes 11-74 of the request."""
    presentation_contexts: tuple[PresentationContextAC, ...]
    user_information: UserInformation = field(default_factory=UserInformation)
    application_context_name: str = APPLICATION_CONTEXT_NAME
    protocol_version: int = 1


@dataclass(frozen=True, slots=True)
class AssociateRJ:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    result: int
    """1 permanent, 2 transient."""
    source: int
    """1 service user, 2 service provider (ACSE), 3 service provider (presentation)."""
    reason: int


@dataclass(frozen=True, slots=True)
class PresentationDataValue:
    """One fragment of a command set or a data set (PS3.8 9.3.5.1)."""

    presentation_context_id: int
    is_command: bool
    is_last: bool
    fragment: bytes


@dataclass(frozen=True, slots=True)
class PDataTF:
    """P-DATA-TF (PS3.8 9.3.5), for cold uses."""

    values: tuple[PresentationDataValue, ...]


@dataclass(frozen=True, slots=True)
class ReleaseRQ:
    """A-RELEASE-RQ (PS3.8 9.3.6)."""


@dataclass(frozen=True, slots=True)
class ReleaseRP:
    """A-RELEASE-RP (PS3.8 9.3.7)."""


@dataclass(frozen=True, slots=True)
class Abort:
    """A-ABORT (PS3.8 9.3.8)."""

    source: int = 0
    """0 service user, 2 service provider."""
    reason: int = 0
    """With source 2: 0 not specified, 1 unrecognized PDU, 2 unexpected PDU, 4 unrecognized parameter,
    5 unexpected parameter, 6 invalid parameter value."""


PDU: TypeAlias = AssociateRQ | AssociateAC | AssociateRJ | PDataTF | ReleaseRQ | ReleaseRP | Abort


def decode(pdu_type: int, body: bytes | bytearray | memoryview) -> PDU:
    """Decodes a PDU from its type and its body, the bytes after the header of six bytes."""
    decoder = _DECODERS.get(pdu_type)
    if decoder is None:
        raise RemoteProtocolError(f"byte 1: unrecognized PDU type {pdu_type:02X}H", 2, UNRECOGNIZED_PDU)
    return decoder(Fields(bytes(body)))


def encode(pdu: PDU) -> bytes:
    """The bytes of the PDU, with header."""
    match pdu:
        case AssociateRQ():
            return _with_header(PduType.ASSOCIATE_RQ, _encode_associate_rq(pdu))
        case AssociateAC():
            return _with_header(PduType.ASSOCIATE_AC, _encode_associate_ac(pdu))
        case AssociateRJ():
            return _with_header(PduType.ASSOCIATE_RJ, _small_fields(0, pdu.result, pdu.source, pdu.reason))
        case PDataTF():
            return _with_header(PduType.P_DATA_TF, b"".join(map(_encode_value, pdu.values)))
        case ReleaseRQ():
            return _with_header(PduType.RELEASE_RQ, bytes(4))
        case ReleaseRP():
            return _with_header(PduType.RELEASE_RP, bytes(4))
        case Abort():
            return _with_header(PduType.ABORT, _small_fields(0, 0, pdu.source, pdu.reason))


def p_data_tf(presentation_context_id: int, is_command: bool, is_last: bool, fragment: bytes) -> bytes:
    """The bytes of a P-DATA-TF with one presentation data value."""
    value = PresentationDataValue(presentation_context_id, is_command, is_last, fragment)
    return _with_header(PduType.P_DATA_TF, _encode_value(value))


# Reading -----------------------------------------------------------------------------------------


def _decode_associate_rq(fields: Fields) -> AssociateRQ:
    version, titles = _decode_fixed_fields(fields)
    application_context, contexts, information = _decode_associate_items(
        fields, _PRESENTATION_CONTEXT_RQ, _decode_presentation_context_rq
    )
    return AssociateRQ(
        _ae_title(titles[:16]),
        _ae_title(titles[16:32]),
        contexts,
        information,
        application_context,
        version,
        titles,
    )


def _decode_associate_ac(fields: Fields) -> AssociateAC:
    version, titles = _decode_fixed_fields(fields)
    application_context, contexts, information = _decode_associate_items(
        fields, _PRESENTATION_CONTEXT_AC, _decode_presentation_context_ac
    )
    return AssociateAC(titles, contexts, information, application_context, version)


def _decode_fixed_fields(fields: Fields) -> tuple[int, bytes]:
    if fields.end > ASSOCIATE_LENGTH_MAX:
        raise malformed(f"an A-ASSOCIATE body of {fields.end} bytes; the limit is {ASSOCIATE_LENGTH_MAX}", -4)
    version = fields.uint16("protocol version")  # 7-8
    fields.advance(2, "reserved field")  # 9-10
    return version, fields.take(_TITLES_BYTES, "AE titles")  # 11-74


_Context = TypeVar("_Context", PresentationContextRQ, PresentationContextAC)


def _decode_associate_items(
    fields: Fields, context_type: int, decode_context: Callable[[Fields, int], _Context]
) -> tuple[str, tuple[_Context, ...], UserInformation]:
    application_context: str | None = None
    information: UserInformation | None = None
    contexts: dict[int, _Context] = {}
    transfer_syntaxes_max = TRANSFER_SYNTAXES_TOTAL_MAX
    for item_type, start, content in fields.items():
        if item_type == context_type:
            context = decode_context(content, transfer_syntaxes_max)
            if isinstance(context, PresentationContextRQ):
                transfer_syntaxes_max -= len(context.transfer_syntaxes)
            context_id = context.presentation_context_id
            if context_id % 2 == 0:
                raise malformed(f"presentation context id {context_id} is not odd", start + 4)
            if context_id in contexts:
                raise malformed(f"presentation context id {context_id} a second time", start + 4)
            contexts[context_id] = context
        elif item_type == _APPLICATION_CONTEXT:
            if application_context is not None:
                raise malformed("a second application context", start, UNEXPECTED_PARAMETER)
            application_context = content.uid(content.remaining, "application context name")
        elif item_type == _USER_INFORMATION:
            if information is not None:
                raise malformed("a second user information item", start, UNEXPECTED_PARAMETER)
            information = user_information.decode(content)
        elif item_type in (_PRESENTATION_CONTEXT_RQ, _PRESENTATION_CONTEXT_AC):
            raise malformed(f"item {item_type:02X}H belongs to the other side", start, UNEXPECTED_PARAMETER)
    return application_context or "", tuple(contexts.values()), information or UserInformation()


def _decode_presentation_context_rq(content: Fields, transfer_syntaxes_max: int) -> PresentationContextRQ:
    context_id = content.uint8("presentation context id")
    content.advance(3, "reserved field")
    abstract_syntax: str | None = None
    transfer_syntaxes: list[str] = []
    room = min(TRANSFER_SYNTAXES_MAX, transfer_syntaxes_max)
    for item_type, start, value, end in content.spans():
        if item_type == _TRANSFER_SYNTAX:
            if len(transfer_syntaxes) == room:
                break
            transfer_syntaxes.append(uid_of(content.data[value:end], "transfer syntax", value))
        elif item_type == _ABSTRACT_SYNTAX:
            if abstract_syntax is not None:
                raise malformed("a second abstract syntax", start, UNEXPECTED_PARAMETER)
            abstract_syntax = uid_of(content.data[value:end], "abstract syntax", value)
    # A context without abstract or transfer syntax is rejected alone, not the whole association.
    return PresentationContextRQ(context_id, abstract_syntax or "", tuple(transfer_syntaxes))


def _decode_presentation_context_ac(content: Fields, _: int) -> PresentationContextAC:
    context_id = content.uint8("presentation context id")
    content.advance(1, "reserved field")
    result = content.uint8("result")
    content.advance(1, "reserved field")
    transfer_syntax: str | None = None
    for item_type, start, sub_item in content.items():
        if item_type == _TRANSFER_SYNTAX:
            if transfer_syntax is not None:
                raise malformed("a second transfer syntax", start, UNEXPECTED_PARAMETER)
            transfer_syntax = sub_item.uid(sub_item.remaining, "transfer syntax")
    # Many peers leave it out of a context that they reject.
    return PresentationContextAC(context_id, result, transfer_syntax or "")


def _decode_associate_rj(fields: Fields) -> AssociateRJ:
    _, result, source, reason = _exactly_four(fields, "A-ASSOCIATE-RJ")
    return AssociateRJ(result, source, reason)


def _decode_p_data_tf(fields: Fields) -> PDataTF:
    values = []
    while fields.remaining:
        start = fields.position
        length = fields.uint32("length of the presentation data value")
        if length < 2:
            raise malformed(f"a presentation data value of {length} bytes has no header", start)
        context_id = fields.uint8("presentation context id")
        control = fields.uint8("message control header")
        fragment = fields.take(length - 2, "presentation data value")
        values.append(PresentationDataValue(context_id, bool(control & 1), bool(control & 2), fragment))
    return PDataTF(tuple(values))


def _decode_release_rq(fields: Fields) -> ReleaseRQ:
    _exactly_four(fields, "A-RELEASE-RQ")
    return ReleaseRQ()


def _decode_release_rp(fields: Fields) -> ReleaseRP:
    _exactly_four(fields, "A-RELEASE-RP")
    return ReleaseRP()


def _decode_abort(fields: Fields) -> Abort:
    _, _, source, reason = _exactly_four(fields, "A-ABORT")
    return Abort(source, reason)


_DECODERS: Final[dict[int, Callable[[Fields], PDU]]] = {
    PduType.ASSOCIATE_RQ: _decode_associate_rq,
    PduType.ASSOCIATE_AC: _decode_associate_ac,
    PduType.ASSOCIATE_RJ: _decode_associate_rj,
    PduType.P_DATA_TF: _decode_p_data_tf,
    PduType.RELEASE_RQ: _decode_release_rq,
    PduType.RELEASE_RP: _decode_release_rp,
    PduType.ABORT: _decode_abort,
}


def _exactly_four(fields: Fields, what: str) -> bytes:
    if fields.end != 4:
        raise malformed(f"{what} has a body of 4 bytes, not {fields.end}", -4)
    return fields.take(4, what)


def _ae_title(field: bytes) -> str:
    # Latin-1, so that any 16 bytes are a title that can be compared and logged. Some peers pad with NUL.
    return field.decode("latin-1").strip("\0 ")


# Writing -----------------------------------------------------------------------------------------


def _encode_associate_rq(rq: AssociateRQ) -> bytes:
    titles = rq.titles or (
        _ae_title_field(rq.called_ae_title) + _ae_title_field(rq.calling_ae_title) + bytes(_TITLES_BYTES - 32)
    )
    contexts = b"".join(map(_encode_presentation_context_rq, rq.presentation_contexts))
    return _encode_associate(rq, titles, contexts)


def _encode_associate_ac(ac: AssociateAC) -> bytes:
    return _encode_associate(ac, ac.titles, b"".join(map(_encode_presentation_context_ac, ac.presentation_contexts)))


def _encode_associate(pdu: AssociateRQ | AssociateAC, titles: bytes, contexts: bytes) -> bytes:
    if len(titles) != _TITLES_BYTES:
        raise LocalProtocolError(f"bytes 11-74 are {_TITLES_BYTES} bytes, not {len(titles)}")
    if len(pdu.presentation_contexts) > PRESENTATION_CONTEXT_COUNT_MAX:
        raise LocalProtocolError(f"{len(pdu.presentation_contexts)} presentation contexts do not fit an association")
    application_context = ascii_bytes(pdu.application_context_name, "application context name")
    return b"".join(
        (
            _ASSOCIATE.pack(pdu.protocol_version, 0),
            titles,
            item(_APPLICATION_CONTEXT, application_context),
            contexts,
            item(_USER_INFORMATION, user_information.encode(pdu.user_information)),
        )
    )


def _encode_presentation_context_rq(context: PresentationContextRQ) -> bytes:
    content = bytes((_odd(context.presentation_context_id), 0, 0, 0))
    content += item(_ABSTRACT_SYNTAX, ascii_bytes(context.abstract_syntax, "abstract syntax"))
    for transfer_syntax in context.transfer_syntaxes:
        content += item(_TRANSFER_SYNTAX, ascii_bytes(transfer_syntax, "transfer syntax"))
    return item(_PRESENTATION_CONTEXT_RQ, content)


def _encode_presentation_context_ac(context: PresentationContextAC) -> bytes:
    content = bytes((_odd(context.presentation_context_id), 0, context.result, 0))
    content += item(_TRANSFER_SYNTAX, ascii_bytes(context.transfer_syntax, "transfer syntax"))
    return item(_PRESENTATION_CONTEXT_AC, content)


def _encode_value(value: PresentationDataValue) -> bytes:
    control = value.is_command | value.is_last << 1
    header = struct.pack(">IBB", len(value.fragment) + 2, _odd(value.presentation_context_id), control)
    return header + value.fragment


def _with_header(pdu_type: PduType, body: bytes) -> bytes:
    return _HEADER.pack(pdu_type, 0, len(body)) + body


def _small_fields(*values: int) -> bytes:
    try:
        return bytes(values)
    except ValueError:
        raise LocalProtocolError(f"{values} do not fit a byte each") from None


def _odd(context_id: int) -> int:
    if not 0 < context_id < 256 or context_id % 2 == 0:
        raise LocalProtocolError(f"presentation context id {context_id} is not an odd number from 1 to 255")
    return context_id


def _ae_title_field(title: str) -> bytes:
    try:
        field = title.strip(" ").encode("latin-1")  # one byte for each character, as when reading
    except UnicodeEncodeError:
        raise LocalProtocolError(f"AE title {title!r} is not Latin-1") from None
    if not 0 < len(field) <= _AE_TITLE_BYTES:
        raise LocalProtocolError(f"AE title {title!r} is not 1 to {_AE_TITLE_BYTES} characters")
    return field.ljust(_AE_TITLE_BYTES)

"""The user information item of A-ASSOCIATE-RQ and -AC (PS3.8 9.3.2.3, PS3.7 Annex D).

It carries everything that the two sides negotiate beside presentation contexts; `ul.negotiation` makes the decisions.
Unknown sub-items are skipped (PS3.8 9.3.1).

    50H  51H maximum length           PS3.8 D.1        55H implementation version name     PS3.7 D.3.3.2
         52H implementation class UID PS3.7 D.3.3.2    56H SOP class extended neg.         PS3.7 D.3.3.5
         53H asynchronous operations  PS3.7 D.3.3.3    57H SOP class common extended neg.  PS3.7 D.3.3.6
         54H SCP/SCU role selection   PS3.7 D.3.3.4    58H, 59H user identity              PS3.7 D.3.3.7
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from engine.errors import LocalProtocolError

from .fields import ITEM_COUNT_MAX, UNEXPECTED_PARAMETER, Fields, ascii_bytes, item, malformed, sized

MAXIMUM_LENGTH_UNSTATED: Final = 16384
"""The maximum length of a peer that does not send the required item: a length that every peer receives."""

_MAXIMUM_LENGTH: Final = 0x51
_IMPLEMENTATION_CLASS_UID: Final = 0x52
_ASYNCHRONOUS_OPERATIONS: Final = 0x53
_ROLE_SELECTION: Final = 0x54
_IMPLEMENTATION_VERSION_NAME: Final = 0x55
_EXTENDED_NEGOTIATION: Final = 0x56
_COMMON_EXTENDED_NEGOTIATION: Final = 0x57
_USER_IDENTITY_RQ: Final = 0x58
_USER_IDENTITY_AC: Final = 0x59

_SINGLE: Final = frozenset(
    {
        _MAXIMUM_LENGTH,
        _IMPLEMENTATION_CLASS_UID,
        _ASYNCHRONOUS_OPERATIONS,
        _IMPLEMENTATION_VERSION_NAME,
        _USER_IDENTITY_RQ,
        _USER_IDENTITY_AC,
    }
)


@dataclass(frozen=True, slots=True)
class AsynchronousOperationsWindow:
    """How many operations may be outstanding, seen from the requestor; 0 is unlimited, absent is 1 and 1."""

    invoked: int
    """Operations that the requestor invokes."""
    performed: int
    """Operations that the requestor performs for the acceptor."""


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """The roles of the requestor for a SOP class: proposed in the RQ, granted in the AC."""

    sop_class_uid: str
    scu_role: bool
    scp_role: bool


@dataclass(frozen=True, slots=True)
class SopClassExtendedNegotiation:
    """Options of one SOP class, in the form that its service class defines."""

    sop_class_uid: str
    application_information: bytes


@dataclass(frozen=True, slots=True)
class SopClassCommonExtendedNegotiation:
    """Names the service class of a SOP class, so that an unknown SOP class can be accepted."""

    sop_class_uid: str
    service_class_uid: str
    related_general_sop_class_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UserIdentityRQ:
    """The identity that the requestor claims."""

    identity_type: int
    """1 user name, 2 user name and passcode, 3 Kerberos, 4 SAML, 5 JWT."""
    positive_response_requested: bool
    primary_field: bytes = field(repr=False)
    secondary_field: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class UserIdentityAC:
    """The acceptor's positive answer to a user identity."""

    server_response: bytes = b""


@dataclass(frozen=True, slots=True)
class UserInformation:
    """The content of one user information item."""

    maximum_length: int = MAXIMUM_LENGTH_UNSTATED
    """The longest P-DATA-TF body that the sender of this item receives; 0 is unlimited."""
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    asynchronous_operations_window: AsynchronousOperationsWindow | None = None
    role_selections: tuple[RoleSelection, ...] = ()
    sop_class_extended_negotiations: tuple[SopClassExtendedNegotiation, ...] = ()
    sop_class_common_extended_negotiations: tuple[SopClassCommonExtendedNegotiation, ...] = ()
    user_identity_rq: UserIdentityRQ | None = None
    user_identity_ac: UserIdentityAC | None = None


def decode(fields: Fields) -> UserInformation:
    """Decodes the content of a user information item."""
    maximum_length = MAXIMUM_LENGTH_UNSTATED
    class_uid = version_name = ""
    window: AsynchronousOperationsWindow | None = None
    roles: list[RoleSelection] = []
    extended: list[SopClassExtendedNegotiation] = []
    common: list[SopClassCommonExtendedNegotiation] = []
    identity_rq: UserIdentityRQ | None = None
    identity_ac: UserIdentityAC | None = None
    related_max = ITEM_COUNT_MAX
    single_types: set[int] = set()
    for item_type, start, content in fields.items():
        if item_type in _SINGLE:
            if item_type in single_types:
                raise malformed(f"a second user information sub-item {item_type:02X}H", start, UNEXPECTED_PARAMETER)
            single_types.add(item_type)
        match item_type:
            case 0x51:
                maximum_length = content.uint32("maximum length")
            case 0x52:
                class_uid = content.uid(content.remaining, "implementation class UID")
            case 0x53:
                window = AsynchronousOperationsWindow(
                    content.uint16("maximum number of operations invoked"),
                    content.uint16("maximum number of operations performed"),
                )
            case 0x54:
                roles.append(_decode_role_selection(content))
            case 0x55:
                # Display text: do not reject an association for an invalid byte in it.
                version_name = content.rest().decode("ascii", "replace").strip("\0 ")
            case 0x56:
                extended.append(SopClassExtendedNegotiation(content.sized_uid("SOP class UID"), content.rest()))
            case 0x57:
                common.append(_decode_common_extended_negotiation(content, related_max))
                related_max -= len(common[-1].related_general_sop_class_uids)
            case 0x58:
                identity_rq = _decode_user_identity_rq(content)
            case 0x59:
                identity_ac = UserIdentityAC(content.sized("server response"))
            case _:
                pass
    return UserInformation(
        maximum_length,
        class_uid,
        version_name,
        window,
        tuple(roles),
        tuple(extended),
        tuple(common),
        identity_rq,
        identity_ac,
    )


def encode(information: UserInformation) -> bytes:
    """Encodes the content of a user information item, with sub-items in ascending order of type (PS3.8 9.3.1)."""
    parts = [item(_MAXIMUM_LENGTH, _pack(">I", information.maximum_length))]
    if information.implementation_class_uid:
        uid = ascii_bytes(information.implementation_class_uid, "implementation class UID")
        parts.append(item(_IMPLEMENTATION_CLASS_UID, uid))
    window = information.asynchronous_operations_window
    if window is not None:
        parts.append(item(_ASYNCHRONOUS_OPERATIONS, _pack(">HH", window.invoked, window.performed)))
    parts += [
        item(_ROLE_SELECTION, _sized_uid(role.sop_class_uid) + bytes((role.scu_role, role.scp_role)))
        for role in information.role_selections
    ]
    if information.implementation_version_name:
        name = ascii_bytes(information.implementation_version_name, "implementation version name")
        parts.append(item(_IMPLEMENTATION_VERSION_NAME, name))
    parts += [
        item(_EXTENDED_NEGOTIATION, _sized_uid(offer.sop_class_uid) + offer.application_information)
        for offer in information.sop_class_extended_negotiations
    ]
    parts += [
        item(_COMMON_EXTENDED_NEGOTIATION, _encode_common_extended_negotiation(offer))
        for offer in information.sop_class_common_extended_negotiations
    ]
    identity = information.user_identity_rq
    if identity is not None:
        flags = _pack(">BB", identity.identity_type, identity.positive_response_requested)
        content = flags + sized(identity.primary_field) + sized(identity.secondary_field)
        parts.append(item(_USER_IDENTITY_RQ, content))
    if information.user_identity_ac is not None:
        parts.append(item(_USER_IDENTITY_AC, sized(information.user_identity_ac.server_response)))
    return b"".join(parts)


def _decode_role_selection(content: Fields) -> RoleSelection:
    uid = content.sized_uid("SOP class UID")
    return RoleSelection(uid, content.uint8("SCU role") != 0, content.uint8("SCP role") != 0)


def _decode_common_extended_negotiation(content: Fields, related_max: int) -> SopClassCommonExtendedNegotiation:
    sop_class_uid = content.sized_uid("SOP class UID")
    service_class_uid = content.sized_uid("service class UID")
    length = content.uint16("length of related general SOP class identification")
    start = content.advance(length, "related general SOP class identification")
    related = Fields(content.data, start, start + length)
    uids: list[str] = []
    while related.remaining:
        if len(uids) == ITEM_COUNT_MAX:
            raise malformed(f"more than {ITEM_COUNT_MAX} related general SOP classes", related.position)
        if len(uids) == related_max:
            break  # the peer has not proven anything yet: bounds the total over all items
        uids.append(related.sized_uid("related general SOP class UID"))
    return SopClassCommonExtendedNegotiation(sop_class_uid, service_class_uid, tuple(uids))


def _encode_common_extended_negotiation(offer: SopClassCommonExtendedNegotiation) -> bytes:
    related = b"".join(map(_sized_uid, offer.related_general_sop_class_uids))
    return _sized_uid(offer.sop_class_uid) + _sized_uid(offer.service_class_uid) + sized(related)


def _decode_user_identity_rq(content: Fields) -> UserIdentityRQ:
    identity_type = content.uint8("user identity type")
    response_requested = content.uint8("positive response requested") != 0
    primary = content.sized("primary field")
    # The secondary field is empty except for type 2, and some peers leave out its length.
    secondary = content.sized("secondary field") if content.remaining else b""
    return UserIdentityRQ(identity_type, response_requested, primary, secondary)


def _sized_uid(uid: str) -> bytes:
    return sized(ascii_bytes(uid, "UID"))


def _pack(form: str, *values: int) -> bytes:
    try:
        return struct.pack(form, *values)
    except struct.error:
        raise LocalProtocolError(f"{values} do not fit their fields") from None

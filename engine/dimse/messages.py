"""The DIMSE messages as dataclasses (PS3.7 9.3, 10.3), each with its command set on the wire.

A message has the fields of its command, not its data set, which travels separately. `has_data_set` shows whether there
is one where the standard leaves that open.

`decode` turns a whole command set into a message, or raises `MessageError` with the status for our response: 0211H for
an unknown operation, 0212H for a command with a missing element or one of a wrong form. `failure_response` makes that
response.

A field's name is its element's name in PS3.7 (`dimse.message_codec` has the table), so the classes below are also
the specification of the command sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias, cast

from engine.errors import MessageError

from . import command, short_commands
from .command import NO_DATA_SET, Element, pack_uint16, uint16_value
from .message_codec import Codec, DataSet, error_comment
from .status import GeneralStatus

VERIFICATION: Final = "1.2.840.10008.1.1"


class CommandField(IntEnum):
    """PS3.7 Table E.1-1; a response has bit 15 set."""

    C_STORE_RQ = 0x0001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_GET_RQ = 0x0110
    N_SET_RQ = 0x0120
    N_ACTION_RQ = 0x0130
    N_CREATE_RQ = 0x0140
    C_CANCEL_RQ = 0x0FFF
    C_STORE_RSP = 0x8001
    C_GET_RSP = 0x8010
    C_FIND_RSP = 0x8020
    C_MOVE_RSP = 0x8021
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RSP = 0x8110
    N_SET_RSP = 0x8120
    N_ACTION_RSP = 0x8130
    N_CREATE_RSP = 0x8140


class Priority(IntEnum):
    """PS3.7 Table E.1-1."""

    MEDIUM = 0
    HIGH = 1
    LOW = 2


class _Encodable:
    """The base of all messages."""

    __slots__ = ()

    def encode(self) -> bytes:
        """The command set. Raises LocalProtocolError for a value that does not fit its element."""
        return _CODECS_BY_CLASS[type(self)].encode(self)


# Requests ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CEchoRQ(_Encodable):
    """C-ECHO-RQ (PS3.7 9.3.5.1)."""

    message_id: int
    affected_sop_class_uid: str = VERIFICATION


@dataclass(frozen=True, slots=True)
class CStoreRQ(_Encodable):
    """C-STORE-RQ (PS3.7 9.3.1.1); has a data set."""

    message_id: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    priority: int = 0
    move_originator_ae_title: str = ""
    """The requestor of the C-MOVE; empty without one."""
    move_originator_message_id: int | None = None

    def encode(self) -> bytes:
        """The command set; the common form by the fast path."""
        if not self.move_originator_ae_title and self.affected_sop_class_uid and self.affected_sop_instance_uid:
            short = short_commands.encode_c_store_rq(
                self.message_id, self.affected_sop_class_uid, self.affected_sop_instance_uid, self.priority
            )
            if short:
                return short
        return _Encodable.encode(self)


@dataclass(frozen=True, slots=True)
class CFindRQ(_Encodable):
    """C-FIND-RQ (PS3.7 9.3.2.1); has an identifier."""

    message_id: int
    affected_sop_class_uid: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class CGetRQ(_Encodable):
    """C-GET-RQ (PS3.7 9.3.3.1); has an identifier."""

    message_id: int
    affected_sop_class_uid: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class CMoveRQ(_Encodable):
    """C-MOVE-RQ (PS3.7 9.3.4.1); has an identifier."""

    message_id: int
    affected_sop_class_uid: str
    move_destination: str
    """AE title to which the instances go."""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class CCancelRQ(_Encodable):
    """C-CANCEL-RQ of a C-FIND, C-GET or C-MOVE (PS3.7 9.3.2.3); it has no response of its own."""

    message_id_being_responded_to: int


@dataclass(frozen=True, slots=True)
class NActionRQ(_Encodable):
    """N-ACTION-RQ (PS3.7 10.3.4.1)."""

    message_id: int
    requested_sop_class_uid: str
    requested_sop_instance_uid: str
    action_type_id: int
    has_data_set: bool = False


@dataclass(frozen=True, slots=True)
class NEventReportRQ(_Encodable):
    """N-EVENT-REPORT-RQ (PS3.7 10.3.1.1)."""

    message_id: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    event_type_id: int
    has_data_set: bool = False


@dataclass(frozen=True, slots=True)
class NGetRQ(_Encodable):
    """N-GET-RQ (PS3.7 10.3.2.1)."""

    message_id: int
    requested_sop_class_uid: str
    requested_sop_instance_uid: str
    attribute_identifier_list: tuple[int, ...] = ()
    """The tags that are asked for; none: all."""


@dataclass(frozen=True, slots=True)
class NSetRQ(_Encodable):
    """N-SET-RQ (PS3.7 10.3.3.1); has a data set."""

    message_id: int
    requested_sop_class_uid: str
    requested_sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class NCreateRQ(_Encodable):
    """N-CREATE-RQ (PS3.7 10.3.5.1)."""

    message_id: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str = ""
    """Empty: the receiver makes one."""
    has_data_set: bool = False


# Responses ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CEchoRSP(_Encodable):
    """C-ECHO-RSP (PS3.7 9.3.5.2)."""

    message_id_being_responded_to: int
    affected_sop_class_uid: str = VERIFICATION
    status: int = 0
    error_comment: str = ""
    """Only its first 64 characters are sent."""
    offending_elements: tuple[int, ...] = ()
    """Tags, as 0xGGGGEEEE."""


@dataclass(frozen=True, slots=True)
class CStoreRSP(_Encodable):
    """C-STORE-RSP (PS3.7 9.3.1.2)."""

    message_id_being_responded_to: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    status: int = 0
    error_comment: str = ""
    offending_elements: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """The command set; the common form by the fast path."""
        if (
            not self.error_comment
            and not self.offending_elements
            and self.affected_sop_class_uid
            and self.affected_sop_instance_uid
        ):
            short = short_commands.encode_c_store_rsp(
                self.message_id_being_responded_to,
                self.affected_sop_class_uid,
                self.affected_sop_instance_uid,
                self.status,
            )
            if short:
                return short
        return _Encodable.encode(self)


@dataclass(frozen=True, slots=True)
class CFindRSP(_Encodable):
    """C-FIND-RSP (PS3.7 9.3.2.2): pending with an identifier for each match, then a final one without."""

    message_id_being_responded_to: int
    affected_sop_class_uid: str
    status: int
    has_data_set: bool = False
    error_comment: str = ""
    offending_elements: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _RetrieveRSP(_Encodable):
    """What the responses of both retrieve services have."""

    message_id_being_responded_to: int
    affected_sop_class_uid: str
    status: int
    number_of_remaining_suboperations: int | None = None
    """Only in pending responses and after a cancel. Counts above 65535 are sent as 65535."""
    number_of_completed_suboperations: int | None = None
    number_of_failed_suboperations: int | None = None
    number_of_warning_suboperations: int | None = None
    has_data_set: bool = False
    """Whether an identifier with the Failed SOP Instance UID List follows."""
    error_comment: str = ""
    offending_elements: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CGetRSP(_RetrieveRSP):
    """C-GET-RSP (PS3.7 9.3.3.2)."""


@dataclass(frozen=True, slots=True)
class CMoveRSP(_RetrieveRSP):
    """C-MOVE-RSP (PS3.7 9.3.4.2)."""


@dataclass(frozen=True, slots=True)
class _NormalizedRSP(_Encodable):
    """What the responses of all normalized services (PS3.7 10) have."""

    message_id_being_responded_to: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    status: int = 0
    has_data_set: bool = False
    error_comment: str = ""


@dataclass(frozen=True, slots=True)
class NActionRSP(_NormalizedRSP):
    """N-ACTION-RSP (PS3.7 10.3.4.2)."""

    action_type_id: int | None = None


@dataclass(frozen=True, slots=True)
class NEventReportRSP(_NormalizedRSP):
    """N-EVENT-REPORT-RSP (PS3.7 10.3.1.2)."""

    event_type_id: int | None = None


@dataclass(frozen=True, slots=True)
class NGetRSP(_NormalizedRSP):
    """N-GET-RSP (PS3.7 10.3.2.2)."""


@dataclass(frozen=True, slots=True)
class _AttributesRSP(_NormalizedRSP):
    """What the responses of services that write attributes have."""

    error_id: int | None = None
    attribute_identifier_list: tuple[int, ...] = ()
    """The tags at fault."""


@dataclass(frozen=True, slots=True)
class NSetRSP(_AttributesRSP):
    """N-SET-RSP (PS3.7 10.3.3.2)."""


@dataclass(frozen=True, slots=True)
class NCreateRSP(_AttributesRSP):
    """N-CREATE-RSP (PS3.7 10.3.5.2)."""


Request: TypeAlias = (
    CEchoRQ
    | CStoreRQ
    | CFindRQ
    | CGetRQ
    | CMoveRQ
    | CCancelRQ
    | NActionRQ
    | NEventReportRQ
    | NGetRQ
    | NSetRQ
    | NCreateRQ
)
Response: TypeAlias = (
    CEchoRSP | CStoreRSP | CFindRSP | CGetRSP | CMoveRSP | NActionRSP | NEventReportRSP | NGetRSP | NSetRSP | NCreateRSP
)
Message: TypeAlias = Request | Response

# The message class of each command, and whether it has a data set.
_MESSAGES: Final[Mapping[CommandField, tuple[type[Message], DataSet]]] = {
    CommandField.C_STORE_RQ: (CStoreRQ, DataSet.ALWAYS),
    CommandField.C_GET_RQ: (CGetRQ, DataSet.ALWAYS),
    CommandField.C_FIND_RQ: (CFindRQ, DataSet.ALWAYS),
    CommandField.C_MOVE_RQ: (CMoveRQ, DataSet.ALWAYS),
    CommandField.C_ECHO_RQ: (CEchoRQ, DataSet.NEVER),
    CommandField.N_EVENT_REPORT_RQ: (NEventReportRQ, DataSet.SOMETIMES),
    CommandField.N_GET_RQ: (NGetRQ, DataSet.NEVER),
    CommandField.N_SET_RQ: (NSetRQ, DataSet.ALWAYS),
    CommandField.N_ACTION_RQ: (NActionRQ, DataSet.SOMETIMES),
    CommandField.N_CREATE_RQ: (NCreateRQ, DataSet.SOMETIMES),
    CommandField.C_CANCEL_RQ: (CCancelRQ, DataSet.NEVER),
    CommandField.C_STORE_RSP: (CStoreRSP, DataSet.NEVER),
    CommandField.C_GET_RSP: (CGetRSP, DataSet.SOMETIMES),
    CommandField.C_FIND_RSP: (CFindRSP, DataSet.SOMETIMES),
    CommandField.C_MOVE_RSP: (CMoveRSP, DataSet.SOMETIMES),
    CommandField.C_ECHO_RSP: (CEchoRSP, DataSet.NEVER),
    CommandField.N_EVENT_REPORT_RSP: (NEventReportRSP, DataSet.SOMETIMES),
    CommandField.N_GET_RSP: (NGetRSP, DataSet.SOMETIMES),
    CommandField.N_SET_RSP: (NSetRSP, DataSet.SOMETIMES),
    CommandField.N_ACTION_RSP: (NActionRSP, DataSet.SOMETIMES),
    CommandField.N_CREATE_RSP: (NCreateRSP, DataSet.SOMETIMES),
}
_CODECS: Final[dict[int, Codec]] = {
    command_field: Codec(command_field, message_class, data_set)
    for command_field, (message_class, data_set) in _MESSAGES.items()
}
_CODECS_BY_CLASS: Final[dict[type, Codec]] = {
    message_class: _CODECS[command_field] for command_field, (message_class, _) in _MESSAGES.items()
}
_COMMAND_FIELDS: Final[dict[type, int]] = {
    message_class: command_field for command_field, (message_class, _) in _MESSAGES.items()
}


def decode(data: bytes) -> Message:
    """The message of a whole command set. Raises MessageError."""
    short = short_commands.decode_c_store_rq(data)
    if short is not None:
        return CStoreRQ(*short)
    values = command.decode(data)
    command_field = uint16_value(values, Element.CommandField)
    codec = _CODECS.get(command_field)
    if codec is None:
        raise MessageError(f"unrecognized operation {command_field:04X}H", GeneralStatus.UNRECOGNIZED_OPERATION)
    return cast(Message, codec.decode(values))


def is_answer(request: Request, response: Response) -> bool:
    """Whether a response is of the operation of a request."""
    return _COMMAND_FIELDS[type(response)] == _COMMAND_FIELDS[type(request)] | 0x8000


def failure_response(data: bytes, error: MessageError) -> bytes | None:
    """The response to a command that `decode` refused; None if it cannot have one.

    That is so for responses, for C-CANCEL, and for a command without a message id: only an A-ABORT can answer these.
    """
    try:
        values = command.decode(data)
        command_field = uint16_value(values, Element.CommandField)
        message_id = uint16_value(values, Element.MessageID)
    except MessageError:
        return None
    if command_field & 0x8000 or command_field == CommandField.C_CANCEL_RQ:
        return None
    response: dict[int, bytes] = {
        Element.CommandField: pack_uint16(command_field | 0x8000),
        Element.MessageIDBeingRespondedTo: pack_uint16(message_id),
        Element.CommandDataSetType: pack_uint16(NO_DATA_SET),
        Element.Status: pack_uint16(error.status),
        Element.ErrorComment: error_comment(str(error)),
    }
    for theirs, ours in (
        (Element.AffectedSOPClassUID, Element.AffectedSOPClassUID),
        (Element.RequestedSOPClassUID, Element.AffectedSOPClassUID),
        (Element.AffectedSOPInstanceUID, Element.AffectedSOPInstanceUID),
        (Element.RequestedSOPInstanceUID, Element.AffectedSOPInstanceUID),
    ):
        if values.get(theirs):
            response[ours] = values[theirs]
    return command.encode(response)

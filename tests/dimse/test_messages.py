"""engine.dimse.messages: every message both ways, pydicom and pynetdicom as the judges."""

from __future__ import annotations

from dataclasses import fields, replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom.dimse_messages import _COMMAND_SET_KEYWORDS
from pynetdicom.tests import encoded_dimse_msg as golden
from pynetdicom.tests import encoded_dimse_n_msg as golden_n

from engine.dimse import command, messages
from engine.dimse.command import Element
from engine.dimse.messages import (
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    CFindRQ,
    CFindRSP,
    CGetRQ,
    CGetRSP,
    CMoveRQ,
    CMoveRSP,
    CommandField,
    CStoreRQ,
    CStoreRSP,
    Message,
    NActionRQ,
    NActionRSP,
    NCreateRQ,
    NCreateRSP,
    NEventReportRQ,
    NEventReportRSP,
    NGetRQ,
    NGetRSP,
    NSetRQ,
    NSetRSP,
)
from engine.errors import LocalProtocolError, MessageError

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=100)

CT = "1.2.840.10008.5.1.4.1.1.2"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
MPPS = "1.2.840.10008.3.1.2.3.3"
UID = "1.2.826.0.1.3680043.8.498.1"

SAMPLES: list[Message] = [
    CEchoRQ(7),
    CEchoRSP(7),
    CEchoRSP(7, status=0x0122, error_comment="not here", offending_elements=(0x00000002,)),
    CStoreRQ(1, CT, UID),
    CStoreRQ(65535, CT, UID, 2, "STORESCU", 9),
    CStoreRSP(1, CT, UID),
    CStoreRSP(1, CT, UID, 0xA900, "the data set names another instance", (0x00080018, 0x0020000D)),
    CFindRQ(2, MOVE, 1),
    CFindRSP(2, MOVE, 0xFF00, True),
    CFindRSP(2, MOVE, 0),
    CFindRSP(2, MOVE, 0xA900, False, "no level", (0x00080052,)),
    CGetRQ(3, MOVE),
    CGetRSP(3, MOVE, 0xFF00, 5, 1, 0, 0),
    CMoveRQ(4, MOVE, "ARCHIVE"),
    CMoveRSP(4, MOVE, 0xFF00, 5, 1, 0, 0),
    CMoveRSP(4, MOVE, 0xB000, None, 8, 1, 1, True),
    CCancelRQ(4),
    NActionRQ(5, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 1, True),
    NActionRSP(5, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", action_type_id=1),
    NEventReportRQ(6, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 2, True),
    NEventReportRSP(6, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 0x0110, False, "?", 2),
    NCreateRQ(7, MPPS, UID, True),
    NCreateRQ(7, MPPS, "", True),
    NCreateRSP(7, MPPS, UID, 0x0120, False, "missing", None, (0x00100010, 0x00400241)),
    NSetRQ(8, MPPS, UID),
    NSetRSP(8, MPPS, UID, 0x0110, False, "may no longer be updated", 0xA710),
    NGetRQ(9, MPPS, UID, (0x00400252,)),
    NGetRSP(9, MPPS, UID, 0, True),
]

OF_STATUSES = {"ErrorComment", "OffendingElement", "ErrorID", "AttributeIdentifierList"}
"""Elements that belong to a status (PS3.7 Annex C)."""

KEYWORDS = {
    "message_id": "MessageID",
    "message_id_being_responded_to": "MessageIDBeingRespondedTo",
    "affected_sop_class_uid": "AffectedSOPClassUID",
    "requested_sop_class_uid": "RequestedSOPClassUID",
    "affected_sop_instance_uid": "AffectedSOPInstanceUID",
    "requested_sop_instance_uid": "RequestedSOPInstanceUID",
    "priority": "Priority",
    "move_destination": "MoveDestination",
    "move_originator_ae_title": "MoveOriginatorApplicationEntityTitle",
    "move_originator_message_id": "MoveOriginatorMessageID",
    "event_type_id": "EventTypeID",
    "action_type_id": "ActionTypeID",
    "status": "Status",
    "number_of_remaining_suboperations": "NumberOfRemainingSuboperations",
    "number_of_completed_suboperations": "NumberOfCompletedSuboperations",
    "number_of_failed_suboperations": "NumberOfFailedSuboperations",
    "number_of_warning_suboperations": "NumberOfWarningSuboperations",
    "error_comment": "ErrorComment",
    "error_id": "ErrorID",
}


def read(data: bytes) -> Dataset:
    """The command set as pydicom reads it."""
    return read_dataset(BytesIO(data), is_implicit_VR=True, is_little_endian=True)


def command_name(message: Message) -> str:
    """CStoreRQ → C-STORE-RQ, as pynetdicom calls it."""
    field = CommandField(int(read(message.encode()).CommandField))
    name = field.name.replace("_", "-")
    return {"C-CANCEL-RQ": "C-CANCEL-RQ"}.get(name, name)


sample = pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)


# Both ways ---------------------------------------------------------------------------------------


def test_the_samples_show_every_message() -> None:
    assert {type(message) for message in SAMPLES} == set(messages.Request.__args__ + messages.Response.__args__)


@sample
def test_a_message_survives_a_round_trip(message: Message) -> None:
    assert messages.decode(message.encode()) == message


@sample
def test_pydicom_reads_what_we_write(message: Message) -> None:
    data = message.encode()
    data_set = read(data)
    assert data_set.CommandGroupLength == len(data) - 12
    assert list(data_set.keys()) == sorted(data_set.keys())
    for field in fields(message):
        value = getattr(message, field.name)
        if field.name == "has_data_set":
            assert (data_set.CommandDataSetType != 0x0101) == value
        elif field.name in ("offending_elements", "attribute_identifier_list"):
            keyword = "OffendingElement" if field.name == "offending_elements" else "AttributeIdentifierList"
            offending = data_set.get(keyword, [])
            offending = [offending] if isinstance(offending, int) else list(offending)
            assert tuple(map(int, offending)) == value
        elif value in ("", None):
            assert KEYWORDS[field.name] not in data_set
        else:
            assert data_set[KEYWORDS[field.name]].value == value


@sample
def test_only_elements_of_the_standards_table_are_written(message: Message) -> None:
    allowed = set(_COMMAND_SET_KEYWORDS[command_name(message)]) | OF_STATUSES
    assert {element.keyword for element in read(message.encode())} <= allowed


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (golden.c_echo_rq_cmd, CEchoRQ),
        (golden.c_echo_rsp_cmd, CEchoRSP),
        (golden.c_store_rq_cmd, CStoreRQ),
        (golden.c_store_rsp_cmd, CStoreRSP),
        (golden.c_find_rq_cmd, CFindRQ),
        (golden.c_find_rsp_cmd, CFindRSP),
        (golden.c_get_rq_cmd, CGetRQ),
        (golden.c_get_rsp_cmd, CGetRSP),
        (golden.c_move_rq_cmd, CMoveRQ),
        (golden.c_move_rsp_cmd, CMoveRSP),
        (golden_n.n_action_rq_cmd, NActionRQ),
        (golden_n.n_action_rsp_cmd, NActionRSP),
        (golden_n.n_er_rq_cmd, NEventReportRQ),
        (golden_n.n_er_rsp_cmd, NEventReportRSP),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_pynetdicoms_commands_are_understood(data: bytes, kind: type[Message]) -> None:
    data_set = read(data[1:])  # the message control header is in front
    message = messages.decode(data[1:])
    assert type(message) is kind
    for field in fields(message):
        keyword = KEYWORDS.get(field.name)
        if keyword is not None and keyword in data_set:
            assert getattr(message, field.name) == data_set[keyword].value


# The short way is the general way ----------------------------------------------------------------

uids = st.from_regex(r"[12](\.(0|[1-9][0-9]{0,9})){1,6}", fullmatch=True)
uint16s = st.integers(0, 65535)


@EXAMPLES
@given(uint16s, uids, uids, uint16s)
def test_a_c_store_rq_is_the_same_by_the_fast_and_the_general_path(
    message_id: int, class_uid: str, instance_uid: str, priority: int
) -> None:
    request = CStoreRQ(message_id, class_uid, instance_uid, priority)
    data = request.encode()
    assert data == messages._Encodable.encode(request)
    assert messages.decode(data) == request
    assert messages._CODECS[CommandField.C_STORE_RQ].decode(command.decode(data)) == request


@EXAMPLES
@given(uint16s, uids, uids, uint16s)
def test_a_c_store_rsp_is_the_same_by_the_fast_and_the_general_path(
    message_id: int, class_uid: str, instance_uid: str, status: int
) -> None:
    response = CStoreRSP(message_id, class_uid, instance_uid, status)
    data = response.encode()
    assert data == messages._Encodable.encode(response)
    assert messages.decode(data) == response


@EXAMPLES
@given(st.data())
def test_a_mutated_c_store_rq_is_read_as_by_the_general_path_or_refused(data: st.DataObject) -> None:
    mutated = bytearray(CStoreRQ(1, CT, UID).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)) | st.just(len(mutated)))])
    try:
        expected = messages._CODECS[CommandField.C_STORE_RQ].decode(command.decode(cut))
    except MessageError:
        expected = None
    try:
        message = messages.decode(cut)
    except MessageError as error:
        assert error.status in (0x0211, 0x0212)
    else:
        if isinstance(message, CStoreRQ):
            assert message == expected


def test_a_store_in_another_order_or_without_group_length_is_understood() -> None:
    values = command.decode(CStoreRQ(1, CT, UID, 1).encode())
    elements = [
        element.to_bytes(4, "big")[:2] + element.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value
        for element, value in values.items()
    ]
    assert messages.decode(b"".join(reversed(elements))) == CStoreRQ(1, CT, UID, 1)
    assert messages.decode(b"".join(elements[1:])) == CStoreRQ(1, CT, UID, 1)


def test_padding_of_uids_by_space_or_nul_is_dropped() -> None:
    data = CStoreRQ(1, "1.2.3", UID).encode()
    assert messages.decode(data.replace(b"1.2.3\0", b"1.2.3 ")) == CStoreRQ(1, "1.2.3", UID)


# What a peer may get wrong -----------------------------------------------------------------------


def without(message: Message, element: Element) -> bytes:
    values = command.decode(message.encode())
    del values[element]
    return command.encode(values)


def changed(message: Message, element: Element, value: bytes) -> bytes:
    return command.encode({**command.decode(message.encode()), element: value})


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"", 0x0212, "CommandField is missing"),
        (changed(CEchoRQ(1), Element.CommandField, b"\x50\1"), 0x0211, "unrecognized operation 0150H"),
        (changed(CEchoRQ(1), Element.CommandField, b"\x77\0"), 0x0211, "unrecognized operation 0077H"),
        (without(CStoreRQ(1, CT, UID), Element.MessageID), 0x0212, "MessageID is missing"),
        (without(CStoreRQ(1, CT, UID), Element.AffectedSOPInstanceUID), 0x0212, "AffectedSOPInstanceUID is missing"),
        (without(CStoreRQ(1, CT, UID), Element.CommandDataSetType), 0x0212, "CommandDataSetType is missing"),
        (
            changed(CStoreRQ(1, CT, UID), Element.CommandDataSetType, b"\1\1"),
            0x0212,
            "the request has no data set",
        ),
        (changed(CFindRQ(1, MOVE), Element.CommandDataSetType, b"\1\1"), 0x0212, "the request has no data set"),
        (without(CMoveRQ(1, MOVE, "A"), Element.MoveDestination), 0x0212, "MoveDestination is missing"),
        (changed(CFindRQ(1, MOVE), Element.Priority, b"\0\0\0\0"), 0x0212, "Priority has 4 bytes"),
        (without(CStoreRSP(1, CT, UID), Element.Status), 0x0212, "Status is missing"),
        (without(CCancelRQ(1), Element.MessageIDBeingRespondedTo), 0x0212, "MessageIDBeingRespondedTo is missing"),
    ],
)
def test_an_incomplete_command_is_refused_with_its_status(data: bytes, status: int, text: str) -> None:
    with pytest.raises(MessageError) as caught:
        messages.decode(data)
    assert caught.value.status == status
    assert text in str(caught.value)


def test_a_response_may_leave_out_repeated_elements() -> None:
    values = {
        Element.CommandField: b"\x01\x80",
        Element.MessageIDBeingRespondedTo: b"\7\0",
        Element.Status: b"\0\0",
    }
    assert messages.decode(command.encode(values)) == CStoreRSP(7, "", "")


def test_a_request_may_leave_out_its_priority() -> None:
    assert messages.decode(without(CFindRQ(1, MOVE, 2), Element.Priority)) == CFindRQ(1, MOVE, 0)


@EXAMPLES
@given(st.sampled_from(SAMPLES), st.data())
def test_mutated_commands_are_decoded_or_refused(message: Message, data: st.DataObject) -> None:
    mutated = bytearray(message.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)) | st.just(len(mutated)))])
    try:
        messages.decode(cut)
    except MessageError as error:
        assert error.status in (0x0211, 0x0212)
        answer = messages.failure_response(cut, error)
        if answer is not None:
            assert read(answer).Status == error.status


# The answer to what was refused ------------------------------------------------------------------


def test_an_unknown_operation_is_answered_by_its_own_response() -> None:
    values = {
        Element.CommandField: b"\x50\1",  # N-DELETE-RQ
        Element.MessageID: b"\x2a\0",
        Element.RequestedSOPClassUID: b"1.2.840.10008.5.1.1.16",
        Element.RequestedSOPInstanceUID: b"1.2.840.10008.5.1.1.17",
        Element.CommandDataSetType: b"\1\1",
    }
    data = command.encode(values)
    with pytest.raises(MessageError) as caught:
        messages.decode(data)
    answer = messages.failure_response(data, caught.value)
    assert answer is not None
    data_set = read(answer)
    assert data_set.CommandField == 0x8150
    assert data_set.MessageIDBeingRespondedTo == 42
    assert data_set.Status == 0x0211
    assert data_set.CommandDataSetType == 0x0101
    assert data_set.AffectedSOPClassUID == "1.2.840.10008.5.1.1.16"
    assert data_set.AffectedSOPInstanceUID == "1.2.840.10008.5.1.1.17"
    assert data_set.ErrorComment == "unrecognized operation 0150H"


@pytest.mark.parametrize(
    "data",
    [b"", b"\1\2\3", without(CEchoRQ(1), Element.MessageID), CStoreRSP(1, CT, UID).encode(), CCancelRQ(1).encode()],
)
def test_a_message_that_is_not_a_request_gets_no_answer(data: bytes) -> None:
    assert messages.failure_response(data, MessageError("?", 0x0212)) is None


# What we may get wrong ---------------------------------------------------------------------------


def test_an_error_comment_is_shortened_and_reduced_to_plain_characters() -> None:
    response = CStoreRSP(1, CT, UID, 0xC000, "Größe\\\n" + "x" * 100)
    comment = read(response.encode()).ErrorComment
    assert comment == "Gr??e??" + "x" * 57
    assert len(comment) == 64


@pytest.mark.parametrize(
    ("text", "comment"),
    [
        ("a" * 64, "a" * 64),
        ("one two " * 8, "one two " * 8),
        (
            "the kept attributes do not lie in the first bytes: the data set is long",
            "the kept attributes do not lie in the first bytes: the data...",
        ),
        ("(0020,000D) is missing at level SERIES, which it must not be: " + "1.2." * 9, None),
        ("of a list, one is too much: " + "word, " * 20, "of a list, one is too much: word, word, word, word, word..."),
    ],
)
def test_a_long_error_comment_ends_at_the_end_of_a_word(text: str, comment: str | None) -> None:
    sent = str(read(CStoreRSP(1, CT, UID, 0xC000, text).encode()).ErrorComment)
    assert len(sent) <= 64
    if len(text) > 64:
        assert sent.endswith("...")
        words = sent.removesuffix("...")
        assert text.startswith(words)
        assert text[len(words)] in " ,;:"
    if comment is not None:
        assert sent == comment.rstrip()


@pytest.mark.parametrize("raw", [b"R\xd6NTGEN", "RÖNTGEN".encode(), b"\xff\xa0\x85"])
def test_titles_beyond_ascii_are_returned_unchanged(raw: bytes) -> None:
    asked = messages.decode(CMoveRQ(1, MOVE, raw.decode("latin-1")).encode())
    assert isinstance(asked, CMoveRQ)
    assert asked.move_destination.encode("latin-1") == raw
    sent = CStoreRQ(1, CT, UID, move_originator_ae_title=raw.decode("latin-1"), move_originator_message_id=2).encode()
    assert command.decode(sent)[command.Element.MoveOriginatorApplicationEntityTitle].rstrip(b" ") == raw


def test_counts_beyond_16_bits_are_sent_as_the_largest() -> None:
    response = CMoveRSP(1, MOVE, 0xFF00, 100_000, 65_536, 0, 0)
    decoded = messages.decode(response.encode())
    assert decoded == replace(
        response, number_of_remaining_suboperations=65535, number_of_completed_suboperations=65535
    )


@pytest.mark.parametrize(
    "message",
    [
        CStoreRQ(65536, CT, UID),
        CStoreRQ(1, CT, "1.2.ü"),
        CStoreRSP(-1, CT, UID),
        CMoveRQ(1, MOVE, "РЕНТГЕН"),
        CStoreRSP(1, CT, UID, 0xA900, "", (1 << 32,)),
    ],
)
def test_a_value_that_does_not_fit_is_not_sent(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        message.encode()

"""engine.dimse.command: the command set codec against pydicom, and bytes that are no command set."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom.dsutils import encode as encode_data_set
from pynetdicom.tests import encoded_dimse_msg, encoded_dimse_n_msg

from engine.dimse import command
from engine.dimse.command import Element
from engine.errors import LocalProtocolError, MessageError

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=100)


def golden_commands() -> list[bytes]:
    """pynetdicom's encoded commands; each has the message control header in front."""
    found = []
    for module in (encoded_dimse_msg, encoded_dimse_n_msg):
        for name in dir(module):
            value = getattr(module, name)
            if name.endswith("_cmd"):
                found.append(value[1:])
    return found


def test_golden_commands_exist() -> None:
    assert len(golden_commands()) > 20


@pytest.mark.parametrize("data", golden_commands())
def test_golden_commands_decode_as_pydicom_reads_them(data: bytes) -> None:
    expected = read_dataset(BytesIO(data), is_implicit_VR=True, is_little_endian=True)
    values = command.decode(data)
    assert {tag.element for tag in expected.keys()} == set(values)  # noqa: SIM118 (a Dataset iterates over elements)
    for element in expected:
        raw = values[element.tag.element]
        if element.VR == "US" and not element.is_empty and element.VM == 1:
            assert int.from_bytes(raw, "little") == element.value
        elif element.VR == "UI":
            assert raw.rstrip(b"\0").decode() == element.value


@pytest.mark.parametrize("data", golden_commands())
def test_golden_commands_are_encoded_byte_for_byte(data: bytes) -> None:
    assert command.encode(command.decode(data)) == data


def test_odd_values_are_padded_according_to_their_vr() -> None:
    values = {Element.AffectedSOPClassUID: b"1.2", Element.MoveDestination: b"ARCHIVE", Element.ErrorComment: b""}
    data = command.encode(values)
    data_set = read_dataset(BytesIO(data), is_implicit_VR=True, is_little_endian=True)
    assert data_set.CommandGroupLength == len(data) - 12
    assert data_set.AffectedSOPClassUID == "1.2"
    assert data_set.MoveDestination == "ARCHIVE"
    assert data[20:24] == b"1.2\0"
    assert b"ARCHIVE " in data


def test_elements_are_written_in_ascending_order_as_pydicom_does() -> None:
    data_set = Dataset()
    data_set.CommandField = 0x8021
    data_set.Status = 0xFF00
    data_set.AffectedSOPClassUID = "1.2.840.10008.5.1.4.1.2.2.2"
    data_set.NumberOfRemainingSuboperations = 7
    expected = encode_data_set(data_set, True, True)
    ours = command.encode(
        {
            Element.NumberOfRemainingSuboperations: command.pack_uint16(7),
            Element.Status: command.pack_uint16(0xFF00),
            Element.CommandField: command.pack_uint16(0x8021),
            Element.AffectedSOPClassUID: command.pack_text("1.2.840.10008.5.1.4.1.2.2.2"),
        }
    )
    assert ours[12:] == expected


def test_a_wrong_group_length_is_ignored() -> None:
    data = bytearray(command.encode({Element.MessageID: b"\1\0"}))
    data[8:12] = b"\xff\xff\xff\xff"
    assert command.decode(data)[Element.MessageID] == b"\1\0"


def test_a_missing_group_length_is_ignored() -> None:
    assert command.decode(b"\0\0\x10\1\2\0\0\0\7\0") == {Element.MessageID: b"\7\0"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\0\4\0", "offset 0: the command set ends inside an element"),
        (b"\0\0\0\1\4\0\0\0\1\0", "offset 8: (0000,0100) has 4 bytes, 2 are left"),
        (b"\0\0\0\1\xff\xff\xff\xff\1\0", "has 4294967295 bytes, 2 are left"),
        (b"\x08\0\x16\0\0\0\0\0", "offset 0: (0008,0016) is not a command element"),
        (bytes(command.COMMAND_LENGTH_MAX + 1), "a command set of"),
    ],
)
def test_an_invalid_command_set_is_refused_with_the_offset(data: bytes, message: str) -> None:
    with pytest.raises(MessageError) as caught:
        command.decode(data)
    assert message in str(caught.value)
    assert caught.value.status == 0x0212


def test_values_are_checked_when_they_are_read() -> None:
    values = {Element.Status: b"\1", Element.MessageID: b"", Element.AffectedSOPClassUID: b"\xff\xff"}
    with pytest.raises(MessageError, match="Status has 1 bytes"):
        command.uint16_value(values, Element.Status)
    with pytest.raises(MessageError, match="MessageID is missing"):
        command.uint16_value(values, Element.MessageID)
    with pytest.raises(MessageError, match="AffectedSOPClassUID is not ASCII"):
        command.text_value(values, Element.AffectedSOPClassUID)
    with pytest.raises(MessageError, match="ErrorComment is missing"):
        command.text_value(values, Element.ErrorComment)
    assert command.text_value(values, Element.ErrorComment, "none") == "none"
    assert command.uint16_value(values, Element.MessageID, 5) == 5


def test_a_stray_byte_in_a_comment_is_kept_readable() -> None:
    assert command.text_value({Element.ErrorComment: b"gr\xfcn "}, Element.ErrorComment) == "grün"


def test_values_that_do_not_fit_raise() -> None:
    with pytest.raises(LocalProtocolError):
        command.pack_uint16(65536)
    with pytest.raises(LocalProtocolError):
        command.pack_text("Ä")


@EXAMPLES
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        command.decode(data)
    except MessageError as error:
        assert error.status == 0x0212


@EXAMPLES
@given(st.dictionaries(st.integers(1, 0xFFFF), st.binary(max_size=40).map(lambda value: value + bytes(len(value) % 2))))
def test_even_values_survive_a_round_trip(values: dict[int, bytes]) -> None:
    decoded = command.decode(command.encode(values))
    assert {element: value for element, value in decoded.items() if element} == values

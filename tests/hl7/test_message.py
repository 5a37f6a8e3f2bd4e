"""Messages are taken apart as the standard has it, and as two other parsers do; odd ones too."""

from __future__ import annotations

import hl7 as other_parser
import hl7apy.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError, MessageUnreadable
from engine.hl7 import writer
from engine.hl7.escape import escape, unescape
from engine.hl7.message import NULL, parse
from engine.hl7.separators import STANDARD
from tests.hl7.samples import ADT_A08, ALL, OMI_O23, lines

HEAD = "MSH|^~\\&|A|B|C|D|20261130||ADT^A08|1|P|2.5.1"


def test_values_are_found_by_their_numbers() -> None:
    message = parse(ADT_A08)
    assert (message.kind, message.control_id, message.version) == ("ADT^A08", "MSG00001", "2.5.1")
    assert message.header.raw(1) == "|" and message.header.raw(2) == "^~\\&"
    assert message.text("PID", 5) == "Müller" and message.text("PID", 5, 4) == "jr"
    assert message.text("PID", 3, 4, 2) == "1.2.3"
    assert [value.text(1) for value in message.all("PID")[0].repetitions(3)] == ["4711", "X99"]
    assert message.text("PID", 99) == message.text("ZZZ", 1) == message.text("PID", 3, 9, 9) == ""


def test_the_parts_of_a_value_are_those_that_are_asked_for_one_by_one() -> None:
    value = parse(lines(HEAD, "PID|1||4711^^^HO\\T\\SP&1.2.3&ISO^MR")).all("PID")[0].value(3)
    assert value.components() == [value.text(number) for number in range(1, 6)] == ["4711", "", "", "HO&SP", "MR"]
    assert value.subcomponents(4) == [value.text(4, number) for number in (1, 2, 3)] == ["HO&SP", "1.2.3", "ISO"]
    assert value.subcomponents(2) == value.subcomponents(9) == [""]


def test_segments_of_a_name_keep_their_order() -> None:
    message = parse(OMI_O23)
    assert message.names == ("MSH", "PID", "PV1", "ORC", "TQ1", "OBR", "IPC", "IPC")
    assert [segment.text(4) for segment in message.all("IPC")] == ["SPS1", "SPS2"]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\r\r", "\r\n\r\n"])
def test_segments_end_in_all_the_ways_that_are_seen(end: str) -> None:
    message = parse(end.join((HEAD, "PID|1||4711", "PV1|1|I")).encode())
    assert message.names == ("MSH", "PID", "PV1") and message.text("PID", 3) == "4711"


def test_a_line_break_in_a_text_belongs_to_the_text() -> None:
    message = parse(f"{HEAD}\rNTE|1||first line\rsecond line\rIII. third\rOBX|1|TX".encode())
    assert message.names == ("MSH", "NTE", "OBX")
    assert message.text("NTE", 3) == "first line\nsecond line\nIII. third"


def test_lines_without_a_segment_are_joined_once() -> None:
    """Not one by one: a text of many lines would be copied for each of them."""
    text = "".join(f"\r line {number}" for number in range(1000))
    message = parse(f"{HEAD}\rNTE|1||first{text}\rPV1|1|I\rlast".encode())
    assert message.names == ("MSH", "NTE", "PV1") and message.text("NTE", 3).count("\n") == 1000
    assert message.text("PV1", 2) == "I\nlast"


def test_a_header_that_no_answer_can_repeat_is_refused() -> None:
    for odd in (HEAD + "x" * 20_000, HEAD + "\rx" * 20_000):
        with pytest.raises(MessageUnreadable, match="MSH is longer"):
            parse(odd.encode())
    with pytest.raises(MessageUnreadable, match="does not begin with MSH"):
        parse((HEAD + "é").encode(), override="cp037")


@pytest.mark.parametrize("segment", ["FHS", "BHS", "BTS", "FTS"])
def test_a_batch_is_refused_in_words_of_its_own(segment: str) -> None:
    with pytest.raises(MessageUnreadable, match="a batch is not taken"):
        parse(f"\n{segment}|^~\\&|A|B\r{HEAD}\rPID|1||1\r".encode())


def test_a_message_without_its_content_still_has_what_an_answer_needs() -> None:
    message = parse(ADT_A08)
    head = message.without_content()
    assert head.names == ("MSH",) and not head.raw
    assert (head.kind, head.control_id, head.codec) == (message.kind, message.control_id, message.codec)


def test_other_separators_are_obeyed() -> None:
    message = parse(b"MSH#*+!%#A#B#C#D#2026##ADT*A08#1#P#2.3\rPID#1##47*x*y*H%2+48\r")
    assert message.kind == "ADT^A08" and message.text("PID", 3, 4, 2) == "2"
    assert [value.text() for value in message.all("PID")[0].repetitions(3)] == ["47", "48"]


def test_an_escape_means_what_the_standard_says() -> None:
    decode = bytes.decode
    cases = {
        "A\\T\\B": "A&B",
        "\\F\\\\S\\\\R\\\\E\\": "|^~\\",
        "a\\.br\\b\\.sp 2\\c": "a\nb\n\nc",
        "\\H\\bold\\N\\": "bold",
        "\\XC3BC\\": "ü",
        "\\Zanything\\x": "x",
        "C:\\Temp\\new": "C:\\Temp\\new",
        "one \\ alone": "one \\ alone",
        "\\C2842\\x\\M24242\\": "x",
        "\\X4\\": "\\X4\\",
    }
    for text, meaning in cases.items():
        assert unescape(text, STANDARD, decode) == meaning, text


@given(st.text())
def test_a_text_that_is_written_is_read_again(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    assert unescape(escape(text, STANDARD), STANDARD, bytes.decode) == plain
    assert not set("|^~&\r\n\x1c\x0b") & set(escape(text, STANDARD))


def test_null_is_a_value() -> None:
    segment = parse(f'{HEAD}\rPID|1||4711|""|""\r'.encode()).all("PID")[0]
    assert segment.value(5).is_null and segment.text(4) == NULL and not segment.value(6).is_null


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PID|1",
        b"MSH",
        b"MSH|",
        b"MSHA^~\\&",
        b"MSH||||",
        b"MSH|^^~\\&|",
        b"MSH|^~\\|&|",
        b"hello MSH|^~\\&|",
        b"MSH|^~\\&AAAAAAAA|",
    ],
)
def test_bytes_without_a_header_are_refused(data: bytes) -> None:
    if data == b"MSH|^~\\|&|":
        assert parse(data).separators.subcomponent == "&"  # a shorter MSH-2 has the standard's others
        return
    with pytest.raises(MessageUnreadable):
        parse(data)


def test_a_message_of_millions_of_segments_is_refused() -> None:
    with pytest.raises(MessageUnreadable, match="segments"):
        parse(HEAD.encode() + b"\r" * 2_000_000)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for start in (b"", b"MSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5||||||"):
        try:
            message = parse(start + data)
        except EngineError:
            continue
        for segment in message:
            for field in range(len(segment.fields)):
                assert isinstance(segment.text(field), str)
                for value in segment.repetitions(field):
                    assert all(isinstance(part, str) for part in value.components())


@pytest.mark.parametrize("data", ALL, ids=["ADT", "OMI", "ORM"])
def test_two_other_parsers_find_the_same(data: bytes) -> None:
    ours = parse(data)
    text = data.decode()
    theirs = other_parser.parse(text)
    assert [str(segment[0]) for segment in theirs] == list(ours.names)
    for number, segment in enumerate(theirs):
        mine = ours.segment_at(number)
        first = 3 if mine.name == "MSH" else 1
        for field in range(first, len(segment)):
            assert str(segment[field]) == mine.raw(field), (mine.name, field)
            for repetition, value in zip(segment[field], mine.repetitions(field), strict=False):
                if not isinstance(repetition, str):
                    assert [str(part) for part in repetition] == value.raw.split("^")
    third = hl7apy.parser.parse_message(text, find_groups=False, force_validation=False)
    assert [segment.name for segment in third.children] == list(ours.names)
    for number, segment in enumerate(third.children):
        for field in segment.children:
            column = int(field.name.rpartition("_")[2])
            mine = ours.segment_at(number)
            if mine.name == "MSH" and column <= 2:
                continue
            assert field.to_er7() in [value.raw for value in mine.repetitions(column)], (mine.name, column)


def test_what_we_write_two_other_parsers_read() -> None:
    names = ("Smith & Sons", "a|b^c~d", "back\\slash")
    head = writer.header(kind=("ORU", "R01", "ORU_R01"), control_id="77", sender=("FILMROOM", "RAD"),
                         receiver=("KIS", "ST MARY"), time=1796000000.0)  # fmt: skip
    data = writer.message([head, writer.segment("PID", "1", "", ("4711", "", "", ("HOSP", "1.2", "ISO"))),
                           writer.segment("OBX", "1", "TX", "", "", list(names))])  # fmt: skip
    ours = parse(data)
    assert [value.text() for value in ours.all("OBX")[0].repetitions(5)] == list(names)
    theirs = other_parser.parse(data.decode())
    assert [theirs.unescape(str(part)) for part in theirs.segment("OBX")[5]] == list(names)
    assert hl7apy.parser.parse_message(data.decode(), find_groups=False).pid.pid_3.cx_4.to_er7() == "HOSP&1.2&ISO"
    assert lines("PID|1") == b"PID|1\r" and data.endswith(b"\r")

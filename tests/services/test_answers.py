"""services.answers: responses of random matches against the general way, and as pydicom reads them."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydicom.multival import MultiValue

from engine.dicom import charset, extra, tags, transfer_syntax
from engine.dicom.identifier import BINARY_VRS, decode_identifier, encode_identifier
from engine.dicom.schema import STANDARD, Schema
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, UNCOMPRESSED, TransferSyntax
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.index.format.types import Level, Match, Query
from engine.services.answers import FindResponses
from engine.services.query import FindRequest
from engine.services.session import Session
from tests.oracle.foreign import read_data_set

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
CONTEXT_ID = 3
EXPLICIT = EXPLICIT_VR_LITTLE_ENDIAN

RUNS = int(os.environ.get("FILMROOM_ANSWERS_RUNS", "60"))
"""Queries a transfer syntax, of a dozen matches each."""

CHARACTER_SETS = [
    b"",
    b"ISO_IR 6",
    b"ISO_IR 100",
    b"ISO_IR 101",
    b"ISO_IR 126",
    b"ISO_IR 144",
    b"ISO_IR 13",
    b"ISO_IR 192",
    b"GB18030",
    b"GBK",
    b"\\ISO 2022 IR 87",
    b"ISO 2022 IR 13\\ISO 2022 IR 87",
    b"\\ISO 2022 IR 149",
    b"\\ISO 2022 IR 58",
]
NAMES = [
    "Doe^John",
    "Müller^Jörg",
    "Wałęsa^Łucja",
    "Διονυσιος",
    "Люкceмбypг",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
    "Hong^Gildong=洪^吉洞=홍^길동",
    "Zhang^XiaoDong=张^小东",
    "Wang^XiaoDong=王^小東",
    "",
]
TEXTS = ["Thorax p.a.", "Schädel", "Über\\Öl", "頭部", "ct", "", "x" * 63]
CODES = [tags.CodeValue, tags.CodeMeaning, tags.PatientName, tags.RequestAttributesSequence]

TAGS = [
    tags.PatientName,
    tags.PatientID,
    tags.PatientSex,
    tags.OtherPatientIDsSequence,
    tags.StudyDate,
    tags.StudyInstanceUID,
    tags.StudyDescription,
    tags.ReferringPhysicianName,
    tags.TimezoneOffsetFromUTC,
    tags.RequestAttributesSequence,
    tags.PatientComments,
    tags.Rows,
    tags.SOPInstanceUID,
    tags.PatientMotherBirthName,
]
UNKNOWN = tags.PatientMotherBirthName


# what is asked, and what matches -------------------------------------------------------------------


def session_of(syntax: TransferSyntax, fragment: int = 16378, schema: Schema = STANDARD) -> tuple[Session, list[bytes]]:
    """What FindResponses needs of a session, and the commands that were told to the wire trace."""
    traced: list[bytes] = []
    session = SimpleNamespace(
        connection=SimpleNamespace(trace_command=lambda _, command: traced.append(command)),
        contexts={CONTEXT_ID: SimpleNamespace(transfer_syntax=syntax.uid)},
        fragment=fragment,
        config=SimpleNamespace(aet="FILMROOM"),
        archive=SimpleNamespace(schema=schema),
    )
    return cast(Session, session), traced


def asked_of(
    returned: Iterable[int], character_set: bytes = b"", keys: Mapping[int, bytes] | None = None
) -> FindRequest:
    every = tuple(sorted({*returned, tags.QueryRetrieveLevel}))
    query = Query(Level.STUDY, dict.fromkeys(returned, b"") | dict(keys or {}), character_set=character_set)
    return FindRequest(query, every, b"STUDY")


def answers_of(
    syntax: TransferSyntax, asked: FindRequest, fragment: int = 16378, schema: Schema = STANDARD
) -> FindResponses:
    return FindResponses(session_of(syntax, fragment, schema)[0], CONTEXT_ID, CFindRQ(7, FIND), asked)


def text_of(rng: random.Random, tag: int) -> Any:
    """A value as text, of a sequence as its items."""
    vr = tags.vr_of(tag)
    if vr == "SQ":
        return [{inner: text_of(rng, inner) for inner in CODES[: rng.randrange(4)]} for _ in range(rng.randrange(3))]
    if vr == "PN":
        return rng.choice(NAMES)
    if vr == "US":
        return rng.choice([512, 0x09C4, 0x8080])
    if vr in charset.TEXT_VRS:
        return rng.choice(TEXTS)
    return {"UI": f"1.2.{rng.randrange(10**6)}", "DA": "20240229", "CS": "M"}.get(vr, rng.choice(["1", ""]))


def in_utf_8(value: Any) -> bytes:
    """The same as a match has it."""
    if isinstance(value, int):
        return struct.pack("<H", value)
    return value.encode() if isinstance(value, str) else items_of(value, b"ISO_IR 192")


def items_of(items: Sequence[Mapping[int, Any]], character_set: bytes) -> bytes:
    """The items of a sequence in Explicit VR Little Endian, in a character set."""
    parts = []
    for item in items:
        content = {tag: encoded(tag, value, character_set) for tag, value in item.items()}
        data = encode_identifier(content, EXPLICIT)
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data)
    return b"".join(parts)


def encoded(tag: int, value: Any, character_set: bytes) -> bytes:
    """A value in a character set. Raises LookupError if it has not all of its characters."""
    if isinstance(value, int):
        return in_utf_8(value)
    if not isinstance(value, str):
        return items_of(value, character_set)
    found = charset.encode(value, character_set, tags.vr_of(tag))
    if found is None:
        raise LookupError(value)
    return found


def is_ascii(value: Any) -> bool:
    if isinstance(value, list):
        return all(is_ascii(inner) for item in value for inner in item.values())
    return isinstance(value, int) or value.isascii()


# the general way -----------------------------------------------------------------------------------


def identifier(said: Mapping[int, Any], asked: FindRequest, syntax: TransferSyntax) -> bytes:
    """What a response says of a match, each time made from nothing."""
    answer: dict[int, Any] = {tag: said.get(tag, "") for tag in asked.return_keys}
    answer |= {tags.QueryRetrieveLevel: "STUDY", tags.RetrieveAETitle: "FILMROOM"}
    if tags.InstanceAvailability in answer:
        answer[tags.InstanceAvailability] = "ONLINE"
    if not answer.get(tags.TimezoneOffsetFromUTC, "-"):
        del answer[tags.TimezoneOffsetFromUTC]
    for character_set in (asked.query.character_set, b"ISO_IR 192"):
        try:
            values = {tag: encoded(tag, value, character_set) for tag, value in answer.items()}
        except LookupError:
            continue
        if not all(map(is_ascii, answer.values())):
            values[tags.SpecificCharacterSet] = character_set
        return encode_identifier(values, syntax)
    raise AssertionError("UTF-8 has every character")


def taken_apart(frames: bytes) -> tuple[bytes, bytes, list[int]]:
    """Command, data set and the length of each P-DATA-TF."""
    parts = {True: b"", False: b""}
    ended: list[bool] = []
    lengths = []
    at = 0
    while at < len(frames):
        kind, length = struct.unpack_from(">BxI", frames, at)
        pdv_length, context_id, control = struct.unpack_from(">IBB", frames, at + 6)
        assert (kind, context_id, pdv_length) == (4, CONTEXT_ID, length - 4)
        is_command = bool(control & 1)
        parts[is_command] += frames[at + 12 : at + 6 + length]
        ended += [is_command] * bool(control & 2)
        lengths.append(length)
        at += 6 + length
    assert ended == [True, False]
    return parts[True], parts[False], lengths


def command_of(status: int) -> bytes:
    return CFindRSP(7, FIND, status, has_data_set=True).encode()


# tests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda syntax: syntax.name)
def test_fast_encoding_gives_the_same_responses(syntax: TransferSyntax) -> None:
    for run in range(RUNS):
        rng = random.Random(f"{syntax.uid} {run}")
        returned = [*rng.sample(TAGS, rng.randrange(1, len(TAGS))), *rng.choice([[], [tags.InstanceAvailability]])]
        asked = asked_of(returned, rng.choice(CHARACTER_SETS))
        answers = answers_of(syntax, asked, rng.choice([16378, 1024, 100]))
        known = [tag for tag in sorted(returned) if tag not in (UNKNOWN, tags.InstanceAvailability)]
        said: dict[int, Any] = {}
        for _ in range(12):
            # Matches in a row have values in common, and the very same objects too.
            said |= {tag: text_of(rng, tag) for tag in known if tag not in said or rng.random() < 0.5}
            unsupported = UNKNOWN in returned
            match = Match(Level.STUDY, {tag: in_utf_8(said[tag]) for tag in known}, unsupported)
            command, data, _ = taken_apart(answers.encode(match))
            assert command == command_of(0xFF01 if unsupported else 0xFF00)
            assert data == identifier(said, asked, syntax), f"run {run} of {syntax.name}"
            _check_as_pydicom_reads(data, syntax, said)


def read(value: Any) -> str:
    """A text as pydicom has it, which leaves the escapes of GB 2312 where they are."""
    text = value if isinstance(value, MultiValue) else [str(value)]
    return "\\".join(text).replace("\x1b$)A", "")


def _check_as_pydicom_reads(data: bytes, syntax: TransferSyntax, said: Mapping[int, Any]) -> None:
    dataset = read_data_set(data, syntax)
    for tag in (tags.PatientName, tags.ReferringPhysicianName):
        if tag in said:
            assert read(dataset[tag].value) == said[tag]
    if tags.StudyDescription in said:
        assert read(dataset.StudyDescription) == said[tags.StudyDescription]
    if tags.OtherPatientIDsSequence in said:
        items = dataset.OtherPatientIDsSequence
        for item, expected in zip(items, said[tags.OtherPatientIDsSequence], strict=True):
            assert read(item.get("PatientName", "")) == expected.get(tags.PatientName, "")


@pytest.mark.parametrize(
    ("asked_set", "name", "declared"),
    [
        (b"ISO_IR 100", "Müller^Jörg", b"ISO_IR 100"),
        (b"ISO_IR 100", "Doe^John", None),
        (b"ISO_IR 100", "Wałęsa", b"ISO_IR 192"),
        (b"", "Müller", b"ISO_IR 192"),
        (b"\\ISO 2022 IR 87", "Yamada=山田", b"\\ISO 2022 IR 87"),
        (b"GB18030", "王^小東", b"GB18030"),
        (b"ISO_IR 999", "Müller", b"ISO_IR 192"),
    ],
)
def test_the_requested_character_set_is_used_if_possible(asked_set: bytes, name: str, declared: bytes | None) -> None:
    answers = answers_of(EXPLICIT, asked_of([tags.PatientName], asked_set))
    _, data, _ = taken_apart(answers.encode(Match(Level.STUDY, {tags.PatientName: name.encode()})))
    dataset = read_data_set(data, EXPLICIT)
    assert str(dataset.PatientName) == name
    found = decode_identifier(data, EXPLICIT).character_set
    assert found == (declared or b"")


def test_a_response_with_text_beyond_its_character_set_is_in_utf_8() -> None:
    answers = answers_of(EXPLICIT, asked_of([tags.PatientName, tags.StudyDescription], b"ISO_IR 100"))
    seen = []
    for name in ("Müller", "山田", "Müller", "Doe"):
        found = {tags.PatientName: name.encode(), tags.StudyDescription: "Schädel".encode()}
        dataset = read_data_set(taken_apart(answers.encode(Match(Level.STUDY, found)))[1], EXPLICIT)
        assert (str(dataset.PatientName), dataset.StudyDescription) == (name, "Schädel")
        seen.append(str(dataset.SpecificCharacterSet))
    assert seen == ["ISO_IR 100", "ISO_IR 192", "ISO_IR 100", "ISO_IR 100"]


@pytest.mark.parametrize("asked_set", [b"", b"ISO_IR 100", b"ISO_IR 192"])
def test_non_ascii_text_in_an_ascii_element_is_sent_in_utf_8(asked_set: bytes) -> None:
    answers = answers_of(EXPLICIT, asked_of([tags.PatientSex, tags.PatientName], asked_set))
    found = {tags.PatientSex: "MÄNNLICH".encode(), tags.PatientName: "Müller".encode()}
    decoded = decode_identifier(taken_apart(answers.encode(Match(Level.STUDY, found)))[1], EXPLICIT)
    assert decoded.character_set == b"ISO_IR 192"
    assert {tag: decoded.items[tag] for tag in found} == found


def test_binary_values_are_not_recoded_as_text() -> None:
    items = items_of([{tags.CodeMeaning: "x" * 200}], b"")
    answers = answers_of(EXPLICIT, asked_of([tags.Rows, tags.OtherPatientIDsSequence]))
    found = {tags.Rows: b"\xc4\x89", tags.OtherPatientIDsSequence: items}
    assert not items.isascii()
    _, data, _ = taken_apart(answers.encode(Match(Level.STUDY, found)))
    decoded = decode_identifier(data, EXPLICIT)
    assert decoded.character_set == b""
    assert decoded.items[tags.Rows] == b"\xc4\x89"


def test_long_responses_come_in_fragments_of_the_size_that_was_agreed() -> None:
    answers = answers_of(EXPLICIT, asked_of([tags.PatientComments]), fragment=100)
    found = {tags.PatientComments: b"c" * 1000}
    _, data, lengths = taken_apart(answers.encode(Match(Level.STUDY, found)))
    assert b"c" * 1000 in data
    assert max(lengths) == 106
    assert len(lengths) > 10


def test_availability_is_asked_for_each_match_where_not_all_is_online() -> None:
    values = {b"1.2.1": b"NEARLINE", b"1.2.2": b"NEARLINE", b"1.2.3": b"ONLINE", b"1.2.4": b""}
    asked = asked_of([tags.StudyInstanceUID, tags.InstanceAvailability])
    session, _ = session_of(EXPLICIT)
    answers = FindResponses(
        session, CONTEXT_ID, CFindRQ(7, FIND), asked, lambda attributes: values[attributes[tags.StudyInstanceUID]]
    )
    for uid, value in values.items():
        _, data, _ = taken_apart(answers.encode(Match(Level.STUDY, {tags.StudyInstanceUID: uid})))
        assert decode_identifier(data, EXPLICIT).items[tags.InstanceAvailability].strip() == value


def test_commands_go_to_the_wire_trace() -> None:
    session, traced = session_of(EXPLICIT)
    answers = FindResponses(session, CONTEXT_ID, CFindRQ(7, FIND), asked_of([tags.PatientName]))
    for unsupported in (False, True):
        answers.encode(Match(Level.STUDY, {tags.PatientName: b"Doe"}, unsupported))
    assert traced == [command_of(0xFF00), command_of(0xFF01)]


def test_a_private_attribute_has_the_vr_of_its_configuration() -> None:
    schema = Schema(extra.ExtraSet((extra.Extra(0x00191010, 1, "DS", "ACME 1.0"),)))
    asked = asked_of([0x00190012, 0x00191210], keys={0x00190012: b"ACME 1.0"})
    answers = answers_of(EXPLICIT, asked, schema=schema)
    match = Match(Level.STUDY, {0x00190012: b"ACME 1.0", 0x00191210: b"1.5"})
    dataset = read_data_set(taken_apart(answers.encode(match))[1], EXPLICIT)
    element = dataset.private_block(0x19, "ACME 1.0")[0x10]
    assert (element.VR, float(element.value)) == ("DS", 1.5)


def test_binary_vrs_are_known() -> None:
    assert {tags.vr_of(tag) for tag in TAGS} & BINARY_VRS == {"US"}
    assert {syntax.deflated for syntax in map(transfer_syntax.of, [one.uid for one in UNCOMPRESSED])} == {True, False}

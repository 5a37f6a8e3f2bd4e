"""Statements, facts and canonical blobs: the same in any order, and decoded from their bytes."""

from __future__ import annotations

import random
import struct
from itertools import permutations

import pytest

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.dicom.identifier import encode_identifier
from engine.dicom.schema import STANDARD
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.index.format import keys
from engine.index.format.statements import Facts, Statement, canonical, fact_values, pack_content, unpack_content
from engine.index.query.matching import sequence_items
from tests.index.entries import Tail, blob, entry

UTF_8 = b"ISO_IR 192"


def _order(number: int) -> bytes:
    return keys.ORDER.pack(number, 4096)


def test_facts_do_not_depend_on_the_order_of_statements() -> None:
    blobs = [
        (_order(1), [blob({tags.PatientName: b"", tags.PatientID: b"1"}), blob({tags.StudyID: b"s"})]),
        (_order(2), [blob({tags.PatientName: b"A", tags.PatientSex: b"M"}), blob({tags.StudyID: b""})]),
        (_order(3), [blob({tags.PatientName: b"B"}), blob({tags.StudyID: b"t", tags.StudyDate: b"20240101"})]),
    ]
    encoded = set()
    for order in permutations(blobs):
        facts = Facts.empty(2)
        for one in order:
            facts.observe(*one)
        encoded.add(facts.encode())
        assert facts.values(0) == {tags.PatientName: b"A", tags.PatientID: b"1", tags.PatientSex: b"M"}
        assert facts.values(1) == {tags.StudyID: b"s", tags.StudyDate: b"20240101"}
        assert facts.conflicts == {tags.PatientName, tags.StudyID}
    assert len(encoded) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_facts_come_back(count: int) -> None:
    rng = random.Random(count)
    facts = Facts.empty(2)
    attribute_tags = [tags.PatientName, tags.PatientID, tags.PatientSex, tags.EthnicGroup]
    for number in range(count):
        content = {tag: rng.choice((b"", b"x", b"y" * 300)) for tag in rng.sample(attribute_tags, 3)}
        facts.observe(_order(number), [blob(content), blob({tags.StudyID: b"%d" % number})])
    data = b"head" + facts.encode()
    again = Facts.decode(data, 4)
    assert (again.parts, again.conflicts) == (facts.parts, facts.conflicts)
    assert fact_values(data, 4)[0] == [facts.values(0), facts.values(1)]


def test_facts_of_one_statement_are_the_statement() -> None:
    content = [canonical(entry(Tail()).patient, b"", STANDARD), canonical(entry(Tail()).study, b"", STANDARD)]
    facts = Facts.empty(2)
    facts.observe(_order(1), content)
    assert Facts.decode(facts.encode(), 0).blobs() == content
    assert unpack_content(pack_content(*content)) == content


@pytest.mark.parametrize(
    ("declared", "raw", "text"),
    [
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        (b"ISO_IR 192", "Müller^Jörg".encode(), "Müller^Jörg"),
        (b"", "Müller".encode("latin-1"), "Müller"),
        (b"\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (b"GB18030", "王^小东".encode("gb18030"), "王^小东"),
        (b"ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    ],
)
def test_canonical_blobs_are_in_utf_8_and_do_not_change_again(declared: bytes, raw: bytes, text: str) -> None:
    once = canonical(blob({tags.PatientName: raw, tags.PatientID: b"1"}), declared, STANDARD)
    assert blob_items(once)[tags.PatientName] == text.encode()
    assert canonical(once, UTF_8, STANDARD) == once


def test_sequences_become_utf_8_at_every_depth() -> None:
    def items(*data_sets: dict[int, object]) -> bytes:
        parts = [encode_identifier(data_set, EXPLICIT_VR_LITTLE_ENDIAN) for data_set in data_sets]  # type: ignore[arg-type]
        return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part for part in parts)

    inner = items({tags.SpecificCharacterSet: b"ISO_IR 101", tags.CodeMeaning: "Głowa".encode("iso8859_2")})
    meaning = "Schädel".encode("latin-1")
    outer = items({tags.CodeMeaning: meaning, tags.CodeValue: b"1", tags.ProcedureCodeSequence: inner})
    once = canonical(blob({tags.ProcedureCodeSequence: outer}), b"ISO_IR 100", STANDARD)
    (item,) = sequence_items(blob_items(once)[tags.ProcedureCodeSequence])
    assert item[tags.CodeMeaning] == "Schädel".encode()
    (nested,) = sequence_items(item[tags.ProcedureCodeSequence])
    assert nested[tags.CodeMeaning] == "Głowa".encode()
    assert tags.SpecificCharacterSet not in nested
    assert canonical(once, UTF_8, STANDARD) == once


def test_a_damaged_sequence_is_not_changed() -> None:
    damaged = blob({tags.ProcedureCodeSequence: b"\xff" * 40})
    assert canonical(damaged, b"ISO_IR 100", STANDARD) == damaged


def test_statements_differ_when_anything_in_them_does() -> None:
    tail = Tail()
    entries = [
        entry(tail),
        entry(tail, patient={tags.PatientSex: b"M"}),
        entry(tail, study_items={tags.StudyDescription: b"x"}),
        entry(tail, series_items={tags.SeriesDescription: b"x"}),
    ]
    statements = [Statement.of(one, STANDARD) for one in entries]
    assert len({one.series_digest for one in statements}) == 4
    assert len({one.study_digest for one in statements}) == 3
    assert Statement.of(entry(tail, instance=5), STANDARD).series_digest == statements[0].series_digest


def test_keys_are_bounded_and_differ() -> None:
    texts = [b"", b"a", b"a" * 400, b"a" * 401, b"a" * 402, b"a\0b", b"a\x01b", b"\0"]
    bounded = [keys.bounded(text) for text in texts]
    assert len(set(bounded)) == len(texts)
    assert all(0 < len(key) <= 400 and b"\0" not in key for key in bounded)
    patients = [
        (b"1", b""),
        (b"1", b"A"),
        (b"", b"A"),
        (b"1\0A", b""),
        (b"x" * 399, b"y" * 399),
        (b"x" * 399, b"z" * 399),
    ]
    patient_keys = [keys.patient_key(patient_id, issuer, b"1.2") for patient_id, issuer in patients]
    assert len(set(patient_keys)) == len(patients) and max(map(len, patient_keys)) <= 400

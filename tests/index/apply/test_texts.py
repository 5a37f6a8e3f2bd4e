"""Texts of studies in blocks: the rows agree with the facts after random histories, and a scan finds at least the
studies that a test of every study finds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.dicom import tags
from engine.dicom.schema import STANDARD
from engine.index.apply.texts import TEXT_BYTES_MAX, TEXTS
from engine.index.catalog import Catalog
from engine.index.format import keys
from engine.index.format.statements import fact_values
from engine.index.format.terms import normal_values, pieces_of_patterns
from engine.index.format.types import Level, Query
from engine.index.query import text_scan
from engine.index.query.explanation import Explanation
from tests.index.entries import ROOT, Tail, entry, random_history, tombstone

NAMES = ["Doe^John", "Müller^Jörg", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Ä", "a" * 300, "", "O'Neil^Ann\\Other^Ann"]
DESCRIPTIONS = ["Thorax", "thorax a.p.", "Knee 2 (0)", "ÿþ", "", "x" * TEXT_BYTES_MAX + "end", "0", "?"]


def filled(directory: Path, count: int, seed: int = 1) -> tuple[Catalog, list[dict[int, str]]]:
    """An index with studies of one instance each, and their values."""
    rng = random.Random(seed)
    index = Catalog.open(str(directory), map_bytes=1 << 30)
    tail = Tail()
    contents = []
    entries = []
    for number in range(count):
        values = {tags.PatientName: rng.choice(NAMES), tags.StudyDescription: rng.choice(DESCRIPTIONS)}
        contents.append(values | {tags.PatientID: f"P{number}", tags.AccessionNumber: f"A{number}", tags.StudyID: "S"})
        entries.append(
            entry(
                tail,
                study=number,
                character_set=b"ISO_IR 192",
                patient={tags.PatientName: values[tags.PatientName].encode()},
                study_items={
                    tags.StudyDescription: values[tags.StudyDescription].encode(),
                    tags.StudyID: b"S",
                },
            )
        )
    index.apply(entries)
    return index, contents


def rows_of_facts(index: Catalog) -> dict[bytes, bytes]:
    """The expected rows of `texts`, made from the rows of `studies`."""
    environment = index._environment
    rows: dict[bytes, list[tuple[int, bytes]]] = {}
    with environment.reading() as txn, txn.cursor(db=environment.studies) as cursor:
        for study_id, row in cursor:
            uid_length = keys.UID_HEAD.unpack_from(row)[2]
            of_patient, of_study = fact_values(row, keys.UID_HEAD.size + uid_length)[0]
            number = keys.ID.unpack(study_id)[0]
            for tag in TEXTS:
                value = (of_patient | of_study).get(tag, b"")
                matches = {
                    text.encode()
                    for normal in normal_values(tags.vr_of(tag), value)
                    for text in (normal.split("=") if tags.vr_of(tag) == "PN" else [normal])
                    if text
                }
                cut = {text if len(text) <= TEXT_BYTES_MAX else text[:TEXT_BYTES_MAX] + b"\xfe" for text in matches}
                for text in sorted(cut):
                    entry_ = (number & 63, b"\xff" + bytes((128 | number & 63,)) + text)
                    rows.setdefault(keys.PAIR.pack(tag, number >> 6), []).append(entry_)
    return {key: b"".join(text for _, text in sorted(entries, key=lambda one: one[0])) for key, entries in rows.items()}


def rows_of(index: Catalog) -> dict[bytes, bytes]:
    with index._environment.reading() as txn, txn.cursor(db=index._environment.texts) as cursor:
        return dict(cursor)


@pytest.mark.parametrize("seed", range(8))
def test_the_rows_agree_with_the_facts_after_every_step_of_a_history(tmp_path: Path, seed: int) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 30)
    rng = random.Random(seed)
    history = random_history(rng, 60)
    while history:
        some, history = history[: rng.randrange(1, 9)], history[9:]
        index.apply(some)
        assert rows_of(index) == rows_of_facts(index), f"seed {seed}"
    index.close()


def test_the_texts_of_a_removed_study_are_removed(tmp_path: Path) -> None:
    index, _ = filled(tmp_path, 130)
    assert rows_of(index) == rows_of_facts(index)
    tail = Tail()
    tail.stamp = 10_000
    removed = random.Random(3).sample(range(130), 100)
    index.apply([tombstone(tail, *[f"{ROOT}.{number}.1.1".encode() for number in removed])])
    assert rows_of(index) == rows_of_facts(index)
    index.apply([tombstone(tail, *[f"{ROOT}.{number}.1.1".encode() for number in range(130)])])
    assert rows_of(index) == {}
    index.close()


@pytest.mark.parametrize("rows_max", [1, 4096])
def test_an_infix_is_found_at_any_place_and_with_any_page_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    monkeypatch.setattr(text_scan, "ROWS_MAX", rows_max)
    monkeypatch.setattr(text_scan, "_STEP_ROWS", rows_max)
    index, contents = filled(tmp_path, 300)
    for tag, pattern in (
        (tags.PatientName, "*ohn*"),
        (tags.PatientName, "*山*"),
        (tags.PatientName, "*org"),
        (tags.PatientName, "?oe*"),
        (tags.PatientName, "*aaa"),
        (tags.PatientName, "*nothing*"),
        (tags.PatientName, "*n*\\*ö*"),
        (tags.StudyDescription, "*hor*"),
        (tags.StudyDescription, "*0*"),
        (tags.StudyDescription, "*þ"),
        (tags.StudyDescription, "*xend"),
        (tags.StudyDescription, "*nee*0*"),
        (tags.AccessionNumber, "*99"),
        (tags.PatientID, "?99"),
        (tags.StudyID, "*S"),
    ):
        expected = [at for at, values in enumerate(contents) if _meets(tag, pattern, values[tag])]
        explanation = Explanation()
        query = Query(Level.STUDY, {tag: pattern.encode(), tags.AccessionNumber: b""}, character_set=b"ISO_IR 192")
        if tag == tags.AccessionNumber:
            query = Query(Level.STUDY, {tag: pattern.encode()}, character_set=b"ISO_IR 192")
        matches = [int(match.attributes[tags.AccessionNumber][1:]) for match in index.search(query, explanation)]
        assert matches == expected, f"{tags.keyword_of(tag)} {pattern}"
        assert explanation.access == f"texts: {tags.keyword_of(tag)}"
    index.close()


def _meets(tag: int, pattern: str, stored: str) -> bool:
    """Tests the pieces in order: enough for patterns without a `?` in the middle."""
    for one in pattern.split("\\"):
        for value in stored.split("\\"):
            for group in value.split("=") if tags.vr_of(tag) == "PN" else [value]:
                text, query_text = (group.casefold(), one.casefold()) if tags.vr_of(tag) == "PN" else (group, one)
                text, query_text = (
                    text.replace("ö", "o").replace("ä", "a").replace("ü", "u"),
                    query_text.replace("ö", "o"),
                )
                if text and _wild(query_text, text):
                    return True
    return False


def _wild(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(_wild(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and _wild(pattern[1:], text[1:])


def test_the_last_attribute_of_the_table_is_read_to_its_end(tmp_path: Path) -> None:
    index, _ = filled(tmp_path, 200)
    last = max(TEXTS)
    query = Query(Level.STUDY, {last: b"*S*", tags.StudyInstanceUID: b""})
    assert last == tags.StudyID
    assert len(list(index.search(query))) == 200
    index.close()


def test_a_pattern_without_a_piece_has_none() -> None:
    assert pieces_of_patterns(tags.StudyDescription, [["?*"]], STANDARD) == ()
    assert pieces_of_patterns(tags.StudyDescription, [["*ab*"], ["*"]], STANDARD) == ()
    assert pieces_of_patterns(tags.PatientName, [["*ab*cde", "x"]], STANDARD) == (b"cde",)


def test_the_start_of_a_searched_attribute_is_left_to_search() -> None:
    assert pieces_of_patterns(tags.StudyDescription, [["abcdef*"]], STANDARD) == ()
    assert pieces_of_patterns(tags.StudyDescription, [["abcdef*xy*"]], STANDARD) == (b"xy",)

"""The shortcut for new studies and series gives the same index, byte for byte, as all steps one by one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.dicom import tags
from engine.index.apply.overlay import Overlay
from engine.index.catalog import Catalog
from engine.index.database.tables import TABLES
from engine.index.format.statements import Facts, facts_of, repeats
from tests.index.entries import Tail, blob, entry, random_history

ORDER = b"\1" * 16
LATER = b"\2" * 16


def dump(index: Catalog) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every row of every table."""
    rows = {}
    with index._environment.reading() as txn:
        for name in TABLES:
            with txn.cursor(db=getattr(index._environment, name)) as cursor:
                rows[name] = list(cursor)
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_the_shortcut_for_new_studies_and_series_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    history = random_history(rng, 80)
    pieces = []
    while history:
        count = rng.randrange(1, 20)
        pieces.append(history[:count])
        history = history[count:]
    short = Catalog.open(str(tmp_path / "short"), map_bytes=1 << 30)
    for piece in pieces:
        short.apply(piece)
    monkeypatch.setattr(Overlay, "begin", lambda self, txn: setattr(self, "is_empty", False))
    every_step = Catalog.open(str(tmp_path / "every step"), map_bytes=1 << 30)
    for piece in pieces:
        every_step.apply(piece)
    assert dump(short) == dump(every_step), f"seed {seed}"
    short.close()
    every_step.close()


def test_a_new_study_adds_its_facts_to_its_patient_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = Tail()
    one = {tags.PatientID: b"P", tags.PatientName: b"Doe^John"}
    stored = [
        entry(tail, study=number, patient=one | other, stamp=stamp)
        for number, stamp, other in (
            (1, 500, {}),
            (2, 600, {}),
            (3, 400, {}),
            (4, 700, {tags.PatientName: b"Doe^Jane"}),
            (5, 300, {tags.PatientName: b"Doe^Jim"}),
            (6, 800, {tags.PatientSex: b"M"}),
            (7, 200, {tags.PatientName: b""}),
        )
    ]
    dumps = []
    for name in ("short", "every step"):
        if name == "every step":
            monkeypatch.setattr(Overlay, "begin", lambda self, txn: setattr(self, "is_empty", False))
        index = Catalog.open(str(tmp_path / name), map_bytes=1 << 30)
        for each in stored:
            index.apply([each])
        dumps.append(dump(index))
        index.close()
    assert dumps[0] == dumps[1]
    assert b"Doe^Jim" in dumps[0]["patients"][0][1]


def test_keys_that_are_put_and_removed_in_one_batch_are_gone(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 30)
    tail = Tail()
    late = entry(tail, study=1, instance=1, patient={tags.PatientName: b"Late^Name"})
    early = entry(tail, study=1, instance=2, patient={tags.PatientName: b"Early^Name"}, stamp=1)
    index.apply([late, early])
    search_keys = {key[5:] for key, _ in dump(index)["search"] if key[:4] == tags.PatientName.to_bytes(4, "big")}
    assert b"early^name" in search_keys
    assert b"early" in search_keys
    assert not any(key.startswith(b"late") for key in search_keys)
    index.close()


@pytest.mark.parametrize(
    "blobs",
    [
        (b"",),
        (b"", b""),
        (blob({tags.PatientName: b"Doe"}),),
        (blob({tags.PatientName: b"", tags.PatientID: b"1"}), blob({tags.StudyID: b"S"})),
        (b"", blob({tags.StudyID: b""})),
    ],
)
def test_facts_of_one_statement_equal_those_after_observing_it(blobs: tuple[bytes, ...]) -> None:
    facts = Facts.empty(len(blobs))
    facts.observe(ORDER, blobs)
    assert facts_of(ORDER, *blobs) == facts.encode()


def test_a_row_repeats_another_only_if_observing_changes_nothing() -> None:
    patient = blob({tags.PatientName: b"Doe", tags.PatientID: b"1"})
    head = b"head"
    row = head + facts_of(ORDER, patient)
    assert repeats(row, head + facts_of(LATER, patient), len(head))
    assert repeats(row, row, len(head))
    assert not repeats(head + facts_of(LATER, patient), row, len(head))
    other = blob({tags.PatientName: b"Dof", tags.PatientID: b"1"})
    assert not repeats(row, head + facts_of(LATER, other), len(head))
    assert not repeats(row, head + facts_of(LATER, patient, b""), len(head))
    of_two = Facts.empty(1)
    of_two.observe(ORDER, [patient])
    of_two.observe(LATER, [other])
    assert not repeats(head + of_two.encode(), head + facts_of(LATER, patient), len(head))

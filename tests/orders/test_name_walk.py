"""A query for names finds what a look at every step finds, also when it goes by the index of names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.dicom.identifier import decode_identifier, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.orders import name_walk, worklist
from engine.orders.entry import Entry
from engine.orders.registry import Orders
from engine.orders.settings import Worklist
from engine.orders.values import Identifier, PatientMerge
from tests.orders.conftest import HOSPITAL, RIS, Unsynced, opening, order, patient, step

LONG = "X" * 450
NAMES = {
    "P1": "Müller^Jörg", "P2": "Muller^Anna", "P3": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "P4": "van der Berg^Jan^^Dr.", "P5": f"{LONG}^End", "P6": "Doe", "P7": "", "P8": "O'Neil^Mary  Ann", "P9": "a*b^c",
}  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orders]:
    """Nobody changes it."""
    for open_ in opening(tmp_path_factory.mktemp("named"), Unsynced()):
        yield filled(open_())


def filled(orders: Orders) -> Orders:
    for count, (number, name) in enumerate(NAMES.items()):
        steps = [step(f"S{count}", date=f"2026120{count % 3 + 1}"), step(f"T{count}", date="20270101")]
        orders.apply(order(f"A{count}", patient(number, name), *steps), RIS)
    return orders


def question(name: str, date: str = "") -> worklist.Question:
    item = DataSet({tags.ScheduledProcedureStepStartDate: date.encode()}, b"ISO_IR 192")
    root = {tags.PatientName: name.encode(), tags.ScheduledProcedureStepSequence: [item]}
    encoded = encode_identifier({tags.SpecificCharacterSet: b"ISO_IR 192", **root}, EXPLICIT_VR_LITTLE_ENDIAN)
    return worklist.question_of(decode_identifier(encoded, EXPLICIT_VR_LITTLE_ENDIAN), Worklist())


def found(orders: Orders, asked: worklist.Question) -> tuple[list[str], int]:
    """The Patient IDs of the entries, and how many steps were looked at."""
    search, entries = worklist.Search(asked), list[Entry]()
    while True:
        with orders.read() as reading:
            more = search.next(reading)
        if more is None:
            return sorted(entry.patient.identifiers[0].value for entry in entries), search.candidates
        entries += more


@pytest.mark.parametrize("at_once", [1, 4000])
@pytest.mark.parametrize(
    "name",
    ["mul*", "M?LLER*", "*jörg", "*^an*", "doe", "DOE^*", "*山*", "=山田*", "yamada*=*太郎", "*おう", "van  der*",
     "*end", f"{'x' * 200}*d", "*mary ann", "nobody*", "mül*\\doe", "?oe", "a*b*", "*\\doe", "o'n*"],
)  # fmt: skip
def test_a_walk_over_names_finds_what_a_walk_over_steps_finds(
    named: Orders, monkeypatch: pytest.MonkeyPatch, name: str, at_once: int
) -> None:
    monkeypatch.setattr(worklist, "FEW_DAYS", 1 << 40)
    expected, all_steps = found(named, question(name))
    monkeypatch.undo()
    monkeypatch.setattr(name_walk, "NAMES_AT_ONCE", at_once)
    monkeypatch.setattr(name_walk, "PATIENTS_AT_ONCE", at_once)
    entries, candidates = found(named, question(name))
    assert entries == expected
    assert candidates < all_steps or name.startswith("*\\")
    assert found(named, question(name, "20261201-20261203"))[0] == expected[::2]


def test_a_name_leads_to_the_patient_who_has_it_now(orders: Orders) -> None:
    named = filled(orders)
    assert found(named, question("doe*"))[0] == ["P6", "P6"]
    named.apply(patient("P6", "Roe^Jane"), RIS)
    assert found(named, question("doe*"))[0] == []
    assert found(named, question("ROE^*"))[0] == ["P6", "P6"]
    named.apply(PatientMerge(survivor=patient("P1", "Müller^Jörg"), prior=Identifier("P6", HOSPITAL)), RIS)
    assert found(named, question("roe*"))[0] == []
    assert found(named, question("müller*^j*"))[0] == ["P1"] * 4


def test_every_key_counts_beside_the_name(named: Orders) -> None:
    assert found(named, question("m*", "20270101-"))[0] == ["P1", "P2"]
    assert found(named, question("m*", "20261201-20261231"))[0] == ["P1", "P2"]


def test_a_key_that_every_name_meets_needs_no_walk() -> None:
    assert name_walk.NameWalk.of(["doe*"]) is not None
    assert name_walk.NameWalk.of([]) is None and name_walk.NameWalk.of(["doe*", "="]) is None


@pytest.mark.parametrize(
    ("days", "expected"),
    [("20261231-20270102", False), ("20270101-20270108", False), ("20270101-20270109", True), ("20261201-", True),
     ("-20261201", True), ("20261231", False)],
)  # fmt: skip
def test_names_are_walked_where_many_days_are_asked_for_also_over_a_new_year(
    named: Orders, monkeypatch: pytest.MonkeyPatch, days: str, expected: bool
) -> None:
    walks, of = list[bool](), name_walk.NameWalk.of
    monkeypatch.setattr(name_walk.NameWalk, "of", lambda texts: walks.append(True) or of(texts))
    found(named, question("m*", days))
    assert bool(walks) is expected

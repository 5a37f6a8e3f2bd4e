"""A merge of patients is a record; undone, everything that moved is back, and its message does not merge again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.errors import StorageFull, UpdateRefused
from engine.orders import ordering, patients
from engine.orders.registry import Orders
from engine.orders.unmerging import STAY
from engine.orders.values import ChangeKind, Identifier, PatientMerge, PatientUpdate, Source, Update, VisitUpdate
from tests.orders.conftest import HOSPITAL, Open, RecordedCorrections, order, patient
from tests.orders.test_registry import everything

ANN = Source(name="ann")
MERGE = PatientMerge(survivor=patient("P2", "B"), prior=Identifier("P1", HOSPITAL))


def say(orders: Orders, number: int, *values: Update) -> list[str]:
    """Applies values as messages; returns what the last one changed and warned of."""
    applied = [orders.apply(value, Source(name="KIS", reference=f"hl7:{number}")) for value in values][-1]
    return [f"{change.kind.value} {change.action}" for change in applied.changes] + list(applied.warnings)


def owner(orders: Orders, number: str) -> tuple[int, list[str]] | None:
    """The patient with an identifier, and all that it has."""
    with orders.read() as reading:
        found = patients.find(reading, Identifier(number, HOSPITAL))
    return None if found is None else (found[0], [each.value for each in found[1].identifiers])


def patient_of(orders: Orders, accession: str) -> int:
    with orders.read() as reading:
        found = ordering.find(reading, accession=Identifier(accession, HOSPITAL))
    assert found is not None
    return found[1].patient


def test_an_undo_gives_back_what_moved_and_leaves_what_came_later(orders: Orders) -> None:
    visit = VisitUpdate(visit=Identifier("V1", HOSPITAL), patient=(Identifier("P1", HOSPITAL),))
    say(orders, 1, patient("P1", "A"), order("A1", patient("P1", "A")), visit, patient("P2", "B"))
    before = owner(orders, "P1"), owner(orders, "P2"), patient_of(orders, "A1")
    assert say(orders, 2, MERGE)[-1] == "patient merged"
    say(orders, 3, order("A2", patient("P2", "B")))
    ((number, row),) = orders.merges()
    assert (str(row.prior), row.by, row.references) == ("P1@HOSP", "KIS", ("hl7:2",))
    applied = orders.unmerge(number, ANN, "two persons")
    assert applied.warnings == (STAY,)
    assert (owner(orders, "P1"), owner(orders, "P2"), patient_of(orders, "A1")) == before
    assert patient_of(orders, "A2") == before[1][0]  # type: ignore[index]
    with orders.read() as reading:
        assert [each.patient for _, each in reading.rows(reading.database.visits)] == [before[2]]
    corrections = orders.corrections
    assert isinstance(corrections, RecordedCorrections)
    assert corrections.unmerged == [("P1@HOSP", "P2@HOSP")]
    ((_, row),) = orders.merges()
    assert (row.undone_by, row.reason) == ("ann", "two persons")


def test_messages_that_said_it_do_not_merge_again_and_a_new_one_does(orders: Orders) -> None:
    say(orders, 1, patient("P1", "A"), patient("P2", "B"))
    say(orders, 2, MERGE)
    assert say(orders, 3, MERGE) == []
    ((number, row),) = orders.merges()
    assert row.references == ("hl7:2", "hl7:3")
    orders.unmerge(number, ANN, "no")
    for replayed in (2, 3, 2):
        assert say(orders, replayed, MERGE) == ["this merge was undone: only a new message makes it again"]
        assert owner(orders, "P1") != owner(orders, "P2")
    assert "patient merged" in say(orders, 4, MERGE)
    assert owner(orders, "P1") == owner(orders, "P2")
    assert [bool(row.undone_by) for _, row in orders.merges()] == [False, True]
    assert say(orders, 2, MERGE) == ["this merge was undone: only a new message makes it again"]
    assert owner(orders, "P1") == owner(orders, "P2"), "the new one is in force"


def test_an_unknown_prior_and_a_chain_of_merges_are_undone(orders: Orders) -> None:
    say(orders, 1, MERGE)
    ((first, _),) = orders.merges()
    say(orders, 2, PatientMerge(survivor=patient("P3", "C"), prior=Identifier("P2", HOSPITAL)))
    assert owner(orders, "P1") == owner(orders, "P3")
    orders.unmerge(first, ANN, "no")
    assert owner(orders, "P1") is None
    assert owner(orders, "P2") == owner(orders, "P3")
    second = next(number for number, row in orders.merges() if not row.undone_by)
    orders.unmerge(second, ANN, "no")
    assert (owner(orders, "P2") or (0, []))[1] == ["P2"] and (owner(orders, "P3") or (0, []))[1] == ["P3"]


def test_what_cannot_be_undone_is_refused_and_changes_nothing(orders: Orders) -> None:
    say(orders, 1, patient("P1", "A"), MERGE)
    ((number, _),) = orders.merges()
    orders.unmerge(number, ANN, "no")
    before = everything(orders)
    for wrong, why in ((number, "undone already, by ann"), (number + 99, "no merge"), (0, "no merge"), (1 << 70, "no")):
        with pytest.raises(UpdateRefused, match=why):
            orders.unmerge(wrong, ANN, "no")
    assert everything(orders) == before


def test_an_undo_that_did_not_reach_the_archive_reaches_it_when_it_is_said_again(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(orders, 1, patient("P1", "A"), MERGE)
    ((number, _),) = orders.merges()
    told: list[tuple[str, str]] = []

    def unmerge(prior: Identifier, survivors: Sequence[Identifier], source: Source, reason: str) -> Sequence[str]:
        told.append((str(prior), str(survivors[0])))
        if len(told) == 1:
            raise StorageFull("the disk is full")
        return ["7"] if len(told) == 2 else []

    monkeypatch.setattr(orders.corrections, "unmerge", unmerge)
    with pytest.raises(StorageFull):
        orders.unmerge(number, ANN, "no")
    before = everything(orders)
    assert [(each.kind, each.action) for each in orders.unmerge(number, ANN, "no").changes] == [
        (ChangeKind.CORRECTION, "undone")
    ]
    with pytest.raises(UpdateRefused, match="undone already, by ann"):
        orders.unmerge(number, ANN, "no")
    assert everything(orders) == before
    assert told == [("P1@HOSP", "P2@HOSP")] * 3
    say(orders, 2, MERGE)
    with pytest.raises(UpdateRefused, match="undone already, by ann"):
        orders.unmerge(number, ANN, "no")
    assert len(told) == 3, "a later merge is in force"


def test_merges_survive_a_restart_and_the_loss_of_the_database(tmp_path: Path, opened: Open) -> None:
    orders = opened()
    say(orders, 1, patient("P1", "A"), PatientUpdate(identifiers=(Identifier("P2", HOSPITAL),), attributes={}), MERGE)
    ((number, _),) = orders.merges()
    orders.unmerge(number, ANN, "no")
    before = everything(orders)
    orders.close()
    shutil.rmtree(tmp_path / "hospital" / "index")
    again = opened()
    assert everything(again) == before
    assert say(again, 1, MERGE) == ["this merge was undone: only a new message makes it again"]

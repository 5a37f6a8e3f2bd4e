"""The index of workitems against a reading of each one: the same answers, in order, and nothing decoded for nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.orders.attributes import Items, values_of
from engine.orders.registry import Orders
from engine.orders.values import Identifier, PatientMerge, PatientUpdate, Source
from engine.orders.workitems import facts, life, search, subscriptions
from engine.orders.workitems.facts import start_key, text_of
from engine.orders.workitems.rules import State
from engine.orders.workitems.search import Question, Search, question_of
from engine.orders.workitems.store import Workitems
from tests.orders.conftest import Open, Unsynced, opening
from tests.orders.workitem_sets import changed, code, scheduled

LONG = b"a label of more than sixty-four letters, which is cut in the keys of the index: "
LABELS = (b"AI", b"Reading", LONG + b"one", LONG + b"two", "L\u00fcge".encode())
STARTS = (b"20261201", b"20261201090000", b"202612010900+0100", b"20261202101500.5", b"2026", b"20261130235959-0500")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the registry of this test."""
    yield from opening(tmp_path, Unsynced())


def random_set(chosen: random.Random) -> DataSet:
    """A new workitem; every tenth has more than the index keeps."""
    stations = [
        code(chosen.choice((b"AI1", b"AI2", b"CT*1")))[0] for _ in range(chosen.choices((0, 1, 2, 17), (4, 4, 4, 1))[0])
    ]
    stations += [code(b"S%d" % number)[0] for number in range(chosen.choices((0, 101), (40, 1))[0])]
    requests = [
        DataSet({tags.StudyInstanceUID: b"1.2.%d" % chosen.randrange(4), tags.AccessionNumber: b"A%d" % number})
        for number in range(chosen.randrange(3))
    ]
    return scheduled(
        WorklistLabel=chosen.choice(LABELS),
        ProcedureStepLabel=chosen.choice((b"Segment", b"Check", b"x" * 300)),
        ScheduledProcedureStepStartDateTime=chosen.choice(STARTS),
        ScheduledProcedureStepPriority=chosen.choice((b"HIGH", b"LOW")),
        PatientID=b"P%d" % chosen.randrange(5),
        StudyInstanceUID=chosen.choice((b"", b"1.2.1")),
        ScheduledStationNameCodeSequence=stations,
        ReferencedRequestSequence=requests,
        CommentsOnTheScheduledProcedureStep=chosen.choice((b"", b"soon")),
        SpecificCharacterSet=b"ISO_IR 192",
    )


def random_keys(chosen: random.Random) -> DataSet:
    station = chosen.choice((b"AI1", b"AI*", b"AI1\\AI2"))
    possible: dict[int, bytes | list[DataSet]] = {
        tags.ProcedureStepState: chosen.choice((b"SCHEDULED", b"IN PROGRESS\\CANCELED", b"SCHED*")),
        tags.WorklistLabel: chosen.choice((*LABELS, b"A?", b"*")),
        tags.ProcedureStepLabel: chosen.choice((b"Segment", b"x" * 300, b"S*")),
        tags.ScheduledProcedureStepStartDateTime: chosen.choice((*STARTS, b"20261201-", b"-20261201120000")),
        tags.ScheduledProcedureStepPriority: b"HIGH",
        tags.PatientID: chosen.choice((b"P1", b"P2", b"P3", b"P?", b"P0\\P4")),
        tags.PatientName: b"doe^*",
        tags.StudyInstanceUID: b"1.2.1",
        tags.CommentsOnTheScheduledProcedureStep: b"soon",
        tags.ScheduledStationNameCodeSequence: [DataSet({tags.CodeValue: station})],
        tags.ReferencedRequestSequence: [
            DataSet({tags.StudyInstanceUID: b"1.2.2", tags.AccessionNumber: chosen.choice((b"", b"A0"))})
        ],
    }
    chosen_tags = chosen.sample(sorted(possible), chosen.choice((0, 1, 1, 2, 3)))
    return DataSet({tag: possible[tag] for tag in chosen_tags}, b"ISO_IR 192")


def all_items(orders: Orders) -> list[tuple[str, Items]]:
    """Every workitem, in the order of the starts."""
    found = []
    with orders.read() as reading:
        for key, row in reading.rows(reading.database.workitems):
            items = life.attributes_of(reading, row)
            found.append((start_key(text_of(items, tags.ScheduledProcedureStepStartDateTime)), key.decode(), items))
    return [each[1:] for each in sorted(found, key=lambda each: each[:2])]


def searched(workitems: Workitems, question: Question, **how: object) -> list[str]:
    found: list[str] = []
    running = Search(question, **how)  # type: ignore[arg-type]
    while (matches := workitems.read(running)) is not None:
        found += [uid for uid, _ in matches]
    return found


@pytest.mark.parametrize("seed", range(2))
def test_a_search_answers_as_a_reading_of_every_workitem_does(
    opened: Open, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WORKITEMS_AT_ONCE", 7)
    monkeypatch.setattr(search, "WAY_MAX", 12)
    monkeypatch.setattr(search, "PREFIXES_MAX", 2 + seed)
    chosen = random.Random(seed)
    orders = opened()
    workitems = Workitems(orders)
    for number in range(5):
        orders.apply(PatientUpdate(identifiers=(Identifier(f"P{number}"),)), Source(name="ris"))
    uids = [f"1.2.3.{number}" for number in range(60)]
    for uid in uids:
        workitems.create(uid, random_set(chosen), "AI", is_ours=True)
    for uid in chosen.sample(uids, 20):
        workitems.request_cancel(uid, DataSet({}), "AI")
    for uid in chosen.sample(uids, 20):
        if text_of(workitems.get(uid), tags.ProcedureStepState) == State.SCHEDULED:
            workitems.update(uid, changed("", WorklistLabel=chosen.choice(LABELS)), "AI", is_ours=True)
            workitems.change_state(uid, "IN PROGRESS", "1.2.9", "AI")
    for prior, survivor in (("P1", "P2"), ("P2", "P3")):
        orders.apply(
            PatientMerge(prior=Identifier(prior), survivor=PatientUpdate(identifiers=(Identifier(survivor),))),
            Source(name="ris"),
        )
    stored = all_items(orders)
    for _ in range(60):
        question = question_of(random_keys(chosen))
        if chosen.randrange(4) == 0:
            question.reach = lambda items: text_of(items, tags.PatientID) != "P3"
        expected = [
            uid
            for uid, items in stored
            if question.conditions.admit(items) and (question.reach is None or question.reach(items))
        ]
        assert searched(workitems, question) == expected, question.keys
        assert searched(workitems, question, is_brief=True) == expected, question.keys
        assert searched(workitems, question, skip=5) == expected[5:], question.keys


def tables_of(orders: Orders) -> list[list[tuple[bytes, bytes]]]:
    with orders.read() as reading:
        index = reading.database.workitem_index
        return [list(reading._scan(handle, b"")) for handle in index.handles]


def test_a_database_of_an_earlier_format_is_made_anew_with_its_index(opened: Open) -> None:
    chosen = random.Random(7)
    orders = opened()
    workitems = Workitems(orders)
    for number in range(30):
        workitems.create(f"1.2.3.{number}", random_set(chosen), "AI", is_ours=True)
        if number % 3 == 0:
            workitems.request_cancel(f"1.2.3.{number}", DataSet({}), "AI")
    assert workitems.forget(-60) == 10
    before = tables_of(orders)
    with orders.passing() as writing:
        for handle in writing.database.workitem_index.handles:
            writing.drop(handle)
        writing.set_meta(b"format", b"2")
    orders.close()
    assert all(before)
    with (again := opened()).read() as reading:
        assert reading.workitem_count("SCHEDULED") == 20
        assert reading.workitem_count("CANCELED") == 0
        long, short = (label.decode()[:64] for label in (LABELS[2], LABELS[0]))
        assert {short, long} <= set(reading.worklist_labels())
    assert tables_of(again) == before


def test_what_the_index_answers_is_not_decoded(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    workitems = Workitems(opened())
    for number in range(50):
        workitems.create(f"1.2.3.{number}", scheduled(PatientID=b"P%d" % number), "AI")
    decoded: list[object] = []
    real = subscriptions.decoded
    monkeypatch.setattr(subscriptions, "decoded", lambda row: decoded.append(row) or real(row))
    question = question_of(DataSet({tags.ProcedureStepState: b"SCHEDULED", tags.PatientID: b"P4?"}))
    assert len(searched(workitems, question, is_brief=True)) == 10
    assert not decoded
    assert len(searched(workitems, question, skip=7)) == 3
    assert len(decoded) == 3


def test_a_search_goes_on_at_a_position_though_workitems_come_and_go(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SLICE_S", 60.0)  # a slow machine would get fewer at once
    orders = opened()
    workitems = Workitems(orders)
    for number in range(10):
        workitems.create(f"1.2.3.{number}", scheduled(), "AI")
    question = question_of(DataSet({tags.ProcedureStepState: b"SCHEDULED"}))
    with orders.read() as reading:
        first = Search(question).next_placed(reading)
    assert first is not None
    position = first[4][0]
    workitems.request_cancel("1.2.3.4", DataSet({}), "AI")
    workitems.create("1.2.3.45", scheduled(), "AI")
    assert searched(workitems, question, after=position) == [
        "1.2.3.45",
        *(f"1.2.3.{number}" for number in range(5, 10)),
    ]


def test_a_query_that_facts_answer_is_answered_as_the_data_set_would(opened: Open) -> None:
    workitems = Workitems(opened())
    chosen = random.Random(9)
    for number in range(30):
        workitems.create(f"1.2.3.{number}", random_set(chosen), "AI", is_ours=True)
    item = DataSet({tags.CodeValue: b"", tags.CodeMeaning: b""})
    asked: dict[int, bytes | list[DataSet]] = {
        **dict.fromkeys((tags.SOPInstanceUID, tags.PatientName, tags.WorklistLabel, tags.StudyInstanceUID), b""),
        tags.ProcedureStepLabel: b"S*",
        tags.ScheduledStationNameCodeSequence: [item],
    }
    identifier = DataSet(asked)
    assert facts.covers(identifier)
    answers = []
    for is_brief in (True, False):
        running, found = Search(question_of(identifier), is_brief=is_brief), list[object]()
        while (more := workitems.read(running)) is not None:
            found += [search.requested_of(items, identifier) for _, items in more]
        answers.append(repr([_plain(each) for each in found]))
    assert answers[0] == answers[1] and len(answers[0]) > 100
    for tag, value in (
        (tags.CommentsOnTheScheduledProcedureStep, b""),
        (tags.ScheduledStationNameCodeSequence, []),
        (tags.ScheduledStationNameCodeSequence, [DataSet({})]),
        (tags.ScheduledStationNameCodeSequence, [DataSet({tags.CodingSchemeVersion: b""})]),
        (tags.InputInformationSequence, []),
    ):
        assert not facts.covers(DataSet({**asked, tag: value}))


def _plain(items: Any) -> Any:
    """Items and identifiers alike."""
    return {tag: value if isinstance(value, bytes) else [_plain(values_of(each)) for each in value]
            for tag, value in items.items()}  # fmt: skip

"""The registry: what values mean, repeated, in another order, after a restart and without its database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.errors import UpdateRefused
from engine.orders import linking, ordering, patients, performing
from engine.orders.registry import NoRules, Orders, Place
from engine.orders.transactions import Reading
from engine.orders.values import (
    Applied,
    AppointmentAction,
    AppointmentUpdate,
    ChangeKind,
    Identifier,
    Issuer,
    OrderAction,
    PatientIdentifierChange,
    PatientIdentifierMove,
    PatientLink,
    PatientMerge,
    PatientUpdate,
    ProcedureUpdate,
    ReportState,
    ReportUpdate,
    Source,
    StepState,
    StepUpdate,
    Update,
    VisitMove,
    VisitState,
    VisitUpdate,
)
from engine.storage import keyring
from engine.storage.files import Files
from engine.storage.keyring import DataKey
from tests.orders.conftest import HOSPITAL, RIS, Open, RecordedCorrections, order, patient, step


def apply(orders: Orders, *values: Update) -> Applied:
    """Applies values; returns what the last one did."""
    return [orders.apply(value, RIS) for value in values][-1]


def actions(applied: Applied) -> list[tuple[str, str]]:
    return [(change.kind.value, change.action) for change in applied.changes]


def name_of(orders: Orders, number: str, issuer: Issuer = HOSPITAL) -> str:
    with orders.read() as reading:
        found = patients.find(reading, Identifier(number, issuer))
    return "" if found is None else str(found[1].attributes.get("PatientName", ""))


def states(orders: Orders, accession: str = "A1") -> list[str]:
    with orders.read() as reading:
        found = ordering.find(reading, accession=Identifier(accession, HOSPITAL))
        assert found is not None
        return [row.state for _, row in ordering.steps_of(reading, found[0])]


def everything(orders: Orders) -> dict[str, list[tuple[bytes, bytes]]]:
    with orders.read() as reading:
        rows = {table.name: list(reading.raw_rows(table)) for table in reading.database.tables}
        return rows | {"names": list(_all(reading, "names")), "days": list(_all(reading, "days"))}


def _all(reading: Reading, name: str) -> list[tuple[bytes, bytes]]:
    if name == "days":
        return list(reading.days_from(b"\0"))
    return [(key, number.to_bytes(8, "big")) for key, number in reading.names_from(b"")]


# patients --------------------------------------------------------------------------------------------


def test_a_patient_is_created_changed_and_the_same_again_changes_nothing(orders: Orders) -> None:
    assert actions(apply(orders, patient())) == [("patient", "created")]
    assert actions(apply(orders, patient())) == []
    changed = apply(orders, patient(name="Roe^Jane"))
    assert actions(changed) == [("patient", "changed")] and changed.changes[0].keywords == ("PatientName",)
    assert name_of(orders, "P1") == "Roe^Jane"


def test_an_absent_attribute_stays_an_empty_one_goes_and_a_snapshot_removes_what_it_lacks(orders: Orders) -> None:
    apply(orders, patient(PatientSex="F", PatientBirthDate="19700101"))
    apply(orders, patient(PatientSex=""))
    with orders.read() as reading:
        found = patients.find(reading, Identifier("P1", HOSPITAL))
    assert found is not None and found[1].attributes == {"PatientName": "Doe^Jane", "PatientBirthDate": "19700101"}
    apply(
        orders, PatientUpdate(identifiers=(Identifier("P1", HOSPITAL),), attributes={"PatientSex": "M"}, snapshot=True)
    )
    with orders.read() as reading:
        found = patients.find(reading, Identifier("P1", HOSPITAL))
    assert found is not None and found[1].attributes == {"PatientSex": "M"}


def test_one_number_of_two_authorities_is_two_patients(orders: Orders) -> None:
    apply(orders, patient(name="A"), patient(name="B", issuer=Issuer("OTHER")), patient(name="C", issuer=Issuer()))
    assert [name_of(orders, "P1", issuer) for issuer in (HOSPITAL, Issuer("OTHER"), Issuer())] == ["A", "B", "C"]


def test_an_authority_is_the_same_by_its_universal_id_or_else_its_name(orders: Orders) -> None:
    full = Issuer("HOSP", "1.2.3", "ISO")
    apply(orders, patient(name="A", issuer=full))
    assert name_of(orders, "P1", Issuer("", "1.2.3", "ISO")) == "A"
    assert name_of(orders, "P1", HOSPITAL) == "A"
    assert name_of(orders, "P1", Issuer("HOSP", "9.9", "ISO")) == ""


def test_leading_zeros_and_blanks_within_an_identifier_count(orders: Orders) -> None:
    apply(orders, patient("007", "A"), patient("7", "B"), patient("0 07", "C"))
    assert [name_of(orders, number) for number in ("007", "7", "0 07")] == ["A", "B", "C"]


def test_a_further_identifier_finds_the_same_patient(orders: Orders) -> None:
    national = Identifier("N1", Issuer("STATE"))
    both = PatientUpdate(identifiers=(Identifier("P1", HOSPITAL), national), attributes={"PatientName": "A"})
    apply(orders, both, PatientUpdate(identifiers=(national,), attributes={"PatientName": "B"}))
    assert name_of(orders, "P1") == name_of(orders, "N1", Issuer("STATE")) == "B"


def test_a_merge_moves_identifiers_and_orders_and_its_repetition_changes_nothing(orders: Orders) -> None:
    merge = PatientMerge(survivor=patient("P2", "Old^Name"), prior=Identifier("P1", HOSPITAL))
    apply(orders, order("A1", patient("P1")), patient("P2", "Old^Name"))
    assert ("patient", "merged") in actions(apply(orders, merge))
    assert name_of(orders, "P1") == "Old^Name"
    with orders.read() as reading:
        found = ordering.find(reading, accession=Identifier("A1", HOSPITAL))
        survivor = patients.find(reading, Identifier("P2", HOSPITAL))
    assert found is not None and survivor is not None and found[1].patient == survivor[0]
    assert actions(apply(orders, merge)) == []


def test_the_inverse_of_a_merge_is_refused(orders: Orders) -> None:
    apply(orders, PatientMerge(survivor=patient("P2"), prior=Identifier("P1", HOSPITAL)))
    with pytest.raises(UpdateRefused) as refused:
        apply(orders, PatientMerge(survivor=patient("P1"), prior=Identifier("P2", HOSPITAL)))
    assert refused.value.reason == "duplicate-key"


def test_a_merge_of_unknown_patients_counts_for_those_that_come_later(orders: Orders) -> None:
    apply(orders, PatientMerge(survivor=patient("P2", "New^Name"), prior=Identifier("P1", HOSPITAL)))
    apply(orders, order("A9", PatientUpdate(identifiers=(Identifier("P1", HOSPITAL),))))
    assert name_of(orders, "P1") == "New^Name"
    assert isinstance(orders.corrections, RecordedCorrections)
    assert ("P1@HOSP", "P2@HOSP") in orders.corrections.merged


def test_merges_follow_each_other(orders: Orders) -> None:
    apply(orders, order("A1", patient("P1")))
    apply(orders, PatientMerge(survivor=patient("P2", "B"), prior=Identifier("P1", HOSPITAL)))
    apply(orders, PatientMerge(survivor=patient("P3", "C"), prior=Identifier("P2", HOSPITAL)))
    assert [name_of(orders, number) for number in ("P1", "P2", "P3")] == ["C", "C", "C"]
    assert orders.corrections is not None
    apply(orders, order("A2", PatientUpdate(identifiers=(Identifier("P1", HOSPITAL),))))
    with orders.read() as reading:
        rows = [ordering.find(reading, accession=Identifier(each, HOSPITAL)) for each in ("A1", "A2")]
    assert rows[0] is not None and rows[1] is not None and rows[0][1].patient == rows[1][1].patient


def test_an_identifier_is_changed_once_and_not_to_one_that_somebody_has(orders: Orders) -> None:
    change = PatientIdentifierChange(prior=Identifier("P1", HOSPITAL), current=patient("P9", "A"))
    apply(orders, patient("P1", "A"), patient("P2", "B"))
    apply(orders, change)
    assert name_of(orders, "P9") == name_of(orders, "P1") == "A"
    assert actions(apply(orders, change)) == []
    with pytest.raises(UpdateRefused, match="known already"):
        apply(orders, PatientIdentifierChange(prior=Identifier("P9", HOSPITAL), current=patient("P2")))


def test_an_identifier_moves_to_another_patient(orders: Orders) -> None:
    both = PatientUpdate(
        identifiers=(Identifier("P1", HOSPITAL), Identifier("N1", HOSPITAL)), attributes={"PatientName": "A"}
    )
    apply(orders, both, patient("P2", "B"))
    apply(orders, PatientIdentifierMove(identifier=Identifier("N1", HOSPITAL), target=patient("P2", "B")))
    assert [name_of(orders, number) for number in ("P1", "N1", "P2")] == ["A", "B", "B"]


def test_a_link_between_patients_moves_nothing(orders: Orders) -> None:
    one, other = Identifier("P1", HOSPITAL), Identifier("P2", HOSPITAL)
    apply(orders, patient("P1", "A"), patient("P2", "B"), PatientLink(one=one, other=other))
    assert [name_of(orders, "P1"), name_of(orders, "P2")] == ["A", "B"]
    assert ("patient", "unlinked") in actions(apply(orders, PatientLink(one=one, other=other, linked=False)))


@pytest.mark.parametrize(
    "value", ["", " ", "x" * 500, "a\x0bb", "a\\b"], ids=["empty", "blank", "long", "control", "several"]
)
def test_what_is_no_identifier_is_refused_and_changes_nothing(orders: Orders, value: str) -> None:
    with pytest.raises(UpdateRefused):
        apply(orders, PatientUpdate(identifiers=(Identifier(value, HOSPITAL),)))
    assert orders.counts()["patients"] == 0


# visits ----------------------------------------------------------------------------------------------


def test_an_arrival_makes_todays_steps_arrived_and_leaves_later_ones(orders: Orders) -> None:
    apply(orders, order("A1", None, step("S1", date="20261201"), step("S2", date="20270101")))
    noon = Source(name="ADT", time=1_796_212_800.0)  # 2026-12-02
    orders.apply(VisitUpdate(patient=(Identifier("P1", HOSPITAL),), visit=None, arrived=True), noon)
    assert sorted(states(orders)) == ["ARRIVED", "SCHEDULED"]


def test_a_visit_moves_with_its_orders(orders: Orders) -> None:
    visit = Identifier("V1", HOSPITAL)
    prior = Identifier("P1", HOSPITAL)
    apply(orders, patient("P1"), VisitUpdate(patient=(prior,), visit=visit, state=VisitState.PRESENT))
    of_visit = order("A1")
    apply(
        orders,
        type(of_visit)(
            action=OrderAction.NEW, patient=patient("P1"), accession=Identifier("A1", HOSPITAL), visit=visit
        ),
    )
    apply(orders, VisitMove(visit=visit, prior=prior, target=patient("P2", "B")))
    with orders.read() as reading:
        found = ordering.find(reading, accession=Identifier("A1", HOSPITAL))
        target = patients.find(reading, Identifier("P2", HOSPITAL))
    assert found is not None and target is not None and found[1].patient == target[0]


# orders ----------------------------------------------------------------------------------------------


def test_an_order_without_uid_gets_one_that_depends_on_site_issuer_and_number(orders: Orders, tmp_path: Path) -> None:
    other_issuer = Issuer("OTHER")
    apply(orders, order("A1"), order("A2"), order("A1", patient(issuer=other_issuer), issuer=other_issuer))
    with Orders(Place(tmp_path / "other", b"another archive.", Files())) as elsewhere:
        apply(elsewhere, order("A1"))
        uids = _uids(orders) + _uids(elsewhere)
    assert len(set(uids)) == 4 and all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


def _uids(orders: Orders) -> list[str]:
    with orders.read() as reading:
        rows = [row for _, row in reading.rows(reading.database.orders)]
    return [procedure.study_instance_uid for row in rows for procedure in row.procedures]


def test_an_order_of_another_patient_is_refused(orders: Orders) -> None:
    apply(orders, order("A1", patient("P1")))
    with pytest.raises(UpdateRefused) as refused:
        apply(orders, order("A1", patient("P2")))
    assert refused.value.reason == "conflict"
    assert name_of(orders, "P2") == "", "nothing of a refused message stays"


def test_demographics_of_an_order_do_not_overwrite_those_of_a_known_patient(orders: Orders) -> None:
    apply(orders, patient("P1", "New^Name"), order("A1", patient("P1", "Stale^Name")))
    assert name_of(orders, "P1") == "New^Name"


def test_a_late_order_does_not_open_a_canceled_one(orders: Orders) -> None:
    apply(orders, order("A1", None, step()), order("A1", action=OrderAction.CANCEL))
    assert states(orders) == ["CANCELED"]
    assert apply(orders, order("A1", None, step())).warnings
    assert states(orders) == ["CANCELED"]


class OneStation:
    """The rules of a house with one CT, and no [[station]] for anything else."""

    issuer = ""
    shows_unassigned = False
    supplies_everybody = True
    announced = frozenset(("order-created",))

    def stations(self, modality: str, room: str, source: str) -> tuple[str, ...]:
        return ("CT1",) if modality == "CT" else ()


def test_a_step_that_no_list_of_a_modality_will_have_is_warned_of(orders: Orders) -> None:
    orders.rules = OneStation()
    assert not apply(orders, order("A1", None, step("S1", ae=None))).warnings
    lost = apply(orders, order("A2", None, step("S2", ae=None, modality="MR", date=""))).warnings
    assert len(lost) == 2 and "modality MR has no station" in lost[0] and "no date" in lost[1]
    assert not apply(orders, order("A3", action=OrderAction.CANCEL)).warnings
    orders.rules = NoRules()
    assert not apply(orders, order("A4", None, step("S4", ae=None, modality="MR"))).warnings


def test_a_cancellation_that_comes_first_is_kept(orders: Orders) -> None:
    apply(orders, order("A1", action=OrderAction.CANCEL), order("A1", None, step("S1")))
    assert states(orders) == ["CANCELED"]


def test_a_cancellation_may_name_a_single_step(orders: Orders) -> None:
    apply(orders, order("A1", None, step("S1"), step("S2")))
    apply(orders, order("A1", None, step("S1"), action=OrderAction.CANCEL))
    assert sorted(states(orders)) == ["CANCELED", "SCHEDULED"]


def test_an_end_that_names_no_step_ends_those_of_the_order_and_makes_none(orders: Orders) -> None:
    """Many systems cancel by the numbers of the order, and repeat only its modality, or its procedure."""
    named = ProcedureUpdate(requested_procedure_id="R1", steps=(step("S1"), step("S2")))
    other = ProcedureUpdate(requested_procedure_id="R2", steps=(step("S3"),))
    apply(orders, order("A1", None, procedures=(named, other)), order("A2", None, step("S1"), step("S2")))
    apply(orders, order("A2", None, StepUpdate(modality="CT"), action=OrderAction.CANCEL))
    assert states(orders, "A2") == ["CANCELED", "CANCELED"]
    again = ProcedureUpdate(requested_procedure_id="R1", steps=(StepUpdate(modality="CT"),))
    apply(orders, order("A1", None, procedures=(again,), action=OrderAction.CANCEL))
    assert states(orders) == ["CANCELED", "CANCELED", "SCHEDULED"]
    nameless = ProcedureUpdate(steps=(StepUpdate(modality="CT"),))
    apply(orders, order("A1", None, procedures=(nameless,), action=OrderAction.CANCEL))
    assert states(orders) == ["CANCELED"] * 3


def test_a_change_that_does_not_name_the_step_changes_the_known_one(orders: Orders) -> None:
    apply(orders, order("A1", None, step("S1")))
    apply(orders, order("A1", None, StepUpdate(modality="MR"), action=OrderAction.CHANGE))
    with orders.read() as reading:
        found = ordering.find(reading, accession=Identifier("A1", HOSPITAL))
        assert found is not None
        assert [(row.scheduled_procedure_step_id, row.modality) for _, row in ordering.steps_of(reading, found[0])] == [
            ("S1", "MR")
        ]


def test_a_step_that_an_update_lacks_is_canceled_only_by_a_snapshot(orders: Orders) -> None:
    apply(orders, order("A1", None, step("S1"), step("S2")))
    apply(orders, order("A1", None, step("S1"), action=OrderAction.CHANGE))
    assert states(orders) == ["SCHEDULED", "SCHEDULED"]
    apply(orders, order("A1", None, step("S1"), action=OrderAction.CHANGE, snapshot=True))
    assert sorted(states(orders)) == ["CANCELED", "SCHEDULED"]


def test_a_state_goes_forward_only(orders: Orders) -> None:
    apply(orders, order("A1", None, step("S1")))
    for state in (StepState.STARTED, StepState.ARRIVED):
        apply(
            orders,
            order("A1", None, StepUpdate(scheduled_procedure_step_id="S1", state=state), action=OrderAction.STATUS),
        )
    assert states(orders) == ["STARTED"]


def test_an_appointment_moves_cancels_and_books_again(orders: Orders) -> None:
    apply(orders, order("A1", None, step("S1")))

    def appointment(action: AppointmentAction, date: str | None = None) -> AppointmentUpdate:
        return AppointmentUpdate(
            action=action, patient=patient(), accession=Identifier("A1", HOSPITAL), step=StepUpdate(start_date=date)
        )

    def days(orders: Orders) -> list[bytes]:
        with orders.read() as reading:
            return [key[:8] for key, _ in reading.days_from(b"\0")]

    apply(orders, appointment(AppointmentAction.CHANGE, "20261224"))
    assert days(orders) == [b"20261224"]
    apply(orders, appointment(AppointmentAction.CANCEL))
    assert days(orders) == []
    apply(orders, appointment(AppointmentAction.BOOK, "20261231"))
    assert days(orders) == [b"20261231"]
    with pytest.raises(UpdateRefused, match="unknown"):
        apply(orders, AppointmentUpdate(action=AppointmentAction.BOOK, patient=patient(), accession=Identifier("X")))


def test_a_final_report_completes_the_order(orders: Orders) -> None:
    apply(orders, order("A1", None, step("S1")))
    of_a1 = {"patient": patient(), "accession": Identifier("A1", HOSPITAL)}
    apply(orders, ReportUpdate(state=ReportState.PRELIMINARY, **of_a1))  # type: ignore[arg-type]
    assert states(orders) == ["SCHEDULED"]
    apply(orders, ReportUpdate(state=ReportState.FINAL, **of_a1))  # type: ignore[arg-type]
    assert states(orders) == ["COMPLETED"]


# links -----------------------------------------------------------------------------------------------


def test_a_study_is_linked_by_its_uid_and_by_its_accession_number(orders: Orders) -> None:
    apply(orders, order("A1", uid="1.2.3"), order("A2"))
    orders.study_arrived(linking.Named(study_instance_uid="1.2.4", accession="A2", patient_id="P1"), RIS)
    apply(orders, order("A3", None, step(), uid="1.2.5"))
    orders.study_arrived(linking.Named(study_instance_uid="1.2.5", patient_id="P1"), RIS)
    with orders.read() as reading:
        rules = [linking.orders_of(reading, uid)[0].rule for uid in ("1.2.4", "1.2.5")]
    assert rules == ["accession", "study-uid"]


def test_a_study_of_another_patient_is_a_conflict_and_is_not_linked(orders: Orders) -> None:
    apply(orders, order("A1"))
    applied = orders.study_arrived(linking.Named(study_instance_uid="1.2.4", accession="A1", patient_id="P7"), RIS)
    assert actions(applied) == [("link", "conflict")]
    with orders.read() as reading:
        assert linking.orders_of(reading, "1.2.4") == []


def test_a_database_of_an_older_format_is_made_anew_from_the_log(opened: Open) -> None:
    before = opened()
    before.apply(order("A1"), RIS)
    before.study_arrived(linking.Named(study_instance_uid="1.2.4", accession="A1", patient_id="P1"), RIS)
    with before._database.write() as writing:
        writing.set_meta(b"format", b"1")
        writing.drop(before._database.names)
    before.close()
    after = opened()
    with after.read() as reading:
        number = linking.orders_of(reading, "1.2.4")[0].order
        assert [row.study_instance_uid for row in linking.studies_of(reading, number)] == ["1.2.4"]


def test_a_link_that_was_undone_is_not_made_again_by_a_rule_but_by_hand(orders: Orders) -> None:
    apply(orders, order("A1"))
    named = linking.Named(study_instance_uid="1.2.4", accession="A1", patient_id="P1")
    orders.study_arrived(named, RIS)
    with orders.read() as reading:
        number = linking.orders_of(reading, "1.2.4")[0].order
    orders.unlink("1.2.4", number, RIS)
    orders.study_arrived(named, RIS)
    with orders.read() as reading:
        assert linking.orders_of(reading, "1.2.4") == []
    orders.link("1.2.4", number, RIS)
    with orders.read() as reading:
        assert [row.rule for row in linking.orders_of(reading, "1.2.4")] == ["by-hand"]


# the log ---------------------------------------------------------------------------------------------


def _fill(orders: Orders) -> None:
    apply(orders, order("A1", None, step("S1"), step("S2", ae="MR1\\MR2")), order("A2", patient("P2")))
    apply(orders, PatientMerge(survivor=patient("P2"), prior=Identifier("P1", HOSPITAL)))
    apply(orders, order("A2", patient("P2"), action=OrderAction.CANCEL), patient("P3"))


def test_a_database_made_anew_from_the_log_is_the_same(opened: Open, tmp_path: Path) -> None:
    first = opened()
    _fill(first)
    before = everything(first)
    first.close()
    shutil.rmtree(tmp_path / "hospital" / "index")
    with Orders(Place(tmp_path, bytes(16), Files())) as again:
        assert everything(again) == before
        assert actions(apply(again, patient("P4"))) == [("patient", "created")]
    first.__init__(Place(tmp_path, bytes(16), Files()))  # type: ignore[misc]
    assert name_of(first, "P4") == "Doe^Jane"


def test_a_database_of_another_boot_is_made_anew(opened: Open, tmp_path: Path) -> None:
    first = opened()
    _fill(first)
    before = everything(first)
    first.close()
    (tmp_path / "hospital" / "boot").write_bytes(b"another boot")
    (tmp_path / "hospital" / "index" / "data.mdb").write_bytes(b"torn by a power cut" * 1000)
    first.__init__(Place(tmp_path, bytes(16), Files()))  # type: ignore[misc]
    assert everything(first) == before


def test_compaction_keeps_everything_and_makes_the_log_shorter(opened: Open, tmp_path: Path) -> None:
    first = opened()
    _fill(first)
    for number in range(50):
        apply(first, patient("P3", f"Name^{number}"))
    before = everything(first)
    assert first.compact(least_bytes=0)
    apply(first, patient("P3", "Name^49"), patient("P5", "After"))
    assert name_of(first, "P5") == "After"
    first.close()
    shutil.rmtree(tmp_path / "hospital" / "index")
    first.__init__(Place(tmp_path, bytes(16), Files()))  # type: ignore[misc]
    after = everything(first)
    assert after["orders"] == before["orders"] and after["steps"] == before["steps"]
    assert name_of(first, "P5") == "After" and name_of(first, "P3") == "Name^49"


def test_two_processes_share_the_database_and_each_has_its_own_segment(opened: Open, tmp_path: Path) -> None:
    one, other = opened(), opened()
    apply(one, patient("P1", "A"))
    apply(other, patient("P1", "B"), patient("P2", "C"))
    apply(one, patient("P2", "D"))
    assert name_of(other, "P1") == "B" and name_of(other, "P2") == "D"
    before = everything(one)
    one.close(), other.close()
    shutil.rmtree(tmp_path / "hospital" / "index")
    for registry in (one, other):
        registry.__init__(Place(tmp_path, bytes(16), Files()))  # type: ignore[misc]
    assert everything(one) == everything(other) == before


def test_values_applied_together_are_synced_once_and_a_refused_one_changes_nothing(orders: Orders) -> None:
    bad = PatientUpdate(identifiers=())
    results = orders.apply_all([(patient("P1"), RIS), (bad, RIS), (patient("P2"), RIS)])
    assert [isinstance(each, UpdateRefused) for each in results] == [False, True, False]
    assert orders.counts()["patients"] == 2
    assert isinstance(results[0], Applied) and results[0].changes[0].kind is ChangeKind.PATIENT


def test_an_encrypted_archive_has_no_names_in_its_state_log_and_reads_them_with_its_key(tmp_path: Path) -> None:
    key = DataKey(b"k" * 8, b"s" * 32, bytes(16))
    keyring.KEYRING.add([key])
    place = Place(tmp_path, bytes(16), Files(), lambda: key)
    with Orders(place) as orders:
        apply(orders, patient(name="Unmistakable^Name"))
    stored = b"".join(path.read_bytes() for path in (tmp_path / "hospital" / "state").glob("*.seg"))
    assert stored and b"Unmistakable" not in stored
    shutil.rmtree(tmp_path / "hospital" / "index")
    with Orders(place) as orders:
        assert name_of(orders, "P1") == "Unmistakable^Name"


def test_what_only_the_beginning_of_a_performed_step_may_say_is_a_warning_later_and_not_missing(
    orders: Orders,
) -> None:
    texts = {
        tags.PerformedProcedureStepStatus: "IN PROGRESS", tags.PerformedProcedureStepID: "PPS1", tags.Modality: "CT",
        tags.PerformedStationAETitle: "CT1", tags.PerformedProcedureStepStartDate: "20261130",
        tags.PerformedProcedureStepStartTime: "0900",
    }  # fmt: skip
    begun = {tag: text.encode() for tag, text in texts.items()}
    step = DataSet({tags.StudyInstanceUID: b"1.2.3"}, b"")
    orders.create_performed("1.2.9", DataSet({**begun, tags.ScheduledStepAttributesSequence: [step]}, b""), RIS)
    changes = {tags.PatientName: b"Other^Name", tags.Modality: b"MR"}
    applied, missing = orders.modify_performed("1.2.9", DataSet({**changes}, b""), RIS)
    assert missing == []
    assert applied.warnings == ("what only an N-CREATE may set stayed as it was: Modality, PatientName",)
    performed = orders.performed("1.2.9")
    assert performed is not None and performing.stored(performed).text(tags.Modality) == "CT"

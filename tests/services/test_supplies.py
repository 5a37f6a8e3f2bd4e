"""[[peer]] supply: who has it gets what linked orders say, in answers and in instances; who has not, as is stored."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset

from engine.archive.questions import Level, Query
from engine.config import Config, Peer
from engine.dicom import tags, transfer_syntax
from engine.orders.entry_values import order_of
from engine.orders.linking import Named
from engine.orders.settings import Worklist
from engine.orders.values import Identifier, Issuer, PatientUpdate, Source
from tests import peer, samples
from tests.oracle import foreign
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND
from tests.services.serving import LIMITS, Serving, serve
from tests.services.test_find_scp import answers as matches_of
from tests.services.test_find_scp import elements
from tests.services.test_storage_scu import STORE, answers, get

RIS = Source(name="RIS")
UID = f"{samples.ROOT}.1"
ORDER = {
    "AccessionNumber": "Q1", "PatientID": "P1", "PatientName": "Doe^Jane", "Modality": "CT",
    "ScheduledProcedureStepStartDate": "20260105", "ScheduledStationAETitle": "CT1", "RequestedProcedureID": "R1",
}  # fmt: skip


def fill(serving: Serving) -> bytes:
    """A study without an accession number, and an order that it is linked to."""
    ds = samples.instance(AccessionNumber="")
    data = samples.encoded(ds)
    with serving.call() as sender:
        sender.associate(STORE)
        sender.send(peer.message(1, peer.c_store_rq(1, CT, str(ds.SOPInstanceUID)), data))
        assert sender.expect_message().status() == 0
        sender.release()
    orders = serving.services.engine.orders()
    orders.apply(PatientUpdate(identifiers=(Identifier("P1"), Identifier("OTHER", Issuer("EAST")))), RIS)
    orders.apply(order_of({**ORDER, "StudyInstanceUID": UID}), RIS)
    orders.study_arrived(Named(study_instance_uid=UID, patient_id="P1"), RIS)
    return data


def found(serving: Serving, title: str) -> list[bytes]:
    """The accession numbers of the studies that match the order's."""
    keys: dict[int, str | bytes] = {tags.QueryRetrieveLevel: "STUDY", tags.AccessionNumber: "Q1"}
    with serving.call() as asker:
        asker.associate((3, STUDY_ROOT_FIND, [IMPLICIT]), calling=title)
        asker.send(peer.message(3, peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND), peer.identifier(keys)))
        pending, final = matches_of(asker)
        assert final.status() == 0
        asker.release()
    return [elements(each.data_set)[tags.AccessionNumber] for each in pending]


def fetched(serving: Serving, title: str) -> bytes:
    with serving.call() as asker:
        get(asker, calling=title)
        came, final = answers(asker)
        assert final.status() == 0
        asker.release()
    (data,) = came.values()
    return data


def read(data: bytes) -> Dataset:
    ds: Dataset = foreign.read_data_set(data, transfer_syntax.of(EXPLICIT))
    ds.decode()
    return ds


def test_a_chosen_peer_gets_what_orders_supply_and_others_what_is_stored(tmp_path: Path) -> None:
    config = Config(
        data=tmp_path / "data",
        limits=LIMITS,
        accept_unknown_peers=True,
        worklist=Worklist(supply="chosen"),
        peers=(Peer(aet="CHOSEN", supply=True), Peer(aet="OTHER")),
    )

    def script(serving: Serving) -> None:
        assert found(serving, "CHOSEN") == [], "there are no orders yet"
        stored = fill(serving)
        assert (found(serving, "CHOSEN"), found(serving, "OTHER")) == ([b"Q1"], [])
        assert fetched(serving, "OTHER") == stored
        ds = read(fetched(serving, "CHOSEN"))
        assert ds.AccessionNumber == "Q1"
        assert [each.RequestedProcedureID for each in ds.RequestAttributesSequence] == ["R1"]
        assert [each.PatientID for each in ds.OtherPatientIDsSequence] == ["OTHER"]
        (original,) = ds.OriginalAttributesSequence
        assert original.ReasonForTheAttributeModification == "COERCE"
        assert original.ModifiedAttributesSequence[0].AccessionNumber == ""
        assert not list(serving.archive.parts.index.corrections()), "the ledger has nothing of it"
        assert next(serving.archive.find(Query(Level.STUDY, {tags.AccessionNumber: b""}))).attributes == {
            tags.AccessionNumber: b""
        }

    serve(tmp_path / "data", script, config=config)

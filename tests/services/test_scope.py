"""What is out of a peer's scope does not exist over DIMSE: queries, retrievals, destinations, storing (pynetdicom)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from engine.access.role_settings import StudyRule
from engine.config import Config, Role
from engine.config import Peer as KnownPeer
from tests import samples
from tests.services.serving import LIMITS, Serving, serve

CT_ONLY = Role(name="ct", may=("store", "query", "retrieve", "send"), studies=(StudyRule(modality="CT"),))
PATIENT_FIND = PatientRootQueryRetrieveInformationModelFind
FIND = StudyRootQueryRetrieveInformationModelFind
MOVE = StudyRootQueryRetrieveInformationModelMove
GET = StudyRootQueryRetrieveInformationModelGet
PEERS = (
    KnownPeer(aet="NARROW", host="127.0.0.1", port=1, role="ct"),
    KnownPeer(aet="WIDE", host="127.0.0.1", port=1),
)
VISIBLE, HIDDEN = (1, 3), (2, 4)


def made(study: int, series: int = 1, number: int = 1, **more: Any) -> Dataset:
    modality = "CT" if study % 2 else "MR"
    return samples.instance(study, series, number, patient_id="P1", modality=modality, **more)


def uid_of(study: int) -> str:
    return str(made(study).StudyInstanceUID)


def run(tmp_path: Path, script: Callable[[Serving], None]) -> Serving:
    def filled(serving: Serving) -> None:
        for study in (1, 2, 3, 4):
            for number in (1, 2):
                serving.archive.store(samples.part10(made(study, 1, number)))
        script(serving)

    data = tmp_path / "data"
    return serve(data, filled, config=Config(data=data, limits=LIMITS, peers=PEERS, roles=(CT_ONLY,)))


class Asker:
    """One association of an application entity."""

    def __init__(self, serving: Serving, title: str) -> None:
        self.received: list[str] = []
        entity = AE(title)
        for uid in (PATIENT_FIND, FIND, MOVE, GET, CTImageStorage):
            entity.add_requested_context(uid)
        self.association = entity.associate(
            "127.0.0.1",
            serving.port,
            ext_neg=[build_role(CTImageStorage, scu_role=True, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, self._take)],
        )
        assert self.association.is_established

    def _take(self, event: Any) -> int:
        self.received.append(str(event.dataset.StudyInstanceUID))
        return 0

    def find(self, level: str, model: str = FIND, **keys: str) -> list[Dataset]:
        answers = list(self.association.send_c_find(identifier(level, **keys), model))
        assert answers[-1][0].Status == 0
        return [match for status, match in answers if status.Status in (0xFF00, 0xFF01) and match is not None]

    def get(self, level: str, **keys: str) -> int:
        self.received.clear()
        return int(list(self.association.send_c_get(identifier(level, **keys), GET))[-1][0].Status)

    def move(self, destination: str, level: str, **keys: str) -> int:
        return int(list(self.association.send_c_move(identifier(level, **keys), destination, MOVE))[-1][0].Status)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.association.release()


def identifier(level: str, **keys: str) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


def test_queries_and_retrievals_of_a_peer_with_a_role_see_its_studies_only(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        with Asker(serving, "NARROW") as narrow:
            studies = narrow.find("STUDY", StudyInstanceUID="", PatientID="*", NumberOfPatientRelatedStudies="")
            assert {match.StudyInstanceUID for match in studies} == {uid_of(study) for study in VISIBLE}
            assert {match.NumberOfPatientRelatedStudies for match in studies} == {2}
            (patient,) = narrow.find(
                "PATIENT", PATIENT_FIND, PatientID="P1", NumberOfPatientRelatedInstances="", PatientName=""
            )
            assert patient.NumberOfPatientRelatedInstances == 4
            for hidden in HIDDEN:
                assert narrow.find("STUDY", StudyInstanceUID=uid_of(hidden)) == []
                assert narrow.find("SERIES", StudyInstanceUID=uid_of(hidden), SeriesInstanceUID="") == []
                assert narrow.get("STUDY", StudyInstanceUID=uid_of(hidden)) == narrow.get(
                    "STUDY", StudyInstanceUID="1.2.3.4"
                )
                assert not narrow.received
            both = "\\".join(map(uid_of, (1, 2)))
            assert narrow.get("STUDY", StudyInstanceUID=both) == 0
            assert narrow.received == [uid_of(1)] * 2
            assert narrow.get("IMAGE", SOPInstanceUID=str(made(2).SOPInstanceUID)) == 0
            assert not narrow.received
        with Asker(serving, "WIDE") as wide:
            assert len(wide.find("STUDY", StudyInstanceUID="")) == 4

    run(tmp_path, script)


def test_a_destination_gets_nothing_that_its_role_may_not_see(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        with Asker(serving, "WIDE") as wide:
            assert wide.move("NARROW", "STUDY", StudyInstanceUID=uid_of(2)) == 0xA801
            assert wide.move("NARROW", "STUDY", StudyInstanceUID=f"{uid_of(1)}\\{uid_of(2)}") == 0xA801
            assert wide.move("NARROW", "STUDY", StudyInstanceUID=uid_of(1)) != 0xA801, "it may; nobody listens there"
            assert wide.move("WIDE", "STUDY", StudyInstanceUID=uid_of(2)) != 0xA801
        with Asker(serving, "NARROW") as narrow:
            assert narrow.move("WIDE", "STUDY", StudyInstanceUID=uid_of(2)) == 0

    run(tmp_path, script)


def test_what_a_peer_stores_into_a_foreign_study_goes_to_quarantine_and_its_own_studies_go_on(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        archive = serving.archive
        forged = made(2, 1, 1, PatientComments="forged")
        added = made(2, 5, 1)
        of_other_modality = [made(20, 1, number) for number in (1, 2)]
        with Asker(serving, "NARROW") as narrow:
            statuses = [
                narrow.association.send_c_store(data_set).Status
                for data_set in (forged, added, added, made(1, 1, 3), *of_other_modality)
            ]
        assert statuses == [0] * 6, "the answer tells nothing"
        assert archive.sizes([uid_of(2).encode()])[0][0] == 2
        assert b"forged" not in archive.read(archive.instance(str(forged.SOPInstanceUID)))  # type: ignore[arg-type]
        assert archive.sizes([uid_of(1).encode()])[0][0] == 3
        assert archive.sizes([uid_of(20).encode()])[0][0] == 2, "whoever has begun a study goes on with it"
        assert archive.stats()["quarantined"] == 2

    run(tmp_path, script)


def test_a_right_that_is_withdrawn_is_gone_on_associations_that_are_open(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        config = serving.services.config

        def reload(peer: KnownPeer) -> None:
            changed = replace(config, peers=(*(each for each in PEERS if each.aet != peer.aet), peer))
            engine, is_done = serving.services.engine, threading.Event()
            engine.loop.call_soon_threadsafe(engine.configure, changed)
            engine.loop.call_soon_threadsafe(is_done.set)
            assert is_done.wait(60)

        with Asker(serving, "WIDE") as wide:
            store, find = wide.association.send_c_store, wide.find
            assert store(made(2, 1, 3)).Status == 0
            assert len(find("STUDY", StudyInstanceUID="")) == 4
            reload(KnownPeer(aet="WIDE", role="ct"))
            assert store(made(4, 1, 3)).Status == 0
            assert len(find("STUDY", StudyInstanceUID="")) == 2
            assert serving.archive.sizes([uid_of(4).encode()])[0][0] == 2, "a foreign study now"
            reload(KnownPeer(aet="WIDE", may=("query",)))
            assert store(made(1, 1, 3)).Status == 0x0124

    run(tmp_path, script)

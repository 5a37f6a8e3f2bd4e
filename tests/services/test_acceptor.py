"""engine.services.acceptor: a new service is one file and one row, and messages go where their context is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.access import Action
from engine.config import Config
from engine.config import Peer as KnownPeer
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.services import registry
from engine.services.operations import operations
from engine.services.service import ServiceClass
from engine.services.session import Session
from tests import peer
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, Peer
from tests.services.serving import LIMITS, Serving, serve

WORKLIST = "1.2.840.10008.5.1.4.31"
ASK = (
    (3, WORKLIST, [IMPLICIT]),
    (5, STUDY_ROOT_FIND, [IMPLICIT]),
    (7, CT, [EXPLICIT]),
    (9, peer.VERIFICATION, [IMPLICIT]),
)
KEYS = peer.identifier({0x00400002: ""})


class Worklist:
    """A service as somebody would write it, and what was asked of it."""

    def __init__(self) -> None:
        self.identifiers: list[bytes] = []
        self.service = ServiceClass(
            name="Modality Worklist",
            sop_class_uids=(WORKLIST,),
            action=Action.QUERY,
            requests=frozenset({CFindRQ}),
            attach=operations(self.find, self.refuse, bytes_max=100_000),
            is_cancellable=True,
            options=b"\0\0\1",
        )

    async def find(self, session: Session, context_id: int, rq: CFindRQ, identifier: bytes) -> None:
        self.identifiers.append(identifier)
        session.respond(context_id, CFindRSP(rq.message_id, rq.affected_sop_class_uid, 0xFF00, True), identifier)
        session.respond(context_id, CFindRSP(rq.message_id, rq.affected_sop_class_uid, 0))

    def refuse(self, session: Session, context_id: int, rq: CFindRQ, comment: str) -> None:
        session.respond(context_id, CFindRSP(rq.message_id, rq.affected_sop_class_uid, 0xA700, error_comment=comment))


@pytest.fixture
def worklist(monkeypatch: pytest.MonkeyPatch) -> Worklist:
    worklist = Worklist()
    services = (*registry.SERVICES, worklist.service)
    monkeypatch.setattr(registry, "SERVICES", services)
    monkeypatch.setattr(registry, "OPTIONS", {**registry.OPTIONS, WORKLIST: worklist.service.options})
    by_syntax = {uid: service for service in services for uid in service.sop_class_uids}
    monkeypatch.setattr(registry, "_BY_ABSTRACT_SYNTAX", by_syntax)
    return worklist


def ask(asker: Peer, context_id: int, sop_class_uid: str, identifier: bytes = KEYS) -> None:
    asker.send(peer.message(context_id, peer.query_rq(peer.C_FIND_RQ, 7, sop_class_uid), identifier))


def test_a_service_is_one_file_and_one_row(tmp_path: Path, worklist: Worklist) -> None:
    def script(serving: Serving) -> None:
        with serving.call() as asker:
            asker.associate(*ASK)
            ask(asker, 3, WORKLIST)
            pending, final = asker.expect_message(), asker.expect_message()
            assert (pending.context_id, pending.status(), pending.data_set) == (3, 0xFF00, KEYS)
            assert final.status() == 0
            assert serving.services.engine.metrics.counters["find"] == 0, "it went to the index of studies"
            ask(asker, 5, STUDY_ROOT_FIND)
            assert asker.expect_message().status() == 0xA900
            assert worklist.identifiers == [KEYS]
            asker.release()

    serve(tmp_path / "data", script)


@pytest.mark.parametrize(("context_id", "named"), [(3, STUDY_ROOT_FIND), (5, WORKLIST), (7, WORKLIST), (9, WORKLIST)])
def test_a_request_does_not_reach_a_service_on_another_ones_context(
    tmp_path: Path, worklist: Worklist, context_id: int, named: str
) -> None:
    def script(serving: Serving) -> None:
        with serving.call() as asker:
            asker.associate(*ASK)
            ask(asker, context_id, named)
            assert asker.expect_message().status() == 0x0122
            asker.echo(9)
            asker.release()
        assert not worklist.identifiers

    serve(tmp_path / "data", script)


def test_a_peer_without_permission_for_a_service_does_not_get_its_contexts(tmp_path: Path, worklist: Worklist) -> None:
    def script(serving: Serving) -> None:
        with serving.call() as modality:
            modality.associate(*ASK)
            ask(modality, 3, WORKLIST)
            modality.expect(peer.ABORT)
        assert not worklist.identifiers

    only_stores = KnownPeer(aet="SCRIPT", may=("store",))
    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=LIMITS, peers=(only_stores,)))


def test_an_identifier_longer_than_its_service_allows_ends_the_association(tmp_path: Path, worklist: Worklist) -> None:
    def script(serving: Serving) -> None:
        with serving.call() as asker:
            asker.associate(*ASK)
            ask(asker, 3, WORKLIST, peer.identifier({0x00400002: "X" * 200_000}))
            asker.expect(peer.ABORT)
        assert not worklist.identifiers

    serve(tmp_path / "data", script)

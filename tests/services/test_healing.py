"""Damaged and unparseable instances over the wire: never served, named, healed by a re-send; refused and kept."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.archive.admin import encryption
from engine.archive.lifecycle import quarantine
from engine.config import Config, Quarantine
from engine.keys import key_file
from engine.services import storage_scu
from engine.storage.record import Position
from tests import peer, samples
from tests.archive.kept import turn_byte
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_GET, Peer
from tests.services.serving import LIMITS, Serving, serve
from tests.system.server import wait_for

STORE = (1, CT, [EXPLICIT])
LARGE = LIMITS.stream_threshold_bytes * 3 + 1000


def ct(number: int, size: int = 512) -> tuple[str, bytes]:
    ds = samples.instance(number=number, pixels=bytes([number]) * size)
    return str(ds.SOPInstanceUID), samples.encoded(ds)


def store(scripted: Peer, number: int, size: int = 512, *, uid: str = "", data_set: bytes = b"") -> int:
    own_uid, own = ct(number, size)
    scripted.send(peer.message(1, peer.c_store_rq(number, CT, uid or own_uid), data_set or own))
    return scripted.expect_message().status()


def retrieved(serving: Serving, data: dict[str, bytes] | None = None) -> tuple[int, dict[int, int], str]:
    """What a C-GET of the study ends with: status, counts, failed UIDs; what it brings goes to `data`."""
    with serving.call() as scripted:
        scripted.associate(
            (1, STUDY_ROOT_GET, [IMPLICIT]), (3, CT, [EXPLICIT]), user_items=peer.role(CT, scu=False, scp=True)
        )
        keys = {0x00080052: "STUDY", 0x0020000D: f"{samples.ROOT}.1"}
        scripted.send(peer.message(1, peer.query_rq(peer.C_GET_RQ, 1, STUDY_ROOT_GET), peer.identifier(keys)))
        while True:
            received = scripted.expect_message()
            command = received.command
            if peer.number(command, 0x0100) == peer.C_STORE_RQ:
                assert received.data_set is not None
                if data is not None:
                    data[peer.text(command, 0x1000)] = received.data_set
                scripted.send(peer.message(3, peer.c_store_rsp(command)))
                continue
            if received.status() == 0xFF00:
                continue
            counts = {element: peer.number(command, element) for element in (0x1021, 0x1022, 0x1023)}
            failed = (received.data_set or b"").decode("ascii", "replace")
            scripted.release()
            return received.status(), counts, failed


def places(serving: Serving) -> dict[str, Position]:
    return {each.sop_instance_uid: each.position for each in serving.archive.parts.index.current_instances()}


def named(serving: Serving) -> set[str]:
    return {row.sop_instance_uid.decode() for row in serving.archive.parts.index.damage()}


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("size", [512, LARGE])
def test_a_damaged_instance_is_a_failed_sub_operation_by_uid_and_is_healed_by_a_re_send(
    tmp_path: Path, size: int, encrypted: bool
) -> None:
    data = tmp_path / "data"
    if encrypted:
        key_file.make(tmp_path / "key")
        encryption.begin(data, "key", "file", {"path": str(tmp_path / "key")}, data_key_days=30)

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            for number in (1, 2, 3):
                assert store(scripted, number, size) == 0
            uid = ct(2)[0]
            place = places(serving)[uid]
            turn_byte(data, place.segment_id, place.payload_offset + place.payload_length - 7)
            brought: dict[str, bytes] = {}
            status, counts, failed = retrieved(serving, brought)
            assert status == 0xB000
            assert counts == {0x1021: 2, 0x1022: 1, 0x1023: 0}
            assert uid in failed
            assert brought == dict(ct(number, size) for number in (1, 3))
            assert named(serving) == {uid}
            assert store(scripted, 2, size) == 0
            assert named(serving) == set()
            brought.clear()
            assert retrieved(serving, brought)[0] == 0
            assert brought == dict(ct(number, size) for number in (1, 2, 3))
            scripted.release()

    serve(data, script)


def test_eight_senders_heal_one_instance_at_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    answers: list[int] = []

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            assert store(scripted, 1) == 0
            scripted.release()
        uid, payload = ct(1)
        place = places(serving)[uid]
        turn_byte(data, place.segment_id, place.payload_offset)
        together = threading.Barrier(8)

        def send() -> None:
            with serving.call() as scripted:
                scripted.associate(STORE)
                together.wait(60)
                answers.append(store(scripted, 1))
                scripted.release()

        senders = [threading.Thread(target=send) for _ in range(8)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        current = serving.archive.parts.index.locate(uid.encode())
        assert current is not None
        assert serving.archive.read(current) == payload
        assert len(serving.archive.parts.index.versions(uid.encode())) == 1
        assert named(serving) == set()

    serve(data, script)
    assert answers == [0] * 8


@pytest.mark.parametrize("size", [512, LARGE])
def test_an_unparsable_instance_gets_a_failure_and_is_kept(tmp_path: Path, size: int) -> None:
    rubbish = b"\x08\x00\x16\x00UI\xff\xff" + bytes(size)

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            assert store(scripted, 1, data_set=rubbish) == 0xC000
            assert store(scripted, 2, size, uid="1.2.3") == 0xA900
            assert store(scripted, 3, size) == 0
            scripted.release()
        kept = list(quarantine.list_all(serving.archive))
        assert {(one.instance.sop_instance_uid, serving.archive.read(one.instance)) for one in kept} == {
            (ct(1)[0], rubbish),
            ("1.2.3", ct(2, size)[1]),
        }
        assert {one.instance.calling_ae_title for one in kept} == {"SCRIPT"}

    serving = serve(tmp_path / "data", script)
    assert serving.services.engine.metrics.counters["instances_quarantined"] == 2
    assert serving.services.engine.metrics.counters["instances_refused"] == 2


def test_a_full_quarantine_changes_no_answer(tmp_path: Path) -> None:
    config = Config(data=tmp_path / "data", limits=LIMITS, quarantine=Quarantine(bytes_max=1000))

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            for number in range(1, 6):
                assert store(scripted, number, uid=f"1.2.{number}") == 0xA900
            assert store(scripted, 6, LARGE, uid="1.2.3") == 0xA900
            assert store(scripted, 7) == 0
            scripted.release()

    serving = serve(tmp_path / "data", script, config=config)
    assert serving.services.engine.metrics.counters["instances_quarantined"] <= 1
    assert serving.services.engine.metrics.counters["quarantine_full"] >= 4


def test_a_large_instance_that_is_known_to_be_damaged_does_not_cost_the_association(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_scu, "WHOLE_BYTES_MAX", 100_000)
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            for number in (1, 2, 3):
                assert store(scripted, number, LARGE) == 0
            scripted.release()
        uid = ct(2)[0]
        place = places(serving)[uid]
        turn_byte(data, place.segment_id, place.payload_offset + 500_000)
        # Nobody knows yet: half of it is sent when it is found, and only an abort keeps it from being taken for whole.
        with pytest.raises(AssertionError):
            retrieved(serving)
        wait_for(lambda: named(serving) == {uid})
        brought: dict[str, bytes] = {}
        status, counts, failed = retrieved(serving, brought)
        assert (status, counts) == (0xB000, {0x1021: 2, 0x1022: 1, 0x1023: 0})
        assert uid in failed
        assert brought == dict(ct(number, LARGE) for number in (1, 3))

    serve(data, script)

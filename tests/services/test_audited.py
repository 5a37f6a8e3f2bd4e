"""What DICOM peers do is in the audit log, once an association and study; a disclosure is there before its bytes."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from engine import audit
from engine.audit import recorder
from engine.config import Config
from engine.config import Peer as KnownPeer
from engine.exchange.stow import stow_destination
from engine.services.steady import FRAGMENT_BYTES_MIN
from tests import peer, samples
from tests.audit.recording import events, recording, wait_until
from tests.faulty_files import FaultyFiles
from tests.peer import CT, STUDY_ROOT_FIND, Listener, Message
from tests.services.serving import LIMITS, Serving, serve
from tests.services.test_retrieve_scp import move
from tests.services.test_storage_scu import answers, fill, get
from tests.web.stow_sink import stow_sink

STUDY_UID = f"{samples.ROOT}.1"
FIND = (7, STUDY_ROOT_FIND, [peer.IMPLICIT])


def find(serving: Serving) -> Message:
    with serving.call() as asker:
        asker.associate(FIND)
        keys = {0x00080052: "STUDY", 0x0020000D: "", 0x00100010: "*"}
        rq = peer.query_rq(peer.C_FIND_RQ, 7, STUDY_ROOT_FIND)
        asker.send(peer.message(7, rq, peer.identifier(keys)))
        while (message := asker.expect_message()).status() == 0xFF00:
            pass
        asker.release()
    return message


def test_an_association_leaves_one_event_a_study_with_its_patient(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        fill(serving, [1000] * 5)
        fill(serving, [1000] * 5)  # the same again
        with serving.call() as asker:
            get(asker)
            came, final = answers(asker)
            assert (len(came), final.status()) == (5, 0)
            asker.release()
        assert find(serving).status() == 0

    with recording(data):
        serve(data, script)
    found = events(data)
    assert [event["kind"] for event in found] == ["received", "received", "sending", "sent", "query"]
    patient = {name: str(samples.instance()[keyword].value) for name, keyword in (("id", "PatientID"),)}
    for event in found[:4]:
        assert event["study"] == STUDY_UID and event["patient"]["id"] == patient["id"]
        assert event["classes"] == {CT: 5} and event["count"] == 5
        assert event["who"] == {"kind": "peer", "name": "TEST", "address": "127.0.0.1"} or event["who"]["name"]
    assert found[1]["detail"] == "5 were stored before"
    assert {line for path in (data / "reads").iterdir() for line in path.read_text().split()} == {STUDY_UID}
    assert found[4]["query"].startswith("study") and found[4]["count"] == 1


def test_the_beginning_is_on_the_disk_before_the_first_byte_leaves(tmp_path: Path) -> None:
    data = tmp_path / "data"
    sent: list[tuple[str, int]] = []

    def script(serving: Serving) -> None:
        fill(serving, [1000] * 3)
        with serving.call() as asker:
            get(asker)
            asker.expect_command()  # the first C-STORE-RQ: at this moment the event must be there
            kinds = [event["kind"] for event in events(data)]
            sent.append((",".join(kinds), len(kinds)))
            asker.close()

    with recording(data):
        serve(data, script)
    assert "sending" in sent[0][0]
    assert [event["kind"] for event in events(data)][-1] == "sent"
    assert events(data)[-1]["outcome"] == audit.Outcome.SERIOUS


def count_instances(listener: Listener, came: list[str]) -> None:
    """A destination that notes what reaches it."""
    while True:
        try:
            caller = listener.accept()
        except OSError:
            return
        with caller:
            caller.accept()
            while (kind := caller.next_type()) == peer.P_DATA:
                command = caller.expect_message().command
                came.append(peer.text(command, peer.SOP_INSTANCE))
                caller.send(peer.message(1, peer.c_store_rsp(command)))
            if kind == peer.RELEASE_RQ:
                caller.expect(peer.RELEASE_RQ)
                caller.send(peer.pdu(peer.RELEASE_RP, bytes(4)))


def test_nothing_leaves_while_the_beginning_is_not_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync of the beginning fails, while the first instances are read: in each way in which they are sent."""
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    data, files = tmp_path / "data", FaultyFiles()
    came: list[str] = []
    with Listener() as listener, stow_sink() as web:
        peers = (
            KnownPeer(aet="SINK", host="127.0.0.1", port=listener.port),
            KnownPeer(aet="WIDE", host="127.0.0.1", port=listener.port, store_associations=2),
            KnownPeer(aet="WEB", url=web.url),
        )

        def script(serving: Serving) -> None:
            serving.services.open_web_peer = stow_destination
            fill(serving, [1000, 1000, 1000])
            for destination in ("", "small", "SINK", "WIDE", "WEB"):
                wait_until(lambda: not audit.snapshot()["failure"])
                files.fail("fdatasync", errno.EIO)
                with serving.call() as asker:
                    if destination in ("", "small"):  # small PDUs: one by one, and not in batches
                        get(asker, maximum_length=FRAGMENT_BYTES_MIN // 2 if destination else 16384)
                        arrived, final = answers(asker)
                        came.extend(arrived)
                        asker.release()
                    else:
                        final = move(asker, destination)
                assert (destination, final.status()) == (destination, 0xA702)
                assert (destination, came, list(web.received)) == (destination, [], [])
            wait_until(lambda: not audit.snapshot()["failure"])
            with serving.call() as asker:
                get(asker)
                assert answers(asker)[1].status() == 0
                asker.release()
            listener.close()

        playing = threading.Thread(target=count_instances, args=(listener, came), daemon=True)
        playing.start()
        with recording(data, files=files):
            serve(data, script, config=Config(data=data, limits=LIMITS, peers=peers))
        playing.join(60)


def test_with_a_full_audit_disk_reading_is_refused_and_storing_goes_on(tmp_path: Path) -> None:
    data, files = tmp_path / "data", FaultyFiles()

    def script(serving: Serving) -> None:
        fill(serving, [1000] * 2)
        files.fail("pwritev", errno.ENOSPC, repeat=True)
        with serving.call() as asker:
            get(asker)
            came, final = answers(asker)
            assert not came and final.status() == 0xA702
            asker.release()
        assert find(serving).status() == 0xA700
        assert len(fill(serving, [1000] * 4)) == 4  # two of them are new
        files.heal()

    with recording(data, files=files):
        serve(data, script)


def test_a_stranger_and_a_flood_of_strangers_are_alerts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    known = KnownPeer(aet="CT1", networks=("10.0.0.0/8",))
    config = Config(data=data, limits=LIMITS, peers=(known,), accept_unknown_peers=False)

    def script(serving: Serving) -> None:
        for title in ("CT1", "EVE", "EVE"):
            with serving.call() as stranger:
                stranger.send(peer.associate_rq([FIND], calling=title))
                stranger.expect(peer.ASSOCIATE_RJ)

    with recording(data):
        serve(data, script, config=config)
    alerts = [event for event in events(data) if event["kind"] == "alert"]
    assert [event["who"]["name"] for event in alerts] == ["CT1"], "further ones of the address are summed up"
    assert alerts[0]["alert"] == "node-authentication"


def test_nothing_is_looked_up_when_the_audit_is_off(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        fill(serving, [1000] * 2)
        with serving.call() as asker:
            get(asker)
            assert len(answers(asker)[0]) == 2
            asker.release()

    serve(tmp_path / "data", script)
    assert not (tmp_path / "data" / "audit").exists()

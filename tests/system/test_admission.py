"""A full disk, on a whole server: new instances are refused, all else goes on, nothing is lost. And who goes first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import peer, samples
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, STUDY_ROOT_GET, VERIFICATION, Peer
from tests.system import mounts
from tests.system.server import Server, running, wait_for

pytestmark = pytest.mark.slow

STORE = (1, CT, [EXPLICIT])
FIND = (3, STUDY_ROOT_FIND, [IMPLICIT])
ECHO = (5, VERIFICATION, [IMPLICIT])
GET = (7, STUDY_ROOT_GET, [IMPLICIT])
SENDERS = 4
PIXELS = 400_000
MIB = 1 << 20

needs_tmpfs = pytest.mark.skipif(
    bool(mounts.missing_for("tmpfs")), reason=mounts.missing_for("tmpfs") or "tmpfs is there"
)


class Sender:
    """Stores instances of its own on one association until told to stop."""

    def __init__(self, server: Server, number: int) -> None:
        self._script = Peer(server.port)
        self._script.associate(STORE, ECHO, calling=f"SENDER{number}")
        self._next = number * 100_000
        self.acknowledged: list[str] = []
        self.statuses: list[int] = []
        self.comments: set[str] = set()

    def store(self, pixels: int = PIXELS) -> int:
        """One more instance; the status."""
        self._next += 1
        ds = samples.instance(1, 1, self._next, pixels=self._next.to_bytes(4, "big") * (pixels // 4))
        uid = str(ds.SOPInstanceUID)
        message_id = self._next % 60_000 + 1
        self._script.send(peer.message(1, peer.c_store_rq(message_id, CT, uid), samples.encoded(ds)))
        answer = self._script.expect_message()
        assert answer.responded_to() == message_id
        self.statuses.append(answer.status())
        if answer.status() == 0:
            self.acknowledged.append(uid)
        else:
            self.comments.add(answer.command[peer.ERROR_COMMENT].decode().strip())
        return answer.status()

    def store_until_refused(self, times: int) -> None:
        """Until so many in a row were refused."""
        in_a_row = 0
        while in_a_row < times:
            in_a_row = in_a_row + 1 if self.store() else 0
            assert len(self.statuses) < 5000, "it takes more than the disk holds"

    def close(self) -> None:
        self._script.close()


def found(server: Server) -> set[str]:
    """Every SOP Instance UID that the archive knows."""
    with Peer(server.port) as script:
        script.associate(FIND)
        keys = peer.identifier({0x00080052: "IMAGE", 0x00080018: ""})
        script.send(peer.message(3, peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND), keys))
        uids = set()
        while (answer := script.expect_message()).status() in (0xFF00, 0xFF01):
            assert answer.data_set is not None
            at = answer.data_set.index(b"\x08\0\x18\0")
            length = int.from_bytes(answer.data_set[at + 4 : at + 8], "little")
            uids.add(answer.data_set[at + 8 : at + 8 + length].rstrip(b"\0 ").decode())
        script.release()
    return uids


def retrieved(server: Server, uid: str) -> bytes:
    """The data set of one instance, by C-GET."""
    with Peer(server.port) as script:
        script.associate(GET, STORE, user_items=peer.role(CT, scu=False, scp=True))
        keys = peer.identifier({0x00080052: "IMAGE", 0x00080018: uid})
        script.send(peer.message(7, peer.query_rq(peer.C_GET_RQ, 1, STUDY_ROOT_GET), keys))
        sub_operation = script.expect_message()
        assert sub_operation.data_set is not None
        script.send(peer.message(sub_operation.context_id, peer.c_store_rsp(sub_operation.command)))
        while (answer := script.expect_message()).status() == 0xFF00:
            pass
        assert answer.status() == 0
        script.release()
    return sub_operation.data_set


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounts.mounted("tmpfs", "tmpfs", tmp_path / "disk", "size=96m") as point:
        yield point


@needs_tmpfs
def test_a_disk_that_four_senders_fill_keeps_what_it_acknowledged_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    ballast = small_disk / "of-somebody-else"
    ballast.write_bytes(bytes(30 * MIB))
    config = f"[limits]\ndisk_reserve_bytes = {12 * MIB}\n[storage]\nsegment_bytes = {8 * MIB}\n"
    with running(small_disk / "data", config=config, config_file=tmp_path / "config.toml") as server:
        senders = [Sender(server, number) for number in range(1, SENDERS + 1)]
        with ThreadPoolExecutor(SENDERS) as pool:
            for future in [pool.submit(sender.store_until_refused, 10) for sender in senders]:
                future.result()
        acknowledged = {uid for sender in senders for uid in sender.acknowledged}
        assert len(acknowledged) > 20
        for sender in senders:
            assert set(sender.statuses) == {0, 0xA700}
            assert sender.comments == {"out of resources: disk reserve"}
        assert found(server) == acknowledged
        some = sorted(acknowledged)[::7]
        for uid in some:
            assert uid.encode() in retrieved(server, uid)
        with Peer(server.port) as script:
            script.associate(ECHO)
            script.echo(5)
            script.release()
        workers: list[dict[str, Counter[str]]] = server.stats()["workers"]  # type: ignore[assignment]
        assert sum(worker["counters"].get("instances_refused", 0) for worker in workers) >= 10 * SENDERS

        ballast.unlink()
        for sender in senders:
            wait_for(lambda sender=sender: sender.store() == 0, what="ingest resumes")  # type: ignore[misc]
        acknowledged = {uid for sender in senders for uid in sender.acknowledged}
        assert found(server) == acknowledged
        for sender in senders:
            sender.close()
        pids = server.worker_pids()
        assert not server.events("worker died, its associations are lost"), pids
        server.kill_all()
    with running(small_disk / "data", config=config, config_file=tmp_path / "config.toml") as server:
        assert found(server) == acknowledged


def test_what_is_refused_and_why_is_in_the_statistics_and_ends_with_a_reload(tmp_path: Path) -> None:
    tiny = f"[limits]\ndisk_reserve_bytes = {1 << 60}\n"
    with running(tmp_path / "data", config=tiny) as server:
        sender = Sender(server, 1)
        assert sender.store() == 0xA700

        def reasons() -> set[str | None]:
            return {worker["admission"]["reason"] for worker in server.stats()["workers"]}  # type: ignore[attr-defined]

        wait_for(lambda: reasons() == {"disk reserve"}, what="both workers refuse")
        server.reload("")
        wait_for(lambda: reasons() == {None}, what="both workers take instances again")
        assert sender.store() == 0
        wait_for(lambda: len(server.events("new instances are accepted again")) == 2, what="the lines in the log")
        assert [line["reason"] for line in server.events("new instances are refused")] == ["disk reserve"] * 2
        sender.close()


def test_associations_are_limited_across_workers(tmp_path: Path) -> None:
    config = (
        '[limits]\nassociations_per_peer_max = 3\nassociations_max = 5\n[[peer]]\naet = "ONE"\nassociations_max = 1\n'
    )
    with running(tmp_path / "data", config=config, workers=3) as server:
        held: list[Peer] = []

        def rejected(calling: str) -> bool:
            script = Peer(server.port)
            script.send(peer.associate_rq([ECHO], calling=calling))
            received = script.receive()
            assert received is not None
            if received[0] == peer.ASSOCIATE_RJ:
                assert tuple(received[1][1:4]) == (2, 3, 2)
                script.close()
                return True
            held.append(script)
            return False

        assert [rejected("MANY") for _ in range(5)] == [False] * 3 + [True] * 2
        assert [rejected("ONE") for _ in range(2)] == [False, True]
        assert [rejected("OTHER") for _ in range(2)] == [False, True]
        held.pop(0).release()
        wait_for(lambda: not rejected("OTHER"), what="room for another")
        for script in held:
            script.close()


def test_a_retrieval_goes_before_what_is_stored_meanwhile(tmp_path: Path) -> None:
    """A worker that serves both takes in less than it could, and everything is answered all the same."""
    config = f"[limits]\ningest_during_retrieval_bytes_per_s_max = {4 * MIB}\n"
    with running(tmp_path / "data", config=config, workers=1) as server:
        first = Sender(server, 1)
        for _ in range(20):
            assert first.store(3 * MIB) == 0
        stop = threading.Event()

        def store_on(sender: Sender) -> None:
            while not stop.is_set():
                assert sender.store() == 0

        def retrieve_all() -> None:
            with Peer(server.port) as script:
                script.associate(GET, STORE, user_items=peer.role(CT, scu=False, scp=True), maximum_length=1 << 17)
                keys = peer.identifier({0x00080052: "STUDY", 0x0020000D: f"{samples.ROOT}.1"})
                script.send(peer.message(7, peer.query_rq(peer.C_GET_RQ, 1, STUDY_ROOT_GET), keys))
                count = 0
                while True:
                    received = script.expect_message()
                    if received.data_set is None or received.context_id == 7:
                        if received.status() != 0xFF00:
                            break
                        continue
                    count += 1
                    script.send(peer.message(received.context_id, peer.c_store_rsp(received.command)))
                assert count >= 20
                script.release()

        senders = [first, Sender(server, 2)]
        with ThreadPoolExecutor(2) as pool:
            storing = [pool.submit(store_on, sender) for sender in senders]

            def waited() -> bool:
                retrieve_all()
                (worker,) = server.stats()["workers"]  # type: ignore[misc]
                return bool(worker["counters"].get("ingest_waits_for_retrieval"))  # type: ignore[index]

            try:
                wait_for(waited, what="ingest that waits")
            finally:
                stop.set()
            for future in storing:
                future.result()
        for sender in senders:
            sender.close()

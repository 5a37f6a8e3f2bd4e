"""Senders that get in each other's way, and senders that die in the middle of a sentence.

Eight send one SOP Instance UID at the same moment: one instance is current, its sender was told Success, and
nothing is lost. A sender that dies at a PDU boundary or inside a PDU leaves nothing behind, and its UID can be used
again at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import peer, samples
from tests.peer import CT, EXPLICIT, Peer
from tests.system import ingest
from tests.system.foreign import Stored, get
from tests.system.server import Server, running, wait_for
from tests.system.test_crash import check

pytestmark = pytest.mark.slow

SENDERS = 8
STREAM_BYTES = 64 << 10
CONFIG = "[limits]\nstream_threshold_bytes = 65536\ndimse_timeout_s = 5\n[storage]\nsegment_bytes = 1048576\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("senders")
    with running(folder / "data", config=CONFIG, workers=2) as started:
        yield started
    check(folder / "data")


def send_at_once(server: Server, instances: list[Stored]) -> list[int]:
    """One sender an instance; the last byte of each goes out at the same moment. Their statuses."""
    barrier = threading.Barrier(len(instances))

    def send(stored: Stored) -> int:
        with Peer(server.port) as script:
            script.associate((1, CT, [EXPLICIT]))
            rq = peer.c_store_rq(1, CT, stored.sop_instance_uid)
            *first, last = peer.message_pdus(1, rq, stored.data_set, fragment=1000)
            for pdu in first:
                script.send(pdu)
            barrier.wait(60)
            script.send(last)
            status = script.expect_message().status()
            script.release()
        return status

    with ThreadPoolExecutor(len(instances)) as pool:
        return list(pool.map(send, instances))


def one(number: int, fill: int, size_bytes: int = 2048) -> Stored:
    """An instance with that UID and those pixels."""
    return Stored.of(samples.instance(900, 1, number, pixels=bytes([fill]) * size_bytes))


def brought(server: Server, number: int) -> bytes:
    """What a C-GET of that instance brings; it must be one."""
    keys = {"level": "IMAGE", "SOPInstanceUID": f"{samples.ROOT}.900.1.{number}"}
    ((_, data_set),) = get(server.port, keys, [(CT, EXPLICIT)]).data_sets.values()
    return data_set


@pytest.mark.parametrize("size_bytes", [2048, 4 * STREAM_BYTES], ids=["whole", "streamed"])
def test_the_same_instance_from_eight_senders_at_once_is_stored_once(server: Server, size_bytes: int) -> None:
    number = 1 if size_bytes == 2048 else 2
    instances = [one(number, 7, size_bytes)] * SENDERS
    assert send_at_once(server, instances) == [0] * SENDERS
    assert brought(server, number) == instances[0].data_set


def test_eight_versions_at_once_leave_one_current_and_none_is_new_afterwards(server: Server) -> None:
    for round_number in range(3):
        number = 10 + round_number
        instances = [one(number, fill) for fill in range(SENDERS)]
        statuses = send_at_once(server, instances)
        assert set(statuses) <= {0, 0xB000}
        current = brought(server, number)
        told = {stored.data_set for stored, status in zip(instances, statuses, strict=True) if status == 0}
        assert current in told
        # Again, one after the other: all are known now, and the current one is the same.
        again = [send_at_once(server, [stored])[0] for stored in instances]
        assert again == [0 if stored.data_set == current else 0xB000 for stored in instances]


@pytest.mark.parametrize("policy", ["replace", "keep-both-versions"])
def test_eight_versions_at_once_leave_one_of_them_by_every_policy(tmp_path: Path, policy: str) -> None:
    with running(tmp_path / "data", config=f'duplicates = "{policy}"\n{CONFIG}', workers=2) as server:
        instances = [one(1, fill) for fill in range(SENDERS)]
        statuses = send_at_once(server, instances)
        assert set(statuses) <= {0, 0xB000}
        first = brought(server, 1)
        assert first in {stored.data_set for stored, status in zip(instances, statuses, strict=True) if status == 0}
        server.kill_all()
    with running(tmp_path / "data", workers=1) as server:
        assert brought(server, 1) == first, "after a restart another one is current"
    check(tmp_path / "data")


# Half a sentence ---------------------------------------------------------------------------------


def remains(server: Server) -> int:
    """Segments that the archive has."""
    return len(list((server.data / "segments").rglob("*.seg")))


def at_rest(server: Server) -> bool:
    """Whether no association and no received byte is left."""
    workers: list[dict[str, int]] = server.stats()["workers"]  # type: ignore[assignment]
    return all(worker["associations"] == worker["chunks"] == worker["queue_depth"] == 0 for worker in workers)


@pytest.mark.parametrize("ending", ["reset", "close", "abort"])
@pytest.mark.parametrize("size_bytes", [2000, 4 * STREAM_BYTES], ids=["whole", "streamed"])
def test_a_sender_that_dies_anywhere_leaves_nothing_behind(server: Server, size_bytes: int, ending: str) -> None:
    number = 100 + ["reset", "close", "abort"].index(ending) + 10 * (size_bytes > STREAM_BYTES)
    stored = one(number, 3, size_bytes)
    rq = peer.c_store_rq(1, CT, stored.sop_instance_uid)
    pdus = peer.message_pdus(1, rq, stored.data_set, fragment=512 if size_bytes == 2000 else 16378)
    wait_for(lambda: at_rest(server), what="no associations")
    before = remains(server)
    for whole in range(len(pdus)):
        for part in (0, 3, 9, len(pdus[whole]) // 2, len(pdus[whole]) - 1):
            with Peer(server.port) as script:
                script.associate((1, CT, [EXPLICIT]))
                script.send(b"".join(pdus[:whole]) + pdus[whole][:part])
                if ending == "abort" and part == 0:
                    script.send(peer.pdu(peer.ABORT, bytes(4)))
                elif ending == "reset":
                    script.cut()
    wait_for(lambda: at_rest(server), what="no associations")
    listed = ingest.find_instances(server.port, 900)
    assert stored.sop_instance_uid not in listed, "half an instance is listed"
    # Each worker may have begun a segment of its own meanwhile, and prepared another.
    wait_for(lambda: remains(server) <= before + 4, what="the segments of half-received objects gone")
    assert send_at_once(server, [stored]) == [0]
    assert brought(server, number) == stored.data_set

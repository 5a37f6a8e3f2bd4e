"""A sync that failed is final: nothing is acknowledged after it, and what comes next starts from what the disk holds.

After a write-back that failed the kernel takes the pages for clean: the next fdatasync says OK, and reading gives bytes
that the disk has not got (Rebello et al., ATC'20). Here a region of the disk fails for a while, on a real ext4 or XFS:
the instance that lay there is refused, the region heals, the sender tries again and is told Success; then the power
goes. Whoever trusted the page cache after the error has nothing now.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import peer
from tests.faults.machine import Machine
from tests.peer import CT, EXPLICIT, Peer
from tests.system import ingest, mounts
from tests.system.server import Server, wait_for

# test_every_call lets each kind of call fail, and system/test_server_injection syncs of a server, in other runs.
pytestmark = [pytest.mark.slow, pytest.mark.rotating(3)]

CONFIG = "[limits]\ndisk_reserve_bytes = 0\n[storage]\nsegment_bytes = 8388608\nprewrite_bytes = 0\n"


def store(port: int, made: ingest.GeneratedInstance) -> int | None:
    """The status of a C-STORE; None when the association ended without one."""
    with Peer(port) as script:
        script.associate((1, CT, [EXPLICIT]))
        script.send(peer.message(1, peer.c_store_rq(1, CT, made.uid), made.data_set()))
        try:
            status = script.expect_message().status()
            script.release()
        except (AssertionError, OSError):
            return None
        return status


def workers(server: Server) -> list[int]:
    """The process ids of the workers that answer."""
    rows: list[dict[str, int]] = server.stats()["workers"]  # type: ignore[assignment]
    return [row["pid"] for row in rows if "associations" in row]


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
def test_what_could_not_be_synced_is_never_taken_for_stored(tmp_path: Path, file_system: str) -> None:
    missing = mounts.missing_for(file_system, fuse=True)
    if missing:
        pytest.skip(missing)
    study = ingest.study_number(1)
    safe, unlucky, later = (ingest.GeneratedInstance(study, number) for number in (1, 2, 3))
    ledger = ingest.Ledger({safe.uid, unlucky.uid, later.uid}, studies={study})
    with Machine(tmp_path, file_system) as machine:
        machine.install()
        disk = machine.boot()
        server = machine.serve(CONFIG)
        try:
            ledger.note_answer(safe, store(server.port, safe) or 0)
            before = workers(server)
            disk.fail(unlucky.uid.encode())
            assert store(server.port, unlucky) in (None, 0xA700)
            assert disk.state().errors, "no write has failed"
            disk.fail(b"")
            wait_for(lambda: len(workers(server)) == 2 and set(workers(server)) != set(before), what="a new worker")
            assert ingest.find_instances(server.port, study) == {safe.uid}, "found, and never acknowledged"
            assert store(server.port, unlucky) == 0
            ledger.note_answer(unlucky, 0)
            assert store(server.port, later) == 0
            ledger.note_answer(later, 0)
            ledger.verify(server.port)
            disk.cut(seed=1)
            machine.power_off()
            machine.boot()
            ledger.verify(machine.serve(CONFIG).port)
        except BaseException as error:
            error.add_note("".join(server.log[-40:]))
            raise

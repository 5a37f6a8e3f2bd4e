"""A server that runs out of something: disk space, inodes, descriptors, memory.

What must hold each time: new stores are refused with A700 (out of resources), what was acknowledged is found and
retrieved meanwhile, and once there is room again the server takes instances without being told.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import peer, template
from tests.peer import CT, EXPLICIT, IMPLICIT, VERIFICATION, Peer
from tests.system import ingest, mounts
from tests.system.server import ROOT, Server, running, wait_for
from tests.system.test_crash import check

pytestmark = [pytest.mark.slow, pytest.mark.rotating(3)]

CONFIG = """
write_behind_sync_s = 0.1
[limits]
disk_reserve_bytes = {}
stream_threshold_bytes = 1048576
[storage]
segment_bytes = 1048576
"""

MIB = 1 << 20


def needs(file_system: str) -> None:
    """Skips where that cannot be mounted."""
    missing = mounts.missing_for(file_system)
    if missing:
        pytest.skip(missing)


@contextmanager
def small_disk(folder: Path, file_system: str, options: str = "") -> Iterator[Path]:
    """A file system of 96 MiB."""
    needs(file_system)
    with ExitStack() as stack:
        if file_system == "tmpfs":
            source, options = "tmpfs", ",".join(filter(None, ("size=96m", options)))
        else:
            mounts.make_image(folder / "image", 96 * MIB, file_system)
            source, options = str(folder / "image"), "loop"
        yield stack.enter_context(mounts.mounted(file_system, source, folder / "disk", options))


def free_bytes(folder: Path) -> int:
    """What the file system has left."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def fill(folder: Path, leave_bytes: int) -> Path:
    """A file that leaves only so much free."""
    filler = folder / "filler"
    fd = os.open(filler, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(fd, 0, max(free_bytes(folder) - leave_bytes, 1))
    finally:
        os.close(fd)
    return filler


def store_until_refused(server: Server, ledger: ingest.Ledger, study: int) -> None:
    """Senders go on until some of their instances have been refused; every refusal says A700."""
    senders = ingest.start_senders(server.port, ledger, study, 3)
    try:
        wait_for(lambda: len(ledger.refused) > 10, what="refusals")
    finally:
        for sender in senders:
            sender.stop()
    for sender in senders:
        sender.join()
        assert not sender.lost, "an association was lost instead of an instance refused\n" + "".join(server.log[-30:])
    assert {status for _, status in ledger.refused} == {0xA700}


def store_some(server: Server, ledger: ingest.Ledger, study: int, count: int = 5) -> None:
    """Instances that must all be taken."""
    before = len(ledger.acknowledged)
    sender = ingest.Sender(server.port, ledger, study, range(500_000, 500_000 + count))
    sender.start()
    sender.join()
    assert not sender.lost
    assert len(ledger.acknowledged) == before + count, "refused though there is room"
    ledger.verify(server.port, studies={study})


def resume(server: Server, ledger: ingest.Ledger, study: int) -> None:
    """Sends to both workers again and again: each finds by itself that there is room."""
    made = [ingest.GeneratedInstance(study, 900_000 + number) for number in range(2)]
    for each in made:
        ledger.note_sent(each)

    def are_taken() -> bool:
        # Two associations at once: one goes to each worker.
        with Peer(server.port) as one, Peer(server.port) as other:
            for script in (one, other):
                script.associate((1, CT, [EXPLICIT]))
            statuses = [store(script, each) for script, each in zip((one, other), made, strict=True)]
        return statuses == [0, 0]

    def store(script: Peer, each: ingest.GeneratedInstance) -> int:
        script.send(peer.message(1, peer.c_store_rq(1, CT, each.uid), each.data_set()))
        status = script.expect_message().status()
        script.release()
        assert status in (0, 0xA700)
        ledger.note_answer(each, status)
        return status

    wait_for(are_taken, what="stores are taken again")


def wait_for_audit(server: Server) -> None:
    """Until the audit log can be written again, in each process: while it cannot, nothing is disclosed."""

    def is_written() -> bool:
        stopped = server.events("the audit log cannot be written: disclosures and deletions are refused")
        return len(server.events("the audit log can be written again")) == len(stopped)

    wait_for(is_written, what="the audit log")


def run(server: Server, *words: str) -> str:
    """A command of the archive's; it must succeed."""
    done = template.run("engine", *words, "--data", str(server.data), folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("file_system", "reserve_bytes"), [("ext4", 4 * MIB), ("ext4", 0), ("tmpfs", 0)])
def test_a_full_disk_refuses_stores_and_nothing_else(tmp_path: Path, file_system: str, reserve_bytes: int) -> None:
    ledger = ingest.Ledger()
    first, second, third = (ingest.study_number(number) for number in (1, 2, 3))
    config = CONFIG.format(reserve_bytes)
    # The next start needs the reserve file, which the caretaker may make too late.
    without_caretaker = {"FILMROOM_CARETAKER_PAUSE_S": "3600"}
    with small_disk(tmp_path, file_system) as disk:
        options = {"config": config, "config_file": tmp_path / "filmroom.toml", "environment": without_caretaker}
        with running(disk / "data", **options) as server:
            assert (disk / "data" / "ballast").exists()
            store_some(server, ledger, first, 20)
            filler = fill(disk, reserve_bytes + 6 * MIB)
            store_until_refused(server, ledger, second)
            ledger.verify(server.port)
            server.kill_all()
        # A start on a full disk: to read what is there is always possible.
        with running(disk / "data", **options) as server:
            ledger.verify(server.port)
            filler.unlink()
            resume(server, ledger, third)
            store_some(server, ledger, third)
            ledger.verify(server.port)
        check(disk / "data")


def test_a_deletion_works_on_a_full_disk_and_compaction_makes_room(tmp_path: Path) -> None:
    ledger = ingest.Ledger()
    kept, deleted, later = (ingest.study_number(number) for number in (1, 2, 3))
    with small_disk(tmp_path, "ext4") as disk:
        config = CONFIG.format(2 * MIB)
        with running(disk / "data", config=config, config_file=tmp_path / "filmroom.toml") as server:
            store_some(server, ledger, kept, 20)
            store_until_refused(server, ledger, deleted)
            uid = ingest.GeneratedInstance(deleted, 0).uid.rpartition(".1.")[0]
            run(server, "delete", "--study", uid, "--reason", "room", "--yes")
            ledger.deleting.add(deleted)
            ledger.deleted.add(deleted)
            ledger.verify(server.port)
            run(server, "compact")
            resume(server, ledger, later)
            store_some(server, ledger, later)
            ledger.verify(server.port)
        check(disk / "data")


def take_inodes(disk: Path) -> list[Path]:
    """Files that take every inode; the server takes some meanwhile, too."""
    taken: list[Path] = []
    while True:
        path = disk / f"taken-{len(taken)}"
        try:
            path.touch()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return taken
        taken.append(path)


def test_without_inodes_stores_are_refused_until_there_are_some(tmp_path: Path) -> None:
    ledger = ingest.Ledger()
    with small_disk(tmp_path, "tmpfs", "nr_inodes=60") as disk:
        with running(
            disk / "data", config=CONFIG.format(0), config_file=tmp_path / "filmroom.toml", workers=1
        ) as server:
            store_some(server, ledger, ingest.study_number(1), 10)
            taken = take_inodes(disk)
            store_until_refused(server, ledger, ingest.study_number(2))
            ledger.verify(server.port)
            for path in taken:
                path.unlink()
            resume(server, ledger, ingest.study_number(3))
            store_some(server, ledger, ingest.study_number(3))
            ledger.verify(server.port)
        check(disk / "data")


def test_a_server_without_descriptors_serves_those_it_has_and_all_once_there_are_some(tmp_path: Path) -> None:
    ledger = ingest.Ledger()
    prefix = ("prlimit", "--nofile=96:96")
    with running(tmp_path / "data", prefix=prefix, config=CONFIG.format(0), workers=2) as server:
        store_some(server, ledger, ingest.study_number(1))
        held: list[Peer] = []
        try:
            for _ in range(250):
                held.append(Peer(server.port))
                held[-1].send(peer.associate_rq([(1, VERIFICATION, [IMPLICIT])]))
            # The others wait, or have been turned away.
            wait_for(lambda: sum(is_accepted(script) for script in held) > 20, what="associations")
            for script in filter(is_accepted, held):
                script.expect(peer.ASSOCIATE_AC)
                script.echo()
        finally:
            for script in held:
                script.cut()
        wait_for(lambda: echoes(server), what="service after the crowd is gone")
        wait_for(lambda: not any(worker["associations"] for worker in server.stats()["workers"]), what="all let go")  # type: ignore[attr-defined]
        wait_for_audit(server)
        store_some(server, ledger, ingest.study_number(2))
        ledger.verify(server.port)
        assert server.process.poll() is None
    check(tmp_path / "data")


def is_accepted(script: Peer) -> bool:
    """Whether an A-ASSOCIATE-AC is there to be read."""
    return script.socket_has_more(0) and script.next_type() == peer.ASSOCIATE_AC


def echoes(server: Server) -> bool:
    """Whether a fresh C-ECHO is answered."""
    try:
        with Peer(server.port, timeout_s=2.0) as script:
            script.associate((1, VERIFICATION, [IMPLICIT]))
            script.echo()
            script.release()
    except (AssertionError, OSError):
        return False
    return True


def test_large_instances_from_many_senders_fit_into_little_memory(tmp_path: Path) -> None:
    """RLIMIT_DATA counts what a process allocates, and neither the index's map nor the page cache."""
    payload_bytes, limit_bytes = 48 * MIB, 224 * MIB
    config = "[limits]\ndisk_reserve_bytes = 0\nstream_threshold_bytes = 1048576\n[storage]\nsegment_bytes = 8388608\n"
    prefix = ("prlimit", f"--data={limit_bytes}:{limit_bytes}")
    with running(tmp_path / "data", prefix=prefix, config=config, workers=1) as server:
        before = server.worker_pids()
        scripts = [Peer(server.port) for _ in range(6)]
        made = [ingest.GeneratedInstance(ingest.study_number(1), number) for number in range(len(scripts))]
        heads = [each.data_set() for each in made]
        try:
            for script, each in zip(scripts, made, strict=True):
                script.associate((1, CT, [EXPLICIT]))
                script.send(peer.fragments(1, peer.c_store_rq(1, CT, each.uid), command=True)[0])
            piece = bytes(64 << 10)
            for script, head in zip(scripts, heads, strict=True):
                script.send(peer.p_data(peer.pdv(1, longer(head, payload_bytes), command=False, last=False)))
            for _ in range(payload_bytes // len(piece)):
                for script in scripts:
                    script.send(peer.p_data(peer.pdv(1, piece, command=False, last=False)))
            for script in scripts:
                script.send(peer.p_data(peer.pdv(1, b"", command=False, last=True)))
                assert script.expect_message().status() == 0
                script.release()
        finally:
            for script in scripts:
                script.close()
        assert server.worker_pids() == before
        assert len(ingest.find_instances(server.port, ingest.study_number(1))) == len(scripts)


def longer(data_set: bytes, payload_bytes: int) -> bytes:
    """The head of a data set, its Pixel Data announced to be so long and still to come."""
    at = data_set.rindex(b"\xe0\x7f\x10\x00OW")
    return data_set[: at + 8] + payload_bytes.to_bytes(4, "little")

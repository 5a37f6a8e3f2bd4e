"""engine.index.database.environment: a full map, forks, threads, errors of the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest

from engine.errors import IndexError_, StorageFailed, StorageFull
from engine.index.catalog import Catalog
from engine.index.database.failures import write_error
from engine.index.format.entry import Entry
from engine.index.format.trash_record import TrashOperation
from engine.index.format.types import Level
from engine.index.upkeep import checkpoint_file, restoration
from engine.index.upkeep.checkpoint import Checkpointer
from engine.index.upkeep.checkpoint_file import Kind
from engine.storage.files import Files
from tests.index.entries import ROOT, Tail, entry, meaning, tombstone, trash


def _several(tail: Tail, count: int, series: int = 1) -> list[Entry]:
    return [entry(tail, study=series, series=series, instance=i) for i in range(count)]


def test_a_full_map_grows_unnoticed(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 19)
    tail = Tail()
    for series in range(1, 9):
        index.apply(_several(tail, 200, series))
    assert index.stats()["instances"] == 1600
    assert index.stats()["index_bytes"] > 1 << 19
    index.close()


def test_a_map_that_grows_leaves_no_invalid_checkpoint(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 19)
    checkpointer = Checkpointer(index._environment, Files(), lambda: None)
    tail = Tail()
    index.apply(_several(tail, 50))
    checkpointer.checkpoint()
    for series in range(2, 9):
        index.apply(_several(tail, 200, series))
    checkpoint = checkpoint_file.read_file(str(tmp_path), Files())
    assert checkpoint is not None and checkpoint.kind == Kind.VOID
    checkpointer.checkpoint()
    content = meaning(index)
    index.apply(_several(tail, 50, 20))
    checkpointer.close(clean=False)
    index.close()
    assert restoration.restore(str(tmp_path), Files()) == restoration.RestoreResult.CHECKPOINT
    index = Catalog.open(str(tmp_path))
    assert meaning(index) == content
    index.close()


def test_a_map_that_grows_while_a_checkpoint_runs_voids_it(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 19)
    tail = Tail()
    meanwhile: list[list[Entry]] = []

    def store_meanwhile() -> None:
        for batch in meanwhile:
            index.apply(batch)

    checkpointer = Checkpointer(index._environment, Files(), store_meanwhile)
    index.apply(_several(tail, 5))
    for batches, kind in (([], Kind.OPEN), ([_several(tail, 2000, 2)], Kind.VOID), ([], Kind.OPEN)):
        meanwhile[:] = batches
        checkpointer.checkpoint()
        checkpoint = checkpoint_file.read_file(str(tmp_path), Files())
        assert checkpoint is not None and checkpoint.kind == kind
        assert checkpointer.needs_checkpoint() == (kind == Kind.VOID)
    checkpointer.close()
    index.close()


_GROWS_ELSEWHERE = """
import sys
from engine.index.catalog import Catalog
from tests.index.entries import Tail, entry
index = Catalog.open(sys.argv[1], map_bytes=1 << 24)
tail = Tail()
index.apply([entry(tail, study=9, instance=i) for i in range(4000)])
"""


def test_the_map_size_of_another_process_is_adopted(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 19)
    subprocess.run([sys.executable, "-c", _GROWS_ELSEWHERE, str(tmp_path)], check=True, timeout=60)
    assert index.locate(f"{ROOT}.9.1.7".encode()) is not None
    index.apply([entry(Tail())])
    assert index.stats()["instances"] == 4001
    index.close()


def test_readers_and_writers_on_several_threads_while_the_map_grows(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 19)
    tails = [Tail() for _ in range(3)]
    failures: list[BaseException] = []
    stop = threading.Event()

    def write(number: int) -> None:
        try:
            for series in range(20):
                batch = [
                    entry(tails[number], study=number * 100 + series, instance=i, segment_id=number) for i in range(20)
                ]
                index.apply(batch)
                assert index.locate(batch[-1].sop_instance_uid) is not None
        except BaseException as error:
            failures.append(error)

    def read() -> None:
        try:
            while not stop.is_set():
                index.segment_marks()
                index.locate(f"{ROOT}.1.1.1".encode())
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert failures == []
    assert index.stats()["instances"] == 3 * 20 * 20
    index.close()


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 24)
    child = os.fork()
    if not child:
        status = 1
        try:
            index.locate(b"1.2")
        except IndexError_:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    index.apply([entry(Tail())])
    index.close()


def test_a_failed_batch_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 24)
    tail = Tail()
    index.apply([entry(tail, instance=1)])
    before = meaning(index)
    bad = entry(tail, instance=3)
    bad.stamp = -1
    with pytest.raises(IndexError_, match="too large"):
        index.apply([entry(tail, instance=2), entry(tail, study=7), bad])
    assert meaning(index) == before
    index.apply([entry(tail, instance=2), entry(tail, study=7)])
    assert index.stats()["instances"] == 3
    index.close()


def test_reading_only_needs_an_index_and_never_writes(tmp_path: Path) -> None:
    with pytest.raises(IndexError_):
        Catalog.open(str(tmp_path / "none"), read_only=True)
    assert not (tmp_path / "none").exists()
    index = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 24)
    index.apply([entry(Tail())])
    index.close()
    index = Catalog.open(str(tmp_path / "index"), read_only=True)
    assert index.locate(f"{ROOT}.1.1.1".encode()) is not None
    with pytest.raises(IndexError_, match="read-only"):
        index.apply([entry(Tail())])
    index.close()


def test_an_index_from_before_deletions_were_kept_by_uid_is_read_and_completed(tmp_path: Path) -> None:
    path = str(tmp_path / "index")
    Catalog.open(path, map_bytes=1 << 24).close()
    environment = lmdb.open(path, max_dbs=50, map_size=1 << 24)
    with environment.begin(write=True) as txn:
        txn.drop(environment.open_db(b"deletions", txn=txn))
    environment.close()
    index = Catalog.open(path, read_only=True)
    assert not index.was_deleted(Level.STUDY, b"1.2")
    index.close()
    index = Catalog.open(path, map_bytes=1 << 24)
    index.apply([tombstone(Tail(), b"1.2.3.4", level=Level.STUDY, uid=b"1.2")])
    assert index.was_deleted(Level.STUDY, b"1.2")
    index.close()


def test_an_index_from_before_the_trash_is_read_and_completed(tmp_path: Path) -> None:
    path = str(tmp_path / "index")
    tail = Tail()
    instance = entry(tail)
    index = Catalog.open(path, map_bytes=1 << 24)
    index.apply([instance])
    index.close()
    environment = lmdb.open(path, max_dbs=50, map_size=1 << 24)
    with environment.begin(write=True) as txn:
        txn.drop(environment.open_db(b"trash", txn=txn))
    environment.close()
    index = Catalog.open(path, read_only=True)
    assert index.trash_entries(0, 10) == [] and index.trash_entry(5) is None and list(index.ledger_places()) == []
    index.close()
    index = Catalog.open(path, map_bytes=1 << 24)
    index.apply([trash(tail, TrashOperation.PUT, instance.sop_instance_uid, level=Level.STUDY)])
    (waiting,) = index.trash_entries(0, 10)
    assert [one.stamp for one in index.in_trash(waiting)] == [instance.stamp]
    assert index.locate(instance.sop_instance_uid) is None
    index.close()


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"nonsense" * 2000)
    with pytest.raises(IndexError_, match="does not begin with a meta page"):
        Catalog.open(str(tmp_path), map_bytes=1 << 24)


_WRITE_ERROR = """
import resource, signal, sys
from engine.errors import StorageFailed
from engine.index.catalog import Catalog
from tests.index.entries import Tail, entry
index = Catalog.open(sys.argv[1], map_bytes=1 << 26)
tail = Tail()
index.apply([entry(tail, instance=i) for i in range(10)])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = index.stats()["index_bytes"]
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, resource.RLIM_INFINITY))
try:
    index.apply([entry(tail, study=2, instance=i) for i in range(2000)])
except StorageFailed as error:
    pass
else:
    sys.exit("no error")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert index.stats()["instances"] == 10
"""


def test_an_error_of_the_disk_at_commit_is_final_and_says_so(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", _WRITE_ERROR, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0, process.stderr


class _FullDisk(Files):
    def free_bytes(self, path: str) -> int:
        return 1000


def test_an_error_while_the_disk_is_full_is_a_full_disk(tmp_path: Path) -> None:
    error = lmdb.Error("mdb_txn_commit: Input/output error")
    assert isinstance(write_error(str(tmp_path), _FullDisk(), error), StorageFull)
    assert isinstance(write_error(str(tmp_path), _FullDisk(), lmdb.CorruptedError("page")), IndexError_)
    assert isinstance(write_error(str(tmp_path), Files(), error), StorageFailed)


def test_the_readers_of_a_dead_process_are_freed(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 24)
    script = (
        "import os, sys\n"
        "from engine.index.catalog import Catalog\n"
        "index = Catalog.open(sys.argv[1], map_bytes=1 << 24)\n"
        "txn = index._environment.begin_read()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)
    assert index.reader_check() == 1
    index.close()

"""A fault at the n-th call, for every n that there is: kill, torn write, EIO, ENOSPC, short write, EINTR, EMFILE.

A short life of an archive (`tests.faults.short_life`: ingest with rolls, a streamed instance, checkpoints and the
orderly end; deletion and compaction; a start after a crash) runs as a process of its own over the real file system and
the real LMDB, with tests/faults/faulty_libc.c between it and the kernel. After each life the archive is opened again:
every acknowledged instance is there with its bytes, nothing is listed that was not sent or was deleted, `check` finds
nothing, another instance can be stored. After an I/O error nothing is acknowledged that was handed over later.

`test_server_injection` does it to the whole server from outside, with strace. A run takes every
FILMROOM_INJECT_STRIDE-th of the calls, others with each commit (`effort`); --all takes them all.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from engine.archive.archive import Archive
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.verify import check
from engine.index.format.types import Level, Query
from engine.storage.record import crc32c
from tests import effort, samples
from tests.faults import faulty_libc, short_life
from tests.faults.faulty_libc import Call
from tests.peer import EXPLICIT
from tests.system.ingest import GeneratedInstance
from tests.system.server import ROOT

pytestmark = pytest.mark.slow

STRIDE = effort.amount("INJECT_STRIDE", 64, 1)
OFFSET = effort.seed("INJECT")


@dataclass
class LifeReport:
    """What one life told the world, and how it ended."""

    sent: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)
    deleting: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    words: list[str] = field(default_factory=list)
    status: int = 0
    fired: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def note(self, line: str) -> bool:
        """One line; False when it was the last."""
        self.words.append(line)
        word, _, rest = line.partition(" ")
        if word == "end":
            status, fired, counts = rest.split(" ", 2)
            self.status, self.fired, self.counts = int(status), fired == "1", orjson.loads(counts)
            return False
        if word in ("sent", "ack", "late", "deleting", "deleted"):
            number = int(rest)
            {"ack": self.acknowledged, "late": self.late, "sent": self.sent}.get(word, getattr(self, word, set())).add(
                number
            )
        return True


class Lives:
    """The program with its lives, and what every history starts from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._calls: dict[str, dict[str, int]] = {}
        environment = {**os.environ, "LD_PRELOAD": str(faulty_libc.build(folder))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.short_life"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.stored = folder / "stored"
        self.before = self.live(self.stored, "ingest")
        assert self.before.status == 0, self.before.words
        self.crashed = folder / "crashed"
        self.before_crash = self.live(
            self.crashed, "ingest", Call.PWRITEV, self.before.counts["PWRITEV"] * 2 // 3, "KILL"
        )

    def live(
        self,
        data: Path,
        scenario: str,
        call: Call = Call.PWRITE,
        at: int = 0,
        action: str = "NOTHING",
        number: int = 0,
    ) -> LifeReport:
        """One life; what it told."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"call": call.name, "at": at, "action": action, "number": number}
        self._process.stdin.write(orjson.dumps({**request, "data": str(data), "scenario": scenario}).decode() + "\n")
        self._process.stdin.flush()
        told = LifeReport()
        while told.note(self._process.stdout.readline().rstrip("\n")):
            pass
        return told

    def calls(self, scenario: str) -> dict[str, int]:
        """How often a life makes each call when nothing goes wrong."""
        if scenario not in self._calls:
            data, _ = self.begin(scenario)
            told = self.live(data, scenario)
            assert told.status == 0, told.words
            shutil.rmtree(data)
            self._calls[scenario] = told.counts
        return self._calls[scenario]

    def begin(self, scenario: str) -> tuple[Path, LifeReport]:
        """A folder to live in, and what was told of it before."""
        self._count += 1
        data = self.folder / f"life-{self._count}"
        if scenario == "ingest":
            return data, LifeReport()
        template, told = (self.crashed, self.before_crash) if scenario == "open" else (self.stored, self.before)
        shutil.copytree(template, data)
        return data, LifeReport(set(told.sent), set(told.acknowledged))

    def close(self) -> None:
        """Ends the program."""
        self._process.communicate()


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    made = Lives(tmp_path_factory.mktemp("lives"))
    yield made
    made.close()


def verify(data: Path, before: LifeReport, told: LifeReport) -> None:
    """The archive after a life."""
    acknowledged = before.acknowledged | told.acknowledged | told.late
    with Archive.open(data, role="keeper", create=True) as archive:
        keys = {short_life.STUDY_INSTANCE_UID: f"{samples.ROOT}.{short_life.STUDY}".encode()}
        found = archive.instances(Query(Level.STUDY, keys))
        listed = {int(instance.sop_instance_uid.rpartition(".")[2]) - 10000000 for instance in found}
        missing = acknowledged - told.deleting - listed
        assert not missing, f"acknowledged and not found: {missing}"
        assert not listed & told.deleted, f"deleted and found: {listed & told.deleted}"
        assert listed <= before.sent | told.sent, "found and never sent"
        for instance in found:
            number = int(instance.sop_instance_uid.rpartition(".")[2]) - 10000000
            assert archive.read(instance) == GeneratedInstance(short_life.STUDY, number).data_set(), (
                f"{number} has other bytes"
            )
        report = check(archive, payloads=True)
        assert not report.findings, list(map(str, report.findings))
        payload = GeneratedInstance(short_life.STUDY, 99).data_set()
        (answer,) = archive.ingest_batch([ReceivedInstance([payload], len(payload), crc32c(payload), EXPLICIT)])
        assert not isinstance(answer, Exception), repr(answer)


WRITES = (Call.PWRITE, Call.PWRITEV)
NAMES = (Call.RENAME, Call.UNLINK)
SYNCS = (Call.FDATASYNC, Call.FSYNC, Call.WRITE_BACK)
SIZES = (Call.FALLOCATE, Call.FTRUNCATE)

FAULTS: dict[str, tuple[tuple[Call, ...], str, int]] = {
    "kill": ((*WRITES, *SYNCS, *SIZES, *NAMES), "KILL", 0),
    "torn write": (WRITES, "TORN", 0),
    "EIO once": ((*WRITES, *SYNCS, *SIZES, *NAMES), "ERRNO", errno.EIO),
    "EIO from then on": ((*WRITES, *SYNCS), "ALWAYS", errno.EIO),
    "ENOSPC once": ((*WRITES, Call.FALLOCATE, Call.RENAME, Call.OPEN), "ERRNO", errno.ENOSPC),
    "ENOSPC from then on": ((*WRITES, Call.FALLOCATE), "ALWAYS", errno.ENOSPC),
    "EMFILE": ((Call.OPEN,), "ERRNO", errno.EMFILE),
    "short write": (WRITES, "SHORT", 0),
    "EINTR": ((*WRITES, Call.FALLOCATE, Call.FDATASYNC), "ERRNO", errno.EINTR),
}


@pytest.mark.parametrize("scenario", ["ingest", "delete", "open"])
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_acknowledged_is_lost_by_a_fault_at_any_call(lives: Lives, fault: str, scenario: str) -> None:
    calls, made = FAULTS[fault][0], lives.calls(scenario)
    points = [(call, at) for call in calls for at in range(1, made[call.name] + 1)]
    assert points, "the life makes none of these calls"
    for call, at in effort.part(points, STRIDE, OFFSET):
        # How many instances share a sync differs: a life may be some calls shorter than the one that was counted.
        while at and not hit(lives, fault, scenario, call, at):
            at -= 1
        assert at, f"{fault} fires at no {call.name} of {scenario}"


def hit(lives: Lives, fault: str, scenario: str, call: Call, at: int) -> bool:
    """One life with its fault, and the archive afterwards; False: it came to its end before the fault."""
    _, action, number = FAULTS[fault]
    data, before = lives.begin(scenario)
    told = lives.live(data, scenario, call, at, action, number)
    try:
        if told.fired:
            judge(told, fault)
            verify(data, before, told)
    except BaseException as error:
        error.add_note(f"{fault} at {call.name} {at} of {scenario}:\n" + "\n".join(told.words))
        raise
    finally:
        shutil.rmtree(data, ignore_errors=True)
    return told.fired


def judge(told: LifeReport, fault: str) -> None:
    """What a life may say after its fault."""
    assert not any(word.startswith("unexpected") for word in told.words)
    if "EIO" in fault:
        assert not told.late, f"acknowledged after an I/O error: {told.late}"
        assert told.status != 0, "an I/O error, and the process went on as if nothing had happened"
    if fault in ("short write", "EINTR"):
        # LMDB takes a short write for an I/O error, and so do we then; the log writes the rest.
        trouble = [word for word in told.words if word.startswith(("refused", "stopped"))]
        assert fault == "short write" or not trouble
        assert all("the index" in word for word in trouble if word.startswith("stopped"))

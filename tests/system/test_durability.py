"""No C-STORE-RSP leaves before the fdatasync that covers its record: seen from outside, with strace.

The trace has every write to a segment and to a socket, and every fdatasync, of all processes of the server, in the
order in which the kernel was called and came back. Instances are told apart by their SOP Instance UID, which is in
the record and in the response.

    pwritev(segment, … UID …)  ends  →  fdatasync(segment)  begins … ends  →  write(socket, … UID …)  begins

In write-behind the same check must find violations; otherwise it would prove nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import samples
from tests.system import ingest
from tests.system.server import running

CALLS = "pwritev,pwritev2,pwrite64,fdatasync,fsync,write,writev,sendmsg,sendto,openat"


def strace_works() -> bool:
    """Whether strace is installed and allowed to trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not strace_works(), reason="strace is not installed, or may not trace"),
]

_LINE = re.compile(r"^(\d+)\s+[\d.]+ (?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
_UID = re.compile(re.escape(samples.ROOT) + r"\.\d+\.1\.\d+")
_FILE = re.compile(r"^\d+<([^>]*)>")
_TARGET = re.compile(r"= \d+<([^>]*)>")


@dataclass
class Trace:
    """What happened, by line numbers of the trace."""

    written: dict[str, tuple[str, int]] = field(default_factory=dict)
    """UID → segment, and where its pwritev came back."""
    answered: dict[str, int] = field(default_factory=dict)
    """UID → where the write of its response began."""
    syncs: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Segment → begin and end of each fdatasync that succeeded; for directories of each fsync."""
    created: dict[str, int] = field(default_factory=dict)
    """Segment → where it was created."""

    def violations(self) -> list[str]:
        """Responses that no completed fdatasync of their segment covers."""
        found = []
        for uid, answered in self.answered.items():
            if uid not in self.written:
                found.append(f"{uid}: answered, never written")
                continue
            segment, written = self.written[uid]
            if not any(written < begin and end < answered for begin, end in self.syncs[segment]):
                found.append(f"{uid}: written at line {written}, answered at line {answered}, no fdatasync between")
            directory = segment.rpartition("/")[0]
            created = self.created.get(segment, 0)
            if created and not any(created < begin and end < answered for begin, end in self.syncs[directory]):
                found.append(f"{uid}: the directory entry of its segment was not synced")
        return found


def read_trace(path: Path) -> Trace:
    """Parses `strace -f -ttt -y`."""
    trace = Trace()
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = _LINE.match(line)
        if match is None:
            continue
        pid, call, rest = match.groups()
        if rest.endswith("<unfinished ...>"):
            begun[pid] = (number, rest)
            _note_begin(trace, call, rest, number)
            continue
        if "resumed>" in line:
            begin, first = begun.pop(pid)
            _note_end(trace, call, first, rest, begin, number)
        else:
            _note_begin(trace, call, rest, number)
            _note_end(trace, call, rest, rest, number, number)
    return trace


def _file_of(arguments: str) -> str:
    match = _FILE.match(arguments)
    return match[1] if match else ""


def _note_begin(trace: Trace, call: str, arguments: str, number: int) -> None:
    if call in ("write", "writev", "sendmsg", "sendto") and _file_of(arguments).startswith(("socket:", "TCP")):
        for uid in _UID.findall(arguments):
            trace.answered.setdefault(uid, number)


def _note_end(trace: Trace, call: str, arguments: str, result: str, begin: int, end: int) -> None:
    if call == "openat":
        target = _TARGET.search(result)
        if target and "O_CREAT" in arguments and target[1].endswith(".seg"):
            trace.created[target[1]] = end
        return
    file = _file_of(arguments)
    if call in ("fdatasync", "fsync"):
        if result.rstrip().endswith("= 0"):
            trace.syncs[file].append((begin, end))
    elif file.endswith(".seg"):
        for uid in _UID.findall(arguments):
            trace.written.setdefault(uid, (file, end))


def traced_ingest(tmp_path: Path, durability: str, senders: int, each: int) -> tuple[Trace, ingest.Ledger]:
    """The trace of a server while some senders store some instances each."""
    output = tmp_path / "trace"
    prefix = ("strace", "-f", "-ttt", "-y", "-s", "700", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(output))
    ledger = ingest.Ledger()
    config = f'durability = "{durability}"\nwrite_behind_sync_s = 0.2\n'
    with running(tmp_path / "data", prefix=prefix, config=config) as server:
        threads = [
            ingest.Sender(server.port, ledger, ingest.study_number(0), range(which * 1000, which * 1000 + each))
            for which in range(senders)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
            assert not thread.lost
    assert len(ledger.acknowledged) == senders * each
    return read_trace(output), ledger


@pytest.mark.parametrize(("senders", "each"), [(1, 20), (4, 12)])
def test_durable_answers_leave_after_the_fdatasync_that_covers_them(tmp_path: Path, senders: int, each: int) -> None:
    trace, ledger = traced_ingest(tmp_path, "durable", senders, each)
    assert trace.answered.keys() == ledger.acknowledged.keys(), "the trace does not show every response"
    assert trace.written.keys() >= ledger.acknowledged.keys(), "the trace does not show every record"
    assert trace.violations() == []


def test_the_check_finds_answers_that_were_not_synced(tmp_path: Path) -> None:
    trace, ledger = traced_ingest(tmp_path, "write-behind", 2, 15)
    assert trace.answered.keys() == ledger.acknowledged.keys()
    assert trace.violations(), "the control did not fail: the check is blind"

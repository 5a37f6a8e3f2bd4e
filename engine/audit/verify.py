"""Looks for changes in the audit log: `filmroom audit verify`.

    changed      a record does not have its hash
    gap          records are missing between two others
    order        records stand in another order
    cut          a chain ends before what was signed
    missing      a whole chain, file, or checkpoint is gone
    forged       a checkpoint is not signed by the key, or says something else than the chain
    rolled back  the collector has a checkpoint that this log does not have
    clock        a record is older than the one before it: the clock was set back, or the log was changed

The last is a suspicion: clocks are set. Everything else is damage. Records behind the last checkpoint are chained, but
nobody has signed them yet; a running server signs every few seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.audit.chain import HASH_BYTES, Head, chain_files, chain_names, first_hash, first_number, folder_of
from engine.audit.checkpoint import CHECKPOINTS, VERIFY_KEY, Checkpoint, checkpoint_lines, parse, verify_keys
from engine.audit.logs import source_roots
from engine.audit.reading import lines_of
from engine.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PROBLEMS_MAX: Final = 1000
CLOCK_TOLERANCE_S: Final = 60.0
"""Events of several threads are recorded within moments of each other, not always in the order of their times."""
_TIME_BYTES: Final = 27


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was written."""

    kind: str
    place: str
    """The file and line, or the chain."""
    detail: str

    @property
    def is_damage(self) -> bool:
        """Whether it cannot come from a clock that was set."""
        return self.kind != "clock"


@dataclass(slots=True)
class Report:
    """The result of a verification."""

    problems: list[Problem] = field(default_factory=list)
    problems_count: int = 0
    events: int = 0
    chains: int = 0
    checkpoints: int = 0
    anchors: int = 0
    unsigned: int = 0
    """Records behind the last checkpoint."""
    signed_until: str = ""
    """The time of the last checkpoint."""
    is_key_given: bool = False
    """Whether the key came from elsewhere: a forger would replace the one beside the log, too."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged."""
        return not any(problem.is_damage for problem in self.problems)

    def add(self, kind: str, place: str, detail: str) -> None:
        """Reports a problem."""
        self.problems_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(kind, place, detail))


@dataclass(slots=True)
class _Signed:
    """What checkpoints say of one chain."""

    hashes: dict[int, bytes] = field(default_factory=dict)
    last: int = 0

    def note(self, head: Head, report: Report, place: str) -> None:
        if self.hashes.setdefault(head.number, head.hash) != head.hash:
            report.add("forged", place, f"two checkpoints disagree on record {head.number}")
        self.last = max(self.last, head.number)


def verify(data: Path, *, key: Path | None = None, anchor: Iterable[bytes] | None = None) -> Report:
    """Verifies the logs of an archive (`logs`). `anchor`: lines of what the collector has received.

    Raises ConfigError for a key that cannot be read, OSError for a file that cannot be read.
    """
    report = Report(is_key_given=key is not None)
    own = _Log(data, "", key, report)
    own.verify_checkpoints()
    logs = [own]
    for lineage, root in source_roots(data).items():
        prefix = f"{lineage}/"
        pruned = {label.removeprefix(prefix): head for label, head in own.pruned.items() if label.startswith(prefix)}
        of_source = _Log(root, prefix, key, report, pruned)
        of_source.verify_checkpoints()
        logs.append(of_source)
    for line in anchor or ():
        checkpoint = parse(line)
        if checkpoint is not None:
            # Several logs may have a checkpoint of one number: the key tells whose it is.
            owners = [each for each in logs if checkpoint.is_signed_by(each.own_keys)] if len(logs) > 1 else logs
            (owners or logs)[0].verify_anchor(checkpoint)
    for each in logs:
        each.verify_chains()
    return report


class _Log:
    """The verification of one log."""

    def __init__(
        self, root: Path, label: str, key: Path | None, report: Report, pruned: Mapping[str, Head] | None = None
    ) -> None:
        """`pruned`: what checkpoints of another log say that was removed of this one."""
        self._root = root
        self._label = label
        """Before the names of its chains."""
        self._report = report
        place = folder_of(root) / VERIFY_KEY
        self._keys: Sequence[Ed25519PublicKey] = verify_keys(key or place) if key or place.exists() else ()
        self.own_keys = _keys_at(place)
        """Those beside the log."""
        self.pruned: dict[str, Head] = dict(pruned or {})
        """What was removed, by chain; of logs of sources too, by their labels."""
        self._signed: dict[str, _Signed] = {}
        self._digests: dict[int, str] = {}
        self._last: Checkpoint | None = None
        if not self._keys and any(chain_files(root, name) for name in chain_names(root)):
            report.add("missing", str(place), "there is no key to verify with, and nothing is signed")

    def verify_checkpoints(self) -> None:
        report = self._report
        first = 0
        for path, line_number, line in checkpoint_lines(self._root) if self._keys else ():
            place = f"{self._label}{path.parent.name}/{path.name}:{line_number}"
            checkpoint = parse(line)
            if checkpoint is None or not checkpoint.is_signed_by(self._keys):
                report.add("forged", place, "it is not signed by the key")
                continue
            if self._last is None:
                first = checkpoint.number
            elif checkpoint.number != self._last.number + 1:
                report.add("missing", place, f"checkpoint {self._last.number} is followed by {checkpoint.number}")
            elif checkpoint.previous != self._last.digest:
                report.add("forged", place, "it does not follow the checkpoint before it")
            self._note(checkpoint, place)
            self._digests[checkpoint.number] = checkpoint.digest
            self._last = checkpoint
            report.checkpoints += 1
            report.signed_until = report.signed_until if self._label else checkpoint.time
        pruned = self.pruned.get(CHECKPOINTS)
        if first > (pruned.number if pruned is not None else 0) + 1:
            report.add("missing", f"{self._label}{CHECKPOINTS}", f"the checkpoints before number {first} are gone")

    def verify_anchor(self, checkpoint: Checkpoint) -> None:
        """Compares one checkpoint of the collector."""
        if not self._keys:
            return
        self._report.anchors += 1
        place = f"the collector's checkpoint {self._label}{checkpoint.number}"
        if not checkpoint.is_signed_by(self._keys):
            self._report.add("forged", place, "it is not signed by the key")
            return
        local = self._digests.get(checkpoint.number)
        if local is None and (self._last is None or checkpoint.number > self._last.number):
            self._report.add("rolled back", place, f"of {checkpoint.time} is not in this log")
        elif local is not None and local != checkpoint.digest:
            self._report.add("rolled back", place, "this log has another one of that number")
        self._note(checkpoint, place)

    def verify_chains(self) -> None:
        for name in sorted({*chain_names(self._root), *self._signed}):
            signed = self._signed.get(name, _Signed())
            _Chain(self._root, name, self._label, signed, self.pruned.get(name), self._report).verify()

    def _note(self, checkpoint: Checkpoint, place: str) -> None:
        for name, head in checkpoint.chains.items():
            self._signed.setdefault(name, _Signed()).note(head, self._report, place)
        for name, head in checkpoint.pruned.items():
            before = self.pruned.get(name)
            if before is None or head.number > before.number:
                self.pruned[name] = head


def _keys_at(place: Path) -> Sequence[Ed25519PublicKey]:
    """The keys of a file; none if they cannot be read: they only tell logs apart."""
    try:
        return verify_keys(place)
    except ConfigError:
        return ()


class _Chain:
    """The verification of one chain."""

    def __init__(self, root: Path, name: str, label: str, signed: _Signed, pruned: Head | None, report: Report) -> None:
        self._paths = chain_files(root, name)
        self._name = label + name
        self._signed = signed
        self._report = report
        self._latest = b""
        self._number = pruned.number if pruned is not None else 0
        self._hash = pruned.hash if pruned is not None else first_hash(name)
        self._is_start_known = True
        if pruned is not None and self._paths and first_number(self._paths[0]) <= pruned.number:
            # The statement was signed, and the files are still there: they are verified from their beginning.
            self._number = first_number(self._paths[0]) - 1
            self._is_start_known = self._number == 0
            self._hash = first_hash(name)

    def verify(self) -> None:
        report, signed = self._report, self._signed
        if not self._paths and signed.last > self._number:
            report.add("missing", f"chain {self._name}", f"its {signed.last} records are gone")
            return
        report.chains += bool(self._paths)
        for path in self._paths:
            if first_number(path) > self._number + 1 and self._is_start_known:
                missing = f"{self._number + 1} to {first_number(path) - 1}"
                report.add("missing", f"chain {self._name}", f"the file with the records {missing} is gone")
                self._number, self._is_start_known = first_number(path) - 1, False
            self._verify_file(path)
        if self._number < signed.last:
            report.add("cut", f"chain {self._name}", f"it ends at record {self._number}; {signed.last} was signed")
        report.unsigned += max(0, self._number - signed.last)

    def _verify_file(self, path: Path) -> None:
        report, hashes = self._report, self._signed.hashes
        number, before, latest = self._number, self._hash, self._latest
        is_known = self._is_start_known
        sha256 = hashlib.sha256
        for line_number, line in enumerate(lines_of(path), 1):
            digits, record = line[:HASH_BYTES], line[HASH_BYTES + 1 :]
            report.events += 1
            prefix = record[: record.find(b",")]
            try:
                if prefix[:5] != b'{"n":' or line[HASH_BYTES : HASH_BYTES + 1] != b" ":
                    raise ValueError
                own_number, own_hash = int(prefix[5:]), bytes.fromhex(digits.decode("ascii"))
            except ValueError:
                report.add("changed", self._place(path, line_number), "it is no record")
                number, is_known = number + 1, False
                continue
            if own_number != number + 1:
                self._misplaced(path, line_number, number + 1, own_number)
            elif is_known and sha256(before + record).digest() != own_hash:
                report.add("changed", self._place(path, line_number), f"record {own_number} does not have its hash")
            mark = hashes.get(own_number)
            if mark is not None and mark != own_hash:
                detail = f"record {own_number} is another one than was signed"
                report.add("forged", self._place(path, line_number), detail)
            time = record[len(prefix) + 6 : len(prefix) + 6 + _TIME_BYTES]
            if time < latest and _seconds_back(latest, time) > CLOCK_TOLERANCE_S:
                detail = f"record {own_number} of {time.decode('ascii', 'replace')} follows one of {latest.decode()}"
                report.add("clock", self._place(path, line_number), detail)
            latest = time
            number, before, is_known = own_number, own_hash, True
        self._number, self._hash, self._latest, self._is_start_known = number, before, latest, is_known

    def _misplaced(self, path: Path, line_number: int, expected: int, number: int) -> None:
        place = self._place(path, line_number)
        if number > expected:
            self._report.add("gap", place, f"the records {expected} to {number - 1} are missing")
        else:
            self._report.add("order", place, f"record {number} stands where {expected} should")

    def _place(self, path: Path, line_number: int) -> str:
        return f"{self._name}/{path.name}:{line_number}"


def _seconds_back(latest: bytes, time: bytes) -> float:
    try:
        difference = datetime.fromisoformat(latest.decode()) - datetime.fromisoformat(time.decode())
    except ValueError:
        return 0.0
    return difference.total_seconds()

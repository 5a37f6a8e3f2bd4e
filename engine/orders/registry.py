"""`Orders`: the registry of patients, visits, orders and steps, for the rooms above.

    apply(value, source) ──► decide in a write transaction ──► state log, synced ──► commit ──► corrections of studies

When `apply` returns, what it changed is on disk and visible to every process. It may be called again with the same
value: nothing changes then, and a correction that a crash prevented is made. Call it in a thread, since it waits for
the disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from engine import log
from engine.dicom.identifier import Identifier as DataSet
from engine.errors import EngineError, OrdersError, UpdateRefused
from engine.orders import linking, merging, ordering, patients, performing, supplying, unmerging, visits
from engine.orders.database import Database, boot_id
from engine.orders.names import id_key
from engine.orders.rows import AnnouncementRow, AskedRow, MergeRow, PerformedRow
from engine.orders.state_log import StateLog, as_rows
from engine.orders.transactions import Reading, Writing
from engine.orders.values import (
    Applied,
    AppointmentUpdate,
    Change,
    ChangeKind,
    Identifier,
    Issuer,
    OrderUpdate,
    PatientIdentifierChange,
    PatientIdentifierMove,
    PatientLink,
    PatientMerge,
    PatientUpdate,
    RefusalReason,
    ReportUpdate,
    Source,
    Update,
    VisitMove,
    VisitUpdate,
)
from engine.orders.work import Corrections, Rules, Supply, Work, refuse
from engine.storage.files import Files
from engine.storage.keyring import DataKey

logger = log.get("orders")

FOLDER = "hospital"
COMPACT_BYTES = 64 << 20
"""The state log is compacted when it is longer than this and four times its content."""


class NoRules:
    """No rules for stations."""

    issuer = ""
    shows_unassigned = True
    supplies_everybody = True
    announced: frozenset[str] = frozenset()

    def stations(self, modality: str, room: str, source: str) -> tuple[str, ...]:
        """No station."""
        return ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a registry is, and how its log is written."""

    data: Path
    archive_id: bytes
    files: Files
    data_key: Callable[[], DataKey] | None = None
    read_only: bool = False


def exists(data: Path) -> bool:
    """Whether an archive has a registry."""
    return state_folder(data).is_dir()


def state_folder(data: Path) -> Path:
    """Where the log of the registry is."""
    return data / FOLDER / "state"


class Orders:
    """One process's handle; thread-safe."""

    def __init__(self, place: Place, rules: Rules | None = None, corrections: Corrections | None = None) -> None:
        """Opens the registry, and makes its database from the log if it must. Raises OrdersError, StorageError."""
        self._place = place
        self.rules: Rules = rules or NoRules()
        self.corrections = corrections
        folder = place.data / FOLDER
        if place.read_only:
            raise OrdersError("an archive that is read-only has no worklists")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _discard_after_power_cut(folder)
        self._log = StateLog(state_folder(place.data), place.files, place.archive_id, place.data_key)
        self._database = Database(folder / "index")
        self._writing = threading.Lock()
        self._is_closed = False
        try:
            self._fill()
        except EngineError:
            self._database.close()
            raise

    def _fill(self) -> None:
        with self._database.read() as reading:
            if not self._database.is_stale(reading):
                return
        with self._database.write() as writing:
            if not self._database.is_stale(writing):
                return
            self._database.empty(writing)
            writing.is_replay = True
            count = 0
            for stamp, next_id, changes in self._log.replay():
                for number, key, raw in changes:
                    table = self._database.tables[number] if number < len(self._database.tables) else None
                    if table is not None and raw is not None:
                        writing.put_raw(table, key, raw)
                    elif table is not None:
                        writing.delete(table, key)
                writing.changes.clear()
                writing.set_number(b"state", stamp)
                writing.set_number(b"next", next_id)
                count += 1
            writing.index_workitems()
            self._database.mark_filled(writing)
        if count:
            logger.info("orders: database made anew from the state log", transactions=count)

    # -- writing ----------------------------------------------------------------------------------

    def apply(self, value: Update, source: Source) -> Applied:
        """Applies what a message says. Raises UpdateRefused (nothing changed), OrdersError, StorageError."""
        with self.work(source) as work:
            _apply(work, value)
        return self._finish(work)

    def apply_all(self, values: Sequence[tuple[Update, Source]]) -> list[Applied | UpdateRefused]:
        """Applies several values, in their order, with one sync. A refused one changes nothing. Raises as `apply`."""
        results: list[Work | UpdateRefused] = []
        with self._transaction() as writing:
            for value, source in values:
                try:
                    with writing.nested() as inner:
                        work = self._new_work(inner, source)
                        _apply(work, value)
                    results.append(work)
                except UpdateRefused as refusal:
                    results.append(refusal.without_frames())
        return [each if isinstance(each, UpdateRefused) else self._finish(each) for each in results]

    def create_performed(
        self, uid: str, data_set: DataSet, source: Source, *, strict: bool = False
    ) -> tuple[Applied, list[str]]:
        """An MPPS begins; returns also the attributes that it lacks. Raises StepRefused, and as `apply`."""
        with self.work(source) as work:
            missing = performing.create(work, uid, data_set, source.name, strict=strict)
        return self._finish(work), missing

    def modify_performed(
        self, uid: str, data_set: DataSet, source: Source, *, strict: bool = False
    ) -> tuple[Applied, list[str]]:
        """An MPPS changes or ends; as `create_performed`."""
        with self.work(source) as work:
            missing = performing.modify(work, uid, data_set, strict=strict)
        return self._finish(work), missing

    def announce(self, kind: str, subject: str, source: Source) -> None:
        """Keeps something to tell others, if somebody wants it. Raises as `apply`."""
        with self.work(source) as work:
            work.announce(kind, subject)

    def study_arrived(self, named: linking.Named, source: Source, *, is_complete: bool = False) -> Applied:
        """Links a stored study to the orders that it names, and tells the archive what is known of its patient.

        `is_complete`: their steps of that study end, if no MPPS reports on them. Raises as `apply`.
        """
        with self.work(source) as work:
            orders = linking.link(work, named)
            if is_complete:
                ordering.complete(work, named.study_instance_uid, [number for number, _ in orders])
            patients.let_agree(work, Identifier(named.patient_id, Issuer(named.patient_issuer)))
        return self._finish(work)

    def link(self, study_instance_uid: str, order: int, source: Source) -> Applied:
        """Links a study to an order by hand. Raises as `apply`."""
        with self.work(source) as work:
            linking.link_by_hand(work, study_instance_uid, order)
        return self._finish(work)

    def unlink(self, study_instance_uid: str, order: int, source: Source) -> Applied:
        """Undoes a link. Raises as `apply`."""
        with self.work(source) as work:
            linking.unlink(work, study_instance_uid, order)
        return self._finish(work)

    def unmerge(self, number: int, source: Source, reason: str) -> Applied:
        """Undoes a merge of patients (`unmerging`). Raises as `apply`; UpdateRefused if nothing is left to undo."""
        with self.work(source) as work:
            undone_by = unmerging.undo(work, number, reason)
        applied = self._finish(work, reason)
        if undone_by and not applied.changes:
            raise refuse(f"merge {number} has been undone already, by {undone_by}", RefusalReason.DUPLICATE_KEY)
        return applied

    def merges(self, *, before: int = 1 << 62, limit: int | None = None) -> list[tuple[int, MergeRow]]:
        """The merges of patients below a number, the latest first; from any thread."""
        with self.read_in_thread() as reading:
            return list(islice(merging.listed(reading, before), limit))

    def note_asked(self, ae_title: str, row: AskedRow) -> None:
        """Keeps the last query of an application entity."""
        with self.passing() as writing:
            writing.put_asked(ae_title.encode(), row)

    @contextmanager
    def passing(self) -> Iterator[Writing]:
        """A transaction on the rows that are not in the log. Raises OrdersError."""
        with self._open_for_writing() as writing:
            yield writing

    @contextmanager
    def work(self, source: Source) -> Iterator[Work]:
        """One transaction on rows, durable when the context ends. An error takes it back. Raises as `apply`."""
        with self._transaction() as writing:
            yield self._new_work(writing, source)

    def _new_work(self, writing: Writing, source: Source) -> Work:
        return Work(writing, source, time.time(), self._place.archive_id, self.rules)

    @contextmanager
    def _transaction(self) -> Iterator[Writing]:
        with self._open_for_writing() as writing:
            yield writing
            if writing.changes:
                stamp = self._log.append(writing.number(b"state"), writing.number(b"next"), writing.changes)
                self._log.sync()
                writing.set_number(b"state", stamp)

    @contextmanager
    def _open_for_writing(self) -> Iterator[Writing]:
        with self._writing:
            if self._is_closed:
                raise OrdersError("the registry is closed")
            with self._database.write() as writing:
                yield writing

    def _finish(self, work: Work, reason: str = "") -> Applied:
        """Tells the archive; what a crash prevents here is done when the value is applied again."""
        changes = list(work.changes)
        if self.corrections is not None:
            for prior, survivors in work.unmerges:
                numbers = self.corrections.unmerge(prior, survivors, work.source, reason)
                changes += [Change(ChangeKind.CORRECTION, number, "undone") for number in numbers]
            for prior, survivor in work.merges:
                changes += self.corrections.merge(prior, survivor, work.source, work.known_of(survivor))
            for studies, target in work.moves:
                numbers = self.corrections.move(studies, target, work.source)
                changes += [Change(ChangeKind.CORRECTION, number, "moved") for number in numbers]
            for identifier, attributes in work.agreements:
                numbers = self.corrections.agree(identifier, attributes, work.source)
                changes += [Change(ChangeKind.CORRECTION, number, "corrected") for number in numbers]
            for study_instance_uid in work.supplies:
                numbers = self.corrections.supply(
                    study_instance_uid, partial(self.supply_of, study_instance_uid), work.source
                )
                changes += [Change(ChangeKind.CORRECTION, number, "supplied") for number in numbers]
        return Applied(tuple(changes), tuple(work.warnings))

    def supply_of(self, study_instance_uid: str) -> Supply:
        """What the links of a study supply now."""
        with self.read() as reading:
            return supplying.supply_of(reading, study_instance_uid)

    # -- reading ----------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[Reading]:
        """A snapshot, for a moment; not while another thread closes the registry. Raises OrdersError."""
        if self._is_closed:
            raise OrdersError("the registry is closed")
        with self._database.read() as reading:
            yield reading

    @contextmanager
    def read_in_thread(self) -> Iterator[Reading]:
        """The same, from any thread; closing waits for it."""
        with self._writing, self.read() as reading:
            yield reading

    def performed(self, uid: str) -> PerformedRow | None:
        """An MPPS, from any thread."""
        with self.read_in_thread() as reading:
            return performing.find(reading, uid)

    def performed_of(self, study_instance_uid: str) -> list[PerformedRow]:
        """The MPPS of a study of known orders, from any thread."""
        with self.read_in_thread() as reading:
            return performing.of_study(reading, study_instance_uid)

    def announced_instances(self, study_instance_uid: str) -> list[str]:
        """The SOP Instance UIDs that a study shall have; none as long as a step of it goes on, or says nothing."""
        rows = self.performed_of(study_instance_uid)
        if any(row.status == performing.IN_PROGRESS for row in rows):
            return []
        return [uid for row in rows for uid in performing.references_of(row)]

    def announcements(self, after: int, limit: int, *, settled: bool = False) -> list[tuple[int, AnnouncementRow]]:
        """Those after an id; from any thread.

        `settled`: waits for whoever writes. What was in the log before the call is then among the answer.
        """
        with self._open_for_writing() if settled else self._reading() as reading:
            return list(islice(reading.rows_after(reading.database.announcements, after), limit))

    def last_id(self) -> int:
        """The last id that was given to anything; from any thread."""
        with self._reading() as reading:
            return max(reading.number(b"next") - 1, 0)

    @contextmanager
    def _reading(self) -> Iterator[Reading]:
        with self._writing, self.read() as reading:
            yield reading

    def forget_announcements(self, through: int) -> int:
        """Removes those up to an id; returns their number. Raises OrdersError, StorageError."""
        with self._transaction() as writing:
            table = writing.database.announcements
            numbers = [number for number, _ in writing.rows_after(table, 0) if number <= through]
            for number in numbers:
                writing.delete(table, id_key(number))
        return len(numbers)

    def counts(self) -> dict[str, int]:
        """The number of rows of each table."""
        with self._database.read() as reading:
            return {table.name: reading.count(table) for table in self._database.tables}

    # -- upkeep -----------------------------------------------------------------------------------

    def compact(self, *, least_bytes: int = COMPACT_BYTES) -> bool:
        """Writes the state log anew if most of it is outdated; returns whether it did. Raises StorageError."""
        with self._open_for_writing() as writing:
            total = self._log.bytes
            tables = list(enumerate(self._database.tables))
            if total < least_bytes:
                return False
            content = sum(len(key) + len(raw) for _, table in tables for key, raw in writing.raw_rows(table))
            if total < 4 * content:
                return False
            rows = as_rows((number, writing.raw_rows(table)) for number, table in tables)
            stamp = self._log.write_snapshot(writing.number(b"state"), writing.number(b"next"), rows)
            writing.set_number(b"state", stamp)
        removed = self._log.remove_old()
        logger.info("orders: state log compacted", bytes_before=total, bytes=self._log.bytes, segments_removed=removed)
        return True

    def close(self) -> None:
        """Closes it, after the writing that is going on."""
        with self._writing:
            if not self._is_closed:
                self._is_closed = True
                self._log.close()
                self._database.close()

    def __enter__(self) -> Orders:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _apply(work: Work, value: Update) -> None:
    match value:
        case PatientUpdate():
            patients.update(work, value)
        case PatientMerge():
            patients.merge(work, value)
        case PatientIdentifierChange():
            patients.change_identifier(work, value)
        case PatientIdentifierMove():
            patients.move_identifier(work, value)
        case PatientLink():
            patients.link(work, value)
        case VisitUpdate():
            visits.update(work, value)
        case VisitMove():
            visits.move(work, value)
        case OrderUpdate():
            ordering.update(work, value)
        case AppointmentUpdate():
            ordering.appoint(work, value)
        case ReportUpdate():
            ordering.report(work, value)


def _discard_after_power_cut(folder: Path) -> None:
    """Removes a database of another boot of the machine: its commits were not synced, and LMDB may not survive that."""
    fd = os.open(folder / "boot", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.pread(fd, 100, 0) != boot_id():
            shutil.rmtree(folder / "index", ignore_errors=True)
            os.ftruncate(fd, 0)
            os.pwrite(fd, boot_id(), 0)
    finally:
        os.close(fd)

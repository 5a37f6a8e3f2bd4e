"""Ships the growing log to a replica: the source's end of `filmroom replicate`.

    pass   list the segments → look how far each is whole (`copies.extent`) → sync what is new at its source → ship it
           → commit (the destination syncs) → remove there what a compaction has removed here → wait, again

It ships only bytes that are durable here, and counts only bytes that are durable there as replicated. It takes no role
and no lock, and opens no index. It may run beside a server, or without one.

    segment here, and there                             what happens
    longer here                                         the new bytes follow, after a look at where they join
    gone here, for REMOVE_AFTER_S, and a pass since     removed there: what took its place is there already
    another of the same id here                         the old one is removed once all others are there, then shipped
    shorter here, or other bytes                        ReplicationFailed: this source has another history (restored?),
                                                        and nothing it has not got is thrown away

    state       catching up ⇄ caught up;  either ─ destination lost ─► waiting ─ opened again ─► catching up

Patients, orders and messages (DATA/hospital) go the same way, unless the destination is of an older version
(`copies.shipped_logs`); the audit log goes behind them (`copies.audit_shipping`). A replica follows deletions. It is no
backup.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from engine import log
from engine.accounts import dump
from engine.archive import layout as layouts
from engine.archive import receipts
from engine.archive.copies import key_file, lag, shipped_logs, study_key_file
from engine.archive.copies.audit_shipping import AuditShipping
from engine.archive.copies.awaited import Awaited
from engine.archive.copies.replica import Destination, Held, Shipped, write_status
from engine.archive.copies.replication_status import Status
from engine.archive.copies.source import Source, Transfer, Vanished
from engine.archive.layout import Layout
from engine.archive.receipts import Kind
from engine.audit.chain import folder_of
from engine.errors import CorruptRecord, EngineError, KeyStoreError, ReplicationFailed, StorageError, for_log
from engine.rate_limiter import RateLimiter
from engine.storage.files import Files

logger = log.get("archive.replication")

PIECE_BYTES = 1 << 20
COMMIT_BYTES = 64 << 20
"""Bytes shipped between two syncs of the destination: the most that an outage makes it ship again."""
COMMIT_SEGMENTS = 32
COMMIT_EVERY_S = 10.0
"""The same over a slow line, or with a low rate."""
REMOVE_AFTER_S = 60.0
"""How long a compacted segment stays at the destination, so that its readers learn where its records are now."""
ACCOUNTS_BYTES_MAX = 1_000_000
"""What one message to the destination takes: some thousands of users."""
PAUSE_S = (1.0, 30.0)
"""The pause between two attempts to reach a lost destination: at first, and at most."""
STATUS_EVERY_S = 1.0
STOP_LOOK_S = 0.2
"""The interval of the look for a signal to stop while workers are listened to."""


class Replication:
    """One source and one destination; `run` in one thread."""

    def __init__(
        self,
        layout: Layout,
        connect: Callable[[], Destination],
        status: Status,
        *,
        files: Files | None = None,
        rate_limiter: RateLimiter | None = None,
        status_path: str = "",
        on_status: Callable[[Status], None] = lambda status: None,
        remove_after_s: float = REMOVE_AFTER_S,
        clock_s: Callable[[], float] = time.time,
        gives_receipts: bool = False,
    ) -> None:
        """`connect` opens the destination, again after each outage; `on_status` gets every change of the status.

        `gives_receipts`: whether workers may wait for what `run` ships.
        """
        self._layout = layout
        self._connect = connect
        self.status = status
        self._files = files or Files()
        self._rate_limiter = rate_limiter or RateLimiter(0)
        self._status_path = status_path
        self._on_status = on_status
        self._remove_after_s = remove_after_s
        self._clock_s = clock_s
        self._source = Source(layout, self._files)
        self._destination: Destination | None = None
        self._takes_all = False
        """Whether the destination takes the logs of DATA/hospital: older versions do not."""
        self._held: dict[int, Held] = {}
        self._gone_s: dict[int, float] = {}
        """When a segment was first missing here."""
        self._sent_keys = ""
        """The wrapped keys that the destination has, since it was opened."""
        self._study_keys = study_key_file.Sender(layout, self._files)
        self._audit = AuditShipping(self._files, self._rate_limiter)
        self._sent_accounts = ""
        """The same of the accounts."""
        self._told_s = 0.0
        self._seen: dict[str, object] = {}
        self._gives_receipts = gives_receipts
        self._awaited = Awaited(
            layout, self._files, lambda: self._held, self._has_come, self._source.join, self._send_keys
        )

    def run(self, stop: threading.Event, interval_s: float = 1.0) -> None:
        """Replicates until `stop`. Raises ReplicationFailed when trying again would not help."""
        pause_s = PAUSE_S[0]
        try:
            while not stop.is_set():
                try:
                    self.run_once()
                    pause_s = PAUSE_S[0]
                    if self._gives_receipts:
                        self._awaited.open(receipts.replication_name(self.status.destination))
                        self._awaited.tell(Kind.READY)
                    self._rest(stop, interval_s)
                except (EngineError, OSError) as error:
                    if isinstance(error, ReplicationFailed) and error.is_final:
                        self._awaited.tell(Kind.FENCED if error.is_fenced else Kind.AWAY)
                        raise
                    self._lost(error)
                    self._awaited.tell(Kind.AWAY)
                    self._rest(stop, pause_s)
                    pause_s = min(2 * pause_s, PAUSE_S[1])
        finally:
            self._awaited.close()
            self.close()

    def _rest(self, stop: threading.Event, seconds: float) -> None:
        """Waits for the next pass, and serves those who wait for receipts meanwhile."""
        if not self._awaited.is_open:
            stop.wait(seconds)
            return
        self._awaited.renew()
        until_s = time.monotonic() + seconds
        while not stop.is_set() and (left_s := until_s - time.monotonic()) > 0:
            self._awaited.wait(self._destination, min(left_s, STOP_LOOK_S))

    def run_once(self) -> bool:
        """One pass; True when the destination has everything that the log had at its beginning.

        Raises as `run`, and also errors that a later pass may not meet.
        """
        layout = self._check_source()
        if self._destination is None:
            self._open()
        assert self._destination is not None
        began_s = self._clock_s()
        present = self._present()
        transfers, whole = self._transfers(present)
        self.status.lag_bytes = sum(item.found.end - item.start for item in transfers)
        self.status.segments = len(self._held)
        self._awaited.begin_pass(self._destination, [item.segment_id for item in transfers])
        if transfers:
            self._tell("catching up")
        whole &= self._ship_all(self._destination, transfers)
        self._ship_audit(self._destination, layout)
        if whole:
            self._send_keys(self._destination)  # a key may have been destroyed since the last record was sent
            self._remove(self._destination, present + self._elsewhere(present))
            self.status.caught_up_s = began_s
            self.status.lag_bytes = 0
        self.status.segments = len(self._held)
        self._tell("caught up" if whole else "catching up", at_once=True)
        return whole

    def close(self) -> None:
        """Closes the destination."""
        destination, self._destination = self._destination, None
        if destination is not None:
            destination.close()

    # -- the two ends ---------------------------------------------------------------------------

    def _present(self) -> list[int]:
        return shipped_logs.stable(self._layout.data, self._files, has_hospital=self._takes_all)

    def _check_source(self) -> Layout:
        """Checks that the data directory is still the same archive, and not an empty mount point."""
        layout = layouts.open_layout(self._layout.data, self._files, create=False)
        if (layout.archive_id, layout.lineage) != (self._layout.archive_id, self._layout.lineage):
            raise ReplicationFailed(f"{self._layout.data} holds another archive now", is_final=True)
        return layout

    def _open(self) -> None:
        self._destination = self._connect()
        self._held = self._destination.held()
        self._takes_all = self._destination.takes_all_logs
        if self._takes_all:
            self._destination.tell({**self.status.describe(self._clock_s()), "ships": "all logs"})
        self._sent_keys = self._sent_accounts = ""
        self._study_keys.forget()
        if self._destination.audit is not None:
            self._audit.begin(self._destination.audit)
        self._source.forget_joins()
        self._awaited.forget()
        self._gone_s.clear()

    def _lost(self, error: Exception) -> None:
        """Handles a failure of the destination, the network or the source: tries again later, from the last commit."""
        logger.warning("replication waits", destination=self.status.destination, error=for_log(error))
        try:
            self.close()
        except (EngineError, OSError) as failure:
            logger.warning("the destination could not be closed", error=for_log(failure))
        self.status.error = str(error)
        try:
            transfers, _ = self._transfers(self._present())
            self.status.lag_bytes = sum(item.found.end - item.start for item in transfers)
        except (EngineError, OSError) as failure:
            logger.warning("the lag cannot be measured", error=for_log(failure))
        self._tell("waiting", at_once=True)

    def _send_keys(self, destination: Destination) -> None:
        """Sends the archive's wrapped keys if they have changed: no record may count whose key the replica lacks."""
        keys = key_file.content(self._layout, self._files)
        if keys != self._sent_keys:
            destination.tell({**self.status.describe(self._clock_s()), "keys": keys})
            self._sent_keys = keys
        for message in self._study_keys.messages():
            destination.tell({**self.status.describe(self._clock_s()), **message})

    def _send_accounts(self, destination: Destination) -> None:
        """Sends users, keys, grants and shares if they have changed."""
        accounts = dump.text_of(self._layout.data)
        if accounts == self._sent_accounts:
            return
        if len(accounts) > ACCOUNTS_BYTES_MAX:
            logger.error("the accounts are too large for a replica: a backup has them", bytes=len(accounts))
        else:
            destination.tell({**self.status.describe(self._clock_s()), "accounts": accounts})
        self._sent_accounts = accounts

    def _tell(self, state: str, *, at_once: bool = False) -> None:
        now_s = self._clock_s()
        if state != "waiting":
            self.status.error = ""
        changed = state != self.status.state
        self.status.state = state
        self.status.updated_s = now_s
        if not (changed or at_once) and now_s - self._told_s < STATUS_EVERY_S:
            return
        self._told_s = now_s
        described = self.status.describe(now_s)
        if self._status_path:
            try:
                status = {**described, "process": lag.process(), "seen": self._seen}
                write_status(self._status_path, status, self._files)
            except StorageError as error:
                logger.warning("the status cannot be kept", error=for_log(error))
        if self._destination is not None:
            self._send_accounts(self._destination)
            self._destination.tell(described)
        self._on_status(self.status)

    def _transfers(self, present: list[int]) -> tuple[list[Transfer], bool]:
        """What is missing, and whether every segment could be read (`Source.transfers`)."""
        self.status.findings = []
        if not self._takes_all and self._destination is not None and (self._layout.data / "hospital").is_dir():
            self.status.findings.append(
                "patients, orders and messages are not in the replica: it runs an older version of Filmroom"
            )
        missing = self._source.transfers(present, self._held, self.status.findings)
        self._seen = lag.seen(present, self._source.open_ends, has_hospital=self._takes_all)
        return missing

    # -- shipping -------------------------------------------------------------------------------

    def _ship_all(self, destination: Destination, transfers: list[Transfer]) -> bool:
        """Ships and commits; False when a segment is gone or cannot be read."""
        whole = True
        shipped: list[Shipped] = []
        committed = self.status.shipped_bytes, self._clock_s()
        for item in transfers:
            if item.is_another:
                if not whole:
                    break
                self._commit(destination, shipped)
                destination.remove([item.segment_id])
                del self._held[item.segment_id]
            try:
                for done in self._ship(destination, item):
                    self._awaited.wait(destination, 0.0, {item.segment_id, *(each.segment_id for each in shipped)})
                    is_much = self.status.shipped_bytes - committed[0] >= COMMIT_BYTES
                    is_long = self._clock_s() - committed[1] >= COMMIT_EVERY_S
                    if is_much or is_long or len(shipped) >= COMMIT_SEGMENTS:
                        self._commit(destination, [*shipped, done])
                        shipped, committed = [], (self.status.shipped_bytes, self._clock_s())
                        self._tell("catching up")
                    elif done.length >= item.found.end:
                        shipped.append(done)
            except Vanished:
                whole = False
            except CorruptRecord as error:
                self.status.findings.append(f"segment {item.segment_id:016x} cannot be shipped: {error}")
                whole = False
        self._commit(destination, shipped)
        return whole

    def _ship(self, destination: Destination, item: Transfer) -> Iterator[Shipped]:
        """Ships a segment piece by piece; yields its progress after each."""
        segment_id, there, at, _ = item
        held = self._held.get(segment_id)
        if held is not None and held.salt == there.salt:
            at = max(at, held.length)  # somebody waited for it
        fd = self._source.open(segment_id)
        try:
            self._files.fdatasync(fd)
            sent_end = self._awaited.take_over(
                segment_id, there.salt, lambda length, start: self._files.pread(fd, length, start)
            )
            at = max(at, sent_end)
            end = max(at, there.end)
            if at == sent_end == end:
                yield Shipped(segment_id, there.salt, at, there.is_sealed and at == there.end)
            while at < end:
                try:
                    data = self._files.pread(fd, self._rate_limiter.piece(min(PIECE_BYTES, end - at)), at)
                except OSError as error:
                    raise CorruptRecord(f"cannot be read: {error.strerror}", segment_id, at) from error
                if not data:
                    raise Vanished
                destination.write(segment_id, there.salt, at, data)
                at += len(data)
                self.status.shipped_bytes += len(data)
                self.status.lag_bytes = max(0, self.status.lag_bytes - len(data))
                self._rate_limiter.spent(len(data))
                yield Shipped(segment_id, there.salt, at, there.is_sealed and at == there.end)
        finally:
            self._files.close(fd)

    def _commit(self, destination: Destination, shipped: list[Shipped]) -> None:
        if not shipped:
            return
        self._send_keys(destination)
        destination.commit(shipped)
        for item in shipped:
            self._has_come(item)
        self._awaited.noted(item.segment_id for item in shipped)

    def _has_come(self, item: Shipped) -> None:
        """The replica has made this durable."""
        self._held[item.segment_id] = Held(item.salt, item.length, item.is_sealed)
        self._source.note_join(item.segment_id)

    def _ship_audit(self, destination: Destination, layout: Layout) -> None:
        """Ships the audit log. Nothing else waits for it: what cannot be shipped is a finding."""
        if destination.audit is None:
            if folder_of(layout.data).is_dir():
                self.status.findings.append("the audit log is not in the replica: it runs an older version of Filmroom")
            return
        try:
            key = self._audit.key(layout)
        except KeyStoreError as error:
            self.status.findings.append(
                f"the audit log is not in the replica: no key is at hand to encrypt it: {error}"
            )
            return
        self._send_keys(destination)
        self.status.audit_bytes += self._audit.ship(layout, destination.audit, key)

    def _elsewhere(self, present: list[int]) -> list[int]:
        """The segments that are in an object store only: the destination keeps those that it has."""
        elsewhere = self._layout.elsewhere
        absent = set() if elsewhere is None else set(elsewhere.segment_ids()) - set(present)
        if missing := absent - self._held.keys():
            self.status.findings.append(
                f"{len(missing)} segments are in the object store only, and not in the replica: `filmroom object-store"
                " fetch` makes files of them"
            )
        return sorted(absent)

    def _remove(self, destination: Destination, present: list[int]) -> None:
        """Removes segments that have been gone here for long enough. Call it when the destination has all others."""
        now_s = self._clock_s()
        removed = self._held.keys() - set(present)
        for segment_id in self._gone_s.keys() - removed:
            del self._gone_s[segment_id]
        due = [
            segment_id
            for segment_id in sorted(removed)
            if now_s - self._gone_s.setdefault(segment_id, now_s) >= self._remove_after_s
        ]
        if due and present:
            destination.remove(due)
            for segment_id in due:
                del self._held[segment_id]
                self._source.forget(segment_id)
                del self._gone_s[segment_id]

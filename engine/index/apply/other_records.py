"""Applies records that are not instances: tombstones as records, holds and quarantined data sets.

    tombstone    one row for the record itself, keyed by its content: of two copies (compaction) the last one counts.
                 One row by the UID of a study or series. `tombstones` applies it to the instances that it kills
    hold         every record of a study, in its order; the last one counts and the others are dead
    quarantine   every record; dead when a tombstone names its stamp, or when it is an earlier copy

Call this within a batch of the writer. `query.listing` reads the rows.
"""

from __future__ import annotations

from engine.index.apply.accounts import Accounts, Share
from engine.index.apply.history import order_and_place
from engine.index.apply.versions import State
from engine.index.database.environment import Environment
from engine.index.database.transactions import WriteTxn
from engine.index.format import keys
from engine.index.format.entry import Hold, Quarantined, Tombstone
from engine.index.format.rows import scan_prefix
from engine.index.format.types import Level
from engine.storage.record import Position


def tombstone_key(tombstone: Tombstone) -> bytes:
    """The key of its row in `tombstones`."""
    position = tombstone.position
    digest = keys.digest_of(tombstone.uid, tombstone.pack_meta())
    return keys.TOMBSTONE_KEY.pack(tombstone.stamp, digest, position.segment_id, position.offset)


def deletion_key(tombstone: Tombstone) -> bytes | None:
    """The key of its row in `deletions`; None for a tombstone of single instances."""
    if tombstone.level == Level.IMAGE:
        return None
    # A patient is deleted study by study: its tombstones name studies.
    level = Level.SERIES if tombstone.level == Level.SERIES else Level.STUDY
    return deletion_prefix(level, tombstone.uid) + tombstone_key(tombstone)


def deletion_prefix(level: Level, uid: bytes) -> bytes:
    """The prefix of the keys of a study's or series' tombstones."""
    return bytes((level,)) + keys.bounded(uid) + b"\0"


def hold_key(hold: Hold) -> bytes:
    """The key of its row in `holds`. Of two with one stamp, the one that sets a hold comes later."""
    digest = int.from_bytes(keys.digest_of(hold.pack_meta()), "big") >> 1
    tie = hold.is_set << 63 | digest
    place = (hold.position.segment_id, hold.position.offset)
    return keys.bounded(hold.study_instance_uid) + b"\0" + keys.ORDER_PLACE.pack(hold.stamp, tie, *place)


def quarantine_key(quarantined: Quarantined) -> bytes:
    """The key of its row in `quarantine`."""
    return keys.bounded(quarantined.sop_instance_uid) + b"\0" + order_and_place(quarantined.stamp, quarantined.position)


def drop_key(tombstone: Tombstone, sop_key: bytes) -> bytes:
    """The key of a row in `drops`."""
    position = tombstone.position
    ends = keys.ORDER_PLACE.pack(tombstone.target_stamp, tombstone.stamp, position.segment_id, position.offset)
    return sop_key + b"\0" + ends


def pack_apart(state: int, position: Position, key: bytes, meta: bytes) -> bytes:
    """A row of `holds` or `quarantine`."""
    _, _, key_length, meta_length, payload_length, payload_crc = position
    return keys.APART.pack(state, payload_length, payload_crc, meta_length, key_length) + key + meta


def unpack_apart(key: bytes, value: bytes) -> tuple[int, Position, bytes, bytes]:
    """State, position, key and meta block of a row; `key` is the key of the row."""
    state, payload_length, payload_crc, meta_length, key_length = keys.APART.unpack_from(value)
    segment_id, offset = keys.PLACE.unpack(key[-keys.PLACE.size :])
    position = Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc)
    end = keys.APART.size + key_length
    return state, position, value[keys.APART.size : end], value[end:]


class OtherRecords:
    """Applies these records within a batch."""

    def __init__(self, environment: Environment, accounts: Accounts) -> None:
        self._environment = environment
        self._accounts = accounts

    # -- tombstones -----------------------------------------------------------------------------

    def note_tombstone(self, txn: WriteTxn, tombstone: Tombstone) -> bool:
        """Adds the record's row; False if it has been applied before."""
        environment, accounts = self._environment, self._accounts
        position = tombstone.position
        row_key = tombstone_key(tombstone)
        accounts.cover(txn, position)
        if txn.get(row_key, db=environment.tombstones) is not None:
            return False
        fields = (position.meta_length, position.key_length, len(tombstone.sop_instance_uids))
        copies = list(scan_prefix(txn, environment.tombstones, row_key[: -keys.PLACE.size]))
        is_last = not copies or copies[-1][0] < row_key
        if copies and is_last:
            self._count_tombstone(txn, *copies[-1], counts=False)
        txn.put(row_key, keys.TOMBSTONE.pack(is_last, *fields), db=environment.tombstones)
        deletion = deletion_key(tombstone)
        if deletion is not None and environment.deletions is not None:
            txn.put(deletion, b"", db=environment.deletions)
        accounts.move(txn, position, None, Share.NEEDED if is_last else Share.DEAD)
        return True

    def last_of_copies(self, txn: WriteTxn, key: bytes) -> None:
        """Call this after a copy of a tombstone has been removed: the last of the remaining copies counts."""
        copies = list(scan_prefix(txn, self._environment.tombstones, key[: -keys.PLACE.size]))
        if copies and not copies[-1][1][0]:
            self._count_tombstone(txn, *copies[-1], counts=True)

    def _count_tombstone(self, txn: WriteTxn, key: bytes, value: bytes, *, counts: bool) -> None:
        _, meta_length, key_length, count = keys.TOMBSTONE.unpack(value)
        segment_id, offset = keys.PLACE.unpack(key[-keys.PLACE.size :])
        position = Position(segment_id, offset, key_length, meta_length, 0, 0)
        txn.put(key, keys.TOMBSTONE.pack(counts, meta_length, key_length, count), db=self._environment.tombstones)
        before, after = (Share.DEAD, Share.NEEDED) if counts else (Share.NEEDED, Share.DEAD)
        self._accounts.move(txn, position, before, after)

    # -- holds ----------------------------------------------------------------------------------

    def hold(self, txn: WriteTxn, hold: Hold) -> None:
        """Applies a hold."""
        environment, accounts = self._environment, self._accounts
        position = hold.position
        row_key = hold_key(hold)
        accounts.cover(txn, position)
        if txn.get(row_key, db=environment.holds) is not None:
            return
        prefix = row_key[: -keys.ORDER_PLACE.size]
        rows = list(scan_prefix(txn, environment.holds, prefix))
        was_held = False
        counts = True
        if rows:
            last_key, last_value = rows[-1]
            _, last_position, key, meta = unpack_apart(last_key, last_value)
            was_held = is_set(last_key)
            counts = last_key < row_key
            if counts:
                txn.put(last_key, pack_apart(0, last_position, key, meta), db=environment.holds)
                accounts.move(txn, last_position, Share.ALIVE, Share.DEAD)
        row = pack_apart(counts, position, hold.study_instance_uid, hold.pack_meta())
        txn.put(row_key, row, db=environment.holds)
        accounts.move(txn, position, None, Share.ALIVE if counts else Share.DEAD)
        if counts:
            accounts.count(keys.META_HELD, hold.is_set - was_held)

    # -- quarantine -----------------------------------------------------------------------------

    def quarantine(self, txn: WriteTxn, quarantined: Quarantined) -> None:
        """Applies a quarantined record."""
        environment, accounts = self._environment, self._accounts
        position = quarantined.position
        row_key = quarantine_key(quarantined)
        accounts.cover(txn, position)
        if txn.get(row_key, db=environment.quarantine) is not None:
            return
        row = pack_apart(State.DROPPED, position, quarantined.sop_instance_uid, quarantined.pack_meta())
        txn.put(row_key, row, db=environment.quarantine)
        accounts.change(txn, position, None, State.DROPPED)
        self.settle_quarantine(txn, row_key[: -keys.ORDER_PLACE.size - 1], quarantined.stamp)

    def settle_quarantine(self, txn: WriteTxn, sop_key: bytes, stamp: int) -> None:
        """Updates the states of the quarantined records of a UID and stamp."""
        environment = self._environment
        prefix = sop_key + b"\0" + stamp.to_bytes(8, "big")
        rows = list(scan_prefix(txn, environment.quarantine, prefix))
        is_dropped = any(
            int.from_bytes(key[len(prefix) : len(prefix) + 8], "big") > stamp
            for key, _ in scan_prefix(txn, environment.drops, prefix)
        )
        for number, (key, value) in enumerate(rows):
            has_copy = number + 1 < len(rows) and rows[number + 1][0].startswith(key[: -keys.PLACE.size])
            state = State.DROPPED if is_dropped else State.DUPLICATE if has_copy else State.QUARANTINED
            before, position, uid, meta = unpack_apart(key, value)
            if before != state:
                txn.put(key, pack_apart(state, position, uid, meta), db=environment.quarantine)
                self._accounts.change(txn, position, State(before), state)


def is_set(hold_row_key: bytes) -> bool:
    """Whether the record of this row sets a hold, or releases one."""
    return bool(hold_row_key[-keys.ORDER_PLACE.size + 8] & 0x80)

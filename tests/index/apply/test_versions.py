"""The fold rule alone: on one UID, without an index."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain, combinations

import pytest

from engine.index.apply.history import order_and_place
from engine.index.apply.needed import is_needed
from engine.index.apply.versions import LIVE, State, UidRecord, fold, in_order
from engine.index.format.entry import HEAL, POLICY_KEEP_BOTH, POLICY_KEEP_FIRST, POLICY_REPLACE
from engine.index.format.trash_record import TrashOperation
from engine.storage.record import Kind, Position


def _record(
    stamp: int, segment_id: int = 1, *, crc: int = 0, flags: int = 0, kind: int = Kind.INSTANCE, target: int = 0
) -> UidRecord:
    position = Position(segment_id, stamp * 1000, 10, 10, 100 if kind == Kind.INSTANCE else 0, crc)
    return UidRecord(order_and_place(stamp, position), None, kind, flags, position, b"syntax", b"meta", target)


def _states(*records: UidRecord) -> list[State]:
    states = fold(in_order(records)).states
    return [states[one.key] for one in records]


def test_of_copies_the_one_at_the_last_place_counts() -> None:
    first, copy = _record(5, 1, crc=7), _record(5, 9, crc=7)
    assert _states(first, copy) == [State.DUPLICATE, State.CURRENT]
    other = _record(6, 2, crc=8)
    assert _states(first, other, copy) == [State.DUPLICATE, State.VERSION, State.CURRENT]


@pytest.mark.parametrize("policy", [POLICY_KEEP_FIRST, POLICY_REPLACE, POLICY_KEEP_BOTH])
def test_a_copy_of_a_healing_record_does_not_heal_again(policy: int) -> None:
    damaged, healer = _record(5, 1, crc=7), _record(6, 2, crc=7, flags=policy | HEAL)
    copy = _record(6, 3, crc=7, flags=policy | HEAL)
    assert _states(damaged, healer) == [State.SUPERSEDED, State.CURRENT]
    assert _states(damaged, healer, copy) == [State.SUPERSEDED, State.DUPLICATE, State.CURRENT]


def test_a_tombstone_of_the_same_moment_kills_nothing() -> None:
    grave, stored = _record(5, 9, kind=Kind.TOMBSTONE), _record(5, 1, crc=7)
    assert _states(grave, stored) == [State.TOMBSTONE, State.CURRENT]


def test_a_target_kills_copies_and_duplicates_of_its_stamp_too() -> None:
    first, version, copy = _record(5, 1, crc=1), _record(6, 1, crc=2), _record(6, 2, crc=2)
    again = _record(7, 1, crc=2)
    grave = _record(8, 1, kind=Kind.TOMBSTONE, target=6)
    assert _states(first, version, copy, again, grave) == [
        State.CURRENT,
        State.DROPPED,
        State.DROPPED,
        State.DUPLICATE,
        State.TOMBSTONE,
    ]
    assert _states(first, version, grave, _record(9, 1, crc=2))[-1] == State.VERSION


def _trash(stamp: int, operation: TrashOperation, settles: int = 0, *, segment_id: int = 9) -> UidRecord:
    return _record(stamp, segment_id, kind=Kind.TRASH, flags=operation, target=settles)


def test_what_is_restored_is_as_it_was() -> None:
    first, version, dead = _record(1, crc=1), _record(2, crc=2), _record(3, crc=1)
    put = _trash(5, TrashOperation.PUT)
    assert _states(first, version, dead, put) == [State.TRASHED, State.TRASHED, State.DUPLICATE, State.TOMBSTONE]
    restored = _states(first, version, dead, put, _trash(6, TrashOperation.RESTORE, 5))
    assert restored[:3] == _states(first, version, dead)


@pytest.mark.parametrize("policy", [POLICY_KEEP_FIRST, POLICY_REPLACE, POLICY_KEEP_BOTH])
def test_an_instance_that_came_meanwhile_stays_current_beside_a_restored_one(policy: int) -> None:
    first, put, back = (
        _record(1, crc=1, flags=policy),
        _trash(5, TrashOperation.PUT),
        _trash(9, TrashOperation.RESTORE, 5),
    )
    other, same = _record(6, crc=2), _record(6, crc=1)
    assert _states(first, put, other) == [State.TRASHED, State.TOMBSTONE, State.CURRENT]
    assert _states(first, put, other, back)[::2] == [State.VERSION, State.CURRENT]
    assert _states(first, put, same, back)[::2] == [State.DUPLICATE, State.CURRENT]


def test_a_restoration_counts_beside_an_emptying_before_or_after_it() -> None:
    first, put = _record(1), _trash(5, TrashOperation.PUT)
    assert _states(first, put, _trash(6, TrashOperation.EMPTY, 5))[0] == State.EMPTIED
    for stamps in ((6, 7), (7, 6)):
        acts = _trash(stamps[0], TrashOperation.EMPTY, 5), _trash(stamps[1], TrashOperation.RESTORE, 5)
        assert _states(first, put, *acts)[0] == State.CURRENT


def test_a_tombstone_ends_what_waits_and_a_second_put_does_not() -> None:
    first, put, second = _record(1, crc=1), _trash(5, TrashOperation.PUT), _record(6, crc=2)
    again, empty = _trash(7, TrashOperation.PUT), _trash(8, TrashOperation.EMPTY, 7)
    assert _states(first, put, second, again, empty)[::2] == [State.TRASHED, State.EMPTIED, State.TOMBSTONE]
    assert _states(first, put, second, again, empty, _trash(9, TrashOperation.RESTORE, 5))[0] == State.CURRENT
    grave = _record(8, kind=Kind.TOMBSTONE)
    assert _states(first, put, second, again, grave)[::2] == [State.DELETED, State.DELETED, State.TOMBSTONE]


def _plainly(records: list[UidRecord]) -> dict[bytes, State]:
    """The rule word for word; everything is evaluated again after each record."""
    restored = {one.target_stamp for one in records if one.kind == Kind.TRASH and one.flags == TrashOperation.RESTORE}
    states: dict[bytes, State] = {}
    trash: dict[int, list[UidRecord]] = {}
    lives: dict[bytes, int] = {}
    """Key → 0, or the stamp of the PUT that has ended the life of the record."""
    current: UidRecord | None = None
    versions: list[UidRecord] = []
    for one in records:
        if one.kind == Kind.TOMBSTONE and not one.target_stamp:
            states = {key: state if state == State.TOMBSTONE else State.DELETED for key, state in states.items()}
            states[one.key] = State.TOMBSTONE
            current, versions, trash, lives = None, [], {}, {}
            continue
        if one.kind == Kind.TRASH:
            states[one.key] = State.TOMBSTONE
            if one.flags == TrashOperation.PUT:
                members = [member for member in (current, *versions) if member is not None]
                trash[one.stamp] = members
                states |= dict.fromkeys((member.key for member in members), State.TRASHED)
                lives |= {key: one.stamp for key, life in lives.items() if life == 0}
                current, versions = None, []
            elif one.flags == TrashOperation.RESTORE:
                lives |= {key: 0 for key, life in lives.items() if life == one.target_stamp}
                members = trash.pop(one.target_stamp, [])
                if current is None and members:
                    current, *versions = members
                elif current is not None:
                    for member in members:
                        is_new = not any(member.same_bytes(other) for other in (current, *versions))
                        versions = [*versions, member] if is_new else versions
                        states[member.key] = State.VERSION if is_new else State.DUPLICATE
            elif one.target_stamp not in restored:
                trash.pop(one.target_stamp, None)
                ended = (key for key, life in lives.items() if life == one.target_stamp)
                states |= dict.fromkeys(ended, State.EMPTIED)
            continue
        before = {member.key for member in (current, *versions) if member is not None}
        policy = one.flags & 3
        if one.kind == Kind.TOMBSTONE:
            versions = [version for version in versions if version.stamp != one.target_stamp]
            if current is not None and current.stamp == one.target_stamp:
                current, versions = (versions[0], versions[1:]) if versions else (None, [])
        elif current is None:
            current = one
        elif one.same_bytes(current):
            current = one if one.flags & HEAL and one.order != current.order else current
        else:
            same = [version for version in versions if version.same_bytes(one)]
            if same and (one.flags & HEAL or policy == POLICY_KEEP_FIRST):
                if one.flags & HEAL and one.order != same[0].order:
                    versions = [one if version is same[0] else version for version in versions]
            elif policy == POLICY_KEEP_FIRST:
                versions = [*versions, one]
            else:
                versions = versions if policy == POLICY_REPLACE else [*versions, current]
                current = one
        after = {member.key for member in (current, *versions) if member is not None}
        states |= dict.fromkeys(before - after, State.SUPERSEDED)
        if one.kind == Kind.TOMBSTONE:
            for key in states:
                if int.from_bytes(key[:8], "big") == one.target_stamp and lives.get(key) == 0:
                    states[key] = State.DROPPED
            states[one.key] = State.TOMBSTONE
        else:
            states[one.key] = State.VERSION if one.key in after else State.DUPLICATE
            lives[one.key] = 0
    states |= {version.key: State.VERSION for version in versions}
    return states if current is None else {**states, current.key: State.CURRENT}


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_agrees_with_its_literal_implementation(seed: int) -> None:
    rng = random.Random(seed)
    states: set[State] = set()
    for _ in range(400):
        records = _random_group(rng)
        assert fold(records).states == _plainly(records), f"seed {seed}: {records}"
        states |= set(_plainly(records).values())
    assert states == set(State) - {State.QUARANTINED}


def _random_group(rng: random.Random) -> list[UidRecord]:
    records: list[UidRecord] = []
    for stamp in range(1, rng.randrange(3, 12)):
        segment_id = rng.randrange(1, 5)
        if rng.random() < 0.1:
            records.append(_record(stamp, segment_id, kind=Kind.TOMBSTONE))
        elif rng.random() < 0.12 and records:
            records.append(_record(stamp, segment_id, kind=Kind.TOMBSTONE, target=rng.choice(records).stamp))
        elif rng.random() < 0.15:
            records.append(_trash(stamp, TrashOperation.PUT, segment_id=segment_id))
        elif rng.random() < 0.2 and (puts := [one for one in records if one.kind == Kind.TRASH and one.flags == 1]):
            operation = rng.choice((TrashOperation.RESTORE, TrashOperation.EMPTY))
            records.append(_trash(stamp, operation, rng.choice(puts).stamp, segment_id=segment_id))
        else:
            flags = rng.randrange(3) | rng.choice((0, 0, HEAL))
            records.append(_record(stamp, segment_id, crc=rng.randrange(3), flags=flags))
            if rng.random() < 0.2:
                records.append(_record(stamp, segment_id + 4, crc=records[-1].position.payload_crc, flags=flags))
    states = fold(in_order(records)).states
    return in_order([replace(one, state=states[one.key]) for one in records])


def _living(records: list[UidRecord]) -> set[tuple[bytes, State]]:
    return {(key, state) for key, state in fold(records).states.items() if state in LIVE}


@pytest.mark.parametrize("seed", range(8))
def test_records_that_are_not_needed_may_be_removed_in_any_combination(seed: int) -> None:
    rng = random.Random(seed)
    dropped = needed = 0
    for _ in range(150):
        records = _random_group(rng)
        segment_ids = sorted({one.position.segment_id for one in records})
        free = [segment_id for segment_id in segment_ids if not is_needed(records, segment_id)]
        needed += len(segment_ids) - len(free)
        for removed in chain.from_iterable(combinations(free, count) for count in range(len(free) + 1)):
            remaining = [
                one
                for one in records
                if one.position.segment_id not in removed or one.state in LIVE or one.state == State.TOMBSTONE
            ]
            dropped += len(records) - len(remaining)
            assert _living(remaining) == _living(records), f"seed {seed}: without {removed} of {records}"
    assert dropped > 100 and needed > 10


def test_a_copied_record_may_be_removed_even_if_an_earlier_segment_may_not() -> None:
    first, version, copy = _record(5, 1, crc=1), _record(6, 4, crc=2), _record(6, 13, crc=2)
    last = _record(7, 8, crc=3, flags=POLICY_REPLACE)
    records = in_order([first, version, copy, last])
    states = fold(records).states
    records = [replace(one, state=states[one.key]) for one in records]
    assert [states[one.key] for one in (first, version, copy, last)] == [
        State.SUPERSEDED,
        State.DUPLICATE,
        State.VERSION,
        State.CURRENT,
    ]
    assert is_needed(records, 1)
    assert not is_needed(records, 4)

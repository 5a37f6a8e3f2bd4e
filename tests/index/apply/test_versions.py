"""The fold rule itself: on one UID, without an index."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain, combinations

import pytest

from engine.index.apply.history import order_and_place
from engine.index.apply.versions import LIVE, State, UidRecord, fold, in_order, is_needed
from engine.index.format.entry import HEAL, POLICY_KEEP_BOTH, POLICY_KEEP_FIRST, POLICY_REPLACE
from engine.storage.record import Kind, Position


def _told(
    stamp: int, segment_id: int = 1, *, crc: int = 0, flags: int = 0, kind: int = Kind.INSTANCE, target: int = 0
) -> UidRecord:
    position = Position(segment_id, stamp * 1000, 10, 10, 0 if kind == Kind.TOMBSTONE else 100, crc)
    return UidRecord(order_and_place(stamp, position), None, kind, flags, position, b"syntax", b"meta", target)


def _states(*told: UidRecord) -> list[State]:
    states = fold(in_order(told))
    return [states[one.key] for one in told]


def test_of_copies_the_one_at_the_last_place_counts() -> None:
    first, copy = _told(5, 1, crc=7), _told(5, 9, crc=7)
    assert _states(first, copy) == [State.DUPLICATE, State.CURRENT]
    other = _told(6, 2, crc=8)
    assert _states(first, other, copy) == [State.DUPLICATE, State.VERSION, State.CURRENT]


@pytest.mark.parametrize("policy", [POLICY_KEEP_FIRST, POLICY_REPLACE, POLICY_KEEP_BOTH])
def test_a_copy_of_a_healing_record_does_not_heal_again(policy: int) -> None:
    damaged, healer = _told(5, 1, crc=7), _told(6, 2, crc=7, flags=policy | HEAL)
    copy = _told(6, 3, crc=7, flags=policy | HEAL)
    assert _states(damaged, healer) == [State.SUPERSEDED, State.CURRENT]
    assert _states(damaged, healer, copy) == [State.SUPERSEDED, State.DUPLICATE, State.CURRENT]


def test_a_tombstone_of_the_same_moment_kills_nothing() -> None:
    grave, stored = _told(5, 9, kind=Kind.TOMBSTONE), _told(5, 1, crc=7)
    assert _states(grave, stored) == [State.TOMBSTONE, State.CURRENT]


def test_a_target_kills_copies_and_duplicates_of_its_stamp_too() -> None:
    first, kept, copy = _told(5, 1, crc=1), _told(6, 1, crc=2), _told(6, 2, crc=2)
    again = _told(7, 1, crc=2)
    grave = _told(8, 1, kind=Kind.TOMBSTONE, target=6)
    assert _states(first, kept, copy, again, grave) == [
        State.CURRENT,
        State.DROPPED,
        State.DROPPED,
        State.DUPLICATE,
        State.TOMBSTONE,
    ]
    assert _states(first, kept, grave, _told(9, 1, crc=2))[-1] == State.VERSION


def _plainly(told: list[UidRecord]) -> dict[bytes, State]:
    """The rule word for word, with everything looked at again after each record."""
    states: dict[bytes, State] = {}
    current: UidRecord | None = None
    kept: list[UidRecord] = []
    for one in told:
        if one.kind == Kind.TOMBSTONE and not one.target_stamp:
            states = {key: state if state == State.TOMBSTONE else State.DELETED for key, state in states.items()}
            states[one.key] = State.TOMBSTONE
            current, kept = None, []
            continue
        before = {member.key for member in (current, *kept) if member is not None}
        policy = one.flags & 3
        if one.kind == Kind.TOMBSTONE:
            kept = [version for version in kept if version.stamp != one.target_stamp]
            if current is not None and current.stamp == one.target_stamp:
                current, kept = (kept[0], kept[1:]) if kept else (None, [])
        elif current is None:
            current = one
        elif one.same_bytes(current):
            current = one if one.flags & HEAL and one.order != current.order else current
        else:
            known = [version for version in kept if version.same_bytes(one)]
            if known and (one.flags & HEAL or policy == POLICY_KEEP_FIRST):
                if one.flags & HEAL and one.order != known[0].order:
                    kept = [one if version is known[0] else version for version in kept]
            elif policy == POLICY_KEEP_FIRST:
                kept = [*kept, one]
            else:
                kept = kept if policy == POLICY_REPLACE else [*kept, current]
                current = one
        after = {member.key for member in (current, *kept) if member is not None}
        states |= dict.fromkeys(before - after, State.SUPERSEDED)
        if one.kind == Kind.TOMBSTONE:
            for key, state in states.items():
                is_aimed_at = int.from_bytes(key[:8], "big") == one.target_stamp
                if is_aimed_at and state not in (State.TOMBSTONE, State.DELETED):
                    states[key] = State.DROPPED
            states[one.key] = State.TOMBSTONE
        else:
            states[one.key] = State.VERSION if one.key in after else State.DUPLICATE
    states |= {version.key: State.VERSION for version in kept}
    return states if current is None else {**states, current.key: State.CURRENT}


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_agrees_with_its_literal_implementation(seed: int) -> None:
    rng = random.Random(seed)
    seen: set[State] = set()
    for _ in range(400):
        told = _random_group(rng)
        assert fold(told) == _plainly(told), f"seed {seed}: {told}"
        seen |= set(_plainly(told).values())
    assert seen == set(State) - {State.QUARANTINED}


def _random_group(rng: random.Random) -> list[UidRecord]:
    told: list[UidRecord] = []
    for stamp in range(1, rng.randrange(3, 11)):
        segment_id = rng.randrange(1, 5)
        if rng.random() < 0.1:
            told.append(_told(stamp, segment_id, kind=Kind.TOMBSTONE))
        elif rng.random() < 0.12 and told:
            told.append(_told(stamp, segment_id, kind=Kind.TOMBSTONE, target=rng.choice(told).stamp))
        else:
            flags = rng.randrange(3) | rng.choice((0, 0, HEAL))
            told.append(_told(stamp, segment_id, crc=rng.randrange(3), flags=flags))
            if rng.random() < 0.2:
                told.append(_told(stamp, segment_id + 4, crc=told[-1].position.payload_crc, flags=flags))
    states = fold(in_order(told))
    return in_order([replace(one, state=states[one.key]) for one in told])


def _living(told: list[UidRecord]) -> set[tuple[bytes, State]]:
    return {(key, state) for key, state in fold(told).items() if state in LIVE}


@pytest.mark.parametrize("seed", range(8))
def test_records_that_are_not_needed_may_be_removed_in_any_combination(seed: int) -> None:
    rng = random.Random(seed)
    dropped = needed = 0
    for _ in range(150):
        told = _random_group(rng)
        segment_ids = sorted({one.position.segment_id for one in told})
        free = [segment_id for segment_id in segment_ids if not is_needed(told, segment_id)]
        needed += len(segment_ids) - len(free)
        for gone in chain.from_iterable(combinations(free, count) for count in range(len(free) + 1)):
            left = [
                one
                for one in told
                if one.position.segment_id not in gone or one.state in LIVE or one.state == State.TOMBSTONE
            ]
            dropped += len(told) - len(left)
            assert _living(left) == _living(told), f"seed {seed}: without {gone} of {told}"
    assert dropped > 100 and needed > 10


def test_a_copied_record_may_be_removed_even_if_an_earlier_segment_may_not() -> None:
    first, kept, copy = _told(5, 1, crc=1), _told(6, 4, crc=2), _told(6, 13, crc=2)
    last = _told(7, 8, crc=3, flags=POLICY_REPLACE)
    told = in_order([first, kept, copy, last])
    states = fold(told)
    told = [replace(one, state=states[one.key]) for one in told]
    assert [states[one.key] for one in (first, kept, copy, last)] == [
        State.SUPERSEDED,
        State.DUPLICATE,
        State.VERSION,
        State.CURRENT,
    ]
    assert is_needed(told, 1)
    assert not is_needed(told, 4)

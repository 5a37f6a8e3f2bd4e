"""engine.archive.lifecycle.scrub: whatever byte turns is named, nothing wrong is served, and a re-send heals it."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import log
from engine.archive import locks, verify
from engine.archive.archive import Archive
from engine.archive.lifecycle import scrub_state
from engine.archive.lifecycle.scrub import Scrubber, ScrubStep
from engine.archive.lifecycle.scrub_rate import RATE_BYTES_PER_S_MIN, TICK_BYTES_MIN, ScrubRate
from engine.archive.lifecycle.scrub_state import ScrubState
from engine.config import Log
from engine.errors import ArchiveInUse, CorruptRecord, IndexDamaged
from engine.index.format.types import Outcome
from engine.storage import hints
from engine.storage.segment import FIRST_RECORD, segment_path
from engine.storage.segment_bytes import FileBytes
from tests import samples
from tests.actors import actor
from tests.archive import kept

SEED = int(os.environ.get("FILMROOM_SEED", "20261124"))
COUNT = int(os.environ.get("FILMROOM_RECORDS", "200"))

DAY_NS = 86_400 * 10**9


class Clock:
    """Time that goes on when a test says so."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns


def scrubber(archive: Archive, clock: Clock | None = None, *, days: float = 30.0, rate: int = 1 << 30) -> Scrubber:
    return Scrubber(archive, cycle_s=days * 86400, rate_bytes_per_s_max=rate, clock_ns=clock or Clock())


def whole_pass(archive: Archive, budget_bytes: int = 1 << 30) -> ScrubStep:
    """One pass from the beginning, in steps; what all of them came to."""
    scrub = scrubber(archive)
    scrub.begin_pass()
    total = ScrubStep()
    while not total.pass_ended:
        step = scrub.step(budget_bytes)
        total.read_bytes += step.read_bytes
        total.damaged += step.damaged
        total.repaired += step.repaired
        total.pass_ended = step.pass_ended
    return total


def named(archive: Archive) -> set[str]:
    return {row.sop_instance_uid.decode() for row in archive.parts.index.damage()}


def served(archive: Archive, payloads: dict[str, bytes]) -> tuple[set[str], set[str]]:
    """The UIDs that come back as they were, and those that do not come back; anything else is a failure."""
    right, refused = set(), set()
    for uid, payload in payloads.items():
        try:
            assert archive.read(kept.current(archive, uid)) == payload, f"{uid} was served wrong"
            right.add(uid)
        except CorruptRecord:
            refused.add(uid)
    return right, refused


def test_a_turned_byte_in_each_of_many_records_is_named_never_served_and_healed(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    payloads = kept.filled(tmp_path, COUNT + 50)
    hit = set(rng.sample(sorted(payloads), COUNT))
    in_payload = set()
    with kept.opened(tmp_path) as archive:
        places = kept.positions(archive)
        for number, uid in enumerate(sorted(hit)):
            part = kept.PARTS[number % len(kept.PARTS)]
            position = places[uid]
            kept.turn_byte(tmp_path, position.segment_id, kept.place_in(position, part, rng))
            if part == "payload":
                in_payload.add(uid)
        _, refused = served(archive, payloads)
        assert refused == in_payload, f"FILMROOM_SEED={SEED}"
        assert named(archive) == in_payload, "a reader names what it could not read"
        found = whole_pass(archive, 100_000)
        assert named(archive) == hit, f"FILMROOM_SEED={SEED}"
        assert {damaged.sop_instance_uid for damaged in found.damaged} == hit - in_payload
        assert kept.store(archive, payloads.values()) == [
            Outcome.STORED if uid in hit else Outcome.DUPLICATE for uid in payloads
        ]
        assert named(archive) == set()
        again = whole_pass(archive)
        assert (again.damaged, named(archive)) == ([], set())
        assert served(archive, payloads) == (set(payloads), set())
        assert verify.check(archive, payloads=True).findings == []
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        assert served(archive, payloads) == (set(payloads), set())
        assert whole_pass(archive).damaged == []


def test_a_pass_reads_every_byte_of_every_sealed_segment(tmp_path: Path) -> None:
    kept.filled(tmp_path, 60, pixels=100_000)
    with kept.opened(tmp_path) as archive:
        total = sum(path.stat().st_size for path in (tmp_path / "segments").glob("*.seg"))
        assert len(archive.parts.index.segment_marks()) > 3
        assert whole_pass(archive).read_bytes == total


@pytest.mark.parametrize("part", kept.PARTS)
def test_any_byte_of_a_record_that_turns_is_found(tmp_path: Path, part: str) -> None:
    rng = random.Random(SEED)
    kept.filled(tmp_path, 3)
    with kept.opened(tmp_path) as archive:
        position = kept.positions(archive)[kept.uid_of(1)]
        for _ in range(12):
            offset = kept.place_in(position, part, rng)
            mask = 1 << rng.randrange(8)
            kept.turn_byte(tmp_path, position.segment_id, offset, mask)
            whole_pass(archive)
            assert named(archive) == {kept.uid_of(1)}, f"byte {offset}, mask {mask}, FILMROOM_SEED={SEED}"
            kept.turn_byte(tmp_path, position.segment_id, offset, mask)
            whole_pass(archive)
            assert named(archive) == set(), "what is whole again is cleared"


def segment_bytes(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "segments").glob("*.seg")}


def trailer_of(archive: Archive, segment_id: int) -> hints.Trailer:
    fd = os.open(segment_path(archive.parts.layout.segments, segment_id), os.O_RDONLY)
    try:
        trailer = hints.read_trailer(FileBytes(archive.parts.files, fd), segment_id)
    finally:
        os.close(fd)
    assert trailer is not None
    return trailer


WHERE = ("first header", "second header", "between headers", "hints", "trailer")


def turn_in(archive: Archive, segment_id: int, where: str) -> None:
    trailer = trailer_of(archive, segment_id)
    offsets = {
        "first header": 20,
        "second header": 2048 + 20,
        "between headers": 1000,
        "hints": trailer.tail + 40,
        "trailer": trailer.hint_end + 78,
    }
    kept.turn_byte(archive.parts.layout.data, segment_id, offsets[where])


@pytest.mark.parametrize("where", WHERE)
def test_what_a_segment_says_twice_is_put_right(tmp_path: Path, where: str) -> None:
    kept.filled(tmp_path, 3)
    with kept.opened(tmp_path) as archive:
        before = segment_bytes(tmp_path)
        turn_in(archive, next(iter(archive.parts.index.segment_marks())), where)
        assert segment_bytes(tmp_path) != before
        found = whole_pass(archive)
        assert (found.damaged, found.repaired) == ([], 1)
        assert segment_bytes(tmp_path) == before


def test_both_copies_of_a_header_are_made_again_from_the_trailer(tmp_path: Path) -> None:
    payloads = kept.filled(tmp_path, 3)
    with kept.opened(tmp_path) as archive:
        segment_id = next(iter(archive.parts.index.segment_marks()))
        for where in ("first header", "second header"):
            turn_in(archive, segment_id, where)
        found = whole_pass(archive)
        assert (found.damaged, found.repaired) == ([], 1)
        assert whole_pass(archive).repaired == 0
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        assert served(archive, payloads) == (set(payloads), set())


def test_a_footer_is_not_made_again_while_a_head_is_damaged_for_it_may_be_needed_to_name_it(tmp_path: Path) -> None:
    payloads = kept.filled(tmp_path, 5)
    with kept.opened(tmp_path) as archive:
        place = kept.positions(archive)[kept.uid_of(2)]
        turn_in(archive, place.segment_id, "hints")
        kept.turn_byte(tmp_path, place.segment_id, place.offset + 33)
        before = segment_bytes(tmp_path)
        found = whole_pass(archive)
        assert {damaged.sop_instance_uid for damaged in found.damaged} == {"", kept.uid_of(2)}
        assert segment_bytes(tmp_path) == before
        assert served(archive, payloads) == (set(payloads), set())


def test_the_head_of_a_hold_that_turns_is_put_right_from_the_footer(tmp_path: Path) -> None:
    study = f"{samples.ROOT}.1"
    with kept.opened(tmp_path) as archive:
        archive.set_holds([study], actor=actor(), reason="case")
        (hold,) = archive.parts.index.holds()
    with kept.opened(tmp_path) as archive:
        kept.turn_byte(tmp_path, hold.position.segment_id, hold.position.offset + 70)
        found = whole_pass(archive)
        assert (found.damaged, found.repaired) == ([], 1)
        assert whole_pass(archive).repaired == 0
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        assert archive.parts.index.is_held(study.encode())


def test_padding_that_turns_is_no_damage(tmp_path: Path) -> None:
    kept.filled(tmp_path, 8)
    with kept.opened(tmp_path) as archive:
        position = next(each for each in kept.positions(archive).values() if _padding_bytes(each))
        kept.turn_byte(tmp_path, position.segment_id, position.end - 1)
        assert whole_pass(archive).damaged == []


def _padding_bytes(position: object) -> int:
    return position.end - position.payload_offset - position.payload_length  # type: ignore[attr-defined, no-any-return]


def test_a_segment_that_is_not_sealed_is_read_up_to_its_mark_and_its_bad_heads_are_named(tmp_path: Path) -> None:
    with kept.opened(tmp_path) as archive:
        payloads = {kept.uid_of(number): kept.data_set(number) for number in range(9)}
        kept.store(archive, payloads.values())
        places = kept.positions(archive)
        rng = random.Random(SEED)
        for number, part in ((1, "key"), (2, "header"), (3, "meta"), (6, "payload"), (8, "key")):
            position = places[kept.uid_of(number)]
            kept.turn_byte(tmp_path, position.segment_id, kept.place_in(position, part, rng))
        whole_pass(archive)
        assert named(archive) == {kept.uid_of(number) for number in (1, 2, 3, 6, 8)}
        findings = " ".join(map(str, verify.check(archive, payloads=True).findings))
        assert {uid for uid in payloads if f"{uid})" in findings} == named(archive)
        kept.store(archive, payloads.values())
        assert named(archive) == set()
        assert whole_pass(archive).damaged == []
        assert verify.check(archive, payloads=True).findings == []
        assert served(archive, payloads) == (set(payloads), set())


def test_damage_in_a_segment_that_a_crash_left_unsealed_is_named_after_recovery_and_healed(tmp_path: Path) -> None:
    payloads = {kept.uid_of(number): kept.data_set(number) for number in range(6)}
    archive = kept.opened(tmp_path)
    kept.store(archive, payloads.values())
    archive.parts.keeper.checkpoint()  # type: ignore[union-attr]
    places = kept.positions(archive)
    _crash(archive)
    kept.turn_byte(tmp_path, places[kept.uid_of(2)].segment_id, places[kept.uid_of(2)].payload_offset + 5)
    kept.turn_byte(tmp_path, places[kept.uid_of(4)].segment_id, places[kept.uid_of(4)].offset + 20)
    with kept.opened(tmp_path) as archive:
        whole_pass(archive)
        assert named(archive) == {kept.uid_of(2), kept.uid_of(4)}
        kept.store(archive, payloads.values())
        assert whole_pass(archive).damaged == []
        assert named(archive) == set()
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        assert served(archive, payloads) == (set(payloads), set())
        assert whole_pass(archive).damaged == []


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What this process logs."""
    stream = io.StringIO()
    log.configure(Log(format="json"), stream=stream)
    yield stream
    log.configure(Log())


def test_what_a_reader_found_is_known_after_a_restart_and_said_once(tmp_path: Path, logged: io.StringIO) -> None:
    kept.filled(tmp_path, 3)
    with kept.opened(tmp_path) as archive:
        place = kept.positions(archive)[kept.uid_of(1)]
        kept.turn_byte(tmp_path, place.segment_id, place.payload_offset + 9)
        for _ in range(3):
            with pytest.raises(CorruptRecord):
                archive.read(kept.current(archive, kept.uid_of(1)))
    with kept.opened(tmp_path) as archive:
        assert named(archive) == {kept.uid_of(1)}
        assert archive.stats()["damaged"] == 1
        assert whole_pass(archive).damaged == [], "it is known already"
    said = [line for line in logged.getvalue().splitlines() if "stored bytes are damaged" in line]
    assert len(said) == 1
    assert kept.uid_of(1) in said[0]
    assert "Doe" not in said[0]


def _crash(archive: Archive) -> None:
    """The process is gone: nothing is sealed, nothing checkpointed."""
    log = archive.writer("test").log
    for segment in (log._active, log._spare):
        if segment is not None:
            os.close(segment.fd)
    archive.parts.reader.close()
    assert archive.parts.keeper is not None
    archive.parts.keeper.close(clean=False)


def test_a_lost_segment_file_is_named_by_all_that_lay_in_it(tmp_path: Path) -> None:
    payloads = kept.filled(tmp_path, 30, pixels=100_000)
    with kept.opened(tmp_path) as archive:
        places = kept.positions(archive)
        lost_id = places[kept.uid_of(12)].segment_id
        lost = {uid for uid, position in places.items() if position.segment_id == lost_id}
        Path(segment_path(str(tmp_path / "segments"), lost_id)).unlink()
        whole_pass(archive)
        assert named(archive) == lost
        kept.store(archive, payloads.values())
        assert named(archive) == set()
        assert served(archive, payloads) == (set(payloads), set())


def test_versions_kept_aside_are_verified_and_healed_as_such(tmp_path: Path) -> None:
    first, second = kept.data_set(1), kept.data_set(1, pixels=600)
    with kept.opened(tmp_path) as archive:
        kept.store(archive, [first])
        assert kept.store(archive, [second]) == [Outcome.KEPT_ASIDE]
        (version,) = archive.parts.index.kept_versions()
        kept.turn_byte(tmp_path, version.position.segment_id, version.position.payload_offset)
        whole_pass(archive)
        assert named(archive) == {kept.uid_of(1)}
        assert kept.store(archive, [second]) == [Outcome.KEPT_ASIDE]
        assert named(archive) == set()
        assert whole_pass(archive).damaged == []
        assert archive.read(kept.current(archive, kept.uid_of(1))) == first
        (version,) = archive.parts.index.kept_versions()
        assert archive.read(version) == second


def test_what_nobody_needs_any_more_is_no_finding(tmp_path: Path) -> None:
    first, second = kept.data_set(1), kept.data_set(1, pixels=600)
    with kept.opened(tmp_path) as archive:
        kept.store(archive, [first])
        place = kept.current(archive, kept.uid_of(1)).position
        assert kept.store(archive, [second], policy="replace") == [Outcome.REPLACED]
        kept.turn_byte(tmp_path, place.segment_id, place.payload_offset)
        assert whole_pass(archive).damaged == []


def test_large_streamed_objects_are_healed_too(tmp_path: Path) -> None:
    payload = kept.data_set(1, pixels=3 << 20)

    def stream(archive: Archive) -> Outcome:
        pieces = iter([payload[at : at + 100_000] for at in range(0, len(payload), 100_000)])
        return archive.ingest_stream(pieces, transfer_syntax_uid="1.2.840.10008.1.2.1")

    with kept.opened(tmp_path) as archive:
        assert stream(archive) is Outcome.STORED
        place = kept.current(archive, kept.uid_of(1)).position
        assert stream(archive) is Outcome.DUPLICATE
        kept.turn_byte(tmp_path, place.segment_id, place.payload_offset + (2 << 20) + 77)
        whole_pass(archive, 1 << 20)
        assert named(archive) == {kept.uid_of(1)}
        assert stream(archive) is Outcome.STORED
        assert named(archive) == set()
        assert whole_pass(archive).damaged == []
        assert archive.read(kept.current(archive, kept.uid_of(1))) == payload


# going on ------------------------------------------------------------------------------------------


def test_a_scrub_goes_on_after_a_restart_where_it_was(tmp_path: Path) -> None:
    kept.filled(tmp_path, 40, pixels=50_000)
    with kept.opened(tmp_path) as archive:
        total = whole_pass(archive).read_bytes
        scrub = scrubber(archive)
        scrub.begin_pass()
        read_bytes = scrub.step(total // 3).read_bytes
        assert total // 3 <= read_bytes < total // 2
    ended = False
    while not ended:
        with kept.opened(tmp_path) as archive:
            step = scrubber(archive).step(total // 5)
            read_bytes += step.read_bytes
            ended = step.pass_ended
    # The header and the footer of a segment are read again when it is entered in the middle.
    assert total <= read_bytes < total * 1.1


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"crc32c": 1, "state": {"number": 3}}', bytes(200)])
def test_a_damaged_state_costs_a_new_pass_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    kept.filled(tmp_path, 3)
    path = scrub_state.path_of(tmp_path)
    with kept.opened(tmp_path) as archive:
        scrub_state.save(path, ScrubState(number=7, began_ns=5, segment_id=3, offset=4096), archive.parts.files)
        assert scrub_state.load(path, archive.parts.files).number == 7
        Path(path).write_bytes(content)
        assert scrub_state.load(path, archive.parts.files) == ScrubState()
        assert scrubber(archive).step(1 << 30).pass_ended


def test_what_is_stored_during_a_pass_is_read_in_the_same_pass(tmp_path: Path) -> None:
    kept.filled(tmp_path, 40, pixels=50_000)
    with kept.opened(tmp_path) as archive:
        scrub = scrubber(archive)
        scrub.begin_pass()
        assert not scrub.step(200_000).pass_ended
        kept.store(archive, [kept.data_set(100)])
        place = kept.current(archive, kept.uid_of(100)).position
        kept.turn_byte(tmp_path, place.segment_id, place.payload_offset)
        assert scrub.step(1 << 30).pass_ended
        assert named(archive) == {kept.uid_of(100)}


def test_a_pass_is_spread_over_its_cycle_and_the_next_one_follows_in_time(tmp_path: Path) -> None:
    kept.filled(tmp_path, 40, pixels=100_000)
    clock = Clock()
    with kept.opened(tmp_path) as archive:
        total = whole_pass(archive).read_bytes
        Path(scrub_state.path_of(tmp_path)).unlink()
        days = total / (2 * RATE_BYTES_PER_S_MIN) / 86400
        scrub = scrubber(archive, clock, days=days)
        ends = []
        read_bytes = 0
        began_ns = clock.now_ns
        for _ in range(2000):
            step = scrub.tick(clock.now_ns / 1e9)
            read_bytes += step.read_bytes
            if step.pass_ended:
                ends.append((clock.now_ns - began_ns) / 1e9)
            clock.now_ns += 10**7
        cycle_s = days * 86400
        assert len(ends) >= 3
        # Of so short a cycle the pieces are large: a step of TICK_BYTES_MIN more or less.
        slack_s = 3 * TICK_BYTES_MIN / RATE_BYTES_PER_S_MIN
        assert all(abs(end - number * cycle_s) <= slack_s * number for number, end in enumerate(ends, 1)), ends


def test_a_small_archive_rests_after_its_pass_until_the_cycle_is_over(tmp_path: Path) -> None:
    kept.filled(tmp_path, 5)
    clock = Clock()
    with kept.opened(tmp_path) as archive:
        scrub = scrubber(archive, clock, days=30)
        for _ in range(5):
            clock.now_ns += 10**9
            step = scrub.tick(clock.now_ns / 1e9)
            if step.pass_ended:
                break
        assert step.pass_ended
        clock.now_ns += 29 * DAY_NS
        assert scrub.tick(clock.now_ns / 1e9) == ScrubStep()
        assert not scrub.running
        clock.now_ns += DAY_NS
        assert scrub.tick(clock.now_ns / 1e9).pass_ended


def test_a_clock_that_is_set_back_keeps_no_pass_from_beginning_or_from_ending_in_its_cycle(tmp_path: Path) -> None:
    kept.filled(tmp_path, 5)
    clock = Clock()
    clock.now_ns += 3650 * DAY_NS
    monotonic_s = 0.0
    with kept.opened(tmp_path) as archive:
        scrub = scrubber(archive, clock, days=30)

        def ticks_to_the_end() -> int:
            nonlocal monotonic_s
            for count in range(1, 100):
                monotonic_s += 1.0
                clock.now_ns += 10**9
                if scrub.tick(monotonic_s).pass_ended:
                    return count
            raise AssertionError("it does not end")

        before = ticks_to_the_end()
        clock.now_ns -= 3650 * DAY_NS
        assert ticks_to_the_end() <= before
        # The pass that has begun since is of this clock: it rests as ever.
        monotonic_s += 1.0
        assert scrub.tick(monotonic_s) == ScrubStep()


def test_the_rate_never_exceeds_the_limit() -> None:
    rng = random.Random(SEED)
    rate = ScrubRate(5_000_000)
    now_s = spent = 0.0
    rate.due(now_s, 0, 0)
    for _ in range(500):
        now_s += rng.random() * 0.5
        due = rate.due(now_s, rate.rate(1 << 40, rng.random()), 1 << 40)
        if due:
            rate.spent(due)
            spent += due
        assert spent <= 5_000_000 * now_s + 1
    assert spent >= 5_000_000 * now_s * 0.8


def test_one_process_at_a_time_scrubs(tmp_path: Path) -> None:
    kept.filled(tmp_path, 5)
    clock = Clock()
    with kept.opened(tmp_path) as archive:
        scrub = scrubber(archive, clock)
        scrub.tick(0.0)
        with locks.caretaker(archive.parts.layout, archive.parts.files), pytest.raises(ArchiveInUse):
            scrub.tick(10.0)
        assert scrub.tick(20.0).pass_ended


def test_the_place_that_another_process_has_come_to_counts(tmp_path: Path) -> None:
    kept.filled(tmp_path, 40, pixels=50_000)
    with kept.opened(tmp_path) as archive:
        one, other = scrubber(archive), scrubber(archive)
        one.begin_pass()
        total = 0
        ended = False
        while not ended:
            for each in (one, other):
                step = each.step(300_000)
                total += step.read_bytes
                ended = ended or step.pass_ended
        size = sum(path.stat().st_size for path in (tmp_path / "segments").glob("*.seg"))
        assert size <= total < 2 * size
        one.step(0)  # whichever of them came to the end, the other one looks once more
        assert one.status()["last_pass"] == other.status()["last_pass"]


def test_the_status_says_how_far_it_is(tmp_path: Path) -> None:
    kept.filled(tmp_path, 40, pixels=50_000)
    with kept.opened(tmp_path) as archive:
        scrub = scrubber(archive)
        scrub.begin_pass()
        assert scrub.status()["progress"] == 0.0
        scrub.step(1_000_000)
        assert 0.3 < float(str(scrub.status()["progress"])) < 0.7
        assert scrub.progress()[0] > FIRST_RECORD
        scrub.step(1 << 30)
        status = scrub.status()
        assert (status["running"], status["damaged"], status["in_time"]) == (False, 0, True)


# -- the index ----------------------------------------------------------------------------------


def _spoiled_row(archive: Archive, table: str, change: Callable[[bytes, bytes], tuple[bytes, bytes] | None]) -> None:
    """Changes or removes the first row of a table that `change` has something for."""
    environment = archive.parts.index._environment
    handle = getattr(environment, table)

    def work(txn: Any) -> None:
        with txn.cursor(db=handle) as cursor:
            rows = list(cursor)
        key, value = rows[len(rows) // 2]
        txn.delete(key, db=handle)
        changed = change(key, value)
        if changed is not None:
            txn.put(*changed, db=handle)

    environment.write(work, lambda: None)


def _other_byte(at: int) -> Callable[[bytes, bytes], tuple[bytes, bytes] | None]:
    return lambda key, value: (key, value[:at] + bytes((value[at] ^ 1,)) + value[at + 1 :])


ROT: dict[str, tuple[str, Callable[[bytes, bytes], tuple[bytes, bytes] | None]]] = {
    "an instance is gone": ("instances", lambda key, value: None),
    "its place": ("instances", _other_byte(17)),
    "its stamp": ("instances", _other_byte(0)),
    "its UID leads nowhere": ("sop_uids", lambda key, value: None),
    "its UID leads elsewhere": ("sop_uids", lambda key, value: (key, value[:-1] + bytes((value[-1] ^ 1,)))),
    "half a row": ("instances", lambda key, value: (key, value[:20])),
    "a study is gone": ("studies", lambda key, value: None),
    "a study's patient": ("studies", _other_byte(0)),
    "a study's UID leads nowhere": ("study_uids", lambda key, value: None),
    "a series is gone": ("series", lambda key, value: None),
    "a patient is gone": ("patients", lambda key, value: None),
    "a patient's key": ("patient_keys", lambda key, value: None),
    "a patient's studies": ("patient_studies", lambda key, value: None),
    "what a study says": ("studies", lambda key, value: (key, value.replace(b"Doe^Jane", b"Doe^Jone"))),
    "a series' counts": ("counts", lambda key, value: None),
}


@pytest.mark.parametrize("rot", ROT)
def test_rot_in_the_index_is_found_by_a_pass_and_gone_once_it_is_made_anew(tmp_path: Path, rot: str) -> None:
    kept.filled(tmp_path, 120, pixels=16)
    with kept.opened(tmp_path) as archive:
        _spoiled_row(archive, *ROT[rot])
        found = whole_pass(archive).damaged
        assert found
        assert all("the index" in damaged.what for damaged in found)
        assert all("rebuild-index" in damaged.what or "does not know" in damaged.what for damaged in found)
        try:
            assert verify.check(archive, payloads=False).findings
        except IndexDamaged as error:
            assert "rebuild-index" in str(error)
        assert whole_pass(archive).damaged == []
    assert Archive.rebuild_index(tmp_path).findings == []
    with kept.opened(tmp_path) as archive:
        assert archive.parts.index.damage() == []
        assert whole_pass(archive).damaged == []
        assert verify.check(archive, payloads=True).findings == []


def test_a_row_that_nothing_leads_to_is_found_by_a_check(tmp_path: Path) -> None:
    kept.filled(tmp_path, 20, pixels=16)
    with kept.opened(tmp_path) as archive:
        _spoiled_row(archive, "instances", lambda key, value: (key[:-1] + b"\xee", value))
        assert verify.check(archive, payloads=False).findings
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        environment = archive.parts.index._environment

        def twice(txn: Any) -> None:
            with txn.cursor(db=environment.instances) as cursor:
                key, value = next(iter(cursor))
            txn.put(key[:-1] + b"\xee", value, db=environment.instances)

        environment.write(twice, lambda: None)
        findings = [str(finding) for finding in verify.check(archive, payloads=False).findings]
        assert len(findings) == 1
        assert "does not lead to" in findings[0]

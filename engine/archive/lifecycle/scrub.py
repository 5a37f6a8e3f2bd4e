"""Scrubbing: reads every byte of the log from the disk and verifies it once in a cycle, a little at a time.

A pass goes over the segments in the order of their ids, so instances stored meanwhile come later in the same pass.
Damaged records that are still needed are named (`damage`) until a re-send has healed them or they are found whole.
After the bytes of a segment, the pass compares the index with its records (`index_walk`). `storage.inspection`
verifies, `scrub_state` remembers the place, `scrub_rate` sets the speed. Only one process may scrub at a time: `tick`
takes the caretaker's lock; a caller of `step` must hold it.

    nothing due ──► pass: segment by segment, record by record ──► ended: damage in removed segments is cleared
         ▲                                                              │
         └──────────────── until a cycle after the pass began ◄─────────┘
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine import log
from engine.archive import locks
from engine.archive.damage import DamagedPlace
from engine.archive.lifecycle import index_walk, scrub_state
from engine.archive.lifecycle.damage import SegmentDamage
from engine.archive.lifecycle.scrub_rate import ScrubRate
from engine.archive.lifecycle.scrub_state import FinishedPass, ScrubState
from engine.errors import ArchiveInUse, CorruptRecord, StorageFull, for_log
from engine.rate_limiter import RateLimiter
from engine.storage.inspection import Fault, Inspection, Part, Step
from engine.storage.segment import FIRST_RECORD
from engine.storage.segment_bytes import Where

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.config import Scrub
    from engine.index.format.types import SegmentMark

logger = log.get("archive.scrub")

MARKS_AGE_S = 10.0
"""Maximum age of the sizes that determine the speed."""

STEP_BYTES = 16 << 20
"""Bytes that `run_pass` reads before it releases the lock for a moment."""

IN_USE_PAUSE_S = 0.05

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class ScrubStep:
    """The result of one step."""

    read_bytes: int = 0
    compared_bytes: int = 0
    """Bytes that comparing the index counts for, in addition to those read."""
    damaged: list[DamagedPlace] = field(default_factory=list)
    """New damage that this step has found."""
    repaired: int = 0
    """Headers, footers and heads that this step has repaired."""
    pass_ended: bool = False

    @property
    def spent_bytes(self) -> int:
        """Bytes that count for the speed."""
        return self.read_bytes + self.compared_bytes


class Scrubber:
    """Scrubs one archive, pass after pass. One thread at a time."""

    def __init__(
        self,
        archive: Archive,
        *,
        cycle_s: float,
        rate_bytes_per_s_max: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._archive = archive
        self._parts = archive.parts
        self._index = archive.parts.index
        self._files = archive.parts.files
        self._path = scrub_state.path_of(archive.parts.layout.data)
        self._cycle_s = cycle_s
        self._clock_ns = clock_ns
        self._state = scrub_state.load(self._path, self._files)
        self._inspection: Inspection | None = None
        self._steps: Iterator[Step] = iter(())
        self._damage: SegmentDamage | None = None
        """The damage of the segment under inspection."""
        self._marks: dict[int, SegmentMark] = {}
        self._marks_at_ns = 0
        self._rate = ScrubRate(rate_bytes_per_s_max)
        self.counters = dict.fromkeys(("bytes", "records", "damaged", "repaired", "passes"), 0)
        """Counts of this process's work."""

    @classmethod
    def of(cls, archive: Archive, options: Scrub) -> Scrubber:
        """A scrubber with these options; with a cycle of 0 a pass runs only on request."""
        return cls(archive, cycle_s=options.cycle_days * 86400, rate_bytes_per_s_max=options.rate_bytes_per_s_max)

    # -- working --------------------------------------------------------------------------------

    def tick(self, now_s: float) -> ScrubStep:
        """Does the work that is due at `now_s` of a monotonic clock; often none.

        Raises ArchiveInUse when another process scrubs or compacts, and as `step` does.
        """
        budget_bytes = self._due(now_s)
        if not budget_bytes:
            return ScrubStep()
        with locks.caretaker(self._parts.layout, self._files):
            result = self.step(budget_bytes)
        self._rate.spent(result.spent_bytes)
        return result

    def begin_pass(self) -> None:
        """Starts a pass now, from the first segment. Keeps the findings of the pass under way."""
        self._leave_segment()
        previous = scrub_state.load(self._path, self._files)
        number = previous.number + (previous.began_ns > 0)
        self._state = ScrubState(number=number, began_ns=self._clock_ns(), last=previous.last)
        self._save()

    def step(self, budget_bytes: int) -> ScrubStep:
        """Reads about `budget_bytes` more, if a pass is under way or due, and saves the place.

        Raises StorageFailed and IndexError_. Damage to stored bytes is a finding and raises nothing.
        """
        result = ScrubStep()
        self._take_over()
        if not self.is_due:
            return result
        self._state.began_ns = self._state.began_ns or self._clock_ns()
        while result.spent_bytes < budget_bytes and not result.pass_ended:
            step = self._next_step(result)
            if step is None:
                self._end_pass(result)
            else:
                self._take(step, result)
        if self._damage is not None:
            # Note findings before you save the place: after a restart this pass does not look there again.
            self._damage.name_gaps()
            self._collect(self._damage, result)
        self._save()
        return result

    def close(self) -> None:
        """Closes the segment under inspection. The scrub can continue afterwards, here or in another process."""
        self._leave_segment()

    # -- status ---------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a pass is under way."""
        return self._state.began_ns > 0

    @property
    def is_due(self) -> bool:
        """Whether a pass is under way or should begin."""
        return self.running or self._clock_ns() >= self._due_ns(self._state)

    def progress(self) -> tuple[int, int]:
        """Bytes of the log that the pass has read, and in total."""
        done_bytes, total_bytes = self._progress(self._state)
        return (done_bytes, total_bytes) if self.running else (total_bytes, total_bytes)

    def status(self) -> dict[str, object]:
        """Progress, speed and findings, for people and for statistics."""
        state = scrub_state.load(self._path, self._files) if self._inspection is None else self._state
        done_bytes, total_bytes = self._progress(state)
        now_ns = self._clock_ns()
        running = state.began_ns > 0
        last = state.last
        return {
            "pass": state.number,
            "running": running,
            "began_ns": state.began_ns if running else None,
            "next_pass_ns": None if running else max(self._due_ns(state), now_ns),
            "done_bytes": done_bytes,
            "total_bytes": total_bytes,
            "progress": round(done_bytes / total_bytes, 4) if total_bytes else 1.0,
            "read_bytes": state.read_bytes,
            "records": state.records,
            "bytes_per_s": round(state.read_bytes / max((now_ns - state.began_ns) / 1e9, 1.0)) if running else 0,
            "bytes_per_s_max": self._rate.bytes_per_s_max,
            "in_time": not self._cycle_s or total_bytes <= self._rate.bytes_per_s_max * self._cycle_s,
            "damaged_in_pass": state.damaged,
            "damaged": len(self._index.damage()),
            "last_pass": None
            if last is None
            else {
                "number": last.number,
                "began_ns": last.began_ns,
                "ended_ns": last.ended_ns,
                "read_bytes": last.read_bytes,
                "damaged": last.damaged,
            },
        }

    # -- inside: speed --------------------------------------------------------------------------

    def _due(self, now_s: float) -> int:
        """Number of bytes to read now; 0 while they are too few for a step."""
        state = self._state
        now_ns = self._clock_ns()
        if not self.is_due:
            return self._rate.due(now_s, 0.0, 0)
        done_bytes, total_bytes = self._progress(state)
        left_bytes = max(total_bytes - done_bytes, 0)
        # If the pass began in the future, the clock has been set back since.
        left_s = self._cycle_s - max(now_ns - (state.began_ns or now_ns), 0) / 1e9
        return self._rate.due(now_s, self._rate.rate(left_bytes, left_s), left_bytes)

    def _due_ns(self, state: ScrubState) -> int:
        """The start of the next pass, so that it ends within a cycle."""
        if state.last is None or state.last.began_ns > self._clock_ns():
            return 0
        needed_s = self._rate.needed_s(self._progress(state)[1])
        return state.last.began_ns + int(max(self._cycle_s - needed_s, 0.0) * 1e9)

    def _progress(self, state: ScrubState) -> tuple[int, int]:
        """Bytes of the log before the place of the pass, and in total."""
        if not self._marks or abs(self._clock_ns() - self._marks_at_ns) > MARKS_AGE_S * 1e9:
            self._marks = self._index.segment_marks()
            self._marks_at_ns = self._clock_ns()
        total_bytes = sum(mark.indexed_bytes for mark in self._marks.values())
        done_bytes = sum(mark.indexed_bytes for number, mark in self._marks.items() if number < state.segment_id)
        if state.segment_id in self._marks:
            done_bytes += min(state.offset, self._marks[state.segment_id].indexed_bytes)
        return done_bytes, total_bytes

    # -- inside: steps --------------------------------------------------------------------------

    def _take_over(self) -> None:
        """Loads the saved place, since another process may have continued the pass."""
        saved = scrub_state.load(self._path, self._files)
        if saved != self._state:
            self._leave_segment()
            self._state = saved

    def _save(self) -> None:
        try:
            scrub_state.save(self._path, self._state, self._files)
        except StorageFull as error:
            # Only the place is lost: a restart reads a part of the pass again.
            logger.warning("the state of the scrub cannot be saved", error=for_log(error))

    def _next_step(self, result: ScrubStep) -> Step | None:
        """The next step in this or a later segment; None at the end of the log."""
        while True:
            if self._inspection is None and not self._enter_segment(result):
                return None
            inspection, damage = self._inspection, self._damage
            assert inspection is not None
            assert damage is not None
            is_gone = inspection.is_gone()
            step = None if is_gone else next(self._steps, None)
            if step is not None:
                return step
            if not is_gone:
                damage.finish()
                self._collect(damage, result)
            self._leave_segment()
            self._state.segment_id, self._state.offset = inspection.segment_id + 1, 0

    def _take(self, step: Step, result: ScrubStep) -> None:
        state = self._state
        state.offset = step.offset
        state.records += step.record_count
        state.read_bytes += step.read_bytes
        result.read_bytes += step.read_bytes
        result.compared_bytes += step.compared_bytes
        self.counters["records"] += step.record_count
        self.counters["bytes"] += step.read_bytes
        assert self._damage is not None
        for fault in step.faults:
            self._damage.take(fault)

    def _collect(self, damage: SegmentDamage, result: ScrubStep) -> None:
        """Adds new findings to the counts."""
        self._state.damaged += damage.damaged
        self._state.dead += damage.dead
        self.counters["damaged"] += len(damage.new)
        self.counters["repaired"] += damage.repaired
        result.damaged += damage.new
        result.repaired += damage.repaired
        damage.damaged = damage.dead = damage.repaired = 0
        damage.new = []

    def _enter_segment(self, result: ScrubStep) -> bool:
        """Opens the next segment that the index knows; False when there is none."""
        self._marks = self._index.segment_marks()
        self._marks_at_ns = self._clock_ns()
        state = self._state
        for segment_id in sorted(number for number in self._marks if number >= state.segment_id):
            mark = self._marks[segment_id]
            start_offset = state.offset if segment_id == state.segment_id else 0
            state.segment_id, state.offset = segment_id, start_offset
            self._damage = SegmentDamage(self._archive, segment_id, start_offset=start_offset, clock_ns=self._clock_ns)
            try:
                data = self._archive.parts.segments.open(segment_id)
                if data.where is not Where.LOCAL:
                    continue  # read when it was stored there, and in pages with checksums; each read costs money
                self._inspection = Inspection(
                    data,
                    segment_id,
                    start_offset=start_offset,
                    mark_bytes=mark.indexed_bytes,
                    is_sealed=mark.sealed,
                )
            except CorruptRecord as error:
                self._lost_segment(segment_id, error, self._damage, result)
                continue
            walk = index_walk.steps_of_segment(self._archive, segment_id, mark)
            self._steps = itertools.chain(self._inspection.steps(), walk)
            return True
        return False

    def _leave_segment(self) -> None:
        self._inspection = self._damage = None
        self._steps = iter(())

    def _lost_segment(self, segment_id: int, error: CorruptRecord, damage: SegmentDamage, result: ScrubStep) -> None:
        """Notes damage for a segment that cannot be opened, if any of its records is still needed."""
        # Not for a segment that a compaction has removed, since it moves all live records first.
        mark = self._index.segment_marks().get(segment_id)
        is_own = self._archive.parts.layout.writes(segment_id)  # other nodes' logs are fetched again (`archive.nodes`)
        if mark is not None and mark.live_count and is_own:
            damage.take(Fault(Part.GAP, FIRST_RECORD, max(mark.indexed_bytes - FIRST_RECORD, 0), str(error)))
            damage.finish()
            self._collect(damage, result)
        self._leave_segment()

    def _end_pass(self, result: ScrubStep) -> None:
        state = self._state
        for row in self._index.damage():
            if row.segment_id not in self._marks:
                self._index.clear_damage(row.segment_id, row.offset)
        finished = FinishedPass(
            state.number, state.began_ns, self._clock_ns(), state.read_bytes, state.records, state.damaged
        )
        self._state = ScrubState(number=state.number + 1, last=finished)
        self.counters["passes"] += 1
        result.pass_ended = True
        logger.info(
            "scrub: pass ended",
            number=finished.number,
            bytes=finished.read_bytes,
            damaged=finished.damaged,
            dead=state.dead,
        )


def run_pass(
    archive: Archive, options: Scrub, rate_bytes_per_s: int, progress: Progress | None = None
) -> list[DamagedPlace]:
    """Runs one whole pass now, at this rate (0: unlimited). Returns new damage.

    A server's caretaker may take some steps of the pass; its findings are in the index only.
    """
    scrubber = Scrubber.of(archive, options)
    rate_limiter = RateLimiter(rate_bytes_per_s)
    damages: list[DamagedPlace] = []
    is_begun = is_ended = False
    try:
        while not is_ended:
            try:
                with locks.caretaker(archive.parts.layout, archive.parts.files):
                    if not is_begun:
                        scrubber.begin_pass()
                        is_begun = True
                    result = scrubber.step(min(STEP_BYTES, rate_bytes_per_s or STEP_BYTES))
            except ArchiveInUse:
                threading.Event().wait(IN_USE_PAUSE_S)
                continue
            damages += result.damaged
            is_ended = result.pass_ended or not scrubber.running
            if progress is not None:
                progress("scrubbing", *scrubber.progress())
            rate_limiter.spent(result.spent_bytes)
    finally:
        scrubber.close()
    return damages

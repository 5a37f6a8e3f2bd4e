"""Applies messages of the journal in their order, one after another, and notes what each did.

    refused (UpdateRefused)       noted; the next one
    a defect of ours              noted as failed, with its place in the log; the next one. `replay` repeats it
    disk, lock, database          tried again after a pause that doubles, until it works: nothing is passed over

One applier for all sources keeps the order of every source and every patient.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from engine import guards, log
from engine.errors import (
    EngineError,
    InstanceRefused,
    JournalError,
    MessageUnreadable,
    StorageFailed,
    UpdateRefused,
    for_log,
)
from engine.hl7 import Condition, Fault, Message, moment, parse
from engine.journal import Fault as KeptFault
from engine.journal import Journal, Outcome, Result
from engine.journal.entry import decode_received
from engine.mapping import Mapped, apply
from engine.messaging.reception import CUT_OFF
from engine.messaging.sources import UNKNOWN
from engine.orders.values import Applied, RefusalReason, ReportState, ReportUpdate, Source

if TYPE_CHECKING:
    from collections import Counter

    from engine.dicom.document import Document
    from engine.messaging.sources import KnownSource, Sources
    from engine.orders.values import Update
    from engine.storage.record import Position

logger = log.get("hl7.applier")

GROUP_MAX = 256
"""Messages that are applied with one sync."""
GROUP_BYTES_MAX = 16 << 20
"""Of these messages, so that reports with documents are not all in memory; a longer one is applied alone."""
GATHER_S = 0.02
"""How long messages gather before they are applied together, unless a sender waits for that: each group costs a sync of
its own, for which the syncs before the answers would have to wait. In a flood it is as long as the last group took, so
that answering has half of the interpreter at least."""
OUTCOMES_AT_ONCE = 16
"""Outcomes that are noted before answers that wait get their turn: each is two writes."""
MAPPED_MAX = 1000
"""Messages that are mapped when they come and remembered until they are applied; others are read and mapped again."""
MAPPED_BYTES_MAX = 64 << 10
"""A longer message is not remembered."""
NOTES_CHARACTERS_MAX = 64 << 10
"""Of changes, and of warnings: the journal must be able to keep them."""
SENDER_CHARACTERS_MAX = 80
PAUSE_S = 0.5
PAUSE_S_MAX = 60.0

_CONDITIONS = {
    RefusalReason.UNKNOWN_KEY: Condition.UNKNOWN_KEY,
    RefusalReason.DUPLICATE_KEY: Condition.DUPLICATE_KEY,
    RefusalReason.CONFLICT: Condition.DUPLICATE_KEY,
    RefusalReason.INVALID: Condition.TABLE_VALUE,
}


class Registry(Protocol):
    """Who knows what the values mean: `engine.orders`."""

    def apply_all(self, values: Sequence[tuple[Update, Source]]) -> list[Applied | UpdateRefused]:
        """What each value did, in their order. Raises EngineError: then nothing is applied."""


class Documents(Protocol):
    """Where the documents of reports go: `engine.archive.reports`."""

    def store(self, report: ReportUpdate, document: Document, message: bytes, number: int) -> tuple[str, str]:
        """Stores one; returns the UIDs of its study and instance. Raises InstanceRefused, EngineError."""


class Applier:
    """Applies messages while `run` runs. `outcome_of` and the callbacks are the loop's."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        documents: Documents,
        sources: Callable[[], Sources],
        counters: Counter[str],
        run_in_thread: Callable[[Callable[[], list[Outcome]]], asyncio.Future[list[Outcome]]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._documents = documents
        self._sources = sources
        self._counters = counters
        self._run_in_thread = run_in_thread
        self._clock = clock
        self._durable = journal.last_number
        self._is_due = asyncio.Event()
        self._mappings: dict[int, tuple[Mapped, Source]] = {}
        self._callbacks: dict[int, list[Callable[[Fault | None], None]]] = {}
        self.stalled = ""
        """Why nothing is applied; "" while all is well."""

    def note(self, number: int, message: Message, source: KnownSource, mapped: Mapped) -> None:
        """What a message that has just come says; documents are not kept in memory."""
        if len(self._mappings) < MAPPED_MAX and not mapped.documents and len(message.raw) <= MAPPED_BYTES_MAX:
            self._mappings[number] = (mapped, _origin(number, message, source))

    def synced(self, number: int) -> None:
        """Messages up to this one are on stable storage."""
        self._durable = max(self._durable, number)
        self._is_due.set()

    def await_outcome(self, number: int, callback: Callable[[Fault | None], None]) -> None:
        """Calls back when the message has been applied or refused."""
        if number <= self._journal.cursor:
            callback(_as_answered(self._journal.refusals.get(number)))
        else:
            self._callbacks.setdefault(number, []).append(callback)

    async def run(self) -> None:
        """Applies what waits, until it is cancelled."""
        self._is_due.set()
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            took_s = 0.0
            while self._group():
                if not self._callbacks:
                    await asyncio.sleep(max(GATHER_S, took_s))
                began = time.perf_counter()
                await self._apply(self._group())
                took_s = time.perf_counter() - began

    def _group(self) -> list[tuple[int, Position]]:
        waiting = self._journal.waiting
        group: list[tuple[int, Position]] = []
        room = GROUP_BYTES_MAX
        for each in waiting:
            room -= each.position.payload_length
            if each.number > self._durable or len(group) >= GROUP_MAX or (group and room < 0):
                break
            group.append((each.number, each.position))
        return group

    async def _apply(self, group: Sequence[tuple[int, Position]]) -> None:
        pause_s = PAUSE_S
        while True:
            try:
                outcomes = await self._run_in_thread(lambda: self._outcomes(group, is_replay=False))
                break
            except StorageFailed:
                raise
            except EngineError as error:
                self.stalled = str(error)
                self._counters["apply_retries"] += 1
                logger.error("messages cannot be applied", reason=for_log(error), waiting=len(self._journal.waiting))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)
        self.stalled = ""
        for count, outcome in enumerate(outcomes, 1):
            if not count % OUTCOMES_AT_ONCE:
                await asyncio.sleep(0)
            self._journal.append_outcome(outcome)
            self._journal.waiting.popleft()
            self._mappings.pop(outcome.number, None)
            self._counters[outcome.result.value] += 1
            for callback in self._callbacks.pop(outcome.number, ()):
                callback(_as_answered(outcome.fault))

    async def replay(self, number: int) -> Outcome:
        """Applies a message again. Raises EngineError."""
        (outcome,) = await self._run_in_thread(lambda: self._replayed(number))
        self._journal.append_outcome(outcome)
        return outcome

    # -- in a thread ----------------------------------------------------------------------------

    def _replayed(self, number: int) -> list[Outcome]:
        """Raises EngineError if there is no such message, or it could not be applied now."""
        row = self._journal.history.find(number)
        if row.received.fault is not None and row.received.fault.text == CUT_OFF:
            raise JournalError("it was cut off, and half a message is not applied: its sender has to send it again")
        return self._outcomes([(row.number, row.position)], is_replay=True)

    def _outcomes(self, group: Sequence[tuple[int, Position]], *, is_replay: bool) -> list[Outcome]:
        """Raises EngineError if nothing could be applied now."""
        mapped = [self._mapped(number, position, is_replay=is_replay) for number, position in group]
        values = [pair for each in mapped if not isinstance(each, Outcome) for pair in each[1]]
        outcomes: list[Outcome] = []
        try:
            results = iter(self._registry.apply_all(values)) if values else iter(())
        except EngineError:
            raise
        except Exception as error:
            if len(group) > 1:
                # One of them is the cause: the others are applied without it.
                return [outcome for each in group for outcome in self._outcomes([each], is_replay=is_replay)]
            mapped = [self._failed(number, "a message cannot be applied", error) for number, _ in group]
        for (number, _), each in zip(group, mapped, strict=True):
            if isinstance(each, Outcome):
                outcomes.append(each)
                continue
            found, pairs = each
            outcomes.append(self._outcome(number, found, [next(results) for _ in pairs]))
        if is_replay:
            outcomes = [_as_replay(outcome) for outcome in outcomes]
        return outcomes

    def _mapped(
        self, number: int, position: Position, *, is_replay: bool
    ) -> Outcome | tuple[Mapped, list[tuple[Update, Source]]]:
        """What a message says; an outcome if it cannot be applied. What was acknowledged is not judged again, but what
        is replayed may have been refused.
        """
        known = self._mappings.get(number)
        if known is not None:
            return self._with_documents(number, position, *known)
        try:
            data = self._journal.read(position)
            record = self._journal.history.record_at(position.segment_id, position.offset)
            source = self._sources().named(_source_name(record.meta) if record is not None else "")
            settings = source.settings
            message = parse(data, default=settings.default_charset, override=settings.charset)
            found = apply(message, source.profile, source.options)
            judgement = source.judge(message) if is_replay else None
            origin = _origin(number, message, source)
        except MessageUnreadable as error:
            return self._refused(number, Fault(Condition.SEGMENT_SEQUENCE, str(error)))
        except Exception as error:
            return self._failed(number, "a message cannot be mapped", error)
        faults = [judgement] if judgement is not None else found.faults
        if faults:
            return self._refused(number, faults[0], found.warnings)
        return self._with_documents(number, position, found, origin)

    def _with_documents(
        self, number: int, position: Position, found: Mapped, origin: Source
    ) -> Outcome | tuple[Mapped, list[tuple[Update, Source]]]:
        """Stores the documents of reports; the reports name them. Raises EngineError if that cannot be done now."""
        values: list[Update] = list(found.values)
        message = self._journal.read(position) if found.documents else b""
        for count, (place, document) in enumerate(found.documents, 1):
            report = values[place]
            assert isinstance(report, ReportUpdate)
            if report.state is ReportState.CANCELED:
                continue
            try:
                study, instance = self._documents.store(report, document, message, count)
            except InstanceRefused as refusal:
                found.warnings.append(f"a document is not stored: {refusal}")
                continue
            except EngineError:
                raise
            except Exception as error:
                return self._failed(number, "a document cannot be stored", error)
            self._counters["documents"] += 1
            logger.info("a document is stored", number=number, sop_instance_uid=instance)
            values[place] = replace(report, study_instance_uid=study, sop_instance_uid=instance)
        return found, [(value, origin) for value in values]

    def _failed(self, number: int, event: str, error: Exception) -> Outcome:
        logger.error(event, number=number, error=type(error).__name__, at=guards.position_of(error))
        fault = KeptFault(int(Condition.INTERNAL_ERROR), "a defect of the server")
        return Outcome(number=number, time=self._clock(), result=Result.FAILED, fault=fault)

    def _refused(self, number: int, fault: Fault, warnings: Sequence[str] = ()) -> Outcome:
        segment, sequence, field = fault.location or ("", 0, 0)
        kept = KeptFault(int(fault.condition), fault.text, segment, sequence, field)
        notes = _some_of(warnings)
        return Outcome(number=number, time=self._clock(), result=Result.REFUSED, fault=kept, warnings=notes)

    def _outcome(self, number: int, found: Mapped, results: Sequence[Applied | UpdateRefused]) -> Outcome:
        changes: list[str] = []
        warnings = list(found.warnings)
        fault: KeptFault | None = None
        for result in results:
            if isinstance(result, UpdateRefused):
                condition = _CONDITIONS.get(RefusalReason(result.reason), Condition.TABLE_VALUE)
                fault = fault or KeptFault(int(condition), str(result))
                continue
            warnings += result.warnings
            for change in result.changes:
                keywords = f" ({', '.join(change.keywords)})" if change.keywords else ""
                changes.append(f"{change.kind.value} {change.key} {change.action}{keywords}")
        kind = Result.REFUSED if fault is not None else Result.APPLIED if changes else Result.UNCHANGED
        return Outcome(
            number=number,
            time=self._clock(),
            result=kind,
            changes=_some_of(changes),
            warnings=_some_of(warnings),
            fault=fault,
        )


def _some_of(notes: Sequence[str]) -> tuple[str, ...]:
    """Different ones, at most NOTES_CHARACTERS_MAX: a report of many orders has many."""
    kept: list[str] = []
    different, characters = list(dict.fromkeys(notes)), 0
    for note in different:
        characters += len(note)
        if characters > NOTES_CHARACTERS_MAX:
            return (*kept, f"… {len(different) - len(kept)} more")
        kept.append(note)
    return tuple(kept)


def _as_replay(outcome: Outcome) -> Outcome:
    return msgspec.structs.replace(outcome, is_replay=True)


def _source_name(meta: bytes) -> str:
    return decode_received(meta).source


def _origin(number: int, message: Message, source: KnownSource) -> Source:
    sender = ""
    if source.name == UNKNOWN.name:
        # Escapes may mean control characters.
        words = (message.header.text(field) for field in (3, 4))
        text = "".join(each if each.isprintable() else " " for each in " ".join(words))
        sender = " ".join(text.split())[:SENDER_CHARACTERS_MAX]
    return Source(name=source.name, reference=f"hl7:{number}", time=_time_of(message, source), sender=sender)


def _time_of(message: Message, source: KnownSource) -> float:
    """When it happened: EVN-2, else MSH-7; 0 if neither is a time."""
    for text in (message.text("EVN", 2), message.header.text(7)):
        found = moment.parse(text)
        if found is not None:
            return found.seconds(source.zone)
    return 0.0


def _as_answered(kept: KeptFault | None) -> Fault | None:
    """The fault for the answer; None if the message was applied."""
    if kept is None:
        return None
    location = (kept.segment, kept.sequence, kept.field) if kept.segment else None
    return Fault(Condition(kept.code), kept.text, location)

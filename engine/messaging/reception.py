"""The way of a message: from a block of bytes to its answer.

    block ──► message ──► whose is it, is it taken ──► journal ──► synced ──► answered ──► (applier) applied
                                │                        ▲            │
                                └── refused: AE, AR ─────┘            └── ack = "applied": answered after that

Every block is in the journal, also one that is refused or cut off. A message that comes again with the same bytes is
answered as the first time, and nothing is applied twice. Where the disk or our own state prevents that a message is
kept, there is no answer, and its connection is closed: an answer could make the sender forget it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import guards, log
from engine.errors import EngineError, MessageUnreadable, StorageError, for_log
from engine.hl7 import Condition, Fault, Frame, Message, acknowledge, parse, writer
from engine.hl7.acknowledgement import modes_of
from engine.hl7.message import Value
from engine.journal import Fault as KeptFault
from engine.journal import Journal, Received
from engine.mapping import Mapped, apply
from engine.messaging.sources import KnownSource, Sender

if TYPE_CHECKING:
    from collections import Counter

    from engine.storage.commit import GroupCommit

logger = log.get("hl7")

Answer = Callable[["bytes | None"], None]
"""Gets the answer to a block; b"": none is wanted; None: the message is not kept, so close the connection."""

CUT_OFF = "the message was cut off"


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A message that has been read, and what is known of it."""

    message: Message
    source: KnownSource
    received: Received
    fault: Fault | None
    mapped: Mapped | None
    """What it says; None for a message that is refused before it is mapped."""


class Reception:
    """Receives the messages of one process. Use it on the loop's thread."""

    def __init__(
        self,
        journal: Journal,
        commit: GroupCommit[int, None],
        counters: Counter[str],
        *,
        on_mapped: Callable[[int, Message, KnownSource, Mapped], None],
        on_synced: Callable[[int], None],
        await_outcome: Callable[[int, Callable[[Fault | None], None]], None],
        waiting_max: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_mapped` gets what each message says; `on_synced` is told what is on stable storage; `await_outcome` calls
        back when a message has been applied.
        """
        self._journal = journal
        self._commit = commit
        self._counters = counters
        self._on_mapped = on_mapped
        self._on_synced = on_synced
        self._await_outcome = await_outcome
        self._waiting_max = waiting_max
        self._clock = clock

    def receive(self, frame: Frame, sender: Sender, sources: Sequence[KnownSource], answer: Answer) -> None:
        """Takes one block; `answer` is called once, now or later."""
        self._counters["blocks"] += 1
        if frame.oddities:
            self._counters["odd_blocks"] += 1
        if frame.is_commit:
            answer(b"")
            return
        if len(self._journal.waiting) >= self._waiting_max():
            self._counters["not_kept"] += 1
            logger.about(sender.host).error("too many messages wait to be applied", waiting=len(self._journal.waiting))
            answer(None)
            return
        try:
            arrival = self._read(frame, sender, sources)
        except MessageUnreadable as error:
            self._refuse_unreadable(frame, sender, str(error), answer)
            return
        try:
            self._keep(arrival, frame, answer)
        except StorageError as error:
            self._counters["not_kept"] += 1
            logger.about(sender.host).error("a message is not kept", reason=for_log(error))
            answer(None)

    # -- reading --------------------------------------------------------------------------------

    def _read(self, frame: Frame, sender: Sender, sources: Sequence[KnownSource]) -> _Arrival:
        """Raises MessageUnreadable."""
        message, source = _message_of(frame.payload, sources)
        fault = self._judge(message, source, frame)
        mapped = _mapped(message, source, sender) if fault is None and source is not None else None
        if mapped is not None and mapped.faults:
            fault = mapped.faults[0]
        oddities = (*frame.oddities, *message.oddities)
        received = Received(
            time=self._clock(),
            source=source.name if source is not None else "",
            host=sender.host,
            kind=message.kind[:32],
            control_id=message.control_id[:256],
            application=message.header.raw(3)[:256],
            facility=message.header.raw(4)[:256],
            patient_id=_patient_id_of(message)[:256],
            oddities=tuple(oddity[:300] for oddity in oddities),
            fault=_kept(fault),
        )
        return _Arrival(message, source or sources[-1], received, fault, mapped)

    def _judge(self, message: Message, source: KnownSource | None, frame: Frame) -> Fault | None:
        if frame.is_cut:
            return Fault(Condition.SEGMENT_SEQUENCE, CUT_OFF)
        if source is None:
            text = "no source is configured for this application and facility"
            return Fault(Condition.UNKNOWN_KEY, text, ("MSH", 1, 3))
        return source.judge(message)

    # -- keeping and answering ------------------------------------------------------------------

    def _keep(self, arrival: _Arrival, frame: Frame, answer: Answer) -> None:
        """Raises StorageError."""
        received, fault = arrival.received, arrival.fault
        known = self._journal.known(received, frame.payload) if fault is None else None
        if known is not None and known.is_same:
            self._counters["duplicates"] += 1
            number, arrived = known.number, known.received.time
        else:
            if known is not None:
                logger.about(received.host).warning(
                    "a control id was used before for another message", source=received.source, number=known.number
                )
                self._counters["reused_control_ids"] += 1
            number, arrived = self._journal.append(received, frame.payload), received.time
            if fault is None and arrival.mapped is not None:
                self._on_mapped(number, arrival.message, arrival.source, arrival.mapped)
        # What waits for the disk, or for what the message does, must not hold its content.
        reply = _Arrival(arrival.message.without_content(), arrival.source, received, fault, None)
        is_cut = frame.is_cut
        self._counters["refused" if fault is not None else "taken"] += 1
        if fault is not None:
            logger.about(received.host).warning(
                "a message is refused", number=number, source=received.source, reason=fault.text
            )

        def synced(result: EngineError | None) -> None:
            if isinstance(result, EngineError) or is_cut:
                answer(None if isinstance(result, EngineError) else b"")
                return
            self._on_synced(number)
            self._answer(reply, number, arrived, answer)

        self._commit.submit(number, synced)

    def _answer(self, arrival: _Arrival, number: int, arrived: float, answer: Answer) -> None:
        """Answers a message that is on stable storage."""
        fault, message = arrival.fault, arrival.message
        modes = modes_of(message)

        def make(fault: Fault | None, *, is_accept: bool = False) -> bytes:
            return acknowledge(message, fault, control_id=str(number), time=arrived, is_accept=is_accept)

        if modes.is_enhanced:
            wanted = modes.wants_accept(fault is None)
            accept = make(fault, is_accept=True) if wanted else b""
            if fault is not None or not (modes.wants_application(True) or modes.wants_application(False)):
                answer(accept)
                return
            answer(accept)
            self._await_outcome(
                number, lambda outcome: answer(make(outcome) if modes.wants_application(outcome is None) else b"")
            )
        elif fault is None and arrival.source.settings.ack == "applied":
            self._await_outcome(number, lambda outcome: answer(make(outcome)))
        else:
            answer(make(fault))

    def _refuse_unreadable(self, frame: Frame, sender: Sender, reason: str, answer: Answer) -> None:
        """Keeps bytes that are no message, and says so to whoever sent them."""
        self._counters["unreadable"] += 1
        logger.about(sender.host).warning("a block is no HL7 message", reason=reason, bytes=len(frame.payload))
        fault = KeptFault(int(Condition.SEGMENT_SEQUENCE), reason)
        received = Received(time=self._clock(), source="", host=sender.host, oddities=frame.oddities, fault=fault)
        try:
            number = self._journal.append(received, frame.payload)
        except StorageError as error:
            logger.about(sender.host).error("a message is not kept", reason=for_log(error))
            answer(None)
            return
        text = refusal(reason, str(number), received.time)
        self._commit.submit(number, lambda result: answer(None if isinstance(result, EngineError) else text))


def refusal(reason: str, control_id: str, time_s: float) -> bytes:
    """AR for bytes whose sender and identifier cannot be read."""
    head = writer.header(
        kind=("ACK",), control_id=control_id, sender=("FILMROOM", ""), receiver=("", ""), time=time_s, codec="ascii"
    )
    return writer.message([head, writer.segment("MSA", "AR", "", reason[:80])], "ascii")


def _message_of(data: bytes, sources: Sequence[KnownSource]) -> tuple[Message, KnownSource | None]:
    """The message, read in the character set of its source. Raises MessageUnreadable."""
    first = sources[0].settings
    message = parse(data, default=first.default_charset, override=first.charset)
    source = next((source for source in sources if source.sends(message)), None)
    if source is not None and source is not sources[0]:
        other = source.settings
        if (other.default_charset, other.charset) != (first.default_charset, first.charset):
            message = parse(data, default=other.default_charset, override=other.charset)
    return message, source


def _patient_id_of(message: Message) -> str:
    patient = message.first("PID")
    return Value(message, patient.value(3).raw[:1024]).text() if patient is not None else ""


def _mapped(message: Message, source: KnownSource, sender: Sender) -> Mapped | None:
    """What a message says; None if a defect of ours prevents that we know. The message is taken all the same, since its
    sender could only send it again: the applier notes it as failed, and `replay` repeats it.
    """
    try:
        return apply(message, source.profile, source.options)
    except Exception as error:
        defect = {"error": type(error).__name__, "at": guards.position_of(error)}
        logger.about(sender.host).error("a message cannot be mapped", source=source.name, **defect)
        return None


def _kept(fault: Fault | None) -> KeptFault | None:
    if fault is None:
        return None
    segment, sequence, field = fault.location or ("", 0, 0)
    return KeptFault(int(fault.condition), fault.text, segment, sequence, field)

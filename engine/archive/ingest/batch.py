"""The batch port: many instances with one sync, for callers that wait: imports, and readmission from quarantine.

    place each instance (append, acknowledge or refuse) → one sync → one index transaction → one answer each

Blocks. One batch at a time, from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.archive.ingest.decision import Step
from engine.archive.ingest.entry import make_entry, scan
from engine.archive.ingest.request import POLICIES, ReceivedInstance, StoreRequest
from engine.archive.ingest.resolver import THOROUGH, Duplicate
from engine.archive.ingest.stream import StreamedRecord
from engine.errors import CorruptRecord, EngineError, InstanceRefused, StoreUnreachable
from engine.index.format.entry import Entry
from engine.index.format.types import Outcome
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.ingest.writer import Writer


class BatchIngestor:
    """The ingest of batches in one process."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._ingesting = threading.Lock()

    def ingest(self, items: Sequence[ReceivedInstance], *, policy: str) -> list[Outcome | EngineError]:
        """Stores whole instances; when it returns they are durable and visible.

        One answer an item, in order: its outcome, or why it was refused. Raises StorageFull or StorageFailed.
        """
        with self._ingesting:
            writer = self._writer
            answers: list[Outcome | EngineError] = []
            entries: list[Entry] = []
            places: list[int] = []
            for item in items:
                answer = self._place(item, POLICIES[policy])
                if isinstance(answer, Entry):
                    places.append(len(answers))
                    entries.append(answer)
                    answers.append(Outcome.STORED)
                else:
                    answers.append(answer)
            if entries:
                writer.log.sync()
                for place, entry, outcome in zip(places, entries, writer.apply(entries), strict=True):
                    answers[place] = writer.outcome_of(entry, outcome)
            writer.seal_rolled()
            return answers

    def ingest_stream(
        self, chunks: Iterator[Buffer], *, transfer_syntax_uid: str, calling_ae_title: str, policy: str
    ) -> Outcome:
        """Stores one object larger than memory, chunk by chunk; durable and visible when it returns.

        Raises InstanceRefused, StorageFull or StorageFailed.
        """
        request = StoreRequest(transfer_syntax_uid, calling_ae_title, None, None, True, POLICIES[policy])
        with self._ingesting:
            record = StreamedRecord(self._writer, request)
            try:
                crc = 0
                for chunk in chunks:
                    view = memoryview(chunk).cast("B")
                    crc = crc32c(view, crc)
                    record.scan([view])
                    record.append([view], len(view))
                entry = record.entry()
                record.finish(entry, crc)
            except BaseException:
                record.abort()
                raise
            outcome = self._writer.apply([entry])[0]
            return self._writer.outcome_of(entry, outcome)

    def _place(self, item: ReceivedInstance, policy: int) -> Entry | Outcome | EngineError:
        """The appended entry, or the answer for an item that is stored already or is refused."""
        writer, length, crc = self._writer, item.payload_length, item.payload_crc
        try:
            entry = make_entry(
                scan(item.payload, item.transfer_syntax_uid, writer.schema),
                writer.schema,
                transfer_syntax_uid=item.transfer_syntax_uid,
                calling_ae_title=item.calling_ae_title,
                sop_class_uid=item.sop_class_uid,
                sop_instance_uid=item.sop_instance_uid,
            )
            stored = writer.resolver.look_up(entry, length, crc)
            flags = policy
            if entry.stamp:
                duplicate = Duplicate(
                    writer.resolver, entry, stored, item.payload, length, crc, policy=policy, effort=THOROUGH
                )
                decision = duplicate.settle()
                if decision.step is Step.ACKNOWLEDGE:
                    assert duplicate.stored is not None
                    return writer.resolver.outcome_of(duplicate.stored)
                flags = decision.flags
            writer.append(entry, item.payload, length, crc, flags)
            return entry
        except (InstanceRefused, CorruptRecord, StoreUnreachable) as error:
            return error

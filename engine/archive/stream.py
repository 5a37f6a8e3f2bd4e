"""Objects larger than memory on their way in: each into a segment of its own, its parts written in threads.

    StreamIngest        an instance: found to be one by its first part, committed with the last one
    StreamQuarantine    what its first part shows not to be one: kept for the quarantine as far as that has room, and
                        refused at the end like any other

Made by `Ingestor.begin_stream`, which see; a stream is written, then finished or aborted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import log
from engine.errors import EngineError, InstanceRefused
from engine.index.entry import HEAL, Entry, Quarantined
from engine.index.types import Outcome
from engine.storage.record import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from engine.archive.care.unparseable import Unparseable
    from engine.archive.ingestor import Ingestor, ReceivedDataSet, StoreRequest
    from engine.archive.store import Store

logger = log.get("archive.ingestor")


def claim_of(unparseable: Unparseable, error: InstanceRefused, request: StoreRequest) -> Quarantined:
    """What a C-STORE says of the bytes that came with it."""
    return unparseable.claim(
        error,
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        transfer_syntax_uid=request.transfer_syntax_uid,
        calling_ae_title=request.calling_ae_title,
    )


class StreamIngest:
    """One object larger than memory on its way into a segment of its own; its parts are written in threads."""

    def __init__(self, ingestor: Ingestor, store: Store, entry: Entry) -> None:
        self._ingestor = ingestor
        self._store = store
        self._entry = entry
        self._meta = entry.pack_meta()
        self._appender = store.log.begin_stream(
            Kind.INSTANCE, entry.flags, entry.stamp, entry.sop_instance_uid, len(self._meta)
        )

    async def write(self, part: ReceivedDataSet) -> None:
        """Writes one part and releases it. Raises StorageFull or StorageFailed."""
        try:
            await self._ingestor.blocking(lambda: self._appender.write(part.buffers, part.length))
        finally:
            part.release()

    async def finish(self, last: ReceivedDataSet) -> Outcome:
        """Writes the last part and commits the object."""
        entry, crc = self._entry, last.crc
        await self.write(last)
        length = self._appender.payload_length
        heals = await self._ingestor.blocking(lambda: self._store.heals(entry, length, crc))
        if heals:
            entry.flags |= HEAL
        entry.position = await self._ingestor.blocking(
            lambda: self._appender.finish(self._meta, crc, flags=entry.flags)
        )
        # The appender has synced its segment in finish: the entry only needs to become visible.
        outcome = await self._ingestor.committed(entry, durable=False)
        if not heals:
            return outcome
        await self._ingestor.blocking(lambda: self._store.clear_healed(entry.sop_instance_uid))
        return Outcome.KEPT_ASIDE if outcome is Outcome.KEPT_ASIDE else Outcome.STORED

    async def abort(self) -> None:
        """Gives up: the half-written segment is removed."""
        await self._ingestor.blocking(self._appender.abort)


class StreamQuarantine:
    """A large object that cannot be taken: its parts go into quarantine as long as there is room, then nowhere."""

    def __init__(
        self,
        ingestor: Ingestor,
        store: Store,
        unparseable: Unparseable,
        error: InstanceRefused,
        request: StoreRequest,
    ) -> None:
        self._ingestor = ingestor
        self._unparseable = unparseable
        self._error = error
        self._claim = claim_of(unparseable, error, request)
        self._claim.stamp = store.next_stamp()
        self._meta = self._claim.pack_meta()
        self._appender = store.log.begin_stream(
            Kind.QUARANTINED, 0, self._claim.stamp, self._claim.sop_instance_uid, len(self._meta)
        )
        self._given_up = False

    async def write(self, part: ReceivedDataSet) -> None:
        """Writes one part, or drops it when there is no room for more; releases it either way."""
        try:
            if not self._given_up:
                await self._ingestor.blocking(lambda: self._write(part.buffers, part.length))
        except EngineError as error:
            logger.warning("nothing was put into quarantine", reason=str(error))
            await self.abort()
        finally:
            part.release()

    def _write(self, buffers: Sequence[Buffer], length: int) -> None:
        if self._unparseable.has_room(self._appender.payload_length + length):
            self._appender.write(buffers, length)
        else:
            self._given_up = True
            self._appender.abort()

    async def finish(self, last: ReceivedDataSet) -> Outcome:
        """Writes the last part and raises the refusal that the object has had from its beginning."""
        crc = last.crc
        await self.write(last)
        length = self._appender.payload_length
        if self._given_up or not await self._ingestor.blocking(
            lambda: self._unparseable.wants(self._claim, length, crc)
        ):
            await self.abort()
            raise self._error
        self._claim.position = await self._ingestor.blocking(lambda: self._appender.finish(self._meta, crc))
        raise await self._ingestor.book(self._claim, self._unparseable, self._error)

    async def abort(self) -> None:
        """Keeps nothing of it."""
        self._given_up = True
        await self._ingestor.blocking(self._appender.abort)

"""Stores the instances of a multipart response of a DICOMweb server as they arrive.

Each part is a file (PS3.10). Its File Meta Information is read first; a data set up to WHOLE_BYTES_MAX is held in
memory, a longer one is streamed into a segment of its own. Memory is bounded by that, whatever the response's length.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from engine.archive.ingest.live import WHOLE_BYTES_MAX
from engine.archive.ingest.request import POLICIES, Answer, Payload, StoreRequest, crc32c
from engine.dicom import part10
from engine.errors import AssociationFailed, DataSetError, EngineError, InstanceRefused, MultipartError, Refusal
from engine.exchange.dicomweb import pieces_of
from engine.web.accept import parse_media_type
from engine.web.multipart import BlockPool, PartBegin, PartEnd, Reader, boundary_in

if TYPE_CHECKING:
    import aiohttp

    from engine.archive.ingest.stream import StreamIngest
    from engine.config import Peer
    from engine.runtime.engine import Engine

META_BYTES_MAX: Final = 256 << 10
"""Bytes that are read before the File Meta Information is decoded; some have kilobytes of private information in it."""
CHUNK_BYTES: Final = 1 << 20

OnStored = Callable[[Answer, int], None]
"""Gets the result of one instance, and its length in bytes."""


class ResponseStore:
    """Stores the parts of one response after another."""

    def __init__(self, engine: Engine, peer: Peer, on_stored: OnStored) -> None:
        self._engine = engine
        self._peer = peer
        self._on_stored = on_stored
        self._parts: list[bytes | memoryview] = []
        self._length = 0
        self._crc = 0
        self._request: StoreRequest | None = None
        self._stream: StreamIngest | None = None
        self._refusal: EngineError | None = None

    async def store(self, response: aiohttp.ClientResponse) -> None:
        """Stores all parts of a response. Raises AssociationFailed when it ends early; complete parts are stored."""
        try:
            media_type = parse_media_type(response.headers.get("Content-Type", ""))
            if media_type is None:
                raise MultipartError("a response without a Content-Type")
            if media_type.name == "application/dicom":
                await self._single(response)
                return
            reader = Reader(boundary_in(media_type), BlockPool(self._engine.ingest_budget, keep=1))
            async for chunk in self._pieces(response):
                for event in reader.feed(chunk):
                    if isinstance(event, PartBegin):
                        self._begin()
                    elif isinstance(event, PartEnd):
                        await self._end()
                    else:
                        await self._add(event.view)
            reader.finish()
        except MultipartError as error:
            raise AssociationFailed(f"{self._peer.aet}: {error}") from error
        finally:
            await self._abort_stream()

    async def _single(self, response: aiohttp.ClientResponse) -> None:
        self._begin()
        async for chunk in self._pieces(response):
            await self._add(chunk)
        await self._end()

    def _pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        timeout_s = self._engine.config.settings_of(self._peer.aet).timeout_s
        return pieces_of(response, CHUNK_BYTES, timeout_s, self._peer.aet)

    def _begin(self) -> None:
        self._parts, self._length, self._crc = [], 0, 0
        self._request = self._stream = self._refusal = None

    async def _add(self, data: bytes | memoryview) -> None:
        if self._refusal is not None or not data:
            return
        self._length += len(data)
        if self._length > self._engine.config.limits.data_set_bytes_max:
            self._refusal = InstanceRefused("the data set is too long", Refusal.OUT_OF_RESOURCES)
            await self._abort_stream()
            return
        self._parts.append(data)
        length = sum(map(len, self._parts))
        if self._request is None and length >= META_BYTES_MAX:
            self._read_meta()
        is_long = self._stream is not None or length > WHOLE_BYTES_MAX
        if self._request is not None and self._refusal is None and is_long:
            await self._write()

    def _read_meta(self) -> None:
        """Reads the File Meta Information; leaves the data set in `_parts`."""
        head = b"".join(self._parts)
        try:
            meta = part10.read_file_meta(head[: part10.FILE_META_BYTES_MAX])
        except DataSetError as error:
            self._refusal = InstanceRefused(str(error), Refusal.CANNOT_UNDERSTAND)
            return
        settings = self._engine.config.settings_of(self._peer.aet)
        self._request = StoreRequest(
            meta.transfer_syntax_uid,
            self._peer.aet,
            None,
            None,
            settings.durability == "durable",
            POLICIES[settings.duplicates],
            accept_truncated=settings.accept_truncated,
            durable_at=settings.durable,
        )
        self._parts = [head[meta.data_set_offset :]]
        self._length = len(self._parts[0])
        self._crc = 0

    async def _write(self) -> None:
        """Writes the bytes in memory to the stream."""
        assert self._request is not None
        data = b"".join(self._parts)
        self._parts = []
        self._crc = crc32c(data, self._crc)
        try:
            if self._stream is None:
                self._stream = self._engine.ingestor.begin_stream(self._request)
            await self._stream.write(Payload([data], len(data), self._crc))
        except EngineError as error:
            self._refusal = error
            await self._abort_stream()

    async def _end(self) -> None:
        if self._request is None and self._refusal is None:
            self._read_meta()
        if self._refusal is not None or self._request is None:
            refusal = self._refusal or InstanceRefused("no data set", Refusal.CANNOT_UNDERSTAND)
            self._on_stored(Answer(refusal, "", "", "", ""), self._length)
            return
        self._on_stored(await self._store(self._request), self._length)

    async def _store(self, request: StoreRequest) -> Answer:
        """Stores a complete part."""
        if self._stream is None:
            data = b"".join(self._parts)
            return await self._engine.ingestor.ingest(Payload([data], len(data), crc32c(data)), request)
        await self._write()
        return await self._finish_stream()

    async def _finish_stream(self) -> Answer:
        stream, self._stream = self._stream, None
        if stream is None:
            return Answer(self._refusal or InstanceRefused("", Refusal.CANNOT_UNDERSTAND), "", "", "", "")
        return await stream.answer(Payload([], 0, self._crc))

    async def _abort_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.abort()

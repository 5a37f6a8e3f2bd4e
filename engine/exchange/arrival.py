"""Instances out of a multipart answer of somebody else's server, into the one way in, as they come.

Each part is a file (PS3.10). Its File Meta Information is read first; a data set up to WHOLE_BYTES_MAX is gathered, a
longer one streamed into a segment of its own. No more than that is held, whatever the answer's length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from engine.archive.ingest.live import WHOLE_BYTES_MAX
from engine.archive.ingest.request import POLICIES, Answer, Payload, StoreRequest, crc32c
from engine.dicom import part10
from engine.errors import AssociationFailed, DataSetError, EngineError, InstanceRefused, MultipartError, Refusal
from engine.web.accept import parse_media_type
from engine.web.multipart import PartBegin, PartEnd, Reader, boundary_in

if TYPE_CHECKING:
    import aiohttp

    from engine.archive.ingest.stream import StreamIngest
    from engine.config import Peer
    from engine.runtime.engine import Engine

META_BYTES_MAX: Final = 256 << 10
"""Gathered before the File Meta Information is read; some have private information of kilobytes in it."""
CHUNK_BYTES: Final = 1 << 20

Came = Callable[[Answer, int], None]
"""Takes what became of one instance, and its bytes."""


class Arrival:
    """Stores the parts of one answer after another."""

    def __init__(self, engine: Engine, peer: Peer, came: Came) -> None:
        self._engine = engine
        self._peer = peer
        self._came = came
        self._parts: list[bytes] = []
        self._length = 0
        self._crc = 0
        self._request: StoreRequest | None = None
        self._stream: StreamIngest | None = None
        self._refusal: EngineError | None = None

    async def store(self, response: aiohttp.ClientResponse) -> None:
        """All parts of an answer. Raises AssociationFailed when it ends early; what has come whole is stored."""
        try:
            media_type = parse_media_type(response.headers.get("Content-Type", ""))
            if media_type is None:
                raise MultipartError("an answer without a Content-Type")
            if media_type.name == "application/dicom":
                await self._single(response)
                return
            reader = Reader(boundary_in(media_type))
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                for event in reader.feed(chunk):
                    if isinstance(event, PartBegin):
                        self._begin()
                    elif isinstance(event, PartEnd):
                        await self._end()
                    else:
                        await self._add(bytes(event))
            reader.finish()
        except MultipartError as error:
            raise AssociationFailed(f"{self._peer.aet}: {error}") from error
        finally:
            await self._give_up()

    async def _single(self, response: aiohttp.ClientResponse) -> None:
        self._begin()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            await self._add(chunk)
        await self._end()

    def _begin(self) -> None:
        self._parts, self._length, self._crc = [], 0, 0
        self._request = self._stream = self._refusal = None

    async def _add(self, data: bytes) -> None:
        if self._refusal is not None or not data:
            return
        self._length += len(data)
        if self._length > self._engine.config.limits.data_set_bytes_max:
            self._refusal = InstanceRefused("the data set is too long", Refusal.OUT_OF_RESOURCES)
            await self._give_up()
            return
        self._parts.append(data)
        held = sum(map(len, self._parts))
        if self._request is None and held >= META_BYTES_MAX:
            self._read_meta()
        if self._request is not None and self._refusal is None and (self._stream is not None or held > WHOLE_BYTES_MAX):
            await self._write()

    def _read_meta(self) -> None:
        """What the file says of itself; leaves the data set in the parts."""
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
        )
        self._parts = [head[meta.data_set_offset :]]
        self._length = len(self._parts[0])
        self._crc = 0

    async def _write(self) -> None:
        """What is held goes into the stream."""
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
            await self._give_up()

    async def _end(self) -> None:
        if self._request is None and self._refusal is None:
            self._read_meta()
        if self._refusal is not None or self._request is None:
            refusal = self._refusal or InstanceRefused("no data set", Refusal.CANNOT_UNDERSTAND)
            self._came(Answer(refusal, "", "", "", ""), self._length)
            return
        self._came(await self._answer(self._request), self._length)

    async def _answer(self, request: StoreRequest) -> Answer:
        """What becomes of a whole part."""
        if self._stream is None:
            data = b"".join(self._parts)
            return await self._engine.ingestor.ingest(Payload([data], len(data), crc32c(data)), request)
        await self._write()
        return await self._finished()

    async def _finished(self) -> Answer:
        stream, self._stream = self._stream, None
        if stream is None:
            return Answer(self._refusal or InstanceRefused("", Refusal.CANNOT_UNDERSTAND), "", "", "", "")
        return await stream.answer(Payload([], 0, self._crc))

    async def _give_up(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.abort()

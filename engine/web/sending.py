"""Sends answers made of contents: one content, parts of known lengths, or a stream of parts.

    one content, or parts of known length    Content-Length, ETag, ranges (206, 416), If-None-Match (304)
    a stream of parts                        chunked; no ranges, since the offsets are not known

The multipart boundary is derived from the entity tag. HEAD gets the same headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.web import conditional
from engine.web.conditional import Unsatisfiable
from engine.web.content import Ranges
from engine.web.multipart import Writer, boundary_of
from engine.web.outlet import UNSENT_BYTES_MAX

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.retrieve import StoredInstance
    from engine.web.content import Content, Part
    from engine.web.request import Request

IMMUTABLE: Final = "private, max-age=31536000, immutable"
"""Cache-Control for resources that never change: instances and their frames."""
MUTABLE: Final = "private, no-cache"
"""Cache-Control for resources that can change: a client checks each time, and mostly gets 304."""
SMALL_BYTES: Final = 16 << 10
"""A smaller piece is sent together with the next one: a system call costs more than a copy."""
VARY: Final = "Accept, Accept-Encoding, Authorization"


async def send(
    request: Request,
    parts: Sequence[Part],
    etag: str,
    *,
    media_type: str = "",
    cache: str = IMMUTABLE,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Sends parts. `media_type`: of the parts of a multipart body; "": the body is the only part."""
    common = {"ETag": etag, "Cache-Control": cache, "Vary": VARY, **(headers or {})}
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=common)
    layout = _Layout.of(request, parts, etag, media_type)
    common |= layout.headers
    byte_range = None
    if layout.length is not None and layout.has_ranges:
        common["Accept-Ranges"] = "bytes"
        try:
            byte_range = conditional.byte_range(request.headers, etag, layout.length)
        except Unsatisfiable as error:
            common.pop("Content-Type")
            common["Content-Range"] = f"bytes */{error.length}"
            return web.Response(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=common)
    if byte_range is not None:
        common["Content-Range"] = f"bytes {byte_range[0]}-{byte_range[1] - 1}/{layout.length}"
    response = StreamedResponse(status=HTTPStatus.PARTIAL_CONTENT if byte_range else HTTPStatus.OK, headers=common)
    if layout.length is None:
        response.enable_chunked_encoding()
    else:
        start, stop = byte_range or (0, layout.length)
        response.content_length = stop - start
    await response.prepare(request)
    if not request.is_head:
        body = _Body(request, response.content_length)
        async for chunk in layout.chunks(byte_range):
            await body.write(chunk)
        await body.flush()
    await response.write_eof()
    return response


class StreamedResponse(web.StreamResponse):
    """An answer whose headers are sent together with the first bytes of its body."""

    _send_headers_immediately = False


class _Body:
    """Sends a body: small pieces are sent together with large ones, and other connections get a turn between pieces."""

    def __init__(self, request: Request, remaining: int | None = None) -> None:
        """`remaining`: the number of bytes to come; None: it is not known."""
        self._request = request
        self._writer = request.answer_writer
        self._remaining = remaining
        self._pending: list[Buffer] = []
        self._pending_bytes = 0
        self._has_sent = False

    async def write(self, chunk: Buffer) -> None:
        """Sends a piece, or holds it back for the next."""
        length = len(chunk)  # type: ignore[arg-type]
        self._pending.append(chunk)
        self._pending_bytes += length
        self._remaining = None if self._remaining is None else self._remaining - length
        if self._pending_bytes >= SMALL_BYTES and (self._remaining is None or self._remaining >= SMALL_BYTES):
            await self.flush()

    async def flush(self) -> None:
        """Sends the pending pieces."""
        if self._pending:
            await self._take_turns()
            pending, self._pending, self._pending_bytes = self._pending, [], 0
            await self._writer.write_together(pending)

    async def write_part(self, head: bytes, content: Content) -> None:
        """Sends a part: a stored instance past the transport if possible."""
        whole = content.whole_instance if isinstance(content, Ranges) else None
        if whole is not None and whole[1].length >= SMALL_BYTES:
            await self._take_turns()
            if self._send_directly(head + whole[0], whole[1]):
                await self._writer.drain()
                return
        await self.write(head)
        async for chunk in content.chunks(0, None):
            await self.write(chunk)

    async def _take_turns(self) -> None:
        """Lets the loop serve others before the next piece, but not between the last one and the end."""
        if self._has_sent:
            await asyncio.sleep(0)
        self._has_sent = True

    def _send_directly(self, before: bytes, stored: StoredInstance) -> bool:
        """Sends a stored instance and the bytes before it as one chunk past the transport; False: not possible."""
        connection, outlet, writer = self._request.connection, self._request.outlet, self._writer
        length = stored.length
        if not writer.chunked or not connection.is_direct:
            return False
        before = b"".join([*self._pending, before])
        before = b"%s%x\r\n%s" % (writer.waiting_headers, len(before) + length, before)
        if not outlet.fits(len(before) + length + 2) or not outlet.fill(before, stored, 0, length, b"\r\n"):
            return False
        if outlet.crc() != stored.instance.position.payload_crc:
            return False  # the usual path reports and records the damage
        writer.sent_past(outlet.send(connection))
        self._pending, self._pending_bytes = [], 0
        return True


class _Layout:
    """The pieces of a body and their offsets."""

    def __init__(self, parts: Sequence[Part], writer: Writer | None, headers: dict[str, str]) -> None:
        self.headers = headers
        self.has_ranges = all(part.content.has_ranges for part in parts)
        self._parts = parts
        self._writer = writer
        self._heads = [
            writer.head(number, part.content_type, part.location, part.content.length) if writer is not None else b""
            for number, part in enumerate(parts)
        ]
        lengths = [part.content.length for part in parts]
        self._lengths = [length for length in lengths if length is not None]
        self.length: int | None = None
        """The body's length; None: it is not known."""
        if len(self._lengths) == len(parts):
            self.length = writer.length(self._heads, self._lengths) if writer is not None else sum(self._lengths)

    @classmethod
    def of(cls, request: Request, parts: Sequence[Part], etag: str, media_type: str) -> _Layout:
        """The layout of parts. `media_type`: "" if the body is the only part."""
        if media_type:
            writer = Writer(_boundary(request, etag), media_type)
            return cls(parts, writer, {"Content-Type": writer.content_type})
        headers = {"Content-Type": parts[0].content_type}
        if parts[0].location:
            headers["Content-Location"] = parts[0].location
        return cls(parts, None, headers)

    async def chunks(self, byte_range: tuple[int, int] | None) -> AsyncIterator[Buffer]:
        """The body, or a range of it."""
        if byte_range is None:
            for head, part in zip(self._heads, self._parts, strict=True):
                if head:
                    yield head
                async for chunk in part.content.chunks(0, part.content.length):
                    yield chunk
            if self._writer is not None:
                yield self._writer.end(len(self._parts))
            return
        start, stop = byte_range
        if self._writer is None:
            async for chunk in self._parts[0].content.chunks(start, stop):
                yield chunk
            return
        for piece in self._writer.pieces(self._heads, self._lengths, start, stop):
            if isinstance(piece, bytes):
                yield piece
                continue
            content = self._parts[piece.part].content
            async for chunk in content.chunks(piece.offset, piece.offset + piece.length):
                yield chunk


async def send_stream(
    request: Request,
    parts: AsyncIterator[Part],
    etag: str,
    media_type: str,
    *,
    cache: str = MUTABLE,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Sends a stream of parts. The headers wait for the first one, so that its failure gets an error response."""
    common = {"ETag": etag, "Cache-Control": cache, "Vary": VARY, **(headers or {})}
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=common)
    writer = Writer(_boundary(request, etag), media_type)
    response = StreamedResponse(headers={**common, "Content-Type": writer.content_type, "Accept-Ranges": "none"})
    if request.is_head:
        await response.prepare(request)
        await response.write_eof()
        return response
    first = await anext(parts, None)
    if first is not None:
        response.enable_chunked_encoding()
    await response.prepare(request)
    request.connection.hold_unsent(0)
    try:
        await _write_parts(_Body(request), writer, first, parts)
    finally:
        request.connection.hold_unsent(UNSENT_BYTES_MAX)
    await response.write_eof()
    return response


async def _write_parts(body: _Body, writer: Writer, first: Part | None, others: AsyncIterator[Part]) -> None:
    count, part = 0, first
    while part is not None:
        head = writer.head(count, part.content_type, part.location, part.content.length)
        await body.write_part(head, part.content)
        count += 1
        part = await anext(others, None)
    await body.write(writer.end(count))
    await body.flush()


def _boundary(request: Request, etag: str) -> str:
    return boundary(request.engine.archive.secret, etag)


def boundary(secret: bytes, etag: str) -> str:
    """The multipart boundary of a body; `secret`: the archive's."""
    return boundary_of(secret, etag.encode())

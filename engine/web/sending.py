"""Answers made of contents: one alone, several whose lengths are known, or any number as they come.

    one content, or parts of known length    Content-Length, ETag, ranges (206, 416), If-None-Match (304)
    parts as they come                       chunked; no ranges, since nobody knows where they would lie

Both with the boundary that follows from the entity tag, and both alike for HEAD.
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
"""Of what never changes under its URL: instances and their frames."""
CHANGING: Final = "private, no-cache"
"""Of what does: a client asks each time, and has 304 mostly."""
SMALL_BYTES: Final = 16 << 10
"""Less than that waits for what comes behind it: a system call costs more than a copy."""
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
    """Parts that are there. `media_type`: of those of a multipart body; "": there is one, which is the body."""
    common = {"ETag": etag, "Cache-Control": cache, "Vary": VARY, **(headers or {})}
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=common)
    layout = _Layout.of(request, parts, etag, media_type)
    common |= layout.headers
    asked = None
    if layout.length is not None and layout.has_ranges:
        common["Accept-Ranges"] = "bytes"
        try:
            asked = conditional.byte_range(request.headers, etag, layout.length)
        except Unsatisfiable as error:
            common.pop("Content-Type")
            common["Content-Range"] = f"bytes */{error.length}"
            return web.Response(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=common)
    if asked is not None:
        common["Content-Range"] = f"bytes {asked[0]}-{asked[1] - 1}/{layout.length}"
    response = Streamed(status=HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK, headers=common)
    if layout.length is None:
        response.enable_chunked_encoding()
    else:
        start, stop = asked or (0, layout.length)
        response.content_length = stop - start
    await response.prepare(request)
    if not request.is_head:
        body = _Body(request, response.content_length)
        async for chunk in layout.chunks(asked):
            await body.give(chunk)
        await body.flush()
    await response.write_eof()
    return response


class Streamed(web.StreamResponse):
    """An answer whose headers leave with the first bytes of its body."""

    _send_headers_immediately = False


class _Body:
    """A body on its way: small pieces leave together with large ones, and other connections have turns between them."""

    def __init__(self, request: Request, left: int | None = None) -> None:
        """`left`: how many bytes come; None: nobody knows."""
        self._request = request
        self._writer = request.answer_writer
        self._left = left
        self._held: list[Buffer] = []
        self._held_bytes = 0
        self._has_sent = False

    async def give(self, chunk: Buffer) -> None:
        """Sends a piece, or holds it back for the next."""
        length = len(chunk)  # type: ignore[arg-type]
        self._held.append(chunk)
        self._held_bytes += length
        self._left = None if self._left is None else self._left - length
        if self._held_bytes >= SMALL_BYTES and (self._left is None or self._left >= SMALL_BYTES):
            await self.flush()

    async def flush(self) -> None:
        """Sends what is held back."""
        if self._held:
            await self._take_turns()
            held, self._held, self._held_bytes = self._held, [], 0
            await self._writer.write_together(held)

    async def give_part(self, head: bytes, content: Content) -> None:
        """Sends a part: a stored instance by the short way if it can leave so."""
        whole = content.checked_whole if isinstance(content, Ranges) else None
        if whole is not None and whole[1].length >= SMALL_BYTES:
            await self._take_turns()
            if self._leaves_at_once(head + whole[0], whole[1]):
                await self._writer.drain()
                return
        await self.give(head)
        async for chunk in content.chunks(0, None):
            await self.give(chunk)

    async def _take_turns(self) -> None:
        """Lets the loop serve others before the next piece, but not between the last one and the end."""
        if self._has_sent:
            await asyncio.sleep(0)
        self._has_sent = True

    def _leaves_at_once(self, before: bytes, stored: StoredInstance) -> bool:
        """Whether a stored instance has been sent, with what stands before it, as one chunk."""
        connection, outlet, writer = self._request.connection, self._request.outlet, self._writer
        length = stored.length
        if not writer.chunked or not connection.is_direct:
            return False
        before = b"".join([*self._held, before])
        before = b"%s%x\r\n%s" % (writer.waiting_headers, len(before) + length, before)
        if not outlet.fits(len(before) + length + 2) or not outlet.fill(before, stored, 0, length, b"\r\n"):
            return False
        if outlet.crc() != stored.instance.position.payload_crc:
            return False  # the usual way says so, and notes it
        writer.sent_past(outlet.send(connection))
        self._held, self._held_bytes = [], 0
        return True


class _Layout:
    """What is where in a body."""

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
        """Of the body; None: nobody knows."""
        if len(self._lengths) == len(parts):
            self.length = writer.length(self._heads, self._lengths) if writer is not None else sum(self._lengths)

    @classmethod
    def of(cls, request: Request, parts: Sequence[Part], etag: str, media_type: str) -> _Layout:
        """`media_type`: "" for a body that is the one part."""
        if media_type:
            writer = Writer(_boundary(request, etag), media_type)
            return cls(parts, writer, {"Content-Type": writer.content_type})
        headers = {"Content-Type": parts[0].content_type}
        if parts[0].location:
            headers["Content-Location"] = parts[0].location
        return cls(parts, None, headers)

    async def chunks(self, asked: tuple[int, int] | None) -> AsyncIterator[Buffer]:
        """The body, or what is asked for of it."""
        if asked is None:
            for head, part in zip(self._heads, self._parts, strict=True):
                if head:
                    yield head
                async for chunk in part.content.chunks(0, part.content.length):
                    yield chunk
            if self._writer is not None:
                yield self._writer.end(len(self._parts))
            return
        start, stop = asked
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
    cache: str = CHANGING,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Parts as they come. The first one is waited for before the headers, so that its failure is an answer."""
    common = {"ETag": etag, "Cache-Control": cache, "Vary": VARY, **(headers or {})}
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=common)
    writer = Writer(_boundary(request, etag), media_type)
    response = Streamed(headers={**common, "Content-Type": writer.content_type, "Accept-Ranges": "none"})
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
        await _give_parts(_Body(request), writer, first, parts)
    finally:
        request.connection.hold_unsent(UNSENT_BYTES_MAX)
    await response.write_eof()
    return response


async def _give_parts(body: _Body, writer: Writer, first: Part | None, others: AsyncIterator[Part]) -> None:
    count, part = 0, first
    while part is not None:
        head = writer.head(count, part.content_type, part.location, part.content.length)
        await body.give_part(head, part.content)
        count += 1
        part = await anext(others, None)
    await body.give(writer.end(count))
    await body.flush()


def _boundary(request: Request, etag: str) -> str:
    return boundary(request.engine.archive.secret, etag)


def boundary(secret: bytes, etag: str) -> str:
    """The boundary of a body; `secret`: the archive's."""
    return boundary_of(secret, etag.encode())

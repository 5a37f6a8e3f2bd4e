"""Answers made of contents: one alone, several whose lengths are known, or any number as they come.

    one content, or parts of known length    Content-Length, ETag, ranges (206, 416), If-None-Match (304)
    parts as they come                       chunked; no ranges, since nobody knows where they would lie

Both with the boundary that follows from the entity tag, and both alike for HEAD.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.web import conditional
from engine.web.conditional import Unsatisfiable
from engine.web.multipart import Writer, boundary_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.web.content import Part
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
        await _give(request, layout.chunks(asked), response.content_length)
    await response.write_eof()
    return response


class Streamed(web.StreamResponse):
    """An answer whose headers leave with the first bytes of its body."""

    _send_headers_immediately = False


async def _give(request: Request, chunks: AsyncIterator[Buffer], left: int | None) -> None:
    """Sends chunks, small ones together with large ones. `left`: how many bytes come; None: nobody knows."""
    held: list[Buffer] = []
    held_bytes = 0
    async for chunk in chunks:
        length = len(chunk)  # type: ignore[arg-type]
        held.append(chunk)
        held_bytes += length
        left = None if left is None else left - length
        if held_bytes < SMALL_BYTES or (left is not None and left < SMALL_BYTES):
            continue
        await request.answer_writer.write_together(held)
        held, held_bytes = [], 0
    if held:
        await request.answer_writer.write_together(held)


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
    await _give(request, _body(writer, first, parts), None)
    await response.write_eof()
    return response


async def _body(writer: Writer, first: Part | None, others: AsyncIterator[Part]) -> AsyncIterator[Buffer]:
    count = 0
    part = first
    while part is not None:
        yield writer.head(count, part.content_type, part.location, part.content.length)
        async for chunk in part.content.chunks(0, None):
            yield chunk
        count += 1
        part = await anext(others, None)
    yield writer.end(count)


def _boundary(request: Request, etag: str) -> str:
    return boundary(request.engine.archive.secret, etag)


def boundary(secret: bytes, etag: str) -> str:
    """The boundary of a body; `secret`: the archive's."""
    return boundary_of(secret, etag.encode())

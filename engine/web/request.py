"""A request as handlers see it: aiohttp's, with who asks, what the path says, and the engine that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError
from aiohttp.http_writer import StreamWriter

from engine.access import ARCHIVE, Action, Decision, Principal, Target
from engine.errors import NotAllowed
from engine.web.errors import TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.config import Config
    from engine.runtime.engine import Engine
    from engine.runtime.outbound import Outbound
    from engine.web.change_stream import ChangeStream
    from engine.web.commitments import Commitments
    from engine.web.direct_body import DirectBody
    from engine.web.multipart import BlockPool
    from engine.web.outlet import Connection, Outlet
    from engine.web.urls import Origin

JOINED_BYTES_MAX = 64 << 10
"""Up to this, the parts of one write are joined: a copy costs less than another system call."""


class Writer(StreamWriter):
    """aiohttp's writer, which neither joins what is large nor sends a body in answer to HEAD."""

    def __init__(self, protocol: Any, loop: Any, *, is_head: bool) -> None:
        super().__init__(protocol, loop)
        self._is_head = is_head

    def _writelines(self, chunks: Iterable[Any]) -> None:
        parts: list[Any] = list(chunks)
        length = sum(map(len, parts))
        if length <= JOINED_BYTES_MAX:
            self._write(b"".join(parts))
            return
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the client is gone")
        self.buffer_size += length
        self.output_size += length
        transport.writelines(parts)

    def take_back(self) -> None:
        """Forgets the headers of an answer of which nothing was sent, so that another one can take its place."""
        self._headers_buf, self._headers_written = None, False
        self.chunked, self.length = False, None

    @property
    def waiting_headers(self) -> bytes:
        """The headers, as long as they have not left."""
        return b"" if self._headers_written else self._headers_buf or b""

    def sent_past(self, length: int) -> None:
        """So many bytes have left past this writer, and waiting headers with them."""
        self._headers_written, self._headers_buf = True, None
        self.output_size += length

    async def write_together(self, parts: Sequence[Any]) -> None:
        """Sends parts of the body, and headers that wait, with one system call; as one chunk if there are chunks."""
        if self._is_head:
            self.send_headers()
            return
        length = sum(map(len, parts))
        framed = [f"{length:x}\r\n".encode(), *parts, b"\r\n"] if self.chunked else list(parts)
        if headers := self.waiting_headers:
            framed.insert(0, headers)
            self._headers_written, self._headers_buf = True, None
        if self.length is not None:
            self.length -= length
        self._writelines(framed)
        if self.buffer_size > JOINED_BYTES_MAX:
            self.buffer_size = 0
            await self.drain()

    async def write(self, chunk: Any, *, drain: bool = True, LIMIT: int = 0x10000) -> None:
        """Sends a part of the body."""
        if self._is_head:
            self.send_headers()
        else:
            await super().write(chunk, drain=drain, LIMIT=LIMIT)

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Ends the body."""
        if self._is_head:
            self.send_headers()
            self._eof = True
        else:
            await super().write_eof(chunk)


class Host(Protocol):
    """The front, as far as requests go."""

    @property
    def outbound(self) -> Outbound | None:
        """Who reaches other archives; None: nobody does."""

    async def server_stats(self) -> dict[str, Any]:
        """The statistics of all processes of the server; empty when they cannot be had."""

    def finish_headers(self, request: Request, response: web.StreamResponse) -> None:
        """Adds what every answer has."""


class Request(web.BaseRequest):
    """One request; made for each by `front`."""

    host_front: Host
    engine: Engine
    changes: ChangeStream
    """What happens to the archive, as this process follows it."""
    commitments: Commitments
    """Requests for storage commitment that this process judges."""
    direct_body: DirectBody | None
    """The body, where its route takes it itself and its length is known; then `content` has none of it."""
    blocks: BlockPool
    """Memory for such bodies."""
    id: str
    """Of the request: the client's X-Request-ID, or one of our own."""
    connection: Connection
    """What it came on."""
    outlet: Outlet
    """The short way out, while `connection.is_direct`."""
    answer_writer: Writer
    """What the answer is written to."""
    origin: Origin
    principal: Principal
    route_name: str
    """The route's name in log and metrics."""
    path_values: dict[str, str]
    """Of the parameters in the path, percent-decoded."""
    began_at: float
    """By the loop's clock."""
    is_counted: bool
    """Whether it is one of those that are served at the moment."""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.engine.config

    @property
    def is_head(self) -> bool:
        """Whether only the headers of the answer are sent: a handler may then leave out what makes the body."""
        return self._method == "HEAD"

    @property
    def root(self) -> str:
        """What the URLs of answers begin with: scheme, host, port, and the public prefix; no slash at the end."""
        return self.origin.root

    def allowed(self, action: Action, target: Target = ARCHIVE) -> Decision:
        """Whether the client may do that, beside what its route has asked already."""
        return self.engine.access.allowed(self.principal, action, target)

    def require(self, action: Action, target: Target = ARCHIVE) -> None:
        """Raises NotAllowed unless the client may do that."""
        if not (decision := self.allowed(action, target)):
            raise NotAllowed(decision.reason)

    async def body(self) -> bytes:
        """The whole body, for small ones. Raises TooLarge beyond http.body_bytes_max."""
        limit = self.config.http.body_bytes_max
        if (self.content_length or 0) > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        parts: list[bytes] = []
        length = 0
        async for part in self.content.iter_any():
            length += len(part)
            if length > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            parts.append(part)
        return b"".join(parts)

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        self.host_front.finish_headers(self, response)

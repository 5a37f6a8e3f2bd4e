"""A request as handlers see it: aiohttp's, with the client's identity, the path's parameters, and the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError
from aiohttp.http_writer import StreamWriter

from engine.access import ARCHIVE, Action, Decision, Principal, Scope, Target
from engine.errors import NotAllowed
from engine.web.errors import TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.accounts.proof import Proof
    from engine.archive.view import View
    from engine.config import Config
    from engine.runtime.engine import Engine
    from engine.runtime.outbound import Outbound
    from engine.web.change_stream import ChangeStream
    from engine.web.commitments import Commitments
    from engine.web.direct_body import DirectBody
    from engine.web.live_status import LiveStatus
    from engine.web.multipart import BlockPool
    from engine.web.outlet import Connection, Outlet
    from engine.web.urls import Origin

JOINED_BYTES_MAX = 64 << 10
"""The parts of one write are joined up to this size: a copy costs less than another system call."""


class Writer(StreamWriter):
    """aiohttp's writer, but it does not join large parts, and sends no body in answer to HEAD."""

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
        """Discards the headers of an answer of which nothing was sent, so that another one can replace it."""
        self._headers_buf, self._headers_written = None, False
        self.chunked, self.length = False, None

    @property
    def waiting_headers(self) -> bytes:
        """The headers, while they are unsent."""
        return b"" if self._headers_written else self._headers_buf or b""

    def sent_past(self, length: int) -> None:
        """Records that so many bytes were sent past this writer, and unsent headers with them."""
        self._headers_written, self._headers_buf = True, None
        self.output_size += length

    async def write_together(self, parts: Sequence[Any]) -> None:
        """Sends parts of the body, with unsent headers, in one system call; as one chunk if the body is chunked."""
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
    """What requests need of the front."""

    @property
    def outbound(self) -> Outbound | None:
        """Connections to other archives; None: this process has none."""

    @property
    def live_status(self) -> LiveStatus:
        """What the server does now."""

    async def server_stats(self) -> dict[str, Any]:
        """The statistics of all processes of the server; empty if they are not available."""

    async def peer_sightings(self) -> dict[str, dict[str, Any]]:
        """When each peer was seen last by any worker."""

    async def change_peer(self, title: str, table: dict[str, Any] | None, actor: str, reason: str) -> dict[str, Any]:
        """Adds, replaces or removes a managed peer."""

    async def replay_message(self, number: int) -> dict[str, Any]:
        """Has a message of the journal applied again."""

    def security_findings(self) -> list[dict[str, str]]:
        """How safe the configuration in force is; takes some milliseconds."""

    def finish_headers(self, request: Request, response: web.StreamResponse) -> None:
        """Adds the headers that every answer has."""


class Authentication(Protocol):
    """Finds out who sends requests."""

    async def identify(self, request: Request) -> None:
        """Sets the request's principal. Raises HttpError (401) for a credential that is not valid, or missing."""

    def proof_of(self, request: Request) -> Proof | None:
        """What the request's token or cookie proves."""

    def check_files(self, request: Request) -> None:
        """Raises NotAllowed for a visitor whose share is for viewing only."""


class Request(web.BaseRequest):
    """One request; created by `front`."""

    host_front: Host
    engine: Engine
    changes: ChangeStream
    """The events of the archive, as this process reads them."""
    commitments: Commitments
    """The storage commitment requests that this process checks."""
    direct_body: DirectBody | None
    """The body, if the route's handler reads it directly and its length is known; `content` is then empty."""
    blocks: BlockPool
    """Memory for such bodies."""
    id: str
    """Of the request: the client's X-Request-ID, or one of our own."""
    connection: Connection
    """The connection of the request."""
    outlet: Outlet
    """Sends from the page cache, past the transport, while `connection.is_direct`."""
    answer_writer: Writer
    """The writer of the answer."""
    origin: Origin
    principal: Principal
    authentication: Authentication
    target: Target
    """What its route is about."""
    route_name: str
    """The route's name in log and metrics."""
    search_parameters: Sequence[tuple[str, str]] | None
    """The parameters of a search that came in a body too; None: those of the URL are all."""
    path_values: dict[str, str]
    """The parameters in the path, percent-decoded."""
    began_at: float
    """By the loop's clock."""
    is_last: bool
    """Whether the connection is closed after it: aiohttp's parser may drop bytes behind a request to upgrade (h2c)."""
    stream_after_s: float | None
    """After how long a stream of events began, which the client ends when it likes; None: it is no such stream."""
    is_counted: bool
    """Whether it counts as one of the requests in progress."""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.engine.config

    @property
    def is_head(self) -> bool:
        """Whether only the headers of the answer are sent: a handler may then skip the work for the body."""
        return self._method == "HEAD"

    @property
    def root(self) -> str:
        """The beginning of URLs in answers: scheme, host, port, and the public prefix; no slash at the end."""
        return self.origin.root

    def allowed(self, action: Action, target: Target = ARCHIVE) -> Decision:
        """Whether the client may do that, in addition to the action of its route."""
        return self.engine.access.allowed(self.principal, action, target)

    def scope(self, action: Action) -> Scope:
        """The studies that the client may reach by the action in the form of its route, by the rules in force now."""
        return self.engine.access.scope(self.principal, action, self.target)

    def view(self, action: Action) -> View:
        """The archive as the client sees it, for the action."""
        return self.engine.archive.view(self.scope(action))

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

"""A DICOMweb client: one session of requests to a peer's url, with its credentials.

Secrets are read from their files for each session, and never appear in messages. Redirects are not followed, so that
credentials go to no other server. A status other than success raises AssociationFailed with the status.

A peer may be slow, and not without end: it has PATIENCE times its timeout to take a piece of a body, and to begin its
answer once it has all; then its bytes must come at RATE_BYTES_PER_S_MIN, however often single ones come.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson

from engine.errors import AssociationFailed, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from engine.config import Config, Peer

SECRET_BYTES_MAX: Final = 16 << 10
ANSWER_BYTES_MAX: Final = 64 << 20
"""Length of a response that is read as a whole: a response module, or the rows of one page."""
DICOM_JSON: Final = "application/dicom+json"
PATIENCE: Final = 2
RATE_BYTES_PER_S_MIN: Final = 256
"""Bytes a second that must come, on average over the time in which we wait for them."""
TAKEN_BYTES_PER_S_MIN: Final = 8 << 10
"""Bytes a second at which a piece of a body must be taken, beside the patience."""


class DicomwebPeer:
    """A session with one peer."""

    def __init__(self, session: aiohttp.ClientSession, peer: Peer, timeout_s: float) -> None:
        self._session = session
        self._root = peer.url.rstrip("/")
        self._name = peer.aet
        self._timeout_s = timeout_s
        self._tls = _tls_of(peer)
        self._headers = _headers_of(peer)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        parameters: Mapping[str, str] | None = None,
        body: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Sends one request, and yields its response. Raises AssociationFailed."""
        deadline = _Deadline(PATIENCE * self._timeout_s)
        try:
            async with deadline.kept():
                response = await self._session.request(
                    method,
                    f"{self._root}{path}",
                    params=parameters,
                    data=None if body is None else deadline.watched(body),
                    headers={**self._headers, **headers},
                    ssl=self._tls,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=self._timeout_s),
                )
            async with response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise AssociationFailed(f"{self._name}: {_describe(error)}") from error

    async def rows(self, path: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Searches; returns the rows of one response. Raises AssociationFailed."""
        async with self.request("GET", path, headers={"Accept": DICOM_JSON}, parameters=parameters) as response:
            if response.status == 204:
                return []
            if response.status != 200:
                raise self.refusal(response.status, path)
            rows = await self.read_json(response)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise AssociationFailed(f"{self._name} does not answer a search with a list")
        return rows

    async def read_json(self, response: aiohttp.ClientResponse) -> Any:
        """The body of a response. Raises AssociationFailed if it is too long, or not JSON."""
        parts: list[bytes] = []
        length = 0
        async for part in pieces_of(response, 1 << 16, self._timeout_s, self._name):
            length += len(part)
            if length > ANSWER_BYTES_MAX:
                raise AssociationFailed(f"{self._name} answers with more than {ANSWER_BYTES_MAX} bytes")
            parts.append(part)
        try:
            return orjson.loads(b"".join(parts))
        except orjson.JSONDecodeError:
            raise AssociationFailed(f"{self._name} does not answer with JSON") from None

    def refusal(self, status: int, path: str) -> AssociationFailed:
        """The error for a status other than success."""
        return AssociationFailed(f"{self._name} answered {status} to {path.partition('?')[0][:200]}")


class _Deadline:
    """When a peer must have begun its answer; while a body is made, when it must have taken the present piece."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._limit = asyncio.timeout(None)
        self._is_kept = False

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Raises TimeoutError."""
        async with self._limit:
            self._is_kept = True
            self._set(self._patience_s)
            try:
                yield
            finally:
                self._is_kept = False

    async def watched(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The body. What it takes to make it counts for nobody."""
        self._set(None)
        async for piece in body:
            self._set(self._patience_s + len(piece) / TAKEN_BYTES_PER_S_MIN)
            yield piece
            self._set(None)
        self._set(self._patience_s)

    def _set(self, seconds: float | None) -> None:
        if self._is_kept:  # else it has answered before it had the whole body
            self._limit.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


async def pieces_of(
    response: aiohttp.ClientResponse, piece_bytes: int, timeout_s: float, name: str
) -> AsyncIterator[bytes]:
    """The body of a response. Raises AssociationFailed when a peer sends for long, and hardly anything."""
    loop, chunks = asyncio.get_running_loop(), response.content.iter_chunked(piece_bytes)
    waited_s, length = 0.0, 0
    while True:
        began_s = loop.time()
        try:
            piece = await anext(chunks)
        except StopAsyncIteration:
            return
        waited_s, length = waited_s + loop.time() - began_s, length + len(piece)
        if waited_s > PATIENCE * timeout_s and length < RATE_BYTES_PER_S_MIN * waited_s:
            raise AssociationFailed(f"{name} sends less than {RATE_BYTES_PER_S_MIN} bytes a second")
        yield piece


@asynccontextmanager
async def connected(peer: Peer, config: Config) -> AsyncIterator[DicomwebPeer]:
    """A session with a peer. Raises ConfigError for credentials that cannot be read."""
    timeout_s = config.settings_of(peer.aet).timeout_s if config.peer(peer.aet) else config.limits.dimse_timeout_s
    connector = aiohttp.TCPConnector(limit=8)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield DicomwebPeer(session, peer, timeout_s)


async def echo(peer: Peer, config: Config) -> dict[str, object]:
    """Searches for one study, and returns how long that took. Raises AssociationFailed."""
    loop = asyncio.get_running_loop()
    async with connected(peer, config) as client:
        start_s = loop.time()
        await client.rows("/studies", {"limit": "1"})
        return {"protocol": "dicomweb", "search_ms": round((loop.time() - start_s) * 1000, 3)}


def _tls_of(peer: Peer) -> ssl.SSLContext | bool:
    if not peer.url.startswith("https"):
        return True
    try:
        return ssl.create_default_context(cafile=str(peer.ca_file) if peer.ca_file else None)
    except OSError as error:
        raise ConfigError(f"peer {peer.aet}: ca_file cannot be read: {error.strerror or error}") from error


def _headers_of(peer: Peer) -> dict[str, str]:
    if peer.token_file is not None:
        return {"Authorization": f"Bearer {_secret(peer, peer.token_file, 'token_file')}"}
    if peer.password_file is not None:
        password = _secret(peer, peer.password_file, "password_file")
        return {"Authorization": aiohttp.BasicAuth(peer.user, password, "utf-8").encode()}
    return {}


def _secret(peer: Peer, path: Path, setting: str) -> str:
    try:
        text = path.read_bytes()[:SECRET_BYTES_MAX].decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"peer {peer.aet}: {setting} cannot be read") from None
    if not text or not text.isprintable():
        raise ConfigError(f"peer {peer.aet}: {setting} does not have a secret of one line")
    return text


def _describe(error: Exception) -> str:
    """Describes an error without a URL, which may name a patient."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"it cannot be reached: {error.os_error.strerror or error.os_error}"
    return f"the connection failed ({type(error).__name__})"

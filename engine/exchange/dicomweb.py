"""A DICOMweb client: one session of requests to a peer's url, with its credentials.

Secrets are read from their files for each session, and never appear in messages. Redirects are not followed, so that
credentials go to no other server. A status other than success raises AssociationFailed with the status.
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
        try:
            async with self._session.request(
                method,
                f"{self._root}{path}",
                params=parameters,
                data=body,
                headers={**self._headers, **headers},
                ssl=self._tls,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=self._timeout_s),
            ) as response:
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
        async for part in response.content.iter_chunked(1 << 16):
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

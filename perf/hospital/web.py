"""The simulation's side of HTTP: what the archive says of its journal, orders, studies and workitems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final

import aiohttp
import orjson

from engine.errors import AssociationFailed
from perf.hospital.network import Refused, Server, insisting

TIMEOUT: Final = aiohttp.ClientTimeout(total=60)
PAGE: Final = 500


class Web:
    """One client; also a context."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session = aiohttp.ClientSession(timeout=TIMEOUT, headers=dict(server.headers))

    async def __aenter__(self) -> Web:
        """Raises AssociationFailed at once where nobody listens: patience is for a server that was there."""
        try:
            async with self._session.get(f"{self._server.url}/health/live"):
                return self
        except (aiohttp.ClientError, TimeoutError) as error:
            await self._session.close()
            raise AssociationFailed(f"{self._server.url} does not answer: {error}") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def read(self, path: str, **parameters: str | int) -> Any:
        """The JSON at a path; None: 404, or nothing found. Raises Refused, AssociationFailed."""
        status, body = await self.request("GET", path, parameters)
        if status in (204, 404):
            return None
        if status != 200:
            raise Refused(f"GET {path} was answered with {status}: {body[:200].decode('utf-8', 'replace')}")
        return orjson.loads(body)

    async def request(
        self, method: str, path: str, parameters: Mapping[str, str | int] | None = None, body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body. Raises AssociationFailed when the server cannot be reached for too long."""

        async def send() -> tuple[int, bytes]:
            headers = {"Accept": "application/dicom+json" if path.startswith("/dicom-web") else "application/json"}
            if body is not None:
                headers["Content-Type"] = "application/dicom+json"
            url = f"{self._server.url}{path}"
            try:
                async with self._session.request(method, url, params=parameters, data=body, headers=headers) as answer:
                    if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                        raise AssociationFailed(f"{self._server.url} is not ready")
                    return answer.status, await answer.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise AssociationFailed(f"{self._server.url} does not answer: {error}") from error

        return await insisting(self._server, send)

    async def studies(self, prefix: str) -> list[str]:
        """The UIDs of the studies whose Patient ID begins so."""
        found: dict[str, None] = {}
        while True:
            page = await self.read(
                "/dicom-web/studies", PatientID=f"{prefix}*", limit=PAGE, offset=len(found), fuzzymatching="false"
            )
            new = [str(value) for study in page or () for value in values(study, "0020000D")]
            if not set(new) - set(found):
                return list(found)
            found |= dict.fromkeys(new)


def values(item: dict[str, Any], tag: str) -> Iterator[Any]:
    """The values of an attribute of a DICOM JSON object."""
    yield from item.get(tag, {}).get("Value", ())

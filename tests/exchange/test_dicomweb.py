"""A DICOMweb peer that is slow without end is given up, whatever it does to seem alive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest

from engine.config import Config, Limits, Peer
from engine.errors import AssociationFailed
from engine.exchange import dicomweb
from engine.exchange.dicomweb import DICOM_JSON, connected

HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {DICOM_JSON}\r\nContent-Length: 100000\r\n\r\n".encode()
ROUNDS_MAX = 20
Serve: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _reason(serve: Serve, *, body: bytes = b"") -> str:
    """Why a request to such a peer failed."""
    tasks: list[asyncio.Task[None]] = []

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def run() -> None:
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await serve(reader, writer)
            finally:
                writer.transport.abort()

        tasks.append(asyncio.get_running_loop().create_task(run()))

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    peer = Peer(aet="WEB", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    config = Config(peers=(peer,), limits=Limits(dimse_timeout_s=0.5))
    try:
        async with connected(peer, config) as client:
            if body:
                async with client.request("POST", "/studies", headers={}, body=pieces()):
                    pass
            else:
                await client.rows("/studies", {})
    except AssociationFailed as error:
        return str(error)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ""


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.1)


async def a_byte_now_and_then(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD)
    await drip(writer, b"[")


async def a_header_now_and_then(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await drip(writer, b"X: y\r\n")


async def never_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await drip(writer, b"HTTP/1.1 100 Continue\r\n\r\n")


async def nothing_is_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (a_byte_now_and_then, "sends less than 256 bytes a second"),
        (a_header_now_and_then, "no answer in time"),
        (never_the_end, "no answer in time"),
    ],
)
def test_a_peer_that_sends_hardly_anything_is_given_up(serve: Serve, reason: str) -> None:
    # A round in which the machine was silent for the whole timeout shows nothing.
    assert any(reason in asyncio.run(_reason(serve)) for _ in range(ROUNDS_MAX))


def test_a_peer_that_does_not_read_what_it_is_sent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "TAKEN_BYTES_PER_S_MIN", 1 << 30)
    assert "no answer in time" in asyncio.run(_reason(nothing_is_read, body=bytes(16 << 20)))

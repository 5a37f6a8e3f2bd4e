"""Our client of MLLP takes what odd receivers answer, and ends in time with one sentence whatever hostile ones do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from engine.errors import HL7SendFailed
from engine.hl7 import framed
from engine.messaging import client
from engine.messaging.client import Client
from tests.hl7.samples import lines

PATIENCE_S = 60.0
Serve: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def adt(control_id: str) -> bytes:
    head = f"MSH|^~\\&|KIS|ST|FILMROOM|RAD|20261130101500||ADT^A31|{control_id}|P|2.5.1|||"
    return lines(head, "PID|1||1^^^HOSP||")


def ack(control_id: str, code: str = "AA") -> bytes:
    return framed(f"MSH|^~\\&|A|B|C|D|2026||ACK|9|P|2.3\rMSA|{code}|{control_id}\r".encode())


async def ask(serve: Serve, *messages: bytes, timeout_s: float = PATIENCE_S) -> list[str]:
    """The code of each answer; of the first that fails, what is said."""
    tasks: list[asyncio.Task[None]] = []

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def run() -> None:
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await serve(reader, writer)
            finally:
                writer.transport.abort()

        tasks.append(asyncio.get_running_loop().create_task(run()))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    found: list[str] = []
    try:
        async with Client("127.0.0.1", server.sockets[0].getsockname()[1], timeout_s=timeout_s) as it:
            for message in messages or (adt("1"),):
                found.append((await it.send(message)).code)
    except HL7SendFailed as error:
        found.append(str(error))
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


def answers(answer: bytes, *, closes: bool = True) -> Serve:
    """A receiver that answers a message so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\x1c\r")
        writer.write(answer)
        if not closes:
            await reader.read()
        writer.close()
        await writer.wait_closed()

    return serve


async def _one(serve: Serve, *messages: bytes, timeout_s: float = PATIENCE_S) -> str:
    return (await ask(serve, *messages, timeout_s=timeout_s))[-1]


def test_odd_answers_count() -> None:
    unframed = ack("1").strip(b"\x0b\x1c\r") + b"\r"

    async def main() -> None:
        for odd in (
            ack("1"),
            unframed,
            b"\x0b\x06\x1c\r" + ack("1"),
            ack("1").replace(b"\x1c\r", b"\x1c"),
            framed(adt("other")) + ack("1"),
            ack(""),
        ):
            assert await _one(answers(odd)) == "AA", odd

    asyncio.run(main())


def test_what_is_no_answer_is_said_with_its_first_bytes() -> None:
    async def main() -> None:
        assert "closed the connection" in await _one(answers(b""))
        assert "did not take" in await _one(answers(b"\x0b\x15\x1c\r"))
        assert "0b 4d" in await _one(answers(b"\x0bMSH|")), "the bytes that came are shown"
        assert "no byte came" in await _one(answers(b"", closes=False), timeout_s=0.3)
        assert "no HL7 message" in await _one(answers(framed(b"\xff\x00" * 40)))
        assert "no block of MLLP" in await _one(answers(b"GET / HTTP/1.1\r\n\r\n", closes=False))
        long = b"\x0bMSH|" + bytes(client.ACKNOWLEDGEMENT_BYTES_MAX + 1)
        assert "no block of MLLP" in await _one(answers(long, closes=False))

    asyncio.run(main())


def test_an_acknowledgement_of_another_message_is_none() -> None:
    async def main() -> None:
        assert await _one(answers(ack("4242"), closes=False)) == "the receiver acknowledged another message"

    asyncio.run(main())


def test_what_the_enhanced_mode_says_second_is_no_answer_to_the_next_message() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\x1c\r")
        writer.write(ack("1", "CA"))
        await reader.readuntil(b"\x1c\r")
        writer.write(ack("1", "AA") + ack("2", "AE"))
        await reader.read()

    assert asyncio.run(ask(serve, adt("1"), adt("2"))) == ["CA", "AE"]


def test_a_receiver_that_reads_nothing_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CLOSE_TIMEOUT_S", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(PATIENCE_S)

    async def main() -> None:
        long = adt("1") + b"OBX|1|TX|||" + b"x" * (16 << 20) + b"\r"
        async with asyncio.timeout(PATIENCE_S / 2):
            assert "no byte came" in await _one(serve, long, timeout_s=0.3)

    asyncio.run(main())


def test_a_receiver_that_never_ends_its_answer_is_given_up_and_fills_no_memory() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"no MLLP " * 8192)
            await writer.drain()

    async def main() -> None:
        said = await _one(serve, timeout_s=0.3)
        assert "no acknowledgement within 0.3 s" in said and len(said) < 400

    asyncio.run(main())

"""The control socket of the running server: one JSON object a line in each direction."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from engine import control

Commands = dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, object]]]]
"""Name → what answers it; it gets the whole request."""

_OPTIONS: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Newer event loops remove the socket by the path that it was bound to, which here is short and for that moment."""


class ControlServer:
    """Answers on DATA/control.sock with what `commands` return."""

    def __init__(self, data: Path, commands: Commands) -> None:
        self._data = data
        self._commands = commands
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Opens the socket, in place of one that a killed server has left."""
        self._unlink()
        with control.short_path(self._data) as path:
            previous = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._serve, path, **_OPTIONS)
            finally:
                os.umask(previous)

    def close(self) -> None:
        """Closes and removes the socket."""
        if self._server is not None:
            self._server.close()
        self._unlink()

    def _unlink(self) -> None:
        (self._data / control.SOCKET_NAME).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(orjson.dumps(await self._answer(line), option=orjson.OPT_APPEND_NEWLINE))
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client closed the connection, or sent a line without an end
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = orjson.loads(line)
            command = request["command"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return {"ok": False, "error": 'a command is a JSON object with a key "command"'}
        if not isinstance(command, str) or command not in self._commands:
            return {"ok": False, "error": f"there is no command {command!r}"}
        return await self._commands[command](request)

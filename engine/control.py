"""The control socket of a running server: one JSON object a line, one answer a line.

    {"command": "ping"}      {"ok": true, "pid": 1234, "version": "0.1.0"}
    {"command": "stats"}     {"ok": true, "workers": […], "archive": {…}}
    {"command": "reload"}    {"ok": true, "restart_needed": […]}
    {"command": "drain"}     {"ok": true}
    a failed command         {"ok": false, "error": "a sentence", "configuration": true if that is the fault}

This module has the client's side and the path; `server.control_server` answers. A user who may open the socket's
folder may send commands.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine.errors import ConfigError, ControlUnavailable, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_NAME = "control.sock"

ANSWER_S = 60.0
"""The limit of an answer. A reload waits for the workers; on a busy machine statistics take seconds."""


@contextmanager
def short_path(data: Path) -> Iterator[str]:
    """The socket's path in a form that fits into the 108 bytes of a socket address, also where `data` is long."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


def request(data: Path, command: dict[str, object], *, timeout_s: float = ANSWER_S) -> dict[str, Any]:
    """Sends a command to the server of data directory `data` and returns its answer.

    Raises ControlUnavailable; EngineError when the server refuses the command, as ConfigError when it refuses a reload
    because the configuration is wrong.
    """
    try:
        with short_path(data) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(path)
            sock.sendall(orjson.dumps(command) + b"\n")
            with sock.makefile("rb") as file:
                line = file.readline()
    except TimeoutError:
        raise ControlUnavailable(f"the server of {data} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise ControlUnavailable(f"no server is running on {data}: {error.strerror or error}") from error
    if not line:
        raise ControlUnavailable(f"the server of {data} closed the connection")
    answer: dict[str, Any] = orjson.loads(line)
    if not answer.get("ok"):
        kind = ConfigError if answer.get("configuration") else EngineError
        raise kind(str(answer.get("error", "the server refused the command")))
    return answer

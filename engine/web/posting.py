"""POST to receivers elsewhere: signed, bounded, and never redirected, since what is signed for one is not for another.

Filmroom-Signature: t=UNIX TIME,v1=HMAC-SHA256 in hex of "UNIX TIME.BODY", with the secret
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RESPONSE_BYTES_MAX: Final = 64 << 10
"""Bytes of a response that are read to keep its connection open; after a longer one it is closed."""
SECRET_BYTES_MAX: Final = 4096


def session() -> aiohttp.ClientSession:
    """Connections for `post`."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_connect=10.0), auto_decompress=False)


async def post(
    connections: aiohttp.ClientSession,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    secret_file: Path | None,
    timeout_s: float,
) -> str:
    """Sends a body. Returns the reason of a failure; "": the receiver has it."""
    status, failure = 0, ""
    try:
        signed = {**headers, **_signature(secret_file, body)}
        async with asyncio.timeout(timeout_s):
            async with connections.post(url, data=body, headers=signed, allow_redirects=False) as response:
                status = response.status
                await response.content.read(RESPONSE_BYTES_MAX)
                if not response.content.at_eof():
                    response.close()
    except TimeoutError:
        failure = f"no answer within {timeout_s:g} s"
    except OSError as error:  # of aiohttp those that are of the system too
        failure = f"{type(error).__name__}: {error}"[:300]
    except (aiohttp.ClientError, ValueError) as error:
        failure = type(error).__name__  # its text may quote the receiver, and this is logged
    if 200 <= status < 300:
        return ""  # whatever became of the body
    return failure or f"it answered {status}"


def _signature(secret_file: Path | None, body: bytes) -> dict[str, str]:
    if secret_file is None:
        return {}
    secret = secret_file.read_bytes()[:SECRET_BYTES_MAX].strip()
    now = str(int(time.time()))
    digest = hmac.new(secret, now.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"Filmroom-Signature": f"t={now},v1={digest}"}

"""/api/settings: every key of the configuration in force with its description, and where its value comes from.

Secrets are in separate files, whose paths are the only values here. A user name and password in a URL are masked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.config import reference
from engine.config.composition import LISTS
from engine.web.api.json_bodies import answer, check_parameters

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request

MASK: Final = "***"
_USER_INFO: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET: Final = re.compile(r"(secret|password|token|passphrase)$")


async def listed(request: Request) -> web.Response:
    """The settings in force."""
    check_parameters(request)
    descriptions, origins = _descriptions(), request.engine.origins
    rows: list[dict[str, Any]] = []
    for key, value in request.config.describe():
        table, _, name = key.partition(".")
        entry = descriptions[f"{table}.{name.rpartition('.')[2]}" if table in LISTS else key]
        default = None if entry.default is msgspec.UNSET else entry.default
        rows.append(
            {
                "key": key,
                "value": _shown(key, value),
                "origin": _origin(key, value == default, origins),
                "type": entry.type,
                "about": entry.about,
            }
        )
    return answer({"settings": rows})


def _origin(key: str, is_default: bool, origins: Mapping[str, str]) -> str:
    table, _, name = key.partition(".")
    if table in LISTS:
        return origins.get(f"{table}.{name.rpartition('.')[0]}", "file")
    return origins.get(key, "default" if is_default else "unknown")


@cache
def _descriptions() -> dict[str, reference.Entry]:
    return {entry.key: entry for entry in reference.entries()}


def _shown(key: str, value: object) -> object:
    plain = msgspec.to_builtins(value, enc_hook=str)
    if value and _SECRET.search(key):
        return MASK
    return _USER_INFO.sub(MASK, plain) if isinstance(plain, str) else plain

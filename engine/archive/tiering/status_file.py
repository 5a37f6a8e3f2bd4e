"""DATA/object-store-status.json: the last state of the bucket that a server has noted (`tiering.shipping`)."""

from __future__ import annotations

import os
from typing import Any

import orjson

STATUS_FILE = "object-store-status.json"
STATUS_BYTES_MAX = 1 << 16


def read_status(data: os.PathLike[str]) -> dict[str, Any] | None:
    """The last state that a server noted; None: none ever did, or it cannot be read."""
    try:
        with open(os.path.join(data, STATUS_FILE), "rb") as file:
            content = orjson.loads(file.read(STATUS_BYTES_MAX))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None

"""A plain HTTP client for tests: one request, one answer."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING

import requests

from engine.web.accept import parse_media_type
from engine.web.multipart import PartBegin, PartEnd, Reader, boundary_in

if TYPE_CHECKING:
    from tests.web.hosting import Hosting


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Message
    body: bytes


def ask(
    hosting: Hosting, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """Asks the front on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def parts_of(response: requests.Response) -> list[tuple[PartBegin, bytes]]:
    """The parts of a multipart answer, head and content."""
    assert response.status_code in (200, 206), response.text
    content_type = parse_media_type(response.headers["Content-Type"])
    assert content_type is not None and content_type.name == "multipart/related"
    reader = Reader(boundary_in(content_type))
    found: list[tuple[PartBegin, bytes]] = []
    for event in reader.feed(response.content):
        if isinstance(event, PartBegin):
            found.append((event, b""))
        elif not isinstance(event, PartEnd):
            found[-1] = (found[-1][0], found[-1][1] + bytes(event.view))
    reader.finish()
    return found

"""What the tests of STOW-RS share: a server for a module, a request, and what its answer says."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from engine.config import Limits
from tests.web.hosting import LIMITS, Hosting, hosted

JSON = "application/dicom+json"
PARTS = 'multipart/related; type="application/dicom"; boundary='


@contextmanager
def serving(data: Path, limits: Limits = LIMITS) -> Iterator[Hosting]:
    """A server; nothing is left of what it held when it ends."""
    with hosted(data, limits) as hosting:
        yield hosting
    assert hosting.engine.ingest_budget.taken_bytes == 0


class Answer:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def module(self) -> dict[str, Any]:
        """The response module, checked."""
        assert self.headers["Content-Type"] == JSON, self.body
        found: dict[str, Any] = orjson.loads(self.body)
        assert all(value.get("Value") != [] for value in found.values()), "no sequence is empty"
        assert list(found) == sorted(found)
        return found

    @property
    def stored(self) -> list[str]:
        """SOP Instance UIDs of what is stored."""
        return [item["00081155"]["Value"][0] for item in self.module.get("00081199", {}).get("Value", [])]

    @property
    def failures(self) -> dict[str, int]:
        """SOP Instance UIDs of what is not, and why."""
        items = self.module.get("00081198", {}).get("Value", [])
        return {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in items}

    @property
    def other_failures(self) -> list[int]:
        """Reasons of what has no UID."""
        return [item["00081197"]["Value"][0] for item in self.module.get("0008119A", {}).get("Value", [])]

    @property
    def warnings(self) -> list[int]:
        """Of what is stored."""
        items = self.module.get("00081199", {}).get("Value", [])
        return [item["00081196"]["Value"][0] for item in items if "00081196" in item]


def post(
    hosting: Hosting,
    body: bytes | Iterator[bytes],
    content_type: str = PARTS + "b",
    path: str = "/studies",
    method: str = "POST",
    **headers: str,
) -> Answer:
    """A request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"/dicom-web{path}", body, {"Content-Type": content_type, **sent})
    answer = Answer(connection.getresponse())
    connection.close()
    return answer

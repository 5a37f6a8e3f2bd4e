"""What the tests of WADO-RS share: requests, and what their answers consist of."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from engine.archive.retrieve import Instance
from engine.web.accept import parse_media_type
from engine.web.multipart import PartBegin, PartEnd, Reader, boundary_in
from tests.web.hosting import Hosting

AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
FRAMES_AS_STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
EXPLICIT = "1.2.840.10008.1.2.1"


class Answer:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def parts(self) -> list[tuple[PartBegin, bytes]]:
        """Of a multipart body."""
        assert self.status in (200, 206), self.body
        content_type = parse_media_type(self.headers["Content-Type"])
        assert content_type is not None
        reader = Reader(boundary_in(content_type))
        parts: list[tuple[PartBegin, bytes]] = []
        for event in reader.feed(self.body):
            if isinstance(event, PartBegin):
                parts.append((event, b""))
            elif not isinstance(event, PartEnd):
                parts[-1] = (parts[-1][0], parts[-1][1] + bytes(event.view))
        reader.finish()
        return parts


class Get(Protocol):
    """Sends a request for a path of DICOMweb; headers with `_` for `-`."""

    def __call__(self, path: str, method: str = "GET", **headers: str) -> Answer: ...


@contextmanager
def requesting(hosting: Hosting) -> Iterator[Get]:
    """One connection."""
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)

    def get(path: str, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if connection.sock is not None:
            hosting.wait_idle(connection.sock)
        connection.request(method, f"/dicom-web{path}", headers=named)
        return Answer(connection.getresponse())

    yield get
    connection.close()


def own_url(instance: Instance) -> str:
    """The path of an instance."""
    return (
        f"/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}"
        f"/instances/{instance.sop_instance_uid}"
    )


def syntax_in(part: PartBegin) -> str:
    """The transfer syntax that a part states."""
    assert part.content_type is not None
    return part.content_type.parameter("transfer-syntax")


def data_set_in(file: bytes) -> bytes:
    """Of a DICOM file."""
    meta_length = int.from_bytes(file[140:144], "little")
    return file[144 + meta_length :]


def all_instances(hosting: Hosting) -> list[Instance]:
    """Of the archive, in a fixed order."""
    archive = hosting.engine.archive
    uids = sorted(match["SOPInstanceUID"] for match in archive.find("instance", SOPInstanceUID=""))
    return [instance for uid in uids if (instance := archive.instance(uid)) is not None]

"""The response of STOW-RS: the Store Instances Response Module (PS3.18 10.5.3, PS3.3 C.36.1), built item by item.

    0008,1190   Retrieve URL of the study if all stored instances are of one study, otherwise empty
    0008,1198   Failed SOP Sequence           class, instance, failure reason
    0008,1199   Referenced SOP Sequence       class, instance, Retrieve URL, warning reason
    0008,119A   Other Failures Sequence       failure reason of parts without UIDs

A sequence without items is left out: some clients take an empty one for a failure. Only the encoded item of each
instance is kept. A long sequence is kept compressed and sent piece by piece: its items are nearly equal, so fifty
thousand of them take one megabyte instead of twenty.

    200   all instances were stored
    202   some were not stored, or stored with a warning
    409   none was stored
    415   none was stored, all because their media types are not supported
    503   none was stored, all because of missing resources: with Retry-After
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from engine.dicom import xml_model
from engine.errors import ArchiveReadOnly, DataSetError, IndexError_, InstanceRefused, Refusal, StorageError
from engine.web.accept import Offer
from engine.web.errors import RETRY_S
from engine.web.urls import segment

if TYPE_CHECKING:
    from typing import Any

    from engine.web.request import Request

BLOCK_BYTES: Final = 64 << 10
"""Of JSON text, about 150 items, before it is compressed: less than half a millisecond."""
JSON_TYPE: Final = "application/dicom+json"
XML_TYPE: Final = "application/dicom+xml"
OFFERS: Final = (Offer(JSON_TYPE), Offer("application/json"), Offer(XML_TYPE), Offer("application/xml"))


class Reason(IntEnum):
    """Failure Reason (0008,1197) and Warning Reason (0008,1196), PS3.18 Tables I.2-1 and I.2-2."""

    PROCESSING_FAILURE = 0x0110
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORIZED = 0x0124
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    OTHER_STUDY = 0xA901
    CANNOT_UNDERSTAND = 0xC000
    TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
    COERCED = 0xB000
    ELEMENTS_DISCARDED = 0xB006
    DOES_NOT_MATCH_SOP_CLASS = 0xB007


_REFUSALS: Final[Mapping[Refusal, Reason]] = {
    Refusal.CANNOT_UNDERSTAND: Reason.CANNOT_UNDERSTAND,
    Refusal.MISMATCH: Reason.DATA_SET_DOES_NOT_MATCH,
    Refusal.OUT_OF_RESOURCES: Reason.OUT_OF_RESOURCES,
    Refusal.NOT_AUTHORIZED: Reason.NOT_AUTHORIZED,
    Refusal.OTHER_STUDY: Reason.OTHER_STUDY,
    Refusal.TRANSFER_SYNTAX: Reason.TRANSFER_SYNTAX_NOT_SUPPORTED,
    Refusal.SOP_CLASS: Reason.SOP_CLASS_NOT_SUPPORTED,
}


def reason_of(error: BaseException) -> Reason:
    """The Failure Reason for an instance that was not stored."""
    if isinstance(error, InstanceRefused):
        return _REFUSALS[error.refusal]
    if isinstance(error, ArchiveReadOnly):
        return Reason.NOT_AUTHORIZED
    if isinstance(error, StorageError | IndexError_ | MemoryError):
        return Reason.OUT_OF_RESOURCES
    return Reason.CANNOT_UNDERSTAND if isinstance(error, DataSetError) else Reason.PROCESSING_FAILURE


class StoreResponse:
    """The answer to one request."""

    def __init__(self, root: str, study_instance_uid: str | None) -> None:
        """`root`: the part of study URLs before `/studies`."""
        self._root = f"{root}/studies/"
        self._study = study_instance_uid
        self._is_one_study = True
        self._failed, self._stored, self._others = _Items(), _Items(), _Items()
        self.stored_count = 0
        self.failed_count = 0
        self._warning_count = 0
        self._unsupported_count = 0
        self._resource_failure_count = 0
        """Failures because of missing resources."""

    def stored(self, sop_class_uid: str, sop_instance_uid: str, study: str, series: str, warning: int = 0) -> None:
        """Adds an instance that is stored."""
        self.stored_count += 1
        if self._study is None:
            self._study = study
        elif self._study != study:
            self._is_one_study = False
        url = f"{self._root}{segment(study)}/series/{segment(series)}/instances/{segment(sop_instance_uid)}"
        item = _identity(sop_class_uid, sop_instance_uid)
        item["00081190"] = {"vr": "UR", "Value": [url]}
        if warning:
            self._warning_count += 1
            item["00081196"] = {"vr": "US", "Value": [warning]}
        self._stored.append(item)

    def failed(self, sop_class_uid: str, sop_instance_uid: str, reason: int) -> None:
        """Adds an instance that is not stored; "": the UID is not known."""
        self.failed_count += 1
        self._resource_failure_count += reason == Reason.OUT_OF_RESOURCES
        failure = {"00081197": {"vr": "US", "Value": [reason]}}
        if sop_instance_uid:
            self._failed.append({**_identity(sop_class_uid, sop_instance_uid), **failure})
        else:
            self._others.append(failure)

    def unsupported(self) -> None:
        """Adds a part whose media type is not supported."""
        self._unsupported_count += 1
        self.failed("", "", Reason.CANNOT_UNDERSTAND)

    @property
    def status(self) -> int:
        """The HTTP status for the items so far."""
        if self.stored_count:
            is_all = not self.failed_count and not self._warning_count
            return HTTPStatus.OK if is_all else HTTPStatus.ACCEPTED
        if self.failed_count and self._resource_failure_count == self.failed_count:
            return HTTPStatus.SERVICE_UNAVAILABLE
        if self.failed_count and self._unsupported_count == self.failed_count:
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        return HTTPStatus.CONFLICT

    async def send(self, request: Request, media_type: str) -> web.StreamResponse:
        """Sends the HTTP response. Its Content-Type has no charset, since clients compare it as text."""
        headers = {"Content-Type": media_type}
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(RETRY_S)
        texts = self._texts(media_type)
        if not any(items.is_long for items in (self._failed, self._stored, self._others)):
            return web.Response(status=self.status, body=b"".join(texts()), headers=headers)
        response = web.StreamResponse(status=self.status, headers=headers)
        response.content_length = await request.engine.pools.slow.run(lambda: sum(map(len, texts())))
        await response.prepare(request)
        for text in texts():
            await response.write(text)
            await asyncio.sleep(0)  # a turn for others: a client that reads fast lets `write` return at once
        await response.write_eof()
        return response

    def body(self, media_type: str) -> bytes:
        """The body of the HTTP response, for a short one."""
        return b"".join(self._texts(media_type)())

    # -- inside ---------------------------------------------------------------------------------

    def _texts(self, media_type: str) -> Callable[[], Iterator[bytes]]:
        return self._xml if media_type.endswith("xml") else self._json

    @property
    def _retrieve_url(self) -> dict[str, Any]:
        if self._study is None or not self._is_one_study:
            return {"vr": "UR"}
        return {"vr": "UR", "Value": [self._root + segment(self._study)]}

    @property
    def _sequences(self) -> Iterator[tuple[str, _Items]]:
        for key, items in (("00081198", self._failed), ("00081199", self._stored), ("0008119A", self._others)):
            if not items.is_empty:
                yield key, items

    def _json(self) -> Iterator[bytes]:
        yield b'{"00081190":' + orjson.dumps(self._retrieve_url)
        for key, items in self._sequences:
            yield b',"%b":{"vr":"SQ","Value":[' % key.encode()
            yield from items.texts()
            yield b"]}"
        yield b"}"

    def _xml(self) -> Iterator[bytes]:
        model: dict[str, Any] = {"00081190": self._retrieve_url}
        for key, items in self._sequences:
            model[key] = {"vr": "SQ", "Value": items}
        return xml_model.pieces(model)


class _Items:
    """The items of a sequence as JSON text: one a line, with a comma before each but the first."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        """Compressed, a block each."""
        self._tail = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether there is no item."""
        return not self._tail and not self._packed

    @property
    def is_long(self) -> bool:
        """Whether it is better sent piece by piece."""
        return bool(self._packed)

    def append(self, item: dict[str, Any]) -> None:
        """Adds one."""
        if not self.is_empty:
            self._tail += b",\n"
        self._tail += orjson.dumps(item)
        if len(self._tail) >= BLOCK_BYTES:
            self._packed.append(zlib.compress(self._tail, level=1))
            self._tail.clear()

    def texts(self) -> Iterator[bytes]:
        """The text, in pieces."""
        for block in self._packed:
            yield zlib.decompress(block)
        yield bytes(self._tail)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for text in self.texts():
            for line in text.splitlines():
                if item := line.rstrip(b","):
                    yield orjson.loads(item)


def _identity(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    class_value = {"Value": [sop_class_uid]} if sop_class_uid else {}
    return {
        "00081150": {"vr": "UI", **class_value},
        "00081155": {"vr": "UI", "Value": [sop_instance_uid]},
    }

"""ArchiveClasses: brings objects of S3 back from archive classes, in which they cannot be read at once.

    HEAD key             x-amz-storage-class GLACIER or DEEP_ARCHIVE; x-amz-restore: ongoing, or readable until then
    POST key?restore     begins to bring it back; 202 begun, 200 it is there already, 409 somebody has begun it

Glacier Instant Retrieval is no archive class in this sense. The store remembers what was asked: nothing is kept here.
"""

from __future__ import annotations

import http.client
from typing import Final
from urllib.parse import urlsplit

from engine.errors import StoreRefused, StoreUnreachable
from engine.objects import s3_requests
from engine.objects.s3_requests import Answer
from engine.objects.settings import ObjectStore

HOUR_S: Final = 3600.0
_TIMES_S: Final = {
    ("GLACIER", "expedited"): 300.0,
    ("GLACIER", "standard"): 5 * HOUR_S,
    ("GLACIER", "bulk"): 12 * HOUR_S,
    ("DEEP_ARCHIVE", "standard"): 12 * HOUR_S,
    ("DEEP_ARCHIVE", "bulk"): 48 * HOUR_S,
}
"""Class and speed → until when Amazon promises an object. Others may be quicker or slower."""
_BEGUN = (http.client.OK, http.client.ACCEPTED, http.client.CONFLICT)


class ArchiveClasses:
    """The archive classes of one bucket. Thread-safe."""

    def __init__(self, settings: ObjectStore) -> None:
        """Makes no request."""
        self._settings = settings
        self._folder = urlsplit(settings.url).path.strip("/")

    def recall(self, key: str) -> float:
        """Has an object brought back if that is not under way; returns in how many seconds it can be read; 0: now.

        Raises StoreUnreachable; StoreRefused if it may not, or nobody may ask (`recall` is off, keys are missing).
        """
        answer = self._ask(key, "HEAD", {})
        if answer.status != http.client.OK:
            raise StoreUnreachable(f"the store does not say in which class {key} is (status {answer.status})")
        storage_class = answer.headers.get("x-amz-storage-class", "")
        speed = self._settings.recall
        wait_s = _TIMES_S.get((storage_class, speed), _TIMES_S.get((storage_class, "standard"), 0.0))
        state = answer.headers.get("x-amz-restore", "")
        if not wait_s or 'ongoing-request="false"' in state:
            return 0.0
        if not state:
            self._begin(key, storage_class, speed)
        return wait_s

    def _begin(self, key: str, storage_class: str, speed: str) -> None:
        if speed == "off":
            raise StoreRefused(f"{key} is in an archive class, and [object_store] recall is off")
        tier = "Standard" if storage_class == "DEEP_ARCHIVE" and speed == "expedited" else speed.capitalize()
        body = (
            '<RestoreRequest xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Days>{self._settings.recall_days}</Days>"
            f"<GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>"
        )
        answer = self._ask(key, "POST", {"restore": ""}, body.encode())
        if answer.status in (http.client.FORBIDDEN, http.client.UNAUTHORIZED):
            raise StoreRefused(f"the store does not let us recall {key}: it needs permission for s3:RestoreObject")
        if answer.status not in _BEGUN:
            raise StoreUnreachable(f"{key} cannot be recalled now (status {answer.status})")

    def _ask(self, key: str, method: str, query: dict[str, str], body: bytes = b"") -> Answer:
        who = s3_requests.signer(self._settings)
        if who is None or not self._settings.url.startswith("s3://"):
            raise StoreRefused(f"{key} is in an archive class, and can be recalled with keys of S3 only")
        path = f"{self._folder}/{key}" if self._folder else key
        try:
            return s3_requests.ask(self._settings, who, query, method=method, key=path, body=body)
        except (OSError, http.client.HTTPException) as error:
            raise StoreUnreachable(f"{self._settings.url} does not answer: {error}") from error

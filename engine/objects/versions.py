"""Versions: removes what a store keeps of objects that were overwritten or removed.

    s3       the old versions and delete markers below a folder, one after the other; then it looks that none is left
    file     there are none
    gs, az   whether there are some cannot be seen from here: refused

An old version that the store does not let go (Object Lock, no permission for s3:DeleteObjectVersion) is StoreRefused.
"""

from __future__ import annotations

import http.client
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from engine.errors import StoreRefused, StoreUnreachable
from engine.objects import s3_requests
from engine.objects.client import Objects
from engine.objects.s3_requests import Answer, Credentials
from engine.objects.settings import ObjectStore

PAGE = 500
"""Versions in one answer: some 300 bytes each."""
PAGES_MAX = 100_000
LOOKS = 3
"""A store may list for a moment what was removed."""
_NOT_THERE = (http.client.NO_CONTENT, http.client.OK, http.client.NOT_FOUND)


class _Version(NamedTuple):
    key: str
    """In the bucket, with the folder of the url."""
    version_id: str
    is_latest: bool
    is_marker: bool


class Versions:
    """The old versions of objects in one bucket. Raises StoreRefused, StoreUnreachable."""

    def __init__(self, settings: ObjectStore) -> None:
        """Makes no request."""
        self._settings = settings
        self._scheme = urlsplit(settings.url).scheme
        self._folder = urlsplit(settings.url).path.strip("/")

    def prove(self, objects: Objects, folder: str) -> None:
        """Overwrites and removes an object, and that nothing is left of it. Raises StoreRefused otherwise."""
        key = f"{folder}/{os.urandom(8).hex()}"
        objects.put(key, b"first")
        objects.put(key, b"second")
        objects.delete([key])
        self.forget(key)

    def forget(self, prefix: str) -> int:
        """Removes all old versions of the objects whose key begins so, for good; returns how many there were."""
        if self._scheme == "file":
            return 0
        who = s3_requests.signer(self._settings) if self._scheme == "s3" else None
        if who is None:
            raise StoreRefused(
                "old versions of objects can be removed from S3 only, with keys in credentials_file or the"
                " environment: an archive whose studies have keys of their own needs that"
            )
        removed = 0
        for _ in range(LOOKS):
            old = list(self._old(who, prefix))
            if not old:
                return removed
            for version in old:
                self._remove(who, version)
            removed += len(old)
        raise StoreRefused(f"the store keeps old versions of {prefix} that were removed")

    def _old(self, who: Credentials, prefix: str) -> Iterator[_Version]:
        """The versions that nobody reads: all but the latest of each object, and all of an object that was removed."""
        of_key: dict[str, list[_Version]] = defaultdict(list)
        for version in self._listed(who, prefix):
            of_key[version.key].append(version)
        for versions in of_key.values():
            yield from (each for each in versions if each.is_marker or not each.is_latest)

    def _listed(self, who: Credentials, prefix: str) -> Iterator[_Version]:
        query = {"versions": "", "prefix": self._path(prefix), "max-keys": str(PAGE)}
        for _ in range(PAGES_MAX):
            answer = self._ask(who, query)
            if answer.root is None:
                if self._has_none(who, answer):
                    return
                raise StoreRefused(f"the store does not list old versions (status {answer.status})")
            for name in ("Version", "DeleteMarker"):
                for fields in answer.elements(name):
                    is_latest = fields.get("IsLatest") == "true"
                    yield _Version(fields.get("Key", ""), fields.get("VersionId", ""), is_latest, name != "Version")
            key = next(iter(answer.texts("NextKeyMarker")), "")
            if "true" not in answer.texts("IsTruncated") or not key:
                return
            marker = next(iter(answer.texts("NextVersionIdMarker")), "")
            query = {**query, "key-marker": key, **({"version-id-marker": marker} if marker else {})}
        raise StoreUnreachable("the store's list of old versions has no end")

    def _has_none(self, who: Credentials, answer: Answer) -> bool:
        """Whether a store that cannot list old versions says that it keeps none."""
        if answer.status != http.client.NOT_IMPLEMENTED:
            return False
        versioning = self._ask(who, {"versioning": ""})
        return versioning.root is not None and not versioning.texts("Status")

    def _remove(self, who: Credentials, version: _Version) -> None:
        answer = self._ask(who, {"versionId": version.version_id}, method="DELETE", key=version.key)
        if answer.status not in _NOT_THERE:
            raise StoreRefused(
                f"the store keeps an old version of {version.key} (status {answer.status}): Object Lock, or no"
                " permission for s3:DeleteObjectVersion"
            )

    def _ask(self, who: Credentials, query: dict[str, str], *, method: str = "GET", key: str = "") -> Answer:
        try:
            answer = s3_requests.ask(self._settings, who, query, method=method, key=key)
        except (OSError, http.client.HTTPException) as error:
            raise StoreUnreachable(f"{self._settings.url} does not answer about old versions: {error}") from error
        if answer.status >= http.client.INTERNAL_SERVER_ERROR and answer.status != http.client.NOT_IMPLEMENTED:
            raise StoreUnreachable(f"{self._settings.url} does not answer about old versions: {answer.status}")
        return answer

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key}" if self._folder else key

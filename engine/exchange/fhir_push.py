"""Keeps the studies of a FHIR server up to date: one ImagingStudy for each study here, never a second one.

    first time, or --all     every study
    later                    what the change feed names since: stored, corrected, deleted, restored

    PUT    URL/ImagingStudy?identifier=urn:dicom:uid|urn:oid:UID      a conditional update: the server finds its own
    DELETE URL/ImagingStudy?identifier=urn:dicom:uid|urn:oid:UID      the study is gone

The cursor of the feed is saved when everything has succeeded; what failed is repeated by the next run, which changes
nothing that is right already. The patient is named by an identifier: what its address there is, only that server knows.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import orjson

from engine.archive.admin.changed_studies import studies_of
from engine.archive.questions import Level
from engine.dicom import tags
from engine.errors import CursorRefused, FeedMissing, PushFailed
from engine.fhir.conformance import endpoint
from engine.fhir.datatypes import DICOM_UID, uri_of_uid
from engine.fhir.imaging_study import ENDPOINT_ID, STUDY_ATTRIBUTES, imaging_study
from engine.fhir.release import JSON, Release
from engine.fhir.search import Search
from engine.web.fhir import asking

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from ssl import SSLContext

    import aiohttp

    from engine.archive.archive import Archive
    from engine.archive.feed.cursor import Cursor
    from engine.archive.feed.subscription import Feed
    from engine.fhir.datatypes import Json

AT_ONCE: Final = 4
"""Requests at a time, each about another study."""
STUDIES_AT_ONCE: Final = 50
TRIES: Final = 5
PAUSE_S: Final = 0.5
PAUSE_S_MAX: Final = 30.0
FAILED_MAX: Final = 20
"""Studies in a row that may fail before the run ends: the server is down, or refuses us."""
TOKEN_BYTES_MAX: Final = 16 << 10

_AGAIN: Final = frozenset((408, 425, 429, 500, 502, 503, 504))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A FHIR server, and how to speak to it."""

    url: str
    """Its base."""
    dicomweb: str = ""
    """The address of our DICOMweb, as clients of that server reach it; "": no endpoint is named."""
    token_file: Path | None = None
    tls: SSLContext | None = None
    timeout_s: float = 30.0
    release: Release = Release.R4

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise PushFailed(f"{self.url} is no address as https://HOST/fhir")
        if address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise PushFailed("patients' data goes to other machines over https only")

    @property
    def cursor_name(self) -> str:
        """The name of its place in the change feed."""
        return f"fhir-push-{hashlib.sha256(self.url.encode()).hexdigest()[:16]}"


@dataclass(slots=True)
class Pushed:
    """What a run did."""

    written: int = 0
    deleted: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Study Instance UID → reason."""
    is_whole: bool = False
    """Whether all studies were pushed; else those that changed."""


def push(
    archive: Archive, server: Server, record: Callable[[Sequence[str]], None], *, is_whole: bool = False
) -> Pushed:
    """Pushes. `record`: told of studies before they leave. Raises PushFailed, EngineError."""
    feed = archive.feed()
    try:
        changed, cursor = (None, _newest(feed)) if is_whole else _changed(archive, feed, server.cursor_name)
        pushed = Pushed(is_whole=changed is None)
        asyncio.run(_push(archive, server, changed, record, pushed))
        if cursor is not None and not pushed.failed:
            feed.cursors.save(server.cursor_name, cursor)
    finally:
        feed.close()
    return pushed


def _newest(feed: Feed) -> Cursor | None:
    try:
        return feed.newest()
    except FeedMissing:
        return None


def _changed(archive: Archive, feed: Feed, name: str) -> tuple[list[str] | None, Cursor | None]:
    """The studies that have changed since the last run, and the cursor to save; None: nobody knows which."""
    try:
        cursor = feed.cursors.load(name)
        if cursor is None:
            return None, _newest(feed)
        uids: dict[str, None] = {}
        while (page := feed.read(cursor)).lines:
            for event in page.events():
                uids |= dict.fromkeys(studies_of(archive, event))
            cursor = page.cursor
        return list(uids), page.cursor
    except (CursorRefused, FeedMissing):
        return None, _newest(feed)


async def _push(
    archive: Archive,
    server: Server,
    changed: list[str] | None,
    record: Callable[[Sequence[str]], None],
    pushed: Pushed,
) -> None:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=AT_ONCE, ssl=server.tls if server.tls is not None else True)
    timeout = aiohttp.ClientTimeout(total=server.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=_headers(server)) as session:
        in_a_row = 0
        for uids, resources in _groups(archive, server, changed):
            record(uids)
            results = await asyncio.gather(*(_send(session, server, uid, resources.get(uid)) for uid in uids))
            for uid, failure in zip(uids, results, strict=True):
                if failure:
                    pushed.failed[uid] = failure
                    in_a_row += 1
                    continue
                in_a_row = 0
                if uid in resources:
                    pushed.written += 1
                else:
                    pushed.deleted += 1
            if in_a_row >= FAILED_MAX:
                raise PushFailed(f"{in_a_row} studies in a row failed, the last one: {results[-1]}")


def _headers(server: Server) -> dict[str, str]:
    headers = {"Content-Type": JSON, "Accept": JSON, "Prefer": "return=minimal"}
    if server.token_file is not None:
        try:
            with server.token_file.open("rb") as file:
                token = file.read(TOKEN_BYTES_MAX).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PushFailed(f"the token cannot be read: {error}") from None
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _groups(archive: Archive, server: Server, changed: list[str] | None) -> Iterator[tuple[list[str], dict[str, Json]]]:
    """Study Instance UIDs, and the resources of those that are stored."""
    if changed is None:
        matches = (
            match.attributes for match in archive.find(asking.query(archive, Level.STUDY, Search(), STUDY_ATTRIBUTES))
        )
        while group := list(islice(matches, STUDIES_AT_ONCE)):
            resources = _resources(archive, server, group)
            yield list(resources), resources
        return
    for start in range(0, len(changed), STUDIES_AT_ONCE):
        uids = changed[start : start + STUDIES_AT_ONCE]
        search = Search(keys={tags.StudyInstanceUID: "\\".join(uids)})
        asked = asking.query(archive, Level.STUDY, search, STUDY_ATTRIBUTES)
        yield uids, _resources(archive, server, [match.attributes for match in archive.find(asked)])


def _resources(archive: Archive, server: Server, group: Sequence[Any]) -> dict[str, Json]:
    found = {}
    for study in asking.completed(archive, group):
        if study is not None:
            resource = imaging_study(study, server.release)
            found[resource["id"]] = resource_for(resource, server)
    return found


def resource_for(resource: Json, server: Server) -> Json:
    """An ImagingStudy as another server gets it: without our ids and addresses, but that of the images."""
    chosen = {name: value for name, value in resource.items() if name not in ("id", "meta", "endpoint")}
    chosen["subject"] = {name: value for name, value in resource["subject"].items() if name != "reference"}
    if server.dicomweb:
        contained = {**endpoint(server.release, server.dicomweb)}
        chosen["contained"] = [contained]
        chosen["endpoint"] = [{"reference": f"#{ENDPOINT_ID}"}]
    return chosen


async def _send(session: aiohttp.ClientSession, server: Server, uid: str, resource: Json | None) -> str:
    """Writes or deletes one study there. Returns why that failed; "": it did not."""
    import aiohttp

    condition = quote(f"{DICOM_UID}|{uri_of_uid(uid)}", safe="")
    url = f"{server.url.rstrip('/')}/ImagingStudy?identifier={condition}"
    failure = ""
    for attempt in range(TRIES):
        pause_s = min(PAUSE_S * 2.0**attempt, PAUSE_S_MAX)
        try:
            method, body = ("PUT", orjson.dumps(resource)) if resource is not None else ("DELETE", None)
            async with session.request(method, url, data=body, allow_redirects=False) as response:
                if response.status < 300 or (resource is None and response.status in (404, 410)):
                    return ""
                failure = f"it answered {response.status}"
                if response.status not in _AGAIN:
                    return failure
                after = response.headers.get("Retry-After", "")
                pause_s = min(float(after), PAUSE_S_MAX) if after.isdecimal() else pause_s
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = f"{type(error).__name__}: {error}"[:300]
        if attempt + 1 < TRIES:
            await asyncio.sleep(pause_s)
    return failure

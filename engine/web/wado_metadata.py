"""WADO-RS: metadata of studies, series and instances (PS3.18 10.4.1.2) as DICOM JSON.

Of studies and series it is kept compressed (`archive.metadata`) and given out as it lies there to whoever takes gzip,
which all do. The entity tag follows from the revision of the series, so that a viewer that asks again gets 304.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from engine.archive.metadata.gzip_pieces import Piece, joined, stored, text_of
from engine.archive.metadata.series_metadata import etag as etag_of
from engine.dicom import xml_model
from engine.errors import CorruptRecord, DataSetError
from engine.web import conditional
from engine.web.accept import Offer
from engine.web.content import Made, Memory, Part
from engine.web.errors import HttpError, TooLarge
from engine.web.forms import choices_of
from engine.web.sending import CHANGING, VARY, send, send_stream
from engine.web.stored import instance_of, instances_of, missing, pinned, root_of, uid_of, url_of

if TYPE_CHECKING:
    from engine.archive.metadata.blob import Blob
    from engine.archive.metadata.series_metadata import SeriesMetadata
    from engine.archive.retrieve import Instance
    from engine.web.request import Request

DICOM_JSON: Final = "application/dicom+json"
DICOM_XML: Final = "application/dicom+xml"
OFFERS: Final = (Offer(DICOM_JSON), Offer("application/json"), Offer(DICOM_XML, is_multipart=True))

INSTANCES_MAX: Final = 100_000
"""Of one answer: some gigabyte of text."""


async def metadata(request: Request) -> web.StreamResponse:
    """The metadata of a study or of a series."""
    content_type = choices_of(request, OFFERS)[0].offer.media_type
    if content_type == DICOM_XML:
        return await _xml(request, await instances_of(request))
    study = uid_of(request, "study")
    series = uid_of(request, "series") if "series" in request.path_values else None
    kept, root, pools = request.engine.archive.metadata, root_of(request), request.engine.pools
    revisions = await pools.index.run(lambda: kept.revisions(study, series))
    if not revisions:
        raise missing(request, study, series)
    if (count := sum(revision.count for revision in revisions)) > INSTANCES_MAX:
        raise TooLarge(f"{count} instances, metadata of {INSTANCES_MAX} is given at once: ask series by series")
    is_gzip = _takes_gzip(request)
    etag = _etag(etag_of(revisions, root), is_gzip)
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=304, headers={"ETag": etag, "Cache-Control": CHANGING, "Vary": VARY})

    def current() -> list[Blob] | None:
        found = [kept.cached(revision, root) for revision in revisions]
        return [blob for blob in found if blob is not None] if None not in found else None

    blobs = await pools.reads.run(current)
    if blobs is None:
        blobs = await pools.slow.run(lambda: [kept.blob(revision, root) for revision in revisions])
    etag = _etag(etag_of(blobs, root), is_gzip)
    headers = {"Content-Encoding": "gzip"} if is_gzip else {}
    if left_out := count - sum(blob.count for blob in blobs):
        headers["Warning"] = f'299 {root} "{left_out} instances cannot be read and are left out"'
    pieces = _array([blob.piece for blob in blobs if blob.count])
    if is_gzip:
        part = Part(Memory(b"".join(joined(pieces))), content_type)
    else:
        part = Part(Made(pools.reads, text_of(pieces), sum(piece.length for piece in pieces)), content_type)
    return await send(request, [part], etag, cache=CHANGING, headers=headers)


async def instance_metadata(request: Request) -> web.StreamResponse:
    """The metadata of one instance: an array of one object."""
    content_type = choices_of(request, OFFERS)[0].offer.media_type
    found = instance_of(request)
    if content_type == DICOM_XML:
        return await _xml(request, [found])
    with pinned(request, [found]):
        kept, root = request.engine.archive.metadata, root_of(request)
        try:
            text = b"[" + await request.engine.pools.reads.run(lambda: kept.instance(found, root)) + b"]"
        except DataSetError as error:
            raise HttpError(500, f"what is stored is no data set: {error}") from error
        etag = _etag(blake2b(text, digest_size=16).hexdigest(), False)
        return await send(request, [Part(Memory(text), content_type)], etag, cache=CHANGING)


async def _xml(request: Request, found: Sequence[Instance]) -> web.StreamResponse:
    """A part an instance; made at each request, since few ask for it."""
    kept, root = request.engine.archive.metadata, root_of(request)

    async def parts() -> AsyncIterator[Part]:
        for each in found:
            text = await request.engine.pools.reads.run(partial(_document, kept, each, root))
            if text is not None:
                yield Part(Memory(text), DICOM_XML, f"{url_of(request, each)}/metadata")

    study, series = found[0].study_instance_uid, found[0].series_instance_uid
    is_study = "series" not in request.path_values
    revisions = await request.engine.pools.index.run(lambda: kept.revisions(study, None if is_study else series))
    with pinned(request, found):
        return await send_stream(request, parts(), f'W/"{etag_of(revisions, root)}-{len(found)}-xml"', DICOM_XML)


def _document(kept: SeriesMetadata, instance: Instance, root: str) -> bytes | None:
    """None: it cannot be shown."""
    try:
        return xml_model.encode(orjson.loads(kept.instance(instance, root)))
    except (DataSetError, CorruptRecord):
        return None


def _array(pieces: Sequence[Piece]) -> list[Piece]:
    """Objects with brackets and commas around."""
    found = [stored(b"[")]
    for number, piece in enumerate(pieces):
        found += [stored(b","), piece] if number else [piece]
    return [*found, stored(b"]")]


def _etag(digest: str, is_gzip: bool) -> str:
    """A weak one: the same instances in another order are as good."""
    return f'W/"{digest}{"-gzip" if is_gzip else ""}"'


def _takes_gzip(request: Request) -> bool:
    for text in ",".join(request.headers.getall("Accept-Encoding", [])).lower().split(","):
        name, _, quality = text.partition(";")
        if name.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False

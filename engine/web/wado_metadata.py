"""WADO-RS: metadata of studies, series and instances (PS3.18 10.4.1.2) as DICOM JSON.

Metadata of studies and series is stored compressed (`archive.metadata`), and sent unchanged to clients that accept
gzip, as nearly all do. The entity tag depends on the revisions of the series, so that a repeated request gets 304.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from engine.access import Action
from engine.archive.metadata.gzip_pieces import Piece, joined, stored, text_of
from engine.archive.metadata.series_metadata import etag as etag_of
from engine.dicom import xml_model
from engine.errors import CorruptRecord, DataSetError
from engine.web import conditional
from engine.web.accept import Offer
from engine.web.content import Memory, Part, PieceStream
from engine.web.errors import HttpError, TooLarge
from engine.web.forms import choices_of
from engine.web.sending import MUTABLE, VARY, send, send_stream
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
"""The maximum of instances in one answer: about one gigabyte of text."""


async def metadata(request: Request) -> web.StreamResponse:
    """The metadata of a study or of a series."""
    content_type = choices_of(request, OFFERS)[0].offer.media_type
    if content_type == DICOM_XML:
        return await _xml(request, await instances_of(request))
    study = uid_of(request, "study")
    series = uid_of(request, "series") if "series" in request.path_values else None
    series_metadata, root, pools = request.engine.archive.metadata, root_of(request), request.engine.pools
    view = request.view(Action.RETRIEVE)
    revisions = await pools.index.run(lambda: view.revisions(study, series))
    if not revisions:
        raise missing(request, study, series)
    if (count := sum(revision.count for revision in revisions)) > INSTANCES_MAX:
        raise TooLarge(f"{count} instances; the maximum in one answer is {INSTANCES_MAX}: request single series")
    is_gzip = _accepts_gzip(request)
    etag = _etag(etag_of(revisions, root), is_gzip)
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=304, headers={"ETag": etag, "Cache-Control": MUTABLE, "Vary": VARY})

    def current() -> list[Blob] | None:
        cached = [series_metadata.cached(revision, root) for revision in revisions]
        return [blob for blob in cached if blob is not None] if None not in cached else None

    blobs = await pools.reads.run(current)
    if blobs is None:
        blobs = await pools.slow.run(lambda: [series_metadata.blob(revision, root) for revision in revisions])
    etag = _etag(etag_of(blobs, root), is_gzip)
    headers = {"Content-Encoding": "gzip"} if is_gzip else {}
    if left_out := count - sum(blob.count for blob in blobs):
        headers["Warning"] = f'299 {root} "{left_out} instances cannot be read and are left out"'
    pieces = _array([blob.piece for blob in blobs if blob.count])
    if is_gzip:
        part = Part(Memory(b"".join(joined(pieces))), content_type)
    else:
        part = Part(PieceStream(pools.reads, text_of(pieces), sum(piece.length for piece in pieces)), content_type)
    return await send(request, [part], etag, cache=MUTABLE, headers=headers)


async def instance_metadata(request: Request) -> web.StreamResponse:
    """The metadata of one instance: an array of one object."""
    content_type = choices_of(request, OFFERS)[0].offer.media_type
    instance = instance_of(request)
    if content_type == DICOM_XML:
        return await _xml(request, [instance])
    with pinned(request, [instance]):
        series_metadata, root = request.engine.archive.metadata, root_of(request)
        try:
            text = b"[" + await request.engine.pools.reads.run(lambda: series_metadata.instance(instance, root)) + b"]"
        except DataSetError as error:
            raise HttpError(500, f"the stored bytes are not a valid data set: {error}") from error
        etag = _etag(blake2b(text, digest_size=16).hexdigest(), False)
        return await send(request, [Part(Memory(text), content_type)], etag, cache=MUTABLE)


async def _xml(request: Request, instances: Sequence[Instance]) -> web.StreamResponse:
    """One part for each instance; encoded for each request, since few clients request XML."""
    series_metadata, root = request.engine.archive.metadata, root_of(request)

    async def parts() -> AsyncIterator[Part]:
        for each in instances:
            text = await request.engine.pools.reads.run(partial(_document, series_metadata, each, root))
            if text is not None:
                yield Part(Memory(text), DICOM_XML, f"{url_of(request, each)}/metadata")

    study = instances[0].study_instance_uid
    series = instances[0].series_instance_uid if "series" in request.path_values else None
    view = request.view(Action.RETRIEVE)
    revisions = await request.engine.pools.index.run(lambda: view.revisions(study, series))
    with pinned(request, instances):
        return await send_stream(request, parts(), f'W/"{etag_of(revisions, root)}-{len(instances)}-xml"', DICOM_XML)


def _document(series_metadata: SeriesMetadata, instance: Instance, root: str) -> bytes | None:
    """The XML document of an instance; None: it cannot be read."""
    try:
        return xml_model.encode(orjson.loads(series_metadata.instance(instance, root)))
    except (DataSetError, CorruptRecord):
        return None


def _array(pieces: Sequence[Piece]) -> list[Piece]:
    """A JSON array of objects."""
    array = [stored(b"[")]
    for number, piece in enumerate(pieces):
        array += [stored(b","), piece] if number else [piece]
    return [*array, stored(b"]")]


def _etag(digest: str, is_gzip: bool) -> str:
    """A weak entity tag: the order of the instances may differ."""
    return f'W/"{digest}{"-gzip" if is_gzip else ""}"'


def _accepts_gzip(request: Request) -> bool:
    for text in ",".join(request.headers.getall("Accept-Encoding", [])).lower().split(","):
        name, _, quality = text.partition(";")
        if name.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False

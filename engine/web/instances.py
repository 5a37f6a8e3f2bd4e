"""Stored instances as DICOM files: as they are stored, or converted while they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.dicom import part10, transfer_syntax
from engine.dicom.convert import Conversion
from engine.dicom.padding import padded
from engine.dicom.sources import Concatenation, Source, Whole
from engine.web.content import Content, Part, PieceStream, Ranges
from engine.web.errors import Unavailable
from engine.web.forms import DICOM, with_syntax
from engine.web.stored import url_of

if TYPE_CHECKING:
    from engine.archive.retrieve import Instance, StoredInstance
    from engine.web.request import Request

CODECS_WAITING_MAX: Final = 64
"""Instances or frames of one worker that wait for a codec; further requests get 503. A client that forgets to name a
transfer syntax causes everything that it requests to be decoded."""


def check_codecs(request: Request) -> None:
    """Raises Unavailable when too many instances or frames wait for a codec."""
    if request.engine.transcoder.unfinished >= CODECS_WAITING_MAX:
        request.engine.metrics.counters["http_codecs_busy"] += 1
        raise Unavailable("too many images wait to be decoded: request transfer-syntax=*")


async def file_part(request: Request, instance: Instance, syntax_uid: str) -> Part:
    """The instance as a file in a transfer syntax. Raises CorruptRecord, TranscodeError."""
    meta = part10.write_file_meta(instance.sop_class_uid, instance.sop_instance_uid, syntax_uid)
    content = await _content(request, request.engine.archive.retrieval.open(instance), syntax_uid, meta)
    return Part(content, with_syntax(DICOM, syntax_uid), url_of(request, instance))


async def _content(request: Request, stored: StoredInstance, syntax_uid: str, meta: bytes) -> Content:
    reads = request.engine.pools.reads
    target = transfer_syntax.of(syntax_uid)
    if stored.syntax.uid == syntax_uid:
        if stored.length % 2 == 0:
            return Ranges(reads, stored, meta, stored.finish)
        if stored.syntax.deflated:
            even: Source = Concatenation(stored, Whole(b"\0"))  # PS3.5 A.5
        else:
            even = await reads.run(lambda: padded(stored, stored.syntax.encoding))
        return Ranges(reads, even, meta, stored.finish)
    source: Source = stored
    syntax = stored.syntax
    if not (syntax.convertible and target.convertible):
        transcoder = request.engine.transcoder
        if target.convertible:
            source, syntax = await transcoder.decode(source, syntax)
        else:
            source, syntax = await transcoder.encode(source, syntax, target), target
        await reads.run(stored.finish)
        if syntax.uid == syntax_uid:
            return Ranges(reads, source, meta)
    conversion = await reads.run(lambda: Conversion(source, syntax, target))
    length = None if conversion.length is None else len(meta) + conversion.length
    return PieceStream(reads, conversion.pieces(), length, meta, stored.finish)
